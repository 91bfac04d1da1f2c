//! How a [`PgStore`] is made.

use std::fmt;
use std::sync::Arc;

use enlist_core::store::StoreError;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::error::Failure;
use crate::sql::Sql;
use crate::store::{PgStore, Shared};

/// What is said of a URL that cannot be read. Its own text may hold a password.
pub(crate) const UNREADABLE: &str = "the database's URL cannot be read";

/// What a [`PgStore`] works with; made by [`PgStore::builder`].
#[derive(Clone)]
#[must_use]
pub struct PgStoreBuilder {
    pool: PgPool,
    schema: String,
    listen: Listen,
    through_pooler: bool,
}

#[derive(Clone)]
enum Listen {
    Nowhere,
    At(Box<PgConnectOptions>),
    Unreadable,
}

/// Says nothing of how the database is reached: that holds a password.
impl fmt::Debug for PgStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStoreBuilder")
            .field("schema", &self.schema)
            .field("through_pooler", &self.through_pooler)
            .field("listens", &!matches!(self.listen, Listen::Nowhere))
            .finish_non_exhaustive()
    }
}

impl PgStoreBuilder {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, schema: "enlist".to_owned(), listen: Listen::Nowhere, through_pooler: false }
    }

    /// The schema that holds the tables: 1–48 bytes of `a-z`, `0-9` and `_`, `enlist` unless said otherwise. Several
    /// fleets can live side by side in one database.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// A URL of the same database that leads to PostgreSQL itself, not to a pooler: for subscriptions, one connection
    /// each, and for migrations. Without it there are no subscriptions, and revocations made by other processes take
    /// effect within a second.
    ///
    /// A way that leads to another database, or to a pooler that hands out its connections by the transaction, is
    /// noticed: subscribing fails with `Unavailable`.
    pub fn listen_url(mut self, url: impl AsRef<str>) -> Self {
        self.listen = url.as_ref().parse().map_or(Listen::Unreadable, |options| Listen::At(Box::new(options)));
        self
    }

    /// The same as options: for what a URL does not say, or when the password comes from elsewhere.
    pub fn listen_options(mut self, options: PgConnectOptions) -> Self {
        self.listen = Listen::At(Box::new(options));
        self
    }

    /// Whether the pool leads to a pooler that hands out its connections by the transaction, as PgBouncer does in that
    /// mode: every statement then stands in a transaction, and none is kept prepared.
    pub fn through_pooler(mut self, through_pooler: bool) -> Self {
        self.through_pooler = through_pooler;
        self
    }

    /// Makes the store. Nothing is asked of the database yet: until [`PgStore::migrate`] was called, by this handle or
    /// any other, the methods of the contract fail with
    /// [`SchemaVersion`](enlist_core::store::StoreErrorKind::SchemaVersion).
    ///
    /// # Errors
    /// `Invalid` for a schema's name that is none, and for a `listen_url` that cannot be read.
    pub fn build(self) -> Result<PgStore, StoreError> {
        let sql = Sql::new(&self.schema)?;
        let listen = match self.listen {
            Listen::Nowhere => None,
            Listen::At(options) => Some(*options),
            Listen::Unreadable => return Err(Failure::Invalid(UNREADABLE).into()),
        };
        let Self { pool, through_pooler, .. } = self;
        let shared = Shared {
            pool,
            kept: Default::default(),
            sql,
            listen,
            through_pooler,
            gate: Default::default(),
            partitions: Default::default(),
            remembered: Default::default(),
            questions: Default::default(),
            steadiness: Default::default(),
        };
        Ok(PgStore::of(Arc::new(shared)))
    }
}
