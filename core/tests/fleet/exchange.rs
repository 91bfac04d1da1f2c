//! The exchange table, row by row.

use std::net::IpAddr;
use std::time::Duration;

use enlist_core::agent_token::{RETIRE_GRACE, Refusal};
use enlist_core::conformance::sample;
use enlist_core::event::EventBody;
use enlist_core::fleet::{AuthenticateError, EnrolError, Prefixes};
use enlist_core::secret::Prefix;
use enlist_core::telemetry::HostFacts;
use enlist_core::wire::{ExchangeRequest, MintInstallToken, Problem};
use enlist_core::{MemoryStore, PlainToken, SystemEntropy};

use crate::world::{World, agent_token, exchange};

#[tokio::test]
async fn malformed_is_400_and_nothing_is_looked_up() {
    let world = World::new();
    let (_, token) = world.create("a").await;
    let mut cut = token.expose().to_owned();
    cut.pop();
    for text in ["", "eit_", &cut, agent_token().expose()] {
        let error = world.fleet.enrol(exchange(text, Some(sample::hash())), None).await.unwrap_err();
        let problem = Problem::from(error);
        assert_eq!((problem.status, problem.code.as_str()), (400, "invalid_install_token"));
        assert_eq!(problem.field.as_deref(), Some("/install_token"));
    }
}

#[tokio::test]
async fn unknown_is_401() {
    let world = World::new();
    let unknown = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
    let error = world.exchange(&unknown, Some(sample::hash())).await.unwrap_err();
    let problem = Problem::from(error);
    assert_eq!((problem.status, problem.code.as_str()), (401, "invalid_install_token"));
    assert!(problem.headers().iter().any(|(name, _)| *name == "www-authenticate"));
}

#[tokio::test]
async fn expired_is_401_and_it_was_not_a_moment_before() {
    let world = World::new();
    let (_, late) = world.create("late").await;
    let (_, in_time) = world.create("in time").await;
    world.clock.advance(Duration::from_secs(15 * 60) - Duration::from_micros(1));
    world.exchange(&in_time, Some(sample::hash())).await.unwrap();
    world.clock.advance(Duration::from_micros(1));
    assert!(matches!(world.exchange(&late, Some(sample::hash())).await, Err(EnrolError::InvalidToken)));
}

#[tokio::test]
async fn minting_another_revokes_the_earlier_one() {
    let world = World::new();
    let (host_id, first) = world.create("a").await;
    let second = world.fleet.admin(&world.root).mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
    assert!(matches!(world.exchange(&first, Some(sample::hash())).await, Err(EnrolError::InvalidToken)));
    world.exchange(&second.token, Some(sample::hash())).await.unwrap();
}

#[tokio::test]
async fn the_same_claim_is_answered_again_at_any_time_and_nothing_changes() {
    let world = World::new();
    let (host_id, install_token) = world.create("a").await;
    let claim = sample::hash();
    let first = world.exchange(&install_token, Some(claim)).await.unwrap();
    let events = world.events().await;
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(400 * 24 * 3600));
        let again = world.exchange(&install_token, Some(claim)).await.unwrap();
        assert_eq!((again.host_id, again.agent_token.id), (host_id, first.agent_token.id));
        assert!(again.agent_token.token.is_none(), "no reply to a client-made claim carries a secret");
    }
    assert_eq!(world.events().await, events);
}

#[tokio::test]
async fn the_same_claim_is_answered_again_after_the_credential_was_used() {
    let world = World::new();
    let (_, install_token) = world.create("a").await;
    let token = agent_token();
    world.exchange(&install_token, Some(token.hash())).await.unwrap();
    world.fleet.authenticate(token.expose()).await.unwrap();
    world.exchange(&install_token, Some(token.hash())).await.unwrap();
}

#[tokio::test]
async fn the_same_claim_gets_the_refusal_once_its_credential_is_refused() {
    let world = World::new();
    let (host_id, install_token) = world.create("a").await;
    let claim = sample::hash();
    let bought = world.exchange(&install_token, Some(claim)).await.unwrap().agent_token.id;
    let admin = world.fleet.admin(&world.root);
    admin.revoke_agent_token(host_id, bought).await.unwrap();
    let error = world.exchange(&install_token, Some(claim)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Refused(id, Refusal::Revoked) if id == bought));
    let problem = Problem::from(error);
    assert_eq!((problem.code.as_str(), problem.token_id), ("token_revoked", Some(bought)));
    admin.archive_host(host_id).await.unwrap();
    let error = world.exchange(&install_token, Some(claim)).await.unwrap_err();
    assert_eq!(Problem::from(error).code.as_str(), "host_archived");
}

/// A copy of the machine that was made before it enrolled has the same claim, and no successor.
#[tokio::test]
async fn the_same_claim_long_after_a_rotation_is_a_copy_and_raises_the_alarm() {
    let world = World::new();
    let (host_id, install_token) = world.create("a").await;
    let token = agent_token();
    world.exchange(&install_token, Some(token.hash())).await.unwrap();
    let successor = world.rotated(&token).await;
    let code = async || Problem::from(world.exchange(&install_token, Some(token.hash())).await.unwrap_err()).code;
    assert_eq!(code().await.as_str(), "token_superseded");
    assert_eq!(world.count("agent_token.reuse_detected").await, 0);
    world.clock.advance(RETIRE_GRACE + Duration::from_micros(1));
    for _ in 0..2 {
        assert_eq!(code().await.as_str(), "token_reuse_detected");
    }
    assert_eq!(world.count("agent_token.reuse_detected").await, 1);
    assert_eq!(world.events().await.last().and_then(|event| event.host_id), Some(host_id));
    assert_eq!(world.serve(&successor).await, "ok");
}

#[tokio::test]
async fn another_claim_is_refused_with_an_alarm_once_an_hour() {
    let world = World::new();
    let (_, install_token) = world.create("a").await;
    world.exchange(&install_token, Some(sample::hash())).await.unwrap();
    let intrude = || async {
        let error = world.exchange(&install_token, Some(sample::hash())).await.unwrap_err();
        assert_eq!(Problem::from(error).code.as_str(), "install_token_already_used");
    };
    for _ in 0..5 {
        intrude().await;
    }
    world.clock.advance(Duration::from_secs(3600));
    intrude().await;
    let attempts: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::EnrolmentContested { attempts, .. } => Some(attempts),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [1, 5]);
}

#[tokio::test]
async fn no_key_never_matches_no_key() {
    let world = World::new();
    let (_, install_token) = world.create("a").await;
    world.exchange(&install_token, None).await.unwrap();
    assert!(matches!(world.exchange(&install_token, None).await, Err(EnrolError::AlreadyUsed)));
    assert!(matches!(world.exchange(&install_token, Some(sample::hash())).await, Err(EnrolError::AlreadyUsed)));
}

#[tokio::test]
async fn a_claim_that_was_ever_seen_consumes_nothing_and_raises_no_alarm() {
    let world = World::new();
    let (_, token) = world.enrolled("a").await;
    let (_, install_token) = world.create("b").await;
    let before = world.events().await.len();
    let error = world.exchange(&install_token, Some(token.hash())).await.unwrap_err();
    let problem = Problem::from(error);
    assert_eq!((problem.status, problem.code.as_str()), (409, "claim_in_use"));
    assert_eq!(world.events().await.len(), before);
    world.exchange(&install_token, Some(sample::hash())).await.unwrap();
}

#[tokio::test]
async fn a_server_made_secret_is_in_the_one_reply_and_works() {
    let world = World::new();
    let (host_id, install_token) = world.create("a").await;
    let reply = world.exchange(&install_token, None).await.unwrap();
    let token = reply.agent_token.token.expect("the server drew it");
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    assert_eq!((identity.host_id(), identity.token_id()), (host_id, reply.agent_token.id));
}

#[tokio::test]
async fn the_install_token_fixes_the_kind_of_the_credential() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let kind = enlist_core::agent_token::CredentialKind::Refresh;
    let request = MintInstallToken { credential_kind: Some(kind), expires_at: None };
    let minted = world.fleet.admin(&world.root).mint_install_token(host_id, request).await.unwrap();
    let reply = world.exchange(&minted.token, None).await.unwrap();
    assert_eq!(reply.agent_token.kind, kind);
    assert!(reply.agent_token.token.expect("the server drew it").expose().starts_with("ert_"));
}

#[tokio::test]
async fn a_new_enrolment_ends_the_credentials_of_earlier_ones_and_no_others() {
    let world = World::new();
    let (host_id, lost) = world.enrolled("a").await;
    world.fleet.authenticate(lost.expose()).await.unwrap();
    let admin = world.fleet.admin(&world.root);
    let by_hand = admin.issue_agent_token(host_id, Default::default()).await.unwrap();
    let minted = admin.mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
    world.fleet.authenticate(lost.expose()).await.expect("minting alone ends nothing");
    let new = agent_token();
    world.exchange(&minted.token, Some(new.hash())).await.unwrap();
    let error = world.fleet.authenticate(lost.expose()).await.unwrap_err();
    assert!(matches!(error, AuthenticateError::Refused(_, Refusal::Revoked)));
    world.fleet.authenticate(new.expose()).await.unwrap();
    world.fleet.authenticate(by_hand.token.expose()).await.unwrap();
}

#[tokio::test]
async fn an_archived_host_cannot_be_enrolled() {
    let world = World::new();
    let (host_id, install_token) = world.create("a").await;
    world.fleet.admin(&world.root).archive_host(host_id).await.unwrap();
    assert!(matches!(world.exchange(&install_token, None).await, Err(EnrolError::InvalidToken)));
}

#[tokio::test]
async fn facts_of_the_machine_are_known_at_once_and_held_to_their_bounds() {
    let world = World::new();
    let (host_id, install_token) = world.create("a").await;
    let with = |os: String| ExchangeRequest {
        install_token: install_token.expose().to_owned(),
        claim: Some(sample::hash()),
        facts: Some(HostFacts { os: Some(os), ..HostFacts::default() }),
        host: None,
        idempotency_key: None,
    };
    let error = world.fleet.enrol(with("x".repeat(256)), None).await.unwrap_err();
    assert_eq!(Problem::from(error).field.as_deref(), Some("/facts/os"));
    world.fleet.enrol(with("Debian".into()), None).await.unwrap();
    let host = world.fleet.admin(&world.root).host(host_id).await.unwrap();
    assert_eq!(host.facts.os.as_deref(), Some("Debian"));
    assert_eq!(host.enrolled_at, Some(sample::at(0)));
}

#[tokio::test]
async fn refusals_are_limited_by_address_and_a_neighbours_enrolment_is_not() {
    let world = World::new();
    let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    async fn attempt(world: &World, remote: Option<IpAddr>) -> Problem {
        let unknown = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
        let request = exchange(unknown.expose(), Some(sample::hash()));
        Problem::from(world.fleet.enrol(request, remote).await.unwrap_err())
    }
    for _ in 0..30 {
        assert_eq!(attempt(&world, address("192.0.2.1")).await.status, 401);
    }
    let limited = attempt(&world, address("192.0.2.1")).await;
    assert_eq!((limited.status, limited.code.as_str()), (429, "rate_limited"));
    assert!(limited.headers().iter().any(|(name, value)| *name == "retry-after" && value == "2"));
    assert_eq!(attempt(&world, address("192.0.2.2")).await.status, 401);
    // The same address as IPv6 sees it is the same; a /64 is one client; no address is one bucket for all.
    assert_eq!(attempt(&world, address("::ffff:192.0.2.1")).await.status, 429);
    for n in 0..30 {
        assert_eq!(attempt(&world, address(&format!("2001:db8::{n:x}"))).await.status, 401);
        assert_eq!(attempt(&world, None).await.status, 401);
    }
    assert_eq!(attempt(&world, address("2001:db8::ffff:1")).await.status, 429);
    assert_eq!(attempt(&world, address("2001:db8:0:1::1")).await.status, 401);
    assert_eq!(attempt(&world, None).await.status, 429);
    // A valid token from the limited address.
    let (_, install_token) = world.create("a").await;
    let request = exchange(install_token.expose(), Some(sample::hash()));
    world.fleet.enrol(request, address("192.0.2.1")).await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(attempt(&world, address("192.0.2.1")).await.status, 401);
}

#[tokio::test]
async fn a_service_has_prefixes_of_its_own_and_the_default_ones_are_accepted_besides() {
    let mut prefixes = Prefixes::default();
    (prefixes.install, prefixes.agent) = (Prefix::new("mit"), Prefix::new("mdt"));
    let world = World::with(MemoryStore::new(), |builder| builder.prefixes(prefixes));
    let (_, install_token) = world.create("a").await;
    assert!(install_token.expose().starts_with("mit_"));
    let made_by_us = world.exchange(&install_token, None).await.unwrap().agent_token.token.expect("the server drew it");
    assert!(made_by_us.expose().starts_with("mdt_"));
    world.fleet.authenticate(made_by_us.expose()).await.unwrap();
    // An agent that knows nothing of it draws the default kind.
    let (_, drawn) = world.enrolled("b").await;
    assert!(drawn.expose().starts_with("eat_"));
    world.fleet.authenticate(drawn.expose()).await.unwrap();
    assert!(world.fleet.authenticate(install_token.expose()).await.is_err());
}

#[test]
fn a_prefix_says_what_a_token_is_for() {
    let mut prefixes = Prefixes::default();
    prefixes.install = Prefix::AGENT;
    assert!(enlist_core::Fleet::builder(MemoryStore::new()).prefixes(prefixes).build().is_err());
}
