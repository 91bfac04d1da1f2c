//! Guards, uniqueness and atomicity of commits.

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::AgentToken;
use crate::host::{ExternalId, Host, HostName};
use crate::install_token::{Binding, Claim, InstallToken};
use crate::policy::Scope;
use crate::store::{
    Aggregate, Commit, EventQuery, Expected, HostLookup, HostWrite, Key, Revision, Store, StoreErrorKind,
    TenantInstallToken, Write,
};
use crate::telemetry::HostFacts;

async fn event_count(store: &impl Store) -> usize {
    store.list_events(&EventQuery::new(Scope::All, 500)).await.unwrap().items.len()
}

/// A new aggregate is at revision 1, and each write raises it by exactly one.
pub async fn revision_rises_by_one_with_each_write(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    for revision in 1..=5 {
        let aggregate = sample::load(&store, host.id).await;
        assert_eq!(aggregate.revision, Revision::new(revision));
        sample::commit(&store, sample::write(aggregate.revision, &host)).await;
    }
}

/// A write at a revision that is past changes neither the host nor its tokens nor the events.
pub async fn a_stale_write_conflicts_and_changes_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    sample::commit(&store, sample::write(Revision::FIRST, &Host { cordoned: true, ..host.clone() })).await;
    let stale = HostWrite {
        agent_tokens: vec![sample::agent_token(&host)],
        ..sample::write(Revision::FIRST, &Host { name: HostName::new("stale").unwrap(), ..host.clone() })
    };
    let commit = Commit::of(stale, vec![sample::event(&host)]);
    assert_eq!(sample::refused(&store, commit).await, StoreErrorKind::Conflict);
    let now = sample::load(&store, host.id).await;
    assert_eq!((now.revision, now.host.name.as_str(), now.host.cordoned), (Revision::new(2), "a", true));
    assert!(now.agent_tokens.is_empty());
    assert_eq!(event_count(&store).await, 0);
}

/// The guard holds across handles on the same data.
pub async fn a_stale_write_through_another_handle_conflicts(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = sample::host("a");
    sample::create(&here, &host).await;
    let seen_there = sample::load(&there, host.id).await;
    sample::commit(&here, sample::write(Revision::FIRST, &host)).await;
    let late = Commit::of(sample::write(seen_there.revision, &host), Vec::new());
    assert_eq!(sample::refused(&there, late).await, StoreErrorKind::Conflict);
    assert_eq!(sample::load(&there, host.id).await.revision, Revision::new(2));
}

/// `Absent` is a guard too.
pub async fn creating_a_host_that_exists_conflicts(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let again = HostWrite::new(Expected::Absent, Host { cordoned: true, ..host.clone() });
    assert_eq!(sample::refused(&store, Commit::of(again, Vec::new())).await, StoreErrorKind::Conflict);
    assert!(!sample::load(&store, host.id).await.host.cordoned);
}

/// Whoever it is bound to: a host's token has no revision of its own either.
pub async fn creating_a_tenant_bound_install_token_that_exists_conflicts(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let of_host = sample::install_token(&host);
    let write = HostWrite { install_tokens: vec![of_host.clone()], ..HostWrite::new(Expected::Absent, host.clone()) };
    sample::commit(&store, write).await;
    let of_tenant = InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) };
    let write = |expected, token: &InstallToken| {
        let token = InstallToken { binding: Binding::Tenant, expires_at: at(5_000), ..token.clone() };
        Commit::of(Write::TenantInstallToken { expected, token }, Vec::new())
    };
    let mint = Write::TenantInstallToken { expected: Expected::Absent, token: of_tenant.clone() };
    store.commit(Commit::of(mint, Vec::new())).await.unwrap();
    assert_eq!(sample::refused(&store, write(Expected::Absent, &of_tenant)).await, StoreErrorKind::Conflict);
    for expected in [Expected::Absent, Expected::Revision(Revision::FIRST)] {
        assert_eq!(sample::refused(&store, write(expected, &of_host)).await, StoreErrorKind::Conflict);
    }
    assert_eq!(sample::load(&store, host.id).await.install_token, Some(of_host));
    let unchanged = TenantInstallToken { revision: Revision::FIRST, token: of_tenant };
    let loaded = store.load(&Key::InstallToken(unchanged.token.hash)).await.unwrap();
    assert_eq!(loaded, Some(Aggregate::TenantInstallToken(Box::new(unchanged))));
}

/// A revision of nothing does not hold.
pub async fn writing_a_host_that_does_not_exist_conflicts(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let write = sample::write(Revision::FIRST, &host);
    assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::Conflict);
    assert_eq!(store.load(&Key::Host(host.id)).await.unwrap(), None);
}

/// Torn commits: the first write is good, the last one stale.
pub async fn a_commit_whose_last_write_fails_leaves_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (known, new) = (sample::host("known"), sample::host("new"));
    sample::create(&store, &known).await;
    sample::commit(&store, sample::write(Revision::FIRST, &known)).await;
    let good = HostWrite {
        agent_tokens: vec![sample::agent_token(&new)],
        install_tokens: vec![sample::install_token(&new)],
        ..HostWrite::new(Expected::Absent, new.clone())
    };
    let stale = sample::write(Revision::FIRST, &known);
    let commit = Commit { writes: vec![good.into(), stale.into()], events: vec![sample::event(&new)] };
    assert_eq!(sample::refused(&store, commit).await, StoreErrorKind::Conflict);
    assert_eq!(store.load(&Key::Host(new.id)).await.unwrap(), None);
    assert_eq!(event_count(&store).await, 0);

    // The same when it is a clash, found only once the first write is made.
    let token = sample::agent_token(&new);
    let twice = HostWrite {
        agent_tokens: vec![AgentToken { host_id: known.id, ..token.clone() }],
        ..sample::write(Revision::new(2), &known)
    };
    let good = HostWrite {
        agent_tokens: vec![AgentToken { id: sample::agent_token(&new).id, ..token }],
        ..HostWrite::new(Expected::Absent, new.clone())
    };
    let commit = Commit { writes: vec![good.into(), twice.into()], events: vec![sample::event(&new)] };
    assert_eq!(sample::refused(&store, commit).await, StoreErrorKind::HashSeen);
    assert_eq!(store.load(&Key::Host(new.id)).await.unwrap(), None);
    assert_eq!(sample::load(&store, known.id).await.revision, Revision::new(2));
    assert_eq!(event_count(&store).await, 0);
}

/// And those of one that succeeds do.
pub async fn events_of_a_commit_that_failed_do_not_exist(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let events = || vec![sample::event(&host), sample::event(&host)];
    let written = store.commit(Commit::of(HostWrite::new(Expected::Absent, host.clone()), events())).await.unwrap();
    assert_eq!(written.len(), 2);
    let again = Commit::of(HostWrite::new(Expected::Absent, host.clone()), events());
    assert_eq!(sample::refused(&store, again).await, StoreErrorKind::Conflict);
    let listed = store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items;
    assert_eq!(listed, written);
}

/// Another tenant may have it, another host of the tenant may not.
pub async fn a_name_is_unique_among_the_unarchived_hosts_of_a_tenant(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    sample::create(&store, &sample::host("a")).await;
    let same = HostWrite::new(Expected::Absent, sample::host("a"));
    assert_eq!(sample::refused(&store, Commit::of(same, Vec::new())).await, StoreErrorKind::NameTaken);
    sample::create(&store, &Host { tenant_id: sample::tenant("other"), ..sample::host("a") }).await;
    // Renaming runs into it as creating does, and a different case is a different name.
    let second = sample::host("A");
    sample::create(&store, &second).await;
    let renamed = Host { name: HostName::new("a").unwrap(), ..second.clone() };
    let commit = Commit::of(sample::write(Revision::FIRST, &renamed), Vec::new());
    assert_eq!(sample::refused(&store, commit).await, StoreErrorKind::NameTaken);
    assert_eq!(sample::load(&store, second.id).await.host.name.as_str(), "A");
}

/// The name of an archived host can be given again.
pub async fn archiving_a_host_frees_its_name(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let first = sample::host("a");
    sample::create(&store, &first).await;
    sample::commit(&store, sample::write(Revision::FIRST, &first.clone().archive(at(5)))).await;
    let second = sample::host("a");
    sample::create(&store, &second).await;
    let by_name = HostLookup::Name(second.tenant_id, second.name);
    let found = store.find_host(&by_name).await.unwrap();
    assert_eq!(found.map(|record| record.host.id), Some(second.id));
    // Another write of the archived host does not take it away again.
    let archived = sample::load(&store, first.id).await;
    sample::commit(&store, sample::write(archived.revision, &archived.host)).await;
    let found = store.find_host(&by_name).await.unwrap();
    assert_eq!(found.map(|record| record.host.id), Some(second.id));
}

/// What a host is no longer called, and no longer is, another one can be.
pub async fn a_change_frees_the_old_name_and_the_old_external_id(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let called = |host: Host, name: &str, external_id: &str| Host {
        name: HostName::new(name).unwrap(),
        external_id: Some(ExternalId::new(external_id).unwrap()),
        ..host
    };
    let first = called(sample::host("old"), "old", "i-old");
    sample::create(&store, &first).await;
    sample::commit(&store, sample::write(Revision::FIRST, &called(first.clone(), "new", "i-new"))).await;
    let second = called(sample::host("old"), "old", "i-old");
    let tenant = || second.tenant_id.clone();
    let lookups = |name: &str, external_id: &str| {
        let external_id = ExternalId::new(external_id).unwrap();
        [HostLookup::Name(tenant(), HostName::new(name).unwrap()), HostLookup::ExternalId(tenant(), external_id)]
    };
    for lookup in lookups("old", "i-old") {
        assert_eq!(store.find_host(&lookup).await.unwrap(), None);
    }
    sample::create(&store, &second).await;
    for (host, lookups) in [(&first, lookups("new", "i-new")), (&second, lookups("old", "i-old"))] {
        for lookup in lookups {
            assert_eq!(store.find_host(&lookup).await.unwrap().map(|record| record.host.id), Some(host.id));
        }
    }
}

/// Each sees what those before it in the commit have made.
pub async fn writes_of_one_commit_are_made_in_their_order(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let create = |host: Host| Write::from(HostWrite::new(Expected::Absent, host));
    let twins = Commit { writes: vec![create(sample::host("a")), create(sample::host("a"))], events: Vec::new() };
    assert_eq!(sample::refused(&store, twins).await, StoreErrorKind::NameTaken);
    let old = sample::host("a");
    sample::create(&store, &old).await;
    let archive = || Write::from(sample::write(Revision::FIRST, &old.clone().archive(at(5))));
    let taken = Commit { writes: vec![create(sample::host("a")), archive()], events: Vec::new() };
    assert_eq!(sample::refused(&store, taken).await, StoreErrorKind::NameTaken);
    let twice = Commit { writes: vec![archive(), archive()], events: Vec::new() };
    assert_eq!(sample::refused(&store, twice).await, StoreErrorKind::Conflict);
    let new = sample::host("a");
    let handed_on = Commit { writes: vec![archive(), create(new.clone())], events: Vec::new() };
    store.commit(handed_on).await.unwrap();
    let found = store.find_host(&HostLookup::Name(new.tenant_id, new.name)).await.unwrap();
    assert_eq!(found.map(|record| record.host.id), Some(new.id));
}

/// An external id outlives the archive: it names one machine.
pub async fn an_external_id_is_unique_in_its_tenant_archived_or_not(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let with_id = |name| Host { external_id: Some(ExternalId::new("i-1").unwrap()), ..sample::host(name) };
    let first = with_id("a");
    sample::create(&store, &first).await;
    sample::commit(&store, sample::write(Revision::FIRST, &first.archive(at(5)))).await;
    let second = Commit::of(HostWrite::new(Expected::Absent, with_id("b")), Vec::new());
    assert_eq!(sample::refused(&store, second).await, StoreErrorKind::ExternalIdTaken);
    sample::create(&store, &Host { tenant_id: sample::tenant("other"), ..with_id("c") }).await;
}

/// A service that lost a race must load again, not report a clash with what the winner wrote.
pub async fn a_conflict_is_reported_before_a_clash(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let token = sample::agent_token(&host);
    sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
    sample::create(&store, &sample::host("taken")).await;
    sample::commit(&store, sample::write(Revision::FIRST, &host)).await;
    let stale = HostWrite {
        agent_tokens: vec![AgentToken { hash: token.hash, ..sample::agent_token(&host) }],
        ..sample::write(Revision::FIRST, &Host { name: HostName::new("taken").unwrap(), ..host })
    };
    // The clash stands in an earlier write than the conflict.
    let clash = HostWrite::new(Expected::Absent, sample::host("taken"));
    let commit = Commit { writes: vec![clash.into(), stale.into()], events: Vec::new() };
    assert_eq!(sample::refused(&store, commit).await, StoreErrorKind::Conflict);
}

/// As an exchange that makes its host does.
pub async fn a_commit_writes_several_aggregates_or_none(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("made");
    let token = InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) };
    let mint = Write::TenantInstallToken { expected: Expected::Absent, token: token.clone() };
    store.commit(Commit::of(mint, Vec::new())).await.unwrap();
    let agent_token = sample::agent_token(&host);
    let claim = Claim::Client(agent_token.hash);
    let spent = token.consume(claim, agent_token.id, at(3)).unwrap();
    let exchange = |revision| Commit {
        writes: vec![
            HostWrite { agent_tokens: vec![agent_token.clone()], ..HostWrite::new(Expected::Absent, host.clone()) }
                .into(),
            Write::TenantInstallToken { expected: Expected::Revision(revision), token: spent.clone() },
        ],
        events: vec![sample::event(&host)],
    };
    assert_eq!(sample::refused(&store, exchange(Revision::new(2))).await, StoreErrorKind::Conflict);
    assert_eq!(store.load(&Key::Host(host.id)).await.unwrap(), None);
    store.commit(exchange(Revision::FIRST)).await.unwrap();
    assert_eq!(sample::load(&store, host.id).await.agent_tokens, [agent_token]);
}

/// What a report says is newer than what was known at the enrolment.
pub async fn facts_of_an_enrolment_count_only_until_the_first_report(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let facts = |cpu_count| HostFacts { cpu_count: Some(cpu_count), ..HostFacts::default() };
    let enrol = |revision, cpu_count| HostWrite {
        facts: Some(HostFacts { os: Some("enrolled".into()), ..facts(cpu_count) }),
        ..sample::write(Revision::new(revision), &host)
    };
    sample::commit(&store, enrol(1, 1)).await;
    let known =
        || async { store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists").presence.facts };
    assert_eq!(known().await.cpu_count, Some(1));
    let mut report = sample::report(at(10));
    report.host.facts = Some(facts(2));
    store.append(vec![sample::append(&host, report)]).await.unwrap();
    sample::commit(&store, enrol(2, 3)).await;
    assert_eq!(known().await, HostFacts { os: Some("enrolled".into()), ..facts(2) });
}

/// So that whoever asked is told the same by every store.
pub async fn of_several_clashes_the_first_is_reported(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let taken = Host { external_id: Some(ExternalId::new("x").unwrap()), ..sample::host("a") };
    let token = sample::agent_token(&taken);
    sample::create_with_tokens(&store, &taken, vec![token.clone()]).await;
    for (name, external_id, expected) in [
        ("a", Some("x"), StoreErrorKind::NameTaken),
        ("a", None, StoreErrorKind::NameTaken),
        ("b", Some("x"), StoreErrorKind::ExternalIdTaken),
        ("b", None, StoreErrorKind::HashSeen),
    ] {
        let external_id = external_id.map(|id| ExternalId::new(id).unwrap());
        let host = Host { external_id, ..sample::host(name) };
        let again = AgentToken { hash: token.hash, ..sample::agent_token(&host) };
        let write = HostWrite { agent_tokens: vec![again], ..HostWrite::new(Expected::Absent, host) };
        let error = store.commit(Commit::of(write, Vec::new())).await.unwrap_err();
        assert_eq!(error.kind(), expected);
    }
}

/// A caller that goes away leaves no open transaction and no half.
pub async fn a_dropped_commit_is_whole_or_absent(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for n in 0..20 {
        let host = sample::host(&format!("dropped {n}"));
        let token = sample::agent_token(&host);
        let write = HostWrite { agent_tokens: vec![token.clone()], ..HostWrite::new(Expected::Absent, host.clone()) };
        {
            let mut commit = store.commit(Commit::of(write, vec![sample::event(&host)]));
            let _ = futures_util::poll!(commit.as_mut());
        }
        // A later commit is served, and comes after it.
        sample::create(&store, &sample::host(&format!("after {n}"))).await;
        // It may still be under way: whatever is there now is whole, and stays.
        let events = || async {
            let query = EventQuery { host_id: Some(host.id), ..EventQuery::new(Scope::All, 10) };
            store.list_events(&query).await.unwrap().items.len()
        };
        let told = events().await;
        let loaded = store.load(&Key::Host(host.id)).await.unwrap();
        match loaded {
            None => assert_eq!(told, 0),
            Some(Aggregate::Host(aggregate)) => {
                assert_eq!((aggregate.agent_tokens, events().await), (vec![token], 1));
            }
            Some(other) => panic!("a host was expected, not {other:?}"),
        }
    }
}
