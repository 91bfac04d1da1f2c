//! The days of snapshots: made ahead and on demand, dropped when they are old, and never missing.

mod common;

use common::{Hand, with_host};
use enlist_core::Timestamp;
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::store::{AppendOutcome, Prune, Store, StoreErrorKind, TelemetryQuery};
use enlist_storage_postgres::PgStore;
use futures_util::future::join_all;

const DAY: i64 = 86_400;

fn nothing_but_snapshots(now: Timestamp, before: Timestamp) -> Prune {
    Prune {
        now,
        snapshots_before: before,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: 1_000,
    }
}

async fn days(hand: &mut Hand) -> Vec<String> {
    let names = hand.column(
        "SELECT replace(inhrelid::regclass::text, 'host_metric_snapshots_', '') FROM pg_inherits
         WHERE inhparent = 'host_metric_snapshots'::regclass ORDER BY 1",
    );
    names.await.into_iter().flatten().collect()
}

async fn accepted(store: &PgStore, host: &Host, time: Timestamp) {
    let appended = store.append(vec![sample::append(host, sample::report(time))]).await.unwrap();
    assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]), "{:?}", appended.outcomes);
}

async fn times(store: &PgStore, host: &Host) -> Vec<Timestamp> {
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 1_000);
    store.list_telemetry(&query).await.unwrap().items.iter().map(|snapshot| snapshot.recorded_at).collect()
}

#[tokio::test]
async fn days_are_made_ahead_once() {
    let (server, store, _) = with_host().await;
    let mut hand = server.by_hand().await;
    assert_eq!(days(&mut hand).await, Vec::<String>::new());
    for _ in 0..2 {
        store.prune(&nothing_but_snapshots(at(DAY - 1), Timestamp::MIN)).await.unwrap();
        assert_eq!(days(&mut hand).await, ["20260101", "20260102", "20260103"]);
    }
    // Another process, that has seen none of them, at the next day's first moment.
    server.open().prune(&nothing_but_snapshots(at(DAY), Timestamp::MIN)).await.unwrap();
    assert_eq!(days(&mut hand).await, ["20260101", "20260102", "20260103", "20260104"]);
}

#[tokio::test]
async fn old_days_are_dropped_whole_and_the_day_of_the_boundary_stays() {
    let (server, store, host) = with_host().await;
    let all = [at(0), at(DAY - 1), at(DAY), at(DAY + 5), at(2 * DAY)];
    for time in all {
        accepted(&store, &host, time).await;
    }
    let pruned = store.prune(&nothing_but_snapshots(at(2 * DAY), at(DAY + 3))).await.unwrap();
    assert!(!pruned.more);
    assert_eq!(times(&store, &host).await, all[2..]);
    let mut hand = server.by_hand().await;
    assert_eq!(days(&mut hand).await, ["20260102", "20260103", "20260104", "20260105"]);
    // The first moment of a day: the day before is wholly older, that day is not.
    store.prune(&nothing_but_snapshots(at(2 * DAY), at(2 * DAY))).await.unwrap();
    assert_eq!(times(&store, &host).await, all[4..]);
    // What is dropped can be had again: an agent that was away for long.
    accepted(&store, &host, at(7)).await;
    assert_eq!(times(&store, &host).await, [at(7), at(2 * DAY)]);
}

/// Days follow each other without a gap or an overlap, over the ends of months, years and leap days.
#[tokio::test]
async fn every_moment_has_its_day() {
    let (server, store, host) = with_host().await;
    let midnights = [0, 59 * DAY, 365 * DAY, (365 + 365 + 59) * DAY, -DAY];
    let mut all: Vec<Timestamp> = midnights
        .into_iter()
        .flat_map(|midnight| [-1, 0, 1].map(|micro| at(midnight).unix_micros() + micro))
        .chain([Timestamp::MIN.unix_micros(), Timestamp::MAX.unix_micros() - 1])
        .map(|micros| Timestamp::from_unix_micros(micros).unwrap())
        .collect();
    all.sort_unstable();
    let reports = all.iter().map(|time| sample::append(&host, sample::report(*time))).collect();
    let outcomes = store.append(reports).await.unwrap().outcomes;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
    assert_eq!(times(&store, &host).await, all);
    let days = days(&mut server.by_hand().await).await;
    assert!(days.contains(&"20280229".to_owned()) && days.contains(&"99991231".to_owned()), "{days:?}");
}

/// Also while another process makes the very same days.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_need_the_same_days_make_them_once() {
    let (server, store, host) = with_host().await;
    let others: Vec<_> = (0..7).map(|_| server.open()).collect();
    // Pruning has no second way, as appending has.
    let ahead = nothing_but_snapshots(at(0), Timestamp::MIN);
    for pruned in join_all(others.iter().map(|store| store.prune(&ahead))).await {
        pruned.unwrap();
    }
    let appends = others.iter().chain([&store]).zip(0..).map(|(store, place)| {
        let reports = (0..5).map(|day| sample::append(&host, sample::report(at(day * DAY + place)))).collect();
        store.append(reports)
    });
    for appended in join_all(appends).await {
        let outcomes = appended.unwrap().outcomes;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
    }
    assert_eq!(days(&mut server.by_hand().await).await.len(), 5);
    assert_eq!(times(&store, &host).await.len(), 40);
}

#[tokio::test]
async fn a_day_that_vanished_is_made_again() {
    let (server, store, host) = with_host().await;
    accepted(&store, &host, at(1)).await;
    // By another process, behind this one's back.
    server.open().prune(&nothing_but_snapshots(at(3 * DAY), at(2 * DAY))).await.unwrap();
    assert_eq!(times(&store, &host).await, []);
    accepted(&store, &host, at(2)).await;
    assert_eq!(times(&store, &host).await, [at(2)]);
}

/// It is not waited for: whoever came behind would wait as well.
#[tokio::test]
async fn a_day_that_is_in_use_is_left_to_the_next_call() {
    let (server, store, host) = with_host().await;
    accepted(&store, &host, at(1)).await;
    let mut reader = server.by_hand().await;
    reader.run("BEGIN; SELECT count(*) FROM host_metric_snapshots").await;
    let prune = nothing_but_snapshots(at(3 * DAY), at(2 * DAY));
    // Asking again at once would meet the same reader.
    assert!(!store.prune(&prune).await.unwrap().more);
    // Reports go on.
    accepted(&store, &host, at(3 * DAY)).await;
    assert_eq!(times(&store, &host).await, [at(1), at(3 * DAY)]);
    reader.run("COMMIT").await;
    assert!(!store.prune(&prune).await.unwrap().more);
    assert_eq!(times(&store, &host).await, [at(3 * DAY)]);
}

/// Each further attempt would hold up the reports behind it for nothing.
#[tokio::test]
async fn the_first_day_that_is_in_use_ends_the_dropping() {
    let (server, store, host) = with_host().await;
    for day in 0..3 {
        accepted(&store, &host, at(day * DAY)).await;
    }
    // Only the second day is read, so the third one could be had.
    let mut reader = server.by_hand().await;
    reader.run("BEGIN; SELECT count(*) FROM host_metric_snapshots_20260102").await;
    let prune = nothing_but_snapshots(at(5 * DAY), at(4 * DAY));
    assert!(!store.prune(&prune).await.unwrap().more);
    assert_eq!(times(&store, &host).await, [at(DAY), at(2 * DAY)]);
    reader.run("COMMIT").await;
    store.prune(&prune).await.unwrap();
    assert_eq!(times(&store, &host).await, []);
}

/// The reports of that day are refused, each with the contact that it proves; those of other days are stored.
async fn assert_only_the_second_fails(store: &PgStore, first: &Host, second: (&Host, Timestamp)) {
    let reports = vec![
        sample::append(first, sample::report(at(1))),
        sample::append(second.0, sample::report(second.1)),
        sample::append(first, sample::report(at(2))),
    ];
    let appended = store.append(reports).await.unwrap();
    let [AppendOutcome::Accepted, AppendOutcome::Failed(error), AppendOutcome::Accepted] = &appended.outcomes[..]
    else {
        panic!("{:?}", appended.outcomes)
    };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(times(store, first).await, [at(1), at(2)]);
    let heard: Vec<_> = appended.events.iter().map(|event| event.event.host_id).collect();
    assert_eq!(heard, [Some(first.id), Some(second.0.id)]);
}

/// An operator keeps it.
#[tokio::test]
async fn a_day_that_was_detached_fails_its_own_reports_and_is_left_alone() {
    let (server, store, host) = with_host().await;
    let other = sample::host("other");
    sample::create(&store, &other).await;
    let mut hand = server.by_hand().await;
    store.prune(&nothing_but_snapshots(at(DAY), Timestamp::MIN)).await.unwrap();
    hand.run("ALTER TABLE host_metric_snapshots DETACH PARTITION host_metric_snapshots_20260102").await;
    assert_only_the_second_fails(&store, &host, (&other, at(DAY + 1))).await;
    assert_eq!(days(&mut hand).await, ["20260101", "20260103", "20260104"]);
    // Neither does pruning fail, whose day it is today.
    server.open().prune(&nothing_but_snapshots(at(DAY), Timestamp::MIN)).await.unwrap();
    hand.run(
        "ALTER TABLE host_metric_snapshots ATTACH PARTITION host_metric_snapshots_20260102
         FOR VALUES FROM ('2026-01-02 00:00:00+00') TO ('2026-01-03 00:00:00+00')",
    )
    .await;
    accepted(&store, &other, at(DAY + 1)).await;
}

/// As VACUUM and ANALYZE lock the parent.
#[tokio::test]
async fn a_day_that_cannot_be_made_now_fails_its_own_reports() {
    let (server, store, host) = with_host().await;
    let other = sample::host("other");
    sample::create(&store, &other).await;
    store.prune(&nothing_but_snapshots(at(0), Timestamp::MIN)).await.unwrap();
    let mut vacuum = server.by_hand().await;
    vacuum.run("BEGIN; LOCK TABLE host_metric_snapshots IN SHARE UPDATE EXCLUSIVE MODE").await;
    // Another process, that has seen no day yet.
    assert_only_the_second_fails(&server.open(), &host, (&other, at(-9 * DAY))).await;
    vacuum.run("COMMIT").await;
    accepted(&store, &other, at(-9 * DAY)).await;
}

/// A partition that somebody attached by hand, under a name that is no day's, is not ours to drop.
#[tokio::test]
async fn what_is_not_a_day_is_left_alone() {
    let (server, store, _) = with_host().await;
    let mut hand = server.by_hand().await;
    hand.run(
        "CREATE TABLE attic PARTITION OF host_metric_snapshots
         FOR VALUES FROM ('1990-01-01 00:00:00+00') TO ('1991-01-01 00:00:00+00')",
    )
    .await;
    let pruned = store.prune(&nothing_but_snapshots(at(0), at(0))).await.unwrap();
    assert!(!pruned.more);
    assert_eq!(days(&mut hand).await, ["20260101", "20260102", "20260103", "attic"]);
}
