//! The store that the server was told to keep its fleet in.

use std::sync::Arc;
use std::time::Duration;

use enlist_core::store::{MemoryStore, Store, StoreError, StoreErrorKind};
use enlist_storage_postgres::PgStore;
use enlist_storage_sqlite::SqliteStore;

use super::ServerError;
use super::config::{Database, DatabaseUrl, ServeArgs};

/// How long a request waits for a connection to PostgreSQL.
const ACQUIRE: Duration = Duration::from_secs(5);

/// A store that is open and migrated.
pub(super) enum Opened {
    Memory(MemoryStore),
    Sqlite(SqliteStore),
    Postgres(PgStore),
}

impl Opened {
    /// Opens and migrates it.
    pub(super) async fn open(args: &ServeArgs) -> Result<Self, ServerError> {
        Ok(match args.database.read()? {
            Database::Memory => Self::Memory(MemoryStore::new()),
            Database::Sqlite(url) => {
                let unusable = |error| ServerError::File(url.to_owned(), error);
                let store = SqliteStore::open(url).await.map_err(unusable)?;
                store.migrate().await.map_err(unusable)?;
                Self::Sqlite(store)
            }
            Database::Postgres(url) => {
                let store = postgres(url, args).await?;
                store.migrate().await?;
                Self::Postgres(store)
            }
        })
    }

    /// For the fleet.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Postgres(store) => Arc::new(store.clone()),
        }
    }

    /// Lets go of it, once nobody asks any more.
    pub(super) async fn close(self) {
        match self {
            Self::Memory(_) => {}
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

async fn postgres(url: &DatabaseUrl, args: &ServeArgs) -> Result<PgStore, StoreError> {
    let pool = PgStore::pool_options().max_connections(args.database_connections).acquire_timeout(ACQUIRE);
    // Not with the engine's words: of a URL that it cannot read they might repeat a part.
    let pool = pool.connect(url.expose()).await.map_err(|error| match error {
        enlist_storage_postgres::sqlx::Error::Configuration(_) => {
            StoreError::with_source(StoreErrorKind::Unavailable, "the URL of the database cannot be read")
        }
        error => StoreError::with_source(StoreErrorKind::Unavailable, error),
    })?;
    let direct = args.database_direct.as_ref();
    PgStore::builder(pool)
        .schema(&args.database_schema)
        .through_pooler(direct.is_some())
        .listen_url(direct.unwrap_or(url).expose())
        .build()
}
