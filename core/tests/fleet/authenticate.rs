//! Who presents a request: the serving rows of the rotation table, and the cache.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use enlist_core::agent_token::{Refusal, RevokeReason};
use enlist_core::conformance::sample;
use enlist_core::event::EventBody;
use enlist_core::fleet::{AuthenticateError, bearer};
use enlist_core::store::{Commit, Store, Write};
use enlist_core::wire::{AgentAction, IssueAgentToken, Problem};
use enlist_core::{MemoryStore, PlainToken};

use crate::watched::Watched;
use crate::world::{World, agent_token};

#[tokio::test]
async fn the_first_use_promotes_with_one_event() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    assert_eq!(identity.host_id(), host_id);
    world.fleet.authenticate(token.expose()).await.unwrap();
    let promoted: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter(|event| matches!(event.body, EventBody::AgentTokenPromoted { retired: None, .. }))
        .collect();
    assert_eq!(promoted.len(), 1);
}

#[tokio::test]
async fn malformed_and_unknown_tokens_and_those_of_another_kind_are_told_apart() {
    let world = World::new();
    let (_, install_token) = world.create("a").await;
    let detail = |text: &str| {
        let text = text.to_owned();
        let fleet = world.fleet.clone();
        async move { Problem::from(fleet.authenticate(&text).await.unwrap_err()) }
    };
    let mut torn = agent_token().expose().to_owned();
    torn.replace_range(10..11, if torn.as_bytes()[10] == b'a' { "b" } else { "a" });
    for (text, says) in [
        (torn.as_str(), "checksum"),
        ("nonsense", "form of a token"),
        ("", "form of a token"),
        (install_token.expose(), "another kind"),
        (agent_token().expose(), "unknown"),
    ] {
        let problem = detail(text).await;
        assert_eq!((problem.status, problem.code.as_str()), (401, "invalid_token"));
        assert!(problem.detail.contains(says), "{}", problem.detail);
        assert!(
            (text.is_empty() || !problem.detail.contains(text))
                && problem.headers().iter().any(|(n, _)| *n == "www-authenticate")
        );
    }
}

#[tokio::test]
async fn the_header_is_one_and_of_the_bearer_scheme() {
    let world = World::new();
    let (_, token) = world.enrolled("a").await;
    let valid = format!("bearer  {}", token.expose());
    world.fleet.authenticate(bearer([valid.as_bytes()]).unwrap()).await.unwrap();
    let basic = format!("Basic {}", token.expose());
    for (values, code) in [
        (vec![], "missing_token"),
        (vec![valid.as_bytes(), valid.as_bytes()], "invalid_request"),
        (vec![basic.as_bytes()], "invalid_request"),
        (vec![token.expose().as_bytes()], "invalid_request"),
        (vec![&b"Bearer \xff"[..]], "invalid_request"),
    ] {
        let problem = Problem::from(bearer(values).unwrap_err());
        assert_eq!(problem.code.as_str(), code);
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_although_it_was_cached() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    let id = world.fleet.authenticate(token.expose()).await.unwrap().token_id();
    world.fleet.authenticate(token.expose()).await.unwrap();
    world.fleet.admin(&world.root).revoke_agent_token(host_id, id).await.unwrap();
    let error = world.fleet.authenticate(token.expose()).await.unwrap_err();
    assert!(matches!(error, AuthenticateError::Refused(refused, Refusal::Revoked) if refused == id));
    let events = world.events().await;
    let revoked = EventBody::AgentTokenRevoked { agent_token_id: id, reason: RevokeReason::Administrator };
    assert_eq!(events.last().map(|event| &event.body), Some(&revoked));
    // A second time changes nothing.
    world.fleet.admin(&world.root).revoke_agent_token(host_id, id).await.unwrap();
    assert_eq!(world.events().await.len(), events.len());
}

/// A first attempt that nobody waited for has committed, and could not tell the cache: the second answer must hold.
#[tokio::test]
async fn a_revocation_or_archive_that_is_repeated_after_a_lost_answer_holds_at_once() {
    for archive in [false, true] {
        let store = MemoryStore::new();
        // Two fleets on one store: the other one commits what this one's cache does not hear of.
        let world = World::with(store.clone(), |builder| builder);
        let other = World::with(store, |builder| builder);
        let (host_id, token) = world.enrolled("a").await;
        let id = world.fleet.authenticate(token.expose()).await.unwrap().token_id();
        world.fleet.authenticate(token.expose()).await.unwrap();
        for admin in [other.fleet.admin(&other.root), world.fleet.admin(&world.root)] {
            match archive {
                true => drop(admin.archive_host(host_id).await.unwrap()),
                false => admin.revoke_agent_token(host_id, id).await.unwrap(),
            }
        }
        assert!(world.fleet.authenticate(token.expose()).await.is_err());
    }
}

#[tokio::test]
async fn an_archived_hosts_token_is_refused_at_once_although_it_was_cached() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    for _ in 0..2 {
        world.fleet.authenticate(token.expose()).await.unwrap();
    }
    world.fleet.admin(&world.root).archive_host(host_id).await.unwrap();
    let problem = Problem::from(world.fleet.authenticate(token.expose()).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (401, "host_archived"));
}

#[tokio::test]
async fn expiry_is_checked_at_each_hit_of_the_cache() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let request = IssueAgentToken { expires_at: Some(sample::at(10)), ..IssueAgentToken::default() };
    let issued = world.fleet.admin(&world.root).issue_agent_token(host_id, request).await.unwrap();
    world.clock.advance(Duration::from_secs(9));
    for _ in 0..2 {
        world.fleet.authenticate(issued.token.expose()).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(1));
    let error = world.fleet.authenticate(issued.token.expose()).await.unwrap_err();
    assert!(matches!(error, AuthenticateError::Refused(_, Refusal::Expired)));
}

#[tokio::test]
async fn refusals_are_not_remembered() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let token = agent_token();
    for n in 1..=3 {
        assert!(world.fleet.authenticate(token.expose()).await.is_err());
        assert_eq!(store.reads(), n);
    }
}

/// Read, revoke, fill: the fill must not bring the token back. The store's answer is held until the revocation is done.
#[tokio::test]
async fn a_fill_that_began_before_a_revocation_does_not_outlive_it() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let (host_id, token) = world.enrolled("a").await;
    let id = world.fleet.authenticate(token.expose()).await.unwrap().token_id();
    // Let `notify_one` of that first read pass.
    store.has_read.notified().await;

    let gate = store.gate.lock().await;
    let reader = tokio::spawn({
        let (fleet, token) = (world.fleet.clone(), token.expose().to_owned());
        async move { fleet.authenticate(&token).await.map(|_| ()) }
    });
    store.has_read.notified().await;
    world.fleet.admin(&world.root).revoke_agent_token(host_id, id).await.unwrap();
    drop(gate);
    // The request that was under way when the token was revoked may be served; the next one must not.
    let _ = reader.await.unwrap();
    let error = world.fleet.authenticate(token.expose()).await.unwrap_err();
    assert!(matches!(error, AuthenticateError::Refused(_, Refusal::Revoked)));
}

#[tokio::test]
async fn a_failing_store_is_503_and_says_nothing_about_the_credential() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let (_, token) = world.enrolled("a").await;
    store.failing.store(true, std::sync::atomic::Ordering::SeqCst);
    let problem = Problem::from(world.fleet.authenticate(token.expose()).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (503, "unavailable"));
    assert!(problem.headers().iter().any(|(name, _)| *name == "retry-after"));
}

#[tokio::test]
async fn a_token_of_another_host_is_not_found_under_this_hosts_path() {
    let world = World::new();
    let (_, token) = world.enrolled("a").await;
    let (other, _) = world.create("b").await;
    let id = world.fleet.authenticate(token.expose()).await.unwrap().token_id();
    let events = world.events().await.len();
    let error = world.fleet.admin(&world.root).revoke_agent_token(other, id).await.unwrap_err();
    assert_eq!(Problem::from(error).status, 404);
    assert_eq!(world.events().await.len(), events);
    world.fleet.authenticate(token.expose()).await.unwrap();
}

#[tokio::test]
async fn an_issued_token_is_a_lineage_of_its_own() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    let admin = world.fleet.admin(&world.root);
    let second = admin.issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap();
    let third: PlainToken = admin.issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap().token;
    for token in [&token, &second.token, &third] {
        world.fleet.authenticate(token.expose()).await.unwrap();
    }
    admin.revoke_agent_token(host_id, second.id).await.unwrap();
    assert!(world.fleet.authenticate(second.token.expose()).await.is_err());
    for token in [&token, &third] {
        world.fleet.authenticate(token.expose()).await.unwrap();
    }
}

/// Only the tombstone says so, since the agent then erases its credential: a report under a remembered credential is
/// asked to come again, and the next request meets the tombstone.
#[tokio::test]
async fn a_deleted_hosts_agent_is_told_that_its_host_was_deleted() {
    // Nobody tells the cache: it has to notice by itself.
    let store = Watched::default();
    store.mute.store(true, SeqCst);
    let world = World::with(store.clone(), |builder| builder).running().await;
    let (host_id, token) = world.enrolled("a").await;
    world.fleet.authenticate(token.expose()).await.unwrap();
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    let revision = sample::load(&store, host_id).await.revision;
    let deletion = Write::HostDeletion { expected: revision, host_id, at: sample::at(9) };
    store.commit(Commit::of(deletion, Vec::new())).await.unwrap();

    let report = format!(r#"{{"recorded_at": "{}", "host": {{"metrics": {{}}}}}}"#, world.fleet.now());
    let refused = world.fleet.agent(&identity).live().unwrap().report_json(report.as_bytes()).await.unwrap_err();
    assert_eq!(Problem::from(refused).status, 503);

    let problem = Problem::from(world.fleet.authenticate(token.expose()).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (410, "host_deleted"));
    assert_eq!((problem.host_id, problem.token_id), (Some(host_id), Some(identity.token_id())));
    assert_eq!(problem.action, Some(AgentAction::Stop));
}
