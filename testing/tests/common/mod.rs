//! What several of the tests need.
#![allow(dead_code, reason = "every test file takes its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

/// Connects, as a test's code under test would.
pub(crate) async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect(url)
}

/// Runs statements without results.
pub(crate) async fn execute(connection: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(connection).await.expect(statements);
}

/// Asks for one number.
pub(crate) async fn number(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).persistent(false).fetch_one(connection).await.expect(query)
}

/// The directory of the socket in a URL of ours.
pub(crate) fn socket_directory(url: &str) -> PathBuf {
    PathBuf::from(url.split_once("?host=").expect("a socket's directory").1)
}

/// The process of the server whose directory this is.
pub(crate) fn server_process(directory: &Path) -> Pid {
    let text = fs::read_to_string(directory.join("data/postmaster.pid")).expect("a running server");
    let number = text.lines().next().and_then(|line| line.parse().ok()).expect("a number");
    Pid::from_raw(number).expect("not zero")
}

/// Whether a process with this number is there.
pub(crate) fn is_running(process: Pid) -> bool {
    test_kill_process(process).is_ok()
}

/// Waits for what happens by itself, half a minute at most.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1_500 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("not within half a minute: {what}");
}
