//! Loading, authenticating, finding and listing.

use std::collections::BTreeMap;

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState, RevokeReason};
use crate::host::{ExternalId, Host, HostKind, HostName, Lifecycle, Status, Tag};
use crate::id::HostId;
use crate::install_token::{Binding, InstallToken, InstallTokenState};
use crate::liveness::LivenessWindow;
use crate::policy::{Kinds, Scope};
use crate::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Commit, ContainerQuery, EventQuery, Expected, HostLookup, HostQuery,
    HostRecord, HostWrite, InstallTokenOwner, InstallTokenQuery, Key, Page, Presented, Revision, Store, TelemetryQuery,
    Write,
};
use crate::telemetry::Report;

/// Each key finds the same aggregate, and shows the token that it named.
pub async fn an_aggregate_is_loaded_by_every_key(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let (install_token, agent_token) = (sample::install_token(&host), sample::agent_token(&host));
    let write = HostWrite {
        install_tokens: vec![install_token.clone()],
        agent_tokens: vec![agent_token.clone()],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    sample::commit(&store, write).await;
    sample::create_with_tokens(&store, &sample::host("b"), Vec::new()).await;
    for (key, presented) in [
        (Key::Host(host.id), Presented::Nothing),
        (Key::InstallToken(install_token.hash), Presented::InstallToken(install_token.clone())),
        (Key::InstallTokenId(install_token.id), Presented::InstallToken(install_token.clone())),
        (Key::AgentToken(agent_token.hash), Presented::AgentToken(agent_token.clone())),
        (Key::AgentTokenId(agent_token.id), Presented::AgentToken(agent_token.clone())),
    ] {
        let Some(Aggregate::Host(aggregate)) = store.load(&key).await.unwrap() else { panic!("{key:?} finds a host") };
        assert_eq!(aggregate.presented, presented, "{key:?}");
        assert_eq!(aggregate.revision, Revision::FIRST);
        assert_eq!(aggregate.host, host);
        assert_eq!(aggregate.install_token.as_ref(), Some(&install_token));
        assert_eq!(aggregate.agent_tokens, std::slice::from_ref(&agent_token));
    }
}

/// Live tokens stand in the aggregate, expired or not; final ones only when the key names them.
pub async fn an_aggregate_holds_every_live_token_and_no_other(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let token = |state| AgentToken { state, expires_at: Some(at(2)), ..sample::agent_token(&host) };
    let pending = token(AgentTokenState::Pending);
    let active = token(AgentTokenState::Active { since: at(1) });
    let revoked = token(AgentTokenState::Revoked { at: at(1), reason: RevokeReason::CutOff });
    let displaced = token(AgentTokenState::Displaced { at: at(1), by: active.id });
    let spent = InstallToken { state: InstallTokenState::Revoked { at: at(1) }, ..sample::install_token(&host) };
    let write = HostWrite {
        install_tokens: vec![spent.clone()],
        agent_tokens: vec![revoked.clone(), pending.clone(), displaced, active.clone()],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    sample::commit(&store, write).await;
    for key in [Key::Host(host.id), Key::AgentToken(revoked.hash), Key::InstallToken(spent.hash)] {
        let Some(Aggregate::Host(aggregate)) = store.load(&key).await.unwrap() else { panic!("{key:?} finds a host") };
        assert_eq!(aggregate.agent_tokens, [pending.clone(), active.clone()]);
        assert_eq!(aggregate.install_token, None);
    }
}

/// Nothing is not an error.
pub async fn absent_keys_load_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    for key in [
        Key::Host(host.id),
        Key::InstallToken(sample::hash()),
        Key::InstallTokenId(sample::install_token(&host).id),
        Key::AgentToken(sample::hash()),
        Key::AgentTokenId(sample::agent_token(&host).id),
    ] {
        assert_eq!(store.load(&key).await.unwrap(), None, "{key:?}");
    }
    assert_eq!(store.authenticate(&sample::hash()).await.unwrap(), None);
    assert_eq!(store.find_host(&HostLookup::Id(host.id)).await.unwrap(), None);
}

/// Whoever judges a token needs to see it in whatever state it is, and its host's.
pub async fn a_token_is_authenticated_in_every_state(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let window = Some(LivenessWindow::SHORTEST);
    let host = Host { generation: 7, liveness_window: window, ..sample::host("a") };
    let other = sample::agent_token(&host).id;
    for state in [
        AgentTokenState::Pending,
        AgentTokenState::Active { since: at(1) },
        AgentTokenState::Retired { at: at(1), successor: other, by: crate::agent_token::RetiredBy::Agent },
        AgentTokenState::Displaced { at: at(1), by: other },
        AgentTokenState::Revoked { at: at(1), reason: RevokeReason::Administrator },
    ] {
        let host = Host { id: sample::host("x").id, name: unique_name(), ..host.clone() };
        let token = AgentToken { state, ..sample::agent_token(&host) };
        sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
        let found = sample::credential(&store, &token.hash).await;
        assert_eq!((found.token, found.tenant_id), (token, host.tenant_id));
        assert_eq!((found.lifecycle, found.generation, found.liveness_window), (Lifecycle::Live, 7, window));
    }
}

fn unique_name() -> HostName {
    HostName::new(sample::hash().to_hex()).expect("hexadecimal digits are a name")
}

/// Through this handle and through another.
pub async fn a_revocation_is_seen_by_the_next_authentication(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = sample::host("a");
    let token = AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    sample::create_with_tokens(&here, &host, vec![token.clone()]).await;
    for store in [&here, &there] {
        assert!(sample::credential(store, &token.hash).await.token.is_live());
    }
    let revoked = token.revoke(RevokeReason::Administrator, at(5)).unwrap();
    let hash = revoked.hash;
    sample::commit(&here, HostWrite { agent_tokens: vec![revoked], ..sample::write(Revision::FIRST, &host) }).await;
    for store in [&here, &there] {
        assert!(!sample::credential(store, &hash).await.token.is_live());
    }
}

/// The host's lifecycle comes with the token, also when no token was written with it, and through every handle.
pub async fn an_archived_host_is_seen_by_the_next_authentication(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = sample::host("a");
    let token = sample::agent_token(&host);
    sample::create_with_tokens(&here, &host, vec![token.clone()]).await;
    for store in [&here, &there] {
        let found = sample::credential(store, &token.hash).await;
        assert_eq!((found.lifecycle, found.generation), (Lifecycle::Live, 0));
    }
    sample::commit(&here, sample::write(Revision::FIRST, &host.archive(at(5)))).await;
    for store in [&here, &there] {
        let found = sample::credential(store, &token.hash).await;
        assert_eq!((found.lifecycle, found.generation), (Lifecycle::Archived { at: at(5) }, 1));
    }
}

/// Whoever was told that it is unknown is not told so again.
pub async fn a_new_token_is_seen_by_the_next_authentication(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = sample::host("a");
    let token = sample::agent_token(&host);
    for store in [&here, &there] {
        assert_eq!(store.authenticate(&token.hash).await.unwrap(), None);
    }
    sample::create_with_tokens(&here, &host, vec![token.clone()]).await;
    for store in [&here, &there] {
        assert_eq!(sample::credential(store, &token.hash).await.token, token);
    }
}

/// Whatever a handle has read before, and whichever wrote since.
pub async fn every_read_sees_what_another_handle_wrote(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let host = sample::host("a");
    let (agent_token, install_token) = (sample::agent_token(&host), sample::install_token(&host));
    let lookup = HostLookup::Id(host.id);
    let telemetry = TelemetryQuery::new(host.id, at(0), at(99), 10);
    let containers = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let agent_tokens = AgentTokenQuery::new(host.id, 10);
    let install_tokens = InstallTokenQuery { owner: host.id.into(), after: None, limit: 10 };
    // How many rows each read finds, and what it says of the host.
    let read = || async {
        let listed = there.list_hosts(&HostQuery::new(Scope::All, 10)).await.unwrap().items;
        assert_eq!(listed, Vec::from_iter(there.find_host(&lookup).await.unwrap()));
        let loaded = match there.load(&Key::Host(host.id)).await.unwrap() {
            Some(Aggregate::Host(aggregate)) => aggregate.revision.get(),
            _ => 0,
        };
        let counts = [
            there.list_agent_tokens(&agent_tokens).await.unwrap().items.len(),
            there.list_install_tokens(&install_tokens).await.unwrap().items.len(),
            there.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.len(),
            there.list_telemetry(&telemetry).await.unwrap().items.len(),
            there.list_containers(&containers).await.unwrap().items.len(),
        ];
        let seen = listed.first().map(|record| (record.revision.get(), record.presence.newest_report_at));
        (loaded, seen, counts)
    };
    assert_eq!(read().await, (0, None, [0; 5]));
    let write = HostWrite::new(Expected::Absent, host.clone());
    here.commit(Commit::of(write, vec![sample::event(&host)])).await.unwrap();
    assert_eq!(read().await, (1, Some((1, None)), [0, 0, 1, 0, 0]));
    let write = HostWrite {
        agent_tokens: vec![agent_token],
        install_tokens: vec![install_token],
        ..sample::write(Revision::FIRST, &host)
    };
    here.commit(Commit::of(write, Vec::new())).await.unwrap();
    assert_eq!(read().await, (2, Some((2, None)), [1, 1, 1, 0, 0]));
    let report = Report { containers: vec![sample::container("c")], ..sample::report(at(3)) };
    here.append(vec![sample::append(&host, report)]).await.unwrap();
    assert_eq!(read().await, (2, Some((2, Some(at(3)))), [1, 1, 2, 1, 1]));
}

/// And only in the tenant that is asked for.
pub async fn a_host_is_found_by_id_external_id_and_name(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let external_id = ExternalId::new("i-1").unwrap();
    let host = Host { external_id: Some(external_id.clone()), ..sample::host("a") };
    sample::create(&store, &host).await;
    sample::create(&store, &sample::host("b")).await;
    let other = sample::tenant("other");
    let lookups = |tenant: &crate::TenantId| {
        [
            HostLookup::ExternalId(tenant.clone(), external_id.clone()),
            HostLookup::Name(tenant.clone(), host.name.clone()),
        ]
    };
    for lookup in lookups(&host.tenant_id).into_iter().chain([HostLookup::Id(host.id)]) {
        let found = store.find_host(&lookup).await.unwrap();
        assert_eq!(found.map(|record| record.host), Some(host.clone()), "{lookup:?}");
    }
    for lookup in lookups(&other) {
        assert_eq!(store.find_host(&lookup).await.unwrap(), None, "{lookup:?}");
    }
}

/// Its name may be another's by now; its id and external id are its own.
pub async fn an_archived_host_is_not_found_by_name(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let external_id = ExternalId::new("i-1").unwrap();
    let host = Host { external_id: Some(external_id.clone()), ..sample::host("a") };
    sample::create(&store, &host).await;
    sample::commit(&store, sample::write(Revision::FIRST, &host.clone().archive(at(5)))).await;
    let by_name = HostLookup::Name(host.tenant_id.clone(), host.name.clone());
    assert_eq!(store.find_host(&by_name).await.unwrap(), None);
    for lookup in [HostLookup::Id(host.id), HostLookup::ExternalId(host.tenant_id.clone(), external_id)] {
        assert!(store.find_host(&lookup).await.unwrap().is_some(), "{lookup:?}");
    }
}

/// Every host that was there from the start is seen once, in order, at every page size.
pub async fn pages_of_hosts_miss_and_repeat_nothing_while_hosts_are_added(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let mut known: Vec<HostId> = Vec::new();
    for n in 0..7 {
        let host = sample::host(&format!("h{n}"));
        sample::create(&store, &host).await;
        known.push(host.id);
    }
    for limit in [1, 2, 3, 6, 7, 8] {
        let mut added = 0;
        let seen = sample::walk(|last: Option<&HostRecord>| {
            let query = HostQuery { after: last.map(|record| record.host.id), ..HostQuery::new(Scope::All, limit) };
            let store = &store;
            added += 1;
            async move {
                let page = store.list_hosts(&query).await.unwrap();
                assert!(page.items.len() <= limit);
                // One before the cursor and one behind it, but not for ever.
                if added < 5 {
                    for id in [HostId::from_uuid(uuid::Uuid::from_u128(some_number() >> 80)), some_id()] {
                        sample::create(store, &Host { name: unique_name(), id, ..sample::host("x") }).await;
                    }
                }
                page
            }
        })
        .await;
        let ids: Vec<_> = seen.iter().map(|record| record.host.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "in order, none twice");
        assert!(known.iter().all(|id| ids.contains(id)), "none of the old ones is missed at {limit}");
    }
}

/// Of the hosts that a list means all the while, each is seen once, whatever becomes of the others: also when the very host
/// that the cursor names is deleted, or is not meant any more.
pub async fn pages_of_hosts_hold_still_while_hosts_change_and_go(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for limit in [1, 2, 3] {
        // A tag of its own tells the hosts of each round from those that the rounds before have left.
        let tag = Tag::new(format!("round-{limit}")).unwrap();
        let tagged = |name: &str| Host { tags: [tag.clone()].into(), name: unique_name(), ..sample::host(name) };
        let mut hosts: Vec<_> = (0..12).map(|_| tagged("x")).collect();
        hosts.sort_by_key(|host| host.id);
        for host in &hosts {
            sample::create(&store, host).await;
        }
        // Every third stays. Of the others one is deleted and one loses its tag, each once it has been seen.
        let mut pages = 0;
        let mut seen: Vec<HostId> = Vec::new();
        loop {
            let after = seen.last().copied();
            let query = HostQuery { tag: Some(tag.clone()), after, ..HostQuery::new(Scope::All, limit) };
            let page = store.list_hosts(&query).await.unwrap();
            seen.extend(page.items.iter().map(|record| record.host.id));
            pages += 1;
            assert!(pages < 100, "it ends");
            if !page.more {
                break;
            }
            for record in &page.items {
                match hosts.iter().position(|host| host.id == record.host.id).map(|index| index % 3) {
                    Some(0) | None => {}
                    Some(1) => {
                        let write = Write::HostDeletion {
                            expected: record.revision,
                            host_id: record.host.id,
                            at: record.host.updated_at,
                        };
                        store.commit(Commit::of(write, Vec::new())).await.unwrap();
                    }
                    Some(_) => {
                        let untagged = Host { tags: Default::default(), ..record.host.clone() };
                        sample::commit(&store, sample::write(record.revision, &untagged)).await;
                    }
                }
            }
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "in order, none twice");
        assert!(hosts.iter().all(|host| seen.contains(&host.id)), "none is missed at {limit}");
    }
}

/// An id anywhere in the order.
fn some_id() -> HostId {
    HostId::from_uuid(uuid::Uuid::from_u128(some_number()))
}

fn some_number() -> u128 {
    u128::from_be_bytes(*sample::hash().as_bytes().first_chunk().expect("32 bytes hold 16"))
}

async fn names(store: &impl Store, query: HostQuery) -> Vec<String> {
    let page = store.list_hosts(&query).await.unwrap();
    page.items.into_iter().map(|record| record.host.name.to_string()).collect()
}

/// What a policy hides is not even read out.
pub async fn a_scope_hides_other_tenants_and_kinds(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (acme, other) = (sample::tenant("acme"), sample::tenant("other"));
    for (name, tenant_id, kind) in [
        ("acme-byoc", &acme, HostKind::Byoc),
        ("acme-managed", &acme, HostKind::Managed),
        ("other-byoc", &other, HostKind::Byoc),
        ("other-managed", &other, HostKind::Managed),
    ] {
        sample::create(&store, &Host { tenant_id: tenant_id.clone(), kind, ..sample::host(name) }).await;
    }
    let seen = |tenants: &[(&crate::TenantId, Kinds)]| {
        let tenants: BTreeMap<_, _> = tenants.iter().map(|(tenant, kinds)| ((*tenant).clone(), *kinds)).collect();
        names(&store, HostQuery::new(Scope::Tenants(tenants), 10))
    };
    assert_eq!(names(&store, HostQuery::new(Scope::All, 10)).await.len(), 4);
    assert!(seen(&[]).await.is_empty());
    assert_eq!(seen(&[(&acme, Kinds::Both)]).await, ["acme-byoc", "acme-managed"]);
    assert_eq!(seen(&[(&acme, Kinds::Only(HostKind::Managed))]).await, ["acme-managed"]);
    let mixed = [(&acme, Kinds::Both), (&other, Kinds::Only(HostKind::Byoc))];
    assert_eq!(seen(&mixed).await, ["acme-byoc", "acme-managed", "other-byoc"]);
    // A filter narrows a scope, it never widens it.
    let scope = Scope::Tenants(BTreeMap::from([(acme, Kinds::Both)]));
    let query = HostQuery { tenant_id: Some(other), ..HostQuery::new(scope, 10) };
    assert!(names(&store, query).await.is_empty());
}

/// Archived wins over whatever presence the host had.
pub async fn hosts_are_filtered_by_status(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let hosts = ["pending", "online", "archived"].map(sample::host);
    for host in &hosts {
        sample::create(&store, host).await;
    }
    store.touch(hosts[1..].iter().map(|host| sample::contact(host, at(3))).collect()).await.unwrap();
    sample::commit(&store, sample::write(Revision::FIRST, &hosts[2].clone().archive(at(5)))).await;
    for (status, expected) in [
        (None, &["pending", "online", "archived"][..]),
        (Some(Status::Pending), &["pending"]),
        (Some(Status::Online), &["online"]),
        (Some(Status::Archived), &["archived"]),
        (Some(Status::Unreachable), &[]),
    ] {
        assert_eq!(names(&store, HostQuery { status, ..HostQuery::new(Scope::All, 10) }).await, expected);
    }
}

/// Each alone, and together.
pub async fn hosts_are_filtered_by_tag_kind_and_tenant(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let tag = |name: &str| Tag::new(name).unwrap();
    let tagged = Host { tags: [tag("gpu"), tag("eu")].into(), ..sample::host("tagged") };
    let managed = Host { kind: HostKind::Managed, tags: [tag("gpu")].into(), ..sample::host("managed") };
    let other = Host { tenant_id: sample::tenant("other"), tags: [tag("gp")].into(), ..sample::host("other") };
    for host in [&tagged, &managed, &other] {
        sample::create(&store, host).await;
    }
    let all = || HostQuery::new(Scope::All, 10);
    let gpu = || HostQuery { tag: Some(tag("gpu")), ..all() };
    assert_eq!(names(&store, gpu()).await, ["tagged", "managed"]);
    assert_eq!(names(&store, HostQuery { tag: Some(tag("gp")), ..all() }).await, ["other"]);
    assert_eq!(names(&store, HostQuery { kind: Some(HostKind::Managed), ..all() }).await, ["managed"]);
    assert_eq!(names(&store, HostQuery { tenant_id: Some(other.tenant_id.clone()), ..all() }).await, ["other"]);
    assert_eq!(names(&store, HostQuery { kind: Some(HostKind::Byoc), ..gpu() }).await, ["tagged"]);
}

/// No wildcard, no folding of case, and characters stay whole.
pub async fn a_name_prefix_is_taken_to_the_byte(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for name in ["web-1", "web-2", "Web-3", "we", "web_1", "w%b", "主机一", "主机二", "主", "z\u{10FFFF}b"] {
        sample::create(&store, &sample::host(name)).await;
    }
    let with = |prefix: &str| {
        names(&store, HostQuery { name_prefix: Some(prefix.to_owned()), ..HostQuery::new(Scope::All, 50) })
    };
    assert_eq!(with("web-").await, ["web-1", "web-2"]);
    assert_eq!(with("web_").await, ["web_1"]);
    assert_eq!(with("w%").await, ["w%b"]);
    assert_eq!(with("W").await, ["Web-3"]);
    assert_eq!(with("主机").await, ["主机一", "主机二"]);
    assert_eq!(with("z\u{10FFFF}").await, ["z\u{10FFFF}b"]);
    assert_eq!(with("*").await, [""; 0]);
    assert_eq!(with("").await.len(), 10);
}

async fn walk_tokens(store: &impl Store, query: AgentTokenQuery) -> Vec<AgentToken> {
    let records = sample::walk(|last: Option<&AgentTokenRecord>| {
        let query = AgentTokenQuery { after: last.map(|record| record.token.id), ..query.clone() };
        async move { store.list_agent_tokens(&query).await.unwrap() }
    })
    .await;
    records.into_iter().map(|record| record.token).collect()
}

/// Spent and refused ones included.
pub async fn pages_of_tokens_miss_and_repeat_nothing(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (sample::host("a"), sample::host("b"));
    let agent_tokens: Vec<_> = (0..5)
        .map(|n| {
            let token = sample::agent_token(&host);
            if n % 2 == 0 { token } else { token.revoke(RevokeReason::CutOff, at(4)).unwrap() }
        })
        .collect();
    let install_tokens: Vec<_> = (0..5).map(|_| sample::install_token(&host).revoke(at(4)).unwrap()).collect();
    let write = HostWrite {
        agent_tokens: agent_tokens.clone(),
        install_tokens: install_tokens.clone(),
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    sample::commit(&store, write).await;
    let foreign = HostWrite {
        agent_tokens: vec![sample::agent_token(&other)],
        install_tokens: vec![sample::install_token(&other)],
        ..HostWrite::new(Expected::Absent, other.clone())
    };
    sample::commit(&store, foreign).await;
    for limit in [1, 2, 5, 6] {
        assert_eq!(walk_tokens(&store, AgentTokenQuery::new(host.id, limit)).await, agent_tokens);
        let seen = sample::walk(|last: Option<&InstallToken>| {
            let query = InstallTokenQuery { owner: host.id.into(), after: last.map(|token| token.id), limit };
            let store = &store;
            async move { store.list_install_tokens(&query).await.unwrap() }
        })
        .await;
        assert_eq!(seen, install_tokens);
    }
}

/// Those of the tenant's hosts, and of other tenants, are not among them; nor they among those of its hosts.
pub async fn a_tenants_install_tokens_are_listed_apart(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (sample::host("a"), Host { tenant_id: sample::tenant("other"), ..sample::host("b") });
    let of_host = sample::install_token(&host);
    let write = HostWrite { install_tokens: vec![of_host.clone()], ..HostWrite::new(Expected::Absent, host.clone()) };
    sample::commit(&store, write).await;
    let mut expected = (Vec::new(), Vec::new());
    for n in 0..5 {
        for (host, tokens) in [(&host, &mut expected.0), (&other, &mut expected.1)] {
            let issued = InstallToken { binding: Binding::Tenant, ..sample::install_token(host) };
            let token = if n % 2 == 0 { issued } else { issued.revoke(at(4)).unwrap() };
            let mint = Write::TenantInstallToken { expected: Expected::Absent, token: token.clone() };
            store.commit(Commit::of(mint, Vec::new())).await.unwrap();
            tokens.push(token);
        }
    }
    let walk = async |owner: InstallTokenOwner, limit| {
        sample::walk(|last: Option<&InstallToken>| {
            let query = InstallTokenQuery { owner: owner.clone(), after: last.map(|token| token.id), limit };
            let store = &store;
            async move { store.list_install_tokens(&query).await.unwrap() }
        })
        .await
    };
    for limit in [1, 2, 5, 6] {
        assert_eq!(walk(host.tenant_id.clone().into(), limit).await, expected.0);
        assert_eq!(walk(other.tenant_id.clone().into(), limit).await, expected.1);
    }
    assert_eq!(walk(host.id.into(), 5).await, [of_host]);
    assert_eq!(walk(sample::tenant("nobody").into(), 5).await, []);
}

/// Of that host, in the order of their ids, and as many a page as asked for, whatever stands between them.
pub async fn agent_tokens_are_listed_by_lineage(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (sample::host("a"), sample::host("b"));
    let (first, second) = (sample::agent_token(&host), sample::agent_token(&host));
    let successor = |head: &AgentToken| AgentToken { lineage_id: head.lineage_id, ..sample::agent_token(&host) };
    let ended = |token: AgentToken| token.revoke(RevokeReason::CutOff, at(4)).unwrap();
    let lineages = [
        vec![ended(first.clone()), ended(successor(&first)), ended(successor(&first)), successor(&first)],
        vec![ended(second.clone()), successor(&second)],
    ];
    // Made by turns, so that neither stands in one piece.
    assert!(lineages[0][0].id < lineages[1][0].id && lineages[1][0].id < lineages[0][1].id);
    sample::create_with_tokens(&store, &host, lineages.concat()).await;
    let foreign = sample::agent_token(&other);
    sample::create_with_tokens(&store, &other, vec![foreign.clone()]).await;
    let of =
        |lineage_id, limit| AgentTokenQuery { lineage_id: Some(lineage_id), ..AgentTokenQuery::new(host.id, limit) };
    for limit in [1, 2, 3, 4, 5] {
        for tokens in &lineages {
            assert_eq!(walk_tokens(&store, of(tokens[0].lineage_id, limit)).await, *tokens);
        }
    }
    for lineage_id in [foreign.lineage_id, sample::agent_token(&host).lineage_id] {
        let nothing = Page { items: Vec::new(), more: false };
        assert_eq!(store.list_agent_tokens(&of(lineage_id, 1)).await.unwrap(), nothing);
    }
}
