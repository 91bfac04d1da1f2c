//! What is old goes, in steps.

use super::{InstallTokenEntry, State};
use crate::install_token::{Binding, InstallTokenState};
use crate::store::{Prune, Pruned};

impl State {
    pub(super) fn prune(&mut self, prune: &Prune) -> Pruned {
        let limit = prune.limit;
        let (mut snapshots, mut containers) = (0, 0);
        let mut more = false;
        for entry in self.hosts.values_mut() {
            let old: Vec<_> = entry.snapshots.range(..prune.snapshots_before).map(|(at, _)| *at).collect();
            let room = limit - snapshots;
            more |= old.len() > room;
            snapshots += old.len().min(room);
            old.iter().take(room).for_each(|at| {
                entry.snapshots.remove(at);
            });
            let gone: Vec<_> = entry
                .containers
                .iter()
                .filter(|(_, row)| row.removed_at.is_some_and(|at| at < prune.containers_removed_before))
                .map(|(id, _)| id.clone())
                .collect();
            let room = limit - containers;
            more |= gone.len() > room;
            containers += gone.len().min(room);
            entry.presence.containers_version += u64::from(room > 0 && !gone.is_empty());
            gone.iter().take(room).for_each(|id| {
                entry.containers.remove(id);
            });
        }
        let mut events = 0;
        self.events.retain(|event| {
            let old = event.event.at < prune.events_before;
            let stays = !old || events == limit;
            more |= old && stays;
            events += usize::from(!stays);
            stays
        });
        let mut tombstones = 0;
        self.tombstones.retain(|hash, tombstone| {
            let old = tombstone.deleted_at < prune.tombstones_before;
            let stays = !old || tombstones == limit;
            more |= old && stays;
            tombstones += usize::from(!stays);
            if !stays {
                self.agent_hashes.remove(hash);
            }
            stays
        });
        let spent = self.install_tokens.values().filter(|InstallTokenEntry { token, .. }| {
            let bought = match token.state {
                InstallTokenState::Consumed { agent_token, .. } => self.agent_tokens.get(&agent_token),
                InstallTokenState::Issued | InstallTokenState::Revoked { .. } => None,
            };
            let spent_at = token.spent_at(bought.map(|entry| &entry.token));
            spent_at.is_some_and(|at| at < prune.install_tokens_before)
        });
        let spent: Vec<_> = spent.map(|entry| (entry.token.id, entry.token.binding)).collect();
        more |= spent.len() > limit;
        let install_tokens = spent.len().min(limit);
        for (id, binding) in spent.into_iter().take(limit) {
            // Its hash stays seen.
            self.install_tokens.remove(&id);
            if let Binding::Host(host_id) = binding
                && let Some(entry) = self.hosts.get_mut(&host_id)
            {
                entry.install_tokens.remove(&id);
            }
        }
        Pruned { rows: (snapshots + containers + events + tombstones + install_tokens) as u64, more }
    }
}
