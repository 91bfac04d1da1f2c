//! [`PgStore`]: the contract, each method on a connection of the pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, CandidateQuery, Candidates, Commit, Contact,
    ContainerQuery, ContainerRecord, Described, DescribedCache, EventQuery, FactsCache, HostLookup, HostQuery,
    HostRecord, InstallTokenQuery, Key, Known, Page, Prune, Pruned, RecentUses, Store, StoreError, Subscription, Sweep,
    Swept, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, TokenHash};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Row};

use crate::authenticate::Questions;
use crate::builder::{PgStoreBuilder, UNREADABLE};
use crate::column::Count;
use crate::contact::Used;
use crate::error::Failure;
use crate::lease::KeptLease;
use crate::migrate::{self, Gate};
use crate::partition::Partitions;
use crate::sql::Sql;
use crate::steady::Steadiness;
use crate::transaction::in_task;
use crate::{
    agent_token, aggregate, candidate, contact, container, event, host, host_page, install_token, liveness, prune,
    subscription, telemetry,
};

/// How many connections [`PgStore::connect`] opens at most, and how long a call waits for one of them.
const POOL: (u32, Duration) = (16, Duration::from_secs(5));

/// How many containers' descriptions and keys are remembered, at about 40 bytes each: a report of one that is not costs the
/// reading of its host's rows.
const DESCRIBED: usize = 1_500_000;
/// How many hosts' facts are remembered, at about 60 bytes each: a report of one that is not reads what is stored.
const FACTS: usize = 200_000;
/// How many tokens' last uses are remembered: that of one that is not costs a look at its row.
const USED: usize = 200_000;

/// After how much rest a connection is asked whether it still works.
const RESTED: Duration = Duration::from_secs(1);

/// A change that PostgreSQL has to write: an update of the same value is one too.
const PROBE: &str = "UPDATE {schema}.schema_epoch SET probes = (probes + 1) % 1000000 RETURNING epoch";

/// A fleet in one schema of a PostgreSQL database. Cloning gives another handle on the same; see the
/// [crate's documentation](crate).
///
/// It is used within a Tokio runtime whose I/O and time drivers are switched on. Writing methods run in tasks of their
/// own: dropping their futures leaves all of their effect or none, and no transaction open.
#[derive(Debug, Clone)]
pub struct PgStore {
    pub(crate) shared: Arc<Shared>,
}

/// What the handles of a store share.
pub(crate) struct Shared {
    /// Where connections come from.
    pub(crate) pool: PgPool,
    /// The one that reports keep.
    pub(crate) kept: KeptLease,
    /// The schema, and the statements about it.
    pub(crate) sql: Sql,
    /// The way to PostgreSQL itself, if one is known.
    pub(crate) listen: Option<PgConnectOptions>,
    /// Whether the pool's connections change from transaction to transaction.
    pub(crate) through_pooler: bool,
    /// Whether the schema fits.
    pub(crate) gate: Gate,
    /// The days of snapshots that are there.
    pub(crate) partitions: Partitions,
    /// What is known of rows without reading them.
    pub(crate) remembered: Remembered,
    /// Who waits for what a token is.
    pub(crate) questions: Questions,
    /// Whether reports are taken in one statement now.
    pub(crate) steadiness: Steadiness,
}

/// What is known of rows without reading them.
pub(crate) struct Remembered {
    /// What the rows of hosts' containers say, and the keys that reports name them by.
    pub(crate) described: DescribedCache<i64>,
    /// What hosts last said of their machines.
    pub(crate) facts: FactsCache,
    /// When tokens were last seen to be used.
    pub(crate) uses: RecentUses,
}

/// What a transaction has learnt: to be remembered once it is committed.
#[derive(Default)]
pub(crate) struct Learnt {
    /// What the rows of a host's containers say, at which version.
    pub(crate) described: Vec<(HostId, u64, Described<i64>)>,
    /// The fingerprint of what a host said of its machine, and which version of the stored facts it changes nothing of.
    pub(crate) told: Vec<(HostId, u64, u64)>,
    /// Which uses of tokens were written.
    pub(crate) used: Vec<Used>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { described: DescribedCache::new(DESCRIBED), facts: FactsCache::new(FACTS), uses: RecentUses::new(USED) }
    }
}

impl Remembered {
    pub(crate) fn learn(&self, learnt: Learnt) {
        for (host_id, version, described) in learnt.described {
            self.described.fill(host_id, version, Arc::new(described));
        }
        for (host_id, version, fingerprint) in learnt.told {
            self.facts.fill(host_id, version, fingerprint);
        }
        for (token_id, at) in learnt.used {
            self.uses.note(token_id, at);
        }
    }
}

/// Says nothing of how the database is reached: that holds a password.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("schema", &self.sql.schema())
            .field("through_pooler", &self.through_pooler)
            .field("listens", &self.listen.is_some())
            .finish_non_exhaustive()
    }
}

impl PgStore {
    /// Begins a store on a pool of the embedding service's own: `sqlx` 0.9, which this crate re-exports.
    pub fn builder(pool: PgPool) -> PgStoreBuilder {
        PgStoreBuilder::new(pool)
    }

    /// A store with a pool of its own, in the schema `enlist`, with subscriptions: for a database that is reached
    /// directly, at `postgres://user@host/database` or `postgres://user@localhost/database?host=/var/run/postgresql`.
    ///
    /// It makes no tables, see [`PgStore::migrate`].
    ///
    /// Without the feature `tls`, the default `sslmode=prefer` means plaintext: over a network, switch the feature on
    /// and say `sslmode=verify-full`.
    ///
    /// # Errors
    /// `Invalid` when the URL cannot be read; `Unavailable` when the database cannot be reached within five seconds.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = url.parse::<PgConnectOptions>().map_err(|_| Failure::Invalid(UNREADABLE))?;
        let pool = Self::pool_options().max_connections(POOL.0).acquire_timeout(POOL.1);
        let pool = pool.connect_with(options.clone()).await.map_err(Failure::from)?;
        Self::builder(pool).listen_options(options).build()
    }

    /// sqlx's options for a pool, save that a connection is asked whether it still works only after it rested for a
    /// second: by default that costs a round trip before each group of reports. One that is lost within that second
    /// fails the call that meets it, as one that is lost in the middle does.
    pub fn pool_options() -> PgPoolOptions {
        PgPoolOptions::new().test_before_acquire(false).before_acquire(|connection, rested| {
            Box::pin(async move {
                if rested.idle_for >= RESTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
    }

    pub(crate) const fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Brings the schema to this version, making it if there is none: all missing migrations, or none. Does nothing
    /// when none is missing, and can be called by several replicas at once. Goes to the `listen_url` if there is one.
    ///
    /// Dropping the future does not stop it.
    ///
    /// # Errors
    /// `Unavailable` when the database cannot be reached or written, or the role may not make what is missing;
    /// `SchemaVersion` when a later version has made the schema one that this version cannot work with; `Invalid` when
    /// the schema holds tables that are not ours.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(in_task(migrate::migrate(Arc::clone(&self.shared))).await?)
    }

    /// Closes the pool for every handle of this store, and for whoever else uses it: what is under way is waited for,
    /// whatever is asked from now on is `Unavailable`. Nothing is lost without it.
    pub async fn close(&self) {
        self.shared.pool.close().await;
    }
}

#[async_trait]
impl Store for PgStore {
    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let key = *key;
        self.shared.snapshot(move |db| Box::pin(async move { aggregate::load(db, &key).await })).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let commit = Arc::new(commit);
        self.shared
            .write(move |db| {
                let commit = Arc::clone(&commit);
                Box::pin(async move { aggregate::commit(db, &commit).await })
            })
            .await
    }

    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        self.shared.authenticate(hash).await
    }

    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let lookup = lookup.clone();
        self.shared.read(move |db| Box::pin(async move { host::find(db, &lookup).await })).await
    }

    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        let query = query.clone();
        self.shared.walk(move |db| Box::pin(async move { host_page::list(db, &query).await })).await
    }

    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError> {
        let query = query.clone();
        self.shared.kept_walk(move |db| Box::pin(async move { candidate::list(db, &query).await })).await
    }

    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError> {
        let query = query.clone();
        self.shared.read(move |db| Box::pin(async move { install_token::list(db, &query).await })).await
    }

    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, StoreError> {
        let query = query.clone();
        self.shared.read(move |db| Box::pin(async move { agent_token::list(db, &query).await })).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        let query = query.clone();
        self.shared.walk(move |db| Box::pin(async move { event::list(db, &query).await })).await
    }

    async fn last_position(&self) -> Result<Position, StoreError> {
        self.shared.read(move |db| Box::pin(async move { event::last_position(db).await })).await
    }

    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError> {
        Ok(in_task(telemetry::append(Arc::clone(&self.shared), reports)).await?)
    }

    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        let contacts: Arc<[Contact]> = contacts.into();
        let touched = self.shared.write(move |db| {
            let contacts = Arc::clone(&contacts);
            Box::pin(async move { contact::touch(db, &contacts).await })
        });
        let (events, used) = touched.await?;
        self.shared.remembered.learn(Learnt { used, ..Learnt::default() });
        Ok(events)
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        let sweep = Arc::new(sweep);
        self.shared
            .write(move |db| {
                let sweep = Arc::clone(&sweep);
                Box::pin(async move { liveness::sweep(db, &sweep).await })
            })
            .await
    }

    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        self.shared.read(move |_| Box::pin(async { Ok(()) })).await?;
        let Some(options) = &self.shared.listen else { return Ok(None) };
        Ok(Some(subscription::subscribe(&self.shared, options).await?))
    }

    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        Ok(in_task(prune::prune(Arc::clone(&self.shared), *prune)).await?)
    }

    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        let query = query.clone();
        self.shared.read(move |db| Box::pin(async move { container::list(db, &query).await })).await
    }

    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
        let query = query.clone();
        self.shared.read(move |db| Box::pin(async move { telemetry::list(db, &query).await })).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        // A write that is committed: a replica in recovery, a read-only database or a full disk shows itself here and
        // not only with a report. So does a later version that has left this one behind.
        self.shared
            .write(|db| {
                Box::pin(async move {
                    let row = db.query(PROBE).fetch_optional(db.connection()).await?;
                    let epoch = row.map(|row| row.try_get::<Count, _>("epoch")).transpose()?;
                    db.shared().gate.reconsider(epoch)
                })
            })
            .await
    }
}
