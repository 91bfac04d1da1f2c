//! Locks and atomics with a point before each operation where any other thread may come in between.

use std::hash::Hash;

pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering};
pub(super) use shuttle::sync::{Mutex, MutexGuard, PoisonError};

/// The map of the cache itself. Each of its operations is atomic, as its authors promise; between them anything happens.
pub(super) struct Cache<K, V>(quick_cache::sync::Cache<K, V>);

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self(quick_cache::sync::Cache::new(capacity))
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        shuttle::thread::yield_now();
        self.0.get(key)
    }

    pub(super) fn insert(&self, key: K, value: V) {
        shuttle::thread::yield_now();
        self.0.insert(key, value);
    }

    pub(super) fn remove(&self, key: &K) {
        shuttle::thread::yield_now();
        self.0.remove(key);
    }

    pub(super) fn clear(&self) {
        shuttle::thread::yield_now();
        self.0.clear();
    }
}
