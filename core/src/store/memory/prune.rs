//! What is old goes, in steps.

use super::State;
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
        Pruned { rows: (snapshots + containers + events + tombstones) as u64, more }
    }
}
