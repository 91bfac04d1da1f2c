//! The model: what a store should hold, in plain maps.

use std::collections::{BTreeMap, BTreeSet};

use super::super::candidate;
use super::super::last_use::GRAIN;
use super::super::sample::{self, at};
use super::{Agreement, Disagreement, agree};
use crate::agent_token::AgentToken;
use crate::clock::Timestamp;
use crate::container::Container;
use crate::event::{Event, NewEvent, Position};
use crate::host::{Host, Presence, Status, Tag};
use crate::id::{AgentTokenId, HostId, InstallTokenId, TenantId};
use crate::install_token::{InstallToken, InstallTokenState};
use crate::placement::is_eligible;
use crate::policy::Scope;
use crate::secret::TokenHash;
use crate::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, CandidateQuery, Commit, Contact, ContainerQuery, ContainerRecord,
    Credential, EventQuery, Expected, HostAggregate, HostLookup, HostPresence, HostQuery, HostRecord, HostWrite,
    InstallTokenQuery, Key, Known, Presented, Revision, Silence, Store, StoreErrorKind, TelemetryQuery, Tombstone,
    Write, came_online, went_silent,
};
use crate::telemetry::{HostFacts, HostSnapshot, Report};

/// Everything that one sequence has made.
pub(super) struct World {
    /// Of this sequence alone, so that many can share a store.
    pub(super) tenant: TenantId,
    pub(super) now: Timestamp,
    pub(super) hosts: BTreeMap<HostId, Inhabitant>,
    pub(super) tombstones: BTreeMap<TokenHash, Tombstone>,
    pub(super) events: Vec<NewEvent>,
    /// Every host, install token and agent token ever made, in the order of their making: steps point into these.
    pub(super) all_hosts: Vec<Host>,
    pub(super) all_install_tokens: Vec<InstallToken>,
    pub(super) all_agent_tokens: Vec<AgentToken>,
    /// The hashes that agents draw: few enough to meet again.
    pub(super) claims: Vec<TokenHash>,
    /// What hosts are tagged with: of this sequence alone.
    pub(super) tag: Tag,
    last_position: Position,
    /// The last uses that were read, which later ones must not fall below.
    shown_uses: BTreeMap<AgentTokenId, Timestamp>,
}

/// A host, and all that is its own.
pub(super) struct Inhabitant {
    pub(super) revision: Revision,
    pub(super) host: Host,
    pub(super) install_tokens: BTreeMap<InstallTokenId, InstallToken>,
    pub(super) agent_tokens: BTreeMap<AgentTokenId, AgentToken>,
    /// The latest use of those that were used.
    last_uses: BTreeMap<AgentTokenId, Timestamp>,
    presence: Presence,
    facts: HostFacts,
    newest_report_at: Option<Timestamp>,
    newest_complete_at: Option<Timestamp>,
    containers_version: u64,
    pub(super) containers: BTreeMap<String, ContainerRecord>,
    pub(super) snapshots: BTreeMap<Timestamp, HostSnapshot>,
}

impl Inhabitant {
    fn new(host: Host) -> Self {
        Self {
            revision: Revision::FIRST,
            host,
            install_tokens: BTreeMap::new(),
            agent_tokens: BTreeMap::new(),
            last_uses: BTreeMap::new(),
            presence: Presence::Pending,
            facts: HostFacts::default(),
            newest_report_at: None,
            newest_complete_at: None,
            containers_version: 0,
            containers: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        }
    }

    pub(super) fn issued(&self) -> Option<&InstallToken> {
        self.install_tokens.values().find(|token| matches!(token.state, InstallTokenState::Issued))
    }

    pub(super) fn live_tokens(&self) -> impl Iterator<Item = &AgentToken> {
        self.agent_tokens.values().filter(|token| token.is_live())
    }

    pub(super) fn aggregate(&self, presented: Presented) -> HostAggregate {
        HostAggregate {
            revision: self.revision,
            host: self.host.clone(),
            install_token: self.issued().cloned(),
            agent_tokens: self.live_tokens().cloned().collect(),
            presented,
        }
    }

    fn record(&self) -> HostRecord {
        let presence = HostPresence {
            presence: self.presence,
            facts: self.facts.clone(),
            newest_report_at: self.newest_report_at,
            containers_version: self.containers_version,
        };
        HostRecord { revision: self.revision, host: self.host.clone(), presence }
    }

    /// Notes a contact; the event that has to come of it. Archived hosts are passed over.
    pub(super) fn hear(&mut self, contact: &Contact) -> Option<NewEvent> {
        if self.host.is_archived() {
            return None;
        }
        if self.agent_tokens.contains_key(&contact.token_id) {
            let last_use = self.last_uses.entry(contact.token_id).or_insert(contact.at);
            *last_use = contact.at.max(*last_use);
        }
        let before = self.presence;
        self.presence = before.contact(contact.at);
        came_online(contact, &self.host.tenant_id, self.host.kind, before, self.presence)
    }

    /// Makes a verdict of silence, if it holds; the event that has to come of it. Archived hosts fall without one.
    pub(super) fn judge(&mut self, silence: &Silence) -> Option<NewEvent> {
        let before = self.presence;
        self.presence = silence.rule.judge(before, self.host.liveness_window);
        let event = went_silent(silence, &self.host.tenant_id, self.host.kind, before, self.presence);
        event.filter(|_| !self.host.is_archived())
    }

    /// Takes a report that is not stored yet.
    pub(super) fn take_report(&mut self, report: &Report, received_at: Timestamp) {
        self.snapshots.insert(report.recorded_at, HostSnapshot::of(report, received_at));
        if self.newest_report_at.is_some_and(|newest| newest >= report.recorded_at) {
            return;
        }
        self.newest_report_at = Some(report.recorded_at);
        if let Some(facts) = &report.host.facts {
            self.facts.merge(facts);
        }
        let before = self.containers.clone();
        let named: BTreeSet<_> = report.containers.iter().map(|container| container.container_id.clone()).collect();
        let known_complete = self.newest_complete_at;
        let gone = |id: &String, row: &ContainerRecord| {
            report.containers_complete && !named.contains(id) && row.removed_at.is_none()
        };
        for (id, row) in &mut self.containers {
            if gone(id, row) {
                row.last_seen_at = row.last_seen_at.max(known_complete.unwrap_or(row.last_seen_at));
                row.removed_at = Some(received_at);
            }
        }
        for said in &report.containers {
            let container = Container { metrics: None, ..said.clone() };
            let known = self.containers.get(&said.container_id);
            if known.is_some_and(|row| row.removed_at.is_none() && row.container.describes_same(&container)) {
                continue;
            }
            let first_seen_at = known.map_or(received_at, |row| row.first_seen_at);
            let row = ContainerRecord { container, first_seen_at, last_seen_at: received_at, removed_at: None };
            self.containers.insert(said.container_id.clone(), row);
        }
        if report.containers_complete {
            self.newest_complete_at = Some(received_at);
        }
        // Each report that writes any row raises the version once.
        self.containers_version += u64::from(before != self.containers);
    }

    pub(super) fn prune_containers(&mut self, before: Timestamp) {
        let count = self.containers.len();
        self.containers.retain(|_, row| row.removed_at.is_none_or(|at| at >= before));
        self.containers_version += u64::from(self.containers.len() < count);
    }

    /// The rows as they are read: with the numbers of the newest report, and the time of the newest complete one.
    fn container_records(&self) -> Vec<ContainerRecord> {
        let newest = self.newest_report_at.and_then(|at| self.snapshots.get(&at));
        let numbers = |id: &str| newest?.containers.iter().find(|c| c.container_id == id).map(|c| c.metrics);
        let rows = self.containers.values().map(|row| {
            let metrics = numbers(&row.container.container_id);
            let complete = self.newest_complete_at.filter(|_| row.removed_at.is_none());
            ContainerRecord {
                container: Container { metrics, ..row.container.clone() },
                last_seen_at: complete.map_or(row.last_seen_at, |at| at.max(row.last_seen_at)),
                ..row.clone()
            }
        });
        rows.collect()
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            tenant: sample::tenant(&sample::hash().to_hex()),
            now: at(0),
            hosts: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            events: Vec::new(),
            all_hosts: Vec::new(),
            all_install_tokens: Vec::new(),
            all_agent_tokens: Vec::new(),
            claims: (0..12).map(|_| sample::hash()).collect(),
            tag: Tag::new(sample::hash().to_hex()).expect("digits are a tag"),
            last_position: Position::START,
            shown_uses: BTreeMap::new(),
        }
    }

    /// Whether any agent token ever had this hash, as long as anybody remembers.
    pub(super) fn is_seen(&self, hash: &TokenHash) -> bool {
        self.tombstones.contains_key(hash)
            || self.hosts.values().any(|entry| entry.agent_tokens.values().any(|token| token.hash == *hash))
    }

    /// What a store has to say to a commit: guards first, then clashes, in the order of the writes.
    fn foresee(&self, commit: &Commit) -> Result<(), StoreErrorKind> {
        for write in &commit.writes {
            let (id, expected) = match write {
                Write::Host(write) => (write.host.id, write.expected),
                Write::HostDeletion { host_id, expected, .. } => (*host_id, Expected::Revision(*expected)),
                Write::TenantInstallToken { .. } => unreachable!("no step writes one"),
            };
            let holds = match (expected, self.hosts.get(&id)) {
                (Expected::Absent, entry) => entry.is_none(),
                (Expected::Revision(revision), entry) => entry.is_some_and(|entry| entry.revision == revision),
            };
            if !holds {
                return Err(StoreErrorKind::Conflict);
            }
        }
        for write in &commit.writes {
            let Write::Host(write) = write else { continue };
            let others = || self.hosts.values().map(|entry| &entry.host).filter(|other| other.id != write.host.id);
            let named = |other: &Host| !other.is_archived() && other.name == write.host.name;
            if !write.host.is_archived() && others().any(named) {
                return Err(StoreErrorKind::NameTaken);
            }
            if write.host.external_id.is_some() && others().any(|other| other.external_id == write.host.external_id) {
                return Err(StoreErrorKind::ExternalIdTaken);
            }
            let known = |token: &AgentToken| self.hosts.values().any(|e| e.agent_tokens.contains_key(&token.id));
            if write.agent_tokens.iter().any(|token| !known(token) && self.is_seen(&token.hash)) {
                return Err(StoreErrorKind::HashSeen);
            }
        }
        Ok(())
    }

    /// Commits, and holds the answer against what was foreseen. Says whether it was accepted.
    pub(super) async fn commit(&mut self, store: &impl Store, commit: Commit) -> Agreement<bool> {
        let foreseen = self.foresee(&commit);
        match store.commit(commit.clone()).await {
            Ok(events) => {
                agree("the answer to a commit", Ok(()), foreseen)?;
                self.tell(&events, commit.events.clone())?;
                commit.writes.into_iter().for_each(|write| self.apply(write));
                Ok(true)
            }
            Err(error) => {
                agree("the answer to a commit", Err(error.kind()), foreseen)?;
                Ok(false)
            }
        }
    }

    /// Takes events that a store has given positions to.
    pub(super) fn tell(&mut self, written: &[Event], expected: Vec<NewEvent>) -> Agreement {
        let plain: Vec<_> = written.iter().map(|event| event.event.clone()).collect();
        agree("the events written", &plain, &expected)?;
        for event in written {
            if event.position <= self.last_position {
                return Err(Disagreement(format!("{} comes after {}", event.position, self.last_position)));
            }
            self.last_position = event.position;
        }
        self.events.extend(expected);
        Ok(())
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Host(write) => {
                let HostWrite { expected, host, install_tokens, agent_tokens, facts } = *write;
                let entry = self.hosts.entry(host.id).or_insert_with(|| Inhabitant::new(host.clone()));
                entry.revision = expected.next();
                entry.host = host;
                entry.install_tokens.extend(install_tokens.into_iter().map(|token| (token.id, token)));
                entry.agent_tokens.extend(agent_tokens.into_iter().map(|token| (token.id, token)));
                if let Some(facts) = facts.filter(|_| entry.newest_report_at.is_none()) {
                    entry.facts.merge(&facts);
                }
            }
            Write::HostDeletion { host_id, at, .. } => {
                let Some(entry) = self.hosts.remove(&host_id) else { return };
                for token in entry.agent_tokens.into_values() {
                    self.tombstones.insert(token.hash, Tombstone { token_id: token.id, host_id, deleted_at: at });
                }
            }
            Write::TenantInstallToken { .. } => unreachable!("no step writes one"),
        }
    }

    /// What the store holds of one host, looked at from several sides.
    pub(super) async fn host_agrees(&self, store: &impl Store, host_id: HostId) -> Agreement {
        let entry = self.hosts.get(&host_id);
        let loaded = store.load(&Key::Host(host_id)).await?;
        let expected = entry.map(|entry| Aggregate::Host(Box::new(entry.aggregate(Presented::Nothing))));
        agree("a host's aggregate", loaded, expected)?;
        agree("a host", store.find_host(&HostLookup::Id(host_id)).await?, entry.map(Inhabitant::record))
    }

    /// The host's agent tokens as they are listed, with last uses that lag by a minute at most and never go back.
    pub(super) async fn tokens_agree(&mut self, store: &impl Store, host_id: HostId) -> Agreement {
        let entry = self.hosts.get(&host_id);
        let records = store.list_agent_tokens(&AgentTokenQuery::new(host_id, 500)).await?.items;
        let tokens = entry.map_or(Vec::new(), |entry| entry.agent_tokens.values().cloned().collect());
        agree("the agent tokens", records.iter().map(|record| record.token.clone()).collect(), tokens)?;
        for AgentTokenRecord { token, last_used_at } in records {
            let latest = entry.and_then(|entry| entry.last_uses.get(&token.id).copied());
            let known = self.shown_uses.get(&token.id).copied();
            let earliest = latest.map(|at| at.saturating_sub(GRAIN)).max(known);
            if last_used_at < earliest || last_used_at > latest {
                let (id, between) = (token.id, (earliest, latest));
                return Err(Disagreement(format!("{id} was last used {last_used_at:?}, which is not in {between:?}")));
            }
            self.shown_uses.extend(last_used_at.map(|at| (token.id, at)));
        }
        Ok(())
    }

    /// The same by lineage.
    async fn lineages_agree(&self, store: &impl Store, host_id: HostId) -> Agreement {
        let tokens = || self.hosts.get(&host_id).into_iter().flat_map(|entry| entry.agent_tokens.values());
        let lineages: BTreeSet<_> = tokens().map(|token| token.lineage_id).collect();
        for lineage_id in lineages {
            let query = AgentTokenQuery { lineage_id: Some(lineage_id), ..AgentTokenQuery::new(host_id, 500) };
            let listed = store.list_agent_tokens(&query).await?.items.into_iter().map(|record| record.token);
            let expected: Vec<_> = tokens().filter(|token| token.lineage_id == lineage_id).cloned().collect();
            agree("the agent tokens of a lineage", listed.collect(), expected)?;
        }
        Ok(())
    }

    /// What the store says of a hash that is presented.
    pub(super) async fn hash_agrees(&self, store: &impl Store, hash: &TokenHash) -> Agreement {
        let found = self.hosts.values().find_map(|entry| {
            let token = entry.agent_tokens.values().find(|token| token.hash == *hash)?;
            Some(Known::Credential(Box::new(Credential {
                token: token.clone(),
                tenant_id: entry.host.tenant_id.clone(),
                lifecycle: entry.host.lifecycle,
                generation: entry.host.generation,
                liveness_window: entry.host.liveness_window,
            })))
        });
        let expected = found.or_else(|| self.tombstones.get(hash).copied().map(Known::Tombstone));
        agree("an authentication", store.authenticate(hash).await?, expected)
    }

    /// Hosts with the tag by every status, and those that may take work.
    async fn tag_agrees(&self, store: &impl Store) -> Agreement {
        let records: Vec<_> = self.hosts.values().map(Inhabitant::record).collect();
        let tagged = || records.iter().filter(|record| record.host.tags.contains(&self.tag)).cloned();
        for status in [Status::Pending, Status::Online, Status::Unreachable, Status::Archived] {
            let (tag, asked) = (Some(self.tag.clone()), Some(status));
            let query = HostQuery { tag, status: asked, ..HostQuery::new(Scope::All, 500) };
            let is_so = |record: &HostRecord| Status::of(record.host.lifecycle, record.presence.presence) == status;
            let found = store.list_hosts(&query).await?.items;
            agree("the hosts of a tag and a status", found, tagged().filter(is_so).collect())?;
        }
        let query = CandidateQuery { tags: [self.tag.clone()].into(), ..CandidateQuery::new(Scope::All, 500) };
        let mut expected: Vec<_> = tagged().filter(|record| is_eligible(record, &query)).collect();
        expected.sort_unstable_by_key(|record| (record.host.id.lot(), record.host.id));
        let found = candidate::walk(store, &query).await.into_iter().map(|candidate| candidate.record);
        agree("the candidates of a tag", found.collect(), expected)
    }

    pub(super) async fn telemetry(&self, store: &impl Store, host_id: HostId) -> Agreement<Vec<HostSnapshot>> {
        let query = TelemetryQuery::new(host_id, Timestamp::MIN, Timestamp::MAX, 500);
        Ok(store.list_telemetry(&query).await?.items)
    }

    /// Everything.
    pub(super) async fn agrees_with(&mut self, store: &impl Store) -> Agreement {
        let query = HostQuery { tenant_id: Some(self.tenant.clone()), ..HostQuery::new(Scope::All, 500) };
        let records = store.list_hosts(&query).await?.items;
        agree("the hosts", records, self.hosts.values().map(Inhabitant::record).collect())?;
        self.tag_agrees(store).await?;
        for host in self.all_hosts.clone() {
            self.host_agrees(store, host.id).await?;
            self.tokens_agree(store, host.id).await?;
            self.lineages_agree(store, host.id).await?;
            let entry = self.hosts.get(&host.id);
            let query = InstallTokenQuery { owner: host.id.into(), after: None, limit: 500 };
            let tokens = entry.map_or(Vec::new(), |entry| entry.install_tokens.values().cloned().collect());
            agree("the install tokens", store.list_install_tokens(&query).await?.items, tokens)?;
            let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 500 };
            let rows = entry.map_or(Vec::new(), Inhabitant::container_records);
            agree("the containers", store.list_containers(&query).await?.items, rows)?;
            let snapshots = entry.map_or(Vec::new(), |entry| entry.snapshots.values().cloned().collect());
            agree("the snapshots", self.telemetry(store, host.id).await?, snapshots)?;
        }
        for hash in self.all_agent_tokens.iter().map(|token| &token.hash).chain(&self.claims) {
            self.hash_agrees(store, hash).await?;
        }
        let events = sample::walk(|last: Option<&Event>| {
            let after = last.map_or(Position::START, |event| event.position);
            let tenant_id = Some(self.tenant.clone());
            let query = EventQuery { tenant_id, after, ..EventQuery::new(Scope::All, 7) };
            async move { store.list_events(&query).await.expect("events can be listed") }
        })
        .await;
        agree("the events", events.into_iter().map(|event| event.event).collect(), self.events.clone())
    }
}
