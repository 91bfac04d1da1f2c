//! `MemoryStore` with one thing done wrong.

use std::cell::RefCell;
use std::sync::Arc;

use async_trait::async_trait;
use enlist_core::agent_token::AgentToken;
use enlist_core::conformance::Fixture;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::policy::Scope;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, CandidateQuery, Candidates, Commit, Contact,
    ContainerQuery, ContainerRecord, EventQuery, Expected, HostLookup, HostQuery, HostRecord, InstallTokenQuery, Key,
    Known, Page, Prune, Pruned, Revision, StoreError, StoreErrorKind, Subscription, Sweep, Swept, TelemetryQuery,
    Write,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, MemoryStore, Store, Timestamp};

/// Declares `Fault` and has `Twin` ask it, from one list of the verbs of a store.
macro_rules! verbs {
    ($($verb:ident($($arg:ident: $ty:ty)?) -> $out:ty;)*) => {
        /// What a twin does otherwise than the store that it wraps; whatever is not said here, it does right.
        #[async_trait]
        pub(crate) trait Fault: Send + Sync + 'static {
            /// The fault of another handle, if each has a state of its own; otherwise they share this one.
            fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
                None
            }
            $(
                async fn $verb(&self, store: &MemoryStore $(, $arg: $ty)?) -> Result<$out, StoreError> {
                    store.$verb($($arg)?).await
                }
            )*
        }

        #[async_trait]
        impl Store for Twin {
            $(
                async fn $verb(&self $(, $arg: $ty)?) -> Result<$out, StoreError> {
                    self.fault.$verb(&self.store $(, $arg)?).await
                }
            )*
        }
    };
}

verbs! {
    load(key: &Key) -> Option<Aggregate>;
    commit(commit: Commit) -> Vec<Event>;
    authenticate(hash: &enlist_core::TokenHash) -> Option<Known>;
    find_host(lookup: &HostLookup) -> Option<HostRecord>;
    list_hosts(query: &HostQuery) -> Page<HostRecord>;
    list_candidates(query: &CandidateQuery) -> Candidates;
    list_install_tokens(query: &InstallTokenQuery) -> Page<InstallToken>;
    list_agent_tokens(query: &AgentTokenQuery) -> Page<AgentTokenRecord>;
    list_events(query: &EventQuery) -> Page<Event>;
    last_position() -> Position;
    append(reports: Vec<Append>) -> Appended;
    touch(contacts: Vec<Contact>) -> Vec<Event>;
    sweep(sweep: Sweep) -> Swept;
    subscribe() -> Option<Box<dyn Subscription>>;
    prune(prune: &Prune) -> Pruned;
    list_containers(query: &ContainerQuery) -> Page<ContainerRecord>;
    list_telemetry(query: &TelemetryQuery) -> Page<HostSnapshot>;
    check() -> ();
}

/// `MemoryStore` with a fault. As a fixture it is the first handle on its data.
#[derive(Clone)]
pub(crate) struct Twin {
    store: MemoryStore,
    fault: Arc<dyn Fault>,
}

pub(crate) type MakeFault = fn() -> Arc<dyn Fault>;

thread_local! {
    /// What the next fresh fixture of this thread is to have: with one type for all twins, the suite is compiled once.
    pub(crate) static FAULT: RefCell<MakeFault> = RefCell::new(|| Arc::new(Sound));
}

impl Fixture for Twin {
    type Store = Self;

    async fn fresh() -> Self {
        Self { store: MemoryStore::new(), fault: FAULT.with_borrow(|make| make()) }
    }

    async fn handle(&self) -> Self {
        Self { fault: self.fault.of_another_handle().unwrap_or_else(|| self.fault.clone()), ..self.clone() }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime of one thread can be built")
            .block_on(future)
    }
}

/// No fault at all.
pub(crate) struct Sound;

impl Fault for Sound {}

/// Declares faults, each a unit struct with the verbs that it gets wrong.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident { $($verbs:item)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Default)]
            struct $name;

            #[async_trait]
            impl Fault for $name { $($verbs)* }
        )*
    };
}

/// Declares the twins of a module: a test of each, and the list of what catches which.
macro_rules! twins {
    ($($twin:ident: $fault:expr => [$($property:literal),* $(,)?],)*) => {
        /// The properties that catch each twin.
        pub(crate) const CAUGHT: &[&[&str]] = &[$(&[$($property),*]),*];

        $(
            #[test]
            fn $twin() {
                $crate::assert_caught(|| std::sync::Arc::new($fault), &[$($property),*]);
            }
        )*
    };
}

pub(crate) use {faults, twins};

/// The aggregate that a write is about, its guard, and its revision now.
pub(crate) async fn guard(store: &MemoryStore, write: &Write) -> (Expected, Option<Revision>) {
    let (key, expected) = match write {
        Write::Host(write) => (Key::Host(write.host.id), write.expected),
        Write::TenantInstallToken { expected, token } => (Key::InstallTokenId(token.id), *expected),
        Write::HostDeletion { expected, host_id, .. } => (Key::Host(*host_id), Expected::Revision(*expected)),
    };
    let revision = store.load(&key).await.expect("memory answers").map(|aggregate| match aggregate {
        Aggregate::Host(host) => host.revision,
        Aggregate::TenantInstallToken(token) => token.revision,
    });
    (expected, revision)
}

/// Answers a commit that is refused with `kind` as if it had succeeded.
pub(crate) async fn accept(
    store: &MemoryStore,
    commit: Commit,
    kind: StoreErrorKind,
) -> Result<Vec<Event>, StoreError> {
    match store.commit(commit).await {
        Err(error) if error.kind() == kind => Ok(Vec::new()),
        answer => answer,
    }
}

pub(crate) fn set_guard(write: &mut Write, guard: Expected) {
    match (write, guard) {
        (Write::Host(write), guard) => write.expected = guard,
        (Write::TenantInstallToken { expected, .. }, guard) => *expected = guard,
        (Write::HostDeletion { expected, .. }, Expected::Revision(revision)) => *expected = revision,
        (Write::HostDeletion { .. }, Expected::Absent) => {}
    }
}

/// Whether a commit is not refused for its guards, so that a fault in uniqueness does not get before a conflict.
pub(crate) async fn guards_hold(store: &MemoryStore, commit: &Commit) -> bool {
    for write in &commit.writes {
        let holds = match guard(store, write).await {
            (Expected::Absent, now) => now.is_none(),
            (Expected::Revision(expected), now) => now == Some(expected),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// `commit` with guards that hold, wherever the aggregate is there.
pub(crate) async fn unguarded(store: &MemoryStore, mut commit: Commit) -> Commit {
    for write in &mut commit.writes {
        if let (Expected::Revision(_), Some(revision)) = guard(store, write).await {
            set_guard(write, Expected::Revision(revision));
        }
    }
    commit
}

/// The agent tokens that a commit writes.
pub(crate) fn agent_tokens(commit: &Commit) -> impl Iterator<Item = &AgentToken> {
    commit.writes.iter().flat_map(|write| match write {
        Write::Host(write) => &write.agent_tokens[..],
        _ => &[],
    })
}

pub(crate) async fn all_hosts(store: &MemoryStore) -> Vec<HostRecord> {
    store.list_hosts(&HostQuery::new(Scope::All, usize::MAX)).await.expect("memory answers").items
}

pub(crate) async fn tokens_of(store: &MemoryStore, host_id: HostId) -> Vec<AgentToken> {
    let query = AgentTokenQuery::new(host_id, usize::MAX);
    let records = store.list_agent_tokens(&query).await.expect("memory answers").items;
    records.into_iter().map(|record| record.token).collect()
}

pub(crate) async fn record(store: &MemoryStore, id: HostId) -> Option<HostRecord> {
    store.find_host(&HostLookup::Id(id)).await.expect("memory answers")
}

/// A page of rows that were read whole.
pub(crate) fn page<T>(rows: impl IntoIterator<Item = T>, limit: usize) -> Page<T> {
    Page::of_overread(rows.into_iter().take(limit.saturating_add(1)).collect(), limit)
}

/// Keeps everything.
pub(crate) fn prune_nothing(now: Timestamp) -> Prune {
    Prune {
        now,
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: usize::MAX,
    }
}
