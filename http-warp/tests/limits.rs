//! How often a host may ask, as a client sees it.

mod common;

use std::num::NonZeroU32;
use std::time::Duration;

use common::{Ask, Enrolled, House, later, limits, now, report_at};
use enlist_core::secret::Prefix;
use enlist_core::{PlainToken, SystemEntropy};
use serde_json::{Value, json};

/// A house in which an agent may send so much a minute, its first report included.
async fn house(live: u32, batches: u32, rotations: u32) -> (House, Enrolled) {
    let mut limits = limits();
    // Asked for no more often than the least of these rates allows.
    (limits.report_interval, limits.liveness_window) = (Duration::from_secs(60), Duration::from_secs(180));
    limits.live_per_minute = NonZeroU32::new(live);
    limits.batches_per_minute = NonZeroU32::new(batches);
    limits.rotations_per_minute = NonZeroU32::new(rotations);
    let house = House::with(limits).await;
    let host = house.enrol("web-1").await;
    (house, host)
}

fn batch<'a>(house: &'a House, host: &Enrolled) -> Ask<'a> {
    house.ask("POST", "/v1/agent/telemetry/batch").by(host.token.expose()).json(&json!({"reports": []}))
}

fn rotate<'a>(house: &'a House, host: &Enrolled) -> Ask<'a> {
    let claim = PlainToken::generate(Prefix::AGENT, &SystemEntropy).hash().to_hex();
    house.ask("POST", "/v1/agent/token/rotate").by(host.token.expose()).json(&json!({ "claim": claim }))
}

async fn last_seen(house: &House, host: &Enrolled) -> Value {
    house.contacts_written().await;
    house.get(&format!("/v1/hosts/{}", host.host_id)).send().await.expect(200)["last_seen_at"].clone()
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_again() {
    let (house, host) = house(2, 1, 1).await;
    house.ask("POST", "/v1/agent/heartbeat").by(host.token.expose()).send().await.expect(200);
    batch(&house, &host).send().await.expect(200);
    rotate(&house, &host).send().await.expect(200);
    house.clock.advance(Duration::from_millis(500));
    let asks = [
        (house.report_by(&host.token, &report_at(later(1))), "30"),
        (house.ask("POST", "/v1/agent/heartbeat").by(host.token.expose()), "30"),
        (batch(&house, &host), "60"),
        (rotate(&house, &host), "60"),
    ];
    for (ask, seconds) in asks {
        let reply = ask.send().await;
        assert_eq!(reply.header("retry-after"), Some(seconds));
        let problem = reply.refused(429, "rate_limited");
        assert_eq!(problem["action"], "retry");
    }
    // Who a host is can be asked at any time.
    house.ask("GET", "/v1/agent/self").by(host.token.expose()).send().await.expect(200);
    let other = house.enrol("web-2").await;
    batch(&house, &other).send().await.expect(200);
    house.clock.advance(Duration::from_millis(29_500));
    house.report_by(&host.token, &report_at(later(1))).send().await.expect(200);
    house.report_by(&host.token, &report_at(later(2))).send().await.refused(429, "rate_limited");
}

#[tokio::test]
async fn a_request_too_many_is_no_sign_of_life_and_its_body_is_not_looked_at() {
    let (house, host) = house(1, 1, 12).await;
    batch(&house, &host).send().await.expect(200);
    house.contacts_written().await;
    let written = house.written().await;
    house.clock.advance(Duration::from_secs(10));
    let bodies: [(&str, Vec<u8>); 5] = [
        ("identity", report_at(later(1)).to_string().into_bytes()),
        ("identity", b"oops".to_vec()),
        ("identity", vec![b' '; limits().body_bytes + 1]),
        ("gzip", b"oops".to_vec()),
        ("br", b"oops".to_vec()),
    ];
    for route in ["/v1/agent/telemetry", "/v1/agent/heartbeat", "/v1/agent/telemetry/batch"] {
        for (encoding, body) in &bodies {
            let ask = house.ask("POST", route).by(host.token.expose()).header("content-encoding", encoding);
            ask.body(body.clone()).send().await.refused(429, "rate_limited");
        }
    }
    assert_eq!(last_seen(&house, &host).await, json!(now()));
    assert_eq!(house.written().await, written);
}

#[tokio::test]
async fn without_a_rate_there_is_no_limit() {
    let (house, host) = house(0, 0, 0).await;
    for _ in 0..70 {
        house.ask("POST", "/v1/agent/heartbeat").by(host.token.expose()).send().await.expect(200);
        batch(&house, &host).send().await.expect(200);
    }
}
