//! What the cache of credentials is made of. A test puts in its stead what can be run in every interleaving.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use quick_cache::sync::Cache;
