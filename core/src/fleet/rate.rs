//! So many a minute for each key: the generic cell rate algorithm, in memory that does not grow with time.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::fleet::error::RateLimited;

/// How many parts a limit is made of, each with a lock of its own: neither a look-up nor a sweep stops all others.
const SHARDS: usize = 64;
/// How many keys a part may have before it is swept at all: 65,536 over all parts.
const FLOOR: usize = 1_024;

/// Core's clock as governor wants one.
#[derive(Clone)]
struct Monotonic(Arc<dyn Clock>);

impl governor::clock::Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Self::Instant {
        self.0.monotonic().into()
    }
}

/// Counts by key, so many a minute; all of a minute's may come at once.
///
/// A key whose bucket is full again is as good as unknown. It is forgotten when its part has twice the keys that were left
/// when that part was last swept, and more than a floor: a count costs constant time in the mean, and a sweep looks at 1/64
/// of the keys. So no more keys are known than the floor, or twice those that were counted within about a minute. One
/// takes 25 bytes of a table that is at least 7/16 full: 58 bytes at most (86 while its part grows). A million tokens over a
/// day leave 65,536 keys, 4 MB; if all of them empty their buckets within one minute, 2 million keys, 116 MB.
pub(super) struct KeyedLimit<K: Hash + Eq + Clone> {
    shards: Option<Box<[Shard<K>]>>,
    hasher: RandomState,
    clock: Monotonic,
}

struct Shard<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, Monotonic, NoOpMiddleware<Nanos>>,
    /// With how many keys it is swept next.
    sweep_at: AtomicUsize,
}

impl<K: Hash + Eq + Clone> KeyedLimit<K> {
    /// Without a rate it counts nothing.
    pub(super) fn new(per_minute: Option<NonZeroU32>, clock: Arc<dyn Clock>) -> Self {
        let clock = Monotonic(clock);
        let shard = |rate| Shard {
            limiter: RateLimiter::hashmap_with_clock(Quota::per_minute(rate), clock.clone()),
            sweep_at: AtomicUsize::new(FLOOR),
        };
        let shards = per_minute.map(|rate| (0..SHARDS).map(|_| shard(rate)).collect());
        Self { shards, hasher: RandomState::new(), clock }
    }

    /// Counts one; beyond the limit counts nothing, and says how long to wait.
    pub(super) fn count(&self, key: &K) -> Result<(), RateLimited> {
        let Some(shards) = &self.shards else { return Ok(()) };
        // The upper bits: tables use the lower ones of a hash of their own.
        let shard = &shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS];
        shard.sweep_if_due();
        shard
            .limiter
            .check_key(key)
            .map_err(|not_until| RateLimited { retry_after: not_until.wait_time_from(self.clock.now()) })
    }
}

impl<K: Hash + Eq + Clone> Shard<K> {
    fn sweep_if_due(&self) {
        if self.limiter.len() <= self.sweep_at.load(Ordering::Relaxed) {
            return;
        }
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        self.sweep_at.store(FLOOR.max(2 * self.limiter.len()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::entropy::SystemEntropy;
    use crate::id::AgentTokenId;

    fn limit(per_minute: u32) -> (KeyedLimit<AgentTokenId>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::MIN));
        (KeyedLimit::new(NonZeroU32::new(per_minute), Arc::clone(&clock) as Arc<dyn Clock>), clock)
    }

    fn known(limit: &KeyedLimit<AgentTokenId>) -> usize {
        limit.shards.iter().flatten().map(|shard| shard.limiter.len()).sum()
    }

    fn token(clock: &ManualClock) -> AgentTokenId {
        AgentTokenId::generate(clock.now(), &SystemEntropy)
    }

    #[test]
    fn a_million_tokens_over_time_are_not_remembered() {
        let (limit, clock) = limit(60);
        let mut most = 0;
        for n in 0..1_000_000 {
            clock.advance(Duration::from_millis(1));
            limit.count(&token(&clock)).expect("its first");
            if n % 10_000 == 0 {
                most = most.max(known(&limit));
            }
        }
        most = most.max(known(&limit));
        assert!(most <= SHARDS * (FLOOR + 1), "{most}");
        let capacity: usize = SHARDS * FLOOR * 58;
        assert!(capacity < 4 << 20, "as documented");
    }

    #[test]
    fn tokens_of_this_minute_are_kept_and_swept_a_constant_number_of_times() {
        let (limit, clock) = limit(1);
        let tokens: Vec<_> = (0..300_000).map(|_| token(&clock)).collect();
        for token in &tokens {
            limit.count(token).expect("its first");
        }
        assert_eq!(known(&limit), tokens.len(), "each could still be refused");
        assert!(tokens.iter().all(|token| limit.count(token).is_err()));
        // However many there are, the next sweep is as many counts away again.
        for shard in limit.shards.iter().flatten() {
            assert!(shard.sweep_at.load(Ordering::Relaxed) >= shard.limiter.len());
        }
        // Once all of them could start afresh, the next sweep leaves none.
        clock.advance(Duration::from_secs(121));
        for _ in 0..600_000 {
            limit.count(&token(&clock)).expect("its first");
        }
        let left = known(&limit);
        assert!(left <= 600_000 + SHARDS * FLOOR, "{left}");
    }

    #[test]
    fn forgetting_never_gives_more_than_waiting() {
        let (limit, clock) = limit(60);
        let busy = token(&clock);
        let mut passed = 0;
        for _ in 0..600 {
            clock.advance(Duration::from_millis(100));
            passed += usize::from(limit.count(&busy).is_ok());
            for _ in 0..1_000 {
                limit.count(&token(&clock)).expect("its first");
            }
        }
        assert_eq!(passed, 60 + 59, "the burst, and one a second");
    }
}
