//! Install tokens that are bound to a tenant: what they make, what they find, and what they leave alone.

use std::time::Duration;

use enlist_core::agent_token::{CredentialKind, Refusal};
use enlist_core::conformance::sample;
use enlist_core::event::EventBody;
use enlist_core::fleet::{AdminError, EnrolError, TokenFilter};
use enlist_core::host::{ExternalId, HostKind, HostName, Status};
use enlist_core::install_token::InstallTokenStatus;
use enlist_core::policy::{Actor, Role};
use enlist_core::secret::IdempotencyKey;
use enlist_core::store::{Aggregate, Commit, Key, Write};
use enlist_core::wire::{
    CreateHost, EventReply, ExchangeReply, ExchangeRequest, HostBody, MintInstallToken, MintedInstallToken, Problem,
    ProposedHost,
};
use enlist_core::{HostId, PlainToken, TokenHash};

use crate::world::{World, agent_token, exchange};

fn proposed(name: Option<&str>, external_id: Option<&str>) -> ProposedHost {
    ProposedHost {
        name: name.map(|name| HostName::new(name).unwrap()),
        external_id: external_id.map(|id| ExternalId::new(id).unwrap()),
    }
}

fn request(token: &PlainToken, claim: Option<TokenHash>, host: ProposedHost) -> ExchangeRequest {
    let mut request = exchange(token.expose(), claim);
    request.host = Some(host);
    request
}

impl World {
    async fn mint(&self) -> MintedInstallToken {
        let admin = self.fleet.admin(&self.root);
        admin.mint_tenant_install_token(sample::tenant("acme"), MintInstallToken::default()).await.unwrap()
    }

    /// An exchange with a new claim.
    async fn join(&self, token: &PlainToken, host: ProposedHost) -> Result<ExchangeReply, EnrolError> {
        self.fleet.enrol(request(token, Some(sample::hash()), host), None).await
    }

    async fn hosts(&self) -> Vec<HostBody> {
        self.fleet.admin(&self.root).list_hosts(Default::default()).await.unwrap().items
    }

    async fn status(&self, token: &MintedInstallToken) -> InstallTokenStatus {
        let admin = self.fleet.admin(&self.root);
        let page = admin.list_tenant_install_tokens(sample::tenant("acme"), TokenFilter::default()).await.unwrap();
        page.items.into_iter().find(|row| row.id == token.id).expect("it is listed").status
    }

    async fn revoke_all(&self, host_id: HostId) {
        self.fleet.admin(&self.root).revoke_agent_tokens(host_id).await.unwrap();
    }

    /// No verb deletes a host yet.
    async fn delete(&self, host_id: HostId) {
        let Some(Aggregate::Host(host)) = self.store.load(&Key::Host(host_id)).await.unwrap() else { panic!("it is") };
        let write = Write::HostDeletion { expected: host.revision, host_id, at: sample::at(9) };
        self.store.commit(Commit::of(write, Vec::new())).await.unwrap();
    }
}

fn code(error: EnrolError) -> String {
    Problem::from(error).code.to_string()
}

#[tokio::test]
async fn an_exchange_makes_a_host_that_the_tenant_brings() {
    let world = World::new();
    let minted = world.mint().await;
    let token = agent_token();
    let reply = world
        .fleet
        .enrol(request(&minted.token, Some(token.hash()), proposed(Some("web-1"), Some("i-1"))), None)
        .await
        .unwrap();
    let [host] = world.hosts().await.try_into().expect("one");
    assert_eq!((host.id, &host.tenant_id, host.kind), (reply.host_id, &reply.tenant_id, HostKind::Byoc));
    assert_eq!((host.name.as_str(), host.external_id), ("web-1", ExternalId::new("i-1").ok()));
    assert_eq!((host.status, host.enrolled_at, host.revision), (Status::Pending, Some(sample::at(0)), 1));
    assert_eq!(world.status(&minted).await, InstallTokenStatus::Consumed);
    assert_eq!(world.serve(&token).await, "ok");
    // Who made the token made the host, by way of it.
    let [_, created, enrolled, _] = <[EventReply; 4]>::try_from(world.events().await).expect("four");
    assert_eq!((created.host_id, created.actor), (Some(host.id), Some(world.root.id.clone())));
    assert!(matches!(created.body, EventBody::HostCreated { install_token_id: Some(id), .. } if id == minted.id));
    assert_eq!((enrolled.host_id, enrolled.actor), (Some(host.id), None));
    assert!(matches!(enrolled.body, EventBody::HostEnrolled { install_token_id, .. } if install_token_id == minted.id));
}

#[tokio::test]
async fn a_host_that_nobody_named_gets_a_name_of_its_own() {
    let world = World::new();
    for host in [None, Some(ProposedHost::default())] {
        let minted = world.mint().await;
        let mut request = exchange(minted.token.expose(), Some(sample::hash()));
        request.host = host;
        world.fleet.enrol(request, None).await.unwrap();
    }
    let hosts = world.hosts().await;
    assert_ne!(hosts[0].name, hosts[1].name);
    for host in hosts {
        let end = &host.id.to_string()[24..];
        assert_eq!((host.name.as_str(), host.external_id), (format!("host-{end}").as_str(), None));
    }
}

#[tokio::test]
async fn the_same_claim_is_answered_again_whatever_it_proposes_then() {
    let world = World::new();
    let minted = world.mint().await;
    let claim = Some(sample::hash());
    let first = world.fleet.enrol(request(&minted.token, claim, proposed(Some("a"), Some("i-1"))), None).await.unwrap();
    let events = world.events().await;
    for host in [proposed(Some("a"), Some("i-1")), proposed(Some("b"), None), ProposedHost::default()] {
        world.clock.advance(Duration::from_secs(3600));
        let again = world.fleet.enrol(request(&minted.token, claim, host), None).await.unwrap();
        assert_eq!((again.host_id, again.agent_token.id), (first.host_id, first.agent_token.id));
    }
    assert_eq!(world.events().await, events);
    assert_eq!(world.hosts().await.len(), 1);
}

#[tokio::test]
async fn another_claim_makes_no_second_host_and_raises_the_alarm_at_the_first() {
    let world = World::new();
    let minted = world.mint().await;
    let host_id = world.join(&minted.token, proposed(Some("a"), None)).await.unwrap().host_id;
    let error = world.join(&minted.token, proposed(Some("b"), None)).await.unwrap_err();
    assert_eq!(code(error), "install_token_already_used");
    assert_eq!(world.hosts().await.len(), 1);
    let events = world.events().await;
    let alarm = events.last().unwrap();
    assert!(matches!(alarm.body, EventBody::EnrolmentContested { attempts: 1, .. }));
    assert_eq!(alarm.host_id, Some(host_id));
}

#[tokio::test]
async fn a_server_made_exchange_is_repeated_with_its_key_and_makes_one_host() {
    let world = World::new();
    let minted = world.mint().await;
    let attempt = || {
        let mut request = exchange(minted.token.expose(), None);
        request.idempotency_key = IdempotencyKey::parse(b"0123456789abcdefghijklmn").ok();
        world.fleet.enrol(request, None)
    };
    let first = attempt().await.unwrap();
    let again = attempt().await.unwrap();
    assert_eq!((first.host_id, first.agent_token.id), (again.host_id, again.agent_token.id));
    let secret = again.agent_token.token.expect("the server drew it");
    assert_eq!(first.agent_token.token.expect("the server drew it").hash(), secret.hash());
    assert_eq!(world.hosts().await.len(), 1);
    // Once it is used, or its host is gone, the key is the same client's, late.
    assert_eq!(world.serve(&secret).await, "ok");
    assert_eq!(code(attempt().await.unwrap_err()), "install_token_already_used");
    world.delete(first.host_id).await;
    assert_eq!(code(attempt().await.unwrap_err()), "install_token_already_used");
    assert_eq!(world.count("enrolment.contested").await, 0);
}

#[tokio::test]
async fn the_token_fixes_the_kind_of_the_credential() {
    let world = World::new();
    let request = MintInstallToken { credential_kind: Some(CredentialKind::Refresh), expires_at: None };
    let admin = world.fleet.admin(&world.root);
    let minted = admin.mint_tenant_install_token(sample::tenant("acme"), request).await.unwrap();
    let reply = world.exchange(&minted.token, None).await.unwrap();
    assert_eq!(reply.agent_token.kind, CredentialKind::Refresh);
    assert!(reply.agent_token.token.expect("the server drew it").expose().starts_with("ert_"));
}

#[tokio::test]
async fn a_name_that_is_taken_consumes_nothing_and_tells_nothing_of_whose_it_is() {
    let world = World::new();
    world.create("web-1").await;
    let minted = world.mint().await;
    let events = world.events().await;
    let problem = Problem::from(world.join(&minted.token, proposed(Some("web-1"), None)).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (409, "name_taken"));
    assert_eq!((problem.field.as_deref(), problem.host_id), (Some("/host/name"), None));
    assert_eq!((world.events().await, world.status(&minted).await), (events, InstallTokenStatus::Issued));
    world.join(&minted.token, proposed(Some("web-2"), None)).await.unwrap();
}

#[tokio::test]
async fn an_external_id_finds_no_host_that_an_administrator_created() {
    let world = World::new();
    let create = CreateHost {
        external_id: ExternalId::new("i-1").ok(),
        mint_install_token: false,
        ..CreateHost::new(HostName::new("web-1").unwrap(), HostKind::Byoc)
    };
    let host = world.fleet.admin(&world.root).create_host(create).await.unwrap().host;
    let minted = world.mint().await;
    let events = world.events().await;
    let problem = Problem::from(world.join(&minted.token, proposed(None, Some("i-1"))).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (409, "external_id_taken"));
    assert_eq!((problem.field.as_deref(), problem.host_id), (Some("/host/external_id"), None));
    assert_eq!((world.events().await, world.hosts().await), (events, vec![host]));
    assert_eq!(world.status(&minted).await, InstallTokenStatus::Issued);
}

#[tokio::test]
async fn an_external_id_takes_over_no_host_that_holds_a_credential() {
    let world = World::new();
    let token = agent_token();
    let first = world.mint().await;
    let machine = || proposed(Some("web-1"), Some("i-1"));
    let host_id = world.fleet.enrol(request(&first.token, Some(token.hash()), machine()), None).await.unwrap().host_id;
    let second = world.mint().await;
    // Pending, Active, and with a token that was issued by hand.
    assert_eq!(code(world.join(&second.token, machine()).await.unwrap_err()), "external_id_taken");
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(code(world.join(&second.token, machine()).await.unwrap_err()), "external_id_taken");
    assert_eq!(world.serve(&token).await, "ok");
    world.revoke_all(host_id).await;
    let by_hand = world.fleet.admin(&world.root).issue_agent_token(host_id, Default::default()).await.unwrap();
    assert_eq!(code(world.join(&second.token, machine()).await.unwrap_err()), "external_id_taken");
    assert_eq!(world.serve(&by_hand.token).await, "ok");
    assert_eq!(world.status(&second).await, InstallTokenStatus::Issued);
}

#[tokio::test]
async fn a_host_that_lost_its_credential_is_found_by_its_external_id_and_enrolled_anew() {
    let world = World::new();
    let (first, second) = (world.mint().await, world.mint().await);
    let (lost, new) = (agent_token(), agent_token());
    let join = |token, claim, host| world.fleet.enrol(request(token, Some(claim), host), None);
    let made = join(&first.token, lost.hash(), proposed(Some("web-1"), Some("i-1"))).await.unwrap();
    world.revoke_all(made.host_id).await;
    let events = world.events().await.len();
    // What else it proposes is for hosts that are made.
    let found = join(&second.token, new.hash(), proposed(Some("web-2"), Some("i-1"))).await.unwrap();
    assert_eq!(found.host_id, made.host_id);
    let [host] = world.hosts().await.try_into().expect("still one");
    assert_eq!(host.name.as_str(), "web-1");
    let types = world.event_types().await;
    assert_eq!(types[events..], ["host.enrolled"]);
    assert_eq!((world.serve(&new).await.as_str(), world.serve(&lost).await.as_str()), ("ok", "token_revoked"));
    // Each token answers for what it bought.
    let error = join(&first.token, lost.hash(), ProposedHost::default()).await.unwrap_err();
    assert!(matches!(error, EnrolError::Refused(id, Refusal::Revoked) if id == made.agent_token.id));
    let again = join(&second.token, new.hash(), ProposedHost::default()).await.unwrap();
    assert_eq!(again.agent_token.id, found.agent_token.id);
}

#[tokio::test]
async fn an_archived_host_stays_so_and_says_so_to_its_own_claim() {
    let world = World::new();
    let (first, second) = (world.mint().await, world.mint().await);
    let claim = Some(sample::hash());
    let machine = || proposed(Some("web-1"), Some("i-1"));
    let made = world.fleet.enrol(request(&first.token, claim, machine()), None).await.unwrap();
    world.fleet.admin(&world.root).archive_host(made.host_id).await.unwrap();
    assert_eq!(
        code(world.fleet.enrol(request(&first.token, claim, machine()), None).await.unwrap_err()),
        "host_archived"
    );
    // Its external id names the machine for ever; its name is free.
    assert_eq!(code(world.join(&second.token, machine()).await.unwrap_err()), "external_id_taken");
    let other = world.join(&second.token, proposed(Some("web-1"), None)).await.unwrap();
    assert_ne!(other.host_id, made.host_id);
}

#[tokio::test]
async fn a_deleted_host_is_told_to_its_own_claim_and_to_nobody_else() {
    let world = World::new();
    let (first, second) = (world.mint().await, world.mint().await);
    let claim = Some(sample::hash());
    let machine = || proposed(Some("web-1"), Some("i-1"));
    let made = world.fleet.enrol(request(&first.token, claim, machine()), None).await.unwrap();
    world.delete(made.host_id).await;
    let problem = Problem::from(world.fleet.enrol(request(&first.token, claim, machine()), None).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (410, "host_deleted"));
    assert_eq!((problem.host_id, problem.token_id), (Some(made.host_id), Some(made.agent_token.id)));
    // Anybody else is told, in the tenant's events, to hold a used token.
    assert_eq!(code(world.join(&first.token, machine()).await.unwrap_err()), "install_token_already_used");
    let events = world.events().await;
    let alarm = events.last().unwrap();
    assert!(matches!(alarm.body, EventBody::EnrolmentContested { .. }));
    assert_eq!((alarm.host_id, &alarm.tenant_id), (None, &sample::tenant("acme")));
    // Nothing is left in the way of another token.
    let anew = world.join(&second.token, machine()).await.unwrap();
    assert_ne!(anew.host_id, made.host_id);
}

#[tokio::test]
async fn a_token_that_was_revoked_or_has_expired_makes_nothing() {
    let world = World::new();
    let (revoked, expired) = (world.mint().await, world.mint().await);
    world.fleet.admin(&world.root).revoke_install_token(revoked.id).await.unwrap();
    world.clock.advance(Duration::from_secs(15 * 60));
    for token in [&revoked.token, &expired.token] {
        assert!(matches!(world.join(token, ProposedHost::default()).await, Err(EnrolError::InvalidToken)));
    }
    assert!(world.hosts().await.is_empty());
    assert_eq!(world.status(&expired).await, InstallTokenStatus::Expired);
}

#[tokio::test]
async fn a_claim_that_was_ever_seen_makes_no_host() {
    let world = World::new();
    let (_, seen) = world.enrolled("a").await;
    let minted = world.mint().await;
    let events = world.events().await;
    let again = request(&minted.token, Some(seen.hash()), proposed(Some("b"), None));
    assert_eq!(code(world.fleet.enrol(again, None).await.unwrap_err()), "claim_in_use");
    assert_eq!((world.hosts().await.len(), world.events().await), (1, events));
    world.join(&minted.token, proposed(Some("b"), None)).await.unwrap();
}

#[tokio::test]
async fn with_a_hosts_own_token_the_proposal_is_not_looked_at() {
    let world = World::new();
    world.create("taken").await;
    let (host_id, install_token) = world.create("web-1").await;
    let reply = world.join(&install_token, proposed(Some("taken"), Some("i-1"))).await.unwrap();
    assert_eq!(reply.host_id, host_id);
    let host = world.fleet.admin(&world.root).host(host_id).await.unwrap();
    assert_eq!((host.name.as_str(), host.external_id), ("web-1", None));
}

#[tokio::test]
async fn names_and_external_ids_of_another_tenant_do_not_matter() {
    let world = World::new();
    let machine = || proposed(Some("web-1"), Some("i-1"));
    let here = world.join(&world.mint().await.token, machine()).await.unwrap();
    let admin = world.fleet.admin(&world.root);
    let there = admin.mint_tenant_install_token(sample::tenant("other"), Default::default()).await.unwrap();
    let there = world.join(&there.token, machine()).await.unwrap();
    assert_eq!((here.tenant_id, there.tenant_id), (sample::tenant("acme"), sample::tenant("other")));
    assert_ne!(here.host_id, there.host_id);
}

/// Else one good token would tell every name that the tenant has.
#[tokio::test]
async fn looking_around_with_a_good_token_is_limited() {
    let world = World::new();
    world.create("web-1").await;
    let minted = world.mint().await;
    for _ in 0..30 {
        assert_eq!(code(world.join(&minted.token, proposed(Some("web-1"), None)).await.unwrap_err()), "name_taken");
    }
    assert_eq!(code(world.join(&minted.token, proposed(Some("web-1"), None)).await.unwrap_err()), "rate_limited");
    world.join(&minted.token, ProposedHost::default()).await.expect("a good one gets in at any time");
}

#[tokio::test]
async fn owners_and_admins_of_the_tenant_mint_members_look_and_others_find_nothing() {
    let world = World::new();
    let acme = || sample::tenant("acme");
    let someone = |tenant: &str, role| Actor::member(sample::actor(), sample::tenant(tenant), role);
    let (mint, list) = (MintInstallToken::default, TokenFilter::default);
    for role in [Role::Admin, Role::Owner] {
        let actor = someone("acme", role);
        let admin = world.fleet.admin(&actor);
        let minted = admin.mint_tenant_install_token(acme(), mint()).await.unwrap();
        admin.revoke_install_token(minted.id).await.unwrap();
        admin.revoke_install_token(minted.id).await.expect("it is revoked already");
    }
    let minted = world.mint().await;
    let events = world.events().await;
    let actor = someone("acme", Role::Member);
    let member = world.fleet.admin(&actor);
    assert!(matches!(member.mint_tenant_install_token(acme(), mint()).await, Err(AdminError::Forbidden)));
    assert!(matches!(member.revoke_install_token(minted.id).await, Err(AdminError::Forbidden)));
    assert_eq!(member.list_tenant_install_tokens(acme(), list()).await.unwrap().items.len(), 3);
    let actor = someone("other", Role::Owner);
    let stranger = world.fleet.admin(&actor);
    assert!(matches!(stranger.mint_tenant_install_token(acme(), mint()).await, Err(AdminError::NotFound)));
    assert!(matches!(stranger.list_tenant_install_tokens(acme(), list()).await, Err(AdminError::NotFound)));
    assert!(matches!(stranger.revoke_install_token(minted.id).await, Err(AdminError::NotFound)));
    assert_eq!((world.events().await, world.status(&minted).await), (events, InstallTokenStatus::Issued));
    world.join(&minted.token, ProposedHost::default()).await.unwrap();
    let used = world.fleet.admin(&world.root).revoke_install_token(minted.id).await;
    assert!(matches!(used, Err(AdminError::InstallTokenUsed)));
}

#[tokio::test]
async fn tokens_of_a_tenant_are_listed_in_pages_apart_from_those_of_its_hosts() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let mut minted = Vec::new();
    for _ in 0..3 {
        world.clock.advance(Duration::from_millis(1));
        minted.push(world.mint().await.id);
    }
    let admin = world.fleet.admin(&world.root);
    let page = |cursor| TokenFilter { cursor, limit: Some(2) };
    let first = admin.list_tenant_install_tokens(sample::tenant("acme"), page(None)).await.unwrap();
    let second = admin.list_tenant_install_tokens(sample::tenant("acme"), page(first.next_cursor)).await.unwrap();
    let listed: Vec<_> = first.items.iter().chain(&second.items).map(|row| row.id).collect();
    assert_eq!((listed, second.next_cursor), (minted, None));
    assert_eq!(admin.list_install_tokens(host_id, TokenFilter::default()).await.unwrap().items.len(), 1);
    // They do not revoke each other, as those of a host do.
    assert_eq!(world.count("install_token.revoked").await, 0);
}
