//! Agent tokens: issuing, revoking, and who a host is.

mod common;

use common::{House, ROOT, later, now, report_at};
use enlist_core::PlainToken;
use enlist_core::secret::Prefix;
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
