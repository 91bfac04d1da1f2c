//! The main road, end to end, and what secrets can be seen along it.

mod common;

use common::{House, Reply, later, report_at};
use enlist_core::secret::Prefix;
use enlist_core::{PlainToken, SystemEntropy};
use serde_json::json;

#[tokio::test]
async fn a_host_enrols_reports_is_read_back_and_is_cut_off_when_it_is_archived() {
    let house = House::new().await;
    let body = json!({"name": "web-1", "kind": "byoc", "tenant_id": "acme"});
    let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
    let host = format!("/v1/hosts/{}", created["host"]["id"].as_str().expect("an id"));

    let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    let exchange = json!({"install_token": created["install_token"]["token"], "claim": token.hash().to_hex()});
    let enrolled = house.ask("POST", "/v1/install-tokens/exchange").json(&exchange).send().await.expect(200);
    assert_eq!(enrolled["host_id"], created["host"]["id"]);

    let taken = house.report_by(&token, &report_at(later(1))).send().await.expect(200);
    assert_eq!(taken["status"], "accepted");
    assert_eq!(house.get(&host).send().await.expect(200)["status"], "online");
    let containers = house.get(&format!("{host}/containers")).send().await.expect(200);
    assert_eq!(containers["items"][0]["container_id"], "c1");
    let telemetry = house.get(&format!("{host}/telemetry")).send().await.expect(200);
    assert_eq!(telemetry["items"][0]["metrics"]["cpu_percent"], 12.5);

    house.post(&format!("{host}/archive")).send().await.expect(200);
    let problem = house.report_by(&token, &report_at(later(2))).send().await.refused(401, "host_archived");
    assert_eq!(problem["action"], "stop");
    assert_eq!(house.get(&host).send().await.expect(200)["status"], "archived");
    let events = house.get("/v1/events").send().await.expect(200);
    let types: Vec<_> = events["items"].as_array().expect("items").iter().map(|event| &event["type"]).collect();
    assert_eq!(
        types,
        [
            "host.created",
            "install_token.minted",
            "host.enrolled",
            "agent_token.promoted",
            "host.online",
            "host.archived"
        ]
    );
}

#[tokio::test]
async fn a_secret_is_in_the_one_reply_that_issues_it_and_in_no_other() {
    let house = House::new().await;
    let mut issuing = Vec::new();
    let mut others = Vec::new();

    let body = json!({"name": "web-1", "kind": "byoc", "tenant_id": "acme"});
    let created = house.post("/v1/hosts").json(&body).send().await;
    let host = format!("/v1/hosts/{}", created.json()["host"]["id"].as_str().expect("an id"));
    let minted = house.post(&format!("{host}/install-tokens")).send().await;
    let exchange = json!({"install_token": minted.json()["token"]});
    let exchanged = house.ask("POST", "/v1/install-tokens/exchange").json(&exchange).send().await;
    let issued = house.post(&format!("{host}/tokens")).send().await;
    let secrets: Vec<String> = [
        &created.json()["install_token"]["token"],
        &minted.json()["token"],
        &exchanged.json()["agent_token"]["token"],
        &issued.json()["token"],
    ]
    .map(|token| token.as_str().expect("a secret").to_owned())
    .into();
    issuing.extend([created, minted, exchanged, issued]);

    others.push(house.ask("POST", "/v1/install-tokens/exchange").json(&exchange).send().await);
    for path in [&host, &format!("{host}/containers"), &format!("{host}/telemetry"), "/v1/hosts", "/v1/events"] {
        others.push(house.get(path).send().await);
    }
    for secret in &secrets {
        others.push(house.ask("GET", "/v1/agent/self").by(secret).send().await);
        others.push(house.ask("POST", "/v1/agent/telemetry").by(secret).json(&report_at(later(1))).send().await);
        others.push(house.ask("GET", "/v1/hosts").by(secret).send().await);
        others.push(house.get(&format!("/v1/hosts?cursor={secret}")).send().await);
        others.push(house.get(&format!("/v1/hosts/{secret}")).send().await);
        others.push(
            house.ask("POST", "/v1/hosts").by(common::ROOT).json(&json!({"name": "n", "kind": secret})).send().await,
        );
    }
    others.push(house.post(&format!("{host}/archive")).send().await);

    let holds = |reply: &Reply, secret: &str| {
        reply.text().contains(secret)
            || reply
                .headers
                .values()
                .any(|value| value.as_bytes().windows(secret.len()).any(|window| window == secret.as_bytes()))
    };
    for (n, secret) in secrets.iter().enumerate() {
        for (m, reply) in issuing.iter().enumerate() {
            assert_eq!(holds(reply, secret), n == m, "secret {n} in reply {m}");
        }
        for reply in &others {
            assert!(!holds(reply, secret), "{}", reply.text());
        }
    }
    for reply in issuing.iter().chain(&others) {
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
}
