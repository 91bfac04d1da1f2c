//! Minting and exchanging install tokens.

mod common;

use std::time::Duration;

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

/// Mints one for `acme`.
async fn mint_of_tenant(house: &House) -> Value {
    house.post("/v1/tenants/acme/install-tokens").send().await.expect(201)
}

fn joining(minted: &Value, name: &str, external_id: &str) -> Value {
    json!({"install_token": minted["token"], "claim": claim(), "host": {"name": name, "external_id": external_id}})
}

#[tokio::test]
async fn an_install_token_of_a_tenant_makes_its_host() {
    let house = House::new().await;
    let minted = house.ask("POST", "/v1/tenants/acme/install-tokens").by(common::OWNER).send().await.expect(201);
    assert_eq!(minted["expires_at"], json!(common::later(15 * 60)));
    let body = joining(&minted, "web-1", "i-1");
    let enrolled = house.ask("POST", EXCHANGE).json(&body).send().await.expect(200);
    assert_eq!(enrolled["tenant_id"], "acme");
    assert_eq!(house.ask("POST", EXCHANGE).json(&body).send().await.expect(200), enrolled);
    let path = format!("/v1/hosts/{}", enrolled["host_id"].as_str().expect("an id"));
    let host = house.ask("GET", &path).by(common::MEMBER).send().await.expect(200);
    assert_eq!((&host["name"], &host["external_id"], &host["kind"]), (&json!("web-1"), &json!("i-1"), &json!("byoc")));
    let created = house.get("/v1/events?type=host.created").send().await.expect(200);
    assert_eq!((&created["items"][0]["actor"], &created["items"][0]["host_id"]), (&json!("owner"), &host["id"]));
    assert_eq!(created["items"][0]["data"]["install_token_id"], minted["id"]);
    // Nobody who holds another one takes it over, or learns more than that it is there.
    let other = mint_of_tenant(&house).await;
    for (name, external_id, code, field) in
        [("web-1", "i-2", "name_taken", "/host/name"), ("web-2", "i-1", "external_id_taken", "/host/external_id")]
    {
        let body = joining(&other, name, external_id);
        let problem = house.ask("POST", EXCHANGE).json(&body).send().await.refused(409, code);
        assert_eq!((&problem["field"], problem.get("host_id")), (&json!(field), None));
    }
    let bare = json!({"install_token": other["token"]});
    let unnamed = house.ask("POST", EXCHANGE).json(&bare).send().await.expect(200);
    let path = format!("/v1/hosts/{}", unnamed["host_id"].as_str().expect("an id"));
    let host = house.get(&path).send().await.expect(200);
    assert!(host["name"].as_str().expect("a name").starts_with("host-"), "{host}");
}

#[tokio::test]
async fn what_is_proposed_of_a_host_is_held_to_its_bounds_before_the_token_is_looked_at() {
    let house = House::new().await;
    let minted = mint_of_tenant(&house).await;
    let before = house.written().await;
    for (host, field) in [
        (json!({"name": ""}), "/host/name"),
        (json!({"name": "x".repeat(129)}), "/host/name"),
        (json!({"name": 7}), "/host/name"),
        (json!({"external_id": "a\nb"}), "/host/external_id"),
        (json!("web-1"), "/host"),
    ] {
        let body = json!({"install_token": minted["token"], "host": host});
        let problem = house.ask("POST", EXCHANGE).json(&body).send().await.refused(422, "invalid_field");
        assert_eq!(problem["field"], field, "{problem}");
    }
    assert_eq!(house.written().await, before);
    // A later agent may say more of it.
    let body = json!({"install_token": minted["token"], "host": {"name": "web-1", "rack": 7}});
    house.ask("POST", EXCHANGE).json(&body).send().await.expect(200);
}

#[tokio::test]
async fn install_tokens_of_a_tenant_are_minted_listed_and_taken_back() {
    let house = House::new().await;
    let path = "/v1/tenants/acme/install-tokens";
    let body = json!({"credential_kind": "refresh", "expires_at": common::later(60)});
    let minted = house.post(path).json(&body).send().await;
    assert_eq!(minted.header("cache-control"), Some("no-store"));
    let minted = minted.expect(201);
    house.clock.advance(Duration::from_secs(1));
    let second = mint_of_tenant(&house).await;
    for (body, field) in [
        (json!({"expires_at": common::now()}), "/expires_at"),
        (json!({"expires_at": common::later(31 * 24 * 3600)}), "/expires_at"),
        (json!({"credential_kind": "gold"}), "/credential_kind"),
        (json!({"name_prefix": "web"}), "/name_prefix"),
    ] {
        let problem = house.post(path).json(&body).send().await.refused(422, "invalid_field");
        assert_eq!(problem["field"], field, "{problem}");
    }
    let page = house.ask("GET", &format!("{path}?limit=1")).by(common::MEMBER).send().await;
    assert!(!page.text().contains("eit_"), "{}", page.text());
    let page = page.expect(200);
    let row = &page["items"][0];
    assert_eq!((&row["status"], &row["credential_kind"]), (&json!("issued"), &json!("refresh")));
    assert_eq!((&row["created_by"], &row["expires_at"]), (&json!("root"), &minted["expires_at"]));
    let rest = format!("{path}?cursor={}", page["next_cursor"].as_str().expect("a cursor"));
    let rest = house.get(&rest).send().await.expect(200);
    assert_eq!((&row["id"], &rest["items"][0]["id"]), (&minted["id"], &second["id"]));
    assert_eq!(rest["next_cursor"], Value::Null);

    let token = format!("/v1/install-tokens/{}", minted["id"].as_str().expect("an id"));
    for _ in 0..2 {
        assert_eq!(house.ask("DELETE", &token).by(common::OWNER).send().await.status, 204);
    }
    house.ask("POST", EXCHANGE).json(&joining(&minted, "a", "b")).send().await.refused(401, "invalid_install_token");
}

/// Opaque: whatever the embedding service takes for one, decoded once.
#[tokio::test]
async fn a_tenant_in_a_path_is_decoded_once_and_what_can_be_none_is_not_found() {
    let house = House::new().await;
    let minted = house.post("/v1/tenants/a%2Fb%2525%20c/install-tokens").send().await.expect(201);
    let enrolled = house.ask("POST", EXCHANGE).json(&joining(&minted, "a", "b")).send().await.expect(200);
    assert_eq!(enrolled["tenant_id"], "a/b%25 c");
    for tenant in ["%0A", "%FF", &"x".repeat(129)] {
        house.post(&format!("/v1/tenants/{tenant}/install-tokens")).send().await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn to_an_actor_of_another_tenant_its_install_tokens_do_not_exist() {
    let house = House::new().await;
    let path = "/v1/tenants/acme/install-tokens";
    let minted = mint_of_tenant(&house).await;
    let token = format!("/v1/install-tokens/{}", minted["id"].as_str().expect("an id"));
    let before = (house.written().await, house.get(path).send().await.expect(200));
    for (actor, status, code) in [(common::STRANGER, 404, "not_found"), (common::MEMBER, 403, "forbidden")] {
        house.ask("POST", path).by(actor).send().await.refused(status, code);
        house.ask("DELETE", &token).by(actor).send().await.refused(status, code);
    }
    house.ask("GET", path).by(common::STRANGER).send().await.refused(404, "not_found");
    house.ask("GET", path).send().await.refused(401, "missing_token");
    assert_eq!((house.written().await, house.get(path).send().await.expect(200)), before);
    house.ask("POST", "/v1/tenants/elsewhere/install-tokens").by(common::STRANGER).send().await.expect(201);
}
