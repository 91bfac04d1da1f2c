//! What rotations do to a lineage, whatever comes in which order; and what an exchange buys.

use std::collections::BTreeMap;
use std::time::Duration;

use enlist_core::agent_token::{AgentToken, AgentTokenState, CredentialKind, Draft, Origin, RevokeReason};
use enlist_core::conformance::sample;
use enlist_core::install_token::{Claim, InstallToken, InstallTokenState};
use enlist_core::lineage::{CannotRotate, Lineage, Overlap};
use enlist_core::{AgentTokenId, LineageId, SystemEntropy, Timestamp};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Propose,
    Promote,
    Rotate { which: usize, overlap: Overlap },
    Revoke,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Propose),
        4 => Just(Step::Promote),
        2 => (0usize..8, prop_oneof![Just(Overlap::UntilFirstUse), Just(Overlap::None)])
            .prop_map(|(which, overlap)| Step::Rotate { which, overlap }),
        1 => Just(Step::Revoke),
    ]
}

fn draft(now: Timestamp) -> Draft {
    Draft { id: AgentTokenId::generate(now, &SystemEntropy), hash: sample::hash() }
}

type Tokens = BTreeMap<AgentTokenId, AgentToken>;

/// Puts what a step changed among the tokens. None that has ended is ever changed again.
fn write(tokens: &mut Tokens, changed: impl IntoIterator<Item = AgentToken>) -> Result<(), TestCaseError> {
    for token in changed {
        if let Some(before) = tokens.insert(token.id, token.clone()) {
            prop_assert!(before.is_live(), "{before:?} was changed into {token:?}");
            prop_assert_eq!(
                (before.hash, before.lineage_id, before.origin),
                (token.hash, token.lineage_id, token.origin)
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_lineage_has_one_active_and_one_pending_token_at_most(
        steps in prop::collection::vec((step(), 0i64..100_000), 1..40)
    ) {
        let host = sample::host("a");
        let head = AgentToken { state: AgentTokenState::Pending, ..sample::agent_token(&host) };
        let id = head.lineage_id;
        let mut tokens = Tokens::from([(head.id, head)]);
        let mut now = sample::at(1);
        for (step, seconds) in steps {
            now = now.saturating_add(Duration::from_secs(seconds.unsigned_abs()));
            let lineage = Lineage::among(tokens.values().cloned(), id);
            let (active, pending) = (lineage.active.clone(), lineage.pending.clone());
            match step {
                Step::Propose => {
                    let displaces = pending.as_ref().map(|token| token.id);
                    match lineage.propose(draft(now), displaces, now) {
                        Ok(proposal) => {
                            prop_assert!(active.is_some());
                            write(&mut tokens, proposal.displaced.into_iter().chain([proposal.proposed]))?;
                        }
                        Err(_) => prop_assert!(active.is_none()),
                    }
                }
                Step::Promote => match lineage.promote(None, now) {
                    Ok(promotion) => {
                        // The one in use works until the next one does, and then no more.
                        prop_assert_eq!(promotion.retired.as_ref().map(|token| token.id), active.map(|token| token.id));
                        write(&mut tokens, promotion.retired.into_iter().chain([promotion.promoted]))?;
                    }
                    Err(_) => prop_assert!(pending.is_none()),
                },
                Step::Rotate { which, overlap } => {
                    let token = tokens.values().nth(which % tokens.len()).cloned().expect("there is one");
                    match lineage.rotate(&token, draft(now), overlap, sample::actor(), now) {
                        Ok(replacement) => {
                            prop_assert!(token.is_live());
                            let cut = overlap == Overlap::None;
                            let ends_active = replacement.ended.iter().any(|token| active.as_ref().is_some_and(|it| it.id == token.id));
                            prop_assert_eq!(ends_active, cut && active.is_some());
                            write(&mut tokens, replacement.ended.into_iter().chain([replacement.successor]))?;
                        }
                        Err(CannotRotate::AgentSuccessorPending) => {
                            let proposed = |token: AgentToken| matches!(token.origin, Origin::Proposed { .. });
                            prop_assert!(pending.is_some_and(proposed));
                        }
                        Err(CannotRotate::NotLive) => {
                            prop_assert_ne!(token.state_name(), "active");
                        }
                    }
                }
                Step::Revoke => {
                    write(&mut tokens, lineage.revoke(RevokeReason::Administrator, now))?;
                    prop_assert!(tokens.values().all(|token| !token.is_live()));
                }
            }
            let count = |active: bool| {
                let live = tokens.values().filter(|token| token.is_live());
                live.filter(|token| matches!(token.state, AgentTokenState::Active { .. }) == active).count()
            };
            prop_assert!(count(true) <= 1 && count(false) <= 1, "{tokens:?}");
        }
    }

    #[test]
    fn only_an_issued_install_token_in_time_buys_and_it_ends_what_it_is_told_to(
        consumed: bool, revoked: bool, late in -2i64..3
    ) {
        let host = sample::host("a");
        let mut token: InstallToken = sample::install_token(&host);
        let now = Timestamp::from_unix_micros(token.expires_at.unix_micros() + late).expect("it is a time");
        if consumed {
            let claim = Claim::Client(sample::hash());
            token.state = InstallTokenState::Consumed { claim, at: sample::at(1), agent_token: draft(now).id };
        } else if revoked {
            token.state = InstallTokenState::Revoked { at: sample::at(1) };
        }
        let earlier = AgentToken { state: AgentTokenState::Active { since: sample::at(1) }, ..sample::agent_token(&host) };
        let draft = draft(now);
        let lineage_id = LineageId::generate(now, &SystemEntropy);
        let bought =
            token.clone().buy(Claim::Client(draft.hash), draft, host.id, lineage_id, vec![earlier.clone()], now);
        match bought {
            Ok(purchase) => {
                prop_assert!(!consumed && !revoked && late < 0);
                let InstallTokenState::Consumed { agent_token, .. } = purchase.spent.state else {
                    return Err(TestCaseError::fail("it is spent"));
                };
                prop_assert_eq!((agent_token, purchase.bought.id), (draft.id, draft.id));
                prop_assert_eq!(purchase.bought.state, AgentTokenState::Pending);
                prop_assert_eq!(purchase.bought.kind, CredentialKind::Bearer);
                prop_assert_eq!(purchase.ended.len(), 1);
                prop_assert!(!purchase.ended[0].is_live() && purchase.ended[0].id == earlier.id);
            }
            Err(_) => prop_assert!(consumed || revoked || late >= 0),
        }
    }
}
