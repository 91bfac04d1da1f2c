//! The PostgreSQL that contestants share, one database each.

use enlist_testing::{Cluster, Database, Durability, POSTGRES_URL};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::Error;

/// A PostgreSQL whose commits are durable.
#[derive(Debug)]
pub struct PostgresServer {
    url: String,
    version: String,
    cluster: Option<Cluster>,
}

impl PostgresServer {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its version, as it says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The process whose children do its work, when it is one that was started here.
    ///
    /// # Errors
    /// When it has ended.
    pub fn postmaster(&self) -> Result<Option<u32>, Error> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let text = std::fs::read_to_string(cluster.directory().join("data/postmaster.pid"))?;
        let first = text.lines().next().and_then(|line| line.trim().parse().ok());
        Ok(Some(first.ok_or("postmaster.pid is not as expected")?))
    }

    /// A copy of a database that nobody is connected to. What it wrote is on disk before this returns, and a checkpoint
    /// done, so that neither becomes part of what is measured next.
    ///
    /// # Errors
    /// Whatever PostgreSQL answers.
    pub async fn copy(&self, of: &Database, prefix: &str) -> Result<Database, Error> {
        let copy = Database::empty_at(&self.url, prefix).await?;
        let mut connection = PgConnection::connect(&self.url).await?;
        let (name, template) = (copy.name(), of.name());
        for statement in [
            format!(r#"DROP DATABASE "{name}""#),
            // As files: copying by way of the log would fill that instead.
            format!(r#"CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy"#),
            "CHECKPOINT".to_owned(),
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(copy)
    }
}

/// The server of `ENLIST_TEST_POSTGRES_URL`, or a new one that ends with the value.
///
/// # Errors
/// When there is none, or when it does not flush: what it acknowledges would be worth nothing, and so would a figure.
pub async fn postgres_server() -> Result<PostgresServer, Error> {
    let given = std::env::var(POSTGRES_URL).ok().filter(|url| !url.is_empty());
    let (url, cluster) = match given {
        Some(url) => (url, None),
        None => {
            let cluster = Cluster::start(Durability::On)?;
            (cluster.url(), Some(cluster))
        }
    };
    let mut connection = PgConnection::connect(&url).await?;
    for setting in ["SHOW fsync", "SHOW synchronous_commit", "SHOW full_page_writes"] {
        let value: String = sqlx::query_scalar(setting).fetch_one(&mut connection).await?;
        if value != "on" {
            return Err(format!(
                "{POSTGRES_URL} leads to a server that does not flush ({setting}: {value}); \
                 leave it unset and a durable one is started"
            )
            .into());
        }
    }
    let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(PostgresServer { url, version, cluster })
}
