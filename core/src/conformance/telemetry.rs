//! Reports read back: by range, and in pages.

use super::Fixture;
use super::contact::{append, containers, new_host, snapshots, with_containers};
use super::sample::{self, at};
use crate::container::ContainerMetrics;
use crate::store::{ContainerQuery, ContainerRecord, SnapshotContainers, Store, TelemetryQuery};
use crate::telemetry::{HostSnapshot, Report};

/// `from` belongs to it, `to` does not; every page size gives the same.
pub async fn telemetry_is_read_by_range_in_pages(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (new_host(&store).await, new_host(&store).await);
    // Not in the order of time: a backlog comes newest first.
    for seconds in [5, 1, 4, 2, 3, 6] {
        append(&store, &host, &[&with_containers(at(seconds), true, &["b", "a"])]).await;
        append(&store, &other, &[&sample::report(at(seconds))]).await;
    }
    for limit in [1, 2, 3, 4, 10] {
        let seen = sample::walk(|last: Option<&HostSnapshot>| {
            let after = last.map(|snapshot| snapshot.recorded_at);
            let query = TelemetryQuery { after, ..TelemetryQuery::new(host.id, at(2), at(6), limit) };
            let store = &store;
            async move { store.list_telemetry(&query).await.unwrap() }
        })
        .await;
        let times: Vec<_> = seen.iter().map(|snapshot| snapshot.recorded_at).collect();
        assert_eq!(times, [2, 3, 4, 5].map(at), "in pages of {limit}");
        for snapshot in seen {
            let ids: Vec<_> = snapshot.containers.iter().map(|container| container.container_id.as_str()).collect();
            assert_eq!(ids, ["a", "b"]);
        }
    }
}

/// A cursor only ever moves the beginning on, and a range that ends before it begins holds nothing.
pub async fn a_cursor_widens_no_range(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    for seconds in 1..=6 {
        append(&store, &host, &[&sample::report(at(seconds))]).await;
    }
    for (from, to, after, expected) in [
        (3, 6, Some(0), &[3, 4, 5][..]),
        (3, 6, Some(1), &[3, 4, 5]),
        (3, 6, Some(2), &[3, 4, 5]),
        (3, 6, Some(3), &[4, 5]),
        (3, 6, Some(5), &[]),
        (3, 6, Some(9), &[]),
        (3, 3, None, &[]),
        (3, 3, Some(1), &[]),
        (5, 2, None, &[]),
        (5, 2, Some(1), &[]),
        (5, 2, Some(5), &[]),
    ] {
        let query = TelemetryQuery { after: after.map(at), ..TelemetryQuery::new(host.id, at(from), at(to), 10) };
        let page = store.list_telemetry(&query).await.unwrap();
        let times: Vec<_> = page.items.iter().map(|snapshot| snapshot.recorded_at).collect();
        assert_eq!(times, expected.iter().copied().map(at).collect::<Vec<_>>(), "{from} to {to} after {after:?}");
        assert!(!page.more);
    }
}

/// Whoever reads a course reads tens of thousands of reports: every one of them comes, and of its containers only what is
/// wanted, also of one that was removed.
pub async fn reports_come_with_the_containers_that_were_asked_for(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (new_host(&store).await, new_host(&store).await);
    let measured = |seconds, ids: &[&str]| {
        let mut report = with_containers(at(seconds), true, ids);
        for (nth, container) in (0..).zip(&mut report.containers) {
            let metrics = ContainerMetrics { pids: Some(10 * seconds as u64 + nth), ..ContainerMetrics::default() };
            container.metrics = Some(metrics);
        }
        report
    };
    // The last report has removed all but "b".
    for (seconds, ids) in [(1, &["b", "a", "c"][..]), (2, &["b"]), (3, &[]), (4, &["c", "a"]), (5, &["b"])] {
        append(&store, &host, &[&measured(seconds, ids)]).await;
        append(&store, &other, &[&measured(seconds, &["elsewhere", "a"])]).await;
    }
    let read = async |containers: SnapshotContainers| {
        let query = TelemetryQuery { containers, ..TelemetryQuery::new(host.id, at(1), at(6), 10) };
        store.list_telemetry(&query).await.unwrap().items
    };
    let whole = read(SnapshotContainers::All).await;
    assert_eq!(whole.iter().map(|snapshot| snapshot.containers.len()).collect::<Vec<_>>(), [3, 1, 0, 2, 1]);
    let one = |id: &str| SnapshotContainers::One(id.to_owned());
    for containers in [one("a"), one("b"), one("c"), one("elsewhere"), one("never"), SnapshotContainers::None] {
        let narrowed = whole.iter().cloned().map(|mut snapshot| {
            snapshot.containers.retain(|container| containers.includes(&container.container_id));
            snapshot
        });
        assert_eq!(read(containers.clone()).await, narrowed.collect::<Vec<_>>(), "{containers:?}");
    }
}

/// In the order of their ids, to the byte.
pub async fn containers_are_read_in_pages(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (new_host(&store).await, new_host(&store).await);
    let ids = ["A", "B", "a", "b", "c", "é", "主"];
    append(&store, &host, &[&with_containers(at(1), true, &["主", "b", "B", "a", "c", "A", "é"])]).await;
    append(&store, &other, &[&with_containers(at(1), true, &["x"])]).await;
    for limit in [1, 2, 7, 8] {
        let seen = sample::walk(|last: Option<&ContainerRecord>| {
            let after = last.map(|row| row.container.container_id.clone());
            let query = ContainerQuery { host_id: host.id, removed: false, after, limit };
            let store = &store;
            async move { store.list_containers(&query).await.unwrap() }
        })
        .await;
        let seen: Vec<_> = seen.iter().map(|row| row.container.container_id.as_str()).collect();
        assert_eq!(seen, ids, "in pages of {limit}");
    }
}

/// What is read back of reports that arrived when they were measured.
fn whole<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Vec<HostSnapshot> {
    reports.into_iter().map(|report| HostSnapshot::of(report, report.recorded_at)).collect()
}

fn ids(rows: &[ContainerRecord]) -> Vec<&str> {
    rows.iter().map(|row| row.container.container_id.as_str()).collect()
}

/// A store that names containers by keys of its own has none for them, and may list none.
pub async fn an_older_report_is_read_with_containers_that_only_it_names(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (new_host(&store).await, new_host(&store).await);
    // Each host has containers of its own, whatever they are called.
    append(&store, &other, &[&with_containers(at(1), true, &["c"])]).await;
    let newest = with_containers(at(50), true, &["a"]);
    append(&store, &host, &[&newest]).await;
    let alone = with_containers(at(10), true, &["b", "a"]);
    let group = [with_containers(at(30), true, &["c"]), with_containers(at(20), true, &["b", "c"])];
    assert_eq!(append(&store, &host, &[&alone]).await, ["accepted"]);
    assert_eq!(append(&store, &host, &[&group[0], &group[1]]).await, ["accepted"; 2]);
    assert_eq!(snapshots(&store, &host).await, whole([&alone, &group[1], &group[0], &newest]));
    assert_eq!(append(&store, &host, &[&group[0], &alone]).await, ["duplicate"; 2]);
    assert_eq!(ids(&containers(&store, &host).await), ["a"]);
    // The first report that describes it is the first that is seen of it. An older one may come with it.
    let late = with_containers(at(40), false, &["c", "d"]);
    let described = with_containers(at(60), true, &["a", "c", "d"]);
    assert_eq!(append(&store, &host, &[&late, &described]).await, ["accepted"; 2]);
    let rows = containers(&store, &host).await;
    assert_eq!(ids(&rows), ["a", "c", "d"]);
    assert_eq!(rows.iter().map(|row| row.first_seen_at).collect::<Vec<_>>(), [at(50), at(60), at(60)]);
    let all = [&alone, &group[1], &group[0], &late, &newest, &described];
    assert_eq!(snapshots(&store, &host).await, whole(all));
}

/// It ran then; that it is gone now changes nothing about that.
pub async fn numbers_of_removed_containers_are_read_with_their_reports(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = new_host(&here).await;
    let reports = [
        with_containers(at(1), true, &["a", "b"]),
        with_containers(at(2), true, &["b"]),
        with_containers(at(3), true, &["b", "c"]),
        with_containers(at(4), true, &[]),
    ];
    append(&here, &host, &[&reports[0]]).await;
    append(&there, &host, &[&reports[1], &reports[2]]).await;
    append(&here, &host, &[&reports[3]]).await;
    // Late, and of a container that is known to be gone.
    let late = with_containers(at(0), true, &["a", "c"]);
    append(&there, &host, &[&late]).await;
    for store in [&here, &there] {
        assert_eq!(snapshots(store, &host).await, whole([&late].into_iter().chain(&reports)));
        assert_eq!(ids(&containers(store, &host).await), ["a", "b", "c"]);
    }
    assert_eq!(append(&here, &host, &[&late]).await, ["duplicate"]);
    // Another number of a container that is gone is another report.
    let mut other = late.clone();
    other.containers[1].metrics.as_mut().unwrap().cpu_cores = Some(7.0);
    assert_eq!(append(&here, &host, &[&other]).await, ["conflict"]);
    let renamed = with_containers(at(0), true, &["a", "b"]);
    assert_eq!(append(&here, &host, &[&renamed]).await, ["conflict"]);
}
