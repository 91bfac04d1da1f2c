//! Sweeps, and contacts that race them.

use std::time::Duration;

use super::Fixture;
use super::sample::{self, at};
use crate::clock::Timestamp;
use crate::event::{Event, EventBody};
use crate::host::{Host, Presence, Status};
use crate::liveness::{Monitor, Pace, SILENT_AT_FIRST, Seen, Verdict};
use crate::policy::Scope;
use crate::store::{Commit, EventQuery, Expected, HostLookup, HostWrite, Revision, Store, Sweep, Swept};

const WINDOW: Duration = Duration::from_secs(90);

async fn sweep(store: &impl Store, now: Timestamp) -> Swept {
    store.sweep(sample::sweep(now, WINDOW)).await.unwrap()
}

/// A host that was heard last at `seen`, in seconds.
async fn heard(store: &impl Store, seen: i64) -> Host {
    let host = sample::host(&sample::hash().to_hex());
    sample::create(store, &host).await;
    store.touch(vec![sample::contact(&host, at(seen))]).await.unwrap();
    host
}

async fn archive(store: &impl Store, host: &Host) {
    sample::commit(store, sample::write(Revision::FIRST, &host.clone().archive(at(5)))).await;
}

async fn presence(store: &impl Store, host: &Host) -> Presence {
    store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists").presence.presence
}

async fn events_of(store: &impl Store, host: &Host) -> Vec<Event> {
    let query = EventQuery { host_id: Some(host.id), ..EventQuery::new(Scope::All, 100) };
    store.list_events(&query).await.unwrap().items
}

fn told(swept: &Swept) -> Vec<Option<crate::HostId>> {
    swept.events.iter().map(|event| event.event.host_id).collect()
}

/// Which says when it was heard last, and stands among the others.
pub async fn silence_beyond_the_window_is_one_event(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&here).await;
    let host = heard(&here, 0).await;
    let verdict = sample::sweep(at(91), WINDOW);
    let ids = verdict.event_ids.clone();
    let swept = here.sweep(verdict).await.unwrap();
    assert_eq!(swept.verdict, Verdict::Sweep { storm: false });
    assert_eq!(presence(&there, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(91) });
    // Another replica sweeps a little later.
    assert!(sweep(&there, at(92)).await.events.is_empty());
    assert_eq!(presence(&here, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(91) });
    let [event] = &swept.events[..] else { panic!("one event was expected, not {swept:?}") };
    assert_eq!(event.event.body, EventBody::HostUnreachable { last_seen_at: at(0), storm: false });
    assert!(ids.contains(&event.event.id));
    assert_eq!(event.event.at, at(91));
    assert_eq!((event.event.host_id, event.event.host_kind), (Some(host.id), Some(host.kind)));
    assert_eq!((&event.event.tenant_id, &event.event.actor), (&host.tenant_id, &None));
    assert_eq!(events_of(&there, &host).await[1..], swept.events);
}

/// What is stored decides, whoever has stored it, and exactly the window is not beyond it: however long after the contact
/// before it, since a store may look for hosts by something that it does not write with each.
pub async fn a_contact_through_another_handle_counts_to_the_microsecond(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&here).await;
    for (first, later) in [(0, 1), (1_000, 59), (2_000, 60), (3_000, 61), (4_000, 300)] {
        let host = heard(&here, first).await;
        for seconds in [first + later / 2, first + later] {
            there.touch(vec![sample::contact(&host, at(seconds))]).await.unwrap();
        }
        let last = first + later;
        assert!(sweep(&here, at(last + 90)).await.events.is_empty(), "{later}");
        assert_eq!(presence(&here, &host).await, Presence::Online { last_seen_at: at(last) });
        let just_beyond = at(last + 90).saturating_add(Duration::from_micros(1));
        assert_eq!(told(&sweep(&here, just_beyond).await), [Some(host.id)], "{later}");
    }
}

/// Not a host that was never heard. One out of service does so without a word, so that no later sweep comes by it.
pub async fn only_who_is_online_falls_silent(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    assert!(sweep(&store, Timestamp::MIN).await.events.is_empty(), "nobody is there");
    let pending = sample::host("pending");
    sample::create(&store, &pending).await;
    let archived = heard(&store, 0).await;
    archive(&store, &archived).await;
    let online = heard(&store, 0).await;
    assert_eq!(told(&sweep(&store, at(1_000)).await), [Some(online.id)]);
    assert_eq!(presence(&store, &pending).await, Presence::Pending);
    assert_eq!(presence(&store, &archived).await, Presence::Unreachable { last_seen_at: at(0), since: at(1_000) });
    assert_eq!(events_of(&store, &archived).await.len(), 1, "it came online once");
}

/// By a touch as by a report, with one event; a contact from before the silence does not.
pub async fn a_contact_brings_an_unreachable_host_back(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    for (by_report, seen) in [(false, 0), (true, 1_000)] {
        let host = heard(&store, seen).await;
        let (last_seen_at, since) = (at(seen), at(seen + 100));
        sweep(&store, since).await;
        store.touch(vec![sample::contact(&host, last_seen_at)]).await.unwrap();
        assert_eq!(presence(&store, &host).await, Presence::Unreachable { last_seen_at, since });
        for seconds in [seen + 101, seen + 102] {
            if by_report {
                store.append(vec![sample::append(&host, sample::report(at(seconds)))]).await.unwrap();
            } else {
                store.touch(vec![sample::contact(&host, at(seconds))]).await.unwrap();
            }
        }
        assert_eq!(presence(&store, &host).await, Presence::Online { last_seen_at: at(seen + 102) });
        let bodies: Vec<_> = events_of(&store, &host).await.into_iter().map(|event| event.event.body).collect();
        let expected = [
            EventBody::HostOnline { was: Status::Pending },
            EventBody::HostUnreachable { last_seen_at, storm: false },
            EventBody::HostOnline { was: Status::Unreachable },
        ];
        assert_eq!(bodies, expected);
    }
}

/// A sweep never makes an administrator's write fail.
pub async fn a_sweep_never_raises_the_revision(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    let host = heard(&store, 0).await;
    sweep(&store, at(100)).await;
    sample::commit(&store, sample::write(Revision::FIRST, &Host { cordoned: true, ..host.clone() })).await;
    assert_eq!(presence(&store, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(100) });
}

/// A call judges as many as it has ids for, and says whether there are more.
pub async fn a_sweep_is_bounded_and_begins_with_the_longest_silent(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    for _ in 0..6 {
        heard(&store, 2_000).await;
    }
    let (late, early, later) = (heard(&store, 300).await, heard(&store, 0).await, heard(&store, 600).await);
    let two = || {
        let sweep = sample::sweep(at(1_000), WINDOW);
        Sweep { event_ids: sweep.event_ids[..2].to_vec(), ..sweep }
    };
    let first = store.sweep(two()).await.unwrap();
    let mut longest = told(&first);
    longest.sort_unstable();
    let mut expected = [Some(early.id), Some(late.id)];
    expected.sort_unstable();
    assert_eq!((longest, first.more), (expected.to_vec(), true));
    let second = store.sweep(two()).await.unwrap();
    assert_eq!((told(&second), second.more), (vec![Some(later.id)], false));
    let (a, b) = (heard(&store, 0).await, heard(&store, 0).await);
    let last = store.sweep(two()).await.unwrap();
    assert_eq!((last.events.len(), last.more), (2, false), "{} and {} are all", a.id, b.id);
}

/// The monitor is one, whoever sweeps: a gap in the sweeps of all is one, a gap in those of some is not.
pub async fn an_absence_of_every_handle_suspends_verdicts(fixture: &impl Fixture) {
    let handles = [fixture.handle().await, fixture.handle().await];
    let pace = Pace { window: WINDOW, tick: Duration::from_secs(10) };
    let mut monitor = Monitor::default();
    let host = heard(&handles[0], 50).await;
    // There is no sweep between 130 and 151.
    let times = (0..=130).step_by(10).chain((151..=251).step_by(10));
    for seconds in times {
        let now = at(seconds);
        // The second one begins late.
        let store = &handles[usize::from(seconds > 60)];
        let swept = store.sweep(Sweep { pace, ..sample::sweep(now, WINDOW) }).await.unwrap();
        let silent = u64::from(seconds > 140 && seconds < 250);
        let (next, verdict) = monitor.tick(now, pace, Seen { silent, heard: 1 - silent });
        monitor = next.note_fallen(now, pace, swept.events.len() as u64);
        assert_eq!((&swept.monitor, swept.verdict), (&monitor, verdict), "at {seconds}");
        let expected = match seconds {
            0..90 => Verdict::Suspended { until: at(90), absent_since: None },
            151..241 => Verdict::Suspended { until: at(241), absent_since: Some(at(130)) },
            _ => Verdict::Sweep { storm: false },
        };
        assert_eq!(verdict, expected, "at {seconds}");
        assert_eq!(told(&swept), if seconds == 241 { vec![Some(host.id)] } else { Vec::new() }, "at {seconds}");
    }
    let now = at(252);
    let (next, _) = monitor.tick(now, pace, Seen { silent: 0, heard: 0 });
    let swept = handles[0].sweep(Sweep { pace, ..sample::sweep(now, WINDOW) }).await.unwrap();
    assert_eq!(swept.monitor, next);
}

/// For five windows, whoever sweeps; then they fall after all.
pub async fn a_storm_is_held_back_and_then_told(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&here).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(heard(&here, 0).await);
    }
    for _ in 0..5 {
        heard(&here, 1_000).await;
    }
    let holding = Verdict::Holding { since: at(91), until: at(91 + 450) };
    for (store, seconds) in [(&here, 91), (&there, 92), (&there, 540)] {
        let swept = sweep(store, at(seconds)).await;
        assert_eq!((swept.verdict, swept.events, swept.more), (holding, vec![], false), "at {seconds}");
    }
    let swept = sweep(&there, at(541)).await;
    assert_eq!((swept.verdict, swept.events.len()), (Verdict::Sweep { storm: true }, 5));
    let body = EventBody::HostUnreachable { last_seen_at: at(0), storm: true };
    for host in &silent {
        assert_eq!(events_of(&here, host).await[1].event.body, body);
    }
}

/// Archived ones neither fall nor are left; one that was never heard is not left either.
pub async fn a_storm_is_told_by_unarchived_hosts_that_were_online(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    for _ in 0..5 {
        heard(&store, 0).await;
        heard(&store, 1_000).await;
    }
    let out_of_service = [heard(&store, 1_000).await, heard(&store, 0).await, heard(&store, 0).await];
    archive(&store, &out_of_service[0]).await;
    sample::create(&store, &sample::host("never heard")).await;
    let swept = sweep(&store, at(91)).await;
    assert_eq!(swept.verdict, Verdict::Holding { since: at(91), until: at(541) }, "7 of 12");
    for host in &out_of_service[1..] {
        archive(&store, host).await;
    }
    let swept = sweep(&store, at(92)).await;
    assert!(matches!(swept.verdict, Verdict::Holding { .. }), "5 of 10, with one that is archived and heard");
    heard(&store, 1_000).await;
    let swept = sweep(&store, at(93)).await;
    assert_eq!(swept.verdict, Verdict::Sweep { storm: false }, "5 of 11, with two that are archived and silent");
    assert_eq!(swept.events.len(), 5);
}

/// They are told apart to the microsecond, however long after the contact before it the last one was.
pub async fn a_storm_is_told_by_last_contacts(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    for later in [1, 59, 60, 61] {
        let first = later * 1_000;
        let mut hosts = Vec::new();
        for _ in 0..11 {
            hosts.push(heard(&store, first).await);
        }
        // Five are silent, and six are just not.
        for seconds in [first + later / 2, first + later] {
            let contacts = hosts[5..].iter().map(|host| sample::contact(host, at(seconds))).collect();
            store.touch(contacts).await.unwrap();
        }
        let swept = sweep(&store, at(first + later + 90)).await;
        assert_eq!((swept.verdict, swept.events.len()), (Verdict::Sweep { storm: false }, 5), "{later}");
        for host in &hosts[5..] {
            archive(&store, host).await;
        }
    }
}

/// Hosts that fell a little while ago count as well.
pub async fn a_storm_gathers_over_a_window(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&here).await;
    for seen in [0, 0, 0, 50, 50] {
        heard(&here, seen).await;
    }
    assert_eq!(sweep(&here, at(91)).await.events.len(), 3);
    let swept = sweep(&there, at(141)).await;
    assert_eq!((swept.verdict, swept.events.len()), (Verdict::Holding { since: at(141), until: at(591) }, 0));
    let swept = sweep(&there, at(181)).await;
    assert_eq!(
        (swept.verdict, swept.events.len()),
        (Verdict::Sweep { storm: false }, 2),
        "the first three are too long ago"
    );
}

/// More than a sweep counts at first, on both sides.
pub async fn a_storm_of_many_is_counted_as_far_as_it_takes(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::watch(&store).await;
    let each = usize::try_from(SILENT_AT_FIRST).expect("it is small") + 100;
    for seen in [0, 1_000] {
        let hosts: Vec<_> = (0..each).map(|n| sample::host(&format!("{n} of {seen}"))).collect();
        let writes = hosts.iter().map(|host| HostWrite::new(Expected::Absent, host.clone()).into()).collect();
        store.commit(Commit { writes, events: Vec::new() }).await.unwrap();
        store.touch(hosts.iter().map(|host| sample::contact(host, at(seen))).collect()).await.unwrap();
    }
    let swept = sweep(&store, at(91)).await;
    assert_eq!(swept.verdict, Verdict::Holding { since: at(91), until: at(541) }, "half of them");
    heard(&store, 1_000).await;
    assert_eq!(sweep(&store, at(92)).await.verdict, Verdict::Sweep { storm: false }, "less than half");
}
