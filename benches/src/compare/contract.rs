//! Enlist's store contract without a server: `contract`, a process of its own.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::place::Place;
use super::program::{ask, program};
use crate::Error;
use crate::history::History;

/// What to append to a database that was grown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appending {
    pub(crate) history: History,
    /// Reports that are there.
    pub(crate) there: u64,
    /// Reports that are appended before the clock starts.
    pub(crate) warm_up: u32,
    /// Reports that are timed.
    pub(crate) reports: u32,
    /// Whether as many old reports are deleted meanwhile: a pass of the history for each pass that is appended.
    pub(crate) retention: bool,
    /// The postmaster, to tell what PostgreSQL used.
    pub(crate) postmaster: Option<u32>,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    /// Reports by second.
    pub(crate) rate: f64,
    /// What the process used for a report, in microseconds, without making it.
    pub(crate) micros: f64,
    /// The same of PostgreSQL.
    pub(crate) postgres_micros: Option<f64>,
    /// Reports that are to be there now.
    pub(crate) left: u64,
}

/// Makes the tables and the hosts, and fills them; the tokens and ids of the hosts are written to `hosts`.
pub(crate) async fn grow(place: &Place, hosts: &Path, history: History, reports: u32) -> Result<(), Error> {
    let mut command = command("grow", place, hosts, history)?;
    command.args(["--reports", &reports.to_string()]);
    ask(&mut command).await.map(drop)
}

/// Appends to what [`grow`] has made.
pub(crate) async fn append(place: &Place, hosts: &Path, appending: Appending) -> Result<Appended, Error> {
    let Appending { history, there, warm_up, reports, retention, postmaster } = appending;
    let mut command = command("append", place, hosts, history)?;
    for (name, number) in [("--there", there), ("--warm-up", u64::from(warm_up)), ("--reports", u64::from(reports))] {
        command.args([name, &number.to_string()]);
    }
    if retention {
        command.arg("--retention");
    }
    if let Some(pid) = postmaster {
        command.args(["--postmaster", &pid.to_string()]);
    }
    read(&ask(&mut command).await?).ok_or_else(|| "contract has said something else".into())
}

fn command(verb: &str, place: &Place, hosts_file: &Path, history: History) -> Result<Command, Error> {
    let mut command = Command::new(program("contract")?);
    let History { hosts, start, interval } = history;
    command.arg(verb).env("ENLIST_DATABASE", place.url()).arg("--hosts-file").arg(hosts_file);
    command.args(["--hosts", &hosts.to_string(), "--start", &start.to_string(), "--interval", &interval.to_string()]);
    Ok(command)
}

fn read(answer: &Value) -> Option<Appended> {
    let reports = answer["reports"].as_f64()?;
    let micros = |name: &str| Some(answer[name].as_f64()? * 1e6 / reports);
    Some(Appended {
        rate: reports / answer["seconds"].as_f64()?,
        micros: micros("cpu_seconds")?,
        postgres_micros: micros("postgres_cpu_seconds"),
        left: answer["left"].as_u64()?,
    })
}
