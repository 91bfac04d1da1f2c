//! Properties of the pure state machines: no sequence of inputs leaves the tables of the design.

use std::time::Duration;

use enlist_core::Timestamp;
use enlist_core::agent_token::{
    AgentToken, AgentTokenState, EXPIRY_GRACE, Origin, PENDING_YIELDS_AFTER, RETIRE_GRACE, Refusal, Request, RetiredBy,
    RevokeReason, Siblings, Verdict,
};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{Lifecycle, Presence, Status};
use enlist_core::install_token::{Claim, Exchange, InstallToken, InstallTokenState, InstallTokenStatus};
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Timestamp> {
    // Around the expiry of the samples, and far from it.
    prop_oneof![(0i64..2_000).prop_map(at), (0i64..2_000_000).prop_map(at), Just(Timestamp::MAX)]
}

fn claim() -> impl Strategy<Value = Claim> {
    // Few enough to meet again.
    let hash = |n: u8| enlist_core::TokenHash::from_bytes([n; 32]);
    prop_oneof![
        (0u8..3).prop_map(move |n| Claim::Client(hash(n))),
        (0u8..3).prop_map(move |n| Claim::Server { idempotency_key_hash: (n > 0).then(|| hash(n)) }),
    ]
}

#[derive(Debug, Clone)]
enum InstallStep {
    Exchange(Claim),
    Revoke,
}

fn install_step() -> impl Strategy<Value = InstallStep> {
    prop_oneof![4 => claim().prop_map(InstallStep::Exchange), 1 => Just(InstallStep::Revoke)]
}

proptest! {
    /// Whatever is done, in whatever order and at whatever times: one grant at most, none after a revocation or an
    /// expiry, and the winner is answered for ever.
    #[test]
    fn an_install_token_is_granted_once_at_most(steps in prop::collection::vec((install_step(), time()), 1..30)) {
        let host = sample::host("a");
        let mut token = sample::install_token(&host);
        let mut winner: Option<Claim> = None;
        let mut revoked = false;
        for (step, now) in steps {
            let before = token.clone();
            match step {
                InstallStep::Exchange(claim) => match token.exchange(&claim, None, now) {
                    Exchange::Grant => {
                        prop_assert!(winner.is_none() && !revoked && now < token.expires_at);
                        let bought = sample::agent_token(&host).id;
                        token = token.consume(claim, bought, now).expect("what is granted can be consumed");
                        winner = Some(claim);
                    }
                    Exchange::Repeat { .. } => prop_assert_eq!(winner, Some(claim)),
                    Exchange::AlreadyUsed { contested } => {
                        prop_assert!(winner.is_some());
                        // An idempotency key whose token is in use is no stranger; anybody else is.
                        let own_key = winner == Some(claim)
                            && matches!(claim, Claim::Server { idempotency_key_hash: Some(_) });
                        prop_assert_eq!(contested, !own_key);
                    }
                    Exchange::Invalid => {
                        prop_assert!(winner.is_none() && (revoked || now >= token.expires_at));
                    }
                },
                InstallStep::Revoke => {
                    let can = winner.is_none() && !revoked;
                    match token.clone().revoke(now) {
                        Ok(gone) => { prop_assert!(can); token = gone; revoked = true; }
                        Err(error) => {
                            prop_assert!(!can);
                            prop_assert_eq!(error.attempted, "revoke");
                            prop_assert_eq!(error.state, token.status(now).as_str());
                        }
                    }
                }
            }
            let is_final = !matches!(before.state, InstallTokenState::Issued);
            prop_assert!(!is_final || before.state == token.state, "a final state is never left");
        }
    }

    #[test]
    fn a_consumed_install_token_is_never_usable_again(
        won in claim(), other in claim(), when in (0i64..2_000_000).prop_map(at), later in time(),
    ) {
        let host = sample::host("a");
        let token = InstallToken { expires_at: Timestamp::MAX, ..sample::install_token(&host) };
        let bought = sample::agent_token(&host);
        let token = token.consume(won, bought.id, when).unwrap();
        prop_assert!(token.clone().consume(other, bought.id, later).is_err());
        prop_assert!(token.clone().revoke(later).is_err());
        prop_assert_eq!(token.status(later), InstallTokenStatus::Consumed);
        let verdict = token.exchange(&other, Some(&bought), later);
        let same = match (won, other) {
            (Claim::Client(a), Claim::Client(b)) => a == b,
            (Claim::Server { idempotency_key_hash: Some(a) }, Claim::Server { idempotency_key_hash: Some(b) }) => a == b,
            _ => false,
        };
        if same {
            prop_assert_eq!(verdict, Exchange::Repeat { agent_token: bought.id });
        } else {
            prop_assert_eq!(verdict, Exchange::AlreadyUsed { contested: true });
        }
    }

    #[test]
    fn time_only_ever_expires_an_install_token(earlier in time(), later in time(), claim in claim()) {
        let (earlier, later) = (earlier.min(later), earlier.max(later));
        let token = sample::install_token(&sample::host("a"));
        let (before, after) = (token.exchange(&claim, None, earlier), token.exchange(&claim, None, later));
        prop_assert!(before == after || (before == Exchange::Grant && after == Exchange::Invalid));
    }
}

#[derive(Debug, Clone, Copy)]
enum TokenStep {
    Promote,
    RetireBy(RetiredBy),
    Displace,
    Revoke(RevokeReason),
}

fn token_step() -> impl Strategy<Value = TokenStep> {
    prop_oneof![
        Just(TokenStep::Promote),
        Just(TokenStep::RetireBy(RetiredBy::Agent)),
        Just(TokenStep::RetireBy(RetiredBy::Administrator)),
        Just(TokenStep::Displace),
        Just(TokenStep::Revoke(RevokeReason::Administrator)),
        Just(TokenStep::Revoke(RevokeReason::CutOff)),
    ]
}

fn apply(token: AgentToken, step: TokenStep, now: Timestamp) -> Result<AgentToken, enlist_core::InvalidTransition> {
    let host = sample::host("a");
    let predecessor = token.id;
    match step {
        TokenStep::Promote => token.promote(None, now),
        TokenStep::RetireBy(by) => {
            let origin = match by {
                RetiredBy::Agent => Origin::Proposed { predecessor },
                RetiredBy::Administrator => Origin::Rotated { predecessor, by: sample::actor() },
            };
            token.retire(&AgentToken { origin, ..sample::agent_token(&host) }, now)
        }
        TokenStep::Displace => token.displace(sample::agent_token(&host).id, now),
        TokenStep::Revoke(reason) => token.revoke(reason, now),
    }
}

fn name(state: AgentTokenState) -> &'static str {
    AgentToken { state, ..sample::agent_token(&sample::host("a")) }.state_name()
}

fn any_state() -> impl Strategy<Value = AgentTokenState> {
    let other = sample::agent_token(&sample::host("a")).id;
    prop_oneof![
        Just(AgentTokenState::Pending),
        time().prop_map(|since| AgentTokenState::Active { since }),
        (time(), any::<bool>()).prop_map(move |(at, agent)| AgentTokenState::Retired {
            at,
            successor: other,
            by: if agent { RetiredBy::Agent } else { RetiredBy::Administrator },
        }),
        time().prop_map(move |at| AgentTokenState::Displaced { at, by: other }),
        time().prop_map(|at| AgentTokenState::Revoked { at, reason: RevokeReason::CutOff }),
    ]
}

proptest! {
    #[test]
    fn an_agent_token_moves_only_along_its_table(
        steps in prop::collection::vec((token_step(), time()), 1..20),
        expires_at in prop::option::of(time()),
    ) {
        const EDGES: &[(&str, &str)] = &[
            ("pending", "active"), ("pending", "displaced"), ("pending", "revoked"),
            ("active", "retired"), ("active", "revoked"),
        ];
        let mut token = AgentToken { expires_at, ..sample::agent_token(&sample::host("a")) };
        for (step, now) in steps {
            let before = token.clone();
            match apply(token.clone(), step, now) {
                Ok(after) => {
                    let edge = (before.state_name(), after.state_name());
                    prop_assert!(EDGES.contains(&edge), "{edge:?}");
                    // Nothing but the state moves.
                    prop_assert_eq!(AgentToken { state: before.state, ..after.clone() }, before);
                    token = after;
                }
                Err(error) => {
                    prop_assert_eq!(error.state, before.state_name());
                    prop_assert_eq!(error.entity, "agent token");
                }
            }
        }
    }

    /// What may be served at a moment could be served at every earlier one: time opens no door.
    #[test]
    fn time_only_ever_expires_an_agent_token(
        state in any_state(), expires_at in prop::option::of(time()), earlier in time(), later in time(),
    ) {
        let (earlier, later) = (earlier.min(later), earlier.max(later));
        let token = AgentToken { state, expires_at, ..sample::agent_token(&sample::host("a")) };
        let judge = |now| token.judge(false, Request::Serve, Siblings::default(), now);
        let served = |verdict| matches!(verdict, Verdict::Serve | Verdict::PromoteFirst);
        prop_assert!(!served(judge(later)) || served(judge(earlier)));
    }

    #[test]
    fn only_pending_and_active_tokens_are_ever_served(
        state in any_state(), expires_at in prop::option::of(time()), now in time(), archived in any::<bool>(),
    ) {
        let token = AgentToken { state, expires_at, ..sample::agent_token(&sample::host("a")) };
        let verdict = token.judge(archived, Request::Serve, Siblings::default(), now);
        let expired = expires_at.is_some_and(|at| now >= at);
        let expected = match state {
            _ if archived => Verdict::Refused(Refusal::HostArchived),
            AgentTokenState::Revoked { .. } => Verdict::Refused(Refusal::Revoked),
            _ if expired => Verdict::Refused(Refusal::Expired),
            AgentTokenState::Pending => Verdict::PromoteFirst,
            AgentTokenState::Active { .. } => Verdict::Serve,
            AgentTokenState::Displaced { .. } => Verdict::Refused(Refusal::Displaced),
            AgentTokenState::Retired { by: RetiredBy::Agent, at, .. }
                if now.saturating_since(at) > RETIRE_GRACE => Verdict::Refused(Refusal::ReuseDetected),
            AgentTokenState::Retired { .. } => Verdict::Refused(Refusal::Superseded),
        };
        prop_assert_eq!(verdict, expected, "in {}", name(state));
    }

    /// The rows *Active, propose p*, with and without a pending successor of any age and maker.
    #[test]
    fn a_proposal_is_judged_by_the_first_row_that_matches(
        same in any::<bool>(), seen_elsewhere in any::<bool>(), age_hours in 0u64..48,
        pending_by in prop::option::of(any::<bool>()),
    ) {
        let host = sample::host("a");
        let active = AgentToken { state: AgentTokenState::Active { since: at(0) }, ..sample::agent_token(&host) };
        let pending = pending_by.map(|by_agent| AgentToken {
            origin: match by_agent {
                true => Origin::Proposed { predecessor: active.id },
                false => Origin::Rotated { predecessor: active.id, by: sample::actor() },
            },
            created_at: at(0),
            ..sample::agent_token(&host)
        });
        let hash = match &pending {
            Some(pending) if same => pending.hash,
            _ => sample::hash(),
        };
        let now = at(0).saturating_add(Duration::from_secs(age_hours * 3600));
        let siblings = Siblings { pending: pending.as_ref(), successor: None };
        let verdict = active.judge(false, Request::Propose { hash, seen_elsewhere }, siblings, now);
        let old = Duration::from_secs(age_hours * 3600) >= PENDING_YIELDS_AFTER;
        let expected = match (&pending, pending_by) {
            (Some(_), _) if same => Verdict::Repeat,
            _ if seen_elsewhere => Verdict::Refused(Refusal::ClaimInUse),
            (None, _) => Verdict::Accept { displaces: None },
            (Some(pending), _) if old => Verdict::Accept { displaces: Some(pending.id) },
            (Some(_), Some(false)) => Verdict::Refused(Refusal::RotationPending),
            (Some(_), _) => Verdict::Refused(Refusal::RotationConflict),
        };
        prop_assert_eq!(verdict, expected);
    }

    #[test]
    fn an_expired_token_can_propose_for_seven_days_and_nothing_else(
        after_expiry in 0u64..(10 * 24 * 3600), propose in any::<bool>(),
    ) {
        let token = AgentToken {
            state: AgentTokenState::Active { since: at(0) },
            expires_at: Some(at(100)),
            ..sample::agent_token(&sample::host("a"))
        };
        let request = match propose {
            true => Request::Propose { hash: sample::hash(), seen_elsewhere: false },
            false => Request::Serve,
        };
        let now = at(100).saturating_add(Duration::from_secs(after_expiry));
        let expected = match propose && Duration::from_secs(after_expiry) <= EXPIRY_GRACE {
            true => Verdict::Accept { displaces: None },
            false => Verdict::Refused(Refusal::Expired),
        };
        prop_assert_eq!(token.judge(false, request, Siblings::default(), now), expected);
    }

    #[test]
    fn a_retired_token_may_only_repeat_its_own_proposal(
        own in any::<bool>(), since in 0u64..120, by_agent in any::<bool>(),
    ) {
        let host = sample::host("a");
        let successor = sample::agent_token(&host);
        let by = if by_agent { RetiredBy::Agent } else { RetiredBy::Administrator };
        let token = AgentToken {
            state: AgentTokenState::Retired { at: at(0), successor: successor.id, by },
            ..sample::agent_token(&host)
        };
        let hash = if own { successor.hash } else { sample::hash() };
        let request = Request::Propose { hash, seen_elsewhere: !own };
        let siblings = Siblings { pending: None, successor: Some(&successor) };
        let expected = match (by, own) {
            (RetiredBy::Administrator, _) => Verdict::Refused(Refusal::Superseded),
            (RetiredBy::Agent, true) => Verdict::Repeat,
            _ if Duration::from_secs(since) <= RETIRE_GRACE => Verdict::Refused(Refusal::Superseded),
            _ => Verdict::Refused(Refusal::ReuseDetected),
        };
        let now = at(0).saturating_add(Duration::from_secs(since));
        prop_assert_eq!(token.judge(false, request, siblings, now), expected);
    }
}

#[derive(Debug, Clone, Copy)]
enum HostStep {
    Archive,
    Enrol,
    Cordon(bool),
    NextGeneration,
}

proptest! {
    #[test]
    fn a_host_is_archived_once_and_for_ever(
        steps in prop::collection::vec((prop_oneof![
            Just(HostStep::Archive), Just(HostStep::Enrol), any::<bool>().prop_map(HostStep::Cordon),
            Just(HostStep::NextGeneration),
        ], time()), 1..20),
    ) {
        let mut host = sample::host("a");
        for (step, now) in steps {
            let before = host.clone();
            let after = match step {
                HostStep::Archive => Ok(host.clone().archive(now)),
                HostStep::Enrol => host.clone().enrol(now),
                HostStep::Cordon(cordoned) => host.clone().cordon(cordoned, now),
                HostStep::NextGeneration => Ok(host.clone().next_generation(now)),
            };
            match after {
                Ok(after) => host = after,
                Err(error) => {
                    prop_assert!(before.is_archived());
                    prop_assert_eq!(error.state, "archived");
                }
            }
            prop_assert!(host.generation >= before.generation);
            if let Lifecycle::Archived { at } = before.lifecycle {
                prop_assert_eq!(host.lifecycle, Lifecycle::Archived { at });
                prop_assert_eq!((host.enrolled_at, host.cordoned), (before.enrolled_at, before.cordoned));
            } else if host.is_archived() {
                prop_assert!(host.generation > before.generation, "archiving ends the epoch");
            }
            prop_assert!(before.enrolled_at.is_none() || host.enrolled_at == before.enrolled_at);
        }
    }

    /// Contacts and sweeps in any order: Pending is left once, last_seen never goes back, silence never beats a contact
    /// that is newer than its window.
    #[test]
    fn presence_follows_contact_and_silence(
        steps in prop::collection::vec((any::<bool>(), 0i64..2_000), 1..40), window in 1u64..200,
    ) {
        let window = Duration::from_secs(window);
        let mut presence = Presence::Pending;
        for (contact, seconds) in steps {
            let (before, now) = (presence, at(seconds));
            presence = if contact { before.contact(now) } else { before.silence(now, window) };
            prop_assert!(presence.last_seen_at() >= before.last_seen_at());
            match (before.status(), presence.status(), contact) {
                (same, other, _) if same == other => {}
                (Status::Pending | Status::Unreachable, Status::Online, true) => {
                    prop_assert_eq!(presence.last_seen_at(), Some(now));
                }
                (Status::Online, Status::Unreachable, false) => {
                    prop_assert!(now.saturating_since(before.last_seen_at().unwrap()) > window);
                }
                edge => prop_assert!(false, "{edge:?}"),
            }
            if contact && before.last_seen_at() < Some(now) {
                prop_assert_eq!(presence, Presence::Online { last_seen_at: now });
            }
        }
    }

    #[test]
    fn archived_wins_over_presence(seconds in 0i64..100, archived in any::<bool>()) {
        let presence = Presence::Pending.contact(at(seconds));
        let lifecycle = if archived { Lifecycle::Archived { at: at(1) } } else { Lifecycle::Live };
        let expected = if archived { Status::Archived } else { Status::Online };
        prop_assert_eq!(Status::of(lifecycle, presence), expected);
    }

    #[test]
    fn a_timestamp_is_written_and_read_back(micros in Timestamp::MIN.unix_micros()..=Timestamp::MAX.unix_micros()) {
        let at = Timestamp::from_unix_micros(micros).unwrap();
        prop_assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        let json = serde_json::to_string(&at).unwrap();
        prop_assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), at);
    }
}

/// The last moment of each grace, and the first one after it.
#[test]
fn graces_hold_to_the_microsecond() {
    let host = sample::host("a");
    let just_after = |moment: Timestamp| moment.saturating_add(Duration::from_micros(1));
    let state = AgentTokenState::Retired { at: at(0), successor: sample::agent_token(&host).id, by: RetiredBy::Agent };
    let retired = AgentToken { state, ..sample::agent_token(&host) };
    let serve = |now| retired.judge(false, Request::Serve, Siblings::default(), now);
    let end = at(0).saturating_add(RETIRE_GRACE);
    assert_eq!(serve(end), Verdict::Refused(Refusal::Superseded));
    assert_eq!(serve(just_after(end)), Verdict::Refused(Refusal::ReuseDetected));

    let state = AgentTokenState::Active { since: at(0) };
    let expired = AgentToken { state, expires_at: Some(at(1)), ..sample::agent_token(&host) };
    let request = Request::Propose { hash: sample::hash(), seen_elsewhere: false };
    let propose = |now| expired.judge(false, request, Siblings::default(), now);
    let end = at(1).saturating_add(EXPIRY_GRACE);
    assert_eq!(propose(end), Verdict::Accept { displaces: None });
    assert_eq!(propose(just_after(end)), Verdict::Refused(Refusal::Expired));

    let unreachable = Presence::Unreachable { last_seen_at: at(5), since: at(100) };
    assert_eq!(unreachable.contact(at(5)), unreachable);
    let later = just_after(at(5));
    assert_eq!(unreachable.contact(later), Presence::Online { last_seen_at: later });
}

proptest! {
    /// Whoever follows the verdict is not refused by the transition.
    #[test]
    fn what_is_to_be_promoted_first_can_be(
        state in any_state(), expires_at in prop::option::of(time()), now in time(), propose in any::<bool>(),
    ) {
        let token = AgentToken { state, expires_at, ..sample::agent_token(&sample::host("a")) };
        let request = match propose {
            true => Request::Propose { hash: sample::hash(), seen_elsewhere: false },
            false => Request::Serve,
        };
        if token.judge(false, request, Siblings::default(), now) == Verdict::PromoteFirst {
            prop_assert!(token.promote(None, now).is_ok());
        }
    }
}

#[test]
fn a_timestamp_cuts_off_what_is_finer_than_a_microsecond() {
    let at: Timestamp = "2026-01-01T01:00:00.1234567899+01:00".parse().unwrap();
    assert_eq!(at.to_string(), "2026-01-01T00:00:00.123456Z");
    for text in ["1969-12-31T23:59:59Z", "2026-01-01", "2026-13-01T00:00:00Z", "", "now"] {
        assert!(text.parse::<Timestamp>().is_err(), "{text}");
    }
}
