//! The rotation table, row by row: what a presented token and a proposal are answered with, and what that changes.

use std::time::Duration;

use enlist_core::agent_token::{CredentialKind, PENDING_YIELDS_AFTER, RETIRE_GRACE};
use enlist_core::event::EventBody;
use enlist_core::fleet::{Limits, ReusePolicy, TokenFilter};
use enlist_core::lineage::Overlap;
use enlist_core::secret::{IdempotencyKey, Prefix};
use enlist_core::store::{Aggregate, Commit, Key, Write};
use enlist_core::wire::{
    AgentTokenStatus, IssueAgentToken, IssuedAgentToken, Problem, ProposeAgentToken, ProposedAgentToken,
    RotateAgentToken,
};
use enlist_core::{AgentTokenId, HostId, MemoryStore, PlainToken, SystemEntropy};

use crate::world::{World, agent_token};

const MICROSECOND: Duration = Duration::from_micros(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl World {
    async fn token_id(&self, host_id: HostId, status: AgentTokenStatus) -> AgentTokenId {
        let page = self.fleet.admin(&self.root).list_agent_tokens(host_id, TokenFilter::default()).await.unwrap();
        page.items.into_iter().rfind(|token| token.status == status).expect("there is one").id
    }

    /// An administrator's successor of the active token.
    async fn rotate_by_hand(&self, host_id: HostId, overlap: Overlap) -> IssuedAgentToken {
        let token_id = self.token_id(host_id, AgentTokenStatus::Active).await;
        self.fleet.admin(&self.root).rotate_agent_token(host_id, token_id, RotateAgentToken { overlap }).await.unwrap()
    }

    async fn server_made(&self, token: &PlainToken, key: Option<&str>) -> Result<ProposedAgentToken, Problem> {
        let key = key.map(|key| IdempotencyKey::parse(key.as_bytes()).unwrap());
        let request = ProposeAgentToken::default();
        self.fleet.propose_agent_token(token.expose(), &request, key.as_ref()).await.map_err(Problem::from)
    }
}

#[tokio::test]
async fn row_host_archived() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    world.fleet.admin(&world.root).archive_host(host_id).await.unwrap();
    assert_eq!(world.serve(&token).await, "host_archived");
    assert_eq!(world.offer(&token, &agent_token()).await, "host_archived");
}

#[tokio::test]
async fn row_host_deleted() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let retired = token;
    let token = world.rotated(&retired).await;
    let Some(Aggregate::Host(host)) = world.store.load(&Key::Host(host_id)).await.unwrap() else {
        panic!("it is there")
    };
    let deletion = Write::HostDeletion { expected: host.revision, host_id, at: world.fleet.now() };
    world.store.commit(Commit::of(deletion, Vec::new())).await.unwrap();
    for token in [&token, &retired] {
        assert_eq!(world.offer(token, &agent_token()).await, "host_deleted");
    }
    assert_eq!(world.serve(&retired).await, "host_deleted");
    let problem = Problem::from(world.propose(&token, &agent_token()).await.unwrap_err());
    assert_eq!((problem.status, problem.host_id), (410, Some(host_id)));
}

#[tokio::test]
async fn row_revoked() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let id = world.token_id(host_id, AgentTokenStatus::Active).await;
    world.fleet.admin(&world.root).revoke_agent_token(host_id, id).await.unwrap();
    assert_eq!(world.serve(&token).await, "token_revoked");
    assert_eq!(world.offer(&token, &agent_token()).await, "token_revoked");
}

#[tokio::test]
async fn row_expired_proposes_for_seven_days_and_nothing_else() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let life = DAY;
    let request = IssueAgentToken { expires_at: Some(world.fleet.now().saturating_add(life)), ..Default::default() };
    let token = world.fleet.admin(&world.root).issue_agent_token(host_id, request).await.unwrap().token;
    // The administrator's time is counted from the making, not from the first use.
    world.clock.advance(life / 4);
    assert_eq!(world.serve(&token).await, "ok");
    world.clock.advance(life - life / 4);
    assert_eq!(world.serve(&token).await, "token_expired");
    world.clock.advance(7 * DAY);
    let successor = agent_token();
    assert_eq!(world.offer(&token, &successor).await, "pending");
    world.clock.advance(MICROSECOND);
    let late = Problem::from(world.propose(&token, &successor).await.unwrap_err());
    assert_eq!((late.code.as_str(), late.action), ("token_expired", Some(enlist_core::wire::AgentAction::ReEnrol)));
    // What was accepted in time waits for its first use at any age, and lives as long as its predecessor did.
    world.clock.advance(400 * DAY);
    assert_eq!(world.serve(&successor).await, "ok");
    world.clock.advance(life - MICROSECOND);
    assert_eq!(world.serve(&successor).await, "ok");
    world.clock.advance(MICROSECOND);
    assert_eq!(world.serve(&successor).await, "token_expired");
}

/// Or a host whose agent is refused for ever would look alive for ever.
#[tokio::test]
async fn a_proposal_that_comes_too_late_is_no_contact_and_one_that_is_held_up_is() {
    let world = World::new().running().await;
    let (host_id, _) = world.create("a").await;
    let request = IssueAgentToken { expires_at: Some(world.fleet.now().saturating_add(DAY)), ..Default::default() };
    let token = world.fleet.admin(&world.root).issue_agent_token(host_id, request).await.unwrap().token;
    assert_eq!(world.serve(&token).await, "ok");
    world.clock.advance(100 * DAY);
    assert_eq!(world.offer(&token, &agent_token()).await, "token_expired");
    let (other, held_up) = world.in_use("b").await;
    world.propose(&held_up, &agent_token()).await.unwrap();
    world.clock.advance(DAY / 2);
    let at = world.fleet.now();
    assert_eq!(world.offer(&held_up, &agent_token()).await, "rotation_conflict");
    let admin = world.fleet.admin(&world.root);
    // The contacts of both would be written together.
    while admin.host(other).await.unwrap().last_seen_at != Some(at) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(admin.host(host_id).await.unwrap().last_seen_at, None);
}

#[tokio::test]
async fn row_pending_is_promoted_first_then_served_or_judged() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    // The proposal is the first use.
    let successor = agent_token();
    assert_eq!(world.offer(&token, &successor).await, "pending");
    assert_eq!(world.count("agent_token.promoted").await, 1);
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(world.serve(&successor).await, "ok");
    let retired = world.token_id(host_id, AgentTokenStatus::Retired).await;
    let promoted: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::AgentTokenPromoted { retired, .. } => Some(retired),
            _ => None,
        })
        .collect();
    assert_eq!(promoted, [None, Some(retired)]);
}

#[tokio::test]
async fn row_active_repeats_its_proposal() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let successor = agent_token();
    let first = world.propose(&token, &successor).await.unwrap();
    let events = world.events().await;
    world.clock.advance(3 * PENDING_YIELDS_AFTER);
    let again = world.propose(&token, &successor).await.unwrap();
    assert_eq!((first.id, first.state), (again.id, again.state));
    assert_eq!(world.events().await, events);
}

#[tokio::test]
async fn row_active_proposes_what_was_seen_elsewhere() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let (_, other) = world.in_use("b").await;
    let (_, unused) = world.enrolled("c").await;
    let predecessor = token;
    let token = world.rotated(&predecessor).await;
    let before = world.events().await;
    for seen in [&other, &unused, &predecessor, &token] {
        assert_eq!(world.offer(&token, seen).await, "claim_in_use");
    }
    // Also when another successor waits: it is the client's mistake, no theft.
    let successor = agent_token();
    assert_eq!(world.offer(&token, &successor).await, "pending");
    assert_eq!(world.offer(&token, &other).await, "claim_in_use");
    assert_eq!(world.events().await.len(), before.len() + 1);
    let problem = Problem::from(world.propose(&token, &other).await.unwrap_err());
    assert_eq!((problem.status, problem.field.as_deref()), (409, Some("/claim")));
    assert!(problem.token_id.is_some());
}

#[tokio::test]
async fn row_active_proposes_and_works_on_until_the_successor_is_used() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let successor = agent_token();
    assert_eq!(world.offer(&token, &successor).await, "pending");
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(
        world.token_id(host_id, AgentTokenStatus::Pending).await,
        world.propose(&token, &successor).await.unwrap().id
    );
    assert_eq!(world.serve(&successor).await, "ok");
    assert_eq!(world.serve(&token).await, "token_superseded");
    assert_eq!(world.count("agent_token.proposed").await, 1);
}

#[tokio::test]
async fn row_an_administrators_successor_holds_a_proposal_up_for_a_day() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let by_hand = world.rotate_by_hand(host_id, Overlap::UntilFirstUse).await;
    let events = world.events().await;
    let successor = agent_token();
    world.clock.advance(PENDING_YIELDS_AFTER - MICROSECOND);
    let problem = Problem::from(world.propose(&token, &successor).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (409, "rotation_pending"));
    assert_eq!(world.events().await, events, "no alarm");
    assert_eq!(world.serve(&token).await, "ok");
    world.clock.advance(MICROSECOND);
    assert_eq!(world.offer(&token, &successor).await, "pending");
    assert_eq!(world.count("rotation.displaced").await, 1);
    assert_eq!(world.serve(&by_hand.token).await, "token_displaced");
    assert_eq!(world.serve(&successor).await, "ok");
}

#[tokio::test]
async fn row_another_agents_successor_is_a_conflict_for_a_day() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let (mine, theirs) = (agent_token(), agent_token());
    assert_eq!(world.offer(&token, &mine).await, "pending");
    world.clock.advance(PENDING_YIELDS_AFTER - MICROSECOND);
    for _ in 0..3 {
        let problem = Problem::from(world.propose(&token, &theirs).await.unwrap_err());
        assert_eq!((problem.status, problem.code.as_str()), (409, "rotation_conflict"));
    }
    let alarms: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter(|event| matches!(event.body, EventBody::RotationConflict { attempts: 1, .. }))
        .collect();
    assert_eq!(alarms.len(), 1, "at most once an hour");
    assert_eq!(alarms[0].host_id, Some(host_id));
    assert_eq!(world.serve(&token).await, "ok");
    world.clock.advance(MICROSECOND);
    assert_eq!(world.offer(&token, &theirs).await, "pending");
    assert_eq!(world.serve(&mine).await, "token_displaced");
    assert_eq!(world.serve(&theirs).await, "ok");
    assert_eq!(world.count("rotation.displaced").await, 1);
}

#[tokio::test]
async fn alarms_of_an_hour_are_counted_in_the_next() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    world.propose(&token, &agent_token()).await.unwrap();
    for _ in 0..5 {
        world.offer(&token, &agent_token()).await;
    }
    world.clock.advance(Duration::from_secs(60 * 60));
    world.offer(&token, &agent_token()).await;
    let attempts: Vec<_> = world
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::RotationConflict { attempts, .. } => Some(attempts),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [1, 5]);
}

#[tokio::test]
async fn row_retired_repeats_its_own_proposal_at_any_time_without_an_alarm() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let successor = world.rotated(&token).await;
    let events = world.events().await;
    for wait in [Duration::ZERO, RETIRE_GRACE, 100 * DAY] {
        world.clock.advance(wait);
        assert_eq!(world.offer(&token, &successor).await, "used");
    }
    assert_eq!(world.events().await, events);
}

#[tokio::test]
async fn row_retired_is_superseded_within_the_grace_and_reuse_after_it() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let successor = world.rotated(&token).await;
    let events = world.events().await;
    world.clock.advance(RETIRE_GRACE);
    assert_eq!(world.serve(&token).await, "token_superseded");
    assert_eq!(world.offer(&token, &agent_token()).await, "token_superseded");
    assert_eq!(world.events().await, events, "no alarm");
    world.clock.advance(MICROSECOND);
    assert_eq!(world.serve(&token).await, "token_reuse_detected");
    assert_eq!(world.offer(&token, &agent_token()).await, "token_reuse_detected");
    let alarm = world.events().await.pop().expect("an alarm");
    assert_eq!(alarm.host_id, Some(host_id));
    assert!(matches!(alarm.body, EventBody::AgentTokenReuseDetected { attempts: 1, .. }), "{alarm:?}");
    assert_eq!(world.count("agent_token.reuse_detected").await, 1, "at most once an hour");
    // By default whoever completed the rotation goes on.
    assert_eq!(world.serve(&successor).await, "ok");
}

#[tokio::test]
async fn reuse_can_end_the_whole_lineage_and_no_other() {
    let world = World::with(MemoryStore::new(), |builder| builder.reuse_policy(ReusePolicy::RevokeLineage));
    let (host_id, token) = world.in_use("a").await;
    let by_hand =
        world.fleet.admin(&world.root).issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap().token;
    assert_eq!(world.serve(&by_hand).await, "ok");
    let successor = world.rotated(&token).await;
    world.clock.advance(RETIRE_GRACE);
    assert_eq!(world.serve(&token).await, "token_superseded");
    assert_eq!(world.serve(&successor).await, "ok");
    world.clock.advance(MICROSECOND);
    assert_eq!(world.serve(&token).await, "token_reuse_detected");
    assert_eq!(world.serve(&successor).await, "token_revoked");
    assert_eq!(world.serve(&by_hand).await, "ok");
    assert_eq!(world.serve(&token).await, "token_reuse_detected");
    assert_eq!((world.count("agent_token.reuse_detected").await, world.count("agent_token.revoked").await), (1, 1));
}

#[tokio::test]
async fn row_retired_by_an_administrator_is_superseded_without_an_alarm() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let by_hand = world.rotate_by_hand(host_id, Overlap::UntilFirstUse).await;
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(world.serve(&by_hand.token).await, "ok");
    let events = world.events().await;
    for wait in [Duration::ZERO, RETIRE_GRACE, 100 * DAY] {
        world.clock.advance(wait);
        assert_eq!(world.serve(&token).await, "token_superseded");
        assert_eq!(world.offer(&token, &agent_token()).await, "token_superseded");
    }
    assert_eq!(world.events().await, events);
}

#[tokio::test]
async fn row_unknown() {
    let world = World::new();
    let nobody = agent_token();
    assert_eq!(world.serve(&nobody).await, "invalid_token");
    assert_eq!(world.offer(&nobody, &agent_token()).await, "invalid_token");
    let install_token = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
    assert_eq!(world.offer(&install_token, &agent_token()).await, "invalid_token");
}

#[tokio::test]
async fn a_server_made_successor_comes_again_with_its_key_until_it_is_used() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let key = "0123456789abcdefghijklmn";
    let first = world.server_made(&token, Some(key)).await.unwrap();
    let again = world.server_made(&token, Some(key)).await.unwrap();
    assert_eq!(first.id, again.id);
    let (first, again) = (first.token.expect("server-made"), again.token.expect("server-made"));
    assert_eq!(first.expose(), again.expose());
    // Another key, and no key, are others' proposals.
    assert_eq!(
        world.server_made(&token, Some("another-key-0123456789ab")).await.unwrap_err().code.as_str(),
        "rotation_conflict"
    );
    assert_eq!(world.server_made(&token, None).await.unwrap_err().code.as_str(), "rotation_conflict");
    assert_eq!(world.serve(&first).await, "ok");
    assert_eq!(world.server_made(&token, Some(key)).await.unwrap_err().code.as_str(), "token_superseded");
    // The same key makes another secret of another token.
    let next = world.server_made(&first, Some(key)).await.unwrap().token.expect("server-made");
    assert_ne!(next.expose(), first.expose());
    assert_eq!(world.serve(&next).await, "ok");
}

#[tokio::test]
async fn a_server_made_successor_without_a_key_is_given_once() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let lost = world.server_made(&token, None).await.unwrap().token.expect("server-made");
    assert_eq!(world.server_made(&token, None).await.unwrap_err().code.as_str(), "rotation_conflict");
    assert_eq!(world.serve(&token).await, "ok", "a lost reply locks nobody out");
    world.clock.advance(PENDING_YIELDS_AFTER);
    let second = world.server_made(&token, None).await.unwrap().token.expect("server-made");
    assert_eq!(world.serve(&lost).await, "token_displaced");
    assert_eq!(world.serve(&second).await, "ok");
}

#[tokio::test]
async fn a_successor_is_of_the_same_kind_and_name() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let request = IssueAgentToken { name: "spare".parse().ok(), kind: Some(CredentialKind::Refresh), expires_at: None };
    let token = world.fleet.admin(&world.root).issue_agent_token(host_id, request).await.unwrap().token;
    world.clock.advance(Duration::from_millis(1));
    let successor = world.server_made(&token, None).await.unwrap().token.expect("server-made");
    assert!(successor.expose().starts_with("ert_"));
    world.fleet.authenticate(successor.expose()).await.unwrap();
    let page = world.fleet.admin(&world.root).list_agent_tokens(host_id, TokenFilter::default()).await.unwrap();
    assert!(page.items.iter().all(|token| token.kind == CredentialKind::Refresh && token.name.is_some()));
    assert_eq!(page.items[1].predecessor, Some(page.items[0].id));
    assert_eq!(page.items[0].successor, Some(page.items[1].id));
}

#[tokio::test]
async fn a_fleet_gives_tokens_a_life_that_begins_with_their_first_use() {
    let mut limits = Limits::default();
    limits.agent_token_life = Some(30 * DAY);
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits));
    let (_, token) = world.enrolled("a").await;
    world.clock.advance(300 * DAY);
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    assert_eq!(identity.expires_at(), Some(world.fleet.now().saturating_add(30 * DAY)));
    world.clock.advance(30 * DAY + 6 * DAY);
    assert_eq!(world.serve(&token).await, "token_expired");
    let successor = world.rotated(&token).await;
    let identity = world.fleet.authenticate(successor.expose()).await.unwrap();
    assert_eq!(identity.expires_at(), Some(world.fleet.now().saturating_add(30 * DAY)));
}

#[tokio::test]
async fn the_server_asks_for_a_rotation_at_two_thirds_of_a_life_and_after_a_time() {
    for (life, after, asked_from) in [(Some(30), None, 20), (None, Some(7), 7), (Some(30), Some(7), 7)] {
        let mut limits = Limits::default();
        limits.agent_token_life = life.map(|days| days * DAY);
        limits.rotate_after = after.map(|days| days * DAY);
        let world = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
        let (_, token) = world.in_use("a").await;
        let asked = async || {
            let identity = world.fleet.authenticate(token.expose()).await.unwrap();
            world.fleet.agent(&identity).live().unwrap().heartbeat().unwrap().rotate
        };
        world.clock.advance(asked_from * DAY - MICROSECOND);
        assert!(!asked().await, "{life:?} {after:?}");
        world.clock.advance(MICROSECOND);
        assert!(asked().await, "{life:?} {after:?}");
        let identity = world.fleet.authenticate(token.expose()).await.unwrap();
        assert!(world.fleet.agent(&identity).who_am_i().rotate);
        let successor = world.rotated(&token).await;
        let identity = world.fleet.authenticate(successor.expose()).await.unwrap();
        assert!(!world.fleet.agent(&identity).live().unwrap().heartbeat().unwrap().rotate);
    }
}

/// A rotation must not cost the host its work: what it holds stays usable while two proposals race.
#[tokio::test]
async fn of_two_proposals_that_race_one_is_accepted_and_the_token_works_on() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let (one, two) = (agent_token(), agent_token());
    let answers = futures_util::join!(world.offer(&token, &one), world.offer(&token, &two));
    let mut answers = [answers.0, answers.1];
    answers.sort();
    assert_eq!(answers, ["pending", "rotation_conflict"]);
    assert_eq!(world.serve(&token).await, "ok");
}
