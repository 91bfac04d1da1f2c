//! What administrators do with tokens: listing, rotating, revoking, and enrolling a host anew.

use std::time::Duration;

use enlist_core::event::EventBody;
use enlist_core::fleet::{AdminError, TokenFilter};
use enlist_core::install_token::InstallTokenStatus;
use enlist_core::lineage::Overlap;
use enlist_core::secret::IdempotencyKey;
use enlist_core::wire::{
    AgentTokenBody, AgentTokenStatus, IssueAgentToken, MintInstallToken, Problem, RotateAgentToken, TokenOrigin,
};
use enlist_core::{AgentTokenId, HostId, PlainToken};

use crate::world::{World, agent_token, exchange};

const OVERLAP: RotateAgentToken = RotateAgentToken { overlap: Overlap::UntilFirstUse };
const INSTANT: Duration = Duration::from_millis(1);
const CUT_OFF: RotateAgentToken = RotateAgentToken { overlap: Overlap::None };

impl World {
    async fn tokens(&self, host_id: HostId) -> Vec<AgentTokenBody> {
        self.fleet.admin(&self.root).list_agent_tokens(host_id, TokenFilter::default()).await.unwrap().items
    }

    async fn rotate_one(
        &self,
        host_id: HostId,
        id: AgentTokenId,
        request: RotateAgentToken,
    ) -> Result<PlainToken, String> {
        let rotated = self.fleet.admin(&self.root).rotate_agent_token(host_id, id, request).await;
        rotated.map(|issued| issued.token).map_err(|error| Problem::from(error).code.to_string())
    }

    async fn generation(&self, token: &PlainToken) -> u64 {
        use enlist_core::store::Known;
        match self.store.authenticate(&token.hash()).await.unwrap() {
            Some(Known::Credential(credential)) => credential.generation,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_list_shows_every_token_and_how_it_stands() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    // Ids of one millisecond are in no order.
    world.clock.advance(INSTANT);
    let successor = world.rotated(&token).await;
    world.clock.advance(INSTANT);
    world.propose(&successor, &agent_token()).await.unwrap();
    world.clock.advance(INSTANT);
    let life = Duration::from_secs(60);
    let request = IssueAgentToken {
        name: "spare".parse().ok(),
        kind: None,
        expires_at: Some(world.fleet.now().saturating_add(life)),
    };
    world.fleet.admin(&world.root).issue_agent_token(host_id, request).await.unwrap();
    world.clock.advance(life);
    let tokens = world.tokens(host_id).await;
    let seen: Vec<_> = tokens.iter().map(|token| (token.origin, token.status)).collect();
    assert_eq!(
        seen,
        [
            (TokenOrigin::Exchange, AgentTokenStatus::Retired),
            (TokenOrigin::Proposed, AgentTokenStatus::Active),
            (TokenOrigin::Proposed, AgentTokenStatus::Pending),
            (TokenOrigin::Issued, AgentTokenStatus::Expired),
        ]
    );
    assert_eq!((tokens[0].successor, tokens[1].predecessor), (Some(tokens[1].id), Some(tokens[0].id)));
    assert!(tokens[0].ended_at.is_some() && tokens[0].lineage_id == tokens[2].lineage_id);
    let json = serde_json::to_string(&tokens).unwrap();
    assert!(!json.contains("eat_") && !json.contains(&successor.hash().to_hex()), "{json}");

    let admin = world.fleet.admin(&world.root);
    let first = admin.list_agent_tokens(host_id, TokenFilter { limit: Some(3), cursor: None }).await.unwrap();
    let rest =
        admin.list_agent_tokens(host_id, TokenFilter { limit: Some(3), cursor: first.next_cursor }).await.unwrap();
    assert_eq!(([first.items, rest.items].concat(), rest.next_cursor), (tokens, None));
}

#[tokio::test]
async fn with_an_overlap_both_work_until_the_successor_is_used() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let generation = world.generation(&token).await;
    let id = world.tokens(host_id).await[0].id;
    let by_hand = world.rotate_one(host_id, id, OVERLAP).await.unwrap();
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(world.serve(&by_hand).await, "ok");
    assert_eq!(world.serve(&token).await, "token_superseded");
    assert_eq!(world.generation(&by_hand).await, generation, "a promotion ends nobody's access tokens");
}

#[tokio::test]
async fn a_second_successor_of_an_administrator_takes_the_place_of_the_first() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let id = world.tokens(host_id).await[0].id;
    let lost = world.rotate_one(host_id, id, OVERLAP).await.unwrap();
    let second = world.rotate_one(host_id, id, OVERLAP).await.unwrap();
    assert_eq!(world.serve(&lost).await, "token_displaced");
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(world.serve(&second).await, "ok");
    assert_eq!(world.count("rotation.displaced").await, 1);
}

#[tokio::test]
async fn an_overlap_needs_a_token_in_use_and_no_successor_of_the_agents() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    let id = world.tokens(host_id).await[0].id;
    assert_eq!(world.rotate_one(host_id, id, OVERLAP).await.unwrap_err(), "token_not_live");
    world.propose(&token, &agent_token()).await.unwrap();
    let events = world.events().await;
    assert_eq!(world.rotate_one(host_id, id, OVERLAP).await.unwrap_err(), "rotation_pending");
    world.clock.advance(Duration::from_secs(1_000_000));
    assert_eq!(world.rotate_one(host_id, id, OVERLAP).await.unwrap_err(), "rotation_pending", "at any age");
    assert_eq!(world.events().await, events);
    let (other, token) = world.in_use("b").await;
    world.rotated(&token).await;
    let tokens = world.tokens(other).await;
    let retired = tokens.iter().find(|token| token.status == AgentTokenStatus::Retired).expect("it was rotated").id;
    for request in [OVERLAP, CUT_OFF] {
        assert_eq!(world.rotate_one(other, retired, request).await.unwrap_err(), "token_not_live");
    }
}

#[tokio::test]
async fn without_an_overlap_all_of_the_lineage_is_cut_off_now() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let generation = world.generation(&token).await;
    let successor = agent_token();
    world.propose(&token, &successor).await.unwrap();
    let id = world.tokens(host_id).await[0].id;
    let by_hand = world.rotate_one(host_id, id, CUT_OFF).await.unwrap();
    assert_eq!(world.serve(&token).await, "token_revoked");
    assert_eq!(world.serve(&successor).await, "token_revoked");
    assert_eq!(world.serve(&by_hand).await, "ok");
    assert_eq!(world.generation(&by_hand).await, generation + 1);
    assert_eq!(world.count("agent_token.revoked").await, 2);
}

#[tokio::test]
async fn a_host_is_cut_off_whole() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let successor = agent_token();
    world.propose(&token, &successor).await.unwrap();
    let admin = world.fleet.admin(&world.root);
    let spare = admin.issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap().token;
    let (_, neighbour) = world.in_use("b").await;
    let generation = world.generation(&token).await;
    let revoked = admin.revoke_agent_tokens(host_id).await.unwrap().revoked;
    assert_eq!(revoked.len(), 3);
    for token in [&token, &successor, &spare] {
        assert_eq!(world.serve(token).await, "token_revoked");
    }
    assert_eq!(world.serve(&neighbour).await, "ok");
    assert_eq!(world.generation(&token).await, generation + 1);
    let events = world.events().await;
    assert!(admin.revoke_agent_tokens(host_id).await.unwrap().revoked.is_empty());
    assert_eq!(world.events().await, events, "nothing was left to revoke");
}

#[tokio::test]
async fn a_token_of_another_host_is_not_found_and_nothing_changes() {
    let world = World::new();
    let (_, token) = world.in_use("a").await;
    let (other, _) = world.in_use("b").await;
    let world_events = world.events().await;
    let id = world.fleet.authenticate(token.expose()).await.unwrap().token_id();
    for request in [OVERLAP, CUT_OFF] {
        assert_eq!(world.rotate_one(other, id, request).await.unwrap_err(), "not_found");
    }
    let error = world.fleet.admin(&world.root).revoke_agent_token(other, id).await.unwrap_err();
    assert!(matches!(error, AdminError::NotFound));
    assert_eq!(world.serve(&token).await, "ok");
    assert_eq!(world.events().await, world_events);
}

#[tokio::test]
async fn an_archived_host_gets_no_successor() {
    let world = World::new();
    let (host_id, _) = world.in_use("a").await;
    let id = world.tokens(host_id).await[0].id;
    world.fleet.admin(&world.root).archive_host(host_id).await.unwrap();
    assert_eq!(world.rotate_one(host_id, id, CUT_OFF).await.unwrap_err(), "host_archived");
}

#[tokio::test]
async fn install_tokens_are_listed_and_taken_back() {
    let world = World::new();
    let (host_id, first) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    world.exchange(&first, Some(agent_token().hash())).await.unwrap();
    world.clock.advance(INSTANT);
    let second = admin.mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
    world.clock.advance(INSTANT);
    let third = admin.mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
    let list = || async {
        let page = admin.list_install_tokens(host_id, TokenFilter::default()).await.unwrap();
        page.items.into_iter().map(|token| (token.id, token.status)).collect::<Vec<_>>()
    };
    let tokens = list().await;
    let statuses: Vec<_> = tokens.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses, [InstallTokenStatus::Consumed, InstallTokenStatus::Revoked, InstallTokenStatus::Issued]);

    admin.revoke_install_token(third.id).await.unwrap();
    assert_eq!(list().await[2], (third.id, InstallTokenStatus::Revoked));
    let events = world.events().await;
    assert!(
        matches!(events.last().unwrap().body, EventBody::InstallTokenRevoked { install_token_id } if install_token_id == third.id)
    );
    for again in [second.id, third.id] {
        admin.revoke_install_token(again).await.unwrap();
    }
    let used = Problem::from(admin.revoke_install_token(tokens[0].0).await.unwrap_err());
    assert_eq!((used.status, used.code.as_str()), (409, "install_token_already_used"));
    assert_eq!(world.events().await, events, "none of these changed anything");
    let refused = Problem::from(world.exchange(&third.token, Some(agent_token().hash())).await.unwrap_err());
    assert_eq!(refused.code.as_str(), "invalid_install_token");
}

#[tokio::test]
async fn an_expired_install_token_can_be_taken_back() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    world.clock.advance(Duration::from_secs(16 * 60));
    let admin = world.fleet.admin(&world.root);
    let token = admin.list_install_tokens(host_id, TokenFilter::default()).await.unwrap().items.remove(0);
    assert_eq!(token.status, InstallTokenStatus::Expired);
    admin.revoke_install_token(token.id).await.unwrap();
    let token = admin.list_install_tokens(host_id, TokenFilter::default()).await.unwrap().items.remove(0);
    assert_eq!(token.status, InstallTokenStatus::Revoked);
}

/// The lineage that an exchange began is lost with it, however often it was rotated since; one by hand is not.
#[tokio::test]
async fn a_new_enrolment_ends_rotated_credentials_of_earlier_ones() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    let mut token = world.rotated(&token).await;
    for _ in 0..3 {
        token = world.rotated(&token).await;
    }
    let pending = agent_token();
    world.propose(&token, &pending).await.unwrap();
    let admin = world.fleet.admin(&world.root);
    let by_hand = admin.issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap().token;
    let by_hand = world.rotated(&by_hand).await;
    let minted = admin.mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
    let fresh = agent_token();
    world.exchange(&minted.token, Some(fresh.hash())).await.unwrap();
    assert_eq!(world.serve(&token).await, "token_revoked");
    assert_eq!(world.serve(&pending).await, "token_revoked");
    assert_eq!(world.serve(&by_hand).await, "ok");
    assert_eq!(world.serve(&fresh).await, "ok");
}

#[tokio::test]
async fn a_server_made_exchange_comes_again_with_its_key_until_the_credential_is_used() {
    let world = World::new();
    let (_, install_token) = world.create("a").await;
    let attempt = |key: &'static str| {
        let mut request = exchange(install_token.expose(), None);
        request.idempotency_key = Some(IdempotencyKey::parse(key.as_bytes()).unwrap());
        world.fleet.enrol(request, None)
    };
    const KEY: &str = "0123456789abcdefghijklmn";
    let first = attempt(KEY).await.unwrap().agent_token;
    let events = world.events().await;
    let again = attempt(KEY).await.unwrap().agent_token;
    assert_eq!(first.id, again.id);
    let first = first.token.expect("server-made");
    assert_eq!(first.expose(), again.token.expect("server-made").expose());
    assert_eq!(world.events().await, events, "nothing changes");
    assert_eq!(world.serve(&first).await, "ok");

    let events = world.events().await;
    let used = Problem::from(attempt(KEY).await.unwrap_err());
    assert_eq!((used.status, used.code.as_str()), (401, "install_token_already_used"));
    assert_eq!(world.events().await, events, "no alarm: it is the same client, late");
    assert!(attempt("another-key-0123456789ab").await.is_err());
    assert_eq!(world.count("enrolment.contested").await, 1);
}
