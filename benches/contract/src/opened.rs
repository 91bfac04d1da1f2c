//! The store that is measured.

use std::sync::Arc;

use enlist_benches::Error;
use enlist_core::store::Store;
use enlist_storage_postgres::PgStore;
use enlist_storage_sqlite::SqliteStore;

/// A store that is open and migrated.
#[derive(Debug, Clone)]
pub enum Opened {
    /// On SQLite.
    Sqlite(SqliteStore),
    /// On PostgreSQL.
    Postgres(PgStore),
}

impl Opened {
    /// Opens `sqlite:…`, or connects to the URL of a PostgreSQL database, and makes its tables.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Ok(if url.starts_with("sqlite:") {
            let store = SqliteStore::open(url).await?;
            store.migrate().await?;
            Self::Sqlite(store)
        } else {
            let store = PgStore::connect(url).await?;
            store.migrate().await?;
            Self::Postgres(store)
        })
    }

    /// As the contract has it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Postgres(store) => Arc::new(store.clone()),
        }
    }

    /// Completes when nothing of it is open any more.
    pub async fn close(self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
