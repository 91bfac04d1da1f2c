//! How often a host may ask: each kind of request by itself, and what is refused for it leaves no trace.

use std::num::NonZeroU32;
use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::fleet::{AuthenticateError, Limits, RateLimited, TelemetryRange, TokioTimer};
use enlist_core::host::Status;
use enlist_core::wire::{AgentAction, Code, Problem};
use enlist_core::{AgentIdentity, MemoryStore, PlainToken};

use crate::world::{World, agent_token};

/// A world in which an agent may send so much a minute.
fn world(live: u32, batches: u32, rotations: u32) -> World {
    let mut limits = Limits::default();
    // Asked for no more often than the least of these rates allows.
    (limits.report_interval, limits.liveness_window) = (Duration::from_secs(60), Duration::from_secs(180));
    limits.live_per_minute = NonZeroU32::new(live);
    limits.batches_per_minute = NonZeroU32::new(batches);
    limits.rotations_per_minute = NonZeroU32::new(rotations);
    World::with(MemoryStore::new(), |builder| builder.limits(limits))
}

fn live(world: &World, identity: &AgentIdentity) -> Result<(), RateLimited> {
    let live = world.fleet.agent(identity).live()?;
    live.heartbeat().unwrap();
    Ok(())
}

fn batch(world: &World, identity: &AgentIdentity) -> Result<(), RateLimited> {
    world.fleet.agent(identity).catch_up().map(drop)
}

/// A proposal that changes nothing, since it is always the same.
async fn propose(world: &World, token: &PlainToken, successor: &PlainToken) -> Result<(), RateLimited> {
    match world.propose(token, successor).await {
        Ok(_) => Ok(()),
        Err(AuthenticateError::RateLimited(limited)) => Err(limited),
        Err(error) => panic!("{error}"),
    }
}

fn later(seconds: u64) -> Result<(), RateLimited> {
    Err(RateLimited { retry_after: Duration::from_secs(seconds) })
}

#[tokio::test]
async fn after_a_minutes_share_one_passes_at_a_time() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    for n in 0..60 {
        let live = world.fleet.agent(&identity).live().unwrap();
        if n % 2 == 0 {
            live.heartbeat().unwrap();
        } else {
            live.report(sample::report(at(n))).await.unwrap();
        }
    }
    assert_eq!(live(&world, &identity), later(1));
    let problem = Problem::from(live(&world, &identity).unwrap_err());
    assert_eq!((problem.status, problem.code.clone()), (429, Code::RateLimited));
    assert_eq!(problem.action, Some(AgentAction::Retry));
    // Whole seconds, rounded up, so that whoever waits so long is served.
    world.clock.advance(Duration::from_millis(300));
    let problem = Problem::from(live(&world, &identity).unwrap_err());
    assert!(problem.headers().contains(&("retry-after", "1".to_owned())));
    world.clock.advance(Duration::from_millis(700));
    assert_eq!(live(&world, &identity), Ok(()));
    assert_eq!(live(&world, &identity), later(1));
    world.clock.advance(Duration::from_secs(3600));
    for _ in 0..60 {
        assert_eq!(live(&world, &identity), Ok(()));
    }
    assert_eq!(live(&world, &identity), later(1), "an idle hour saves up no more than a minute's share");
}

#[tokio::test]
async fn each_kind_of_request_has_a_share_of_its_own() {
    let world = World::new().running().await;
    let (_, token) = world.in_use("a").await;
    let (successor, identity) = (agent_token(), world.fleet.authenticate(token.expose()).await.unwrap());
    for _ in 0..12 {
        assert_eq!(batch(&world, &identity), Ok(()));
        propose(&world, &token, &successor).await.unwrap();
    }
    assert_eq!(batch(&world, &identity), later(5));
    assert_eq!(propose(&world, &token, &successor).await, later(5));
    for _ in 0..60 {
        assert_eq!(live(&world, &identity), Ok(()));
    }
    assert_eq!(live(&world, &identity), later(1));
    world.clock.advance(Duration::from_secs(5));
    for _ in 0..5 {
        live(&world, &identity).unwrap();
    }
    assert_eq!(live(&world, &identity), later(1));
    assert_eq!(batch(&world, &identity), Ok(()));
    assert_eq!(propose(&world, &token, &successor).await, Ok(()));
    // Neither of them has paid for another.
    assert_eq!(batch(&world, &identity), later(5));
    assert_eq!(propose(&world, &token, &successor).await, later(5));
}

#[tokio::test]
async fn reports_are_counted_by_token_and_rotations_by_host() {
    let world = world(1, 1, 2).running().await;
    let (_, token) = world.in_use("a").await;
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    live(&world, &identity).unwrap();
    batch(&world, &identity).unwrap();
    let other = world.identity("b").await;
    assert_eq!((live(&world, &other), batch(&world, &other)), (Ok(()), Ok(())));
    let successor = world.rotated(&token).await;
    let identity = world.fleet.authenticate(successor.expose()).await.unwrap();
    assert_eq!((live(&world, &identity), batch(&world, &identity)), (Ok(()), Ok(())));
    assert_eq!((live(&world, &identity), batch(&world, &identity)), (later(60), later(60)));
    let next = world.rotated(&successor).await;
    assert_eq!(propose(&world, &next, &agent_token()).await, later(30), "the third of this host");
    let (_, elsewhere) = world.in_use("c").await;
    assert_eq!(propose(&world, &elsewhere, &agent_token()).await, Ok(()));
}

#[tokio::test]
async fn what_is_refused_for_its_rate_is_no_contact_and_writes_nothing() {
    let mut world = world(1, 1, 1);
    let drivers = world.drivers.take().unwrap();
    let (host_id, token) = world.in_use("a").await;
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = Box::pin(drivers.run(TokioTimer, async move { drop(stopped.await) }));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    live(&world, &identity).unwrap();
    batch(&world, &identity).unwrap();
    propose(&world, &token, &agent_token()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let other = agent_token();
    assert_eq!((live(&world, &identity), batch(&world, &identity)), (later(59), later(59)));
    assert_eq!(propose(&world, &token, &other).await, later(59));
    stop.send(()).unwrap();
    running.await;
    let host = world.fleet.admin(&world.root).host(host_id).await.unwrap();
    assert_eq!((host.status, host.last_seen_at), (Status::Online, Some(at(0))));
    assert_eq!(world.count("agent_token.proposed").await, 1);
    let stored = world.fleet.admin(&world.root).list_telemetry(host_id, TelemetryRange::default()).await.unwrap();
    assert!(stored.items.is_empty());
}

#[tokio::test]
async fn without_a_rate_there_is_no_limit() {
    let world = world(0, 0, 0).running().await;
    let (_, token) = world.in_use("a").await;
    let (successor, identity) = (agent_token(), world.fleet.authenticate(token.expose()).await.unwrap());
    for _ in 0..100 {
        live(&world, &identity).unwrap();
        batch(&world, &identity).unwrap();
        propose(&world, &token, &successor).await.unwrap();
    }
}

/// Otherwise whoever has a copy of a credential that was revoked could keep the host from ever rotating again.
#[tokio::test]
async fn a_dead_credential_uses_up_nothing_of_its_host() {
    let world = world(60, 12, 1);
    let (host_id, token) = world.in_use("a").await;
    world.fleet.admin(&world.root).revoke_agent_tokens(host_id).await.unwrap();
    let issued = world.fleet.admin(&world.root).issue_agent_token(host_id, Default::default()).await.unwrap().token;
    for _ in 0..3 {
        assert_eq!(world.offer(&token, &agent_token()).await, "token_revoked");
    }
    assert_eq!(world.offer(&issued, &agent_token()).await, "pending");
    assert_eq!(world.offer(&issued, &agent_token()).await, "rate_limited");
    assert_eq!(world.offer(&token, &agent_token()).await, "token_revoked");
}
