//! The end of a host, and what is left of it.

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState, RevokeReason};
use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent};
use crate::host::{ExternalId, Host};
use crate::install_token::InstallToken;
use crate::policy::Scope;
use crate::store::{
    AppendOutcome, Commit, ContainerQuery, EventQuery, Expected, HostLookup, HostQuery, HostWrite, InstallTokenQuery,
    Key, Known, Revision, Store, StoreErrorKind, TelemetryQuery, Tombstone, Write,
};
use crate::telemetry::Report;

/// A deletion with its event.
fn deletion(expected: Revision, host: &Host) -> Commit {
    let event = NewEvent { body: EventBody::HostDeleted { name: host.name.clone() }, ..sample::event(host) };
    Commit::of(Write::HostDeletion { expected, host_id: host.id, at: at(9) }, vec![event])
}

async fn delete(store: &impl Store, host: &Host) {
    store.commit(deletion(Revision::FIRST, host)).await.unwrap();
}

/// A host with an agent token in each kind of state, and an install token.
async fn furnished(store: &impl Store, name: &str) -> (Host, Vec<AgentToken>) {
    let host = Host { external_id: Some(ExternalId::new(name).unwrap()), ..sample::host(name) };
    let revoked = AgentTokenState::Revoked { at: at(2), reason: RevokeReason::Administrator };
    let tokens = [AgentTokenState::Pending, AgentTokenState::Active { since: at(2) }, revoked]
        .map(|state| AgentToken { state, ..sample::agent_token(&host) })
        .to_vec();
    let write = HostWrite {
        agent_tokens: tokens.clone(),
        install_tokens: vec![sample::install_token(&host)],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    sample::commit(store, write).await;
    (host, tokens)
}

/// By every way to find or to list it, through every handle.
pub async fn a_deleted_host_is_gone_with_its_tokens(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let (host, tokens) = furnished(&here, "a").await;
    let (neighbour, _) = furnished(&here, "b").await;
    let install_token = sample::load(&here, host.id).await.install_token.expect("it has one");
    delete(&here, &host).await;
    for store in [&here, &there] {
        for key in [
            Key::Host(host.id),
            Key::InstallToken(install_token.hash),
            Key::InstallTokenId(install_token.id),
            Key::AgentToken(tokens[1].hash),
            Key::AgentTokenId(tokens[1].id),
        ] {
            assert_eq!(store.load(&key).await.unwrap(), None, "{key:?}");
        }
        let tenant = host.tenant_id.clone();
        for lookup in [
            HostLookup::Id(host.id),
            HostLookup::Name(tenant.clone(), host.name.clone()),
            HostLookup::ExternalId(tenant, host.external_id.clone().unwrap()),
        ] {
            assert_eq!(store.find_host(&lookup).await.unwrap(), None, "{lookup:?}");
        }
        let listed = store.list_hosts(&HostQuery::new(Scope::All, 10)).await.unwrap().items;
        assert_eq!(listed.iter().map(|record| record.host.id).collect::<Vec<_>>(), [neighbour.id]);
        assert!(sample::agent_tokens(store, host.id).await.is_empty());
        let query = InstallTokenQuery { owner: host.id.into(), after: None, limit: 10 };
        assert!(store.list_install_tokens(&query).await.unwrap().items.is_empty());
    }
}

/// Whoever presents one is told that the host was deleted, not that the token is unknown; through every handle, also
/// one that knew the token.
pub async fn a_deletion_leaves_a_tombstone_of_every_agent_token(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let (host, tokens) = furnished(&here, "a").await;
    let (_, others) = furnished(&here, "b").await;
    for store in [&here, &there] {
        for token in &tokens {
            assert_eq!(sample::credential(store, &token.hash).await.token, *token);
        }
    }
    delete(&here, &host).await;
    for store in [&here, &there] {
        for token in &tokens {
            let tombstone = Tombstone { token_id: token.id, host_id: host.id, deleted_at: at(9) };
            assert_eq!(store.authenticate(&token.hash).await.unwrap(), Some(Known::Tombstone(tombstone)));
        }
        assert_eq!(sample::credential(store, &others[1].hash).await.token, others[1]);
    }
}

/// No other host can be given a credential that a deleted one had.
pub async fn the_hash_of_a_deleted_hosts_token_stays_seen(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, tokens) = furnished(&store, "a").await;
    delete(&store, &host).await;
    let heir = sample::host("b");
    for token in tokens {
        let again = AgentToken { hash: token.hash, ..sample::agent_token(&heir) };
        let write = HostWrite { agent_tokens: vec![again], ..HostWrite::new(Expected::Absent, heir.clone()) };
        let error = store.commit(Commit::of(write, Vec::new())).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::HashSeen);
    }
}

/// An install token buys once, however often its host is made anew.
pub async fn the_hash_of_a_deleted_hosts_install_token_stays_seen(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, _) = furnished(&store, "a").await;
    let token = sample::load(&store, host.id).await.install_token.expect("it has one");
    delete(&store, &host).await;
    let heir = sample::host("b");
    let again = InstallToken { hash: token.hash, ..sample::install_token(&heir) };
    let write = HostWrite { install_tokens: vec![again], ..HostWrite::new(Expected::Absent, heir) };
    let error = store.commit(Commit::of(write, Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::HashSeen);
}

/// For another host, also one that the very same commit makes.
pub async fn a_deletion_frees_the_name_and_the_external_id(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, _) = furnished(&store, "a").await;
    let heir = Host { id: sample::host("x").id, ..host.clone() };
    let create = || Write::from(HostWrite::new(Expected::Absent, heir.clone()));
    // In the other order the name is not free yet.
    let early =
        Commit { writes: vec![create(), deletion(Revision::FIRST, &host).writes.remove(0)], events: Vec::new() };
    let error = store.commit(early).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::NameTaken | StoreErrorKind::ExternalIdTaken), "{error:?}");
    let mut commit = deletion(Revision::FIRST, &host);
    commit.writes.push(create());
    store.commit(commit).await.unwrap();
    assert_eq!(sample::load(&store, heir.id).await.host, heir);
    // And free again for a later one.
    delete(&store, &heir).await;
    sample::create(&store, &Host { id: sample::host("y").id, ..heir }).await;
}

/// What was looked at when the deletion was asked for is what is deleted, or nothing is.
pub async fn a_stale_deletion_conflicts_and_changes_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, tokens) = furnished(&store, "a").await;
    sample::commit(&store, sample::write(Revision::FIRST, &host)).await;
    let before = sample::load(&store, host.id).await;
    let absent = sample::host("absent");
    for commit in [deletion(Revision::FIRST, &host), deletion(Revision::FIRST, &absent)] {
        assert_eq!(store.commit(commit).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    }
    assert_eq!(sample::load(&store, host.id).await, before);
    assert_eq!(sample::credential(&store, &tokens[0].hash).await.token, tokens[0]);
    assert!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.is_empty());
}

/// Neither by a commit that knew it, nor a second time.
pub async fn a_deleted_host_is_written_no_more(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, _) = furnished(&store, "a").await;
    delete(&store, &host).await;
    for commit in [Commit::of(sample::write(Revision::FIRST, &host), Vec::new()), deletion(Revision::FIRST, &host)] {
        assert_eq!(store.commit(commit).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    }
}

/// And is neither heard nor missed.
pub async fn a_deleted_host_takes_no_report(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let (host, _) = furnished(&here, "a").await;
    here.append(vec![sample::append(&host, sample::report(at(3)))]).await.unwrap();
    delete(&there, &host).await;
    for seconds in [3, 4] {
        let appended = here.append(vec![sample::append(&host, sample::report(at(seconds)))]).await.unwrap();
        assert!(matches!(appended.outcomes[..], [AppendOutcome::HostAbsent]), "{:?}", appended.outcomes);
        assert!(appended.events.is_empty());
    }
    assert!(here.touch(vec![sample::contact(&host, at(5))]).await.unwrap().is_empty());
    sample::watch(&here).await;
    let swept = here.sweep(sample::sweep(at(1_000), Default::default())).await.unwrap();
    assert!(swept.events.is_empty() && !swept.more);
}

/// However long it takes until it has been removed; its events stay.
pub async fn what_a_deleted_host_reported_is_not_read_out(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, _) = furnished(&store, "a").await;
    let report =
        Report { containers: vec![sample::container("c")], containers_complete: true, ..sample::report(at(3)) };
    store.append(vec![sample::append(&host, report)]).await.unwrap();
    delete(&store, &host).await;
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 10);
    assert!(store.list_telemetry(&query).await.unwrap().items.is_empty());
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    assert!(store.list_containers(&query).await.unwrap().items.is_empty());
    let query = EventQuery { host_id: Some(host.id), ..EventQuery::new(Scope::All, 10) };
    let events = store.list_events(&query).await.unwrap().items;
    let types: Vec<_> = events.into_iter().map(|event| event.event.body.into_parts().0).collect();
    assert_eq!(types, ["host.online", "host.deleted"]);
}
