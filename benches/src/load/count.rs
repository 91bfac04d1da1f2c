//! What is really there, read by another process than the one that wrote it.

use std::path::Path;

use rusqlite::Connection;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::target::{Contestant, Place, Target};
use crate::Error;

/// Rows in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    /// Of reports.
    pub(super) reports: u64,
    /// The same, each host and time once.
    pub(super) distinct: u64,
    /// Numbers of containers.
    pub(super) containers: u64,
}

pub(super) async fn count(target: &Target) -> Result<Rows, Error> {
    match &target.place {
        Place::Sqlite(path) => Ok(count_sqlite(path, target.contestant)?),
        Place::Postgres(database) => Ok(count_postgres(database.url(), target.contestant).await?),
    }
}

/// Reports, distinct reports and containers' numbers.
fn statements(contestant: Contestant, is_postgres: bool) -> [&'static str; 3] {
    match (contestant, is_postgres) {
        (Contestant::Baseline, _) => [
            "SELECT count(*) FROM host_snapshots",
            "SELECT count(*) FROM (SELECT DISTINCT host_id, recorded_at FROM host_snapshots) AS once",
            "SELECT count(*) FROM container_snapshots",
        ],
        (Contestant::Enlist, false) => [
            "SELECT count(*) FROM host_metric_snapshots",
            "SELECT count(*) FROM (SELECT DISTINCT host_id, recorded_at FROM host_metric_snapshots) AS once",
            "SELECT count(*) FROM container_metric_snapshots",
        ],
        (Contestant::Enlist, true) => [
            "SELECT count(*) FROM enlist.host_metric_snapshots",
            "SELECT count(*) FROM (SELECT DISTINCT host_id, recorded_at FROM enlist.host_metric_snapshots) AS once",
            "SELECT count(*) FROM enlist.container_metric_snapshots",
        ],
    }
}

fn count_sqlite(path: &Path, contestant: Contestant) -> Result<Rows, rusqlite::Error> {
    let connection = Connection::open(path)?;
    let [reports, distinct, containers] = statements(contestant, false)
        .map(|statement| connection.query_row(statement, [], |row| row.get::<_, i64>(0)).map(|count| count as u64));
    Ok(Rows { reports: reports?, distinct: distinct?, containers: containers? })
}

async fn count_postgres(url: &str, contestant: Contestant) -> Result<Rows, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let mut counts = [0; 3];
    for (count, statement) in counts.iter_mut().zip(statements(contestant, true)) {
        let rows: i64 = sqlx::query_scalar(statement).fetch_one(&mut connection).await?;
        *count = rows as u64;
    }
    connection.close().await?;
    let [reports, distinct, containers] = counts;
    Ok(Rows { reports, distinct, containers })
}
