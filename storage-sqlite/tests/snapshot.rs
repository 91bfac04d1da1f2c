//! How reports lie in the tables: nobody who reads them through the contract, or through the view, can tell.

mod common;

use common::{File, prune_nothing};
use enlist_core::Timestamp;
use enlist_core::conformance::sample::{self, at};
use enlist_core::container::{Container, ContainerMetrics};
use enlist_core::host::Host;
use enlist_core::store::{
    AppendOutcome, ContainerQuery, HostLookup, Prune, SnapshotContainers, Store, StoreErrorKind, TelemetryQuery,
};
use enlist_core::telemetry::{HostFacts, HostReport, Report};
use enlist_storage_sqlite::SqliteStore;

async fn with_host() -> (File, SqliteStore, Host) {
    let file = File::migrated().await;
    let store = file.open().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    (file, store, host)
}

/// Every number another, and of each third container none is known but one.
fn measured(seconds: u64, number: u64) -> Container {
    let count = |place: u64| (!number.is_multiple_of(3)).then_some(seconds * 100_000 + number * 10 + place);
    let metrics = ContainerMetrics {
        cpu_cores: Some(number as f64 / 8.0),
        memory_used_bytes: count(1),
        memory_limit_bytes: count(2),
        network_rx_bytes: count(3),
        network_tx_bytes: count(4),
        block_read_bytes: count(5),
        block_write_bytes: count(6),
        pids: count(7),
    };
    Container { metrics: Some(metrics), ..sample::container(&format!("container {number:02}")) }
}

fn report(seconds: u64, containers: u64) -> Report {
    let containers = (0..containers).map(|number| measured(seconds, number)).collect();
    let at = at(seconds.try_into().unwrap());
    Report { containers, containers_complete: true, ..sample::report(at) }
}

async fn append(store: &SqliteStore, host: &Host, report: Report) -> AppendOutcome {
    store.append(vec![sample::append(host, report)]).await.unwrap().outcomes.remove(0)
}

/// Where a row is full, and on both sides of it; a short report behind a long one, too.
#[tokio::test]
async fn every_number_of_every_container_is_read_back() {
    let (file, store, host) = with_host().await;
    let reports: Vec<_> = [0, 30, 1, 11, 12, 13, 2, 25].into_iter().zip(1..).map(|(n, at)| report(at, n)).collect();
    let appends = reports.iter().map(|report| sample::append(&host, report.clone())).collect();
    assert!(
        store.append(appends).await.unwrap().outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted))
    );
    let numbers = |report: &Report, only: Option<&str>| {
        let of = report.containers.iter().filter(|container| only.is_none_or(|id| id == container.container_id));
        of.map(|container| (container.container_id.clone(), container.metrics.unwrap())).collect::<Vec<_>>()
    };
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 100);
    for only in [None, Some("container 00"), Some("container 11"), Some("container 12"), Some("none such")] {
        let containers = only.map_or(SnapshotContainers::All, |id| SnapshotContainers::One(id.to_owned()));
        let page = store.list_telemetry(&TelemetryQuery { containers, ..query.clone() }).await.unwrap();
        let found = page.items.into_iter().map(|snapshot| {
            snapshot.containers.into_iter().map(|found| (found.container_id, found.metrics)).collect::<Vec<_>>()
        });
        let expected: Vec<_> = reports.iter().map(|report| numbers(report, only)).collect();
        assert_eq!(found.collect::<Vec<_>>(), expected, "{only:?}");
    }
    let newest = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 100 };
    let newest = store.list_containers(&newest).await.unwrap().items;
    let found: Vec<_> = newest.iter().map(|record| record.container.metrics).collect();
    assert_eq!(
        found,
        (0..30).map(|number| (number < 25).then(|| measured(8, number).metrics.unwrap())).collect::<Vec<_>>()
    );

    // The view says the same, by plain SQL.
    let mut hand = file.by_hand();
    let seen = hand.column(
        "SELECT group_concat(line, ';') AS value FROM (
             SELECT container_id || ' ' || c.cpu_cores || ' ' || coalesce(c.memory_used_bytes, '-') || ' '
                 || coalesce(c.memory_limit_bytes, '-') || ' ' || coalesce(c.network_rx_bytes, '-') || ' '
                 || coalesce(c.network_tx_bytes, '-') || ' ' || coalesce(c.block_read_bytes, '-') || ' '
                 || coalesce(c.block_write_bytes, '-') || ' ' || coalesce(c.pids, '-') AS line
             FROM container_metric_snapshots AS c JOIN containers USING (container_key)
             JOIN host_metric_snapshots USING (report_id)
             ORDER BY recorded_at, container_id)",
    );
    let word = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let line = |(id, metrics): (String, ContainerMetrics)| {
        let counts = [
            metrics.memory_used_bytes,
            metrics.memory_limit_bytes,
            metrics.network_rx_bytes,
            metrics.network_tx_bytes,
            metrics.block_read_bytes,
            metrics.block_write_bytes,
            metrics.pids,
        ];
        format!("{id} {:?} {}", metrics.cpu_cores.unwrap(), counts.map(word).join(" "))
    };
    let expected: Vec<_> = reports.iter().flat_map(|report| numbers(report, None)).map(line).collect();
    assert_eq!(seen, [Some(expected.join(";"))]);

    // A container's row that is deleted by hand takes the name of its numbers along, and nothing else.
    hand.run("DELETE FROM containers WHERE container_id = 'container 01'");
    let left = store.list_telemetry(&query).await.unwrap().items;
    let left: Vec<_> = left.iter().map(|snapshot| snapshot.containers.len()).collect();
    assert_eq!(left, [0, 29, 1, 10, 11, 12, 1, 24]);

    // And nothing stays behind of what is pruned.
    let prune = Prune { snapshots_before: at(5), ..prune_nothing() };
    while store.prune(&prune).await.unwrap().more {}
    assert_eq!(hand.count("container_metric_snapshots"), 12 + 13 + 2 + 25);
    assert_eq!((hand.count("report_containers"), hand.count("report_containers_more")), (4, 1 + 13));
}

#[tokio::test]
async fn a_container_that_is_named_twice_fails_its_report() {
    let (_file, store, host) = with_host().await;
    for containers in [1, 20] {
        let mut twice = report(1, containers);
        twice.containers.push(twice.containers[0].clone());
        let outcome = append(&store, &host, twice).await;
        let AppendOutcome::Failed(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
    }
}

/// Each of two stores remembers what it was told of the machine, and finds out that the other was told something else.
#[tokio::test]
async fn facts_are_those_of_the_newest_report_whoever_took_it() {
    let (file, one, host) = with_host().await;
    let two = file.open().await;
    let told = |seconds, cpu_count, os: Option<&str>| {
        let facts = HostFacts { cpu_count: Some(cpu_count), os: os.map(str::to_owned), ..HostFacts::default() };
        let report = sample::report(at(seconds));
        Report { host: HostReport { facts: Some(facts), ..report.host }, ..report }
    };
    let stored = async || {
        let record = one.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap();
        (record.presence.facts.cpu_count.unwrap(), record.presence.facts.os)
    };
    let os = Some("Debian".to_owned());
    append(&one, &host, told(1, 4, Some("Debian"))).await;
    assert_eq!(stored().await, (4, os.clone()));
    append(&two, &host, told(2, 8, None)).await;
    assert_eq!(stored().await, (8, os.clone()));
    append(&one, &host, told(3, 4, Some("Debian"))).await;
    assert_eq!(stored().await, (4, os.clone()));
    // Two in a call, the second of which says again what the one before the first did.
    let both = [told(4, 6, None), told(5, 4, None)].map(|report| sample::append(&host, report));
    two.append(both.to_vec()).await.unwrap();
    assert_eq!(stored().await, (4, os.clone()));
    append(&one, &host, told(6, 6, None)).await;
    assert_eq!(stored().await, (6, os.clone()));
    // Two in a call, the second of which says other things and changes nothing any more.
    let both = [told(7, 7, None), told(8, 7, Some("Debian"))].map(|report| sample::append(&host, report));
    two.append(both.to_vec()).await.unwrap();
    assert_eq!(stored().await, (7, os.clone()));
    append(&one, &host, told(9, 6, None)).await;
    // A report that repeats what is stored writes nothing of it.
    let version =
        |file: &File| file.by_hand().column("SELECT facts_version || '' AS value FROM host_presence").remove(0);
    let before = version(&file);
    append(&one, &host, told(10, 6, None)).await;
    append(&two, &host, told(11, 6, Some("Debian"))).await;
    assert_eq!(version(&file), before);
    // What the other was told meanwhile counts, although this store remembers that its own changed nothing.
    append(&two, &host, told(12, 9, None)).await;
    append(&one, &host, told(13, 6, None)).await;
    assert_eq!(stored().await, (6, os.clone()));
    // An older one does not count.
    append(&two, &host, told(5, 2, None)).await;
    assert_eq!(stored().await, (6, os));
}
