//! Reports and contacts.

use std::collections::BTreeSet;

use super::Fixture;
use super::sample::{self, at};
use crate::clock::Timestamp;
use crate::container::Container;
use crate::event::{Event, EventBody};
use crate::host::{Host, Presence, Status};
use crate::policy::Scope;
use crate::store::{
    AppendOutcome, ContainerQuery, ContainerRecord, EventQuery, HostLookup, HostPresence, Revision, Store,
    TelemetryQuery,
};
use crate::telemetry::{HostFacts, HostSnapshot, Report};

/// The name of an outcome, to compare it.
fn name(outcome: &AppendOutcome) -> &'static str {
    match outcome {
        AppendOutcome::Accepted => "accepted",
        AppendOutcome::Duplicate => "duplicate",
        AppendOutcome::Conflict => "conflict",
        AppendOutcome::HostArchived => "archived",
        AppendOutcome::HostAbsent => "absent",
        AppendOutcome::Failed(_) => "failed",
    }
}

/// Appends reports that arrive when they were measured.
pub(super) async fn append(store: &impl Store, host: &Host, reports: &[&Report]) -> Vec<&'static str> {
    let reports = reports.iter().map(|report| sample::append(host, (*report).clone())).collect();
    store.append(reports).await.unwrap().outcomes.iter().map(name).collect()
}

async fn append_at(store: &impl Store, host: &Host, report: &Report, arrived: Timestamp) -> &'static str {
    let contact = sample::contact(host, arrived);
    let report = crate::store::Append { contact, report: report.clone() };
    name(&store.append(vec![report]).await.unwrap().outcomes[0])
}

async fn presence(store: &impl Store, host: &Host) -> HostPresence {
    store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists").presence
}

pub(super) async fn snapshots(store: &impl Store, host: &Host) -> Vec<HostSnapshot> {
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 500);
    store.list_telemetry(&query).await.unwrap().items
}

pub(super) async fn containers(store: &impl Store, host: &Host) -> Vec<ContainerRecord> {
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 500 };
    store.list_containers(&query).await.unwrap().items
}

async fn present(store: &impl Store, host: &Host) -> Vec<String> {
    let rows = containers(store, host).await;
    rows.into_iter().filter(|row| row.removed_at.is_none()).map(|row| row.container.container_id).collect()
}

async fn online_events(store: &impl Store) -> Vec<Event> {
    let query = EventQuery { r#type: Some("host.online".into()), ..EventQuery::new(Scope::All, 500) };
    store.list_events(&query).await.unwrap().items
}

pub(super) fn with_containers(recorded_at: Timestamp, complete: bool, ids: &[&str]) -> Report {
    let containers = ids.iter().map(|id| sample::container(id)).collect();
    Report { containers, containers_complete: complete, ..sample::report(recorded_at) }
}

pub(super) async fn new_host(store: &impl Store) -> Host {
    let host = sample::host(&sample::hash().to_hex());
    sample::create(store, &host).await;
    host
}

/// The first contact, and only the first.
pub async fn a_report_makes_a_pending_host_online_with_one_event(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    assert_eq!(presence(&store, &host).await, HostPresence::default());
    let reports = [at(1), at(2)].map(|at| sample::append(&host, sample::report(at)));
    let appended = store.append(reports.to_vec()).await.unwrap();
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(2) });
    append(&store, &host, &[&sample::report(at(3))]).await;
    let events = online_events(&store).await;
    assert_eq!(events, appended.events);
    let [event] = &events[..] else { panic!("one event was expected, not {events:?}") };
    assert_eq!(event.event.body, EventBody::HostOnline { was: Status::Pending });
    assert_eq!((event.event.id, event.event.at), (reports[0].contact.event_id, at(1)));
    assert_eq!((event.event.host_id, event.event.host_kind), (Some(host.id), Some(host.kind)));
    assert_eq!((&event.event.tenant_id, &event.event.actor), (&host.tenant_id, &None));
}

/// Contacts that arrive out of order change nothing.
pub async fn last_seen_never_goes_back(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append_at(&store, &host, &sample::report(at(1)), at(10)).await;
    append_at(&store, &host, &sample::report(at(2)), at(5)).await;
    store.touch(vec![sample::contact(&host, at(4))]).await.unwrap();
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(10) });
    store.touch(vec![sample::contact(&host, at(11))]).await.unwrap();
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(11) });
}

/// A report never makes an administrator's write fail.
pub async fn a_contact_never_raises_the_revision(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, &[&with_containers(at(1), true, &["a"])]).await;
    store.touch(vec![sample::contact(&host, at(4))]).await.unwrap();
    sample::commit(&store, sample::write(Revision::FIRST, &Host { cordoned: true, ..host.clone() })).await;
    // And the write leaves the contact as it was.
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(4) });
    assert_eq!(present(&store, &host).await, ["a"]);
}

/// Nothing is there twice, and containers are not counted again.
pub async fn a_repeated_report_is_a_duplicate_and_writes_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let mut report = with_containers(at(1), true, &["a", "b"]);
    report.host.facts = Some(HostFacts { cpu_count: Some(8), ..HostFacts::default() });
    assert_eq!(append(&store, &host, &[&report]).await, ["accepted"]);
    let before = (snapshots(&store, &host).await, containers(&store, &host).await);
    let version = presence(&store, &host).await.containers_version;
    assert_eq!(append_at(&store, &host, &report, at(30)).await, "duplicate");
    // The order of containers in a report means nothing.
    let reversed = Report { containers: report.containers.iter().rev().cloned().collect(), ..report };
    assert_eq!(append_at(&store, &host, &reversed, at(31)).await, "duplicate");
    assert_eq!((snapshots(&store, &host).await, containers(&store, &host).await), before);
    assert_eq!(presence(&store, &host).await.containers_version, version);
}

/// Two agents with one credential, or a clock that was set back: the first report is not overwritten.
pub async fn another_report_of_the_same_time_is_a_conflict_and_the_first_stays(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let first = with_containers(at(1), true, &["a"]);
    append(&store, &host, &[&first]).await;
    let before = (snapshots(&store, &host).await, containers(&store, &host).await);
    let mut number = first.clone();
    number.host.metrics.cpu_percent = Some(12.500_000_000_000_002);
    let mut custom = first.clone();
    custom.host.custom.insert("x".into(), 1.0);
    let mut measured = first.clone();
    measured.containers[0].metrics = None;
    let another = with_containers(at(1), true, &["b"]);
    for report in [number, custom, measured, another] {
        assert_eq!(append(&store, &host, &[&report]).await, ["conflict"]);
    }
    assert_eq!((snapshots(&store, &host).await, containers(&store, &host).await), before);
    // The same time of another host is another report.
    assert_eq!(append(&store, &new_host(&store).await, &[&first]).await, ["accepted"]);
}

/// What the call itself stored counts.
pub async fn repeats_within_one_call_are_duplicates(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let report = sample::report(at(1));
    let mut other = report.clone();
    other.host.metrics.cpu_percent = None;
    let outcomes = append(&store, &host, &[&report, &report, &other, &report]).await;
    assert_eq!(outcomes, ["accepted", "duplicate", "conflict", "duplicate"]);
    assert_eq!(snapshots(&store, &host).await.len(), 1);
}

/// Whatever became of the report, the host has proved its credential.
pub async fn a_duplicate_is_a_contact(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let report = sample::report(at(1));
    append(&store, &host, &[&report]).await;
    assert_eq!(append_at(&store, &host, &report, at(50)).await, "duplicate");
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(50) });
    let mut conflict = report;
    conflict.host.metrics.cpu_percent = None;
    assert_eq!(append_at(&store, &host, &conflict, at(60)).await, "conflict");
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(60) });
}

/// A backlog that is caught up does not undo what is known since.
pub async fn an_older_report_adds_its_snapshot_and_nothing_else(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let facts = |os: &str| Some(HostFacts { os: Some(os.into()), ..HostFacts::default() });
    let mut newest = with_containers(at(100), true, &["a"]);
    newest.host.facts = facts("new");
    append(&store, &host, &[&newest]).await;
    let (known, rows) = (presence(&store, &host).await, containers(&store, &host).await);
    let mut older = with_containers(at(50), true, &["b"]);
    older.containers[0].metrics.as_mut().unwrap().pids = Some(3);
    older.host.facts = facts("old");
    assert_eq!(append_at(&store, &host, &older, at(100)).await, "accepted");
    assert_eq!(presence(&store, &host).await, known);
    let present: Vec<_> = containers(&store, &host).await;
    let seen: Vec<_> = present.iter().filter(|row| row.removed_at.is_none()).cloned().collect();
    assert_eq!(seen, rows, "the rows of containers stay as the newest report left them");
    let expected = [HostSnapshot::of(&older, at(100)), HostSnapshot::of(&newest, at(100))];
    assert_eq!(snapshots(&store, &host).await, expected, "and the older one's numbers are there, container b's too");
}

/// Unknown does not erase what is known.
pub async fn newer_facts_replace_only_what_they_know(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let first = HostFacts { os: Some("Debian".into()), cpu_count: Some(4), ..HostFacts::default() };
    let second = HostFacts { cpu_count: Some(8), boot_id: Some("b".into()), ..HostFacts::default() };
    for (seconds, facts) in [(1, Some(first)), (2, Some(second)), (3, None)] {
        let mut report = sample::report(at(seconds));
        report.host.facts = facts;
        append(&store, &host, &[&report]).await;
    }
    let expected =
        HostFacts { os: Some("Debian".into()), cpu_count: Some(8), boot_id: Some("b".into()), ..HostFacts::default() };
    assert_eq!(presence(&store, &host).await.facts, expected);
}

/// Marked, not deleted: what it was can still be read.
pub async fn a_complete_report_removes_the_containers_that_it_lacks(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, &[&with_containers(at(1), true, &["a", "b", "c"])]).await;
    append(&store, &host, &[&with_containers(at(2), true, &["a", "b", "c"])]).await;
    append(&store, &host, &[&with_containers(at(3), true, &["b"])]).await;
    assert_eq!(present(&store, &host).await, ["b"]);
    let rows = containers(&store, &host).await;
    let times: Vec<_> = rows.iter().map(|row| (row.first_seen_at, row.last_seen_at, row.removed_at)).collect();
    let gone = (at(1), at(2), Some(at(3)));
    assert_eq!(times, [gone, (at(1), at(3), None), gone]);
    assert_eq!(rows[0].container, Container { metrics: None, ..sample::container("a") });
    // Those that are gone stay as they are, and are hidden unless they are asked for.
    append(&store, &host, &[&with_containers(at(4), true, &[])]).await;
    let rows = containers(&store, &host).await;
    assert_eq!(rows.iter().map(|row| row.removed_at).collect::<Vec<_>>(), [3, 4, 3].map(|n| Some(at(n))));
    let query = ContainerQuery { host_id: host.id, removed: false, after: None, limit: 10 };
    assert!(store.list_containers(&query).await.unwrap().items.is_empty());
}

/// An agent whose Docker did not answer has not lost its containers.
pub async fn an_incomplete_report_removes_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, &[&with_containers(at(1), true, &["a", "b"])]).await;
    append(&store, &host, &[&with_containers(at(2), false, &["c"])]).await;
    append(&store, &host, &[&with_containers(at(3), false, &[])]).await;
    assert_eq!(present(&store, &host).await, ["a", "b", "c"]);
}

/// With its first time kept.
pub async fn a_removed_container_comes_back(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, &[&with_containers(at(1), true, &["a"])]).await;
    append(&store, &host, &[&with_containers(at(2), true, &[])]).await;
    append(&store, &host, &[&with_containers(at(3), false, &["a"])]).await;
    let rows = containers(&store, &host).await;
    let [row] = &rows[..] else { panic!("one container was expected, not {rows:?}") };
    assert_eq!((row.first_seen_at, row.last_seen_at, row.removed_at), (at(1), at(3), None));
}

/// Numbers are no change; anything that is said of the container is.
pub async fn unchanged_containers_do_not_raise_the_version(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, &[&with_containers(at(1), true, &["a", "b"])]).await;
    let first = presence(&store, &host).await.containers_version;
    assert!(first > 0);
    let mut busier = with_containers(at(2), true, &["a", "b"]);
    busier.containers[0].metrics.as_mut().unwrap().cpu_cores = Some(3.0);
    append(&store, &host, &[&busier]).await;
    assert_eq!(presence(&store, &host).await.containers_version, first);
    let rows = containers(&store, &host).await;
    assert_eq!(rows[0].container.metrics.unwrap().cpu_cores, Some(3.0), "the newest numbers are shown all the same");
    let mut changed = with_containers(at(3), true, &["a", "b"]);
    changed.containers[1].state = "exited".into();
    append(&store, &host, &[&changed]).await;
    let second = presence(&store, &host).await.containers_version;
    assert!(second > first);
    assert_eq!(containers(&store, &host).await[1].container.state, "exited");
    append(&store, &host, &[&with_containers(at(4), true, &["a"])]).await;
    assert!(presence(&store, &host).await.containers_version > second);
}

/// Whatever one of them remembers, the other may have written since.
pub async fn two_handles_agree_on_the_containers(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = new_host(&here).await;
    let exited = |seconds| {
        let mut report = with_containers(at(seconds), true, &["a", "b"]);
        report.containers[0].state = "exited".into();
        report
    };
    append(&here, &host, &[&with_containers(at(1), true, &["a", "b"])]).await;
    append(&there, &host, &[&exited(2)]).await;
    append(&here, &host, &[&with_containers(at(3), true, &["a", "b"])]).await;
    for store in [&here, &there] {
        let rows = containers(store, &host).await;
        let states: Vec<_> = rows.iter().map(|row| row.container.state.as_str()).collect();
        assert_eq!(states, ["running", "running"]);
    }
    append(&there, &host, &[&with_containers(at(4), true, &["b"])]).await;
    append(&here, &host, &[&with_containers(at(5), true, &["a", "b"])]).await;
    assert_eq!(present(&there, &host).await, ["a", "b"]);
    append(&there, &host, &[&exited(6)]).await;
    assert_eq!(containers(&here, &host).await[0].container.state, "exited");
}

/// Not even a contact.
pub async fn an_archived_host_takes_no_report(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, &[&with_containers(at(1), true, &["a"])]).await;
    sample::commit(&store, sample::write(Revision::FIRST, &host.clone().archive(at(2)))).await;
    let before = (presence(&store, &host).await, containers(&store, &host).await);
    for report in [sample::report(at(1)), with_containers(at(3), true, &["b"])] {
        assert_eq!(append_at(&store, &host, &report, at(5)).await, "archived");
    }
    assert_eq!((presence(&store, &host).await, containers(&store, &host).await), before);
    assert_eq!(snapshots(&store, &host).await.len(), 1);
}

/// And none is made.
pub async fn an_absent_host_takes_no_report(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("absent");
    assert_eq!(append(&store, &host, &[&with_containers(at(1), true, &["a"])]).await, ["absent"]);
    assert_eq!(store.find_host(&HostLookup::Id(host.id)).await.unwrap(), None);
    assert!(snapshots(&store, &host).await.is_empty());
    assert!(containers(&store, &host).await.is_empty());
    assert!(online_events(&store).await.is_empty());
}

/// Whatever this handle remembers of the host: the check stands inside the transaction.
pub async fn a_host_archived_through_another_handle_takes_no_report(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = new_host(&here).await;
    assert_eq!(append(&here, &host, &[&sample::report(at(1))]).await, ["accepted"]);
    sample::commit(&there, sample::write(Revision::FIRST, &host.clone().archive(at(2)))).await;
    assert_eq!(append(&here, &host, &[&sample::report(at(3))]).await, ["archived"]);
}

/// One refused report changes nothing for its neighbours.
pub async fn each_report_of_a_call_gets_its_own_answer_in_order(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (a, b) = (new_host(&store).await, new_host(&store).await);
    let (archived, absent) = (new_host(&store).await, sample::host("absent"));
    sample::commit(&store, sample::write(Revision::FIRST, &archived.clone().archive(at(2)))).await;
    let hosts = [&a, &absent, &b, &archived, &a, &b];
    let reports = hosts.map(|host| sample::append(host, sample::report(at(5)))).to_vec();
    let appended = store.append(reports).await.unwrap();
    let outcomes: Vec<_> = appended.outcomes.iter().map(name).collect();
    assert_eq!(outcomes, ["accepted", "absent", "accepted", "archived", "duplicate", "duplicate"]);
    let came: BTreeSet<_> = appended.events.iter().filter_map(|event| event.event.host_id).collect();
    assert_eq!(came, BTreeSet::from([a.id, b.id]));
}

/// With nothing.
pub async fn an_empty_call_is_answered(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let appended = store.append(Vec::new()).await.unwrap();
    assert!(appended.outcomes.is_empty() && appended.events.is_empty());
    assert!(store.touch(Vec::new()).await.unwrap().is_empty());
    assert!(store.commit(Default::default()).await.unwrap().is_empty());
}

/// A heartbeat is as good as a report.
pub async fn a_touch_makes_a_host_online_with_one_event(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let contacts = vec![sample::contact(&host, at(1)), sample::contact(&host, at(2))];
    let first = contacts[0].event_id;
    let events = store.touch(contacts).await.unwrap();
    assert_eq!(presence(&store, &host).await.presence, Presence::Online { last_seen_at: at(2) });
    assert!(store.touch(vec![sample::contact(&host, at(3))]).await.unwrap().is_empty());
    assert_eq!(online_events(&store).await, events);
    assert_eq!(events.iter().map(|event| event.event.id).collect::<Vec<_>>(), [first]);
}

/// And serves the others.
pub async fn a_touch_passes_over_absent_and_archived_hosts(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (archived, live, absent) = (new_host(&store).await, new_host(&store).await, sample::host("absent"));
    sample::commit(&store, sample::write(Revision::FIRST, &archived.clone().archive(at(2)))).await;
    let contacts = [&absent, &archived, &live].map(|host| sample::contact(host, at(5))).to_vec();
    let events = store.touch(contacts).await.unwrap();
    assert_eq!(events.iter().map(|event| event.event.host_id).collect::<Vec<_>>(), [Some(live.id)]);
    assert_eq!(presence(&store, &archived).await.presence, Presence::Pending);
}

/// A caller that goes away leaves no half of a report, nor of a call, nor a contact without its report.
pub async fn a_dropped_append_is_whole_or_absent(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    for seconds in 0..20 {
        let [first, second] = [2 * seconds, 2 * seconds + 1].map(|n| with_containers(at(n), true, &["a", "b"]));
        {
            let reports = [&first, &second].map(|report| sample::append(&host, report.clone()));
            let mut append = store.append(reports.to_vec());
            let _ = futures_util::poll!(append.as_mut());
        }
        // A later write is served, and comes after it.
        let probe = new_host(&store).await;
        append(&store, &probe, &[&sample::report(at(1))]).await;
        // It may still be under way: whatever one read shows, the next one shows all of.
        let contacted = presence(&store, &host).await.presence.last_seen_at() >= Some(first.recorded_at);
        let stored = snapshots(&store, &host).await;
        let stored: Vec<_> = stored.into_iter().filter(|snapshot| snapshot.recorded_at >= at(2 * seconds)).collect();
        if contacted || !stored.is_empty() {
            assert_eq!(stored, [&first, &second].map(|report| HostSnapshot::of(report, report.recorded_at)));
            let seen = presence(&store, &host).await.presence;
            assert_eq!(seen, Presence::Online { last_seen_at: second.recorded_at });
        }
        for outcome in append(&store, &host, &[&first, &second]).await {
            assert!(["accepted", "duplicate"].contains(&outcome));
        }
    }
    assert_eq!(snapshots(&store, &host).await.len(), 40);
}
