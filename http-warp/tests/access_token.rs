//! Refreshing, what an access token is good for, and the keys to verify it with.

mod common;

use common::{House, ROOT, ask, later, report_at};
use enlist_core::Clock;
use enlist_core::SystemEntropy;
use enlist_core::access_token::{Issuer, Jwks, SigningKey, Verifier};
use enlist_http_warp::jwks;
use serde_json::{Value, json};

const REFRESH: &str = "/v1/agent/token/refresh";

async fn issuing() -> House {
    let issuer = Issuer::builder("https://fleet.example", "https://logs.example", SigningKey::generate(&SystemEntropy));
    House::configured(|builder| builder.access_tokens(issuer.build().expect("an issuer"))).await
}

/// Creates a host with a refresh token that the server drew.
async fn refresh_token(house: &House) -> (Value, String) {
    let body = json!({"name": "web-1", "kind": "byoc", "tenant_id": "acme", "credential_kind": "refresh"});
    let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
    let body = json!({"install_token": created["install_token"]["token"]});
    let bought = house.ask("POST", "/v1/install-tokens/exchange").json(&body).send().await.expect(200);
    let token = bought["agent_token"]["token"].as_str().expect("server-made").to_owned();
    (created["host"]["id"].clone(), token)
}

#[tokio::test]
async fn a_refresh_token_buys_an_access_token_that_reports() {
    let house = issuing().await;
    let (host_id, token) = refresh_token(&house).await;
    let reply = house.ask("POST", REFRESH).by(&token).send().await;
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let bought = reply.expect(200);
    assert!(bought.get("refresh_token").is_none());
    let access = bought["access_token"].as_str().expect("a token");
    let report = house.ask("POST", "/v1/agent/telemetry").by(access).json(&report_at(later(1)));
    assert_eq!(report.send().await.expect(200)["status"], "accepted");
    let me = house.ask("GET", "/v1/agent/self").by(access).send().await.expect(200);
    assert_eq!((&me["host_id"], &me["kind"], &me["expires_at"]), (&host_id, &json!("refresh"), &bought["expires_at"]));
    let report = house.ask("POST", "/v1/agent/telemetry").by(&token).json(&report_at(later(2)));
    assert_eq!(report.send().await.refused(401, "invalid_token")["action"], "refresh");
    house.ask("GET", "/v1/agent/self").by(&token).send().await.expect(200);
}

#[tokio::test]
async fn an_access_token_is_no_administrators_and_buys_nothing() {
    let house = issuing().await;
    let (_, token) = refresh_token(&house).await;
    let bought = house.ask("POST", REFRESH).by(&token).send().await.expect(200);
    let access = bought["access_token"].as_str().expect("a token");
    house.ask("GET", "/v1/hosts").by(access).send().await.refused(401, "invalid_token");
    house.ask("POST", REFRESH).by(access).send().await.refused(401, "invalid_token");
    house.ask("POST", "/v1/agent/token/rotate").by(access).send().await.refused(401, "invalid_token");
    house.ask("POST", REFRESH).send().await.refused(401, "missing_token");
    house.ask("POST", REFRESH).by(ROOT).send().await.refused(401, "invalid_token");
    let host = house.enrol("web-2").await;
    house.ask("POST", REFRESH).by(host.token.expose()).send().await.refused(403, "forbidden");
}

#[tokio::test]
async fn after_a_revocation_no_access_token_is_accepted_here() {
    let house = issuing().await;
    let (host_id, token) = refresh_token(&house).await;
    let bought = house.ask("POST", REFRESH).by(&token).send().await.expect(200);
    let access = bought["access_token"].as_str().expect("a token");
    house.ask("POST", "/v1/agent/heartbeat").by(access).send().await.expect(200);
    let tokens = format!("/v1/hosts/{}/tokens", host_id.as_str().expect("an id"));
    house.ask("DELETE", &tokens).by(ROOT).send().await.expect(200);
    let refused = house.ask("POST", "/v1/agent/heartbeat").by(access).send().await.refused(401, "token_revoked");
    assert_eq!(refused["action"], "refresh");
    assert!(!refused.to_string().contains(access));
    let refused = house.ask("POST", REFRESH).by(&token).send().await.refused(401, "token_revoked");
    assert_eq!(refused["action"], "re_enrol");
}

#[tokio::test]
async fn another_service_verifies_with_the_published_keys() {
    let house = issuing().await;
    let (host_id, token) = refresh_token(&house).await;
    let bought = house.ask("POST", REFRESH).by(&token).send().await.expect(200);
    let app = jwks(house.fleet.clone());
    let published = ask(&app, "GET", "/.well-known/jwks.json").send().await;
    assert_eq!(published.status, 200);
    assert_eq!(published.header("content-type"), Some("application/jwk-set+json"));
    assert_eq!(published.header("cache-control"), Some("public, max-age=300"));
    let keys: Jwks = serde_json::from_value(published.json()).expect("a key set");
    let verifier = Verifier::new(keys, "https://fleet.example", "https://logs.example");
    let claims = verifier.verify(bought["access_token"].as_str().expect("a token"), house.clock.now());
    assert_eq!(json!(claims.expect("it is valid").host_id), host_id);
    ask(&app, "POST", "/.well-known/jwks.json").send().await.refused(405, "method_not_allowed");
}

#[tokio::test]
async fn where_none_are_issued_refreshing_is_not_found() {
    let house = House::new().await;
    let (_, token) = refresh_token(&house).await;
    house.ask("POST", REFRESH).by(&token).send().await.refused(404, "not_found");
    house.ask("POST", "/v1/agent/heartbeat").by(&token).send().await.expect(200);
    let app = jwks(house.fleet.clone());
    ask(&app, "GET", "/.well-known/jwks.json").send().await.refused(404, "not_found");
}
