//! Batches: each report is answered for by itself, and all that was taken is stored in the order of time.

use std::num::NonZeroU32;
use std::task::Poll;
use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::fleet::{ContainerFilter, Limits, ReportError, TelemetryRange, TokioTimer};
use enlist_core::host::Status;
use enlist_core::store::StoreErrorKind;
use enlist_core::telemetry::{MAX_BATCH, Report};
use enlist_core::wire::{BatchReply, Problem, ReportStatus};
use enlist_core::{AgentIdentity, HostId, MemoryStore, Timestamp};
use futures_util::poll;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::watched::Watched;
use crate::world::World;

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.batches_per_minute = None;
    limits.live_per_minute = None;
    limits
}

/// A world with a store that can be watched, in which one transaction takes so many reports.
async fn watched(batch_reports: usize) -> (World, Watched, AgentIdentity) {
    let mut limits = limits();
    limits.batch_reports = batch_reports;
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder.limits(limits)).running().await;
    let identity = world.identity("a").await;
    (world, store, identity)
}

fn report(recorded_at: Timestamp) -> Value {
    json!({
        "recorded_at": recorded_at,
        "host": {"facts": {"os": format!("as of {recorded_at}")}, "metrics": {"cpu_percent": 12.5}},
        "containers": [{"container_id": recorded_at.to_string(), "name": "n", "image": "i", "state": "running"}],
        "containers_complete": true,
    })
}

fn with(mut report: Value, pointer: &str, value: Value) -> Value {
    *report.pointer_mut(pointer).expect("it is there") = value;
    report
}

async fn send(world: &World, identity: &AgentIdentity, reports: &[Value]) -> Result<BatchReply, Problem> {
    let body = json!({"reports": reports, "a field of": "a later version"}).to_string();
    let leave = world.fleet.agent(identity).catch_up().expect("there is no limit");
    leave.batch_json(body.as_bytes()).await.map_err(Problem::from)
}

fn statuses(reply: &BatchReply) -> Vec<ReportStatus> {
    reply.results.iter().map(|result| result.status).collect()
}

/// When the stored reports were measured.
async fn stored(world: &World, host_id: HostId) -> Vec<Timestamp> {
    let range = TelemetryRange {
        from: Some(Timestamp::MIN),
        to: Some(Timestamp::MAX),
        limit: Some(500),
        ..TelemetryRange::default()
    };
    let page = world.fleet.admin(&world.root).list_telemetry(host_id, range).await.unwrap();
    page.items.into_iter().map(|snapshot| snapshot.recorded_at).collect()
}

#[tokio::test]
async fn each_report_is_answered_for_in_the_order_of_the_request() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    const DAY: i64 = 24 * 3600;
    let reports = [
        report(at(-2)),
        with(report(at(-3)), "/host/metrics/cpu_percent", json!(101)),
        report(at(-30 * DAY)),
        json!(5),
        with(report(at(-4)), "/containers/0/name", json!(["no name"])),
        report(at(-30 * DAY - 1)),
        report(at(-2)),
        json!({"recorded_at": "yesterday", "host": {"metrics": {}}}),
        with(report(at(-2)), "/host/metrics/cpu_percent", json!(13)),
        report(at(300)),
        report(at(301)),
        json!({"host": {"metrics": {}}}),
        json!({"recorded_at": at(-5), "host": {"metrics": {}, "custom": {"ok": 1, "Bad-Name": 2}}}),
    ];
    let reply = send(&world, &identity, &reports).await.unwrap();
    let taken = |seconds, status: &str| json!({"recorded_at": at(seconds), "status": status});
    let rejected = |recorded_at: Option<i64>, code: &str, field: &str| json!({"recorded_at": recorded_at.map(at), "status": "rejected", "code": code, "field": field});
    let expected = json!({
        "results": [
            taken(-2, "accepted"),
            rejected(Some(-3), "invalid_field", "/reports/1/host/metrics/cpu_percent"),
            taken(-30 * DAY, "accepted"),
            rejected(None, "invalid_field", "/reports/3"),
            rejected(Some(-4), "invalid_field", "/reports/4/containers/0/name"),
            rejected(Some(-30 * DAY - 1), "too_old", "/reports/5/recorded_at"),
            taken(-2, "duplicate"),
            rejected(None, "invalid_field", "/reports/7/recorded_at"),
            taken(-2, "conflict"),
            taken(300, "accepted"),
            rejected(Some(301), "clock_skew", "/reports/10/recorded_at"),
            rejected(None, "invalid_field", "/reports/11/recorded_at"),
            rejected(Some(-5), "invalid_field", "/reports/12/host/custom/Bad-Name"),
        ],
        "server_time": at(0), "next_report_in_ms": 30_000, "lease_ms": 60_000,
    });
    assert_eq!(serde_json::to_value(&reply).unwrap(), expected);
    assert_eq!(stored(&world, identity.host_id()).await, [at(-30 * DAY), at(-2), at(300)]);
    // An agent reads what a server writes.
    assert_eq!(serde_json::from_value::<BatchReply>(expected).unwrap(), reply);
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_whole() {
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits())).running().await;
    let identity = world.identity("a").await;
    let many = |count: usize| format!(r#"{{"reports": [{}]}}"#, vec!["{}"; count].join(","));
    let cases = [
        ("", 400, "invalid_json", None),
        ("{", 400, "invalid_json", None),
        (r#"{"reports": [{]}"#, 400, "invalid_json", None),
        (r#"{"reports": []"#, 400, "invalid_json", None),
        ("{}", 422, "invalid_field", Some("/reports")),
        (r#"{"reports": {}}"#, 422, "invalid_field", Some("/reports")),
        (r#"{"reports": null}"#, 422, "invalid_field", Some("/reports")),
        ("[]", 422, "invalid_field", Some("")),
        (&many(MAX_BATCH + 1), 422, "too_many_reports", Some("/reports")),
        (&many(1_000_000), 422, "too_many_reports", Some("/reports")),
    ];
    for (body, status, code, field) in cases {
        let leave = world.fleet.agent(&identity).catch_up().unwrap();
        let problem = Problem::from(leave.batch_json(body.as_bytes()).await.unwrap_err());
        assert_eq!((problem.status, problem.code.as_str(), problem.field.as_deref()), (status, code, field));
        assert_eq!(problem.server_time, Some(at(0)));
    }
    let leave = world.fleet.agent(&identity).catch_up().unwrap();
    let error = leave.batch((0..=500).map(|n| sample::report(at(-n))).collect()).await.unwrap_err();
    assert_eq!(Problem::from(error).code.as_str(), "too_many_reports");
    assert!(stored(&world, identity.host_id()).await.is_empty());
    let most: Vec<_> = (0..500).map(|n| report(at(-n))).collect();
    assert_eq!(statuses(&send(&world, &identity, &most).await.unwrap()), [ReportStatus::Accepted; MAX_BATCH]);
    let leave = world.fleet.agent(&identity).catch_up().unwrap();
    assert!(leave.batch_json(br#"{"reports": []}"#).await.unwrap().results.is_empty());
}

#[tokio::test]
async fn a_batch_that_was_parsed_elsewhere_is_held_to_the_same_bounds() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let mut broken = sample::report(at(-2));
    broken.host.metrics.cpu_percent = Some(101.0);
    let reports = vec![sample::report(at(-1)), broken, sample::report(at(-90 * 24 * 3600))];
    let reply = world.fleet.agent(&identity).catch_up().unwrap().batch(reports).await.unwrap();
    let told: Vec<_> = reply.results.iter().map(|result| (result.recorded_at, result.field.as_deref())).collect();
    assert_eq!(
        told,
        [
            (Some(at(-1)), None),
            (Some(at(-2)), Some("/reports/1/host/metrics/cpu_percent")),
            (Some(at(-90 * 24 * 3600)), Some("/reports/2/recorded_at")),
        ]
    );
    assert_eq!(stored(&world, identity.host_id()).await, [at(-1)]);
}

#[tokio::test]
async fn reports_are_stored_in_the_order_of_their_times_in_groups_of_half_a_transaction() {
    let (world, store, identity) = watched(4).await;
    let reports: Vec<_> = [-3, -9, -1, -7, -15, -5, -11, -17, -13].map(|n| report(at(n))).into();
    send(&world, &identity, &reports).await.unwrap();
    let appended = store.appended.lock().unwrap().clone();
    assert_eq!(appended.concat(), [-17, -15, -13, -11, -9, -7, -5, -3, -1].map(at));
    // Groups of two: a transaction that is not full yet takes one more, and no more than that.
    assert!(appended.iter().all(|times| times.len() <= 5), "{appended:?}");
    let admin = world.fleet.admin(&world.root);
    assert_eq!(admin.host(identity.host_id()).await.unwrap().facts.os, Some(format!("as of {}", at(-1))));
    let containers = admin.list_containers(identity.host_id(), ContainerFilter::default()).await.unwrap();
    let [newest] = &containers.items[..] else { panic!("the newest report has one container") };
    assert_eq!(newest.container.container_id, at(-1).to_string());
    // What came late changes neither.
    send(&world, &identity, &[report(at(-2))]).await.unwrap();
    assert_eq!(admin.host(identity.host_id()).await.unwrap().facts.os, Some(format!("as of {}", at(-1))));
}

#[tokio::test]
async fn catching_up_leaves_half_of_the_queue_to_live_reports_and_is_queued_whole_or_not_at_all() {
    for by_bytes in [false, true] {
        let mut limits = limits();
        limits.batch_reports = 2;
        if by_bytes {
            (limits.queue_bytes, limits.batch_body_bytes, limits.body_bytes) = (10_000, 5_000, 1_024);
        } else {
            limits.queue_reports = 10;
        }
        let mut world = World::with(MemoryStore::new(), |builder| builder.limits(limits));
        let drivers = world.drivers.take().unwrap();
        let identity = world.identity("a").await;
        let mut running = Box::pin(drivers.run(TokioTimer, std::future::pending()));
        assert!(poll!(running.as_mut()).is_pending());
        let size = report(at(0)).to_string().len();
        let most = if by_bytes { 5_000 / size } else { 5 };
        let batch = |from: usize, count: usize| {
            let reports: Vec<_> = (from..from + count).map(|n| report(at(-(n as i64)))).collect();
            let (world, identity) = (&world, &identity);
            Box::pin(async move { send(world, identity, &reports).await })
        };
        let mut first = batch(0, most - 1);
        assert!(poll!(first.as_mut()).is_pending());
        let Poll::Ready(Err(refused)) = poll!(batch(100, 2)) else { panic!("one more than half") };
        assert_eq!((refused.status, refused.code.as_str()), (503, "overloaded"));
        assert!(refused.headers().iter().any(|(name, _)| *name == "retry-after"));
        let mut second = batch(200, 1);
        assert!(poll!(second.as_mut()).is_pending());
        let mut live = Vec::new();
        for n in 0..most as i64 {
            let body = report(at(-1_000 - n)).to_string();
            let agent = world.fleet.agent(&identity);
            let mut report = Box::pin(async move { agent.live().unwrap().report_json(body.as_bytes()).await });
            assert!(poll!(report.as_mut()).is_pending(), "the other half is for live reports");
            live.push(report);
        }
        let all = futures_util::future::join3(first, second, futures_util::future::join_all(live));
        let driven = futures_util::future::select(Box::pin(all), running).await;
        let futures_util::future::Either::Left(((first, second, live), running)) = driven else { panic!("they end") };
        assert!(first.is_ok() && second.is_ok() && live.into_iter().all(|reply| reply.is_ok()));
        assert_eq!(stored(&world, identity.host_id()).await.len(), 2 * most, "and nothing of what was refused");
        let again = futures_util::future::select(batch(100, 2), running).await;
        let futures_util::future::Either::Left((again, _)) = again else { panic!("the drivers ended") };
        assert_eq!(statuses(&again.unwrap()), [ReportStatus::Accepted; 2]);
    }
}

#[tokio::test]
async fn a_batch_larger_than_half_of_the_queue_is_taken_when_nothing_waits() {
    let mut limits = limits();
    limits.queue_reports = 3;
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
    let identity = world.identity("a").await;
    let reports: Vec<_> = (0..20).map(|n| report(at(-n))).collect();
    assert_eq!(send(&world, &identity, &reports).await.unwrap().results.len(), 20);
}

#[tokio::test]
async fn when_a_part_cannot_be_stored_now_all_of_it_is_sent_again() {
    let (world, store, identity) = watched(2).await;
    // Two a transaction. Whichever failure comes first, the one that passes decides.
    let failures = [StoreErrorKind::Corrupt, StoreErrorKind::Unavailable];
    for (round, [second, third]) in [failures, [failures[1], failures[0]]].into_iter().enumerate() {
        let time = |n: i64| at(-n - 10 * round as i64);
        let reports: Vec<_> = (1..=6).map(|n| report(time(n))).collect();
        *store.refused.lock().unwrap() = [(time(4), second), (time(2), third)].into();
        let problem = send(&world, &identity, &reports).await.unwrap_err();
        assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
        store.refused.lock().unwrap().clear();
        let before = stored(&world, identity.host_id()).await;
        assert!(before.contains(&time(6)) && !before.contains(&time(4)), "a part was stored: {before:?}");
        let reply = send(&world, &identity, &reports).await.unwrap();
        for result in &reply.results {
            let known = before.contains(&result.recorded_at.unwrap());
            assert_eq!(result.status, if known { ReportStatus::Duplicate } else { ReportStatus::Accepted });
        }
    }
    store.unstorable.lock().unwrap().insert(at(-36), StoreErrorKind::Unavailable);
    let problem = send(&world, &identity, &[report(at(-35)), report(at(-36))]).await.unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
}

#[tokio::test]
async fn a_report_that_can_never_be_stored_fails_alone() {
    let (world, store, identity) = watched(256).await;
    store.unstorable.lock().unwrap().insert(at(-2), StoreErrorKind::Corrupt);
    let reply = send(&world, &identity, &[report(at(-1)), report(at(-2)), report(at(-3))]).await.unwrap();
    assert_eq!(statuses(&reply), [ReportStatus::Accepted, ReportStatus::Rejected, ReportStatus::Accepted]);
    let failed = &reply.results[1];
    assert_eq!((failed.code.as_ref().map(|code| code.as_str()), &failed.field), (Some("internal"), &None));
}

#[tokio::test]
async fn a_batch_of_a_host_out_of_service_is_refused_as_its_reports_are() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    world.fleet.admin(&world.root).archive_host(identity.host_id()).await.unwrap();
    let problem = send(&world, &identity, &[report(at(-1))]).await.unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (401, "host_archived"));
    let elsewhere = World::new().running().await;
    let problem = send(&elsewhere, &identity, &[report(at(-1))]).await.unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
}

#[tokio::test]
async fn every_batch_is_a_contact_whatever_it_says() {
    let bodies = ["oops", "{}", r#"{"reports": []}"#, r#"{"reports": [5]}"#];
    let taken = json!({"reports": [report(at(-100))]}).to_string();
    for body in bodies.into_iter().chain([taken.as_str()]) {
        let mut world = World::new();
        let drivers = world.drivers.take().unwrap();
        let identity = world.identity("a").await;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(drivers.run(TokioTimer, async move { drop(stopped.await) }));
        while !world.fleet.accepts_reports() {
            tokio::task::yield_now().await;
        }
        world.clock.advance(Duration::from_secs(7));
        let _ = world.fleet.agent(&identity).catch_up().unwrap().batch_json(body.as_bytes()).await;
        stop.send(()).unwrap();
        running.await.unwrap();
        let host = world.fleet.admin(&world.root).host(identity.host_id()).await.unwrap();
        assert_eq!((host.status, host.last_seen_at), (Status::Online, Some(at(7))), "{body}");
    }
}

#[tokio::test]
async fn without_drivers_a_batch_is_refused_at_once() {
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits()));
    let identity = world.identity("a").await;
    for reports in [&[report(at(0))][..], &[]] {
        let problem = send(&world, &identity, reports).await.unwrap_err();
        assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
    }
}

#[tokio::test]
async fn what_was_queued_is_stored_though_nobody_waits_for_it() {
    let mut limits = limits();
    limits.batch_reports = 2;
    limits.queue_reports = 10;
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
    let identity = world.identity("a").await;
    for round in 0..4 {
        let reports: Vec<_> = (0..5).map(|n| report(at(-n - 10 * round))).collect();
        let mut batch = Box::pin(send(&world, &identity, &reports));
        assert!(poll!(batch.as_mut()).is_pending());
        drop(batch);
        // Its place in the queue is given back as well, or the next one found none.
        while stored(&world, identity.host_id()).await.len() < 5 * (round as usize + 1) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn leave_for_a_batch_is_counted_by_batches() {
    let mut limits = limits();
    limits.batches_per_minute = NonZeroU32::new(1);
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
    let identity = world.identity("a").await;
    let reports: Vec<_> = (0..500).map(|n| report(at(-n))).collect();
    assert_eq!(send(&world, &identity, &reports).await.unwrap().results.len(), 500);
    assert!(world.fleet.agent(&identity).catch_up().is_err());
}

#[test]
fn room_for_bodies_is_bounded_and_given_back() {
    let mut limits = limits();
    (limits.queue_bytes, limits.batch_body_bytes, limits.body_bytes) = (10_000, 5_000, 1_024);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits));
    let identity = runtime.block_on(world.identity("a"));
    let agent = world.fleet.agent(&identity);
    let mut batch = agent.catch_up().unwrap().body_room();
    batch.grow(4_000).unwrap();
    batch.grow(1_000).unwrap();
    assert!(matches!(batch.grow(1), Err(ReportError::Overloaded)));
    let mut live = agent.live().unwrap().body_room();
    live.grow(5_000).unwrap();
    assert!(matches!(live.grow(1), Err(ReportError::Overloaded)));
    drop(batch);
    live.grow(1).unwrap();
    agent.catch_up().unwrap().body_room().grow(4_999).unwrap();
}

/// What a report of a random batch is.
#[derive(Debug, Clone)]
enum Kind {
    /// It keeps its bounds, measured so many seconds ago.
    Valid(i64, u8),
    Invalid(i64),
    Unreadable,
    TooOld,
    Future,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => (0i64..8, 0u8..3).prop_map(|(ago, content)| Kind::Valid(ago, content)),
        1 => (0i64..8).prop_map(Kind::Invalid),
        1 => Just(Kind::Unreadable),
        1 => Just(Kind::TooOld),
        1 => Just(Kind::Future),
    ]
}

fn body(kind: &Kind) -> Value {
    match kind {
        Kind::Valid(ago, content) => with(report(at(-ago)), "/host/metrics/cpu_percent", json!(content)),
        Kind::Invalid(ago) => with(report(at(-ago)), "/host/metrics/cpu_percent", json!(-1)),
        Kind::Unreadable => json!("canary"),
        Kind::TooOld => report(at(-31 * 24 * 3600)),
        Kind::Future => report(at(400)),
    }
}

/// All that reports leave behind.
async fn left_behind(world: &World, host_id: HostId) -> Value {
    let admin = world.fleet.admin(&world.root);
    let range = TelemetryRange { from: Some(Timestamp::MIN), limit: Some(500), ..TelemetryRange::default() };
    let every = ContainerFilter { removed: true, limit: Some(500), cursor: None };
    let host = admin.host(host_id).await.unwrap();
    json!({
        "telemetry": admin.list_telemetry(host_id, range).await.unwrap(),
        "containers": admin.list_containers(host_id, every).await.unwrap(),
        "facts": host.facts, "status": host.status, "last_seen_at": host.last_seen_at,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_batch_does_what_its_good_reports_do_one_by_one(
        batches in prop::collection::vec(prop::collection::vec(kind(), 0..12), 1..4),
        batch_reports in 1usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut limits = limits();
            limits.batch_reports = batch_reports;
            let whole = World::with(MemoryStore::new(), |builder| builder.limits(limits.clone())).running().await;
            let single = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
            let (batched, one_by_one) = (whole.identity("a").await, single.identity("a").await);
            for kinds in &batches {
                let bodies: Vec<_> = kinds.iter().map(body).collect();
                let reply = send(&whole, &batched, &bodies).await.expect("it is a batch");
                let mut expected = vec![ReportStatus::Rejected; kinds.len()];
                let mut good: Vec<_> = kinds.iter().enumerate().collect();
                good.retain(|(_, kind)| matches!(kind, Kind::Valid(..)));
                good.sort_by_key(|(_, kind)| match kind { Kind::Valid(ago, _) => -ago, _ => 0 });
                for (index, kind) in good {
                    let report: Report = serde_json::from_value(body(kind)).unwrap();
                    let sent = single.fleet.agent(&one_by_one).live().unwrap().report(report).await;
                    expected[index] = sent.expect("it keeps its bounds").status;
                }
                prop_assert_eq!(statuses(&reply), expected);
            }
            let (mut whole_left, mut single_left) = (
                left_behind(&whole, batched.host_id()).await,
                left_behind(&single, one_by_one.host_id()).await,
            );
            // Contacts of refused batches are written when the drivers get to it.
            for left in [&mut whole_left, &mut single_left] {
                left.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "status" | "last_seen_at"));
            }
            prop_assert_eq!(whole_left, single_left);
            Ok(())
        })?;
    }
}
