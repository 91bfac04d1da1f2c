//! The contract's methods, each in one transaction of redb.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use enlist_core::TokenHash;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, CandidateQuery, Candidates, Commit, Contact,
    ContainerQuery, ContainerRecord, EventQuery, HostLookup, HostQuery, HostRecord, InstallTokenQuery, Key, Known,
    Page, Prune, Pruned, Store, StoreError, StoreErrorKind, Subscription, Sweep, Swept, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use redb::{Database, ReadableDatabase, ReadableTable};

use crate::error::Failure;
use crate::schema::{Reader, Writer};
use crate::subscription::Subscribers;
use crate::{contact, event, identity, liveness, prune};

/// The layout that this version reads and writes.
const LAYOUT: u64 = 1;

/// A fleet in one file of redb's. Clones are handles on the same file.
///
/// Needs a tokio runtime: every call runs on one of its threads that may block. Dropping a future does not stop what has
/// begun; it is then committed whole, or not begun at all.
#[derive(Clone)]
pub struct RedbStore {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    subscribers: Subscribers,
}

impl RedbStore {
    /// Opens the file, and makes it if it is not there.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, also since another process has it; `SchemaVersion` when its layout is
    /// not this version's.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let database = blocking(move || {
            let database = Database::create(path)?;
            let transaction = database.begin_write()?;
            {
                let mut tables = Writer::open(&transaction)?;
                let layout = tables.meta.insert("layout", LAYOUT)?.map(|layout| layout.value());
                if layout.is_some_and(|layout| layout != LAYOUT) {
                    return Err(StoreErrorKind::SchemaVersion.into());
                }
            }
            transaction.commit()?;
            Ok(database)
        });
        Ok(Self { shared: Arc::new(Shared { database: database.await?, subscribers: Subscribers::default() }) })
    }

    /// Reads as of one moment, beside whoever writes.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&Reader::open(&shared.database.begin_read()?)?)).await
    }

    /// Writes all or nothing. redb lets one transaction write at a time, so that whatever `work` reads holds until it has
    /// committed.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || write(&shared, work, |_| ())).await
    }
}

/// `work` in a transaction, and `then` what follows from it whether or not the disk says that it took it.
fn write<T>(
    shared: &Shared,
    work: impl FnOnce(&mut Writer<'_>) -> Result<T, Failure>,
    then: impl FnOnce(&T),
) -> Result<T, Failure> {
    let transaction = shared.database.begin_write()?;
    // Dropped on a failure, the transaction is undone.
    let answer = work(&mut Writer::open(&transaction)?)?;
    let committed = transaction.commit();
    then(&answer);
    committed?;
    Ok(answer)
}

/// Runs to its end whether or not somebody waits for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(stopped) => Err(StoreError::with_source(StoreErrorKind::Unavailable, stopped)),
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let key = *key;
        self.read(move |tables| identity::load(tables, &key)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            // Told here and not behind the `await`, since nobody may be there any more. After the commit, or a cache would
            // ask again too early; also when it failed, since it may be on the disk all the same.
            let tell = |(_, cut_off): &(Vec<Event>, Vec<TokenHash>)| shared.subscribers.tell(cut_off);
            let (events, _) = write(&shared, |tables| identity::commit(tables, commit), tell)?;
            Ok(events)
        })
        .await
    }

    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        let hash = *hash;
        self.read(move |tables| identity::authenticate(tables, &hash)).await
    }

    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let lookup = lookup.clone();
        self.read(move |tables| identity::find(tables, &lookup)).await
    }

    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        let query = query.clone();
        self.read(move |tables| identity::list(tables, &query)).await
    }

    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError> {
        let query = query.clone();
        self.read(move |tables| identity::list_candidates(tables, &query)).await
    }

    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError> {
        let query = query.clone();
        self.read(move |tables| identity::list_install_tokens(tables, &query)).await
    }

    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, StoreError> {
        let query = query.clone();
        self.read(move |tables| identity::list_agent_tokens(tables, &query)).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        let query = query.clone();
        self.read(move |tables| event::list(tables, &query)).await
    }

    async fn last_position(&self) -> Result<Position, StoreError> {
        self.read(event::last_position).await
    }

    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError> {
        self.write(move |tables| contact::append(tables, reports)).await
    }

    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        self.write(move |tables| contact::touch(tables, &contacts)).await
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        self.write(move |tables| liveness::sweep(tables, &sweep)).await
    }

    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        Ok(Some(self.shared.subscribers.add(self.clone())))
    }

    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        let prune = *prune;
        self.write(move |tables| prune::prune(tables, &prune)).await
    }

    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        let query = query.clone();
        self.read(move |tables| contact::list_containers(tables, &query)).await
    }

    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
        let query = query.clone();
        self.read(move |tables| contact::list_telemetry(tables, &query)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        // A write that reaches the disk: a full one shows itself here, and not only with a report.
        self.write(|tables| {
            let probes = tables.meta.get("probes")?.map_or(0, |probes| probes.value());
            tables.meta.insert("probes", probes.wrapping_add(1))?;
            Ok(())
        })
        .await
    }
}
