//! What is really there, read by another process than the one that wrote it.

use rusqlite::Connection;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::place::Place;
use super::target::Contestant;
use crate::Error;
use crate::load::Outcome;
use crate::report::CONTAINERS;

/// Rows in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Of reports.
    pub(crate) reports: u64,
    /// The same, each host and time once.
    pub(crate) distinct: u64,
    /// Numbers of containers.
    pub(crate) containers: u64,
}

impl Rows {
    /// Snapshots of machines and of containers.
    pub(crate) fn snapshots(self) -> u64 {
        self.reports + self.containers
    }

    /// All that was there and all that was acknowledged since is there, none twice, each with all of its containers, and
    /// nothing else but what got no answer.
    pub(crate) fn judge(self, before: u64, acknowledged: u64, unknown: u64) -> Result<(), String> {
        let Self { reports, distinct, containers } = self;
        if distinct != reports {
            return Err(format!("{reports} rows of reports, but {distinct} reports"));
        }
        let least = before + acknowledged;
        if !(least..=least + unknown).contains(&reports) {
            return Err(format!(
                "{before} were there, {acknowledged} acknowledged and {unknown} unknown, but {reports} stored"
            ));
        }
        if containers != reports * CONTAINERS as u64 {
            return Err(format!("{containers} rows of containers of {reports} reports"));
        }
        Ok(())
    }

    /// The same of what a load has done.
    pub(crate) fn judge_load(self, before: u64, outcome: &Outcome) -> Result<(), String> {
        self.judge(before, outcome.acknowledged, outcome.unknown)
    }
}

/// Counts. A SQLite's log is taken in and removed by it.
pub(crate) async fn count(place: &Place, contestant: Contestant) -> Result<Rows, Error> {
    match place {
        Place::Sqlite(_) => {
            let connection = Connection::open(place.file().ok_or("a file")?)?;
            let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| count as u64);
            let [reports, distinct, containers] = statements(contestant, None).map(|statement| count(&statement));
            Ok(Rows { reports: reports?, distinct: distinct?, containers: containers? })
        }
        Place::Postgres(database) => {
            let mut connection = PgConnection::connect(database.url()).await?;
            let mut counts = [0; 3];
            for (count, statement) in counts.iter_mut().zip(statements(contestant, Some("enlist."))) {
                let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&mut connection).await?;
                *count = rows as u64;
            }
            connection.close().await?;
            let [reports, distinct, containers] = counts;
            Ok(Rows { reports, distinct, containers })
        }
    }
}

/// Reports, distinct reports and containers' numbers, with the schema that Enlist has on PostgreSQL.
fn statements(contestant: Contestant, of_postgres: Option<&str>) -> [String; 3] {
    let (hosts, containers) = match contestant {
        Contestant::Baseline => ("host_snapshots", "container_snapshots"),
        Contestant::Enlist => ("host_metric_snapshots", "container_metric_snapshots"),
    };
    let (schema, host) = match (contestant, of_postgres) {
        (Contestant::Baseline, _) => ("", "host_id"),
        (Contestant::Enlist, Some(schema)) => (schema, "host_id"),
        // There it is a short key of it.
        (Contestant::Enlist, None) => ("", "host_key"),
    };
    [
        format!("SELECT count(*) FROM {schema}{hosts}"),
        format!("SELECT count(*) FROM (SELECT DISTINCT {host}, recorded_at FROM {schema}{hosts}) AS once"),
        format!("SELECT count(*) FROM {schema}{containers}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_made_up_and_a_double_row_are_found() {
        let rows = |reports, distinct, containers| Rows { reports, distinct, containers };
        assert_eq!(rows(5, 5, 50).judge(0, 5, 0), Ok(()));
        assert_eq!(rows(6, 6, 60).judge(0, 5, 1), Ok(()));
        assert_eq!(rows(25, 25, 250).judge(20, 5, 0), Ok(()));
        for wrong in [rows(4, 4, 40), rows(6, 6, 60), rows(5, 4, 50), rows(5, 5, 49)] {
            assert!(wrong.judge(0, 5, 0).is_err(), "{wrong:?}");
        }
        // What was there before is missed as well.
        assert!(rows(24, 24, 240).judge(20, 5, 0).is_err());
    }
}
