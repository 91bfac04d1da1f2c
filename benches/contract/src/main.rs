//! Enlist's store contract without a server: what is left of ingest when HTTP, JSON and tokens are taken away.
//!
//! `ingest-load --compare` and `scale` run it; it says what it has done as JSON. A package of its own: the yardsticks
//! themselves depend on nothing of Enlist.

#![allow(clippy::print_stdout, reason = "a program says what it has done")]

mod append;
mod grow;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use enlist_benches::Error;
use enlist_benches::history::History;

/// As `enlist-server`: what is measured is the server's way to the tables, without HTTP.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Fills Enlist's tables through the store contract, and measures it.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the tables, the hosts with their tokens, and a past.
    Grow {
        #[command(flatten)]
        fleet: Fleet,
        /// How many reports the past has.
        #[arg(long)]
        reports: u32,
    },
    /// Append to what `grow` has made, and say how long it took.
    Append {
        #[command(flatten)]
        fleet: Fleet,
        #[command(flatten)]
        appending: append::Appending,
    },
}

/// Where, and whose reports.
#[derive(Debug, clap::Args)]
struct Fleet {
    /// `sqlite://PATH`, or the URL of a PostgreSQL database.
    #[arg(long, env = "ENLIST_DATABASE", hide_env_values = true)]
    database: String,
    /// A file with a line for each host: its agent token, its id, and the token's id.
    #[arg(long)]
    hosts_file: PathBuf,
    /// How many hosts report, in scattered order.
    #[arg(long)]
    hosts: u32,
    /// When the past begins, in microseconds since 1970.
    #[arg(long)]
    start: i64,
    /// How far apart a host's reports are, in microseconds.
    #[arg(long)]
    interval: i64,
}

impl Fleet {
    const fn history(&self) -> History {
        History { hosts: self.hosts, start: self.start, interval: self.interval }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let answer = match Args::parse().verb {
        Verb::Grow { fleet, reports } => grow::grow(&fleet, reports).await?,
        Verb::Append { fleet, appending } => append::append(&fleet, &appending).await?,
    };
    println!("{answer}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use enlist_core::Timestamp;
    use enlist_core::store::TelemetryQuery;

    use enlist_benches_contract::{enrol, opened};

    use super::*;

    async fn stored(fleet: &Fleet) -> Vec<Timestamp> {
        let opened = opened::Opened::open(&fleet.database).await.expect("it is there");
        let mut times = Vec::new();
        for reporter in enrol::read(&fleet.hosts_file).expect("the hosts") {
            let (from, to) = (Timestamp::MIN, Timestamp::MAX);
            let query = TelemetryQuery::new(reporter.host_id, from, to, 1_000);
            let page = opened.store().list_telemetry(&query).await.expect("a page");
            assert!(page.items.iter().all(|snapshot| snapshot.containers.len() == 10));
            times.extend(page.items.into_iter().map(|snapshot| snapshot.recorded_at));
        }
        opened.close().await;
        times.sort_unstable();
        times
    }

    #[tokio::test]
    async fn as_many_reports_are_there_as_it_says_with_and_without_retention() {
        let directory = tempfile::tempdir().expect("a directory");
        let history = History::by_day(1_800_000_000_000_000, 10, 600, 100);
        assert_eq!(history.reports_a_day(), 100);
        let fleet = Fleet {
            database: format!("sqlite://{}", directory.path().join("rows.db").display()),
            hosts_file: directory.path().join("hosts"),
            hosts: 10,
            start: history.start,
            interval: history.interval,
        };
        grow::grow(&fleet, 250).await.expect("a past");
        let first = history.recorded_at(0, 1);
        let grown = stored(&fleet).await;
        assert_eq!((grown.len(), grown[0].unix_micros()), (250, first));

        let appending = append::Appending { there: 250, warm_up: 30, reports: 120, retention: false, postmaster: None };
        let answer = append::append(&fleet, &appending).await.expect("appended");
        assert_eq!((answer["reports"].as_u64(), answer["left"].as_u64()), (Some(120), Some(400)));
        assert_eq!(stored(&fleet).await.len(), 400);

        // Rounded up to a day, and the oldest day goes.
        let appending = append::Appending { there: 400, warm_up: 0, reports: 20, retention: true, postmaster: None };
        let answer = append::append(&fleet, &appending).await.expect("appended");
        assert_eq!((answer["reports"].as_u64(), answer["left"].as_u64()), (Some(100), Some(400)));
        let left = stored(&fleet).await;
        assert_eq!((left.len(), left[0].unix_micros()), (400, first + enlist_benches::history::DAY));
    }
}
