//! *Read → revoke → fill* in all its orders: once a revocation was acknowledged, nobody finds the token.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use shuttle::sync::atomic::AtomicBool;

use crate::clock::Timestamp;
use crate::fleet::authenticate::AgentIdentity;
use crate::fleet::cache::CredentialCache;
use crate::secret::TokenHash;

const TOKEN: TokenHash = TokenHash::from_bytes([1; 32]);
const OTHER: TokenHash = TokenHash::from_bytes([2; 32]);

/// One token: what the store says of it, and what the cache does.
struct World {
    cache: CredentialCache,
    revoked: AtomicBool,
    /// Whether whoever revoked it was told so. Of the standard library, hence no point of the schedule: it is set the
    /// moment that the call is over.
    acknowledged: std::sync::atomic::AtomicBool,
    /// How often it was found.
    found: AtomicUsize,
}

impl World {
    fn new() -> Self {
        Self {
            cache: CredentialCache::new(16, Duration::from_secs(30)),
            revoked: AtomicBool::new(false),
            acknowledged: std::sync::atomic::AtomicBool::new(false),
            found: AtomicUsize::new(0),
        }
    }

    fn find(&self) {
        let too_late = self.acknowledged.load(SeqCst);
        let found = self.cache.find(&TOKEN, Timestamp::MIN, Duration::ZERO).is_some();
        assert!(!(too_late && found), "a revoked token was found");
        self.found.fetch_add(usize::from(found), SeqCst);
    }

    /// What a request does that found nothing: reads the store, then fills.
    fn fill(&self) {
        let epoch = self.cache.epoch();
        if !self.revoked.load(SeqCst) {
            self.cache.fill(epoch, TOKEN, AgentIdentity, Duration::ZERO);
        }
    }

    fn fill_and_find(&self) {
        self.fill();
        self.find();
    }

    /// Commits, tells the cache through `tell`, answers.
    fn revoke(&self, tell: impl FnOnce(&CredentialCache)) {
        self.revoked.store(true, SeqCst);
        tell(&self.cache);
        self.acknowledged.store(true, SeqCst);
    }

    fn invalidate(&self) {
        self.revoke(|cache| cache.invalidate(&[TOKEN]));
    }

    fn clear(&self) {
        self.revoke(CredentialCache::clear);
    }
}

/// Runs the threads in every order, the last of them on the thread that started the others; afterwards the token must not be
/// found. Returns how often it was found before.
fn in_every_order(threads: &'static [fn(&World)]) -> usize {
    let found = Arc::new(AtomicUsize::new(0));
    let sum = Arc::clone(&found);
    let order = move || {
        let world = World::new();
        let (last, others) = threads.split_last().expect("one thread at least");
        shuttle::thread::scope(|scope| {
            for thread in others {
                scope.spawn(|| thread(&world));
            }
            last(&world);
        });
        world.find();
        sum.fetch_add(world.found.load(SeqCst), SeqCst);
    };
    shuttle::check_dfs(order, None);
    found.load(SeqCst)
}

/// Otherwise nothing below would be tried.
#[test]
fn a_token_is_found_before_it_is_revoked() {
    assert!(in_every_order(&[World::fill_and_find, World::invalidate]) > 0);
    assert!(in_every_order(&[World::fill_and_find, World::clear]) > 0);
}

#[test]
fn a_fill_does_not_bring_back_what_was_invalidated() {
    in_every_order(&[World::fill, World::invalidate]);
}

#[test]
fn a_fill_does_not_bring_back_what_was_cleared() {
    in_every_order(&[World::fill, World::clear]);
}

#[test]
fn two_fills_do_not_bring_back_what_was_invalidated() {
    in_every_order(&[World::fill, World::fill, World::invalidate]);
}

#[test]
fn two_fills_do_not_bring_back_what_was_cleared() {
    in_every_order(&[World::fill, World::fill, World::clear]);
}

/// While one request fills, another one finds what the first has put there, but never after the answer.
#[test]
fn a_request_beside_a_fill_finds_nothing_that_was_invalidated() {
    assert!(in_every_order(&[World::fill, World::find, World::invalidate]) > 0);
}

#[test]
fn a_request_beside_a_fill_finds_nothing_that_was_cleared() {
    assert!(in_every_order(&[World::fill, World::find, World::clear]) > 0);
}

/// Two that revoke: each is answered only once the token cannot be found.
#[test]
fn a_fill_does_not_bring_back_what_was_invalidated_and_cleared() {
    in_every_order(&[World::fill, World::invalidate, World::clear]);
}

/// Another token is revoked meanwhile: that raises the epoch too.
#[test]
fn a_fill_does_not_bring_back_what_was_invalidated_beside_another() {
    in_every_order(&[World::fill, World::invalidate, |world| world.cache.invalidate(&[OTHER])]);
}
