//! A store that can be watched at its work.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;
use enlist_core::agent_token::AgentToken;
use enlist_core::event::Event;
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, Aggregate, Append, Appended, Commit, Contact, ContainerQuery, ContainerRecord, Credential,
    EventQuery, HostLookup, HostQuery, HostRecord, InstallTokenQuery, Key, Page, StoreError, StoreErrorKind,
    TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{MemoryStore, Store, TokenHash};
use tokio::sync::{Mutex, Notify};

/// `MemoryStore` that counts what caches are for, and holds an answer back.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    inner: MemoryStore,
    reads: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
    /// While somebody holds it, an authentication that has read stops before it returns.
    pub(crate) gate: Arc<Mutex<()>>,
    pub(crate) has_read: Arc<Notify>,
    pub(crate) failing: Arc<AtomicBool>,
}

#[async_trait]
impl Store for Watched {
    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Credential>, StoreError> {
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
        self.inner.load(key).await
    }
    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        self.inner.commit(commit).await
    }
    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        self.inner.find_host(lookup).await
    }
    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        self.inner.list_hosts(query).await
    }
    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError> {
        self.inner.list_install_tokens(query).await
    }
    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentToken>, StoreError> {
        self.inner.list_agent_tokens(query).await
    }
    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        self.inner.list_events(query).await
    }
    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError> {
        self.inner.append(reports).await
    }
    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        self.inner.touch(contacts).await
    }
    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        self.inner.list_containers(query).await
    }
    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
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

    /// How often it was asked whether it works.
    pub(crate) fn checks(&self) -> usize {
        self.checks.load(SeqCst)
    }
}
