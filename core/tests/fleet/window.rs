//! A host's own liveness window: what its agent is told, and what it may be.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use enlist_core::conformance::sample;
use enlist_core::fleet::Limits;
use enlist_core::host::{HostKind, HostName};
use enlist_core::liveness::LivenessWindow;
use enlist_core::store::Revision;
use enlist_core::wire::{CreateHost, PatchHost, Problem};
use enlist_core::{Fleet, HostId, MemoryStore, PlainToken};

use crate::world::{World, agent_token};

fn window(seconds: u64) -> Option<LivenessWindow> {
    Some(LivenessWindow::from_secs(seconds).unwrap())
}

fn patch(liveness_window: Option<LivenessWindow>) -> PatchHost {
    PatchHost { liveness_window_seconds: Some(liveness_window), ..PatchHost::default() }
}

fn named(name: &str, liveness_window_seconds: Option<LivenessWindow>) -> CreateHost {
    CreateHost { liveness_window_seconds, ..CreateHost::new(HostName::new(name).unwrap(), HostKind::Byoc) }
}

/// A host with this window, whose credential is in use.
async fn in_use(world: &World, own: Option<LivenessWindow>) -> (HostId, PlainToken) {
    let created = world.fleet.admin(&world.root).create_host(named("a", own)).await.unwrap();
    assert_eq!(created.host.liveness_window_seconds, own);
    let token = agent_token();
    world.exchange(&created.install_token.unwrap().token, Some(token.hash())).await.unwrap();
    // The second fills the cache.
    for _ in 0..2 {
        world.fleet.authenticate(token.expose()).await.unwrap();
    }
    (created.host.id, token)
}

/// The lease and the interval, in seconds, that an agent is told with a heartbeat.
async fn told(fleet: &Fleet, token: &PlainToken) -> (u64, u64) {
    let identity = fleet.authenticate(token.expose()).await.unwrap();
    let reply = fleet.agent(&identity).live().unwrap().heartbeat().unwrap();
    (reply.lease_ms / 1_000, reply.next_report_in_ms / 1_000)
}

async fn revision(world: &World, host_id: HostId) -> Revision {
    Revision::new(world.fleet.admin(&world.root).host(host_id).await.unwrap().revision)
}

#[tokio::test]
async fn an_agent_is_told_of_its_hosts_own_window_with_every_reply() {
    for (own, lease_ms, next) in [(12, 8_000, 4_000), (600, 400_000, 30_000)] {
        let world = World::new().running().await;
        let (_, token) = in_use(&world, window(own)).await;
        assert_eq!(told(&world.fleet, &token).await, (lease_ms / 1_000, next / 1_000));
        let identity = world.fleet.authenticate(token.expose()).await.unwrap();
        let agent = world.fleet.agent(&identity);
        let reply = agent.live().unwrap().report(sample::report(sample::at(0))).await.unwrap();
        assert_eq!((reply.lease_ms, reply.next_report_in_ms), (lease_ms, next));
        let batch = serde_json::json!({"reports": [sample::report(sample::at(1))]});
        let reply = agent.catch_up().unwrap().batch_json(batch.to_string().as_bytes()).await.unwrap();
        assert_eq!((reply.lease_ms, reply.next_report_in_ms), (lease_ms, next));
    }
}

#[tokio::test]
async fn another_window_is_told_with_the_next_reply() {
    let world = World::new().running().await;
    let (host_id, token) = in_use(&world, None).await;
    for (own, expected) in [(window(12), (8, 4)), (window(300), (200, 30)), (None, (60, 30))] {
        let read = revision(&world, host_id).await;
        let edited = world.fleet.admin(&world.root).edit_host(host_id, read, patch(own)).await.unwrap();
        assert_eq!(edited.liveness_window_seconds, own);
        assert_eq!(told(&world.fleet, &token).await, expected);
    }
    // The first use of a successor reads it as well.
    let read = revision(&world, host_id).await;
    world.fleet.admin(&world.root).edit_host(host_id, read, patch(window(30))).await.unwrap();
    let successor = agent_token();
    world.propose(&token, &successor).await.unwrap();
    assert_eq!(told(&world.fleet, &successor).await, (20, 10));
}

#[tokio::test(start_paused = true)]
async fn another_replica_tells_of_another_window_once_what_it_remembers_is_old() {
    let store = MemoryStore::new();
    let world = World::with(store.clone(), |builder| builder);
    let (other, drivers) = Fleet::builder(store).clock(Arc::clone(&world.clock)).build().unwrap();
    tokio::spawn(drivers.run(enlist_core::fleet::TokioTimer, std::future::pending()));
    while !other.accepts_reports() {
        tokio::task::yield_now().await;
    }
    let (host_id, token) = in_use(&world, None).await;
    assert_eq!(told(&other, &token).await, (60, 30));
    world.fleet.admin(&world.root).edit_host(host_id, Revision::new(3), patch(window(12))).await.unwrap();
    let mut waited = 0;
    while told(&other, &token).await != (8, 4) {
        for _ in 0..10 {
            world.clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        waited += 1;
    }
    assert_eq!(waited, 30);
}

/// What would have agents refused, or hosts called unreachable whose contacts wait to be written.
#[tokio::test]
async fn a_window_that_other_limits_make_too_short_is_refused() {
    let refused = async |limits: Limits, own: u64| {
        let world = World::with(MemoryStore::new(), |builder| builder.limits(limits));
        let admin = world.fleet.admin(&world.root);
        let created = admin.create_host(named("a", window(own))).await.map(drop);
        let (host_id, _) = world.create("b").await;
        let edited = admin.edit_host(host_id, Revision::FIRST, patch(window(own))).await.map(drop);
        let problems = [created, edited].map(|outcome| {
            outcome.err().map(|error| {
                let problem = Problem::from(error);
                (problem.status, problem.code.to_string(), problem.field.unwrap_or_default())
            })
        });
        assert_eq!(problems[0], problems[1]);
        problems[0].clone()
    };
    let expected = Some((422, "invalid_field".to_owned(), "/liveness_window_seconds".to_owned()));
    let mut limits = Limits::default();
    assert_eq!(refused(limits.clone(), 3).await, None, "once a second is allowed");
    limits.live_per_minute = NonZeroU32::new(20);
    assert_eq!(refused(limits.clone(), 8).await, expected);
    assert_eq!(refused(limits.clone(), 9).await, None, "once in 3 s");
    limits.live_per_minute = None;
    limits.contact_interval = Duration::from_secs(5);
    assert_eq!(refused(limits.clone(), 14).await, expected);
    assert_eq!(refused(limits, 15).await, None);
}
