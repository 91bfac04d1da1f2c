//! What is old goes, what is not stays, and nothing that was given comes back.

use std::time::Duration;

use super::Fixture;
use super::sample::{self, at};
use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent};
use crate::host::{Host, Presence};
use crate::policy::Scope;
use crate::store::{
    AppendOutcome, Commit, ContainerQuery, EventQuery, HostLookup, Known, Prune, Revision, Store, TelemetryQuery, Write,
};
use crate::telemetry::{HostFacts, HostReport, HostSnapshot, Report};

const DAY: i64 = 24 * 60 * 60;

/// Keeps everything.
pub(super) fn nothing() -> Prune {
    Prune {
        now: at(0),
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        limit: 1_000,
    }
}

/// Until nothing is left to go.
pub(super) async fn prune(store: &impl Store, prune: Prune) {
    for _ in 0..1_000 {
        if !store.prune(&prune).await.unwrap().more {
            return;
        }
    }
    panic!("a thousand steps were not enough");
}

async fn new_host(store: &impl Store) -> Host {
    let host = sample::host(&sample::hash().to_hex());
    sample::create(store, &host).await;
    host
}

async fn append(store: &impl Store, host: &Host, report: Report) {
    let appended = store.append(vec![sample::append(host, report)]).await.unwrap();
    assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]), "{:?}", appended.outcomes);
}

async fn telemetry(store: &impl Store, host: &Host) -> Vec<HostSnapshot> {
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 500);
    store.list_telemetry(&query).await.unwrap().items
}

async fn stored(store: &impl Store, host: &Host) -> Vec<Timestamp> {
    telemetry(store, host).await.into_iter().map(|snapshot| snapshot.recorded_at).collect()
}

fn with_containers(recorded_at: Timestamp, ids: &[&str]) -> Report {
    let containers = ids.iter().map(|id| sample::container(id)).collect();
    Report { containers, containers_complete: true, ..sample::report(recorded_at) }
}

/// Up to a day longer they may stay, never a moment less; and nobody comes again once nothing is said to be left.
pub async fn old_snapshots_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (a, b) = (new_host(&store).await, new_host(&store).await);
    for host in [&a, &b] {
        for seconds in [-3 * DAY, -2 * DAY - 1, -DAY, -1, 0, DAY] {
            append(&store, host, with_containers(at(seconds), &["c"])).await;
        }
    }
    prune(&store, nothing()).await;
    assert_eq!(stored(&store, &a).await.len(), 6);
    prune(&store, Prune { snapshots_before: at(0), limit: 1, ..nothing() }).await;
    for host in [&a, &b] {
        let left = stored(&store, host).await;
        assert!(left.ends_with(&[at(0), at(DAY)]), "{left:?}");
        assert!(left[0] >= at(-DAY), "{left:?}");
    }
}

/// Facts, presence, containers and the time of the newest report are the host's, not the report's.
pub async fn a_host_outlives_its_reports(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let facts = HostFacts { cpu_count: Some(8), ..HostFacts::default() };
    let report = with_containers(at(0), &["c"]);
    append(&store, &host, Report { host: HostReport { facts: Some(facts.clone()), ..report.host.clone() }, ..report })
        .await;
    prune(&store, Prune { snapshots_before: at(30 * DAY), now: at(30 * DAY), ..nothing() }).await;
    assert!(stored(&store, &host).await.is_empty());
    let record = store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap();
    assert_eq!(record.presence.presence, Presence::Online { last_seen_at: at(0) });
    assert_eq!((record.presence.facts, record.presence.newest_report_at), (facts, Some(at(0))));
    let query = ContainerQuery { host_id: host.id, removed: false, after: None, limit: 10 };
    let rows = store.list_containers(&query).await.unwrap().items;
    assert_eq!((rows.len(), rows[0].container.metrics), (1, None), "its numbers have gone with the report");
    // An older report still changes nothing but its own snapshot.
    append(&store, &host, with_containers(at(-1), &[])).await;
    assert_eq!(store.list_containers(&query).await.unwrap().items.len(), 1);
}

/// What is there is not old, however long ago it was first seen.
pub async fn containers_go_some_time_after_they_were_removed(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, with_containers(at(1), &["a", "b", "c"])).await;
    append(&store, &host, with_containers(at(2), &["b", "c"])).await;
    append(&store, &host, with_containers(at(3), &["c"])).await;
    let version =
        || async { store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap().presence.containers_version };
    let before = version().await;
    prune(&store, Prune { containers_removed_before: at(3), ..nothing() }).await;
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let rows = store.list_containers(&query).await.unwrap().items;
    assert_eq!(rows.iter().map(|row| row.container.container_id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(version().await > before, "who caches the rows has to notice");
    // It begins anew when it comes back.
    append(&store, &host, with_containers(at(4), &["a", "c"])).await;
    let rows = store.list_containers(&query).await.unwrap().items;
    assert_eq!((rows[0].first_seen_at, rows[0].removed_at), (at(4), None));
}

fn whole(report: &Report) -> HostSnapshot {
    HostSnapshot::of(report, report.recorded_at)
}

/// A container that went is listed no more; what it used then is part of what its host did then.
pub async fn reports_stay_whole_when_their_containers_go(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let mut reports = vec![with_containers(at(1), &["a", "b"]), with_containers(at(2), &["b"])];
    for report in &reports {
        append(&store, &host, report.clone()).await;
    }
    prune(&store, Prune { containers_removed_before: at(9), ..nothing() }).await;
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let ids = || async {
        let rows = store.list_containers(&query).await.unwrap().items;
        rows.into_iter().map(|row| (row.container.container_id, row.first_seen_at)).collect::<Vec<_>>()
    };
    let b = ("b".to_owned(), at(1));
    assert_eq!(ids().await, std::slice::from_ref(&b));
    assert_eq!(telemetry(&store, &host).await, reports.iter().map(whole).collect::<Vec<_>>());
    let again = store.append(vec![sample::append(&host, reports[0].clone())]).await.unwrap();
    assert!(matches!(again.outcomes[..], [AppendOutcome::Duplicate]), "{:?}", again.outcomes);
    // Neither a late report nor its return turns the old numbers into another's.
    reports.insert(0, with_containers(at(0), &["a", "c"]));
    append(&store, &host, reports[0].clone()).await;
    assert_eq!(ids().await, std::slice::from_ref(&b));
    reports.push(with_containers(at(4), &["a", "b"]));
    append(&store, &host, reports[3].clone()).await;
    assert_eq!(ids().await, [("a".to_owned(), at(4)), b]);
    assert_eq!(telemetry(&store, &host).await, reports.iter().map(whole).collect::<Vec<_>>());
}

/// However late it came, and whatever has gone before.
pub async fn containers_are_named_for_as_long_as_a_report_measured_them(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let mut sent = Vec::new();
    // "gone" was removed on day 1; "late" was never seen but in reports that came late.
    for (seconds, ids) in [(0, &["stays", "gone"][..]), (DAY, &["stays"]), (5 * DAY, &["stays"]), (3 * DAY, &["gone"])]
    {
        sent.push(with_containers(at(seconds), ids));
        append(&store, &host, sent[sent.len() - 1].clone()).await;
    }
    let late = [1, 3 * DAY + 1].map(|seconds| with_containers(at(seconds), &["late"]));
    store.append(late.clone().map(|report| sample::append(&host, report)).to_vec()).await.unwrap();
    sent.extend(late);
    let is_whole = async |sent: &[Report]| {
        let left = telemetry(&store, &host).await;
        for snapshot in &left {
            assert!(sent.iter().any(|report| whole(report) == *snapshot), "{snapshot:?}");
        }
        left.len()
    };
    prune(&store, Prune { containers_removed_before: at(6 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 6);
    prune(&store, Prune { snapshots_before: at(2 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 3);
    sent.push(with_containers(at(4 * DAY + 2), &["gone", "late"]));
    append(&store, &host, sent[sent.len() - 1].clone()).await;
    prune(&store, Prune { snapshots_before: at(4 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 2);
    prune(&store, Prune { snapshots_before: at(20 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 0);
    // Nothing is known of them any more: they begin anew.
    sent.push(with_containers(at(21 * DAY), &["gone", "late", "stays"]));
    append(&store, &host, sent[sent.len() - 1].clone()).await;
    assert_eq!(is_whole(&sent).await, 1);
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let rows = store.list_containers(&query).await.unwrap().items;
    let first_seen: Vec<_> = rows.iter().map(|row| row.first_seen_at).collect();
    assert_eq!(first_seen, [at(21 * DAY), at(21 * DAY), at(0)]);
}

/// By their time; those that stay keep their positions.
pub async fn old_events_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let events = [1, 5, 3, 7].map(|seconds| NewEvent { at: at(seconds), ..sample::event(&host) }).to_vec();
    let written = store.commit(Commit { writes: Vec::new(), events }).await.unwrap();
    prune(&store, Prune { events_before: at(5), ..nothing() }).await;
    let left = store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items;
    assert_eq!(left, [written[1].clone(), written[3].clone()]);
    let behind = EventQuery { after: written[2].position, ..EventQuery::new(Scope::All, 10) };
    assert_eq!(store.list_events(&behind).await.unwrap().items, written[3..]);
}

/// A cursor from before would otherwise skip what takes its place.
pub async fn a_position_is_never_given_again(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let commit = || async {
        let events = vec![sample::event(&host), sample::event(&host)];
        store.commit(Commit { writes: Vec::new(), events }).await.unwrap()
    };
    let before = commit().await;
    prune(&store, Prune { events_before: Timestamp::MAX, ..nothing() }).await;
    assert!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.is_empty());
    let after = commit().await;
    assert!(after[0].position > before[1].position);
    let query = EventQuery { after: before[1].position, ..EventQuery::new(Scope::All, 10) };
    assert_eq!(store.list_events(&query).await.unwrap().items, after);
}

/// Then the token is unknown like any other.
pub async fn old_tombstones_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let mut hashes = Vec::new();
    for seconds in [4, 5] {
        let host = sample::host(&format!("deleted at {seconds}"));
        let token = sample::agent_token(&host);
        sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
        let write = Write::HostDeletion { expected: Revision::FIRST, host_id: host.id, at: at(seconds) };
        store.commit(Commit::of(write, Vec::new())).await.unwrap();
        hashes.push(token.hash);
    }
    prune(&store, Prune { tombstones_before: at(5), ..nothing() }).await;
    assert_eq!(store.authenticate(&hashes[0]).await.unwrap(), None);
    assert!(matches!(store.authenticate(&hashes[1]).await.unwrap(), Some(Known::Tombstone(_))));
}

/// A step is bounded, and says whether another is needed.
pub async fn a_step_is_bounded_and_says_what_is_left(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let events =
        (0..7).map(|_| NewEvent { body: EventBody::HostDeleted { name: host.name.clone() }, ..sample::event(&host) });
    store.commit(Commit { writes: Vec::new(), events: events.collect() }).await.unwrap();
    let step = Prune { events_before: Timestamp::MAX, limit: 3, ..nothing() };
    for (left, more) in [(4, true), (1, true), (0, false)] {
        let pruned = store.prune(&step).await.unwrap();
        let events = store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items;
        assert_eq!((events.len(), pruned.more), (left, more));
    }
    assert!(!store.prune(&step).await.unwrap().more);
}

/// Of each kind for itself: no other kind takes its share, none goes all at once, and none is forgotten when the other
/// has gone.
pub async fn a_step_is_bounded_for_containers_and_tombstones(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for (containers, tombstones) in [(5_usize, 2_usize), (2, 5)] {
        let host = new_host(&store).await;
        append(&store, &host, with_containers(at(1), &["a", "b", "c", "d", "e"][..containers])).await;
        append(&store, &host, with_containers(at(2), &[])).await;
        let deleted = sample::host("deleted");
        let tokens: Vec<_> = (0..tombstones).map(|_| sample::agent_token(&deleted)).collect();
        sample::create_with_tokens(&store, &deleted, tokens.clone()).await;
        let write = Write::HostDeletion { expected: Revision::FIRST, host_id: deleted.id, at: at(3) };
        store.commit(Commit::of(write, Vec::new())).await.unwrap();
        let step = Prune { containers_removed_before: at(9), tombstones_before: at(9), limit: 2, ..nothing() };
        // What the deleted host reported may need steps of its own, and here it reported nothing.
        for (gone, more) in [(2, true), (4, true), (6, false)] {
            let pruned = store.prune(&step).await.unwrap();
            let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
            let rows = store.list_containers(&query).await.unwrap().items;
            let mut known = 0;
            for token in &tokens {
                known += usize::from(store.authenticate(&token.hash).await.unwrap().is_some());
            }
            let left = (containers.saturating_sub(gone), tombstones.saturating_sub(gone));
            assert_eq!((rows.len(), known, pruned.more), (left.0, left.1, more));
        }
    }
}

/// Before any pruning, after it, and far from its days: a report never finds no room.
pub async fn a_report_of_any_day_finds_room(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let days = [-400, -40, -1, 0, 1, 2, 3, 400];
    for day in days {
        append(&store, &host, sample::report(at(day * DAY))).await;
    }
    prune(&store, Prune { now: at(0), snapshots_before: at(-30 * DAY), ..nothing() }).await;
    for day in days {
        // Where one was pruned, another takes its place; where one stayed, its neighbour is stored beside it.
        append(&store, &host, sample::report(at(day * DAY).saturating_add(Duration::from_secs(1)))).await;
    }
    let left = stored(&store, &host).await;
    assert_eq!(left.len(), 6 + 8, "{left:?}");
}
