//! The order of events, and reading them.

use std::collections::BTreeMap;

use super::Fixture;
use super::sample;
use crate::event::{Event, EventBody, NewEvent, Position};
use crate::host::{Host, HostKind};
use crate::policy::{Kinds, Scope};
use crate::store::{Commit, EventQuery, Expected, HostWrite, Revision, Store};

async fn commit(store: &impl Store, events: Vec<NewEvent>) -> Vec<Event> {
    store.commit(Commit { writes: Vec::new(), events }).await.unwrap()
}

async fn list(store: &impl Store, query: EventQuery) -> Vec<Event> {
    store.list_events(&query).await.unwrap().items
}

/// Within a commit, from one to the next, and through every handle.
pub async fn positions_rise_in_the_order_of_commits(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = sample::host("a");
    let mut written = Vec::new();
    for n in 0..6 {
        let store = if n % 2 == 0 { &here } else { &there };
        written.extend(commit(store, vec![sample::event(&host), sample::event(&host)]).await);
    }
    // A contact's event stands in the same order.
    sample::create(&here, &host).await;
    written.extend(there.touch(vec![sample::contact(&host, sample::at(3))]).await.unwrap());
    written.extend(commit(&here, vec![sample::event(&host)]).await);
    assert!(written.is_sorted_by(|a, b| a.position < b.position));
    assert_eq!(written.len(), 14);
    assert_eq!(list(&there, EventQuery::new(Scope::All, 100)).await, written);
}

/// At every page size, while more are added.
pub async fn pages_of_events_miss_and_repeat_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let known = commit(&store, (0..7).map(|_| sample::event(&host)).collect()).await;
    for limit in [1, 2, 7, 8] {
        let mut seen: Vec<Event> = Vec::new();
        loop {
            let after = seen.last().map_or(crate::event::Position::START, |event| event.position);
            let page = store.list_events(&EventQuery { after, ..EventQuery::new(Scope::All, limit) }).await.unwrap();
            assert!(page.items.len() <= limit);
            seen.extend(page.items);
            assert!(seen.len() < 100, "a cursor that stands still never comes to the end");
            if !page.more {
                break;
            }
            if seen.len() < 12 {
                commit(&store, vec![sample::event(&host)]).await;
            }
        }
        assert!(seen.is_sorted_by(|a, b| a.position < b.position));
        assert_eq!(seen[..known.len()], known);
    }
}

/// Each alone, and together.
pub async fn events_are_filtered_by_host_tenant_and_type(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (a, b) = (sample::host("a"), Host { tenant_id: sample::tenant("other"), ..sample::host("b") });
    let archived =
        |host: &Host| NewEvent { body: EventBody::HostArchived { revoked: Vec::new() }, ..sample::event(host) };
    let future = NewEvent {
        body: EventBody::Other { r#type: "host.teleported".into(), data: serde_json::Value::Null },
        ..sample::event(&a)
    };
    let all = commit(&store, vec![sample::event(&a), archived(&a), sample::event(&b), archived(&b), future]).await;
    let query = || EventQuery::new(Scope::All, 10);
    let pick = |indexes: &[usize]| indexes.iter().map(|&index| all[index].clone()).collect::<Vec<_>>();
    assert_eq!(list(&store, EventQuery { host_id: Some(a.id), ..query() }).await, pick(&[0, 1, 4]));
    let of_other = EventQuery { tenant_id: Some(b.tenant_id.clone()), ..query() };
    assert_eq!(list(&store, of_other).await, pick(&[2, 3]));
    let of_type = |name: &str| EventQuery { r#type: Some(name.to_owned()), ..query() };
    assert_eq!(list(&store, of_type("host.archived")).await, pick(&[1, 3]));
    assert_eq!(list(&store, of_type("host.teleported")).await, pick(&[4]));
    assert_eq!(list(&store, EventQuery { host_id: Some(b.id), ..of_type("host.archived") }).await, pick(&[3]));
    assert!(list(&store, of_type("host")).await.is_empty());
}

/// An event that concerns no host is of no kind.
pub async fn events_are_filtered_by_kind(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let byoc = sample::host("a");
    let managed = Host { kind: HostKind::Managed, ..sample::host("b") };
    let hostless = NewEvent { host_id: None, host_kind: None, ..sample::event(&byoc) };
    let all = commit(&store, vec![sample::event(&byoc), sample::event(&managed), hostless]).await;
    let of = |kind| EventQuery { kind: Some(kind), ..EventQuery::new(Scope::All, 10) };
    assert_eq!(list(&store, of(HostKind::Byoc)).await, all[..1]);
    assert_eq!(list(&store, of(HostKind::Managed)).await, all[1..2]);
    let both = EventQuery { host_id: Some(byoc.id), ..of(HostKind::Managed) };
    assert!(list(&store, both).await.is_empty());
    let scope = Scope::Tenants(BTreeMap::from([(byoc.tenant_id.clone(), Kinds::Only(HostKind::Byoc))]));
    assert!(list(&store, EventQuery { scope, ..of(HostKind::Managed) }).await.is_empty());
}

/// Through every handle, and never of a commit that failed.
pub async fn the_last_position_is_that_of_the_newest_event(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    assert_eq!(there.last_position().await.unwrap(), Position::START);
    let host = sample::host("a");
    let written = commit(&here, vec![sample::event(&host), sample::event(&host)]).await;
    assert_eq!(there.last_position().await.unwrap(), written[1].position);
    let stale = HostWrite::new(Expected::Revision(Revision::FIRST), host.clone());
    here.commit(Commit::of(stale, vec![sample::event(&host)])).await.unwrap_err();
    assert_eq!(there.last_position().await.unwrap(), written[1].position);
}

/// What a policy hides is not even read out; an event that concerns no host follows its tenant.
pub async fn a_scope_hides_events_of_other_tenants_and_kinds(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let byoc = sample::host("a");
    let managed = Host { kind: HostKind::Managed, ..sample::host("b") };
    let other = Host { tenant_id: sample::tenant("other"), ..sample::host("c") };
    let hostless = NewEvent { host_id: None, host_kind: None, ..sample::event(&byoc) };
    let events = vec![sample::event(&byoc), sample::event(&managed), sample::event(&other), hostless];
    let write = HostWrite::new(Expected::Absent, byoc.clone());
    let all = store.commit(Commit::of(write, events)).await.unwrap();
    let seen = |kinds| {
        let scope = Scope::Tenants(BTreeMap::from([(byoc.tenant_id.clone(), kinds)]));
        list(&store, EventQuery::new(scope, 10))
    };
    assert_eq!(seen(Kinds::Both).await, [all[0].clone(), all[1].clone(), all[3].clone()]);
    assert_eq!(seen(Kinds::Only(HostKind::Byoc)).await, [all[0].clone(), all[3].clone()]);
    assert_eq!(seen(Kinds::Only(HostKind::Managed)).await, [all[1].clone(), all[3].clone()]);
    assert!(list(&store, EventQuery::new(Scope::Tenants(BTreeMap::new()), 10)).await.is_empty());
}
