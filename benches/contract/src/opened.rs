//! The store that is measured.

use std::sync::Arc;

use enlist_benches::Error;
use enlist_core::store::Store;
use enlist_storage_postgres::PgStore;
use enlist_storage_sqlite::SqliteStore;

/// A store that is open and migrated.
pub(crate) enum Opened {
    Sqlite(SqliteStore),
    Postgres(PgStore),
}

impl Opened {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
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

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Postgres(store) => Arc::new(store.clone()),
        }
    }

    /// Completes when nothing of it is open any more.
    pub(crate) async fn close(self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
