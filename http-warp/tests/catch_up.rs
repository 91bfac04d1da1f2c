//! Batches: catching up over HTTP.

mod common;

use std::time::Duration;

use common::{House, later, limits, now, report_at};
use serde_json::{Value, json};

const BATCH: &str = "/v1/agent/telemetry/batch";

#[tokio::test]
async fn each_report_of_a_batch_is_answered_for() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let yesterday = now().saturating_sub(Duration::from_secs(24 * 3600));
    let mut broken = report_at(later(2));
    broken["host"]["metrics"]["cpu_percent"] = json!(101);
    let reports = json!([report_at(later(1)), broken, report_at(yesterday), report_at(now()), {"host": {}}]);
    let ask = house.ask("POST", BATCH).by(host.token.expose()).json(&json!({ "reports": reports }));
    let reply = ask.send().await.expect(200);
    let expected = json!({
        "results": [
            {"recorded_at": later(1), "status": "accepted"},
            {"recorded_at": later(2), "status": "rejected", "code": "invalid_field",
             "field": "/reports/1/host/metrics/cpu_percent"},
            {"recorded_at": yesterday, "status": "accepted"},
            {"recorded_at": now(), "status": "duplicate"},
            {"recorded_at": null, "status": "rejected", "code": "invalid_field", "field": "/reports/4/host/metrics"},
        ],
        "server_time": now(), "next_report_in_ms": 30_000, "lease_ms": 60_000,
    });
    assert_eq!(reply, expected);
    let path = format!("/v1/hosts/{}/telemetry?from={yesterday}", host.host_id);
    let items = house.get(&path).send().await.expect(200)["items"].clone();
    let times: Vec<_> = items.as_array().expect("items").iter().map(|item| item["recorded_at"].clone()).collect();
    assert_eq!(times, [json!(yesterday), json!(now()), json!(later(1))]);
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_whole_and_its_host_is_alive() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let many = json!({"reports": vec![Value::Null; 501]}).to_string();
    let large = vec![b' '; limits().batch_body_bytes + 1];
    let cases: [(&[u8], u16, &str, Option<&str>); 5] = [
        (b"oops", 400, "invalid_json", None),
        (b"{}", 422, "invalid_field", Some("/reports")),
        (br#"{"reports": 5}"#, 422, "invalid_field", Some("/reports")),
        (many.as_bytes(), 422, "too_many_reports", Some("/reports")),
        (&large, 413, "body_too_large", None),
    ];
    for (n, (body, status, code, field)) in (1..).zip(cases) {
        house.clock.advance(Duration::from_secs(10));
        let ask = house.ask("POST", BATCH).by(host.token.expose()).body(body.to_vec());
        let problem = ask.send().await.refused(status, code);
        assert_eq!(problem.get("field").and_then(Value::as_str), field);
        house.contacts_written().await;
        let seen = house.get(&format!("/v1/hosts/{}", host.host_id)).send().await.expect(200)["last_seen_at"].clone();
        assert_eq!(seen, json!(later(10 * n)), "{status} {code}");
    }
}

#[tokio::test]
async fn a_batch_may_be_larger_than_a_report() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let body = json!({"reports": [report_at(later(1))]}).to_string() + &" ".repeat(limits().body_bytes);
    let reply = house.ask("POST", BATCH).by(host.token.expose()).body(body.clone()).send().await.expect(200);
    assert_eq!(reply["results"][0]["status"], "accepted");
    let live = house.ask("POST", "/v1/agent/telemetry").by(host.token.expose()).body(body);
    live.send().await.refused(413, "body_too_large");
}

#[tokio::test]
async fn a_batch_needs_a_credential_and_the_right_method() {
    let house = House::new().await;
    house.ask("POST", BATCH).json(&json!({"reports": []})).send().await.refused(401, "missing_token");
    house.ask("GET", BATCH).send().await.refused(405, "method_not_allowed");
}
