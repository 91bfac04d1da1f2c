//! The statements, for both engines alike.

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::body::Report;
use super::schema;
use crate::report::baseline_token;

/// Where the baseline keeps its rows.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file. One connection writes, since SQLite has one writer at a time and waiting for it in turn is cheaper than
    /// polling for its lock; the others look tokens up.
    Sqlite {
        /// The one that writes.
        writer: SqlitePool,
        /// Those that look up.
        readers: SqlitePool,
    },
    /// A server.
    Postgres(PgPool),
}

/// All that the two engines have in common; sqlx has no type for "a transaction of either".
macro_rules! store_report {
    ($transaction:expr, $host:expr, $report:expr, $now:expr) => {{
        let mut transaction = $transaction;
        let Report { recorded_at, host, containers } = $report;
        let metrics = &host.metrics;
        let inserted = sqlx::query(schema::SNAPSHOT)
            .bind($host)
            .bind(recorded_at)
            .bind($now)
            .bind(metrics.cpu_percent)
            .bind(metrics.load_1m)
            .bind(metrics.load_5m)
            .bind(metrics.load_15m)
            .bind(integer(metrics.memory_used_bytes))
            .bind(integer(metrics.memory_total_bytes))
            .bind(integer(metrics.swap_used_bytes))
            .bind(integer(metrics.swap_total_bytes))
            .bind(integer(metrics.disk_used_bytes))
            .bind(integer(metrics.disk_total_bytes))
            .bind(integer(metrics.network_rx_bytes))
            .bind(integer(metrics.network_tx_bytes))
            .bind(integer(metrics.uptime_seconds))
            .execute(&mut *transaction)
            .await?;
        if inserted.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        let facts = &host.facts;
        sqlx::query(schema::SEEN)
            .bind($host)
            .bind($now)
            .bind(facts.cpu_count.map(i64::from))
            .bind(integer(facts.memory_total_bytes))
            .bind(&facts.os)
            .bind(&facts.kernel)
            .bind(&facts.arch)
            .bind(&facts.docker_version)
            .bind(&facts.agent_version)
            .execute(&mut *transaction)
            .await?;
        for container in containers {
            let ports = json_of(&container.ports, container.ports.is_empty());
            let labels = json_of(&container.labels, container.labels.is_empty());
            let key: i64 = sqlx::query_scalar(schema::CONTAINER)
                .bind($host)
                .bind(&container.container_id)
                .bind(&container.name)
                .bind(&container.image)
                .bind(&container.image_tag)
                .bind(&container.state)
                .bind(&container.health)
                .bind(integer(container.restarts))
                .bind(container.exit_code)
                .bind(container.oom_killed)
                .bind(ports)
                .bind(labels)
                .bind(&container.error)
                .bind($now)
                .fetch_one(&mut *transaction)
                .await?;
            let Some(metrics) = &container.metrics else { continue };
            sqlx::query(schema::CONTAINER_SNAPSHOT)
                .bind(key)
                .bind(recorded_at)
                .bind(metrics.cpu_cores)
                .bind(integer(metrics.memory_used_bytes))
                .bind(integer(metrics.memory_limit_bytes))
                .bind(integer(metrics.network_rx_bytes))
                .bind(integer(metrics.network_tx_bytes))
                .bind(integer(metrics.block_read_bytes))
                .bind(integer(metrics.block_write_bytes))
                .bind(integer(metrics.pids))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }};
}

macro_rules! fill {
    ($transaction:expr, $hosts:expr) => {{
        let mut transaction = $transaction;
        for host in 0..$hosts {
            let hash = Sha256::digest(baseline_token(host)).to_vec();
            let insert = sqlx::query(schema::INSERT_HOST).bind(i64::from(host)).bind(format!("host-{host}"));
            insert.execute(&mut *transaction).await?;
            let insert = sqlx::query(schema::INSERT_TOKEN).bind(hash).bind(i64::from(host));
            insert.execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }};
}

impl Database {
    /// Makes the tables in a new file, with a token for each of these hosts; opens one that has them when there is no
    /// number of hosts.
    ///
    /// # Errors
    /// Whatever SQLite answers; the tables are there already, for example.
    pub async fn sqlite(path: &Path, hosts: Option<u32>) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30))
            .disable_statement_logging();
        // Alone at first: connections that switch a fresh file to WAL together find it locked.
        let mut first = sqlx::SqliteConnection::connect_with(&options).await?;
        if let Some(hosts) = hosts {
            let tables = schema::tables("INTEGER PRIMARY KEY", "INTEGER PRIMARY KEY", "BLOB");
            sqlx::raw_sql(AssertSqlSafe(tables)).execute(&mut first).await?;
            fill!(first.begin().await?, hosts)?;
        }
        first.close().await?;
        let pool = || SqlitePoolOptions::new().acquire_timeout(Duration::from_secs(30));
        let writer = pool().max_connections(1).connect_with(options.clone()).await?;
        let readers = pool().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self::Sqlite { writer, readers })
    }

    /// The same in a database of a server, over a pool of so many connections.
    ///
    /// # Errors
    /// Whatever PostgreSQL answers; the tables are there already, for example.
    pub async fn postgres(url: &str, hosts: Option<u32>, connections: u32) -> Result<Self, sqlx::Error> {
        let options = url.parse::<sqlx::postgres::PgConnectOptions>()?.disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(30));
        let pool = pool.connect_with(options).await?;
        if let Some(hosts) = hosts {
            let tables = schema::tables("BIGINT PRIMARY KEY", "BIGSERIAL PRIMARY KEY", "BYTEA");
            sqlx::raw_sql(AssertSqlSafe(tables)).execute(&pool).await?;
            fill!(pool.begin().await?, hosts)?;
        }
        Ok(Self::Postgres(pool))
    }

    /// Lets go of it.
    pub async fn close(self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// Whose token has this hash.
    pub(super) async fn host_of(&self, hash: &[u8]) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite { readers, .. } => {
                sqlx::query_scalar(schema::HOST_OF_TOKEN).bind(hash).fetch_optional(readers).await
            }
            Self::Postgres(pool) => sqlx::query_scalar(schema::HOST_OF_TOKEN).bind(hash).fetch_optional(pool).await,
        }
    }

    /// Stores a report; whether it is a new one. Durable when this returns.
    pub(super) async fn store(&self, host: i64, report: &Report, now: i64) -> Result<bool, sqlx::Error> {
        match self {
            // Immediately: a transaction that reads first and then wants to write can lose its snapshot.
            Self::Sqlite { writer, .. } => {
                store_report!(writer.begin_with("BEGIN IMMEDIATE").await?, host, report, now)
            }
            Self::Postgres(pool) => store_report!(pool.begin().await?, host, report, now),
        }
    }
}

fn integer(value: Option<u64>) -> Option<i64> {
    // Its bound was checked.
    value.map(|value| value as i64)
}

fn json_of(value: &impl serde::Serialize, is_empty: bool) -> Option<String> {
    if is_empty { None } else { serde_json::to_string(value).ok() }
}
