//! The cache of credentials, so that a request of a known agent does not read the store.
//!
//! The danger is *read → revoke → fill*: the revocation finds nothing to drop, and the fill then resurrects the token.
//! So every fill is fenced by an epoch taken before the read; an invalidation raises it, and both happen under one
//! lock. Look-ups take no part in that lock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;

use crate::clock::Timestamp;
use crate::fleet::agent_token::AgentIdentity;
use crate::secret::TokenHash;

/// Active tokens that were looked up lately.
pub(super) struct CredentialCache {
    entries: Cache<TokenHash, Entry>,
    ttl: Duration,
    epoch: Mutex<Epoch>,
}

/// Raised by every invalidation. Taken before a read of the store, it proves that none came between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u64);

#[derive(Clone)]
struct Entry {
    identity: AgentIdentity,
    /// Monotonic.
    filled_at: Duration,
}

impl CredentialCache {
    pub(super) fn new(capacity: usize, ttl: Duration) -> Self {
        Self { entries: Cache::new(capacity), ttl, epoch: Mutex::new(Epoch(0)) }
    }

    /// The identity behind `hash`, if it was filled within the time to live and has not expired.
    pub(super) fn find(&self, hash: &TokenHash, now: Timestamp, monotonic: Duration) -> Option<AgentIdentity> {
        let entry = self.entries.get(hash)?;
        let fresh = monotonic.saturating_sub(entry.filled_at) < self.ttl;
        let valid = entry.identity.expires_at().is_none_or(|at| now < at);
        (fresh && valid).then_some(entry.identity)
    }

    /// To be taken before the store is read for a fill.
    pub(super) fn epoch(&self) -> Epoch {
        *self.lock()
    }

    /// Remembers an identity read under `epoch`, unless anything was invalidated since.
    pub(super) fn fill(&self, epoch: Epoch, hash: TokenHash, identity: AgentIdentity, monotonic: Duration) {
        let current = self.lock();
        if *current == epoch {
            self.entries.insert(hash, Entry { identity, filled_at: monotonic });
        }
        drop(current);
    }

    /// Drops these, and every fill that is under way.
    pub(super) fn invalidate<'a>(&self, hashes: impl IntoIterator<Item = &'a TokenHash>) {
        let mut current = self.lock();
        current.0 += 1;
        for hash in hashes {
            self.entries.remove(hash);
        }
    }

    /// Drops everything, and every fill that is under way.
    pub(super) fn clear(&self) {
        let mut current = self.lock();
        current.0 += 1;
        self.entries.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Epoch> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
