//! The server: what its services do with the pure transitions of `enlist-core`, one commit at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use enlist_agent_sdk::keyring::Answer;
use enlist_core::agent_token::{
    AgentToken, AgentTokenState, CredentialKind, Draft, Origin, PENDING_YIELDS_AFTER, Refusal, Request, RevokeReason,
    Siblings, Verdict,
};
use enlist_core::install_token::{Binding, Claim, Exchange, InstallToken, InstallTokenState};
use enlist_core::lineage::{Lineage, Overlap, Promotion};
use enlist_core::{ActorId, AgentTokenId, HostId, InstallTokenId, LineageId, TenantId, Timestamp, TokenHash};
use uuid::Uuid;

use crate::config::Config;
use crate::message::{Call, Reply, Secret};
use crate::mutation::Mutation;
use crate::time::{NOW, Pace, age, forget};

/// How long a token lives, where tokens expire.
const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The host's aggregate, and what has been said about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// The one install token.
    pub install_token: InstallToken,
    /// Every agent token there ever was.
    pub tokens: BTreeMap<AgentTokenId, AgentToken>,
    /// The alarms raised.
    pub alarms: Alarms,
    /// Whether a final state was ever written over.
    pub rewritten: bool,
    /// Whether an administrator cut a credential off.
    pub cut_off: bool,
}

/// Events that say that somebody else may hold a secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Alarms {
    /// `enrolment.contested`.
    pub contested: bool,
    /// `rotation_conflict`.
    pub conflict: bool,
    /// `rotation.displaced`, of a successor that an agent had made.
    pub displaced: bool,
    /// `token_reuse_detected`.
    pub reuse: bool,
}

impl Alarms {
    /// Whether any was raised.
    pub const fn any(self) -> bool {
        self.contested || self.conflict || self.displaced || self.reuse
    }
}

/// What handling a call led to, beside the reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effect {
    /// The token that followed another with this call.
    pub completed: Option<Secret>,
    /// Whether a new successor was accepted.
    pub accepted: bool,
}

impl Server {
    /// A host with an install token that nobody has used.
    pub fn new() -> Self {
        let install_token = InstallToken {
            id: InstallTokenId::from_uuid(Uuid::from_u128(1)),
            tenant_id: TenantId::new("tenant").expect("a short text"),
            binding: Binding::Host(host()),
            hash: TokenHash::from_bytes([0; 32]),
            credential_kind: CredentialKind::Bearer,
            state: InstallTokenState::Issued,
            created_by: administrator(),
            created_at: NOW,
            expires_at: Timestamp::MAX,
        };
        Self { install_token, tokens: BTreeMap::new(), alarms: Alarms::default(), rewritten: false, cut_off: false }
    }

    /// The token with this secret.
    pub fn token(&self, secret: Secret) -> Option<&AgentToken> {
        let hash = secret.hash();
        self.tokens.values().find(|token| token.hash == hash)
    }

    /// Answers a call. `halfway`: the program dies between its first commit and the next.
    pub fn answer(&mut self, call: Call, halfway: bool, config: &Config) -> (Option<Reply>, Effect) {
        let mut effect = Effect::default();
        let reply = match call {
            Call::Exchange(secret) => self.exchange(Claim::Client(secret.hash()), secret, config),
            Call::ExchangeByKey(key) => {
                let drawn = u8::try_from(self.tokens.len()).unwrap_or(u8::MAX);
                let claim = Claim::Server { idempotency_key_hash: Some(key.hash()) };
                self.exchange(claim, Secret::derived(drawn), config)
            }
            Call::Serve(token) => Reply::To(self.present(token, None, halfway, &mut effect, config)),
            Call::Propose(token, successor) => {
                Reply::To(self.present(token, Some(successor), halfway, &mut effect, config))
            }
        };
        ((!halfway).then_some(reply), effect)
    }

    /// As `Fleet::enrol`: load, judge, commit.
    fn exchange(&mut self, claim: Claim, drawn: Secret, config: &Config) -> Reply {
        let bought = match self.install_token.state {
            InstallTokenState::Consumed { agent_token, .. } => self.tokens.get(&agent_token).cloned(),
            _ => None,
        };
        match self.install_token.exchange(&claim, bought.as_ref(), NOW) {
            Exchange::Invalid => Reply::NotBought,
            Exchange::AlreadyUsed { contested } => {
                self.alarms.contested |= contested;
                Reply::NotBought
            }
            Exchange::Repeat { .. } => {
                let Some(bought) = bought else { return Reply::NotBought };
                // "That refusal", its alarm included.
                if let Verdict::Refused(refusal) = bought.judge(false, Request::Serve, Siblings::default(), NOW) {
                    self.alarms.reuse |= refusal == Refusal::ReuseDetected;
                    return Reply::NotBought;
                }
                let mut secret = Secret::of_hash(&bought.hash);
                if matches!(claim, Claim::Server { .. }) && config.lacks(Mutation::RepeatRedraws) {
                    secret = drawn;
                    self.tokens.insert(bought.id, AgentToken { hash: drawn.hash(), ..bought });
                }
                Reply::Bought(matches!(claim, Claim::Server { .. }).then_some(secret))
            }
            Exchange::Grant => {
                if self.was_seen(drawn.hash()) {
                    return Reply::ClaimInUse;
                }
                let lineage_id = LineageId::from_uuid(Uuid::from_u128(u128::from(drawn.number())));
                let earlier = self.live().filter(|token| matches!(token.origin, Origin::Exchange(_))).collect();
                let bought = self.install_token.clone().buy(claim, draft(drawn), host(), lineage_id, earlier, NOW);
                let Ok(purchase) = bought else { return Reply::NotBought };
                self.install_token = purchase.spent;
                purchase.ended.into_iter().chain([purchase.bought]).for_each(|token| self.put(token));
                Reply::Bought(matches!(claim, Claim::Server { .. }).then_some(drawn))
            }
        }
    }

    /// As the rotation table has it: judge, commit, and judge again after a promotion.
    fn present(
        &mut self,
        secret: Secret,
        proposed: Option<Secret>,
        halfway: bool,
        effect: &mut Effect,
        config: &Config,
    ) -> Answer {
        loop {
            let Some(token) = self.token(secret).cloned() else { return Answer::Unknown };
            if config.lacks(Mutation::PendingLapses)
                && matches!(token.state, AgentTokenState::Pending)
                && age(token.created_at) >= PENDING_YIELDS_AFTER
            {
                return Answer::Refused(Refusal::Revoked);
            }
            let lineage = self.lineage(token.lineage_id);
            let verdict = self.judge(&lineage, &token, proposed, config);
            match verdict {
                Verdict::Serve | Verdict::Repeat => return Answer::Accepted,
                Verdict::PromoteFirst => {
                    let Ok(Promotion { promoted, retired }) = lineage.promote(config.expires.then_some(LIFE), NOW)
                    else {
                        unreachable!("what is to be promoted first is pending");
                    };
                    effect.completed = retired.is_some().then_some(secret);
                    retired.into_iter().chain([promoted]).for_each(|token| self.put(token));
                    if halfway {
                        return Answer::Unanswered;
                    }
                }
                Verdict::Accept { displaces } => {
                    let Some(proposed) = proposed else { unreachable!("only a proposal is accepted") };
                    let Ok(proposal) = lineage.propose(draft(proposed), displaces, NOW) else {
                        unreachable!("what the table accepts can be proposed");
                    };
                    let displaced = proposal.displaced;
                    self.alarms.displaced |=
                        displaced.as_ref().is_some_and(|token| matches!(token.origin, Origin::Proposed { .. }));
                    displaced.into_iter().chain([proposal.proposed]).for_each(|token| self.put(token));
                    if config.lacks(Mutation::IssueThenRevoke) {
                        let revoked = token.revoke(RevokeReason::CutOff, NOW).expect("it is active");
                        self.put(revoked);
                    }
                    effect.accepted = true;
                    return Answer::Accepted;
                }
                Verdict::Refused(refusal) => {
                    self.alarms.conflict |= refusal == Refusal::RotationConflict;
                    self.alarms.reuse |= refusal == Refusal::ReuseDetected;
                    return Answer::Refused(refusal);
                }
            }
        }
    }

    fn judge(&self, lineage: &Lineage, token: &AgentToken, proposed: Option<Secret>, config: &Config) -> Verdict {
        let successor = match token.state {
            AgentTokenState::Retired { successor, .. } => self.tokens.get(&successor),
            _ => None,
        };
        let request = match proposed.map(Secret::hash) {
            None => Request::Serve,
            Some(hash) => {
                let near = [lineage.pending.as_ref(), successor];
                let is_near = near.into_iter().flatten().any(|token| token.hash == hash);
                Request::Propose { hash, seen_elsewhere: !is_near && self.was_seen(hash) }
            }
        };
        if config.lacks(Mutation::RotatedNeverYields)
            && let Some(pending @ AgentToken { origin: Origin::Rotated { .. }, .. }) = &lineage.pending
        {
            let pending = Some(AgentToken { created_at: NOW, ..pending.clone() });
            return Lineage { pending, ..lineage.clone() }.judge(token, successor, false, request, NOW);
        }
        lineage.judge(token, successor, false, request, NOW)
    }

    /// An administrator rotates what is live. `None` when that is refused.
    pub fn rotate(&mut self, secret: Secret, overlap: Overlap) -> Option<()> {
        let is_active = |token: &AgentToken| matches!(token.state, AgentTokenState::Active { .. });
        let token = self.live().max_by_key(is_active)?;
        let lineage = self.lineage(token.lineage_id);
        let replacement = lineage.rotate(&token, draft(secret), overlap, administrator(), NOW).ok()?;
        replacement.ended.into_iter().chain([replacement.successor]).for_each(|token| self.put(token));
        self.cut_off |= overlap == Overlap::None;
        Some(())
    }

    /// The tokens that have not expired and can.
    pub fn expiring(&self) -> impl Iterator<Item = Secret> {
        let tokens = self.tokens.values().filter(|token| token.expires_at.is_some_and(|at| at > NOW));
        tokens.map(|token| Secret::of_hash(&token.hash))
    }

    /// A token's time is over, just now: it can still propose.
    pub fn expire(&mut self, secret: Secret) {
        let hash = secret.hash();
        for token in self.tokens.values_mut().filter(|token| token.hash == hash) {
            token.expires_at = Some(NOW);
        }
    }

    /// One step later.
    pub fn step(&mut self, pace: Pace) {
        self.each(|token| pace.step(token));
    }

    /// A day later.
    pub fn day(&mut self, pace: Pace) {
        self.each(|token| pace.day(token));
    }

    fn each(&mut self, later: impl Fn(AgentToken) -> AgentToken) {
        self.tokens = std::mem::take(&mut self.tokens).into_iter().map(|(id, token)| (id, later(token))).collect();
    }

    fn live(&self) -> impl Iterator<Item = AgentToken> {
        self.tokens.values().filter(|token| token.is_live()).cloned()
    }

    fn lineage(&self, id: LineageId) -> Lineage {
        Lineage::among(self.live(), id)
    }

    fn was_seen(&self, hash: TokenHash) -> bool {
        self.tokens.values().any(|token| token.hash == hash)
    }

    fn put(&mut self, token: AgentToken) {
        let token = forget(token);
        if let Some(earlier) = self.tokens.get(&token.id) {
            self.rewritten |= !earlier.is_live() && earlier.state != token.state;
        }
        self.tokens.insert(token.id, token);
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

fn draft(secret: Secret) -> Draft {
    let id = AgentTokenId::from_uuid(Uuid::from_u128(u128::from(secret.number())));
    Draft { id, hash: secret.hash() }
}

fn host() -> HostId {
    HostId::from_uuid(Uuid::from_u128(1))
}

fn administrator() -> ActorId {
    ActorId::new("admin").expect("a short text")
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, token) in self.tokens.values().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{} {}", Secret::of_hash(&token.hash), token.state_name())?;
        }
        Ok(())
    }
}
