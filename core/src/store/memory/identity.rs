//! Hosts and tokens: loading aggregates, and committing under their guards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use super::{AgentTokenEntry, HostEntry, InstallTokenEntry, State};
use crate::agent_token::{AgentToken, AgentTokenState};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::host::Host;
use crate::id::{HostId, InstallTokenId, LineageId};
use crate::install_token::{Binding, InstallToken, InstallTokenState};
use crate::secret::TokenHash;
use crate::store::{
    Aggregate, Commit, Expected, HostAggregate, HostPresence, HostWrite, Key, Presented, Revision, StoreErrorKind,
    TenantInstallToken, Tombstone, Write,
};

/// The tokens that a commit has written so far, with what a token keeps for ever: whose it is, and its hash.
struct Given<Id, Owner> {
    tokens: HashMap<Id, (Owner, TokenHash)>,
    hashes: HashSet<TokenHash>,
}

impl<Id, Owner> Default for Given<Id, Owner> {
    fn default() -> Self {
        Self { tokens: HashMap::new(), hashes: HashSet::new() }
    }
}

impl<Id: Copy + Eq + Hash, Owner: Copy + PartialEq> Given<Id, Owner> {
    /// Adds a token that is stored as `before`, if it is, and whose hash is stored as that of `keeper`.
    fn take(
        &mut self,
        id: Id,
        token: (Owner, TokenHash),
        before: Option<(Owner, TokenHash)>,
        keeper: Option<&Id>,
    ) -> Result<(), StoreErrorKind> {
        let given = self.tokens.insert(id, token);
        if before.or(given).is_some_and(|before| before != token) {
            return Err(StoreErrorKind::Invalid);
        }
        if keeper.is_some_and(|other| *other != id) || !self.hashes.insert(token.1) {
            return Err(StoreErrorKind::HashSeen);
        }
        Ok(())
    }
}

impl State {
    pub(super) fn load(&self, key: &Key) -> Option<Aggregate> {
        match key {
            Key::Host(id) => self.host_aggregate(*id, Presented::Nothing),
            Key::InstallToken(hash) => self.load(&Key::InstallTokenId(*self.install_hashes.get(hash)?)),
            Key::AgentToken(hash) => self.load(&Key::AgentTokenId(*self.agent_hashes.get(hash)?)),
            Key::InstallTokenId(id) => {
                let InstallTokenEntry { revision, token } = self.install_tokens.get(id)?;
                match token.binding {
                    Binding::Host(host_id) => self.host_aggregate(host_id, Presented::InstallToken(token.clone())),
                    Binding::Tenant => {
                        let aggregate = TenantInstallToken { revision: *revision, token: token.clone() };
                        Some(Aggregate::TenantInstallToken(Box::new(aggregate)))
                    }
                }
            }
            Key::AgentTokenId(id) => {
                let AgentTokenEntry { token, .. } = self.agent_tokens.get(id)?;
                self.host_aggregate(token.host_id, Presented::AgentToken(token.clone()))
            }
        }
    }

    fn host_aggregate(&self, id: HostId, presented: Presented) -> Option<Aggregate> {
        let entry = self.hosts.get(&id)?;
        let install_token = entry
            .install_tokens
            .iter()
            .map(|id| &self.install_tokens[id].token)
            .find(|token| matches!(token.state, InstallTokenState::Issued))
            .cloned();
        let agent_tokens = entry
            .agent_tokens
            .iter()
            .map(|id| &self.agent_tokens[id].token)
            .filter(|token| token.is_live())
            .cloned()
            .collect();
        Some(Aggregate::Host(Box::new(HostAggregate {
            revision: entry.revision,
            host: entry.host.clone(),
            install_token,
            agent_tokens,
            presented,
        })))
    }

    /// Whether all of `commit` can be applied: guards first, so that a conflict is never mistaken for a clash.
    pub(super) fn check(&self, commit: &Commit) -> Result<(), StoreErrorKind> {
        let mut written = HashSet::new();
        let revision_of = |id: &HostId| self.hosts.get(id).map(|entry| Some(entry.revision));
        for write in &commit.writes {
            let (current, expected) = match write {
                Write::Host(write) => (revision_of(&write.host.id), write.expected),
                Write::TenantInstallToken { expected, token } => {
                    let entry = self.install_tokens.get(&token.id);
                    // A host's token of this id is not this aggregate.
                    let own =
                        |entry: &InstallTokenEntry| (entry.token.binding == Binding::Tenant).then_some(entry.revision);
                    (entry.map(own), *expected)
                }
                Write::HostDeletion { expected, host_id, .. } => (revision_of(host_id), Expected::Revision(*expected)),
            };
            let holds = match expected {
                Expected::Absent => current.is_none(),
                Expected::Revision(revision) => current == Some(Some(revision)),
            };
            // A second write of one aggregate expects a revision that the first has left behind.
            let id = match write {
                Write::Host(write) => *write.host.id.as_uuid(),
                Write::TenantInstallToken { token, .. } => *token.id.as_uuid(),
                Write::HostDeletion { host_id, .. } => *host_id.as_uuid(),
            };
            if !holds || !written.insert(id) {
                return Err(StoreErrorKind::Conflict);
            }
        }
        let (mut agents, mut installs) = (Given::default(), Given::default());
        // What the writes before have made of the hosts that they are about.
        let mut earlier: Vec<(HostId, Option<&Host>)> = Vec::new();
        for write in &commit.writes {
            match write {
                Write::Host(write) => {
                    self.check_unique(&write.host, &earlier)?;
                    earlier.push((write.host.id, Some(&write.host)));
                    for token in &write.install_tokens {
                        self.check_install_token(token, Binding::Host(write.host.id), &mut installs)?;
                    }
                    for token in &write.agent_tokens {
                        if token.host_id != write.host.id {
                            return Err(StoreErrorKind::Invalid);
                        }
                        let stored = self.agent_tokens.get(&token.id).map(|AgentTokenEntry { token, .. }| token);
                        let before = stored.map(|token| (token.host_id, token.hash));
                        let keeper = self.agent_hashes.get(&token.hash);
                        agents.take(token.id, (token.host_id, token.hash), before, keeper)?;
                    }
                    self.check_tokens(write)?;
                }
                Write::TenantInstallToken { token, .. } => {
                    self.check_install_token(token, Binding::Tenant, &mut installs)?;
                }
                Write::HostDeletion { host_id, .. } => earlier.push((*host_id, None)),
            }
        }
        Ok(())
    }

    /// Whether the host can have its name and external id once `earlier`, the writes before it in the commit, are made.
    fn check_unique(&self, host: &Host, earlier: &[(HostId, Option<&Host>)]) -> Result<(), StoreErrorKind> {
        let rewritten = |id: &HostId| earlier.iter().any(|(other, _)| other == id);
        let taken = |other: Option<&HostId>| other.is_some_and(|id| *id != host.id && !rewritten(id));
        let others = earlier.iter().filter_map(|(_, other)| *other);
        let mut others = others.filter(|other| other.tenant_id == host.tenant_id);
        let name_given = others.clone().any(|other| !other.is_archived() && other.name == host.name);
        let known = self.names.get(&(host.tenant_id.clone(), host.name.clone()));
        if !host.is_archived() && (name_given || taken(known)) {
            return Err(StoreErrorKind::NameTaken);
        }
        if let Some(external_id) = &host.external_id {
            let known = self.external_ids.get(&(host.tenant_id.clone(), external_id.clone()));
            if taken(known) || others.any(|other| other.external_id.as_ref() == Some(external_id)) {
                return Err(StoreErrorKind::ExternalIdTaken);
            }
        }
        Ok(())
    }

    fn check_install_token(
        &self,
        token: &InstallToken,
        binding: Binding,
        given: &mut Given<InstallTokenId, Binding>,
    ) -> Result<(), StoreErrorKind> {
        if token.binding != binding {
            return Err(StoreErrorKind::Invalid);
        }
        let stored = self.install_tokens.get(&token.id).map(|InstallTokenEntry { token, .. }| token);
        let before = stored.map(|token| (token.binding, token.hash));
        given.take(token.id, (token.binding, token.hash), before, self.install_hashes.get(&token.hash))
    }

    /// What a database would hold with partial unique indexes: at most one Active and one Pending token a lineage, and
    /// one Issued install token a host.
    fn check_tokens(&self, write: &HostWrite) -> Result<(), StoreErrorKind> {
        let entry = self.hosts.get(&write.host.id);
        let stored = entry.into_iter().flat_map(|entry| &entry.agent_tokens);
        let mut tokens: BTreeMap<_, &AgentToken> = stored.map(|id| (*id, &self.agent_tokens[id].token)).collect();
        tokens.extend(write.agent_tokens.iter().map(|token| (token.id, token)));
        let mut live: HashSet<(LineageId, bool)> = HashSet::new();
        for token in tokens.values().filter(|token| token.is_live()) {
            let active = matches!(token.state, AgentTokenState::Active { .. });
            if !live.insert((token.lineage_id, active)) {
                return Err(StoreErrorKind::Invalid);
            }
        }
        let stored = entry.into_iter().flat_map(|entry| &entry.install_tokens);
        let mut installs: BTreeMap<_, &InstallToken> = stored.map(|id| (*id, &self.install_tokens[id].token)).collect();
        installs.extend(write.install_tokens.iter().map(|token| (token.id, token)));
        let issued = installs.values().filter(|token| matches!(token.state, InstallTokenState::Issued)).count();
        if issued > 1 { Err(StoreErrorKind::Invalid) } else { Ok(()) }
    }

    /// Applies what was checked; cannot fail.
    pub(super) fn apply(&mut self, commit: Commit) -> Vec<Event> {
        let mut cut_off = Vec::new();
        for write in commit.writes {
            match write {
                Write::Host(write) => {
                    cut_off.extend(write.agent_tokens.iter().filter(|token| !token.is_live()).map(|token| token.hash));
                    self.apply_host(*write);
                }
                Write::TenantInstallToken { expected, token } => self.put_install_token(expected.next(), token),
                Write::HostDeletion { host_id, at, .. } => cut_off.extend(self.delete_host(host_id, at)),
            }
        }
        let events = self.append_events(commit.events);
        self.subscribers.tell(&cut_off);
        events
    }

    /// Removes a host and all that is its own; returns the hashes that are tombstones now.
    fn delete_host(&mut self, host_id: HostId, deleted_at: Timestamp) -> Vec<TokenHash> {
        let Some(HostEntry { host, install_tokens, agent_tokens, .. }) = self.hosts.remove(&host_id) else {
            return Vec::new();
        };
        self.give_free(&host);
        for id in install_tokens {
            // Its hash stays seen.
            self.install_tokens.remove(&id);
        }
        let tokens = agent_tokens.iter().filter_map(|id| self.agent_tokens.remove(id));
        let hashes: Vec<_> = tokens
            .map(|AgentTokenEntry { token, .. }| {
                let tombstone = Tombstone { token_id: token.id, host_id, deleted_at };
                (token.hash, tombstone)
            })
            .collect();
        self.tombstones.extend(hashes.iter().copied());
        hashes.into_iter().map(|(hash, _)| hash).collect()
    }

    /// Gives the name and the external id of a host free.
    fn give_free(&mut self, host: &Host) {
        // Once it is archived, the name may be another's.
        let name = (host.tenant_id.clone(), host.name.clone());
        if self.names.get(&name) == Some(&host.id) {
            self.names.remove(&name);
        }
        if let Some(external_id) = host.external_id.clone() {
            self.external_ids.remove(&(host.tenant_id.clone(), external_id));
        }
    }

    fn apply_host(&mut self, write: HostWrite) {
        let HostWrite { expected, host, install_tokens, agent_tokens, facts } = write;
        let id = host.id;
        if let Some(HostEntry { host: before, .. }) = self.hosts.get(&id) {
            let before = before.clone();
            self.give_free(&before);
        }
        if !host.is_archived() {
            self.names.insert((host.tenant_id.clone(), host.name.clone()), id);
        }
        if let Some(external_id) = host.external_id.clone() {
            self.external_ids.insert((host.tenant_id.clone(), external_id), id);
        }
        let entry = self.hosts.entry(id).or_insert_with(|| HostEntry {
            revision: Revision::FIRST,
            host: host.clone(),
            install_tokens: Default::default(),
            agent_tokens: Default::default(),
            presence: HostPresence::default(),
            last_complete_at: None,
            containers: Default::default(),
            snapshots: Default::default(),
        });
        entry.revision = expected.next();
        entry.host = host;
        entry.install_tokens.extend(install_tokens.iter().map(|token| token.id));
        entry.agent_tokens.extend(agent_tokens.iter().map(|token| token.id));
        if let Some(facts) = facts
            && entry.presence.newest_report_at.is_none()
        {
            entry.presence.facts.merge(&facts);
        }
        for token in install_tokens {
            self.put_install_token(Revision::FIRST, token);
        }
        for token in agent_tokens {
            self.agent_hashes.insert(token.hash, token.id);
            let last_used_at = self.agent_tokens.get(&token.id).and_then(|entry| entry.last_used_at);
            self.agent_tokens.insert(token.id, AgentTokenEntry { token, last_used_at });
        }
    }

    fn put_install_token(&mut self, revision: Revision, token: InstallToken) {
        self.install_hashes.insert(token.hash, token.id);
        self.install_tokens.insert(token.id, InstallTokenEntry { revision, token });
    }
}
