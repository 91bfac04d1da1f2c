//! Refresh tokens, and the access tokens that they buy.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use enlist_core::access_token::{AccessToken, Issuer, SigningKey};
use enlist_core::agent_token::{CredentialKind, RETIRE_GRACE};
use enlist_core::fleet::{FleetBuilder, Limits, RefreshError, ReusePolicy};
use enlist_core::lineage::Overlap;
use enlist_core::secret::IdempotencyKey;
use enlist_core::wire::{
    AgentAction, IssueAgentToken, MintInstallToken, Problem, ProposeAgentToken, RefreshAccessToken, RefreshReply,
    RotateAgentToken,
};
use enlist_core::{HostId, MemoryStore, PlainToken, SystemEntropy};

use crate::watched::Watched;
use crate::world::{World, agent_token};

const LIFE: Duration = Duration::from_secs(600);

fn issuer(name: &str) -> Issuer {
    Issuer::builder(name, name, SigningKey::generate(&SystemEntropy)).life(LIFE).build().unwrap()
}

impl World {
    fn issuing() -> Self {
        Self::with(MemoryStore::new(), |builder| builder.access_tokens(issuer("enlist")))
    }

    /// A host whose credential is a refresh token that its agent drew.
    async fn refreshing(&self, name: &str) -> (HostId, PlainToken) {
        let (host_id, _) = self.create(name).await;
        let request = MintInstallToken { credential_kind: Some(CredentialKind::Refresh), expires_at: None };
        let minted = self.fleet.admin(&self.root).mint_install_token(host_id, request).await.unwrap();
        let token = agent_token();
        self.exchange(&minted.token, Some(token.hash())).await.unwrap();
        (host_id, token)
    }

    async fn buy(&self, token: &PlainToken, request: RefreshAccessToken) -> Result<RefreshReply, Problem> {
        self.fleet.refresh(token.expose(), &request, None).await.map_err(Problem::from)
    }

    async fn access(&self, token: &PlainToken) -> AccessToken {
        self.buy(token, RefreshAccessToken::default()).await.unwrap().access_token
    }

    /// What an access token is answered with: nothing, or code and action.
    async fn work(&self, token: &AccessToken) -> Option<(String, Option<AgentAction>)> {
        let error = self.fleet.authenticate(token.expose()).await.err()?;
        let problem = Problem::from(error);
        Some((problem.code.to_string(), problem.action))
    }
}

fn stale() -> Option<(String, Option<AgentAction>)> {
    Some(("token_revoked".to_owned(), Some(AgentAction::Refresh)))
}

#[tokio::test]
async fn a_refresh_token_buys_what_it_is_not_accepted_for_itself() {
    let world = World::issuing();
    let (host_id, token) = world.refreshing("a").await;
    let refused = Problem::from(world.fleet.authenticate(token.expose()).await.unwrap_err());
    assert_eq!(
        (refused.status, refused.code.as_str(), refused.action),
        (401, "invalid_token", Some(AgentAction::Refresh))
    );
    assert_eq!(world.fleet.identify(token.expose()).await.unwrap().host_id(), host_id, "it says who the host is");
    let reply = world.buy(&token, RefreshAccessToken::default()).await.unwrap();
    assert_eq!(reply.expires_at, world.fleet.now().saturating_add(LIFE));
    let identity = world.fleet.authenticate(reply.access_token.expose()).await.unwrap();
    assert_eq!((identity.host_id(), identity.kind()), (host_id, CredentialKind::Refresh));
    assert_eq!(identity.token_id(), world.fleet.identify(token.expose()).await.unwrap().token_id());
    world.clock.advance(LIFE - Duration::from_micros(1));
    assert_eq!(world.work(&reply.access_token).await, None);
    world.clock.advance(Duration::from_micros(1));
    assert_eq!(world.work(&reply.access_token).await, Some(("token_expired".into(), Some(AgentAction::Refresh))));
}

#[tokio::test]
async fn whatever_cuts_a_credential_off_ends_its_access_tokens_at_once() {
    for cut in ["revoke", "revoke all", "cut off", "enrol anew", "reuse", "archive"] {
        let world = World::with(MemoryStore::new(), |builder| {
            builder.access_tokens(issuer("enlist")).reuse_policy(ReusePolicy::RevokeLineage)
        });
        let (host_id, token) = world.refreshing("a").await;
        let retired = token;
        let token = agent_token();
        world.propose(&retired, &token).await.unwrap();
        world.fleet.identify(token.expose()).await.unwrap();
        world.clock.advance(2 * RETIRE_GRACE);
        let access = world.access(&token).await;
        assert_eq!(world.work(&access).await, None);
        let id = world.fleet.identify(token.expose()).await.unwrap().token_id();
        let admin = world.fleet.admin(&world.root);
        match cut {
            "revoke" => admin.revoke_agent_token(host_id, id).await.unwrap(),
            "revoke all" => drop(admin.revoke_agent_tokens(host_id).await.unwrap()),
            "cut off" => {
                drop(admin.rotate_agent_token(host_id, id, RotateAgentToken { overlap: Overlap::None }).await.unwrap());
            }
            "reuse" => assert!(world.fleet.identify(retired.expose()).await.is_err()),
            "enrol anew" => {
                let minted = admin.mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
                world.exchange(&minted.token, Some(agent_token().hash())).await.unwrap();
            }
            _ => drop(admin.archive_host(host_id).await.unwrap()),
        }
        let expected = match cut {
            "archive" => Some(("host_archived".to_owned(), Some(AgentAction::Stop))),
            _ => stale(),
        };
        assert_eq!(world.work(&access).await, expected, "{cut}");
    }
}

#[tokio::test]
async fn a_rotation_ends_no_access_token() {
    let world = World::issuing();
    let (_, token) = world.refreshing("a").await;
    let access = world.access(&token).await;
    let successor = agent_token();
    let request = RefreshAccessToken { claim: Some(successor.hash()), rotate: false };
    let reply = world.buy(&token, request).await.unwrap();
    assert!(reply.refresh_token.is_none());
    world.fleet.identify(successor.expose()).await.unwrap();
    for token in [&access, &reply.access_token, &world.access(&successor).await] {
        assert_eq!(world.work(token).await, None);
    }
    assert_eq!(world.buy(&token, RefreshAccessToken::default()).await.unwrap_err().code.as_str(), "token_superseded");
}

#[tokio::test]
async fn a_server_made_successor_comes_with_the_access_token_and_again_with_its_key() {
    let world = World::issuing();
    let (_, token) = world.refreshing("a").await;
    let request = RefreshAccessToken { claim: None, rotate: true };
    let key = IdempotencyKey::parse(b"0123456789abcdefghijklmn").unwrap();
    let first = world.fleet.refresh(token.expose(), &request, Some(&key)).await.unwrap();
    let again = world.fleet.refresh(token.expose(), &request, Some(&key)).await.unwrap();
    let successor = first.refresh_token.expect("server-made");
    assert_eq!(successor.expose(), again.refresh_token.expect("server-made").expose());
    assert!(successor.expose().starts_with("ert_"));
    assert_eq!(world.work(&world.access(&successor).await).await, None);
}

/// The same request, late, with a token that its proposal has retired meanwhile: no theft.
#[tokio::test]
async fn a_late_duplicate_of_a_rotating_refresh_raises_no_alarm() {
    let world = World::issuing();
    let (_, token) = world.refreshing("a").await;
    let successor = agent_token();
    let request = RefreshAccessToken { claim: Some(successor.hash()), rotate: false };
    world.buy(&token, request.clone()).await.unwrap();
    world.fleet.identify(successor.expose()).await.unwrap();
    world.clock.advance(2 * RETIRE_GRACE);
    assert_eq!(world.buy(&token, request).await.unwrap_err().code.as_str(), "token_superseded");
    assert_eq!(world.count("agent_token.reuse_detected").await, 0);
    assert_eq!(
        world.buy(&token, RefreshAccessToken::default()).await.unwrap_err().code.as_str(),
        "token_reuse_detected"
    );
    assert_eq!(world.count("agent_token.reuse_detected").await, 1);
}

#[tokio::test]
async fn only_refresh_tokens_buy_and_only_where_access_tokens_are_issued() {
    let world = World::issuing();
    let (host_id, bearer) = world.in_use("a").await;
    for request in [
        RefreshAccessToken::default(),
        RefreshAccessToken { claim: Some(agent_token().hash()), rotate: false },
        RefreshAccessToken { claim: None, rotate: true },
    ] {
        let refused = world.buy(&bearer, request).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (403, "forbidden"));
    }
    assert_eq!(world.count("agent_token.proposed").await, 0, "nothing was proposed along with a refusal");
    assert_eq!(world.serve(&bearer).await, "ok");
    world.fleet.admin(&world.root).issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap();
    assert!(world.fleet.jwks().is_some());

    let plain = World::new();
    let (_, token) = plain.refreshing("a").await;
    let error = plain.fleet.refresh(token.expose(), &RefreshAccessToken::default(), None).await.unwrap_err();
    assert!(matches!(error, RefreshError::Disabled));
    assert_eq!(plain.serve(&token).await, "ok", "there it is presented itself");
    assert!(plain.fleet.jwks().is_none());
}

#[tokio::test]
async fn tokens_of_others_are_refused() {
    let world = World::issuing();
    let (_, token) = world.refreshing("a").await;
    let other = World::issuing();
    let (_, theirs) = other.refreshing("a").await;
    let forged = other.access(&theirs).await;
    let refused = world.work(&forged).await.unwrap();
    assert_eq!(refused, ("invalid_token".to_owned(), Some(AgentAction::Refresh)));
    // Of this issuer, and of a host that is not here any more: a store that was set back, for example.
    let shared = || {
        let pem = SigningKey::generate(&SystemEntropy).to_pkcs8_pem();
        let build =
            |pem: &str| Issuer::builder("enlist", "enlist", SigningKey::from_pkcs8_pem(pem).unwrap()).build().unwrap();
        (build(&pem), build(&pem))
    };
    let (one, two) = shared();
    let one = World::with(MemoryStore::new(), |builder| builder.access_tokens(one));
    let two = World::with(MemoryStore::new(), |builder| builder.access_tokens(two));
    let (_, elsewhere) = one.refreshing("a").await;
    let elsewhere = one.access(&elsewhere).await;
    assert_eq!(one.work(&elsewhere).await, None);
    assert_eq!(two.work(&elsewhere).await, stale());
    assert_eq!(world.work(&world.access(&token).await).await, None);
}

/// A request with an access token costs no read of the store, until something is cut off.
#[tokio::test]
async fn a_recognised_access_token_is_remembered_until_anything_is_cut_off() {
    let store = Watched::default();
    let watch = store.clone();
    let world = World::with(store, |builder| builder.access_tokens(issuer("enlist")));
    let (host_id, token) = world.refreshing("a").await;
    let access = world.access(&token).await;
    assert_eq!(world.work(&access).await, None);
    let reads = watch.finds.load(SeqCst);
    for _ in 0..10 {
        assert_eq!(world.work(&access).await, None);
    }
    assert_eq!(watch.finds.load(SeqCst), reads);
    world.fleet.admin(&world.root).revoke_agent_tokens(host_id).await.unwrap();
    assert_eq!(world.work(&access).await, stale());
    assert!(watch.finds.load(SeqCst) > reads);
}

/// Here, and in a process that hears of it from the store.
#[tokio::test]
async fn a_rotation_of_another_host_costs_no_read_and_its_revocation_does() {
    let store = Watched::default();
    let watch = store.clone();
    let world = World::with(store, |builder| builder.access_tokens(issuer("enlist"))).running().await;
    let (_, token) = world.refreshing("a").await;
    let access = world.access(&token).await;
    let (other, mut rotating) = world.in_use("b").await;
    let told = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    told().await;
    assert_eq!(world.work(&access).await, None);
    let reads = watch.finds.load(SeqCst);
    for _ in 0..10 {
        rotating = world.rotated(&rotating).await;
        told().await;
        assert_eq!(world.work(&access).await, None);
    }
    assert_eq!(watch.finds.load(SeqCst), reads);
    world.fleet.admin(&world.root).revoke_agent_tokens(other).await.unwrap();
    told().await;
    assert_eq!(world.work(&access).await, None);
    assert!(watch.finds.load(SeqCst) > reads);
}

#[tokio::test]
async fn a_revocation_by_another_process_ends_access_tokens_as_soon_as_it_is_told() {
    let store = MemoryStore::new();
    let elsewhere = World::with(store.clone(), |builder| builder);
    let world = World::with(store, |builder| builder.access_tokens(issuer("enlist"))).running().await;
    let (host_id, token) = world.refreshing("a").await;
    let access = world.access(&token).await;
    assert_eq!(world.work(&access).await, None);
    elsewhere.fleet.admin(&elsewhere.root).revoke_agent_tokens(host_id).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.work(&access).await, stale());
}

#[tokio::test]
async fn an_expired_refresh_token_can_still_rotate() {
    let mut limits = Limits::default();
    limits.agent_token_life = Some(Duration::from_secs(24 * 3600));
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits).access_tokens(issuer("enlist")));
    let (_, token) = world.refreshing("a").await;
    world.access(&token).await;
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    let expired = world.buy(&token, RefreshAccessToken::default()).await.unwrap_err();
    assert_eq!((expired.code.as_str(), expired.action), ("token_expired", Some(AgentAction::Propose)));
    let successor = agent_token();
    world.propose(&token, &successor).await.unwrap();
    assert_eq!(world.work(&world.access(&successor).await).await, None);
}

/// The refusal would have thrown away what it had just proposed, and the next proposal be a conflict.
#[tokio::test]
async fn an_expired_refresh_token_proposes_nothing_while_it_is_refused() {
    let mut limits = Limits::default();
    limits.agent_token_life = Some(Duration::from_secs(24 * 3600));
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits).access_tokens(issuer("enlist")));
    let (_, token) = world.refreshing("a").await;
    world.access(&token).await;
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    for request in [
        RefreshAccessToken { claim: None, rotate: true },
        RefreshAccessToken { claim: Some(agent_token().hash()), rotate: false },
    ] {
        let expired = world.buy(&token, request).await.unwrap_err();
        assert_eq!((expired.code.as_str(), expired.action), ("token_expired", Some(AgentAction::Propose)));
    }
    assert_eq!(world.count("agent_token.proposed").await, 0);
    world.propose(&token, &agent_token()).await.unwrap();
    assert_eq!(world.count("rotation.conflict").await, 0);
}

#[tokio::test]
async fn a_host_with_a_refresh_token_is_asked_to_rotate_when_it_refreshes() {
    let day = Duration::from_secs(24 * 3600);
    let mut limits = Limits::default();
    limits.rotate_after = Some(day);
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits).access_tokens(issuer("enlist")));
    let (_, token) = world.refreshing("a").await;
    let asked = async || world.buy(&token, RefreshAccessToken::default()).await.unwrap().rotate;
    assert!(!asked().await);
    world.clock.advance(day);
    assert!(asked().await);
}

#[tokio::test]
async fn an_access_token_is_neither_rotated_nor_taken_where_none_are_issued() {
    let world = World::issuing();
    let (_, token) = world.refreshing("a").await;
    let access = world.access(&token).await;
    let request = ProposeAgentToken::default();
    let refused = world.fleet.propose_agent_token(access.expose(), &request, None).await.unwrap_err();
    let plain = World::new();
    for refused in [refused, plain.fleet.authenticate(access.expose()).await.unwrap_err()] {
        let problem = Problem::from(refused);
        assert_eq!((problem.code.as_str(), problem.action), ("invalid_token", Some(AgentAction::Refresh)));
    }
}

#[tokio::test]
async fn an_access_token_does_not_outlive_what_bought_it() {
    let mut limits = Limits::default();
    limits.agent_token_life = Some(LIFE / 2);
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits).access_tokens(issuer("enlist")));
    let (_, token) = world.refreshing("a").await;
    let bought = world.buy(&token, RefreshAccessToken::default()).await.unwrap();
    assert_eq!(bought.expires_at, world.fleet.now().saturating_add(LIFE / 2));
    world.clock.advance(LIFE / 2);
    assert_eq!(world.work(&bought.access_token).await.unwrap().0, "token_expired");
}

/// Each rotation makes another token, so a share of each would be none; and buying access tokens gives no share of work.
#[tokio::test]
async fn refreshes_and_rotations_of_a_host_share_a_limit_and_access_tokens_one_of_work() {
    let mut limits = Limits::default();
    limits.rotations_per_minute = NonZeroU32::new(4);
    let configured = |builder: FleetBuilder| builder.limits(limits).access_tokens(issuer("enlist"));
    let world = World::with(MemoryStore::new(), configured).running().await;
    let (_, token) = world.refreshing("a").await;
    let successor = agent_token();
    let first = world.access(&token).await;
    let second = world.access(&token).await;
    world.buy(&token, RefreshAccessToken { claim: Some(successor.hash()), rotate: false }).await.unwrap();
    world.propose(&token, &successor).await.unwrap();
    for presented in [&token, &successor] {
        let problem = world.buy(presented, RefreshAccessToken::default()).await.unwrap_err();
        assert_eq!((problem.code.as_str(), problem.retry_after), ("rate_limited", Some(Duration::from_secs(15))));
    }
    assert_eq!(world.count("agent_token.promoted").await, 1, "the successor was refused before it was used");
    let mut taken = 0;
    for access in [first, second].iter().cycle().take(100) {
        let identity = world.fleet.authenticate(access.expose()).await.unwrap();
        taken += usize::from(world.fleet.agent(&identity).live().is_ok());
    }
    assert_eq!(taken, 60);
    world.clock.advance(Duration::from_secs(15));
    assert_eq!(world.work(&world.access(&successor).await).await, None);
}
