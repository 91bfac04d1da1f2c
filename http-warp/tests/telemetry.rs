//! Reports, heartbeats, and reading them back.

mod common;

use std::time::Duration;

use common::{House, Names, build, later, limits, now, report_at};
use enlist_core::secret::Prefix;
use enlist_core::{PlainToken, SystemEntropy};
use enlist_http_warp::routes;
use serde_json::{Value, json};

#[tokio::test]
async fn a_report_is_acknowledged_and_read_back() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let taken = house.report_by(&host.token, &report_at(later(10))).send().await.expect(200);
    assert_eq!(
        taken,
        json!({"status": "accepted", "server_time": now(), "next_report_in_ms": 30_000, "lease_ms": 60_000})
    );
    let page = house.get(&format!("/v1/hosts/{}/telemetry", host.host_id)).send().await.expect(200);
    let items = page["items"].as_array().expect("items");
    assert_eq!(items.len(), 2);
    assert_eq!(items[1]["recorded_at"], json!(later(10)));
    assert_eq!(items[1]["metrics"]["cpu_percent"], 12.5);
    assert_eq!(items[1]["containers"][0]["container_id"], "c1");
}

#[tokio::test]
async fn the_same_report_again_is_a_duplicate_and_another_of_its_time_a_conflict() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let written = house.written().await;
    let again = house.report_by(&host.token, &report_at(now())).send().await.expect(200);
    assert_eq!(again["status"], "duplicate");
    let mut other = report_at(now());
    other["host"]["metrics"]["cpu_percent"] = json!(99);
    let other = house.report_by(&host.token, &other).send().await.expect(200);
    assert_eq!(other["status"], "conflict");
    assert_eq!(house.written().await, written);
}

#[tokio::test]
async fn who_prefers_it_gets_an_empty_answer() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    for (n, prefer) in ["return=minimal", "respond-async, Return=\"minimal\"; foo=bar"].into_iter().enumerate() {
        let report = report_at(later(1 + n as u64));
        let reply = house.report_by(&host.token, &report).header("prefer", prefer).send().await;
        assert_eq!(reply.status, 204, "{prefer}");
        assert_eq!(reply.header("preference-applied"), Some("return=minimal"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.body.is_empty());
    }
    for prefer in ["return=representation", "return=representation, return=minimal", "minimal"] {
        house.report_by(&host.token, &report_at(now())).header("prefer", prefer).send().await.expect(200);
    }
    // Only success can be empty.
    house
        .report_by(&host.token, &json!({}))
        .header("prefer", "return=minimal")
        .send()
        .await
        .refused(422, "invalid_field");
}

#[tokio::test]
async fn a_heartbeat_says_when_to_come_again() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    for body in ["", "{}", r#"{"a field of": "a later version"}"#] {
        let ask = house.ask("POST", "/v1/agent/heartbeat").by(host.token.expose());
        let reply = ask.body(body).send().await.expect(200);
        assert_eq!(reply, json!({"server_time": now(), "next_report_in_ms": 30_000, "lease_ms": 60_000}));
    }
}

#[tokio::test]
async fn a_host_whose_report_is_refused_is_alive_all_the_same() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let path = format!("/v1/hosts/{}", host.host_id);
    let refused = [
        ("/v1/agent/telemetry", vec![b' '; limits().body_bytes + 1], 413),
        ("/v1/agent/telemetry", b"{}".to_vec(), 422),
        ("/v1/agent/heartbeat", b"oops".to_vec(), 400),
    ];
    for (n, (route, body, status)) in (1..).zip(refused) {
        house.clock.advance(Duration::from_secs(10));
        let reply = house.ask("POST", route).by(host.token.expose()).body(body).send().await;
        assert_eq!(reply.status, status);
        house.contacts_written().await;
        let seen = house.get(&path).send().await.expect(200)["last_seen_at"].clone();
        assert_eq!(seen, json!(later(10 * n)), "{route} {status}");
    }
}

#[tokio::test]
async fn history_comes_in_pages_of_the_range_that_was_asked_for() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    for n in 1..=4 {
        house.report_by(&host.token, &report_at(later(n))).send().await.expect(200);
    }
    let times = |page: &Value| -> Vec<Value> {
        page["items"].as_array().expect("items").iter().map(|item| item["recorded_at"].clone()).collect()
    };
    let path = format!("/v1/hosts/{}/telemetry?from={}&to={}&limit=2", host.host_id, later(1), later(4));
    let first = house.get(&path).send().await.expect(200);
    assert_eq!(times(&first), [json!(later(1)), json!(later(2))]);
    let cursor = first["next_cursor"].as_str().expect("more");
    let second = house.get(&format!("{path}&cursor={cursor}")).send().await.expect(200);
    assert_eq!(times(&second), [json!(later(3))], "`to` is not part of the range");
    assert_eq!(second["next_cursor"], Value::Null);
}

#[tokio::test]
async fn without_its_drivers_a_fleet_refuses_reports_at_once() {
    let (fleet, drivers, _clock) = build(limits());
    let app = routes(fleet.clone(), Names);
    let body = json!({"name": "web-1", "kind": "byoc"});
    let created = common::ask(&app, "POST", "/v1/hosts").by(common::ROOT).json(&body).send().await.expect(201);
    let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    let exchange = json!({"install_token": created["install_token"]["token"], "claim": token.hash().to_hex()});
    common::ask(&app, "POST", "/v1/install-tokens/exchange").json(&exchange).send().await.expect(200);
    let report = || common::ask(&app, "POST", "/v1/agent/telemetry").by(token.expose()).json(&report_at(now()));
    let heartbeat = || common::ask(&app, "POST", "/v1/agent/heartbeat").by(token.expose());
    assert!(report().send().await.header("retry-after").is_some());
    report().send().await.refused(503, "unavailable");
    drop(drivers);
    report().send().await.refused(503, "unavailable");
    heartbeat().send().await.refused(503, "unavailable");
}
