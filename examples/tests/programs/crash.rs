//! What was acknowledged is there, whatever happens to the server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use enlist_core::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::support::{ADMIN, Api, ServerProcess, report};

/// What a sender knows when the server is gone.
#[derive(Default)]
struct Sent {
    acknowledged: Vec<Timestamp>,
    in_doubt: Option<Timestamp>,
}

/// Reports as fast as it can, until the server does not answer any more.
async fn send_until_it_is_gone(api: Api, token: String, start: Timestamp) -> Sent {
    let mut sent = Sent::default();
    for n in 0.. {
        let at = start.saturating_add(Duration::from_micros(n));
        match api.try_call("POST", "/v1/agent/telemetry", &token, Some(report(at))).await {
            Some((200, reply)) => {
                assert_eq!(reply["status"], "accepted");
                sent.acknowledged.push(at);
            }
            // Refused because it is stopping: not acknowledged, and told so.
            Some((503, _)) => {
                sent.in_doubt = Some(at);
                break;
            }
            Some(other) => panic!("{other:?}"),
            None => {
                sent.in_doubt = Some(at);
                break;
            }
        }
    }
    sent
}

/// Every acknowledged report is stored, every stored one is whole, and nothing is stored that was never sent.
fn check(stored: &[Value], sent: &Sent) {
    let mut times = BTreeSet::new();
    for snapshot in stored {
        let at: Timestamp = snapshot["recorded_at"].as_str().unwrap().parse().unwrap();
        assert!(times.insert(at), "none is there twice");
        let number = json!(at.unix_micros());
        assert_eq!(snapshot["metrics"]["memory_used_bytes"], number);
        let containers = snapshot["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 10, "none is there in part");
        assert!(containers.iter().all(|container| container["metrics"]["memory_used_bytes"] == number));
    }
    for at in &sent.acknowledged {
        assert!(times.contains(at), "an acknowledged report is lost: {at}");
    }
    let known: BTreeSet<_> = sent.acknowledged.iter().copied().chain(sent.in_doubt).collect();
    assert!(times.is_subset(&known), "something is stored that was never sent");
}

async fn load(api: &Api, hosts: usize, start: Timestamp) -> BTreeMap<String, (String, tokio::task::JoinHandle<Sent>)> {
    let mut senders = BTreeMap::new();
    for n in 0..hosts {
        let (host_id, token) = api.enrol(&format!("h{n}")).await;
        let token = token.expose().to_owned();
        let sender = tokio::spawn(send_until_it_is_gone(api.clone(), token.clone(), start));
        senders.insert(host_id, (token, sender));
    }
    senders
}

/// Until so many reports are there: progress, not time, says when the blow falls.
async fn until_stored(api: &Api, host_id: &str, count: usize) {
    while api.telemetry(host_id).await.len() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_has_every_acknowledged_report_and_no_half_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("fleet.db");
    kill_under_load(&format!("sqlite://{}", database.display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_postgresql() {
    let database = enlist_testing::Database::empty("crash").await.unwrap();
    kill_under_load(database.url()).await;
}

async fn kill_under_load(database: &str) {
    for round in 0..3u32 {
        let server = ServerProcess::start_on(database, &["--live-per-minute", "0"], "warn").await;
        let api = Api::new(&server);
        let start = SystemClock::default().now();
        // Names are free again: the hosts of the round before are archived.
        let senders = load(&api, 8, start).await;
        until_stored(&api, senders.keys().next().unwrap(), 20 + 30 * round as usize).await;
        server.kill().await;

        let mut outcomes = BTreeMap::new();
        for (host_id, (token, sender)) in senders {
            outcomes.insert(host_id, (token, sender.await.unwrap()));
        }
        let server = ServerProcess::start_on(database, &["--live-per-minute", "0"], "warn").await;
        let api = Api::new(&server);
        let acknowledged: usize = outcomes.values().map(|(_, sent)| sent.acknowledged.len()).sum();
        assert!(acknowledged >= 20, "the blow fell under load");
        for (host_id, (token, sent)) in &outcomes {
            check(&api.telemetry(host_id).await, sent);
            // The same reports once more change nothing; the one in doubt is stored now if it was not.
            for at in &sent.acknowledged {
                let (status, reply) = api.call("POST", "/v1/agent/telemetry", token, Some(report(*at))).await;
                assert_eq!((status, &reply["status"]), (200, &json!("duplicate")));
            }
            if let Some(at) = sent.in_doubt {
                let (status, reply) = api.call("POST", "/v1/agent/telemetry", token, Some(report(at))).await;
                assert!(status == 200 && (reply["status"] == "duplicate" || reply["status"] == "accepted"));
            }
            let stored = api.telemetry(host_id).await;
            check(&stored, sent);
            assert_eq!(stored.len(), sent.acknowledged.len() + usize::from(sent.in_doubt.is_some()));
            let (status, _) = api.call("POST", &format!("/v1/hosts/{host_id}/archive"), ADMIN, None).await;
            assert_eq!(status, 200);
        }
        server.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_told_to_stop_commits_what_it_has_taken_and_exits_cleanly() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("fleet.db");
    let server = ServerProcess::start(&database, &["--live-per-minute", "0"], "info").await;
    let api = Api::new(&server);
    let senders = load(&api, 8, SystemClock::default().now()).await;
    until_stored(&api, senders.keys().next().unwrap(), 20).await;
    let log = std::sync::Arc::clone(&server.log);
    assert_eq!(server.terminate().await, Some(0));
    let mut outcomes = BTreeMap::new();
    for (host_id, (_, sender)) in senders {
        outcomes.insert(host_id, sender.await.unwrap());
    }
    assert!(!log.lock().unwrap().contains("cut off"), "no request had to be cut off");
    let server = ServerProcess::start(&database, &[], "warn").await;
    let api = Api::new(&server);
    for (host_id, sent) in &outcomes {
        check(&api.telemetry(host_id).await, sent);
    }
}
