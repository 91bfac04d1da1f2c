//! A store that can be watched at its work.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, AppendOutcome, Appended, CandidateQuery, Candidates, Change,
    Commit, Contact, ContainerQuery, ContainerRecord, EventQuery, HostLookup, HostQuery, HostRecord, InstallTokenQuery,
    Key, Known, Page, Prune, Pruned, StoreError, StoreErrorKind, Subscription, Sweep, Swept, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, MemoryStore, Store, Timestamp, TokenHash};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

/// `MemoryStore` that counts what caches are for, and holds an answer back.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    inner: MemoryStore,
    reads: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
    pub(crate) finds: Arc<AtomicUsize>,
    /// While somebody holds it, an authentication that has read stops before it returns.
    pub(crate) gate: Arc<Mutex<()>>,
    pub(crate) has_read: Arc<Notify>,
    pub(crate) failing: Arc<AtomicBool>,
    /// So many commits find that somebody else was quicker.
    pub(crate) conflicts: Arc<AtomicUsize>,
    /// It cannot tell of changes.
    pub(crate) mute: Arc<AtomicBool>,
    /// Its subscriptions fail.
    pub(crate) deaf: Arc<AtomicBool>,
    /// Its subscriptions neither answer nor fail.
    pub(crate) hanging: Arc<AtomicBool>,
    /// Its subscriptions tell of nothing before they are asked.
    pub(crate) lazy: Arc<AtomicBool>,
    /// When the reports of each transaction were measured.
    pub(crate) appended: Arc<std::sync::Mutex<Vec<Vec<Timestamp>>>>,
    /// Reports of these times cannot be stored.
    pub(crate) unstorable: Arc<std::sync::Mutex<HashMap<Timestamp, StoreErrorKind>>>,
    /// Transactions that begin with a report of one of these times fail.
    pub(crate) refused: Arc<std::sync::Mutex<HashMap<Timestamp, StoreErrorKind>>>,
    /// While somebody holds it, reports are not stored, nor refused.
    pub(crate) stalled: Arc<Mutex<()>>,
    /// Contacts cannot be written.
    pub(crate) untouchable: Arc<AtomicBool>,
    /// How the next writes of contacts fail.
    pub(crate) touches: Arc<std::sync::Mutex<VecDeque<StoreErrorKind>>>,
    /// Who has loaded a host lets others go first.
    pub(crate) polite: Arc<AtomicBool>,
    /// So many sweeps fail.
    pub(crate) unswept: Arc<AtomicUsize>,
    /// It has more hosts than anybody could look at, and none may take work.
    pub(crate) endless: Arc<AtomicBool>,
    /// How often candidates were asked for.
    pub(crate) looks: Arc<AtomicUsize>,
    /// Which stored reports were asked for.
    pub(crate) ranges: Arc<std::sync::Mutex<Vec<TelemetryQuery>>>,
    told: Arc<std::sync::Mutex<VecDeque<Change>>>,
    telling: Arc<Notify>,
}

/// A subscription that does as the store says.
struct Ear {
    store: Watched,
    inner: Box<dyn Subscription>,
    synced: bool,
}

#[async_trait]
impl Subscription for Ear {
    async fn next(&mut self) -> Change {
        loop {
            if !self.store.lazy.load(SeqCst) || self.synced {
                if let Some(change) = self.store.told.lock().unwrap().pop_front() {
                    return change;
                }
                self.synced = false;
            }
            tokio::select! {
                change = self.inner.next() => return change,
                () = self.store.telling.notified() => {}
            }
        }
    }

    async fn sync(&mut self) -> Result<(), StoreError> {
        if self.store.hanging.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.store.deaf.load(SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        self.synced = true;
        self.inner.sync().await
    }
}

#[async_trait]
impl Store for Watched {
    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        self.reads.fetch_add(1, SeqCst);
        if self.failing.load(SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let found = self.inner.authenticate(hash).await;
        self.has_read.notify_one();
        let _open = self.gate.lock().await;
        found
    }
    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let loaded = self.inner.load(key).await;
        if self.polite.load(SeqCst) {
            tokio::task::yield_now().await;
        }
        loaded
    }
    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        if self.conflicts.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(StoreErrorKind::Conflict.into());
        }
        self.inner.commit(commit).await
    }
    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        self.finds.fetch_add(1, SeqCst);
        self.inner.find_host(lookup).await
    }
    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        self.inner.list_hosts(query).await
    }
    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError> {
        self.looks.fetch_add(1, SeqCst);
        if self.endless.load(SeqCst) {
            return Ok(Candidates { items: Vec::new(), next: Some(HostId::from_uuid(Uuid::from_u128(1))) });
        }
        self.inner.list_candidates(query).await
    }
    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError> {
        self.inner.list_install_tokens(query).await
    }
    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, StoreError> {
        self.inner.list_agent_tokens(query).await
    }
    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        self.inner.list_events(query).await
    }
    async fn last_position(&self) -> Result<Position, StoreError> {
        self.inner.last_position().await
    }
    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let times: Vec<_> = reports.iter().map(|append| append.report.recorded_at).collect();
        if let Some(kind) = self.refused.lock().unwrap().get(&times[0]) {
            return Err((*kind).into());
        }
        drop(self.stalled.lock().await);
        self.appended.lock().unwrap().push(times.clone());
        let unstorable = self.unstorable.lock().unwrap().clone();
        let storable = reports.into_iter().filter(|append| !unstorable.contains_key(&append.report.recorded_at));
        let mut appended = self.inner.append(storable.collect()).await?;
        let mut stored = appended.outcomes.into_iter();
        appended.outcomes = times
            .iter()
            .map(|time| match unstorable.get(time) {
                Some(kind) => AppendOutcome::Failed((*kind).into()),
                None => stored.next().expect("the others were stored"),
            })
            .collect();
        Ok(appended)
    }
    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        if self.untouchable.load(SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let failure = self.touches.lock().unwrap().pop_front();
        if let Some(kind) = failure {
            return Err(kind.into());
        }
        self.inner.touch(contacts).await
    }
    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        if self.unswept.try_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(StoreErrorKind::Unavailable.into());
        }
        self.inner.sweep(sweep).await
    }
    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        if self.mute.load(SeqCst) {
            return Ok(None);
        }
        if self.deaf.load(SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let inner = self.inner.subscribe().await?.expect("memory can tell");
        Ok(Some(Box::new(Ear { store: self.clone(), inner, synced: false })))
    }
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        self.inner.prune(prune).await
    }
    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        self.inner.list_containers(query).await
    }
    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
        self.ranges.lock().unwrap().push(query.clone());
        self.inner.list_telemetry(query).await
    }
    async fn check(&self) -> Result<(), StoreError> {
        self.checks.fetch_add(1, SeqCst);
        self.inner.check().await
    }
}

impl Watched {
    /// How often a credential was read.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(SeqCst)
    }

    /// Tells every subscription, as if somebody else had changed something.
    pub(crate) fn tell(&self, change: Change) {
        self.told.lock().unwrap().push_back(change);
        self.telling.notify_waiters();
    }

    /// How often it was asked whether it works.
    pub(crate) fn checks(&self) -> usize {
        self.checks.load(SeqCst)
    }
}
