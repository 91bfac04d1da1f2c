//! What a host's container rows say, remembered as a few words a container: most reports change none of it, and a store
//! that knows so need not read the rows.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::quality::RandomState;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::container::Container;
use crate::id::HostId;

/// A container and what is said of it, each as 64 bits.
///
/// The bits are keyed by chance in each cache, so that nobody can aim at two that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    container: u64,
    description: u64,
}

/// The containers that are there on a host, each with what the store names its row by.
#[derive(Debug, Clone)]
pub struct Described<K> {
    /// In the order of their containers.
    rows: Vec<(Fingerprint, K)>,
}

/// What the rows of many hosts say, for each host under the version of its containers.
///
/// To ensure correctness, a store reads the version in the transaction that relies on an entry, raises it with every
/// write of a row that is there, and fills an entry only when the transaction that read or wrote the rows has been
/// committed. Then an entry of the same version says what the rows say, whoever else writes.
#[derive(Debug)]
pub struct DescribedCache<K> {
    containers: RandomState,
    descriptions: RandomState,
    hosts: Cache<HostId, (u64, Arc<Described<K>>), ByRows>,
}

#[derive(Debug, Clone, Copy)]
struct ByRows;

/// What an entry costs besides its rows, in rows.
const OVERHEAD: usize = 4;

impl<K> Weighter<HostId, (u64, Arc<Described<K>>)> for ByRows {
    fn weight(&self, _: &HostId, (_, described): &(u64, Arc<Described<K>>)) -> u64 {
        (described.rows.len() + OVERHEAD) as u64
    }
}

impl<K: Copy> Described<K> {
    /// Of all rows of a host that are there.
    pub fn new(rows: impl IntoIterator<Item = (Fingerprint, K)>) -> Self {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(fingerprint, _)| fingerprint.container);
        Self { rows }
    }

    /// Whether a report of these containers, each once, changes no row. One that is complete also removes those that
    /// it lacks.
    pub fn is_unchanged_by(&self, reported: &[Fingerprint], complete: bool) -> bool {
        // As many, all of them there: then none is missing.
        (!complete || reported.len() == self.rows.len())
            && reported.iter().all(|reported| self.find(*reported).is_some_and(|(known, _)| known == *reported))
    }

    /// What the row of this container is named by, if it is there.
    pub fn key(&self, container: Fingerprint) -> Option<K> {
        self.find(container).map(|(_, key)| key)
    }

    fn find(&self, sought: Fingerprint) -> Option<(Fingerprint, K)> {
        let place = self.rows.binary_search_by_key(&sought.container, |(known, _)| known.container).ok()?;
        Some(self.rows[place])
    }
}

impl<K: Copy> DescribedCache<K> {
    /// Remembers about this many rows, over all hosts; about 24 bytes each and what `K` takes.
    pub fn new(rows: usize) -> Self {
        // A guess, and not what is set aside at once: most fleets are small.
        const HOSTS: usize = 128;
        let hosts = Cache::with_weighter(HOSTS, rows as u64, ByRows);
        Self { containers: RandomState::default(), descriptions: RandomState::default(), hosts }
    }

    /// The container's fingerprint in this cache.
    pub fn fingerprint(&self, container: &Container) -> Fingerprint {
        let mut description = self.descriptions.build_hasher();
        container.hash_description(&mut description);
        Fingerprint { container: self.containers.hash_one(&container.container_id), description: description.finish() }
    }

    /// The fingerprints of a report's containers, in their order.
    pub fn fingerprints(&self, containers: &[Container]) -> Vec<Fingerprint> {
        containers.iter().map(|container| self.fingerprint(container)).collect()
    }

    /// What the host's rows say, if that is known of this version.
    pub fn find(&self, host_id: HostId, version: u64) -> Option<Arc<Described<K>>> {
        let (known, described) = self.hosts.get(&host_id)?;
        (known == version).then_some(described)
    }

    /// What is known of the host's rows, and of which version: for a store that compares the version only when it writes.
    pub fn latest(&self, host_id: HostId) -> Option<(u64, Arc<Described<K>>)> {
        self.hosts.get(&host_id)
    }

    /// Remembers what the host's rows say at this version.
    pub fn fill(&self, host_id: HostId, version: u64, described: Arc<Described<K>>) {
        self.hosts.insert(host_id, (version, described));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, state: &str) -> Container {
        Container { container_id: id.to_owned(), state: state.to_owned(), ..Container::default() }
    }

    #[test]
    fn a_report_changes_nothing_only_if_it_says_the_same_of_what_is_there() {
        let cache = DescribedCache::<i64>::new(100);
        let print = |id: &str, state: &str| cache.fingerprint(&container(id, state));
        let known = Described::new([(print("a", "running"), 1), (print("b", "running"), 2)]);
        let [a, b, c] = ["a", "b", "c"].map(|id| print(id, "running"));
        assert!(known.is_unchanged_by(&[b, a], true));
        assert!(known.is_unchanged_by(&[a], false));
        assert!(known.is_unchanged_by(&[], false));
        // One that is missing from a complete report, another state, a new one.
        assert!(!known.is_unchanged_by(&[a], true));
        assert!(!known.is_unchanged_by(&[], true));
        assert!(!known.is_unchanged_by(&[a, print("b", "exited")], false));
        assert!(!known.is_unchanged_by(&[a, c], true));
        assert!(!known.is_unchanged_by(&[a, b, c], false));
        // Whatever is said of it, a container keeps its row.
        assert_eq!(known.key(print("b", "exited")), Some(2));
        assert_eq!(known.key(c), None);
    }

    #[test]
    fn what_it_uses_is_not_said_of_a_container() {
        let cache = DescribedCache::<()>::new(100);
        let idle = container("a", "running");
        let metrics = Some(crate::container::ContainerMetrics { pids: Some(3), ..Default::default() });
        assert_eq!(cache.fingerprint(&Container { metrics, ..idle.clone() }), cache.fingerprint(&idle));
    }

    #[test]
    fn an_entry_counts_for_its_version_only_and_the_cache_is_bounded() {
        let cache = DescribedCache::<()>::new(1_000);
        let described =
            Arc::new(Described::new((0..6).map(|id| (cache.fingerprint(&container(&id.to_string(), "")), ()))));
        let hosts: Vec<_> = (0..10_000_u128).map(|id| HostId::from_uuid(uuid::Uuid::from_u128(id))).collect();
        cache.fill(hosts[0], 7, Arc::clone(&described));
        assert!(cache.find(hosts[0], 7).is_some());
        assert!(cache.find(hosts[0], 6).is_none());
        assert!(cache.find(hosts[0], 8).is_none());
        assert_eq!(cache.latest(hosts[0]).map(|(version, _)| version), Some(7));
        assert!(cache.latest(hosts[1]).is_none());
        for host in &hosts {
            cache.fill(*host, 1, Arc::clone(&described));
        }
        assert!(hosts.iter().filter(|host| cache.find(**host, 1).is_some()).count() <= 100);
    }
}
