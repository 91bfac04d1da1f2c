//! `GET …/delete-preview` and `DELETE /v1/hosts/{host_id}`.

mod common;

use common::{House, OWNER, ROOT, later, report_at};
use serde_json::{Value, json};

#[tokio::test]
async fn a_host_that_runs_containers_is_deleted_by_force_only() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    house.create("web-2").await;
    let path = format!("/v1/hosts/{}", host.host_id);
    let running = json!([{"container_id": "c1", "name": "name of c1", "image": "nginx"}]);
    let preview = house.get(&format!("{path}/delete-preview")).send().await.expect(200);
    assert_eq!(preview, json!({"containers": running, "total": 1}));

    let written = house.written().await;
    for query in ["", "?force=false"] {
        let refused = house.ask("DELETE", &format!("{path}{query}")).by(ROOT).send().await;
        let problem = refused.refused(409, "host_has_containers");
        assert_eq!((&problem["containers"], &problem["total"]), (&running, &json!(1)));
    }
    for (query, names) in [("?force=perhaps", "force"), ("?force", "force"), ("?forced=true", "forced")] {
        let refused = house.ask("DELETE", &format!("{path}{query}")).by(ROOT).send().await;
        let problem = refused.refused(400, "invalid_request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(names)), "{problem}");
    }
    assert_eq!(house.written().await, written);

    let reply = house.ask("DELETE", &format!("{path}?force=true")).by(ROOT).send().await;
    assert_eq!((reply.status.as_u16(), reply.text()), (204, String::new()));
    let hosts = house.get("/v1/hosts").send().await.expect(200);
    assert_eq!(hosts["items"].as_array().map(Vec::len), Some(1), "the other stays");
}

#[tokio::test]
async fn a_deleted_host_is_404_for_administrators_and_410_for_its_agent() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let path = format!("/v1/hosts/{}", host.host_id);
    let minted = house.post(&format!("{path}/install-tokens")).send().await.expect(201);
    let mut report = report_at(later(1));
    report["containers"] = json!([]);
    house.report_by(&host.token, &report).send().await.expect(200);
    assert_eq!(house.ask("DELETE", &path).by(OWNER).send().await.status, 204);

    for (method, below) in [
        ("GET", ""),
        ("DELETE", ""),
        ("DELETE", "?force=true"),
        ("GET", "/delete-preview"),
        ("GET", "/containers"),
        ("GET", "/telemetry"),
        ("GET", "/tokens"),
        ("POST", "/archive"),
        ("POST", "/tokens"),
    ] {
        house.ask(method, &format!("{path}{below}")).by(ROOT).send().await.refused(404, "not_found");
    }
    for ask in [
        house.report_by(&host.token, &report_at(later(2))),
        house.ask("POST", "/v1/agent/heartbeat").by(host.token.expose()),
        house.ask("GET", "/v1/agent/self").by(host.token.expose()),
        house.ask("POST", "/v1/agent/token/rotate").by(host.token.expose()).json(&json!({"claim": "0".repeat(64)})),
    ] {
        let problem = ask.send().await.refused(410, "host_deleted");
        assert_eq!(problem["action"], "stop");
        assert_eq!(problem["host_id"], json!(host.host_id));
    }
    let exchange = json!({"install_token": minted["token"]});
    let refused = house.ask("POST", "/v1/install-tokens/exchange").json(&exchange).send().await;
    refused.refused(401, "invalid_install_token");

    let events = house.get(&format!("/v1/events?host_id={}&type=host.deleted", host.host_id)).send().await.expect(200);
    let [event] = &events["items"].as_array().expect("items")[..] else { panic!("one, not {events}") };
    assert_eq!((&event["data"], &event["actor"]), (&json!({"name": "web-1"}), &json!(OWNER)));
    assert_ne!(house.create("web-1").await["host"]["id"], json!(host.host_id), "the name is free, the id is not");
}

#[tokio::test]
async fn a_host_that_was_never_heard_or_is_archived_is_deleted_as_it_is() {
    let house = House::new().await;
    let silent = house.create("web-1").await["host"]["id"].as_str().expect("an id").to_owned();
    let archived = house.enrol("web-2").await.host_id.to_string();
    house.post(&format!("/v1/hosts/{archived}/archive")).send().await.expect(200);
    let containers = house.get(&format!("/v1/hosts/{archived}/containers")).send().await.expect(200);
    assert_eq!(containers["items"][0]["missing"], true, "nothing is known of them");
    for id in [silent, archived] {
        let preview = house.get(&format!("/v1/hosts/{id}/delete-preview")).send().await.expect(200);
        assert_eq!(preview, json!({"containers": Value::Array(Vec::new()), "total": 0}));
        assert_eq!(house.ask("DELETE", &format!("/v1/hosts/{id}")).by(ROOT).send().await.status, 204);
    }
}
