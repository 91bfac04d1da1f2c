//! The contract in memory: for tests, for trying things out, and as the plainest reading of what a store does.

mod contact;
mod identity;
mod prune;
mod subscription;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::agent_token::AgentToken;
use crate::clock::Timestamp;
use crate::event::{Event, NewEvent, Position};
use crate::host::{ExternalId, Host, HostName, Status};
use crate::id::{AgentTokenId, HostId, InstallTokenId, TenantId};
use crate::install_token::{Binding, InstallToken};
use crate::liveness::Monitor;
use crate::placement::is_eligible;
use crate::secret::TokenHash;
use crate::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, Candidate, CandidateQuery, Candidates, Commit,
    Contact, ContainerQuery, ContainerRecord, Credential, EventQuery, HostLookup, HostPresence, HostQuery, HostRecord,
    InstallTokenOwner, InstallTokenQuery, Key, Known, Page, Prune, Pruned, Revision, Store, StoreError, Subscription,
    Sweep, Swept, TelemetryQuery, Tombstone,
};
use crate::telemetry::HostSnapshot;

/// A store that keeps everything in memory, under one lock. Clones are handles on the same data.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is checked whole before it is made, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("hosts", &self.state().hosts.len()).finish()
    }
}

#[derive(Default)]
struct State {
    hosts: BTreeMap<HostId, HostEntry>,
    install_tokens: BTreeMap<InstallTokenId, InstallTokenEntry>,
    agent_tokens: BTreeMap<AgentTokenId, AgentTokenEntry>,
    tombstones: HashMap<TokenHash, Tombstone>,
    events: Vec<Event>,
    /// The last one given: events go by age, positions never come back.
    last_position: u64,
    subscribers: subscription::Subscribers,
    monitor: Monitor,
    // What a database would call unique indexes.
    names: HashMap<(TenantId, HostName), HostId>,
    external_ids: HashMap<(TenantId, ExternalId), HostId>,
    install_hashes: HashMap<TokenHash, InstallTokenId>,
    agent_hashes: HashMap<TokenHash, AgentTokenId>,
}

struct HostEntry {
    revision: Revision,
    host: Host,
    install_tokens: BTreeSet<InstallTokenId>,
    agent_tokens: BTreeSet<AgentTokenId>,
    presence: HostPresence,
    last_complete_at: Option<Timestamp>,
    containers: BTreeMap<String, ContainerRecord>,
    snapshots: BTreeMap<Timestamp, HostSnapshot>,
}

struct InstallTokenEntry {
    /// Its own when it is bound to a tenant; otherwise its host's counts.
    revision: Revision,
    token: InstallToken,
}

struct AgentTokenEntry {
    token: AgentToken,
    last_used_at: Option<Timestamp>,
}

impl AgentTokenEntry {
    fn record(&self) -> AgentTokenRecord {
        AgentTokenRecord { token: self.token.clone(), last_used_at: self.last_used_at }
    }
}

impl HostEntry {
    fn record(&self) -> HostRecord {
        HostRecord { revision: self.revision, host: self.host.clone(), presence: self.presence.clone() }
    }
}

impl State {
    /// Appends events, giving them the next positions: under the one lock, so commit order is position order.
    fn append_events(&mut self, events: impl IntoIterator<Item = NewEvent>) -> Vec<Event> {
        let first = self.events.len();
        for event in events {
            self.last_position += 1;
            self.events.push(Event { position: Position::new(self.last_position), event });
        }
        self.events[first..].to_vec()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        Ok(self.state().load(key))
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let mut state = self.state();
        state.check(&commit)?;
        Ok(state.apply(commit))
    }

    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        let state = self.state();
        if let Some(tombstone) = state.tombstones.get(hash) {
            return Ok(Some(Known::Tombstone(*tombstone)));
        }
        let Some(AgentTokenEntry { token, .. }) =
            state.agent_hashes.get(hash).and_then(|id| state.agent_tokens.get(id))
        else {
            return Ok(None);
        };
        Ok(state.hosts.get(&token.host_id).map(|HostEntry { host, .. }| {
            Known::Credential(Box::new(Credential {
                token: token.clone(),
                tenant_id: host.tenant_id.clone(),
                lifecycle: host.lifecycle,
                generation: host.generation,
                liveness_window: host.liveness_window,
            }))
        }))
    }

    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let state = self.state();
        let id = match lookup {
            HostLookup::Id(id) => Some(id),
            HostLookup::ExternalId(tenant, external_id) => {
                state.external_ids.get(&(tenant.clone(), external_id.clone()))
            }
            HostLookup::Name(tenant, name) => state.names.get(&(tenant.clone(), name.clone())),
        };
        Ok(id.and_then(|id| state.hosts.get(id)).map(HostEntry::record))
    }

    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
        let state = self.state();
        let rows = state.hosts.range((after(query.after), Bound::Unbounded)).map(|(_, entry)| entry);
        let matching = rows.filter(|HostEntry { host, presence, .. }| {
            query.scope.shows(&host.tenant_id, Some(host.kind))
                && query.status.is_none_or(|status| status == Status::of(host.lifecycle, presence.presence))
                && query.tag.as_ref().is_none_or(|tag| host.tags.contains(tag))
                && query.kind.is_none_or(|kind| kind == host.kind)
                && query.tenant_id.as_ref().is_none_or(|tenant| *tenant == host.tenant_id)
                && query.name_prefix.as_ref().is_none_or(|prefix| host.name.as_str().starts_with(prefix))
        });
        Ok(page(matching.map(HostEntry::record), query.limit))
    }

    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError> {
        let state = self.state();
        let mut ring: Vec<_> = state.hosts.iter().filter(|(id, _)| query.is_ahead(**id)).collect();
        ring.sort_unstable_by_key(|(id, _)| (id.lot(), **id));
        let more = ring.len() > query.limit;
        ring.truncate(query.limit);
        let next = ring.last().filter(|_| more).map(|(id, _)| **id);
        let records = ring.into_iter().map(|(_, entry)| (entry, entry.record()));
        let items = records.filter(|(_, record)| is_eligible(record, query)).map(|(entry, record)| {
            let newest = record.presence.newest_report_at.and_then(|at| entry.snapshots.get(&at));
            Candidate { metrics: newest.map(|snapshot| snapshot.metrics), record }
        });
        Ok(Candidates { items: items.collect(), next })
    }

    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError> {
        let state = self.state();
        let rows = state.install_tokens.range((after(query.after), Bound::Unbounded)).map(|(_, entry)| &entry.token);
        let matching = rows.filter(|token| match &query.owner {
            InstallTokenOwner::Host(host_id) => token.binding == Binding::Host(*host_id),
            InstallTokenOwner::Tenant(tenant_id) => token.binding == Binding::Tenant && token.tenant_id == *tenant_id,
        });
        Ok(page(matching.cloned(), query.limit))
    }

    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, StoreError> {
        let state = self.state();
        let Some(entry) = state.hosts.get(&query.host_id) else { return Ok(page([].into_iter(), query.limit)) };
        let ids = entry.agent_tokens.range((after(query.after), Bound::Unbounded));
        let rows = ids.map(|id| &state.agent_tokens[id]);
        let matching = rows.filter(|entry| query.lineage_id.is_none_or(|lineage| lineage == entry.token.lineage_id));
        Ok(page(matching.map(AgentTokenEntry::record), query.limit))
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        let state = self.state();
        let from = state.events.partition_point(|event| event.position <= query.after);
        let matching = state.events[from..].iter().filter(|Event { event, .. }| {
            query.scope.shows(&event.tenant_id, event.host_kind)
                && query.host_id.is_none_or(|host| event.host_id == Some(host))
                && query.tenant_id.as_ref().is_none_or(|tenant| *tenant == event.tenant_id)
                && query.kind.is_none_or(|kind| event.host_kind == Some(kind))
                && query.r#type.as_ref().is_none_or(|name| event.body.clone().into_parts().0 == *name)
        });
        Ok(page(matching.cloned(), query.limit))
    }

    async fn last_position(&self) -> Result<Position, StoreError> {
        Ok(self.state().events.last().map_or(Position::START, |event| event.position))
    }

    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError> {
        Ok(self.state().append(reports))
    }

    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        Ok(self.state().touch(contacts))
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        Ok(self.state().sweep(&sweep))
    }

    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        Ok(Some(self.state().subscribers.add()))
    }

    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError> {
        Ok(self.state().prune(prune))
    }

    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError> {
        let state = self.state();
        let Some(entry) = state.hosts.get(&query.host_id) else { return Ok(page([].into_iter(), query.limit)) };
        let rows = entry.containers.range((after(query.after.clone()), Bound::Unbounded)).map(|(_, row)| row);
        let matching = rows.filter(|row| query.removed || row.removed_at.is_none());
        Ok(page(matching.map(|row| entry.container_record(row)), query.limit))
    }

    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError> {
        let state = self.state();
        let rows = state.hosts.get(&query.host_id).into_iter().flat_map(|entry| entry.snapshots.values());
        let matching = rows.filter(|snapshot| {
            let at = snapshot.recorded_at;
            query.from <= at && at < query.to && query.after.is_none_or(|after| at > after)
        });
        let narrowed = matching.map(|snapshot| HostSnapshot {
            containers: (snapshot.containers.iter())
                .filter(|container| query.containers.includes(&container.container_id))
                .cloned()
                .collect(),
            custom: snapshot.custom.clone(),
            agent: snapshot.agent.clone(),
            ..*snapshot
        });
        Ok(page(narrowed, query.limit))
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn after<K>(key: Option<K>) -> Bound<K> {
    key.map_or(Bound::Unbounded, Bound::Excluded)
}

fn page<T>(rows: impl Iterator<Item = T>, limit: usize) -> Page<T> {
    Page::of_overread(rows.take(limit.saturating_add(1)).collect(), limit)
}
