//! Where a contestant keeps its rows.

use std::path::{Path, PathBuf};

use enlist_testing::Database;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tempfile::TempDir;

use super::postgres::PostgresServer;
use crate::Error;

/// A database of one contestant's own, gone when this is dropped.
#[derive(Debug)]
pub enum Place {
    /// A file in a folder of its own.
    Sqlite(TempDir),
    /// A database of a server.
    Postgres(Database),
}

/// Snapshots with their indexes, of whichever contestant.
const SIZE: &str = "
    SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname IN ('public', 'enlist') AND c.relname LIKE '%snapshots%'";

impl Place {
    /// An empty one: on that server, or in a file of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn empty(postgres: Option<&PostgresServer>, name: &str) -> Result<Self, Error> {
        Ok(match postgres {
            None => Self::Sqlite(tempfile::tempdir()?),
            Some(server) => Self::Postgres(Database::empty_at(server.url(), name).await?),
        })
    }

    /// Another with the same rows. Nobody may have this one open.
    ///
    /// # Errors
    /// When it cannot be copied, or its server is not known.
    pub async fn copy(&self, postgres: Option<&PostgresServer>, name: &str) -> Result<Self, Error> {
        match (self, postgres) {
            (Self::Sqlite(directory), _) => {
                let copy = tempfile::tempdir()?;
                let path = file_in(&copy);
                std::fs::copy(file_in(directory), &path)?;
                // Or it would be written back while somebody else's commits are waited for.
                std::fs::File::open(&path)?.sync_all()?;
                Ok(Self::Sqlite(copy))
            }
            (Self::Postgres(database), Some(server)) => Ok(Self::Postgres(server.copy(database, name).await?)),
            (Self::Postgres(_), None) => Err("the server of this database is not known".into()),
        }
    }

    /// As programs want to be told of it.
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}", file_in(directory).display()),
            Self::Postgres(database) => database.url().to_owned(),
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Sqlite(directory) => Some(file_in(directory)),
            Self::Postgres(_) => None,
        }
    }

    /// What it takes on disk: the whole file, with its log if that was not folded back; of a PostgreSQL's database the
    /// tables of snapshots, with their indexes.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn bytes(&self) -> Result<u64, Error> {
        match self {
            Self::Sqlite(directory) => {
                let sizes = std::fs::read_dir(directory.path())?.map(|entry| Ok::<_, Error>(entry?.metadata()?.len()));
                sizes.sum()
            }
            Self::Postgres(database) => {
                let mut connection = PgConnection::connect(database.url()).await?;
                let bytes: i64 = sqlx::query_scalar(SIZE).fetch_one(&mut connection).await?;
                connection.close().await?;
                Ok(bytes as u64)
            }
        }
    }

    /// Brings it into the state of one that was in use for long: statistics are there, nothing is left to be tidied up.
    ///
    /// # Errors
    /// Whatever PostgreSQL answers.
    pub async fn settle(&self) -> Result<(), Error> {
        if let Self::Postgres(database) = self {
            let mut connection = PgConnection::connect(database.url()).await?;
            sqlx::raw_sql("VACUUM (ANALYZE)").execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }
}

fn file_in(directory: &TempDir) -> PathBuf {
    Path::join(directory.path(), "rows.db")
}
