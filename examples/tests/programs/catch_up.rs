//! Catching up with a server, and what it limits, with the client that agents use.

use std::time::Duration;

use enlist_agent_sdk::{Client, ClientError};
use enlist_core::telemetry::Report;
use enlist_core::wire::{Code, ReportStatus};
use enlist_core::{Clock, SystemClock, Timestamp};
use enlist_testing::Database;
use serde_json::json;

use crate::support::{Api, ServerProcess, report};

const HOUR: u64 = 3_600;

fn ago(now: Timestamp, seconds: u64) -> Timestamp {
    now.saturating_sub(Duration::from_secs(seconds))
}

fn typed(at: Timestamp) -> Report {
    serde_json::from_value(report(at)).expect("it is a report")
}

/// A host that was cut off for twenty days: all that it has kept is stored, once, and survives a crash.
async fn a_host_catches_up(database: &str) {
    let server = ServerProcess::start_on(database, &[], "warn").await;
    let api = Api::new(&server);
    let (host_id, token) = api.enrol("h").await;
    let client = Client::new(&server.url).expect("a client");
    let now = SystemClock::default().now();
    client.report(&token, &typed(now)).await.expect("taken");
    // One an hour, newest first, and one that is older than what is kept.
    let mut backlog: Vec<_> = (1..500).map(|n| typed(ago(now, n * HOUR))).collect();
    backlog.push(typed(ago(now, 31 * 24 * HOUR)));
    let reply = client.report_batch(&token, &backlog).await.expect("taken");
    let (too_old, taken) = reply.results.split_last().expect("500 results");
    assert!(taken.iter().all(|result| result.status == ReportStatus::Accepted), "{taken:?}");
    assert_eq!((too_old.status, &too_old.code), (ReportStatus::Rejected, &Some(Code::TooOld)));
    server.kill().await;

    let server = ServerProcess::start_on(database, &["--batches-per-minute", "1"], "warn").await;
    let (api, client) = (Api::new(&server), Client::new(&server.url).expect("a client"));
    let reply = client.report_batch(&token, &backlog[..499]).await.expect("taken");
    assert!(reply.results.iter().all(|result| result.status == ReportStatus::Duplicate));
    let path = format!("/v1/hosts/{host_id}/telemetry?limit=500&from={}", ago(now, 40 * 24 * HOUR));
    let (_, page) = api.call("GET", &path, crate::support::ADMIN, None).await;
    assert_eq!(page["items"].as_array().expect("items").len(), 500);
    // What is known of the host is what it said last.
    let (_, page) = api.call("GET", &format!("/v1/hosts/{host_id}/containers"), crate::support::ADMIN, None).await;
    assert_eq!(page["items"][0]["metrics"]["memory_used_bytes"], json!(now.unix_micros()));

    let limited = client.report_batch(&token, &backlog).await.expect_err("the second within a minute");
    assert!(
        matches!(limited, ClientError::RetryLater { status: 429, after, .. } if after.as_secs() > 50),
        "{limited:?}"
    );
    client.heartbeat(&token).await.expect("catching up costs no report of this moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_catches_up_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    a_host_catches_up(&format!("sqlite://{}", directory.path().join("fleet.db").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_catches_up_on_postgres() {
    let database = Database::empty("catch_up").await.unwrap();
    a_host_catches_up(database.url()).await;
}

#[tokio::test]
async fn the_limits_of_a_token_are_flags() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--live-per-minute", "2", "--rotations-per-minute", "1", "--batches-per-minute", "0"];
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &flags, "warn").await;
    let api = Api::new(&server);
    let (_, token) = api.enrol("h").await;
    let beat = async || api.call("POST", "/v1/agent/heartbeat", token.expose(), None).await;
    assert_eq!([beat().await.0, beat().await.0], [200, 200]);
    let (status, problem) = beat().await;
    assert_eq!((status, &problem["code"], &problem["action"]), (429, &json!("rate_limited"), &json!("retry")));
    for _ in 0..20 {
        let body = json!({"reports": []});
        let (status, reply) = api.call("POST", "/v1/agent/telemetry/batch", token.expose(), Some(body)).await;
        assert_eq!((status, &reply["results"]), (200, &json!([])));
    }
    let rotate = async || api.call("POST", "/v1/agent/token/rotate", token.expose(), None).await.0;
    assert_eq!([rotate().await, rotate().await], [200, 429]);
}
