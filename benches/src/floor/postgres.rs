//! The floor on PostgreSQL, in two layouts.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::{BATCH, Outcome, Plan, Reports};
use crate::clock;
use crate::report::{CONTAINER_INTEGERS, CONTAINERS, HOST_FLOATS, HOST_INTEGERS, Report};

/// How rows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A row a container, with a surrogate key and an index by container and time.
    Usual,
    /// One row a report, with an array for each of the containers' numbers.
    Arrays,
}

/// Stores the plan's reports in a database, an empty one unless some are there, and counts all of them.
///
/// # Errors
/// Whatever PostgreSQL answers.
pub async fn postgres(url: &str, layout: Layout, plan: Plan) -> Result<Outcome, sqlx::Error> {
    let options = url.parse::<PgConnectOptions>()?.disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    if plan.there == 0 {
        sqlx::raw_sql(AssertSqlSafe(tables(layout))).execute(&mut connection).await?;
    }
    let statements: Vec<String> = match layout {
        Layout::Usual => vec![unnest_hosts(), unnest_containers()],
        Layout::Arrays => vec![rows_with_arrays()],
    };
    let mut reports = Reports::new(plan);
    let mut took = Duration::ZERO;
    for batch in 0..plan.batches_before() + plan.batches() {
        let made = reports.batch();
        let start = clock::instant();
        let mut transaction = connection.begin().await?;
        for (place, statement) in statements.iter().enumerate() {
            let arguments = match (layout, place) {
                (Layout::Usual, 0) => hosts_by_column(&made)?,
                (Layout::Usual, _) => containers_by_column(&made)?,
                (Layout::Arrays, _) => reports_by_row(&made)?,
            };
            // The text is the same each time, so that it is prepared once.
            let query = sqlx::query_with(AssertSqlSafe(statement.as_str()), arguments);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        if batch >= plan.batches_before() {
            took += start.elapsed();
        }
    }
    let containers = match layout {
        Layout::Usual => "SELECT count(*) FROM container_snapshots",
        Layout::Arrays => "SELECT coalesce(sum(cardinality(container_ids)), 0)::bigint FROM host_snapshots",
    };
    let hosts = "SELECT count(*) FROM (SELECT DISTINCT host_id, recorded_at FROM host_snapshots) AS reports";
    let host_rows: i64 = sqlx::query_scalar(hosts).fetch_one(&mut connection).await?;
    let container_rows: i64 = sqlx::query_scalar(containers).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(Outcome {
        reports: plan.batches() * BATCH,
        took,
        host_rows: host_rows as u64,
        container_rows: container_rows as u64,
    })
}

fn tables(layout: Layout) -> String {
    let columns = |names: &[&str], kind: &str| names.iter().map(|name| format!("{name} {kind}, ")).collect::<String>();
    let host = format!(
        "host_id bigint NOT NULL, recorded_at bigint NOT NULL, received_at bigint NOT NULL, {}{}",
        columns(&HOST_FLOATS, "double precision"),
        columns(&HOST_INTEGERS, "bigint"),
    );
    match layout {
        Layout::Usual => format!(
            "CREATE TABLE host_snapshots (id bigserial PRIMARY KEY, {host} UNIQUE (host_id, recorded_at));
             CREATE TABLE container_snapshots (
                 id bigserial PRIMARY KEY, container_key bigint NOT NULL, recorded_at bigint NOT NULL, {}
                 cpu_cores double precision
             );
             CREATE INDEX container_snapshots_container ON container_snapshots (container_key, recorded_at);",
            columns(&CONTAINER_INTEGERS, "bigint"),
        ),
        Layout::Arrays => {
            let arrays: String = CONTAINER_INTEGERS.iter().map(|name| format!("container_{name} bigint[], ")).collect();
            format!(
                "CREATE TABLE host_snapshots ({host} container_ids bigint[], container_cpu_cores double precision[],
                 {arrays} PRIMARY KEY (host_id, recorded_at));"
            )
        }
    }
}

fn unnest_hosts() -> String {
    let names = [&["host_id", "recorded_at", "received_at"], &HOST_FLOATS[..], &HOST_INTEGERS].concat();
    let kinds = names.iter().map(|name| if HOST_FLOATS.contains(name) { "double precision" } else { "bigint" });
    unnest("host_snapshots", &names, kinds)
}

fn unnest_containers() -> String {
    let names = [&["container_key", "recorded_at", "cpu_cores"], &CONTAINER_INTEGERS[..]].concat();
    let kinds = names.iter().map(|name| if *name == "cpu_cores" { "double precision" } else { "bigint" });
    unnest("container_snapshots", &names, kinds)
}

fn unnest<'a>(table: &str, names: &[&str], kinds: impl Iterator<Item = &'a str>) -> String {
    let places: Vec<String> = kinds.enumerate().map(|(place, kind)| format!("${}::{kind}[]", place + 1)).collect();
    format!("INSERT INTO {table} ({}) SELECT * FROM unnest({})", names.join(", "), places.join(", "))
}

/// Arrays of arrays cannot be unnested by one level, so the rows stand side by side.
fn rows_with_arrays() -> String {
    const WIDTH: usize = 3 + HOST_FLOATS.len() + HOST_INTEGERS.len() + 2 + CONTAINER_INTEGERS.len();
    let mut statement = "INSERT INTO host_snapshots VALUES ".to_owned();
    for row in 0..BATCH as usize {
        let places: Vec<String> = (1..=WIDTH).map(|place| format!("${}", row * WIDTH + place)).collect();
        let _ = write!(statement, "{}({})", if row == 0 { "" } else { ", " }, places.join(", "));
    }
    statement
}

fn hosts_by_column(reports: &[Report]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    let times: Vec<i64> = reports.iter().map(|report| report.recorded_at).collect();
    add(&mut arguments, reports.iter().map(|report| i64::from(report.host)).collect::<Vec<_>>())?;
    add(&mut arguments, times.clone())?;
    add(&mut arguments, times)?;
    for place in 0..HOST_FLOATS.len() {
        add(&mut arguments, reports.iter().map(|report| report.floats[place]).collect::<Vec<_>>())?;
    }
    for place in 0..HOST_INTEGERS.len() {
        add(&mut arguments, reports.iter().map(|report| report.integers[place]).collect::<Vec<_>>())?;
    }
    Ok(arguments)
}

fn containers_by_column(reports: &[Report]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    let all = || reports.iter().flat_map(|report| report.containers.iter());
    let keys: Vec<i64> = reports.iter().flat_map(keys).collect();
    let times: Vec<i64> = reports.iter().flat_map(|report| [report.recorded_at; CONTAINERS]).collect();
    add(&mut arguments, keys)?;
    add(&mut arguments, times)?;
    add(&mut arguments, all().map(|measured| measured.cpu_cores).collect::<Vec<_>>())?;
    for place in 0..CONTAINER_INTEGERS.len() {
        add(&mut arguments, all().map(|measured| measured.integers[place]).collect::<Vec<_>>())?;
    }
    Ok(arguments)
}

fn reports_by_row(reports: &[Report]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for report in reports {
        for value in [i64::from(report.host), report.recorded_at, report.recorded_at] {
            add(&mut arguments, value)?;
        }
        for value in report.floats {
            add(&mut arguments, value)?;
        }
        for value in report.integers {
            add(&mut arguments, value)?;
        }
        add(&mut arguments, keys(report).to_vec())?;
        add(&mut arguments, report.containers.iter().map(|measured| measured.cpu_cores).collect::<Vec<_>>())?;
        for place in 0..CONTAINER_INTEGERS.len() {
            let column: Vec<i64> = report.containers.iter().map(|measured| measured.integers[place]).collect();
            add(&mut arguments, column)?;
        }
    }
    Ok(arguments)
}

/// The keys of the containers' rows, which are known already and not written again.
fn keys(report: &Report) -> [i64; CONTAINERS] {
    std::array::from_fn(|number| i64::from(report.host) * CONTAINERS as i64 + number as i64)
}

fn add<'q, T>(arguments: &mut PgArguments, value: T) -> Result<(), sqlx::Error>
where
    T: sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + 'q,
{
    arguments.add(value).map_err(sqlx::Error::Encode)
}
