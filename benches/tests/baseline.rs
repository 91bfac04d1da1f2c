//! The yardsticks measure what they say: rows are there, and refusals are refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enlist_benches::baseline::{self, Database};
use enlist_benches::floor::{self, Plan as FloorPlan};
use enlist_benches::load::{self, Plan, Protocol};
use enlist_benches::report::{CONTAINERS, baseline_token};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::net::TcpListener;

const HOSTS: u32 = 5;

async fn baseline_at(directory: &TempDir) -> SocketAddr {
    let database = Database::sqlite(&directory.path().join("rows.db"), Some(HOSTS)).await.expect("a new file");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(baseline::serve(listener, database));
    address
}

fn count(directory: &TempDir, statement: &str) -> u64 {
    let connection = Connection::open(directory.path().join("rows.db")).expect("the file is there");
    connection.query_row(statement, [], |row| row.get::<_, i64>(0)).expect("a count") as u64
}

fn plan(address: SocketAddr, tokens: Arc<[String]>) -> Plan {
    Plan {
        address,
        protocol: Protocol::Enlist,
        tokens,
        connections: 2,
        first_sequence: 1,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(300),
        server_pid: Some(std::process::id()),
        postmaster_pid: None,
    }
}

#[tokio::test]
async fn the_baseline_stores_what_it_acknowledges() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = baseline_at(&directory).await;
    let outcome = load::run(&plan(address, (0..HOSTS).map(baseline_token).collect())).await.expect("a run");
    assert!(outcome.errors.is_empty() && outcome.unknown == 0, "{outcome}");
    let stored = count(&directory, "SELECT count(*) FROM host_snapshots");
    assert!(stored > 0);
    assert_eq!(stored, outcome.acknowledged);
    assert_eq!(count(&directory, "SELECT count(*) FROM container_snapshots"), stored * CONTAINERS as u64);
    let seen = count(&directory, "SELECT count(*) FROM hosts WHERE last_seen_at IS NOT NULL AND arch = 'x86_64'");
    let reported = count(&directory, "SELECT count(DISTINCT host_id) FROM host_snapshots");
    assert_eq!(seen, reported);
    assert_eq!(count(&directory, "SELECT count(*) FROM containers"), reported * CONTAINERS as u64);
    assert_eq!(count(&directory, "SELECT count(*) FROM pragma_journal_mode WHERE journal_mode = 'wal'"), 1);
}

/// So that what is measured is not what a server reads of each host when it is new to it.
#[tokio::test]
async fn each_host_has_reported_once_before_the_clock_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = baseline_at(&directory).await;
    let tokens = (0..HOSTS).map(baseline_token).collect();
    let plan = Plan { duration: Duration::ZERO, ..plan(address, tokens) };
    let outcome = load::run(&plan).await.expect("a run");
    assert_eq!((outcome.acknowledged, outcome.latencies.len()), (u64::from(HOSTS), 0));
    assert_eq!(count(&directory, "SELECT count(DISTINCT host_id) FROM host_snapshots"), u64::from(HOSTS));
}

#[tokio::test]
async fn a_token_that_is_not_known_is_refused_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = baseline_at(&directory).await;
    let outcome = load::run(&plan(address, (100..105).map(baseline_token).collect())).await.expect("a run");
    assert_eq!(outcome.acknowledged, 0);
    assert_eq!(outcome.errors.keys().collect::<Vec<_>>(), ["401 Unauthorized"]);
    assert_eq!(count(&directory, "SELECT count(*) FROM host_snapshots"), 0);
}

#[test]
fn the_floor_stores_whole_commits() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("floor.db");
    let plan = FloorPlan { hosts: 7, there: 0, before: 100, reports: 150 };
    let outcome = floor::sqlite(&path, plan).expect("a floor");
    assert_eq!((outcome.reports, plan.total()), (200, 300));
    assert_eq!((outcome.host_rows, outcome.container_rows), (300, 3_000));
    // And goes on behind what is there.
    let plan = FloorPlan { there: 300, before: 0, reports: 100, ..plan };
    let outcome = floor::sqlite(&path, plan).expect("a floor");
    assert_eq!((outcome.reports, plan.total()), (100, 400));
    assert_eq!((outcome.host_rows, outcome.container_rows), (400, 4_000));
}
