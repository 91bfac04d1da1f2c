//! The floor on the bundled SQLite.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Statement};

use super::{Outcome, Plan, Reports};
use crate::clock;
use crate::report::{CONTAINER_INTEGERS, CONTAINERS, HOST_FLOATS, HOST_INTEGERS, Report};

/// Stores the plan's reports in a file, a new one unless some are there, and counts all of them.
///
/// # Errors
/// Whatever SQLite answers.
pub fn sqlite(path: &Path, plan: Plan) -> Result<Outcome, rusqlite::Error> {
    let connection = Connection::open(path)?;
    // A checkpoint after 64 MB; the pages of the usual working set stay in memory.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 16384;
         PRAGMA cache_size = -65536;",
    )?;
    if plan.there == 0 {
        connection.execute_batch(&tables())?;
    }
    let mut host = connection.prepare(&insert("host_snapshots", 4 + HOST_FLOATS.len() + HOST_INTEGERS.len()))?;
    let mut container = connection.prepare(&insert("container_snapshots", 3 + CONTAINER_INTEGERS.len()))?;
    let mut reports = Reports::new(plan);
    let mut took = Duration::ZERO;
    let mut key = i64::from(plan.batches_there() * super::BATCH);
    for batch in 0..plan.batches_before() + plan.batches() {
        let made = reports.batch();
        let start = clock::instant();
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for report in &made {
            key += 1;
            append(&mut host, &mut container, key, report)?;
        }
        connection.execute_batch("COMMIT")?;
        if batch >= plan.batches_before() {
            took += start.elapsed();
        }
    }
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| count as u64);
    Ok(Outcome {
        reports: plan.batches() * super::BATCH,
        took,
        host_rows: count("SELECT count(*) FROM (SELECT DISTINCT host_id, recorded_at FROM host_snapshots)")?,
        container_rows: count("SELECT count(*) FROM container_snapshots")?,
    })
}

fn append(
    host: &mut Statement<'_>,
    container: &mut Statement<'_>,
    key: i64,
    report: &Report,
) -> Result<(), rusqlite::Error> {
    // By place and not as an iterator of one type: no value is boxed.
    for (place, value) in [key, i64::from(report.host), report.recorded_at, report.recorded_at].iter().enumerate() {
        host.raw_bind_parameter(place + 1, value)?;
    }
    for (place, value) in report.floats.iter().enumerate() {
        host.raw_bind_parameter(place + 5, value)?;
    }
    for (place, value) in report.integers.iter().enumerate() {
        host.raw_bind_parameter(place + 5 + HOST_FLOATS.len(), value)?;
    }
    host.raw_execute()?;
    for (number, measured) in report.containers.iter().enumerate() {
        container.raw_bind_parameter(1, key)?;
        // The key of the container's row, which is known already and not written again.
        container.raw_bind_parameter(2, i64::from(report.host) * CONTAINERS as i64 + number as i64)?;
        container.raw_bind_parameter(3, measured.cpu_cores)?;
        for (place, value) in measured.integers.iter().enumerate() {
            container.raw_bind_parameter(place + 4, value)?;
        }
        container.raw_execute()?;
    }
    Ok(())
}

fn tables() -> String {
    let columns = |names: &[&str], kind: &str| names.iter().map(|name| format!("{name} {kind}, ")).collect::<String>();
    format!(
        "CREATE TABLE host_snapshots (
             report_id INTEGER PRIMARY KEY, host_id INTEGER NOT NULL, recorded_at INTEGER NOT NULL,
             received_at INTEGER NOT NULL, {}{}
             UNIQUE (host_id, recorded_at)
         ) STRICT;
         CREATE TABLE container_snapshots (
             report_id INTEGER NOT NULL, container_key INTEGER NOT NULL, cpu_cores REAL, {}
             PRIMARY KEY (report_id, container_key)
         ) STRICT, WITHOUT ROWID;",
        columns(&HOST_FLOATS, "REAL"),
        columns(&HOST_INTEGERS, "INTEGER"),
        columns(&CONTAINER_INTEGERS, "INTEGER"),
    )
}

fn insert(table: &str, columns: usize) -> String {
    let places = vec!["?"; columns].join(", ");
    format!("INSERT INTO {table} VALUES ({places})")
}
