//! The agent token: `Pending → Active → Retired`, or `Displaced`, or `Revoked`; expiry is derived from time.
//!
//! *Unused* means Pending, a durable fact: the first authenticated use promotes it. A lineage is a credential and its
//! successors; it has at most one Active and at most one Pending token.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::InvalidTransition;
use crate::id::{ActorId, AgentTokenId, HostId, InstallTokenId, LineageId};
use crate::secret::TokenHash;
use crate::text::bounded_text;

/// How long a token retired by its own agent is refused without an alarm: a late duplicate is not a theft.
pub const RETIRE_GRACE: Duration = Duration::from_secs(30);
/// From what age on a pending successor yields to another proposal.
pub const PENDING_YIELDS_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// For how long after its expiry a token can still propose a successor.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

bounded_text! {
    /// What people call an agent token.
    TokenName, "token name", 1..=128, Printable
}

/// What an agent token is presented for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// Presented with every request.
    Bearer,
    /// Presented for short-lived access tokens.
    Refresh,
}

impl CredentialKind {
    /// The name on the wire and in stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Refresh => "refresh",
        }
    }
}

/// A host's credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentToken {
    /// Its public identity.
    pub id: AgentTokenId,
    /// Whose it is.
    pub host_id: HostId,
    /// The line of successors that it stands in.
    pub lineage_id: LineageId,
    /// What it is looked up by. Accepted once, ever, over all hosts.
    pub hash: TokenHash,
    /// What it is presented for.
    pub kind: CredentialKind,
    /// What people call it.
    pub name: Option<TokenName>,
    /// How it came to be.
    pub origin: Origin,
    /// Where it stands.
    pub state: AgentTokenState,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused, if ever. One that was not given a time of its own gets it with its first use: nothing
    /// lapses before that.
    pub expires_at: Option<Timestamp>,
}

/// How an agent token came to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Bought with an install token: the head of a lineage.
    Exchange(InstallTokenId),
    /// Issued by an administrator: the head of a lineage.
    Issued(ActorId),
    /// Proposed by the agent that held its predecessor.
    Proposed {
        /// The token that it follows.
        predecessor: AgentTokenId,
    },
    /// Made by an administrator as a successor.
    Rotated {
        /// The token that it follows.
        predecessor: AgentTokenId,
        /// Who asked for it.
        by: ActorId,
    },
}

impl Origin {
    /// The token that it follows, unless it is the head of its lineage.
    pub const fn predecessor(&self) -> Option<AgentTokenId> {
        match self {
            Self::Exchange(_) | Self::Issued(_) => None,
            Self::Proposed { predecessor } | Self::Rotated { predecessor, .. } => Some(*predecessor),
        }
    }
}

/// The states of an agent token. `Retired`, `Displaced` and `Revoked` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentTokenState {
    /// Never presented yet.
    Pending,
    /// In use.
    Active {
        /// When it was first presented.
        since: Timestamp,
    },
    /// Its successor was presented.
    Retired {
        /// When.
        at: Timestamp,
        /// Which one.
        successor: AgentTokenId,
        /// Who had made the successor.
        by: RetiredBy,
    },
    /// A successor that was never presented, and yielded to another.
    Displaced {
        /// When.
        at: Timestamp,
        /// To which one.
        by: AgentTokenId,
    },
    /// Cut off.
    Revoked {
        /// When.
        at: Timestamp,
        /// Why.
        reason: RevokeReason,
    },
}

/// Who made the successor of a retired token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetiredBy {
    /// Its own agent, which therefore must not present it any more.
    Agent,
    /// An administrator.
    Administrator,
}

/// Why a token was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// An administrator revoked it.
    Administrator,
    /// An administrator rotated it without overlap.
    CutOff,
    /// The host was archived.
    HostArchived,
    /// The host enrolled anew, since its credential was lost.
    Reenrolled,
    /// A retired token of its lineage was presented.
    ReuseDetected,
}

/// An agent token that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// Its public identity.
    pub id: AgentTokenId,
    /// SHA-256 of its secret.
    pub hash: TokenHash,
}

/// What is asked with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Anything but a proposal.
    Serve,
    /// A successor is proposed.
    Propose {
        /// Its hash.
        hash: TokenHash,
        /// Whether any token but those in [`Siblings`] ever had it.
        seen_elsewhere: bool,
    },
}

/// The other tokens of a presented token's lineage, as far as the table asks for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Siblings<'a> {
    /// The pending successor.
    pub pending: Option<&'a AgentToken>,
    /// The token that retired the presented one.
    pub successor: Option<&'a AgentToken>,
}

/// What a presented token leads to: the rows of the rotation table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Served as it is.
    Serve,
    /// Promote it in a durable commit, then judge again.
    PromoteFirst,
    /// The proposal was accepted before: 200, nothing changes.
    Repeat,
    /// The proposal becomes the pending successor, in place of the one that it displaces.
    Accept {
        /// A pending successor that is too old to stand in the way.
        displaces: Option<AgentTokenId>,
    },
    /// Refused.
    Refused(Refusal),
}

/// Why a presented token, or its proposal, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 401 `host_archived`: stop.
    HostArchived,
    /// 401 `token_revoked`.
    Revoked,
    /// 401 `token_expired`.
    Expired,
    /// 401 `token_superseded`, no alarm.
    Superseded,
    /// 401 `token_reuse_detected`, an alarm.
    ReuseDetected,
    /// 401 `token_displaced`.
    Displaced,
    /// 409 `claim_in_use`, no alarm: draw another.
    ClaimInUse,
    /// 409 `rotation_pending`: an administrator's successor waits; no alarm.
    RotationPending,
    /// 409 `rotation_conflict`: another holder proposed; an alarm.
    RotationConflict,
}

impl AgentToken {
    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| now >= at)
    }

    /// Whether it expired so long ago that it cannot even propose a successor.
    pub fn is_expired_for_good(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| now.saturating_since(at) > EXPIRY_GRACE)
    }

    /// Whether it is Pending or Active.
    pub const fn is_live(&self) -> bool {
        matches!(self.state, AgentTokenState::Pending | AgentTokenState::Active { .. })
    }

    /// Whether it ended since another took its place, which ends nothing that it has bought.
    pub const fn was_replaced(&self) -> bool {
        matches!(self.state, AgentTokenState::Retired { .. } | AgentTokenState::Displaced { .. })
    }

    /// Judges the presented token by the first row of the rotation table that matches.
    pub fn judge(&self, host_archived: bool, request: Request, siblings: Siblings<'_>, now: Timestamp) -> Verdict {
        use Verdict::Refused;
        if host_archived {
            return Refused(Refusal::HostArchived);
        }
        if matches!(self.state, AgentTokenState::Revoked { .. }) {
            return Refused(Refusal::Revoked);
        }
        if self.is_expired(now) && (self.is_expired_for_good(now) || !matches!(request, Request::Propose { .. })) {
            return Refused(Refusal::Expired);
        }
        match (self.state, request) {
            (AgentTokenState::Pending, _) => Verdict::PromoteFirst,
            (AgentTokenState::Active { .. }, Request::Serve) => Verdict::Serve,
            (AgentTokenState::Active { .. }, Request::Propose { hash, seen_elsewhere }) => {
                judge_proposal(hash, seen_elsewhere, siblings.pending, now)
            }
            (AgentTokenState::Retired { by: RetiredBy::Administrator, .. }, _) => Refused(Refusal::Superseded),
            (AgentTokenState::Retired { at, .. }, request) => {
                let own = siblings.successor.map(|token| token.hash);
                match request {
                    Request::Propose { hash, .. } if own == Some(hash) => Verdict::Repeat,
                    _ if now.saturating_since(at) <= RETIRE_GRACE => Refused(Refusal::Superseded),
                    _ => Refused(Refusal::ReuseDetected),
                }
            }
            (AgentTokenState::Displaced { .. }, _) => Refused(Refusal::Displaced),
            (AgentTokenState::Revoked { .. }, _) => Refused(Refusal::Revoked),
        }
    }

    /// How long it lives in all, if not for ever: what its successor is given too, unless the fleet says otherwise.
    pub fn life(&self) -> Option<Duration> {
        let begin = match (&self.origin, self.state) {
            // An administrator's own time was counted from the making.
            (Origin::Issued(_), _) => self.created_at,
            (_, AgentTokenState::Active { since }) => since,
            _ => self.created_at,
        };
        self.expires_at.map(|end| end.saturating_since(begin))
    }

    /// Its first authenticated use. Its life, if it has none yet, begins now. Whether it has expired is
    /// [`AgentToken::judge`]'s: one that expired lately is promoted to propose.
    ///
    /// # Errors
    /// Unless it is Pending.
    pub fn promote(self, life: Option<Duration>, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self.state {
            AgentTokenState::Pending => {
                let expires_at = self.expires_at.or_else(|| life.map(|life| now.saturating_add(life)));
                Ok(Self { state: AgentTokenState::Active { since: now }, expires_at, ..self })
            }
            _ => Err(self.refuse("promote")),
        }
    }

    /// Its successor was presented for the first time.
    ///
    /// # Errors
    /// Unless it is Active.
    pub fn retire(self, successor: &Self, now: Timestamp) -> Result<Self, InvalidTransition> {
        let by = match successor.origin {
            Origin::Proposed { .. } => RetiredBy::Agent,
            _ => RetiredBy::Administrator,
        };
        match self.state {
            AgentTokenState::Active { .. } => {
                Ok(Self { state: AgentTokenState::Retired { at: now, successor: successor.id, by }, ..self })
            }
            _ => Err(self.refuse("retire")),
        }
    }

    /// It yields to another successor.
    ///
    /// # Errors
    /// Unless it is Pending.
    pub fn displace(self, by: AgentTokenId, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self.state {
            AgentTokenState::Pending => Ok(Self { state: AgentTokenState::Displaced { at: now, by }, ..self }),
            _ => Err(self.refuse("displace")),
        }
    }

    /// Cuts it off.
    ///
    /// # Errors
    /// Unless it is Pending or Active: a final state is never rewritten.
    pub fn revoke(self, reason: RevokeReason, now: Timestamp) -> Result<Self, InvalidTransition> {
        if self.is_live() {
            Ok(Self { state: AgentTokenState::Revoked { at: now, reason }, ..self })
        } else {
            Err(self.refuse("revoke"))
        }
    }

    /// The name of its state on the wire and in stores; expiry not considered.
    pub const fn state_name(&self) -> &'static str {
        match self.state {
            AgentTokenState::Pending => "pending",
            AgentTokenState::Active { .. } => "active",
            AgentTokenState::Retired { .. } => "retired",
            AgentTokenState::Displaced { .. } => "displaced",
            AgentTokenState::Revoked { .. } => "revoked",
        }
    }

    fn refuse(&self, attempted: &'static str) -> InvalidTransition {
        InvalidTransition { entity: "agent token", state: self.state_name(), attempted }
    }
}

/// The rows *Active, propose p*.
fn judge_proposal(hash: TokenHash, seen_elsewhere: bool, pending: Option<&AgentToken>, now: Timestamp) -> Verdict {
    if pending.is_some_and(|token| token.hash == hash) {
        return Verdict::Repeat;
    }
    if seen_elsewhere {
        return Verdict::Refused(Refusal::ClaimInUse);
    }
    match pending {
        None => Verdict::Accept { displaces: None },
        Some(other) if now.saturating_since(other.created_at) >= PENDING_YIELDS_AFTER => {
            Verdict::Accept { displaces: Some(other.id) }
        }
        Some(AgentToken { origin: Origin::Rotated { .. }, .. }) => Verdict::Refused(Refusal::RotationPending),
        Some(_) => Verdict::Refused(Refusal::RotationConflict),
    }
}
