//! The course of a host's and a container's numbers, and the latest of them.

mod common;

use std::time::Duration;

use common::{House, MEMBER, container, later, now, report_at};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// A report with counters: of the machine a byte a second, of its container two.
fn counted(seconds: u64, container_id: &str) -> Value {
    let mut report = report_at(later(seconds));
    report["host"]["metrics"] =
        json!({"load_1m": seconds, "network_rx_bytes": 1_000 + seconds, "uptime_seconds": seconds});
    report["host"]["custom"] = json!({"jobs": 3});
    report["containers"] = json!([container(container_id)]);
    report["containers"][0]["metrics"] = json!({"pids": 4, "block_write_bytes": 2 * seconds});
    report
}

fn segment(id: &str) -> String {
    utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn a_course_has_units_in_its_names_and_nothing_that_was_not_measured() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    for seconds in [40, 70, 90, 240] {
        house.report_by(&host.token, &counted(seconds, "c1")).send().await.expect(200);
    }
    let range = format!("from={}&to={}", later(60), later(300));
    let expected = json!({
        "step_seconds": 60,
        "items": [
            {
                "start": later(60), "reports": 2,
                "metrics": {
                    "load_1m": {"min": 70.0, "mean": 80.0, "max": 90.0, "last": 90.0, "count": 2},
                    "uptime_seconds": {"min": 70.0, "mean": 80.0, "max": 90.0, "last": 90.0, "count": 2},
                    "network_rx_bytes_per_second": {"min": 1.0, "mean": 1.0, "max": 1.0, "last": 1.0, "count": 2},
                },
                "custom": {"jobs": {"min": 3.0, "mean": 3.0, "max": 3.0, "last": 3.0, "count": 2}},
            },
            {
                "start": later(240), "reports": 1,
                "metrics": {
                    "load_1m": {"min": 240.0, "mean": 240.0, "max": 240.0, "last": 240.0, "count": 1},
                    "uptime_seconds": {"min": 240.0, "mean": 240.0, "max": 240.0, "last": 240.0, "count": 1},
                },
                "custom": {"jobs": {"min": 3.0, "mean": 3.0, "max": 3.0, "last": 3.0, "count": 1}},
            },
        ],
        "next_cursor": null,
    });
    for step in ["60", "60s"] {
        let path = format!("/v1/hosts/{}/telemetry?{range}&step={step}", host.host_id);
        assert_eq!(house.ask("GET", &path).by(MEMBER).send().await.expect(200), expected);
    }
    let path = format!("/v1/hosts/{}/containers/c1/telemetry?{range}&step=3600", host.host_id);
    let rate = json!({"min": 2.0, "mean": 2.0, "max": 2.0, "last": 2.0, "count": 3});
    let expected = json!({
        "step_seconds": 3600,
        "items": [{
            "start": now(), "reports": 3,
            "metrics": {
                "pids": {"min": 4.0, "mean": 4.0, "max": 4.0, "last": 4.0, "count": 3},
                "block_write_bytes_per_second": rate,
            },
        }],
        "next_cursor": null,
    });
    assert_eq!(house.ask("GET", &path).by(MEMBER).send().await.expect(200), expected);
}

#[tokio::test]
async fn a_container_may_be_called_whatever_a_path_can_carry() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let ids = ["a/b", "a b", "a%2Fb", "a%b", "é主", "?#&=+", "...", "latest", "\u{1}", "\""];
    for (seconds, id) in (60..).zip(ids) {
        house.report_by(&host.token, &counted(seconds, id)).send().await.expect(200);
    }
    let course = async |segment: &str| {
        let path = format!("/v1/hosts/{}/containers/{segment}/telemetry?step=60", host.host_id);
        house.get(&path).send().await.expect(200)["items"].clone()
    };
    for id in ids {
        let items = course(&segment(id)).await;
        assert_eq!((items[0]["reports"].clone(), &items[1]), (json!(1), &Value::Null), "{id:?}");
    }
    // Decoded once: this is the name `a%2Fb`, and twice encoded it is that of nobody.
    assert_eq!(course("a%252Fb").await[0]["reports"], 1);
    assert_eq!(course("a%25252Fb").await, json!([]));
}

#[tokio::test]
async fn of_a_container_that_is_unknown_or_has_no_numbers_the_course_is_empty() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let mut report = report_at(later(30));
    report["containers"] = json!([container("mute")]);
    report["containers"][0]["metrics"] = Value::Null;
    house.report_by(&host.token, &report).send().await.expect(200);
    let other = house.enrol("web-2").await;
    let of_another = house.report_by(&other.token, &counted(30, "of another host"));
    of_another.send().await.expect(200);
    for id in ["mute", "never", "of another host"] {
        let path = format!("/v1/hosts/{}/containers/{}/telemetry?step=60", host.host_id, segment(id));
        let course = house.get(&path).send().await.expect(200);
        assert_eq!(course, json!({"step_seconds": 60, "items": [], "next_cursor": null}), "{id}");
    }
}

#[tokio::test]
async fn a_course_of_about_an_hour_is_read_unless_another_range_is_said() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let course = async || {
        let path = format!("/v1/hosts/{}/telemetry?step=60", host.host_id);
        house.get(&path).send().await.expect(200)["items"].as_array().expect("items").len()
    };
    house.clock.advance(Duration::from_secs(60 * 60));
    assert_eq!(course().await, 1, "as old as a live report may be");
    house.clock.advance(Duration::from_micros(1));
    assert_eq!(course().await, 0);
    // As far ahead as one may be measured.
    let ahead = later(60 * 60 + 5 * 60);
    house.report_by(&host.token, &report_at(ahead)).send().await.expect(200);
    assert_eq!(course().await, 1);
    // The ends of time are times as well.
    let ends = format!("/v1/hosts/{}/telemetry?step=86400&from=1970-01-01T00:00:00Z&to={}", host.host_id, later(1));
    house.get(&ends).send().await.refused(400, "invalid_request");
    let end = format!("/v1/hosts/{}/telemetry?step=1&from=9999-12-31T23:59:59.999999Z", host.host_id);
    assert_eq!(house.get(&end).send().await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_refusal_names_the_smallest_step() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let path = |step: u32| {
        format!("/v1/hosts/{}/telemetry?from={}&to={}&step={step}", host.host_id, later(0), later(30 * 86_400))
    };
    let problem = house.get(&path(60)).send().await.refused(400, "invalid_request");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("step: ") && detail.contains("2594 s or more"), "{detail}");
    assert_eq!(house.get(&path(2_594)).send().await.expect(200)["items"][0]["reports"], 1);
}

#[tokio::test]
async fn the_latest_report_comes_with_its_age() {
    let house = House::new().await;
    let created = house.create("web-0").await;
    let latest = |id: &str| format!("/v1/hosts/{id}/telemetry/latest");
    let none = house.get(&latest(created["host"]["id"].as_str().expect("an id"))).send().await.expect(200);
    assert_eq!(none, json!({"server_time": now(), "age_ms": null, "snapshot": null}));

    let host = house.enrol("web-1").await;
    house.report_by(&host.token, &counted(10, "c1")).send().await.expect(200);
    // Measured earlier, and arrived later.
    house.report_by(&host.token, &counted(5, "c1")).send().await.expect(200);
    house.clock.advance(Duration::from_millis(12_500));
    let latest = house.ask("GET", &latest(&host.host_id.to_string())).by(MEMBER).send().await.expect(200);
    assert_eq!(latest["snapshot"]["recorded_at"], json!(later(10)));
    assert_eq!(latest["snapshot"]["containers"][0]["metrics"]["pids"], 4);
    // By the agent's clock, which is ahead, it has not been measured long: it arrived 12.5 s ago.
    assert_eq!(latest["age_ms"], 12_500);
    assert_eq!(latest["server_time"], json!(now().saturating_add(Duration::from_millis(12_500))));
}
