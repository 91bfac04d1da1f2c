//! The cache of credentials, so that a request of a known agent does not read the store.
//!
//! The danger is *read → revoke → fill*: the revocation finds nothing to drop, and the fill then resurrects the token.
//! So every fill is fenced by an epoch taken before the read; an invalidation raises it, and both happen under one
//! lock. Look-ups take no part in that lock. `tests/cache_interleavings` runs this very file in every interleaving of the three.
//!
//! What other processes cut off comes through a subscription. How far it is trusted depends on when it last proved that
//! it works: without one, entries live for a second; when one has been silent for two, the cache is passed by.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::fleet::authenticate::AgentIdentity;
use crate::fleet::sync::{AtomicU64, Cache, Mutex, MutexGuard, Ordering, PoisonError};
use crate::secret::TokenHash;

/// How long an entry lives when nobody tells what others cut off.
const BLIND_TTL: Duration = Duration::from_secs(1);
/// For how long a subscription may be silent before nothing in the cache is believed.
const SILENCE: Duration = Duration::from_secs(2);

/// Active tokens that were looked up lately.
pub(super) struct CredentialCache {
    entries: Cache<TokenHash, Entry>,
    ttl: Duration,
    epoch: Mutex<Epoch>,
    /// Monotonic microseconds: every change committed before then has been applied. `BLIND` without a subscription.
    heard_at: AtomicU64,
}

const BLIND: u64 = u64::MAX;

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
        let heard_at = AtomicU64::new(BLIND);
        Self { entries: Cache::new(capacity), ttl, epoch: Mutex::new(Epoch(0)), heard_at }
    }

    /// Notes that every change committed before `at`, by the monotonic clock, has been applied.
    pub(super) fn heard(&self, at: Duration) {
        let micros = u64::try_from(at.as_micros()).unwrap_or(BLIND).min(BLIND - 1);
        self.heard_at.store(micros, Ordering::Release);
    }

    /// For how long an entry is believed just now.
    fn trusted_for(&self, monotonic: Duration) -> Option<Duration> {
        match self.heard_at.load(Ordering::Acquire) {
            BLIND => Some(self.ttl.min(BLIND_TTL)),
            at if monotonic.saturating_sub(Duration::from_micros(at)) > SILENCE => None,
            _ => Some(self.ttl),
        }
    }

    /// The identity behind `hash`, if it was filled within the time to live and has not expired.
    pub(super) fn find(&self, hash: &TokenHash, now: Timestamp, monotonic: Duration) -> Option<AgentIdentity> {
        let ttl = self.trusted_for(monotonic)?;
        let entry = self.entries.get(hash)?;
        let fresh = monotonic.saturating_sub(entry.filled_at) < ttl;
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

    fn lock(&self) -> MutexGuard<'_, Epoch> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
