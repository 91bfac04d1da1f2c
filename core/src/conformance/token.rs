//! Tokens within commits: whose they are, what they keep, and how many there may be.

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin, RevokeReason, TokenName};
use crate::host::Host;
use crate::install_token::{Binding, InstallToken};
use crate::store::{
    Aggregate, Commit, Expected, HostWrite, Key, Presented, Revision, Store, StoreErrorKind, TenantInstallToken, Write,
};

/// Also when the token that had it can no longer act.
pub async fn a_hash_is_accepted_once_over_all_hosts_and_for_ever(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (a, b) = (sample::host("a"), sample::host("b"));
    let mut token = sample::agent_token(&a);
    sample::create_with_tokens(&store, &a, vec![token.clone()]).await;
    sample::create(&store, &b).await;
    let reuse = |host: &Host| HostWrite {
        agent_tokens: vec![AgentToken { hash: token.hash, ..sample::agent_token(host) }],
        ..sample::write(Revision::FIRST, host)
    };
    assert_eq!(sample::refused(&store, Commit::of(reuse(&b), Vec::new())).await, StoreErrorKind::HashSeen);
    assert_eq!(sample::refused(&store, Commit::of(reuse(&a), Vec::new())).await, StoreErrorKind::HashSeen);
    let write = reuse(&b);
    token = token.revoke(RevokeReason::Administrator, at(9)).unwrap();
    sample::commit(&store, HostWrite { agent_tokens: vec![token], ..sample::write(Revision::FIRST, &a) }).await;
    assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::HashSeen);
}

/// Install tokens are looked up by hash as well, those of a tenant and those of hosts in one place.
pub async fn an_install_tokens_hash_is_accepted_once(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (a, b) = (sample::host("a"), sample::host("b"));
    let of_host = sample::install_token(&a);
    let of_tenant = InstallToken { binding: Binding::Tenant, ..sample::install_token(&a) };
    let write = HostWrite { install_tokens: vec![of_host.clone()], ..HostWrite::new(Expected::Absent, a.clone()) };
    sample::commit(&store, write).await;
    let mint = |token| Commit::of(Write::TenantInstallToken { expected: Expected::Absent, token }, Vec::new());
    store.commit(mint(of_tenant.clone())).await.unwrap();
    for hash in [of_host.hash, of_tenant.hash] {
        let token = InstallToken { hash, ..sample::install_token(&b) };
        let write = HostWrite { install_tokens: vec![token], ..HostWrite::new(Expected::Absent, b.clone()) };
        assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::HashSeen);
        let token = InstallToken { hash, binding: Binding::Tenant, ..sample::install_token(&b) };
        assert_eq!(sample::refused(&store, mint(token)).await, StoreErrorKind::HashSeen);
    }
    assert_eq!(store.load(&Key::Host(b.id)).await.unwrap(), None);
    let loaded = store.load(&Key::InstallToken(of_tenant.hash)).await.unwrap();
    assert!(matches!(loaded, Some(Aggregate::TenantInstallToken(found)) if found.token == of_tenant));
}

/// Two tokens of one lineage in the same live state, one stored and one new.
async fn two_of_a_lineage(fixture: &impl Fixture, state: AgentTokenState) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let first = AgentToken { state, ..sample::agent_token(&host) };
    let second = AgentToken {
        state,
        lineage_id: first.lineage_id,
        origin: Origin::Proposed { predecessor: first.id },
        ..sample::agent_token(&host)
    };
    sample::create_with_tokens(&store, &host, vec![first.clone()]).await;
    let write = HostWrite { agent_tokens: vec![second.clone()], ..sample::write(Revision::FIRST, &host) };
    assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::Invalid);
    assert_eq!(sample::load(&store, host.id).await.agent_tokens, [first]);
    // Another lineage may.
    let other = AgentToken { lineage_id: sample::agent_token(&host).lineage_id, ..second };
    sample::commit(&store, HostWrite { agent_tokens: vec![other], ..sample::write(Revision::FIRST, &host) }).await;
}

/// The schema itself refuses what core never asks for.
pub async fn two_active_tokens_of_a_lineage_are_refused(fixture: &impl Fixture) {
    two_of_a_lineage(fixture, AgentTokenState::Active { since: at(3) }).await;
}

/// The schema itself refuses what core never asks for.
pub async fn two_pending_tokens_of_a_lineage_are_refused(fixture: &impl Fixture) {
    two_of_a_lineage(fixture, AgentTokenState::Pending).await;
}

/// The schema itself refuses what core never asks for.
pub async fn two_issued_install_tokens_of_a_host_are_refused(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let tokens = vec![sample::install_token(&host), sample::install_token(&host)];
    let write = HostWrite { install_tokens: tokens, ..HostWrite::new(Expected::Absent, host.clone()) };
    assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::Invalid);
    assert_eq!(store.load(&Key::Host(host.id)).await.unwrap(), None);
}

/// A token belongs to the aggregate that it is written with.
pub async fn a_token_of_another_aggregate_is_refused(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, other) = (sample::host("a"), sample::host("b"));
    sample::create(&store, &host).await;
    sample::create(&store, &other).await;
    let revoked = sample::agent_token(&other).revoke(RevokeReason::CutOff, at(2)).unwrap();
    let writes: [Write; 4] = [
        HostWrite { agent_tokens: vec![sample::agent_token(&other)], ..sample::write(Revision::FIRST, &host) }.into(),
        HostWrite { agent_tokens: vec![revoked], ..sample::write(Revision::FIRST, &host) }.into(),
        HostWrite { install_tokens: vec![sample::install_token(&other)], ..sample::write(Revision::FIRST, &host) }
            .into(),
        Write::TenantInstallToken { expected: Expected::Absent, token: sample::install_token(&host) },
    ];
    for write in writes {
        assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::Invalid);
    }
    assert_eq!(sample::load(&store, host.id).await.revision, Revision::FIRST);
}

/// A host with a token of each kind, and a tenant's install token.
async fn with_tokens(store: &impl Store) -> (Host, AgentToken, InstallToken, InstallToken) {
    let host = sample::host(&sample::hash().to_hex());
    let (agent, install) = (sample::agent_token(&host), sample::install_token(&host));
    let write = HostWrite {
        agent_tokens: vec![agent.clone()],
        install_tokens: vec![install.clone()],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    let of_tenant = InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) };
    let mint = Write::TenantInstallToken { expected: Expected::Absent, token: of_tenant.clone() };
    store.commit(Commit { writes: vec![write.into(), mint], events: Vec::new() }).await.unwrap();
    (host, agent, install, of_tenant)
}

/// That a refused commit has left what `with_tokens` made as it was.
async fn assert_unchanged(
    store: &impl Store,
    (host, agent, install, of_tenant): (Host, AgentToken, InstallToken, InstallToken),
) {
    let loaded = sample::load(store, host.id).await;
    assert_eq!((loaded.revision, loaded.agent_tokens), (Revision::FIRST, vec![agent.clone()]));
    assert_eq!(loaded.install_token, Some(install));
    let by_hash = store.load(&Key::AgentToken(agent.hash)).await.unwrap();
    assert!(matches!(by_hash, Some(Aggregate::Host(found)) if found.host.id == host.id));
    let unchanged = TenantInstallToken { revision: Revision::FIRST, token: of_tenant };
    let loaded = store.load(&Key::InstallToken(unchanged.token.hash)).await.unwrap();
    assert_eq!(loaded, Some(Aggregate::TenantInstallToken(Box::new(unchanged))));
}

/// Its id cannot be written with another, whatever hash it brings along.
pub async fn a_token_stays_with_its_aggregate(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let tokens = with_tokens(&store).await;
    let (_, agent, install, of_tenant) = &tokens;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let agents = [agent.hash, sample::hash()].map(|hash| HostWrite {
        agent_tokens: vec![AgentToken { hash, host_id: host.id, ..agent.clone() }],
        ..sample::write(Revision::FIRST, &host)
    });
    let installs =
        [(install, install.hash), (install, sample::hash()), (of_tenant, of_tenant.hash)].map(|(token, hash)| {
            HostWrite {
                install_tokens: vec![InstallToken { hash, binding: Binding::Host(host.id), ..token.clone() }],
                ..sample::write(Revision::FIRST, &host)
            }
        });
    for write in agents.into_iter().chain(installs) {
        let commit = Commit::of(write, vec![sample::event(&host)]);
        assert_eq!(sample::refused(&store, commit).await, StoreErrorKind::Invalid);
    }
    // Nor with two that are new.
    let (first, second) = (sample::host("first"), sample::host("second"));
    let token = sample::agent_token(&first);
    let create = |host: &Host, token: AgentToken| {
        let token = AgentToken { host_id: host.id, ..token };
        Write::from(HostWrite { agent_tokens: vec![token], ..HostWrite::new(Expected::Absent, host.clone()) })
    };
    let other_hash = AgentToken { hash: sample::hash(), ..token.clone() };
    let writes = vec![create(&first, token), create(&second, other_hash)];
    let refused = sample::refused(&store, Commit { writes, events: Vec::new() }).await;
    assert_eq!(refused, StoreErrorKind::Invalid);
    assert_eq!(store.load(&Key::Host(first.id)).await.unwrap(), None);

    let untouched = sample::load(&store, host.id).await;
    assert_eq!((untouched.revision, untouched.agent_tokens, untouched.install_token), (Revision::FIRST, vec![], None));
    assert_unchanged(&store, tokens).await;
}

/// What an agent holds is one token for as long as it lives: another secret is another token.
pub async fn a_token_keeps_its_hash(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let tokens = with_tokens(&store).await;
    let (host, agent, install, of_tenant) = &tokens;
    let hash = sample::hash();
    let write = || sample::write(Revision::FIRST, host);
    let install = InstallToken { hash, ..install.clone() };
    let token = InstallToken { hash, ..of_tenant.clone() };
    let writes: [Write; 3] = [
        HostWrite { agent_tokens: vec![AgentToken { hash, ..agent.clone() }], ..write() }.into(),
        HostWrite { install_tokens: vec![install], ..write() }.into(),
        Write::TenantInstallToken { expected: Expected::Revision(Revision::FIRST), token },
    ];
    for write in writes {
        assert_eq!(sample::refused(&store, Commit::of(write, Vec::new())).await, StoreErrorKind::Invalid);
    }
    for key in [Key::AgentToken(hash), Key::InstallToken(hash)] {
        assert_eq!(store.load(&key).await.unwrap(), None);
    }
    assert_unchanged(&store, tokens).await;
}

/// A host with an Active token and its Pending successor.
async fn with_successor(store: &impl Store) -> (Host, AgentToken, AgentToken) {
    let host = sample::host(&sample::hash().to_hex());
    let active = AgentToken { state: AgentTokenState::Active { since: at(2) }, ..sample::agent_token(&host) };
    let pending = successor(&host, &active);
    sample::create_with_tokens(store, &host, vec![active.clone(), pending.clone()]).await;
    (host, active, pending)
}

fn successor(host: &Host, of: &AgentToken) -> AgentToken {
    let origin = Origin::Proposed { predecessor: of.id };
    AgentToken { lineage_id: of.lineage_id, origin, ..sample::agent_token(host) }
}

/// Writes tokens of a host that `with_successor` made; `tokens` is how its lineage stands then, in the order of ids.
async fn assert_taken(store: &impl Store, host: &Host, written: Vec<AgentToken>, tokens: &[AgentToken]) {
    sample::commit(store, HostWrite { agent_tokens: written, ..sample::write(Revision::FIRST, host) }).await;
    let live: Vec<_> = tokens.iter().filter(|token| token.is_live()).cloned().collect();
    assert_eq!(sample::load(store, host.id).await.agent_tokens, live);
    assert_eq!(sample::agent_tokens(store, host.id).await, tokens);
}

/// Promotion: the predecessor ends and the successor begins, with its expiry, whichever stands first in the commit.
pub async fn a_token_takes_anothers_place_in_one_commit(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for successor_first in [true, false] {
        let (host, old, new) = with_successor(&store).await;
        let state = AgentTokenState::Active { since: at(4) };
        let new = AgentToken { state, expires_at: Some(at(9_000)), ..new };
        let old = old.retire(&new, at(4)).unwrap();
        let tokens = [old, new];
        let written = if successor_first { tokens.iter().rev().cloned().collect() } else { tokens.to_vec() };
        assert_taken(&store, &host, written, &tokens).await;
    }
}

/// The Active one stays; of the Pending ones one is Displaced and another begins, whichever stands first.
pub async fn a_pending_token_yields_to_another_in_one_commit(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for successor_first in [true, false] {
        let (host, active, old) = with_successor(&store).await;
        let new = successor(&host, &active);
        let old = old.displace(new.id, at(4)).unwrap();
        let written = if successor_first { vec![new.clone(), old.clone()] } else { vec![old.clone(), new.clone()] };
        assert_taken(&store, &host, written, &[active, old, new]).await;
    }
}

/// A rotation without overlap: both live tokens are Revoked and another begins, wherever it stands.
pub async fn a_lineage_begins_anew_in_one_commit(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for place in 0..3 {
        let (host, active, pending) = with_successor(&store).await;
        let new = successor(&host, &active);
        let [active, pending] = [active, pending].map(|token| token.revoke(RevokeReason::CutOff, at(4)).unwrap());
        let mut written = vec![active.clone(), pending.clone()];
        written.insert(place, new.clone());
        assert_taken(&store, &host, written, &[active, pending, new]).await;
    }
}

/// What is not there any more goes, and what was not there comes; the token beside it stays as it is.
pub async fn a_token_is_overwritten_whole(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let (bare, beside) = (sample::agent_token(&host), sample::agent_token(&host));
    sample::create_with_tokens(&store, &host, vec![bare.clone(), beside.clone()]).await;
    let full = AgentToken {
        lineage_id: sample::agent_token(&host).lineage_id,
        kind: CredentialKind::Refresh,
        name: Some(TokenName::new("one").unwrap()),
        origin: Origin::Rotated { predecessor: beside.id, by: sample::actor() },
        state: AgentTokenState::Active { since: at(3) },
        created_at: at(2),
        expires_at: Some(at(9_000)),
        ..bare.clone()
    };
    let name = Some(TokenName::new("another").unwrap());
    let changed = AgentToken { name, expires_at: Some(at(8_000)), ..full.clone() };
    let state = AgentTokenState::Revoked { at: at(5), reason: RevokeReason::Administrator };
    let ended = AgentToken { state, ..bare };
    for token in [full, changed, ended] {
        let write = sample::write(sample::load(&store, host.id).await.revision, &host);
        sample::commit(&store, HostWrite { agent_tokens: vec![token.clone()], ..write }).await;
        assert_eq!(sample::agent_tokens(&store, host.id).await, [token.clone(), beside.clone()]);
        match store.load(&Key::AgentTokenId(token.id)).await.unwrap() {
            Some(Aggregate::Host(aggregate)) => assert_eq!(aggregate.presented, Presented::AgentToken(token)),
            other => panic!("a host was expected, not {other:?}"),
        }
    }
}
