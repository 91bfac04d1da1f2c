//! [`SqliteStore`]: the contract, each method on its thread.

use std::sync::Arc;

use async_trait::async_trait;
use diesel::prelude::*;
use enlist_core::TokenHash;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, CandidateQuery, Candidates, Commit, Contact,
    ContainerQuery, ContainerRecord, DescribedCache, EventQuery, FactsCache, HostLookup, HostQuery, HostRecord,
    InstallTokenQuery, Key, Known, Page, Prune, Pruned, RecentUses, Store, StoreError, Subscription, Sweep, Swept,
    TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;

use crate::connection::{Connections, Location};
use crate::error::Failure;
use crate::migrate::Gate;
use crate::schema::schema_epoch;
use crate::subscription::Changes;
use crate::transaction::{immediate, snapshot};
use crate::worker::Workers;
use crate::{
    agent_token, aggregate, candidate, contact, container, event, host, host_page, install_token, liveness, migrate,
    prune, telemetry,
};

/// A fleet in one SQLite database. Cloning gives another handle on the same; see the [crate's documentation](crate).
#[derive(Debug, Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    workers: Workers,
    gate: Arc<Gate>,
    remembered: Arc<Remembered>,
}

/// What is known of rows without reading them.
#[derive(Debug)]
pub(crate) struct Remembered {
    /// What the rows of hosts' containers say, by their keys.
    pub(crate) described: DescribedCache<i64>,
    /// What reports say of their machines.
    pub(crate) facts: FactsCache,
    /// When tokens were last seen to be used.
    pub(crate) uses: RecentUses,
}

/// How many containers' descriptions are remembered, at about 40 bytes each: a report of one that is not costs the reading
/// of its host's rows.
const DESCRIBED: usize = 1_500_000;
/// Of how many hosts it is remembered what they say of their machines: that of another costs a look at its row.
const FACTS: usize = 200_000;
/// How many tokens' last uses are remembered: that of one that is not costs a look at its row.
const USED: usize = 200_000;

/// What a group of reports is stored by.
pub(crate) struct Ingest<'a> {
    pub(crate) connection: &'a mut rusqlite::Connection,
    pub(crate) remembered: &'a Remembered,
}

impl SqliteStore {
    /// Opens the database at `url`, making the file if there is none: `sqlite://path`, `sqlite:path`, a plain path, or
    /// `sqlite::memory:` for one that lives as long as its handles. The path is taken as it stands, without parameters
    /// or escapes.
    ///
    /// It makes no tables: until [`SqliteStore::migrate`] was called, by this handle or any other, every other method
    /// fails with [`SchemaVersion`](enlist_core::store::StoreErrorKind::SchemaVersion).
    ///
    /// Works on any executor, and on none: the file is opened on a thread of the store's own.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, or its file system cannot do write-ahead logging; `SchemaVersion`
    /// when a later version of Enlist has made the schema one that this version cannot work with.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let workers = Workers::start(Location::parse(url)?).await?;
        workers.write(|connections| migrate::check_openable(&mut connections.diesel)).await?;
        let remembered = Remembered {
            described: DescribedCache::new(DESCRIBED),
            facts: FactsCache::new(FACTS),
            uses: RecentUses::new(USED),
        };
        Ok(Self { shared: Arc::new(Shared { workers, gate: Arc::default(), remembered: Arc::new(remembered) }) })
    }

    /// Brings the schema to this version: all missing migrations, or none. Does nothing when none is missing, and can
    /// be called by several processes at once.
    ///
    /// # Errors
    /// `Unavailable` when the database cannot be written; `SchemaVersion` when a later version has made the schema one
    /// that this version cannot work with; `Invalid` when the file holds tables that are not ours.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.shared.workers.write(|connections| migrate::migrate(&mut connections.diesel)).await
    }

    /// Closes the database for every handle of this store: what was asked of it is still done, whatever is asked from now
    /// on is `Unavailable`. Completes when the write-ahead log is folded back into the file.
    ///
    /// Nothing is lost without it: what was acknowledged is on disk, and the next to open the file finds it. Dropping the
    /// future does not take it back.
    pub async fn close(&self) {
        // Cancelled: it was closed before.
        let _ = self.shared.workers.close().await;
    }

    /// Runs `work` on a connection that reads, once the schema is seen to fit.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = self.guarded(move |connections| work(&mut connections.diesel));
        self.shared.workers.read(work).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = self.guarded(move |connections| work(&mut connections.diesel));
        self.shared.workers.write(work).await
    }

    /// Runs `work` on the connection by which reports come in, with what is remembered for them.
    async fn ingest<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ingest<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        // Not all that is shared: work that waits must not keep the threads alive that it waits for.
        let remembered = Arc::clone(&self.shared.remembered);
        let work = self.guarded(move |connections| {
            work(&mut Ingest { connection: connections.reports()?, remembered: &remembered })
        });
        self.shared.workers.write(work).await
    }

    /// Sees to it that the schema fits before anything is asked of it.
    fn guarded<T, W: FnOnce(&mut Connections) -> Result<T, Failure>>(
        &self,
        work: W,
    ) -> impl FnOnce(&mut Connections) -> Result<T, Failure> + use<T, W> {
        let gate = Arc::clone(&self.shared.gate);
        move |connections| {
            gate.check(&mut connections.diesel)?;
            work(connections)
        }
    }
}

// A read of one statement sees one moment by itself; one of several needs a transaction for it.
#[async_trait]
impl Store for SqliteStore {
    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let key = *key;
        self.read(move |connection| snapshot(connection, |connection| aggregate::load(connection, &key))).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        self.write(move |connection| immediate(connection, |connection| aggregate::commit(connection, commit))).await
    }

    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        let hash = *hash;
        self.read(move |connection| agent_token::authenticate(connection, &hash)).await
    }

    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let lookup = lookup.clone();
        self.read(move |connection| snapshot(connection, |connection| host::find(connection, &lookup))).await
    }

    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        let query = query.clone();
        self.read(move |connection| snapshot(connection, |connection| host_page::list(connection, &query))).await
    }

    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError> {
        let query = query.clone();
        self.read(move |connection| snapshot(connection, |connection| candidate::list(connection, &query))).await
    }

    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError> {
        let query = query.clone();
        self.read(move |connection| install_token::list(connection, &query)).await
    }

    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, StoreError> {
        let query = query.clone();
        self.read(move |connection| agent_token::list(connection, &query)).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        let query = query.clone();
        self.read(move |connection| snapshot(connection, |connection| event::list(connection, &query))).await
    }

    async fn last_position(&self) -> Result<Position, StoreError> {
        self.read(event::last_position).await
    }

    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError> {
        self.ingest(move |ingest| telemetry::append(ingest, &reports)).await
    }

    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        self.ingest(move |ingest| contact::touch(ingest, &contacts)).await
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        self.ingest(move |ingest| liveness::sweep(ingest, &sweep)).await
    }

    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        Ok(Some(Box::new(Changes::begin(self.clone()).await?)))
    }

    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        let prune = *prune;
        self.ingest(move |ingest| prune::prune(ingest, &prune)).await
    }

    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        let query = query.clone();
        let list = self.guarded(move |connections| container::list(connections.reports()?, &query));
        self.shared.workers.read(list).await
    }

    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
        let query = query.clone();
        let list = self.guarded(move |connections| telemetry::list(connections.reports()?, &query));
        self.shared.workers.read(list).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.read(|connection| Ok(schema_epoch::table.select(schema_epoch::epoch).get_result::<i64>(connection)?))
            .await?;
        // A write that changes something, or SQLite would skip it: a full or read-only disk shows itself here and not only
        // with a report. By the connection of these, whose cache another one's write would empty.
        self.ingest(|ingest| {
            ingest.connection.prepare_cached("UPDATE schema_epoch SET probes = probes + 1")?.execute([])?;
            Ok(())
        })
        .await
    }
}
