//! Courses of numbers, read through the fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use enlist_core::HostId;
use enlist_core::conformance::sample::{self, at};
use enlist_core::container::{Container, ContainerMetrics};
use enlist_core::fleet::{AdminError, SeriesRange};
use enlist_core::host::Host;
use enlist_core::liveness::LivenessWindow;
use enlist_core::store::{Revision, SnapshotContainers, Store};
use enlist_core::telemetry::{HostMetrics, HostReport, Report, SeriesError, Step};
use enlist_core::wire::{HostBucketBody, SeriesBody};

use crate::watched::Watched;
use crate::world::World;

/// As many as are read for one answer.
const MAX_REPORTS: i64 = 20_160;

fn step(seconds: u32) -> Step {
    Step::from_secs(seconds).unwrap()
}

fn range(from: i64, to: i64, seconds: u32) -> SeriesRange {
    SeriesRange { from: Some(at(from)), to: Some(at(to)), ..SeriesRange::new(step(seconds)) }
}

/// A host whose reports are stored without an agent in between.
async fn stored(reports: impl IntoIterator<Item = Report>) -> (World, Watched, Host) {
    let store = Watched::default();
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let reports: Vec<_> = reports.into_iter().map(|report| sample::append(&host, report)).collect();
    if !reports.is_empty() {
        store.append(reports).await.unwrap();
    }
    (World::with(store.clone(), |builder| builder), store, host)
}

/// A second apart is a byte.
fn report(seconds: i64) -> Report {
    let received = Some(seconds.unsigned_abs());
    let metrics = HostMetrics { cpu_percent: Some(50.0), network_rx_bytes: received, ..HostMetrics::default() };
    let container = |id: &str, each: u64| Container {
        metrics: Some(ContainerMetrics {
            pids: Some(each),
            block_write_bytes: received.map(|received| each * received),
            ..ContainerMetrics::default()
        }),
        ..sample::container(id)
    };
    Report {
        host: HostReport { facts: None, metrics, custom: BTreeMap::from([("jobs".to_owned(), 3.0)]) },
        containers: vec![container("a", 1), container("b", 2)],
        ..sample::report(at(seconds))
    }
}

/// Every answer, by cursor.
async fn every(world: &World, host_id: HostId, range: SeriesRange) -> Vec<SeriesBody<HostBucketBody>> {
    let mut answers: Vec<SeriesBody<_>> = Vec::new();
    loop {
        let cursor = answers.last().and_then(|answer| answer.next_cursor.clone());
        let next = SeriesRange { cursor, ..range.clone() };
        answers.push(world.fleet.admin(&world.root).telemetry_series(host_id, next).await.unwrap());
        assert!(answers.len() < 50, "it does not end");
        if answers.last().is_some_and(|answer| answer.next_cursor.is_none()) {
            return answers;
        }
    }
}

#[tokio::test]
async fn a_machines_course_leaves_its_containers_unread() {
    let (world, store, host) = stored((0..10).map(|n| report(30 * n))).await;
    let course = world.fleet.admin(&world.root).telemetry_series(host.id, range(60, 240, 60)).await.unwrap();
    assert_eq!((course.step_seconds, course.items.len(), course.next_cursor), (60, 3, None));
    let bucket = &course.items[0];
    assert_eq!((bucket.start, bucket.reports), (at(60), 2));
    assert_eq!(bucket.metrics.cpu_percent.map(|cpu| (cpu.mean, cpu.count)), Some((50.0, 2)));
    // Its first rate begins with the report before it.
    assert_eq!(bucket.metrics.network_rx_bytes_per_second.map(|rate| (rate.mean, rate.count)), Some((1.0, 2)));
    assert_eq!(bucket.metrics.network_tx_bytes_per_second, None);
    assert_eq!(bucket.custom["jobs"].last, 3.0);
    let asked = store.ranges.lock().unwrap().clone();
    assert!(asked.iter().all(|query| query.containers == SnapshotContainers::None && query.limit <= 500));
    assert_eq!(asked[0].from, at(60 - 90), "a liveness window before");
}

#[tokio::test]
async fn a_containers_course_reads_that_container() {
    let (world, store, host) = stored((0..10).map(|n| report(30 * n))).await;
    let admin = world.fleet.admin(&world.root);
    let course = admin.container_series(host.id, "b", range(0, 300, 300)).await.unwrap();
    let [bucket] = &course.items[..] else { panic!("one bucket was expected, not {course:?}") };
    assert_eq!((bucket.start, bucket.reports), (at(0), 10));
    assert_eq!(bucket.metrics.pids.map(|pids| pids.max), Some(2.0));
    assert_eq!(bucket.metrics.block_write_bytes_per_second.map(|rate| (rate.mean, rate.count)), Some((2.0, 9)));
    let one = SnapshotContainers::One("b".to_owned());
    assert!(store.ranges.lock().unwrap().iter().all(|query| query.containers == one));
    let never = admin.container_series(host.id, "never", range(0, 300, 300)).await.unwrap();
    assert!(never.items.is_empty() && never.next_cursor.is_none());
    for no_container in ["", "\0", &"c".repeat(129)] {
        let refused = admin.container_series(host.id, no_container, range(0, 300, 300)).await;
        assert!(matches!(refused, Err(AdminError::NotFound)), "{no_container:?}");
    }
}

#[tokio::test]
async fn an_answer_reads_so_many_reports_and_the_next_goes_on_behind_it() {
    let reports = MAX_REPORTS + 4_000;
    let (world, store, host) = stored((0..reports).map(report)).await;
    let answers = every(&world, host.id, range(0, reports, 1_200)).await;
    assert_eq!(answers.len(), 2);
    // The bucket that was not read to its end is the next one's.
    assert_eq!(answers[0].next_cursor, Some(at(19_200).to_string()));
    assert_eq!(answers[0].items.len(), 16);
    let together: Vec<_> = answers.into_iter().flat_map(|answer| answer.items).collect();
    assert!(together[..20].iter().all(|bucket| bucket.reports == 1_200));
    assert_eq!((together.len(), together[20].reports), (21, 160));
    let rates = together.iter().map(|bucket| bucket.metrics.network_rx_bytes_per_second.unwrap());
    assert_eq!(rates.clone().map(|rate| rate.count).sum::<u64>(), reports.unsigned_abs() - 1, "none is missing");
    assert!(rates.clone().all(|rate| rate.mean == 1.0));
    // The same from smaller parts.
    let mut parts = Vec::new();
    for from in (0..reports).step_by(6_000) {
        let part = range(from, reports.min(from + 6_000), 1_200);
        parts.extend(every(&world, host.id, part).await.into_iter().flat_map(|answer| answer.items));
    }
    assert_eq!(parts, together);
    // What an answer reads is bounded.
    store.ranges.lock().unwrap().clear();
    let first = range(0, reports, 1_200);
    world.fleet.admin(&world.root).telemetry_series(host.id, first).await.unwrap();
    let read: usize = store.ranges.lock().unwrap().iter().map(|query| query.limit).sum();
    assert_eq!(read, usize::try_from(MAX_REPORTS).unwrap());
}

/// Reports without it are read and leave no bucket: they get the reader on all the same.
#[tokio::test]
async fn a_containers_course_goes_on_over_reports_that_it_is_not_in() {
    let days = MAX_REPORTS + 3_000;
    let without = |seconds: i64| Report { containers: Vec::new(), ..report(30 * seconds) };
    let there = |n: i64| n < 10 || n >= days - 10;
    let (world, _, host) = stored((0..days).map(|n| if there(n) { report(30 * n) } else { without(n) })).await;
    let mut starts = Vec::new();
    for (container_id, buckets) in [("a", 4), ("never", 0)] {
        let (mut answers, mut cursor) = (0, None);
        loop {
            let range = SeriesRange { cursor, ..range(0, 30 * days, 1_800) };
            let admin = world.fleet.admin(&world.root);
            let course = admin.container_series(host.id, container_id, range).await.unwrap();
            starts.extend(course.items.iter().map(|bucket| (container_id, bucket.start, bucket.reports)));
            answers += 1;
            assert!(answers < 5, "it does not end");
            cursor = course.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(answers, 2);
        assert!(starts.iter().filter(|(id, _, _)| *id == container_id).count() <= buckets);
    }
    assert_eq!(starts.iter().map(|(_, _, reports)| reports).sum::<u64>(), 20, "{starts:?}");
}

#[tokio::test]
async fn a_bucket_of_more_reports_than_are_read_is_refused() {
    let (world, _, host) = stored((0..MAX_REPORTS + 2).map(report)).await;
    let admin = world.fleet.admin(&world.root);
    let dense = admin.telemetry_series(host.id, range(0, 86_400, 86_400)).await;
    assert!(matches!(dense, Err(AdminError::Series(SeriesError::TooDense))));
    let whole = admin.telemetry_series(host.id, range(0, MAX_REPORTS, 86_400)).await.unwrap();
    assert_eq!((whole.items.len(), whole.items[0].reports), (1, MAX_REPORTS.unsigned_abs()));
    admin.telemetry_series(host.id, range(0, 86_400, 3_600)).await.unwrap();
}

#[tokio::test]
async fn an_empty_range_reads_nothing() {
    let (world, store, host) = stored([report(0)]).await;
    let admin = world.fleet.admin(&world.root);
    for (from, to) in [(0, 0), (60, 0)] {
        let course = admin.telemetry_series(host.id, range(from, to, 60)).await.unwrap();
        assert!(course.items.is_empty() && course.next_cursor.is_none());
    }
    let beyond = SeriesRange { cursor: Some(at(60).to_string()), ..range(0, 60, 60) };
    assert!(admin.telemetry_series(host.id, beyond).await.unwrap().items.is_empty());
    assert!(store.ranges.lock().unwrap().is_empty());
    let broken = SeriesRange { cursor: Some("x".into()), ..range(0, 60, 60) };
    assert!(matches!(admin.telemetry_series(host.id, broken).await, Err(AdminError::InvalidQuery(_))));
}

#[tokio::test]
async fn a_gap_within_a_long_step_is_none() {
    // Five minutes of silence: more than the liveness window.
    let (world, _, host) = stored([report(0), report(300), report(330)]).await;
    let admin = world.fleet.admin(&world.root);
    let rates = async |seconds| -> Vec<Option<u64>> {
        let course = admin.telemetry_series(host.id, range(0, 600, seconds)).await.unwrap();
        course.items.iter().map(|bucket| bucket.metrics.network_rx_bytes_per_second.map(|rate| rate.count)).collect()
    };
    assert_eq!(rates(60).await, [None, Some(1)]);
    assert_eq!(rates(300).await, [None, Some(2)]);
}

/// Its agent may report that rarely.
#[tokio::test]
async fn a_gap_within_a_hosts_own_window_is_none() {
    let (world, store, host) = stored([report(0), report(300), report(330)]).await;
    let own = Host { liveness_window: LivenessWindow::from_secs(301).ok(), ..host.clone() };
    sample::commit(&store, sample::write(Revision::FIRST, &own)).await;
    let course = world.fleet.admin(&world.root).telemetry_series(host.id, range(0, 600, 60)).await.unwrap();
    let rates = course.items.iter().map(|bucket| bucket.metrics.network_rx_bytes_per_second.map(|rate| rate.count));
    assert_eq!(rates.collect::<Vec<_>>(), [None, Some(2)]);
}

#[tokio::test]
async fn the_latest_report_is_as_old_as_the_server_can_tell() {
    let (world, _, host) = stored([]).await;
    let latest = async || world.fleet.admin(&world.root).latest_telemetry(host.id).await.unwrap();
    let none = latest().await;
    assert_eq!((none.age_ms, none.snapshot.is_none(), none.server_time), (None, true, at(0)));

    let arrive = async |recorded: i64, received: i64| {
        let append =
            enlist_core::store::Append { contact: sample::contact(&host, at(received)), report: report(recorded) };
        world.store.append(vec![append]).await.unwrap();
    };
    world.clock.advance(Duration::from_millis(100_500));
    arrive(40, 45).await;
    arrive(30, 50).await;
    let (newest, age) = (latest().await.snapshot.unwrap(), latest().await.age_ms);
    assert_eq!((newest.recorded_at, newest.containers.len(), age), (at(40), 2, Some(60_500)));
    // By a clock that is ahead: not younger than its arrival.
    arrive(200, 90).await;
    assert_eq!(latest().await.age_ms, Some(10_500));
}
