//! A past for the baseline's tables: what its handler would have written, in bulk.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::store::Database;
use super::{body, schema};
use crate::Error;
use crate::history::History;
use crate::report::{CONTAINER_INTEGERS, HOST_FLOATS, HOST_INTEGERS, Report, container_id};

/// Reports of one commit.
const BATCH: usize = 1_000;

/// The keys of containers' rows, by host and the engine's id.
type Keys = HashMap<(i64, String), i64>;

const KEYS: &str = "SELECT host_id, container_id, id FROM containers";

/// As the last report of each host would have left it.
const SEEN: [&str; 2] = [
    "UPDATE hosts SET last_seen_at = (SELECT max(received_at) FROM host_snapshots WHERE host_id = hosts.id)",
    "UPDATE containers SET last_seen_at = (SELECT last_seen_at FROM hosts WHERE id = containers.host_id)",
];

/// Makes the tables in a new file, and fills them with this many reports.
///
/// # Errors
/// Whatever SQLite answers.
pub async fn grow_sqlite(path: &Path, history: History, reports: u32) -> Result<(), Error> {
    let database = Database::sqlite(path, Some(history.hosts)).await?;
    let first = first_reports(&database, history, reports).await;
    database.close().await;
    let first = first?;
    let mut connection = Connection::open(path)?;
    // Nobody is promised anything yet.
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;")?;
    let keys: Keys = {
        let mut select = connection.prepare(KEYS)?;
        let rows = select.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        rows.collect::<Result<_, _>>()?
    };
    let mut past = history.reports(first);
    for batch in batches(first, reports) {
        let transaction = connection.transaction()?;
        {
            let mut host = transaction.prepare(schema::SNAPSHOT)?;
            let mut container = transaction.prepare(schema::CONTAINER_SNAPSHOT)?;
            for report in past.by_ref().take(batch) {
                insert(&mut host, &mut container, &keys, &report)?;
            }
        }
        transaction.commit()?;
    }
    for statement in SEEN {
        connection.execute(statement, [])?;
    }
    Ok(())
}

/// The same in an empty database of a PostgreSQL.
///
/// # Errors
/// Whatever PostgreSQL answers.
pub async fn grow_postgres(url: &str, history: History, reports: u32) -> Result<(), Error> {
    let database = Database::postgres(url, Some(history.hosts), 1).await?;
    let first = first_reports(&database, history, reports).await;
    database.close().await;
    let first = first?;
    let options = url.parse::<PgConnectOptions>()?.disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    let rows: Vec<(i64, String, i64)> = sqlx::query_as(KEYS).fetch_all(&mut connection).await?;
    let keys: Keys = rows.into_iter().map(|(host, id, key)| ((host, id), key)).collect();
    let host_columns = [&["host_id", "recorded_at", "received_at"], &HOST_FLOATS[..], &HOST_INTEGERS].concat();
    let container_columns = [&["container_id", "recorded_at", "cpu_cores"], &CONTAINER_INTEGERS[..]].concat();
    let (hosts, containers) =
        (unnest("host_snapshots", &host_columns), unnest("container_snapshots", &container_columns));
    let mut past = history.reports(first);
    for batch in batches(first, reports) {
        let made: Vec<Report> = past.by_ref().take(batch).collect();
        let mut transaction = connection.begin().await?;
        let arguments = host_arguments(&made)?;
        sqlx::query_with(AssertSqlSafe(hosts.as_str()), arguments).execute(&mut *transaction).await?;
        let arguments = container_arguments(&made, &keys)?;
        sqlx::query_with(AssertSqlSafe(containers.as_str()), arguments).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    for statement in SEEN {
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

/// The first report of each host goes the way of all reports, and leaves the rows of hosts and containers that it leaves.
async fn first_reports(database: &Database, history: History, reports: u32) -> Result<u64, Error> {
    let first = history.hosts.min(reports) as usize;
    let mut json = String::new();
    for report in history.reports(0).take(first) {
        json.clear();
        report.write_json(&mut json);
        let read = body::read(json.as_bytes(), report.recorded_at)?;
        if !database.store(i64::from(report.host), &read, report.recorded_at).await? {
            return Err("a report of the past stands there twice".into());
        }
    }
    Ok(first as u64)
}

fn batches(first: u64, reports: u32) -> impl Iterator<Item = usize> {
    let rest = u64::from(reports).saturating_sub(first) as usize;
    (0..rest).step_by(BATCH).map(move |done| BATCH.min(rest - done))
}

fn key_of(keys: &Keys, report: &Report, number: usize) -> Option<i64> {
    keys.get(&(i64::from(report.host), container_id(report.host, number))).copied()
}

fn insert(
    host: &mut rusqlite::Statement<'_>,
    container: &mut rusqlite::Statement<'_>,
    keys: &Keys,
    report: &Report,
) -> Result<(), Error> {
    let mut place = 0;
    let mut next = || {
        place += 1;
        place
    };
    for value in [i64::from(report.host), report.recorded_at, report.recorded_at] {
        host.raw_bind_parameter(next(), value)?;
    }
    for value in report.floats {
        host.raw_bind_parameter(next(), value)?;
    }
    for value in report.integers {
        host.raw_bind_parameter(next(), value)?;
    }
    host.raw_execute()?;
    for (number, measured) in report.containers.iter().enumerate() {
        container.raw_bind_parameter(1, key_of(keys, report, number).ok_or("a container has no row")?)?;
        container.raw_bind_parameter(2, report.recorded_at)?;
        container.raw_bind_parameter(3, measured.cpu_cores)?;
        for (place, value) in measured.integers.iter().enumerate() {
            container.raw_bind_parameter(place + 4, value)?;
        }
        container.raw_execute()?;
    }
    Ok(())
}

fn unnest(table: &str, columns: &[&str]) -> String {
    let is_float = |name: &&str| HOST_FLOATS.contains(name) || *name == "cpu_cores";
    let arrays = columns.iter().enumerate().map(|(place, name)| {
        format!("${}::{}[]", place + 1, if is_float(name) { "double precision" } else { "bigint" })
    });
    let arrays = arrays.collect::<Vec<_>>().join(", ");
    format!("INSERT INTO {table} ({}) SELECT * FROM unnest({arrays})", columns.join(", "))
}

fn host_arguments(reports: &[Report]) -> Result<PgArguments, Error> {
    let mut arguments = PgArguments::default();
    let times: Vec<i64> = reports.iter().map(|report| report.recorded_at).collect();
    arguments.add(reports.iter().map(|report| i64::from(report.host)).collect::<Vec<_>>())?;
    arguments.add(times.clone())?;
    arguments.add(times)?;
    for place in 0..HOST_FLOATS.len() {
        arguments.add(reports.iter().map(|report| report.floats[place]).collect::<Vec<_>>())?;
    }
    for place in 0..HOST_INTEGERS.len() {
        arguments.add(reports.iter().map(|report| report.integers[place]).collect::<Vec<_>>())?;
    }
    Ok(arguments)
}

fn container_arguments(reports: &[Report], keys: &Keys) -> Result<PgArguments, Error> {
    let mut arguments = PgArguments::default();
    let each = || reports.iter().flat_map(|report| (0..report.containers.len()).map(move |number| (report, number)));
    let keys: Option<Vec<i64>> = each().map(|(report, number)| key_of(keys, report, number)).collect();
    arguments.add(keys.ok_or("a container has no row")?)?;
    arguments.add(each().map(|(report, _)| report.recorded_at).collect::<Vec<_>>())?;
    arguments.add(each().map(|(report, number)| report.containers[number].cpu_cores).collect::<Vec<_>>())?;
    for place in 0..CONTAINER_INTEGERS.len() {
        let column = each().map(|(report, number)| report.containers[number].integers[place]);
        arguments.add(column.collect::<Vec<_>>())?;
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::HALF_A_MINUTE;

    const REPORTS: u32 = 17;

    fn rows(path: &Path, table: &str) -> Vec<Vec<rusqlite::types::Value>> {
        let connection = Connection::open(path).expect("the file is there");
        let mut select = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).expect("a table");
        let columns = select.column_count();
        let rows = select.query_map([], |row| (0..columns).map(|column| row.get(column)).collect()).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    #[tokio::test]
    async fn what_is_grown_is_what_the_handler_would_have_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let [grown, handled] = ["grown", "handled"].map(|name| directory.path().join(name));
        let history = History { hosts: 5, start: 1_800_000_000_000_000, interval: HALF_A_MINUTE };
        grow_sqlite(&grown, history, REPORTS).await.expect("a past");
        let database = Database::sqlite(&handled, Some(5)).await.expect("a new file");
        let mut json = String::new();
        for report in history.reports(0).take(REPORTS as usize) {
            json.clear();
            report.write_json(&mut json);
            let read = body::read(json.as_bytes(), report.recorded_at).expect("within the bounds");
            database.store(i64::from(report.host), &read, report.recorded_at).await.expect("stored");
        }
        database.close().await;
        for table in ["hosts", "agent_tokens", "containers", "host_snapshots", "container_snapshots"] {
            assert_eq!(rows(&grown, table), rows(&handled, table), "{table}");
        }
        assert_eq!(rows(&grown, "container_snapshots").len(), 170);
    }
}
