//! Reports from the request to the store: bounds, contacts, drivers, backpressure.

use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::fleet::{ContainerFilter, Limits, ReportError, TelemetryRange, TokioTimer};
use enlist_core::host::Status;
use enlist_core::store::StoreErrorKind;
use enlist_core::telemetry::Report;
use enlist_core::wire::{Problem, ReportStatus};
use enlist_core::{AgentIdentity, HostId, MemoryStore};
use serde_json::{Value, json};

use crate::watched::Watched;
use crate::world::World;

fn body() -> Value {
    json!({
        "recorded_at": at(0).to_string(),
        "host": {
            "facts": {"cpu_count": 2, "os": "Debian"},
            "metrics": {"cpu_percent": 12.5, "memory_used_bytes": 1, "load_1m": 0.5},
            "custom": {"queue_depth": 3.0},
        },
        "containers": [
            {"container_id": "c1", "name": "web", "image": "nginx", "state": "running",
             "labels": {"a": "b"}, "ports": [{"container_port": 80}],
             "metrics": {"cpu_cores": 0.5, "memory_used_bytes": 1024}},
        ],
        "containers_complete": true,
        "agent": {"version": "1.0"},
        "a_field_of_a_later_version": {"is": "ignored"},
    })
}

async fn status(world: &World, host_id: HostId) -> Status {
    world.fleet.admin(&world.root).host(host_id).await.unwrap().status
}

async fn stored(world: &World, host_id: HostId) -> usize {
    let range = TelemetryRange { limit: Some(500), ..TelemetryRange::default() };
    world.fleet.admin(&world.root).list_telemetry(host_id, range).await.unwrap().items.len()
}

async fn send(world: &World, identity: &AgentIdentity, body: &Value) -> Result<ReportStatus, Problem> {
    let reply = world.fleet.agent(identity).live().unwrap().report_json(body.to_string().as_bytes()).await;
    reply.map(|reply| reply.status).map_err(Problem::from)
}

#[tokio::test]
async fn a_report_is_stored_and_read_back() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let reply = world.fleet.agent(&identity).live().unwrap().report_json(body().to_string().as_bytes()).await.unwrap();
    assert_eq!(reply.status, ReportStatus::Accepted);
    assert_eq!((reply.server_time, reply.next_report_in_ms, reply.lease_ms), (at(0), 30_000, 60_000));
    let admin = world.fleet.admin(&world.root);
    let host = admin.host(identity.host_id()).await.unwrap();
    assert_eq!((host.status, host.last_seen_at), (Status::Online, Some(at(0))));
    assert_eq!(host.facts.os.as_deref(), Some("Debian"));
    let telemetry = admin.list_telemetry(identity.host_id(), TelemetryRange::default()).await.unwrap();
    let [snapshot] = &telemetry.items[..] else { panic!("one report was stored, not {telemetry:?}") };
    assert_eq!(snapshot.metrics.cpu_percent, Some(12.5));
    assert_eq!(snapshot.custom["queue_depth"], 3.0);
    assert_eq!(snapshot.containers[0].metrics.cpu_cores, Some(0.5));
    let containers = admin.list_containers(identity.host_id(), ContainerFilter::default()).await.unwrap();
    assert_eq!(containers.items[0].container.name, "web");
    assert!(!containers.items[0].missing);
}

#[tokio::test]
async fn a_report_sent_again_is_a_duplicate_and_with_other_content_a_conflict() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    assert_eq!(send(&world, &identity, &body()).await, Ok(ReportStatus::Accepted));
    assert_eq!(send(&world, &identity, &body()).await, Ok(ReportStatus::Duplicate));
    let mut other = body();
    other["host"]["metrics"]["cpu_percent"] = json!(13);
    assert_eq!(send(&world, &identity, &other).await, Ok(ReportStatus::Conflict));
    assert_eq!(stored(&world, identity.host_id()).await, 1);
}

/// Puts `value` where `pointer` says, whether or not something stands there.
fn put(body: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
    body.pointer_mut(parent).expect("its parent is there")[name] = value;
}

/// Each breaks one bound; `field` names it, nothing is stored, and the next good report is taken.
#[tokio::test]
async fn a_report_that_breaks_a_bound_is_refused_with_its_field() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let plain = |index: usize| json!({"container_id": format!("c{index}"), "name": "n", "image": "i", "state": "s"});
    let containers = |count: usize| Value::Array((0..count).map(plain).collect());
    let with = |name: &str, value: Value| {
        let mut container = plain(0);
        container[name] = value;
        json!([container])
    };
    let long = |bytes: usize| Value::String("x".repeat(bytes));
    let custom = |count: usize| Value::Object((0..count).map(|n| (format!("c{n}"), json!(1))).collect());
    let in_place = [
        ("/recorded_at", json!("yesterday")),
        ("/host/metrics/cpu_percent", json!(100.1)),
        ("/host/metrics/cpu_percent", json!(-0.1)),
        ("/host/metrics/cpu_percent", json!("12")),
        ("/host/metrics/cpu_percent", json!("NaN")),
        ("/host/metrics/load_5m", json!(-1)),
        ("/host/metrics/memory_used_bytes", json!(-1)),
        ("/host/metrics/memory_used_bytes", json!(0.5)),
        ("/host/metrics/network_rx_bytes", json!(1u64 << 63)),
        ("/host/metrics", json!("all of them")),
        ("/host/facts/os", long(256)),
        ("/host/facts/kernel", json!("a\u{0}b")),
        ("/host/facts/cpu_count", json!(1u64 << 32)),
        ("/host/facts/disk_total_bytes", json!(u64::MAX)),
        ("/host/custom", custom(33)),
        ("/host/custom/x", json!("1")),
        ("/agent/version", long(65)),
        ("/agent/spooled", json!(-1)),
        ("/containers", json!({})),
        ("/containers_complete", json!("yes")),
    ];
    let in_containers = [
        ("/containers/1/container_id", json!([plain(0), plain(0)])),
        ("/containers/0/container_id", with("container_id", json!(""))),
        ("/containers/0/container_id", with("container_id", long(129))),
        ("/containers/0/container_id", with("container_id", json!("."))),
        ("/containers/0/container_id", with("container_id", json!(".."))),
        ("/containers/0/name", with("name", long(256))),
        ("/containers/0/image", with("image", long(513))),
        ("/containers/0/image_tag", with("image_tag", long(129))),
        ("/containers/0/state", with("state", long(33))),
        ("/containers/0/error", with("error", long(1025))),
        ("/containers/0/restarts", with("restarts", json!(-1))),
        ("/containers/0/metrics/cpu_cores", with("metrics", json!({"cpu_cores": -1}))),
        ("/containers/0/metrics/pids", with("metrics", json!({"pids": u64::MAX}))),
        ("/containers/0/ports", with("ports", json!(vec![json!({"container_port": 1}); 65]))),
        ("/containers/0/ports/0/container_port", with("ports", json!([{"container_port": 65536}]))),
        ("/containers/0/ports/0/host_ip", with("ports", json!([{"container_port": 1, "host_ip": long(65)}]))),
        ("/containers/0/labels/k", with("labels", json!({"k": long(1025)}))),
        ("/containers/0/labels/", with("labels", json!({"": "v"}))),
        ("/containers/0/labels/nul\u{0}", with("labels", json!({"ok": "v", "nul\u{0}": "v"}))),
        ("/containers/0/labels/k", with("labels", json!({"k": 1}))),
        ("/containers/0/started_at", with("started_at", json!("1969-01-01T00:00:00Z"))),
    ];
    // Named as it was sent: escaped as a pointer, and only so much of it as it takes to find it.
    let names = [
        ("Bad-Name".to_owned(), "/host/custom/Bad-Name".to_owned()),
        ("a/b~c".to_owned(), "/host/custom/a~1b~0c".to_owned()),
        (String::new(), "/host/custom/".to_owned()),
        ("x".repeat(65), format!("/host/custom/{}", "x".repeat(65))),
        ("x".repeat(5_000), format!("/host/custom/{}…", "x".repeat(256 - "/host/custom/".len()))),
    ];
    let cases = in_place
        .into_iter()
        .map(|(field, value)| (field, field, value, "invalid_field"))
        .chain(
            names
                .iter()
                .map(|(name, field)| ("/host/custom", field.as_str(), json!({"ok": 1, name: 2}), "invalid_field")),
        )
        .chain(in_containers.into_iter().map(|(field, value)| ("/containers", field, value, "invalid_field")))
        .chain([
            ("/containers", "/containers", containers(501), "too_many_containers"),
            ("/recorded_at", "/recorded_at", json!(at(-3601).to_string()), "clock_skew"),
            ("/recorded_at", "/recorded_at", json!(at(301).to_string()), "clock_skew"),
        ]);
    for (place, field, value, code) in cases {
        let mut body = body();
        put(&mut body, place, value);
        let problem = send(&world, &identity, &body).await.expect_err(field);
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), (code, Some(field)));
        assert_eq!((problem.status, problem.server_time), (422, Some(at(0))));
        assert_eq!(stored(&world, identity.host_id()).await, 0);
    }
    let mut most = body();
    put(&mut most, "/containers", containers(500));
    put(&mut most, "/host/custom", custom(32));
    put(&mut most, "/recorded_at", json!(at(-3600).to_string()));
    assert_eq!(send(&world, &identity, &most).await, Ok(ReportStatus::Accepted));
    put(&mut most, "/recorded_at", json!(at(300).to_string()));
    assert_eq!(send(&world, &identity, &most).await, Ok(ReportStatus::Accepted));
}

#[tokio::test]
async fn what_is_not_json_is_400_and_stored_nowhere() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let nan = body().to_string().replace("12.5", "NaN");
    let trailing = format!("{} {{}}", body());
    let cut = &body().to_string()[..100];
    for text in ["", "{", "nonsense", "\u{0}", &nan, &trailing, cut] {
        let error = world.fleet.agent(&identity).live().unwrap().report_json(text.as_bytes()).await.unwrap_err();
        let problem = Problem::from(error);
        assert_eq!((problem.status, problem.code.as_str(), problem.field), (400, "invalid_json", None), "{text}");
    }
    assert_eq!(stored(&world, identity.host_id()).await, 0);
}

#[tokio::test]
async fn a_wrong_value_is_never_repeated_in_the_problem() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let secret = "eat_canary_canary_canary";
    for field in ["/recorded_at", "/host/metrics/cpu_percent", "/host/facts/cpu_count", "/containers_complete"] {
        let mut body = body();
        *body.pointer_mut(field).unwrap() = json!(secret);
        let problem = send(&world, &identity, &body).await.unwrap_err();
        assert!(!String::from_utf8(problem.to_json()).unwrap().contains("canary"), "{problem:?}");
        assert_eq!(problem.field.as_deref(), Some(field));
    }
}

#[tokio::test]
async fn a_refused_report_is_a_contact_all_the_same() {
    let world = World::with(MemoryStore::new(), |builder| builder);
    let world = world.running().await;
    let identity = world.identity("a").await;
    assert_eq!(status(&world, identity.host_id()).await, Status::Pending);
    let mut skewed = body();
    skewed["recorded_at"] = json!(at(-2 * 3600).to_string());
    send(&world, &identity, &skewed).await.unwrap_err();
    until_online(&world, identity.host_id()).await;
}

/// Whoever sent it may have given up by the time that the store says no.
#[tokio::test]
async fn a_report_that_is_not_stored_is_a_contact_also_when_nobody_waits_for_it() {
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Corrupt] {
        let store = Watched::default();
        let world = World::with(store.clone(), |builder| builder).running().await;
        let (whole, one) = (world.identity("whole").await, world.identity("one").await);
        store.refused.lock().unwrap().insert(at(0), kind);
        store.unstorable.lock().unwrap().insert(at(1), kind);
        for (identity, time) in [(&whole, at(0)), (&one, at(1))] {
            let mut request = Box::pin(world.fleet.agent(identity).live().unwrap().report(sample::report(time)));
            assert!(futures_util::poll!(request.as_mut()).is_pending());
            drop(request);
            until_online(&world, identity.host_id()).await;
            assert_eq!(stored(&world, identity.host_id()).await, 0);
        }
    }
}

#[tokio::test]
async fn a_contact_that_fails_by_itself_for_now_is_tried_again() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder).running().await;
    let identities = [world.identity("a").await, world.identity("b").await];
    // All of them for a reason that stays, as if one were to blame, and the first of them alone for one that passes.
    store.touches.lock().unwrap().extend([StoreErrorKind::Corrupt, StoreErrorKind::Unavailable]);
    for identity in &identities {
        world.fleet.agent(identity).live().unwrap().heartbeat().unwrap();
    }
    for identity in &identities {
        until_online(&world, identity.host_id()).await;
    }
    assert!(store.touches.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_heartbeat_is_a_contact() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let reply = world.fleet.agent(&identity).live().unwrap().heartbeat().unwrap();
    assert_eq!((reply.lease_ms, reply.next_report_in_ms), (60_000, 30_000));
    until_online(&world, identity.host_id()).await;
}

/// Contacts are written in batches: waits for the batch, however long it takes.
async fn until_online(world: &World, host_id: HostId) {
    while status(world, host_id).await != Status::Online {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn contacts_that_wait_are_written_at_shutdown() {
    let mut world = World::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let drivers = world.drivers.take().unwrap();
    let running = tokio::spawn(drivers.run(TokioTimer, async move { drop(stopped.await) }));
    while !world.fleet.accepts_reports() {
        tokio::task::yield_now().await;
    }
    let identity = world.identity("a").await;
    world.fleet.agent(&identity).live().unwrap().heartbeat().unwrap();
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(status(&world, identity.host_id()).await, Status::Online);
}

#[tokio::test]
async fn without_drivers_a_report_and_a_heartbeat_fail_at_once() {
    let world = World::new();
    let identity = world.identity("a").await;
    let problem = send(&world, &identity, &body()).await.unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
    assert!(problem.retry_after.is_some());
    assert!(world.fleet.agent(&identity).live().unwrap().heartbeat().is_err());
    let error = world.fleet.check().await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("spawn Drivers::run"));
}

#[tokio::test]
async fn drivers_dropped_in_mid_flight_leave_a_clear_error() {
    let mut world = World::new();
    let drivers = world.drivers.take().unwrap();
    let identity = world.identity("a").await;
    // Polled once, so that it takes reports, and then never again.
    let mut running = Box::pin(drivers.run(TokioTimer, std::future::pending()));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    let fleet = world.fleet.clone();
    let waiting = tokio::spawn({
        let identity = identity.clone();
        async move { fleet.agent(&identity).live().unwrap().report(sample::report(at(0))).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    drop(running);
    assert!(matches!(waiting.await.unwrap(), Err(ReportError::Store(_))));
    let refused = world.fleet.agent(&identity).live().unwrap().report(sample::report(at(0))).await;
    assert!(matches!(refused, Err(ReportError::Store(_))));
    assert_eq!(stored(&world, identity.host_id()).await, 0);
}

#[tokio::test]
async fn what_was_taken_before_the_shutdown_is_committed() {
    let mut world = World::new();
    let drivers = world.drivers.take().unwrap();
    let identity = world.identity("a").await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = Box::pin(drivers.run(TokioTimer, async move { drop(stopped.await) }));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    let agent = world.fleet.agent(&identity);
    let reports: Vec<_> = (0..10).map(|n| agent.live().unwrap().report(sample::report(at(n)))).collect();
    let mut reports = futures_util::future::join_all(reports);
    // All of them queue up, none is answered yet; then the end comes first.
    assert!(futures_util::poll!(&mut reports).is_pending());
    stop.send(()).unwrap();
    running.await;
    assert!(reports.await.into_iter().all(|reply| reply.unwrap().status == ReportStatus::Accepted));
    assert_eq!(stored(&world, identity.host_id()).await, 10);
}

/// There is always a next report; the shutdown counts all the same, and heartbeats taken meanwhile are written.
#[tokio::test]
async fn drivers_stop_under_load_and_write_the_contacts_of_the_last_moment() {
    let mut world = World::new();
    let drivers = world.drivers.take().unwrap();
    let (identity, quiet) = (world.identity("a").await, world.identity("b").await);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = Box::pin(drivers.run(TokioTimer, async move { drop(stopped.await) }));
    assert!(futures_util::poll!(running.as_mut()).is_pending());
    let agent = world.fleet.agent(&identity);
    let mut first = Box::pin(agent.live().unwrap().report(sample::report(at(0))));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    stop.send(()).unwrap();
    world.fleet.agent(&quiet).live().unwrap().heartbeat().unwrap();
    // Both are ready at the next poll: the report and the shutdown. One poll is enough for all of it.
    assert!(futures_util::poll!(running.as_mut()).is_ready());
    assert_eq!(first.await.unwrap().status, ReportStatus::Accepted);
    assert_eq!(status(&world, quiet.host_id()).await, Status::Online);
    let problem = send(&world, &identity, &body()).await.unwrap_err();
    assert_eq!(problem.code.as_str(), "unavailable");
}

#[tokio::test]
async fn a_full_queue_is_503_with_retry_after_and_empties_again() {
    for by_bytes in [false, true] {
        let mut limits = Limits::default();
        if by_bytes {
            (limits.queue_bytes, limits.batch_body_bytes, limits.body_bytes) = (4 * 2048, 1024, 1024);
        } else {
            limits.queue_reports = 3;
        }
        let mut world = World::with(MemoryStore::new(), |builder| builder.limits(limits));
        let drivers = world.drivers.take().unwrap();
        let identity = world.identity("a").await;
        let mut running = Box::pin(drivers.run(TokioTimer, std::future::pending()));
        assert!(futures_util::poll!(running.as_mut()).is_pending());
        let agent = world.fleet.agent(&identity);
        let mut waiting: Vec<_> = Vec::new();
        let refused = loop {
            let mut report = Box::pin(agent.live().unwrap().report(sample::report(at(waiting.len() as i64))));
            match futures_util::poll!(report.as_mut()) {
                std::task::Poll::Pending => waiting.push(report),
                std::task::Poll::Ready(reply) => break reply.unwrap_err(),
            }
        };
        assert_eq!(waiting.len(), if by_bytes { 4 } else { 3 });
        let problem = Problem::from(refused);
        assert_eq!((problem.status, problem.code.as_str()), (503, "overloaded"));
        assert!(problem.headers().iter().any(|(name, _)| *name == "retry-after"));
        let driven = futures_util::future::select(futures_util::future::join_all(waiting), running).await;
        let futures_util::future::Either::Left((replies, running)) = driven else { panic!("the drivers ended") };
        assert!(replies.into_iter().all(|reply| reply.is_ok()));
        let again =
            futures_util::future::select(Box::pin(agent.live().unwrap().report(sample::report(at(99)))), running).await;
        let futures_util::future::Either::Left((reply, _)) = again else { panic!("the drivers ended") };
        reply.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_goes_away_gives_its_place_back() {
    let mut limits = Limits::default();
    limits.queue_reports = 2;
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
    let identity = world.identity("a").await;
    let agent = world.fleet.agent(&identity);
    for n in 0..50 {
        let mut report = Box::pin(agent.live().unwrap().report(sample::report(at(n))));
        let _ = futures_util::poll!(report.as_mut());
        drop(report);
        tokio::task::yield_now().await;
    }
    while stored(&world, identity.host_id()).await == 0 {
        tokio::task::yield_now().await;
    }
    agent.live().unwrap().report(sample::report(at(99))).await.unwrap();
}

#[tokio::test]
async fn many_at_once_are_all_answered_and_all_there() {
    let world = World::new().running().await;
    let mut identities = Vec::new();
    for n in 0..8 {
        identities.push(world.identity(&format!("h{n}")).await);
    }
    let agents: Vec<_> = identities.iter().map(|identity| world.fleet.agent(identity)).collect();
    let reports = agents.iter().flat_map(|agent| (0..40).map(|n| agent.live().unwrap().report(sample::report(at(n)))));
    let replies = futures_util::future::join_all(reports).await;
    assert!(replies.into_iter().all(|reply| reply.unwrap().status == ReportStatus::Accepted));
    for identity in &identities {
        assert_eq!(stored(&world, identity.host_id()).await, 40);
    }
}

#[tokio::test]
async fn a_host_archived_after_it_was_authenticated_is_told_so() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    world.fleet.admin(&world.root).archive_host(identity.host_id()).await.unwrap();
    let problem = send(&world, &identity, &body()).await.unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (401, "host_archived"));
    assert_eq!(stored(&world, identity.host_id()).await, 0);
}

/// Only a tombstone proves a deletion, and there are none yet: 410 would make the agent erase its credential.
#[tokio::test]
async fn a_host_whose_row_is_lost_is_not_told_that_it_was_deleted() {
    let identity = World::new().identity("a").await;
    let other = World::new().running().await;
    let problem = send(&other, &identity, &body()).await.unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
}

#[tokio::test]
async fn containers_of_a_host_that_is_not_online_read_as_missing() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    send(&world, &identity, &body()).await.unwrap();
    world.fleet.admin(&world.root).archive_host(identity.host_id()).await.unwrap();
    let page =
        world.fleet.admin(&world.root).list_containers(identity.host_id(), ContainerFilter::default()).await.unwrap();
    assert!(page.items[0].missing);
}

/// However often it is asked: a probe that nobody has to authenticate for must not cost a write each.
#[tokio::test]
async fn the_store_is_asked_whether_it_works_once_a_second() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder).running().await;
    for _ in 0..10 {
        world.fleet.check().await.unwrap();
    }
    assert_eq!(store.checks(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.fleet.check().await.unwrap();
    assert_eq!(store.checks(), 2);
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    fn refused(change: impl FnOnce(&mut Limits)) -> bool {
        let mut limits = Limits::default();
        change(&mut limits);
        enlist_core::Fleet::builder(MemoryStore::new()).limits(limits).build().is_err()
    }
    assert!(!refused(|_| {}));
    assert!(refused(|limits| limits.queue_reports = 0));
    assert!(refused(|limits| limits.queue_bytes = limits.body_bytes - 1));
    assert!(refused(|limits| limits.batch_body_bytes = limits.body_bytes - 1));
    assert!(refused(|limits| limits.queue_bytes = 2 * limits.batch_body_bytes - 1));
    assert!(refused(|limits| limits.credential_cache_ttl = Duration::from_secs(31)));
    assert!(refused(|limits| limits.contact_interval = Duration::ZERO));
    assert!(refused(|limits| limits.liveness_window = Duration::ZERO));
    assert!(refused(|limits| limits.report_interval = Duration::from_millis(999)));
    assert!(!refused(|limits| limits.report_interval = Duration::from_secs(1)));
    assert!(refused(|limits| limits.install_token_life = Duration::from_secs(31 * 24 * 3600)));
}

/// What serde calls a report and what the design calls one are the same.
#[test]
fn a_report_is_written_as_it_is_read() {
    let report: Report = serde_json::from_value(body()).unwrap();
    let written = serde_json::to_value(&report).unwrap();
    let mut expected = body();
    expected.as_object_mut().unwrap().remove("a_field_of_a_later_version");
    assert_eq!(written, expected);
}
