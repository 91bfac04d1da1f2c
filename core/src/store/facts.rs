//! What reports say of their machines, remembered as a word a host: most repeat what is stored, and a store that knows so
//! need not read it.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use quick_cache::sync::Cache;

use crate::id::HostId;
use crate::telemetry::HostFacts;

/// For each host the facts that change nothing when they are taken over once more, under the version of what is stored.
///
/// To ensure correctness, a store reads the version in the transaction that relies on an entry, raises it with every write
/// of the host's facts, and fills an entry only when the transaction that took the facts over has been committed.
#[derive(Debug)]
pub struct FactsCache {
    facts: RandomState,
    hosts: Cache<HostId, (u64, u64)>,
}

impl FactsCache {
    /// Remembers this many hosts, at about 60 bytes each.
    pub fn new(hosts: usize) -> Self {
        Self { facts: RandomState::default(), hosts: Cache::new(hosts) }
    }

    /// The facts as 64 bits, keyed by chance in each cache, so that nobody can aim at two that are alike.
    pub fn fingerprint(&self, facts: &HostFacts) -> u64 {
        self.facts.hash_one(facts)
    }

    /// The fingerprint of what was taken over last, if what is stored is still of this version.
    pub fn find(&self, host_id: HostId, version: u64) -> Option<u64> {
        self.latest(host_id).filter(|(known, _)| *known == version).map(|(_, fingerprint)| fingerprint)
    }

    /// What was taken over last, and the version of what is stored since, as (version, fingerprint): for a store that compares
    /// the version only when it writes.
    pub fn latest(&self, host_id: HostId) -> Option<(u64, u64)> {
        self.hosts.get(&host_id)
    }

    /// Remembers what was taken over, and the version of what is stored since.
    pub fn fill(&self, host_id: HostId, version: u64, fingerprint: u64) {
        self.hosts.insert(host_id, (version, fingerprint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_for_its_version_only() {
        let cache = FactsCache::new(10);
        let host_id = HostId::from_uuid(uuid::Uuid::from_u128(1));
        let facts = HostFacts { cpu_count: Some(8), ..HostFacts::default() };
        assert_eq!(cache.find(host_id, 0), None);
        cache.fill(host_id, 3, cache.fingerprint(&facts));
        assert_eq!(cache.find(host_id, 3), Some(cache.fingerprint(&facts.clone())));
        assert_eq!(cache.find(host_id, 4), None);
        let newer = HostFacts { cpu_count: None, memory_total_bytes: Some(8), ..HostFacts::default() };
        assert_ne!(cache.fingerprint(&newer), cache.fingerprint(&facts));
    }
}
