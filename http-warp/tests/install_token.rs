//! Minting and exchanging install tokens.

mod common;

use common::{House, limits};
use enlist_core::secret::Prefix;
use enlist_core::{PlainToken, SystemEntropy};
use enlist_http_warp::Routes;
use serde_json::{Value, json};

const EXCHANGE: &str = "/v1/install-tokens/exchange";

fn claim() -> String {
    PlainToken::generate(Prefix::AGENT, &SystemEntropy).hash().to_hex()
}

#[tokio::test]
async fn the_same_claim_is_answered_the_same_and_another_is_refused() {
    let house = House::new().await;
    let created = house.create("web-1").await;
    let token = &created["install_token"]["token"];
    let mine = json!({"install_token": token, "claim": claim(), "facts": {"os": "Debian", "later": "ignored"}});
    let first = house.ask("POST", EXCHANGE).json(&mine).send().await.expect(200);
    assert_eq!(first["host_id"], created["host"]["id"]);
    assert_eq!(first["agent_token"].get("token"), None, "a client that drew its secret gets none");
    assert_eq!(house.ask("POST", EXCHANGE).json(&mine).send().await.expect(200), first);

    let other = json!({"install_token": token, "claim": claim()});
    let problem = house.ask("POST", EXCHANGE).json(&other).send().await.refused(401, "install_token_already_used");
    assert_eq!(problem["action"], "re_enrol");
    assert_eq!(problem["field"], "/install_token");
    let facts = house.get(&format!("/v1/hosts/{}", first["host_id"].as_str().expect("an id"))).send().await.expect(200);
    assert_eq!(facts["facts"]["os"], "Debian");
}

#[tokio::test]
async fn without_a_claim_the_reply_carries_a_secret_that_works() {
    let house = House::new().await;
    let created = house.create("web-1").await;
    let body = json!({"install_token": created["install_token"]["token"]});
    let reply = house.ask("POST", EXCHANGE).json(&body).send().await;
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let reply = reply.expect(200);
    let token = reply["agent_token"]["token"].as_str().expect("a secret");
    let me = house.ask("GET", "/v1/agent/self").by(token).send().await.expect(200);
    assert_eq!(me["host_id"], created["host"]["id"]);
}

#[tokio::test]
async fn minting_takes_an_empty_body_and_revokes_the_token_before() {
    let house = House::new().await;
    let created = house.create("web-1").await;
    let path = format!("/v1/hosts/{}/install-tokens", created["host"]["id"].as_str().expect("an id"));
    let minted = house.post(&path).send().await.expect(201);
    let old = json!({"install_token": created["install_token"]["token"], "claim": claim()});
    house.ask("POST", EXCHANGE).json(&old).send().await.refused(401, "invalid_install_token");
    let new = json!({"install_token": minted["token"], "claim": claim()});
    house.ask("POST", EXCHANGE).json(&new).send().await.expect(200);
}

#[tokio::test]
async fn a_claim_that_was_seen_before_consumes_nothing() {
    let house = House::new().await;
    let seen = claim();
    let first = house.create("web-1").await;
    let second = house.create("web-2").await;
    let body =
        |created: &Value, claim: &str| json!({"install_token": created["install_token"]["token"], "claim": claim});
    house.ask("POST", EXCHANGE).json(&body(&first, &seen)).send().await.expect(200);
    let problem = house.ask("POST", EXCHANGE).json(&body(&second, &seen)).send().await.refused(409, "claim_in_use");
    assert_eq!(problem["action"], "propose");
    house.ask("POST", EXCHANGE).json(&body(&second, &claim())).send().await.expect(200);
}

/// Refused exchanges until the limit is reached, from an address.
async fn exhaust(house: &House, address: Option<&str>) {
    for _ in 0..30 {
        refused_exchange(house, address).await.refused(400, "invalid_install_token");
    }
}

async fn refused_exchange(house: &House, address: Option<&str>) -> common::Reply {
    let ask = house.ask("POST", EXCHANGE).json(&json!({"install_token": "guess"}));
    match address {
        Some(address) => ask.from(address).send().await,
        None => ask.send().await,
    }
}

#[tokio::test]
async fn refused_exchanges_are_limited_by_address_and_others_are_not_kept_out() {
    let house = House::with(limits()).await;
    let created = house.create("web-1").await;
    exhaust(&house, Some("2001:db8::1")).await;
    let limited = refused_exchange(&house, Some("2001:db8::2")).await;
    assert!(limited.header("retry-after").is_some(), "it says when to come again");
    assert_eq!(limited.refused(429, "rate_limited")["action"], "retry");
    refused_exchange(&house, Some("2001:db8:0:1::1")).await.refused(400, "invalid_install_token");
    // The neighbour behind the same address has a good token.
    let good = json!({"install_token": created["install_token"]["token"], "claim": claim()});
    house.ask("POST", EXCHANGE).json(&good).from("2001:db8::1").send().await.expect(200);
}

#[tokio::test]
async fn without_an_address_the_limit_is_one_for_all_and_not_off() {
    let house = House::new().await;
    exhaust(&house, None).await;
    refused_exchange(&house, None).await.refused(429, "rate_limited");

    // The same when the embedder gives no function, wherever the requests come from.
    let mut house = House::new().await;
    house.app = Routes::new(house.fleet.clone(), common::Names).build();
    exhaust(&house, Some("192.0.2.1")).await;
    refused_exchange(&house, Some("192.0.2.2")).await.refused(429, "rate_limited");
}

#[tokio::test]
async fn install_tokens_are_listed_without_their_secrets_and_taken_back() {
    let house = House::new().await;
    let created = house.create("web-1").await;
    let path = format!("/v1/hosts/{}/install-tokens", created["host"]["id"].as_str().expect("an id"));
    let listed = house.get(&path).send().await;
    assert!(!listed.text().contains("eit_"), "{}", listed.text());
    let listed = listed.expect(200);
    let row = &listed["items"][0];
    assert_eq!((&row["id"], &row["status"]), (&created["install_token"]["id"], &json!("issued")));

    let token = format!("/v1/install-tokens/{}", row["id"].as_str().expect("an id"));
    for _ in 0..2 {
        assert_eq!(house.ask("DELETE", &token).by(common::ROOT).send().await.status, 204);
    }
    let body = json!({"install_token": created["install_token"]["token"], "claim": claim()});
    house.ask("POST", EXCHANGE).json(&body).send().await.refused(401, "invalid_install_token");

    let minted = house.post(&path).send().await.expect(201);
    let body = json!({"install_token": minted["token"], "claim": claim()});
    house.ask("POST", EXCHANGE).json(&body).send().await.expect(200);
    let used = format!("/v1/install-tokens/{}", minted["id"].as_str().expect("an id"));
    house.ask("DELETE", &used).by(common::ROOT).send().await.refused(409, "install_token_already_used");
    house.ask("DELETE", &used).send().await.refused(401, "missing_token");
    let nobody = format!("/v1/install-tokens/{}", created["host"]["id"].as_str().expect("an id"));
    house.ask("DELETE", &nobody).by(common::ROOT).send().await.refused(404, "not_found");
}

#[tokio::test]
async fn a_server_made_exchange_is_repeated_with_its_key() {
    let house = House::new().await;
    let created = house.create("web-1").await;
    let body = json!({"install_token": created["install_token"]["token"]});
    let ask = |key: &str| house.ask("POST", EXCHANGE).json(&body).header("idempotency-key", key).send();
    ask("too-short").await.refused(400, "invalid_request");
    let first = ask("0123456789abcdefghijklmn").await.expect(200);
    assert_eq!(ask("0123456789abcdefghijklmn").await.expect(200), first);
    let token = first["agent_token"]["token"].as_str().expect("a secret");
    house.ask("GET", "/v1/agent/self").by(token).send().await.expect(200);
    for key in ["0123456789abcdefghijklmn", "another-key-0123456789ab"] {
        ask(key).await.refused(401, "install_token_already_used");
    }
    let events = house.get("/v1/events?type=enrolment.contested").send().await.expect(200);
    assert_eq!(events["items"].as_array().expect("items").len(), 1, "the same client, late, is no alarm");
}
