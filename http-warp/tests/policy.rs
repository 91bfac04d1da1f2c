//! The policy, seen through every route.

mod common;

use common::{House, MEMBER, OWNER, STRANGER};
use serde_json::json;

/// Every route about a host: method, path below it, body, whether it only reads.
const ROUTES: [(&str, &str, &str, bool); 10] = [
    ("GET", "", "", true),
    ("GET", "/containers", "", true),
    ("GET", "/telemetry", "", true),
    ("GET", "/telemetry?step=60", "", true),
    ("GET", "/telemetry/latest", "", true),
    ("GET", "/containers/c1/telemetry?step=60", "", true),
    ("POST", "/install-tokens", "{}", false),
    ("POST", "/tokens", "{}", false),
    ("DELETE", "/tokens/{token_id}", "", false),
    ("POST", "/archive", "", false),
];

#[tokio::test]
async fn to_an_actor_of_another_tenant_no_host_exists_on_any_route() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let before = house.written().await;
    for (method, below, body, _) in ROUTES {
        let path = format!("/v1/hosts/{}{}", host.host_id, below.replace("{token_id}", &host.token_id));
        let hidden = house.ask(method, &path).by(STRANGER).body(body).send().await.refused(404, "not_found");
        // Not told apart from one that is not there.
        let absent = path.replace(&host.host_id.to_string(), "01890000-0000-7000-8000-000000000000");
        let absent = house.ask(method, &absent).by(STRANGER).body(body).send().await.refused(404, "not_found");
        assert_eq!(hidden, absent, "{method} {below}");
    }
    let body = json!({"name": "web-2", "kind": "byoc", "tenant_id": "acme"});
    house.ask("POST", "/v1/hosts").by(STRANGER).json(&body).send().await.refused(404, "not_found");
    for list in ["/v1/hosts", "/v1/events", "/v1/hosts?tenant_id=acme", "/v1/events?tenant_id=acme"] {
        let page = house.ask("GET", list).by(STRANGER).send().await.expect(200);
        assert_eq!(page, json!({"items": [], "next_cursor": null}), "{list}");
    }
    assert_eq!(house.written().await, before);
}

#[tokio::test]
async fn a_member_reads_what_only_an_owner_changes() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    for (method, below, body, reads) in ROUTES {
        let path = format!("/v1/hosts/{}{}", host.host_id, below.replace("{token_id}", &host.token_id));
        let reply = house.ask(method, &path).by(MEMBER).body(body).send().await;
        if reads {
            reply.expect(200);
        } else {
            reply.refused(403, "forbidden");
        }
        let reply = house.ask(method, &path).by(OWNER).body(body).send().await;
        assert!(reply.status.is_success(), "{method} {below}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_managed_host_is_its_operators_alone_to_change() {
    let house = House::new().await;
    let body = json!({"name": "managed-1", "kind": "managed", "tenant_id": "acme"});
    let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
    let path = format!("/v1/hosts/{}", created["host"]["id"].as_str().expect("an id"));
    house.ask("GET", &path).by(OWNER).send().await.expect(200);
    house.ask("POST", &format!("{path}/archive")).by(OWNER).send().await.refused(403, "forbidden");
    house.ask("POST", "/v1/hosts").by(OWNER).json(&body).send().await.refused(403, "forbidden");
}
