//! Deletions that leave too much, or too little.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Append, AppendOutcome, Appended, Commit, ContainerQuery, ContainerRecord,
    EventQuery, Known, Page, StoreError, TelemetryQuery, Write,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, MemoryStore, Store, Timestamp, TokenHash};

use crate::twin::{Fault, faults, page, tokens_of, twins};

fn deleted(commit: &Commit) -> Vec<HostId> {
    let of = |write: &Write| match write {
        Write::HostDeletion { host_id, .. } => Some(*host_id),
        _ => None,
    };
    commit.writes.iter().filter_map(of).collect()
}

faults! {
    /// Whoever presents the token of a deleted host is told that it is unknown.
    NoTombstones {
        async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
            Ok(store.authenticate(hash).await?.filter(|known| !matches!(known, Known::Tombstone(_))))
        }
    }

    /// Events have a foreign key that cascades.
    EventsGoWithTheirHost {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let events = store.list_events(&EventQuery { limit: usize::MAX, ..query.clone() }).await?.items;
            let mut kept = Vec::new();
            let gone = events_of_deletions(store).await;
            for event in events {
                if !event.event.host_id.is_some_and(|id| gone.contains(&id)) {
                    kept.push(event);
                }
            }
            Ok(page(kept, query.limit))
        }
    }

    /// What stands behind a deletion in its commit is not written.
    DeletionsEndTheCommit {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            if let Some(at) = commit.writes.iter().position(|write| matches!(write, Write::HostDeletion { .. })) {
                commit.writes.truncate(at + 1);
            }
            store.commit(commit).await
        }
    }
}

/// The hosts whose deletion is among the events.
async fn events_of_deletions(store: &MemoryStore) -> Vec<HostId> {
    let query = EventQuery {
        r#type: Some("host.deleted".into()),
        ..EventQuery::new(enlist_core::policy::Scope::All, usize::MAX)
    };
    let events = store.list_events(&query).await.expect("memory answers").items;
    events.into_iter().filter_map(|event| event.event.host_id).collect()
}

/// Only live tokens leave a tombstone.
#[derive(Default)]
struct TombstonesOfFinalTokensAreMissing(Mutex<Vec<TokenHash>>);

#[async_trait]
impl Fault for TombstonesOfFinalTokensAreMissing {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let mut hashes = Vec::new();
        for id in deleted(&commit) {
            hashes.extend(tokens_of(store, id).await.into_iter().filter(|t| !t.is_live()).map(|t| t.hash));
        }
        let written = store.commit(commit).await?;
        self.0.lock().unwrap().extend(hashes);
        Ok(written)
    }
    async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        let missing = self.0.lock().unwrap().contains(hash);
        if missing { Ok(None) } else { store.authenticate(hash).await }
    }
}

/// What a deletion leaves behind.
#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    AgentTokens,
    Telemetry,
    Containers,
    /// Reports are taken as if nothing had happened.
    AnOpenDoor,
}

/// What was there of a host when it was deleted.
#[derive(Default)]
struct Remains {
    tokens: Vec<AgentTokenRecord>,
    telemetry: Vec<HostSnapshot>,
    containers: Vec<ContainerRecord>,
}

/// A deletion takes the host's row, and leaves others.
struct Leftovers(Leaves, Mutex<HashMap<HostId, Remains>>);

impl Leftovers {
    fn of(leaves: Leaves) -> Self {
        Self(leaves, Mutex::default())
    }

    fn read<T: Clone>(&self, leaves: Leaves, id: HostId, rows: impl Fn(&Remains) -> &Vec<T>) -> Option<Vec<T>> {
        let remains = self.1.lock().unwrap();
        remains.get(&id).filter(|_| self.0 == leaves).map(|remains| rows(remains).clone())
    }
}

#[async_trait]
impl Fault for Leftovers {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let mut all = HashMap::new();
        for host_id in deleted(&commit) {
            let limit = usize::MAX;
            let query = TelemetryQuery::new(host_id, Timestamp::MIN, Timestamp::MAX, limit);
            let telemetry = store.list_telemetry(&query).await?.items;
            let query = ContainerQuery { host_id, removed: true, after: None, limit };
            let containers = store.list_containers(&query).await?.items;
            let tokens = store.list_agent_tokens(&AgentTokenQuery::new(host_id, limit)).await?.items;
            all.insert(host_id, Remains { tokens, telemetry, containers });
        }
        let written = store.commit(commit).await?;
        self.1.lock().unwrap().extend(all);
        Ok(written)
    }
    async fn list_agent_tokens(
        &self,
        store: &MemoryStore,
        query: &AgentTokenQuery,
    ) -> Result<Page<AgentTokenRecord>, StoreError> {
        match self.read(Leaves::AgentTokens, query.host_id, |remains| &remains.tokens) {
            Some(rows) => Ok(page(rows, query.limit)),
            None => store.list_agent_tokens(query).await,
        }
    }
    async fn list_telemetry(
        &self,
        store: &MemoryStore,
        query: &TelemetryQuery,
    ) -> Result<Page<HostSnapshot>, StoreError> {
        match self.read(Leaves::Telemetry, query.host_id, |remains| &remains.telemetry) {
            Some(rows) => Ok(page(rows, query.limit)),
            None => store.list_telemetry(query).await,
        }
    }
    async fn list_containers(
        &self,
        store: &MemoryStore,
        query: &ContainerQuery,
    ) -> Result<Page<ContainerRecord>, StoreError> {
        match self.read(Leaves::Containers, query.host_id, |remains| &remains.containers) {
            Some(rows) => Ok(page(rows, query.limit)),
            None => store.list_containers(query).await,
        }
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let hosts: Vec<_> = reports.iter().map(|report| report.contact.host_id).collect();
        let mut appended = store.append(reports).await?;
        for (outcome, id) in appended.outcomes.iter_mut().zip(hosts) {
            if self.0 == Leaves::AnOpenDoor && self.1.lock().unwrap().contains_key(&id) {
                *outcome = AppendOutcome::Accepted;
            }
        }
        Ok(appended)
    }
}

twins! {
    no_tombstones: NoTombstones => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::old_tombstones_go_and_younger_ones_stay",
    ],
    tombstones_of_final_tokens_are_missing: TombstonesOfFinalTokensAreMissing::default() => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
    ],
    events_go_with_their_host: EventsGoWithTheirHost => [
        "deletion::what_a_deleted_host_reported_is_not_read_out",
        "prune::a_step_is_bounded_and_says_what_is_left",
        "round_trip::every_event_body",
    ],
    deletions_end_the_commit: DeletionsEndTheCommit => [
        "deletion::a_deletion_frees_the_name_and_the_external_id",
    ],
    deletions_leave_agent_tokens: Leftovers::of(Leaves::AgentTokens) => [
        "deletion::a_deleted_host_is_gone_with_its_tokens",
    ],
    deletions_leave_telemetry: Leftovers::of(Leaves::Telemetry) => [
        "deletion::what_a_deleted_host_reported_is_not_read_out",
    ],
    deletions_leave_containers: Leftovers::of(Leaves::Containers) => [
        "deletion::what_a_deleted_host_reported_is_not_read_out",
    ],
    deleted_hosts_take_reports: Leftovers::of(Leaves::AnOpenDoor) => [
        "deletion::a_deleted_host_takes_no_report",
    ],
}
