//! Verdicts of silence, and contacts that race them.

use std::time::Duration;

use super::Fixture;
use super::sample::{self, at};
use crate::clock::Timestamp;
use crate::event::{Event, EventBody};
use crate::host::{Host, Presence, Status};
use crate::policy::Scope;
use crate::store::{EventQuery, HostLookup, HostQuery, Revision, Silence, Store};

const WINDOW: Duration = Duration::from_secs(90);

fn silence(host: &Host, at: Timestamp) -> Silence {
    Silence { host_id: host.id, at, window: WINDOW, event_id: sample::event_id() }
}

/// A host that was heard last at `seen`, in seconds.
async fn heard(store: &impl Store, seen: i64) -> Host {
    let host = sample::host(&sample::hash().to_hex());
    sample::create(store, &host).await;
    store.touch(vec![sample::contact(&host, at(seen))]).await.unwrap();
    host
}

async fn presence(store: &impl Store, host: &Host) -> Presence {
    store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists").presence.presence
}

async fn events_of(store: &impl Store, host: &Host) -> Vec<Event> {
    let query = EventQuery { host_id: Some(host.id), ..EventQuery::new(Scope::All, 100) };
    store.list_events(&query).await.unwrap().items
}

/// Which says when it was heard last, and stands among the others.
pub async fn silence_beyond_the_window_is_one_event(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = heard(&here, 0).await;
    let verdict = silence(&host, at(91));
    let marked = here.mark_silent(vec![verdict.clone()]).await.unwrap();
    assert_eq!(presence(&there, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(91) });
    // Another replica comes to the same verdict a little later.
    assert!(there.mark_silent(vec![silence(&host, at(92))]).await.unwrap().is_empty());
    assert_eq!(presence(&here, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(91) });
    let [event] = &marked[..] else { panic!("one event was expected, not {marked:?}") };
    assert_eq!(event.event.body, EventBody::HostUnreachable { last_seen_at: at(0) });
    assert_eq!((event.event.id, event.event.at), (verdict.event_id, at(91)));
    assert_eq!((event.event.host_id, event.event.host_kind), (Some(host.id), Some(host.kind)));
    assert_eq!((&event.event.tenant_id, &event.event.actor), (&host.tenant_id, &None));
    assert_eq!(events_of(&there, &host).await[1..], marked);
}

/// A contact made since the verdict was prepared wins, to the microsecond.
pub async fn a_verdict_that_no_longer_holds_changes_nothing(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = heard(&here, 0).await;
    let verdict = silence(&host, at(91));
    there.touch(vec![sample::contact(&host, at(1))]).await.unwrap();
    assert!(here.mark_silent(vec![verdict]).await.unwrap().is_empty(), "exactly the window is not beyond it");
    assert_eq!(presence(&here, &host).await, Presence::Online { last_seen_at: at(1) });
    let just_beyond = at(91).saturating_add(Duration::from_micros(1));
    assert_eq!(here.mark_silent(vec![silence(&host, just_beyond)]).await.unwrap().len(), 1);
}

/// Neither a host that was never heard, nor one out of service, nor one that is not there; the others are judged.
pub async fn a_verdict_passes_over_who_cannot_fall_silent(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let pending = sample::host("pending");
    sample::create(&store, &pending).await;
    let archived = heard(&store, 0).await;
    sample::commit(&store, sample::write(Revision::FIRST, &archived.clone().archive(at(5)))).await;
    let (online, absent) = (heard(&store, 0).await, sample::host("absent"));
    let verdicts = [&absent, &pending, &archived, &online].map(|host| silence(host, at(1_000)));
    let marked = store.mark_silent(verdicts.to_vec()).await.unwrap();
    assert_eq!(marked.iter().map(|event| event.event.host_id).collect::<Vec<_>>(), [Some(online.id)]);
    assert_eq!(presence(&store, &pending).await, Presence::Pending);
    assert_eq!(presence(&store, &archived).await, Presence::Online { last_seen_at: at(0) });
    assert!(store.mark_silent(Vec::new()).await.unwrap().is_empty());
}

/// By a touch as by a report, with one event; a contact from before the silence does not.
pub async fn a_contact_brings_an_unreachable_host_back(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for by_report in [false, true] {
        let host = heard(&store, 0).await;
        store.mark_silent(vec![silence(&host, at(100))]).await.unwrap();
        store.touch(vec![sample::contact(&host, at(0))]).await.unwrap();
        assert_eq!(presence(&store, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(100) });
        for seconds in [101, 102] {
            if by_report {
                store.append(vec![sample::append(&host, sample::report(at(seconds)))]).await.unwrap();
            } else {
                store.touch(vec![sample::contact(&host, at(seconds))]).await.unwrap();
            }
        }
        assert_eq!(presence(&store, &host).await, Presence::Online { last_seen_at: at(102) });
        let bodies: Vec<_> = events_of(&store, &host).await.into_iter().map(|event| event.event.body).collect();
        let expected = [
            EventBody::HostOnline { was: Status::Pending },
            EventBody::HostUnreachable { last_seen_at: at(0) },
            EventBody::HostOnline { was: Status::Unreachable },
        ];
        assert_eq!(bodies, expected);
    }
}

/// A sweep raises no revision: it never makes an administrator's write fail.
pub async fn a_verdict_never_raises_the_revision(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = heard(&store, 0).await;
    store.mark_silent(vec![silence(&host, at(100))]).await.unwrap();
    sample::commit(&store, sample::write(Revision::FIRST, &Host { cordoned: true, ..host.clone() })).await;
    assert_eq!(presence(&store, &host).await, Presence::Unreachable { last_seen_at: at(0), since: at(100) });
}

/// Those heard before a time and not since: never a host that was never heard.
pub async fn hosts_are_found_by_when_they_were_heard(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (early, late, silent) = (heard(&store, 10).await, heard(&store, 20).await, heard(&store, 5).await);
    store.mark_silent(vec![silence(&silent, at(100))]).await.unwrap();
    sample::create(&store, &sample::host("never heard")).await;
    let find = |seen_before: i64, status: Option<Status>| {
        let query = HostQuery { seen_before: Some(at(seen_before)), status, ..HostQuery::new(Scope::All, 10) };
        let store = &store;
        async move {
            let page = store.list_hosts(&query).await.unwrap();
            page.items.into_iter().map(|record| record.host.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(find(20, None).await, [early.id, silent.id]);
    assert_eq!(find(20, Some(Status::Online)).await, [early.id]);
    assert_eq!(find(21, Some(Status::Online)).await, [early.id, late.id]);
    assert!(find(5, None).await.is_empty());
}
