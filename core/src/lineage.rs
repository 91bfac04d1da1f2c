//! A lineage: a credential and its successors. At most one of them is Active and at most one Pending.
//!
//! A rotation never takes the working credential away before the next one works: a successor is proposed or issued, and
//! only its first use retires what it follows. What a request with one token changes in the others stands here, as pure
//! functions of the tokens and the time; which of them applies is [`AgentToken::judge`]'s to say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent_token::{AgentToken, AgentTokenState, Draft, Origin, Request, RevokeReason, Siblings, Verdict};
use crate::clock::Timestamp;
use crate::error::InvalidTransition;
use crate::id::{ActorId, AgentTokenId, LineageId};

/// The tokens of a lineage that can still act.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// The one in use.
    pub active: Option<AgentToken>,
    /// The one that was never presented yet.
    pub pending: Option<AgentToken>,
}

/// The first use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The token, Active.
    pub promoted: AgentToken,
    /// What it follows, Retired.
    pub retired: Option<AgentToken>,
}

/// A successor that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The successor, Pending.
    pub proposed: AgentToken,
    /// The one that yields to it, Displaced.
    pub displaced: Option<AgentToken>,
}

/// A successor that an administrator made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The successor, Pending.
    pub successor: AgentToken,
    /// What it puts an end to: an earlier successor of an administrator, Displaced; or, without overlap, all that was
    /// live, Revoked.
    pub ended: Vec<AgentToken>,
}

/// For how long the replaced credential still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Until its successor is presented.
    UntilFirstUse,
    /// Not at all: it is cut off now.
    None,
}

/// Why an administrator cannot rotate a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotRotate {
    /// It was never used, or is refused already.
    #[error("only a token in use can be rotated with an overlap, and only a live one cut off")]
    NotLive,
    /// The agent's own successor waits for its first use.
    #[error("the agent has proposed a successor itself: wait for its first use, or cut off now")]
    AgentSuccessorPending,
}

impl Lineage {
    /// The lineage `id`, among live tokens.
    pub fn among(tokens: impl IntoIterator<Item = AgentToken>, id: LineageId) -> Self {
        let mut lineage = Self::default();
        for token in tokens.into_iter().filter(|token| token.lineage_id == id) {
            match token.state {
                AgentTokenState::Active { .. } => lineage.active = Some(token),
                AgentTokenState::Pending => lineage.pending = Some(token),
                _ => {}
            }
        }
        lineage
    }

    /// Judges a token of this lineage that is presented. `successor` is what retired it, if it is retired.
    pub fn judge(
        &self,
        presented: &AgentToken,
        successor: Option<&AgentToken>,
        host_archived: bool,
        request: Request,
        now: Timestamp,
    ) -> Verdict {
        presented.judge(host_archived, request, Siblings { pending: self.pending.as_ref(), successor }, now)
    }

    /// The first use of the pending token. `life` is what the fleet gives a token that has no time of its own; without
    /// one, it lives as long as what it follows did.
    ///
    /// # Errors
    /// When nothing is pending.
    pub fn promote(self, life: Option<Duration>, now: Timestamp) -> Result<Promotion, InvalidTransition> {
        let pending = self.pending.ok_or(nothing("promote"))?;
        let life = life.or_else(|| self.active.as_ref().and_then(AgentToken::life));
        let promoted = pending.promote(life, now)?;
        let retired = self.active.map(|active| active.retire(&promoted, now)).transpose()?;
        Ok(Promotion { promoted, retired })
    }

    /// The agent's successor of the active token, accepted. `displaces` is what the verdict says.
    ///
    /// # Errors
    /// When nothing is active, or another than the displaced one is pending.
    pub fn propose(
        self,
        draft: Draft,
        displaces: Option<AgentTokenId>,
        now: Timestamp,
    ) -> Result<Proposal, InvalidTransition> {
        let active = self.active.ok_or(nothing("propose"))?;
        if self.pending.as_ref().map(|token| token.id) != displaces {
            return Err(InvalidTransition { entity: "lineage", state: "rotating", attempted: "propose" });
        }
        let displaced = self.pending.map(|pending| pending.displace(draft.id, now)).transpose()?;
        let proposed = successor(&active, draft, Origin::Proposed { predecessor: active.id }, now);
        Ok(Proposal { proposed, displaced })
    }

    /// An administrator's successor of `token`, which is one of this lineage.
    ///
    /// # Errors
    /// [`CannotRotate`] says when.
    pub fn rotate(
        self,
        token: &AgentToken,
        draft: Draft,
        overlap: Overlap,
        by: ActorId,
        now: Timestamp,
    ) -> Result<Replacement, CannotRotate> {
        let successor = successor(token, draft, Origin::Rotated { predecessor: token.id, by }, now);
        let ended = match overlap {
            Overlap::None if !token.is_live() => return Err(CannotRotate::NotLive),
            Overlap::None => self.revoke(RevokeReason::CutOff, now),
            Overlap::UntilFirstUse => {
                if !matches!(token.state, AgentTokenState::Active { .. }) {
                    return Err(CannotRotate::NotLive);
                }
                match self.pending {
                    Some(AgentToken { origin: Origin::Proposed { .. }, .. }) => {
                        return Err(CannotRotate::AgentSuccessorPending);
                    }
                    pending => pending.and_then(|token| token.displace(draft.id, now).ok()).into_iter().collect(),
                }
            }
        };
        Ok(Replacement { successor, ended })
    }

    /// All that was live, Revoked.
    pub fn revoke(self, reason: RevokeReason, now: Timestamp) -> Vec<AgentToken> {
        [self.active, self.pending].into_iter().flatten().filter_map(|token| token.revoke(reason, now).ok()).collect()
    }
}

/// A token that follows another and is called as it was. Its life begins with its first use.
fn successor(predecessor: &AgentToken, draft: Draft, origin: Origin, now: Timestamp) -> AgentToken {
    AgentToken {
        id: draft.id,
        host_id: predecessor.host_id,
        lineage_id: predecessor.lineage_id,
        hash: draft.hash,
        kind: predecessor.kind,
        name: predecessor.name.clone(),
        origin,
        state: AgentTokenState::Pending,
        created_at: now,
        expires_at: None,
    }
}

const fn nothing(attempted: &'static str) -> InvalidTransition {
    InvalidTransition { entity: "lineage", state: "without such a token", attempted }
}
