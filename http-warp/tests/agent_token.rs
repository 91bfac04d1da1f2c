//! Agent tokens: rotation, and what administrators do with them; who a host is.

mod common;

use common::{House, ROOT, later, now, report_at};
use enlist_core::secret::Prefix;
use enlist_core::{PlainToken, SystemEntropy};
use serde_json::json;

#[tokio::test]
async fn an_issued_token_works_until_it_is_revoked() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let tokens = format!("/v1/hosts/{}/tokens", host.host_id);
    let issued = house.post(&tokens).json(&json!({"name": "by hand"})).send().await.expect(201);
    assert_eq!(issued["kind"], "bearer");
    assert_eq!(issued["name"], "by hand");
    let token = PlainToken::parse(issued["token"].as_str().expect("a secret"), &[Prefix::AGENT]).expect("a token");
    house.report_by(&token, &report_at(later(1))).send().await.expect(200);

    let path = format!("{tokens}/{}", issued["id"].as_str().expect("an id"));
    for _ in 0..2 {
        let revoked = house.ask("DELETE", &path).by(ROOT).send().await;
        assert_eq!(revoked.status, 204);
        assert!(revoked.body.is_empty());
    }
    let problem = house.report_by(&token, &report_at(later(2))).send().await.refused(401, "token_revoked");
    assert_eq!(problem["token_id"], issued["id"]);
    assert_eq!(problem["action"], "re_enrol");
    house.report_by(&host.token, &report_at(later(3))).send().await.expect(200);
}

#[tokio::test]
async fn a_token_is_found_under_its_own_host_only() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let other = house.enrol("web-2").await;
    let path = format!("/v1/hosts/{}/tokens/{}", other.host_id, host.token_id);
    house.ask("DELETE", &path).by(ROOT).send().await.refused(404, "not_found");
    house.report_by(&host.token, &report_at(later(1))).send().await.expect(200);
}

#[tokio::test]
async fn self_tells_a_host_who_it_is() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let me = house.ask("GET", "/v1/agent/self").by(host.token.expose()).send().await.expect(200);
    assert_eq!(
        me,
        json!({"host_id": host.host_id, "tenant_id": "acme", "token_id": host.token_id, "kind": "bearer",
               "expires_at": null, "server_time": now()})
    );
}

#[tokio::test]
async fn nothing_is_issued_for_an_archived_host() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    house.post(&format!("/v1/hosts/{}/archive", host.host_id)).send().await.expect(200);
    for what in ["tokens", "install-tokens"] {
        house.post(&format!("/v1/hosts/{}/{what}", host.host_id)).send().await.refused(409, "host_archived");
    }
}

#[tokio::test]
async fn an_agent_rotates_its_token_and_the_old_one_ends_with_the_first_use() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let successor = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    let propose = || {
        house
            .ask("POST", "/v1/agent/token/rotate")
            .by(host.token.expose())
            .json(&json!({"claim": successor.hash().to_hex()}))
    };
    let accepted = propose().send().await.expect(200);
    assert_eq!(accepted["state"], "pending");
    assert!(accepted.get("token").is_none(), "no reply to a claim carries a secret");
    assert_eq!(propose().send().await.expect(200), accepted);
    house.report_by(&host.token, &report_at(later(1))).send().await.expect(200);
    house.report_by(&successor, &report_at(later(2))).send().await.expect(200);
    let refused = house.report_by(&host.token, &report_at(later(3))).send().await.refused(401, "token_superseded");
    assert_eq!((&refused["token_id"], &refused["action"]), (&json!(host.token_id), &json!("retry")));
    assert_eq!(propose().send().await.expect(200)["state"], "used");
}

#[tokio::test]
async fn a_server_made_rotation_is_repeated_with_its_key() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let ask = |key: &str| {
        house.ask("POST", "/v1/agent/token/rotate").by(host.token.expose()).header("idempotency-key", key).send()
    };
    let first = ask("0123456789abcdefghijklmn").await.expect(200);
    assert!(first["token"].as_str().expect("a secret").starts_with("eat_"));
    assert_eq!(ask("0123456789abcdefghijklmn").await.expect(200), first);
    let other = ask("another-key-0123456789ab").await.refused(409, "rotation_conflict");
    assert_eq!(other["action"], "retry");
    let events = house.get("/v1/events?type=rotation.conflict").send().await.expect(200);
    assert_eq!(events["items"][0]["host_id"], json!(host.host_id));
    for bad in ["short", "0123456789abcdefghijk l"] {
        ask(bad).await.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_rotation_wants_one_agent_token_in_one_header() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let path = "/v1/agent/token/rotate";
    house.ask("POST", path).send().await.refused(401, "missing_token");
    house.ask("POST", path).by(ROOT).send().await.refused(401, "invalid_token");
    house
        .ask("POST", path)
        .by(host.token.expose())
        .by(host.token.expose())
        .send()
        .await
        .refused(400, "invalid_request");
    let body = json!({"claim": "short"});
    let refused =
        house.ask("POST", path).by(host.token.expose()).json(&body).send().await.refused(422, "invalid_field");
    assert_eq!(refused["field"], "/claim");
}

#[tokio::test]
async fn administrators_list_rotate_and_cut_off() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    house.report_by(&host.token, &report_at(later(1))).send().await.expect(200);
    let tokens = format!("/v1/hosts/{}/tokens", host.host_id);
    let listed = house.get(&tokens).send().await.expect(200);
    let row = &listed["items"][0];
    assert_eq!(
        (&row["id"], &row["status"], &row["origin"]),
        (&json!(host.token_id), &json!("active"), &json!("exchange"))
    );

    assert_eq!(row["last_used_at"], json!(now()), "by the server's clock");

    let rotate = |overlap: &'static str| {
        house.post(&format!("{tokens}/{}/rotate", host.token_id)).json(&json!({"overlap": overlap})).send()
    };
    let issued = rotate("until_first_use").await.expect(201);
    let by_hand = PlainToken::parse(issued["token"].as_str().expect("a secret"), &[Prefix::AGENT]).expect("a token");
    house.report_by(&host.token, &report_at(later(2))).send().await.expect(200);
    house.report_by(&by_hand, &report_at(later(3))).send().await.expect(200);
    house.report_by(&host.token, &report_at(later(4))).send().await.refused(401, "token_superseded");
    rotate("none").await.refused(409, "token_not_live");
    rotate("sometimes").await.refused(422, "invalid_field");

    let revoked = house.ask("DELETE", &tokens).by(ROOT).send().await.expect(200);
    assert_eq!(revoked, json!({"revoked": [issued["id"]]}));
    house.report_by(&by_hand, &report_at(later(5))).send().await.refused(401, "token_revoked");
    let other = house.enrol("web-2").await;
    let path = format!("/v1/hosts/{}/tokens/{}/rotate", other.host_id, host.token_id);
    house.post(&path).json(&json!({"overlap": "none"})).send().await.refused(404, "not_found");
}
