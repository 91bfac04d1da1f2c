//! Hosts that fall silent, as the drivers find them.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::event::EventBody;
use enlist_core::fleet::TokioTimer;
use enlist_core::host::Status;
use enlist_core::liveness::LivenessWindow;
use enlist_core::policy::Scope;
use enlist_core::store::{EventQuery, Revision, Store};
use enlist_core::wire::{MonitorStatus, PatchHost};
use enlist_core::{Clock, Drivers, Fleet, HostId, ManualClock, MemoryStore, PlainToken};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::watched::Watched;
use crate::world::World;

/// A server process: a fleet on a store that others may have too, and the drivers that keep it.
struct Server {
    fleet: Fleet,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Server {
    fn start(store: &(impl Store + Clone), clock: &Arc<ManualClock>) -> Self {
        let (fleet, drivers) = Fleet::builder(store.clone()).clock(Arc::clone(clock)).build().unwrap();
        Self::of(fleet, drivers)
    }

    fn of(fleet: Fleet, drivers: Drivers) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(drivers.run(TokioTimer, async { drop(stopped.await) }));
        Self { fleet, stop, running }
    }

    async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap();
    }
}

/// A fleet of hosts that are in use, and their tokens; its own drivers do not run.
async fn world(store: &(impl Store + Clone), hosts: usize) -> (World, Vec<(HostId, PlainToken)>) {
    let world = World::with(store.clone(), |builder| builder);
    let mut tokens = Vec::new();
    for n in 0..hosts {
        tokens.push(world.in_use(&format!("host {n}")).await);
    }
    (world, tokens)
}

/// Both clocks, a second at a time, while these hosts send heartbeats now and then.
async fn pass(world: &World, server: Option<&Server>, seconds: u64, hosts: &[(HostId, PlainToken)]) {
    for second in 0..seconds {
        world.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(server) = server.filter(|_| second % 10 == 0) else { continue };
        for (_, token) in hosts {
            let identity = server.fleet.authenticate(token.expose()).await.unwrap();
            server.fleet.agent(&identity).live().unwrap().heartbeat().unwrap();
        }
    }
}

/// Which hosts fell, and whether the event speaks of a storm.
async fn fallen(world: &World) -> Vec<(Option<HostId>, bool)> {
    let events = world.events().await.into_iter();
    let fallen = events.filter_map(|event| match event.body {
        EventBody::HostUnreachable { storm, .. } => Some((event.host_id, storm)),
        _ => None,
    });
    fallen.collect()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_is_unreachable_once_and_its_return_is_told() {
    let store = MemoryStore::new();
    let (world, hosts) = world(&store, 3).await;
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    assert_eq!(fallen(&world).await, []);
    assert_eq!(server.fleet.monitor().status, MonitorStatus::Ok);
    // Its last heartbeat was 9 s ago.
    pass(&world, Some(&server), 80, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, []);
    pass(&world, Some(&server), 300, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    pass(&world, Some(&server), 100, &hosts).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    let last = world.events().await.pop().unwrap();
    assert_eq!((last.host_id, last.body), (Some(hosts[0].0), EventBody::HostOnline { was: Status::Unreachable }));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_is_unreachable_by_its_own_window() {
    let store = MemoryStore::new();
    let (world, hosts) = world(&store, 3).await;
    for ((host_id, _), seconds) in hosts.iter().zip([30, 300]) {
        let read = Revision::new(world.fleet.admin(&world.root).host(*host_id).await.unwrap().revision);
        let window = Some(LivenessWindow::from_secs(seconds).ok());
        let patch = PatchHost { liveness_window_seconds: window, ..PatchHost::default() };
        world.fleet.admin(&world.root).edit_host(*host_id, read, patch).await.unwrap();
    }
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    // Their last heartbeat was 9 s ago.
    for (seconds, expected) in [(21, 0), (10, 1), (49, 1), (11, 2), (200, 2), (10, 3)] {
        pass(&world, None, seconds, &[]).await;
        assert_eq!(fallen(&world).await.len(), expected);
    }
    let order: Vec<_> = fallen(&world).await.into_iter().map(|(host_id, _)| host_id).collect();
    assert_eq!(order, [Some(hosts[0].0), Some(hosts[2].0), Some(hosts[1].0)]);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_unreachable_for_the_servers_own_absence() {
    let store = MemoryStore::new();
    let (world, hosts) = world(&store, 4).await;
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    server.stop().await;
    pass(&world, None, 300, &[]).await;
    let server = Server::start(&store, &world.clock);
    // One was killed meanwhile. The others find the server again somewhat later.
    pass(&world, Some(&server), 30, &[]).await;
    let monitor = server.fleet.monitor();
    assert_eq!(monitor.status, MonitorStatus::Suspended);
    assert_eq!(monitor.held_until, Some(at(501 + 90)));
    pass(&world, Some(&server), 59, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, []);
    pass(&world, Some(&server), 300, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    assert_eq!(server.fleet.monitor().status, MonitorStatus::Ok);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_servers_on_one_store_tell_of_each_host_once_and_stand_in_for_each_other() {
    let store = MemoryStore::new();
    let (world, hosts) = world(&store, 5).await;
    let (one, other) = (Server::start(&store, &world.clock), Server::start(&store, &world.clock));
    pass(&world, Some(&one), 200, &hosts).await;
    pass(&world, Some(&one), 200, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    one.stop().await;
    pass(&world, Some(&other), 200, &hosts[2..]).await;
    // Started anew: the other has swept all the time.
    let one = Server::start(&store, &world.clock);
    pass(&world, Some(&one), 1, &hosts[2..]).await;
    assert_eq!(one.fleet.monitor().status, MonitorStatus::Ok);
    pass(&world, Some(&one), 200, &hosts[3..]).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false), (Some(hosts[1].0), false), (Some(hosts[2].0), false)]);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_degrades_the_monitor_and_is_told_after_five_windows() {
    let store = MemoryStore::new();
    let (world, hosts) = world(&store, 6).await;
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    pass(&world, Some(&server), 100, &hosts[5..]).await;
    let monitor = server.fleet.monitor();
    assert_eq!(monitor.status, MonitorStatus::Degraded);
    let since = monitor.degraded_since.expect("since then");
    assert_eq!(monitor.held_until, Some(since.saturating_add(Duration::from_secs(450))));
    pass(&world, Some(&server), 430, &hosts[5..]).await;
    assert_eq!(fallen(&world).await, []);
    pass(&world, Some(&server), 30, &hosts[5..]).await;
    let mut expected: Vec<_> = hosts[..5].iter().map(|(host_id, _)| (Some(*host_id), true)).collect();
    let mut told = fallen(&world).await;
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert_eq!((server.fleet.monitor().status, server.fleet.monitor().held_until), (MonitorStatus::Degraded, None));
    pass(&world, Some(&server), 100, &hosts[5..]).await;
    assert_eq!(server.fleet.monitor().status, MonitorStatus::Ok);
    server.stop().await;
}

/// More than one step, without waiting for the next tick.
#[tokio::test(start_paused = true)]
async fn all_of_a_large_fleet_that_falls_are_found() {
    let store = MemoryStore::new();
    let world = World::with(store.clone(), |builder| builder);
    for n in 0..2_500 {
        let host = sample::host(&format!("host {n}"));
        sample::create(&store, &host).await;
        let contact = sample::contact(&host, at(0));
        store.touch(vec![contact]).await.unwrap();
    }
    let server = Server::start(&store, &world.clock);
    // They are judged at 541 s.
    pass(&world, None, 545, &[]).await;
    let query = EventQuery { r#type: Some("host.unreachable".into()), ..EventQuery::new(Scope::All, 5_000) };
    assert_eq!(store.list_events(&query).await.unwrap().items.len(), 2_500);
    server.stop().await;
}

/// They hold leases that were promised to them: what keeps their contacts from the store is on this side.
#[tokio::test(start_paused = true)]
async fn nobody_is_unreachable_while_what_was_heard_cannot_be_written() {
    let store = Watched::default();
    let (world, hosts) = world(&store, 3).await;
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    store.untouchable.store(true, SeqCst);
    pass(&world, Some(&server), 300, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, []);
    assert_eq!(server.fleet.monitor().status, MonitorStatus::Stalled);
    store.untouchable.store(false, SeqCst);
    pass(&world, Some(&server), 300, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    server.stop().await;
}

/// Neither while reports hang in the store, whose senders give up and come again, nor afterwards for it.
#[tokio::test(start_paused = true)]
async fn nobody_is_unreachable_while_reports_wait_for_their_commit() {
    let store = Watched::default();
    let (world, hosts) = world(&store, 3).await;
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    let stall = store.stalled.lock().await;
    for _ in 0..30 {
        for (_, token) in &hosts {
            let identity = server.fleet.authenticate(token.expose()).await.unwrap();
            let report = sample::report(world.clock.now());
            let mut request = Box::pin(server.fleet.agent(&identity).live().unwrap().report(report));
            assert!(futures_util::poll!(request.as_mut()).is_pending());
        }
        pass(&world, Some(&server), 10, &[]).await;
    }
    assert_eq!(fallen(&world).await, []);
    assert_eq!(server.fleet.monitor().status, MonitorStatus::Stalled);
    drop(stall);
    pass(&world, Some(&server), 60, &[]).await;
    assert_eq!(fallen(&world).await, []);
    pass(&world, Some(&server), 300, &hosts[1..]).await;
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_fails_is_made_up_for_before_it_looks_like_an_absence() {
    let store = Watched::default();
    let (world, hosts) = world(&store, 3).await;
    let server = Server::start(&store, &world.clock);
    pass(&world, Some(&server), 200, &hosts).await;
    for _ in 0..20 {
        store.unswept.store(1, SeqCst);
        pass(&world, Some(&server), 10, &hosts[1..]).await;
        assert_eq!(server.fleet.monitor().status, MonitorStatus::Ok);
    }
    assert_eq!(fallen(&world).await, [(Some(hosts[0].0), false)]);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_sweep_says_so() {
    let store = MemoryStore::new();
    let (world, _) = world(&store, 0).await;
    assert_eq!(world.fleet.monitor().status, MonitorStatus::Stalled);
    let server = Server::start(&store, &world.clock);
    pass(&world, None, 5, &[]).await;
    assert_eq!(server.fleet.monitor().status, MonitorStatus::Suspended);
    let fleet = server.fleet.clone();
    server.stop().await;
    pass(&world, None, 30, &[]).await;
    assert_eq!(fleet.monitor().status, MonitorStatus::Stalled);
    assert!(fleet.monitor().last_sweep_at.is_some());
}
