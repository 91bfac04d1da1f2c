//! For how long a credential is remembered, and what makes the cache forget it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use enlist_core::agent_token::Refusal;
use enlist_core::fleet::AuthenticateError;
use enlist_core::store::Change;
use enlist_core::{Fleet, HostId, PlainToken};

use crate::watched::Watched;
use crate::world::World;

/// A credential that was used twice: the first use promotes it, the second fills the cache.
async fn cached(world: &World) -> (HostId, PlainToken) {
    let (host_id, token) = world.enrolled("a").await;
    for _ in 0..2 {
        world.fleet.authenticate(token.expose()).await.unwrap();
    }
    (host_id, token)
}

/// Whether the next request reads the store.
async fn is_read(world: &World, store: &Watched, token: &PlainToken) -> bool {
    let before = store.reads();
    world.fleet.authenticate(token.expose()).await.unwrap();
    store.reads() > before
}

/// Lets time pass on both clocks, in steps that the drivers can follow.
async fn pass(world: &World, time: Duration) {
    const STEP: Duration = Duration::from_millis(100);
    for _ in 0..time.as_millis() / STEP.as_millis() {
        world.clock.advance(STEP);
        tokio::time::sleep(STEP).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_active_token_is_read_once_in_thirty_seconds() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder).running().await;
    let (_, token) = cached(&world).await;
    pass(&world, Duration::from_secs(29)).await;
    for _ in 0..10 {
        assert!(!is_read(&world, &store, &token).await);
    }
    pass(&world, Duration::from_secs(1)).await;
    assert!(is_read(&world, &store, &token).await);
}

/// Nobody would tell it of a revocation.
#[tokio::test(start_paused = true)]
async fn without_drivers_a_token_is_remembered_for_a_second() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let (_, token) = cached(&world).await;
    pass(&world, Duration::from_millis(900)).await;
    assert!(!is_read(&world, &store, &token).await);
    pass(&world, Duration::from_millis(100)).await;
    assert!(is_read(&world, &store, &token).await);
}

#[tokio::test(start_paused = true)]
async fn with_a_store_that_cannot_tell_a_token_is_remembered_for_a_second() {
    let store = Watched::default();
    store.mute.store(true, SeqCst);
    let world = World::with(store.clone(), |builder| builder).running().await;
    let (_, token) = cached(&world).await;
    pass(&world, Duration::from_millis(900)).await;
    assert!(!is_read(&world, &store, &token).await);
    pass(&world, Duration::from_millis(100)).await;
    assert!(is_read(&world, &store, &token).await);
}

/// Two replicas on one store: what one cuts off, the other refuses without having read it.
#[tokio::test(start_paused = true)]
async fn a_revocation_by_another_replica_is_refused_before_the_entry_has_aged() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder).running().await;
    let (host_id, token) = cached(&world).await;
    let (other, _drivers) = Fleet::builder(store.clone()).clock(std::sync::Arc::clone(&world.clock)).build().unwrap();
    let id = world.fleet.authenticate(token.expose()).await.unwrap().token_id();
    other.admin(&world.root).revoke_agent_token(host_id, id).await.unwrap();
    // The driver is woken by the change, not by the clock, which stands still.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let error = world.fleet.authenticate(token.expose()).await.unwrap_err();
    assert!(matches!(error, AuthenticateError::Refused(_, Refusal::Revoked)), "{error:?}");
}

/// A subscription that cannot prove that it works is not believed, and neither is what was remembered under it.
#[tokio::test(start_paused = true)]
async fn when_the_subscription_is_silent_for_two_seconds_the_store_is_read() {
    for hangs in [false, true] {
        let store = Watched::default();
        let world = World::with(store.clone(), |builder| builder).running().await;
        let (_, token) = cached(&world).await;
        pass(&world, Duration::from_secs(5)).await;
        assert!(!is_read(&world, &store, &token).await);
        (if hangs { &store.hanging } else { &store.deaf }).store(true, SeqCst);
        pass(&world, Duration::from_secs(3)).await;
        for _ in 0..3 {
            assert!(is_read(&world, &store, &token).await);
        }
        // It comes back by itself; what was remembered before is forgotten, since it may be wrong.
        store.hanging.store(false, SeqCst);
        store.deaf.store(false, SeqCst);
        pass(&world, Duration::from_secs(2)).await;
        assert!(is_read(&world, &store, &token).await);
        assert!(!is_read(&world, &store, &token).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_makes_it_forget_everything() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder).running().await;
    let (_, token) = cached(&world).await;
    store.tell(Change::Gap);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(is_read(&world, &store, &token).await);
    assert!(!is_read(&world, &store, &token).await);
}

/// A change that is told only when it is asked for is applied within a tick.
#[tokio::test(start_paused = true)]
async fn what_only_sync_finds_is_applied_within_a_tick() {
    let store = Watched::default();
    store.lazy.store(true, SeqCst);
    let world = World::with(store.clone(), |builder| builder).running().await;
    let (_, token) = cached(&world).await;
    store.tell(Change::AgentTokens(vec![token.hash()]));
    pass(&world, Duration::from_millis(600)).await;
    assert!(is_read(&world, &store, &token).await);
}
