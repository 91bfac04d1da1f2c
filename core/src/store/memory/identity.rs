//! Hosts and tokens: loading aggregates, and committing under their guards.

use std::collections::{BTreeMap, HashSet};

use super::{AgentTokenEntry, HostEntry, InstallTokenEntry, State};
use crate::agent_token::{AgentToken, AgentTokenState};
use crate::event::Event;
use crate::host::Host;
use crate::id::{HostId, LineageId};
use crate::install_token::{Binding, InstallToken, InstallTokenState};
use crate::secret::TokenHash;
use crate::store::{
    Aggregate, Commit, Expected, HostAggregate, HostPresence, HostWrite, Key, Presented, Revision, StoreErrorKind,
    TenantInstallToken, Write,
};

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
        for write in &commit.writes {
            let (current, expected) = match write {
                Write::Host(write) => (self.hosts.get(&write.host.id).map(|entry| entry.revision), write.expected),
                Write::TenantInstallToken { expected, token } => {
                    (self.install_tokens.get(&token.id).map(|entry| entry.revision), *expected)
                }
            };
            let holds = match expected {
                Expected::Absent => current.is_none(),
                Expected::Revision(revision) => current == Some(revision),
            };
            // A second write of one aggregate expects a revision that the first has left behind.
            let id = match write {
                Write::Host(write) => *write.host.id.as_uuid(),
                Write::TenantInstallToken { token, .. } => *token.id.as_uuid(),
            };
            if !holds || !written.insert(id) {
                return Err(StoreErrorKind::Conflict);
            }
        }
        let (mut hashes, mut installs) = (HashSet::new(), HashSet::new());
        let mut earlier: Vec<&Host> = Vec::new();
        for write in &commit.writes {
            match write {
                Write::Host(write) => {
                    self.check_unique(&write.host, &earlier)?;
                    earlier.push(&write.host);
                    for token in &write.install_tokens {
                        if token.binding != Binding::Host(write.host.id) {
                            return Err(StoreErrorKind::Invalid);
                        }
                        self.check_install_hash(token, &mut installs)?;
                    }
                    for token in &write.agent_tokens {
                        if token.host_id != write.host.id {
                            return Err(StoreErrorKind::Invalid);
                        }
                        let known = self.agent_hashes.get(&token.hash);
                        if known.is_some_and(|id| *id != token.id) || !hashes.insert(token.hash) {
                            return Err(StoreErrorKind::HashSeen);
                        }
                    }
                    self.check_tokens(write)?;
                }
                Write::TenantInstallToken { token, .. } if token.binding != Binding::Tenant => {
                    return Err(StoreErrorKind::Invalid);
                }
                Write::TenantInstallToken { token, .. } => self.check_install_hash(token, &mut installs)?,
            }
        }
        Ok(())
    }

    /// Whether the host can have its name and external id once `earlier`, the writes before it in the commit, are made.
    fn check_unique(&self, host: &Host, earlier: &[&Host]) -> Result<(), StoreErrorKind> {
        let rewritten = |id: &HostId| earlier.iter().any(|other| other.id == *id);
        let taken = |other: Option<&HostId>| other.is_some_and(|id| *id != host.id && !rewritten(id));
        let mut others = earlier.iter().filter(|other| other.tenant_id == host.tenant_id);
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

    fn check_install_hash(&self, token: &InstallToken, given: &mut HashSet<TokenHash>) -> Result<(), StoreErrorKind> {
        let known = self.install_hashes.get(&token.hash);
        if known.is_some_and(|id| *id != token.id) || !given.insert(token.hash) {
            return Err(StoreErrorKind::HashSeen);
        }
        Ok(())
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
        for write in commit.writes {
            match write {
                Write::Host(write) => self.apply_host(*write),
                Write::TenantInstallToken { expected, token } => self.put_install_token(expected.next(), token),
            }
        }
        self.append_events(commit.events)
    }

    fn apply_host(&mut self, write: HostWrite) {
        let HostWrite { expected, host, install_tokens, agent_tokens, facts } = write;
        let id = host.id;
        if let Some(HostEntry { host: before, .. }) = self.hosts.get(&id) {
            // Once it is archived, the name may be another's.
            let name = (before.tenant_id.clone(), before.name.clone());
            if self.names.get(&name) == Some(&id) {
                self.names.remove(&name);
            }
            if let Some(external_id) = before.external_id.clone() {
                self.external_ids.remove(&(before.tenant_id.clone(), external_id));
            }
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
