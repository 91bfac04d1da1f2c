//! A store whose process can be killed before and after each commit.

use std::sync::Arc;

use async_trait::async_trait;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, CandidateQuery, Candidates, Commit, Contact,
    ContainerQuery, ContainerRecord, EventQuery, HostLookup, HostQuery, HostRecord, InstallTokenQuery, Key, Known,
    Page, Prune, Pruned, StoreError, StoreErrorKind, Subscription, Sweep, Swept, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{Store, TokenHash};

use crate::faults::Faults;

/// The store as one server process sees it. What a killed server had under way is done or not, and nobody is told.
pub(crate) struct Killable {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) faults: Faults,
}

#[async_trait]
impl Store for Killable {
    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let what: Vec<_> = commit.events.iter().map(|event| event.body.clone().into_parts().0).collect();
        let what = what.join(", ");
        if self.faults.server(format!("server killed before it commits {what}")) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let result = self.inner.commit(commit).await;
        if result.is_ok() && self.faults.server(format!("server killed after it has committed {what}")) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        result
    }

    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        self.inner.load(key).await
    }
    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        self.inner.authenticate(hash).await
    }
    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        self.inner.find_host(lookup).await
    }
    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        self.inner.list_hosts(query).await
    }
    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError> {
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
        self.inner.append(reports).await
    }
    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        self.inner.touch(contacts).await
    }
    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        self.inner.sweep(sweep).await
    }
    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        self.inner.subscribe().await
    }
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        self.inner.prune(prune).await
    }
    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        self.inner.list_containers(query).await
    }
    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
        self.inner.list_telemetry(query).await
    }
    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}
