//! Rotation by the agent: a successor is proposed with the current token, and retires it with its own first use.

use crate::agent_token::{AgentToken, AgentTokenState, Draft, Refusal, Request, Verdict};
use crate::clock::Timestamp;
use crate::event::EventBody;
use crate::fleet::alarm::Subject;
use crate::fleet::authenticate::Held;
use crate::fleet::error::AuthenticateError;
use crate::fleet::{Fleet, Inner};
use crate::id::AgentTokenId;
use crate::lineage::{Lineage, Proposal};
use crate::secret::{IdempotencyKey, PlainToken, TokenHash};
use crate::store::{Aggregate, Commit, Expected, HostWrite, Key, Presented, StoreError, StoreErrorKind};
use crate::wire::{ProposeAgentToken, ProposedAgentToken, ProposedState};

impl Fleet {
    /// Proposes a successor of the presented token. Nothing is taken away: the presented token works until the successor
    /// is first used.
    ///
    /// With a `claim`, the hash of a token that the agent has drawn and stored, the request can be repeated at any time
    /// and is answered the same. Without one the server draws the successor and the reply carries it; repeated with the
    /// same `key` it is the same secret, until that is used. Without either, a lost reply holds up further proposals for
    /// a day.
    ///
    /// Dropping the future leaves the successor either accepted or not.
    ///
    /// # Errors
    /// By the rotation table; [`AuthenticateError::RateLimited`] when the host does it too often; a failing store is
    /// [`AuthenticateError::Store`], never a refusal.
    pub async fn propose_agent_token(
        &self,
        bearer: &str,
        request: &ProposeAgentToken,
        key: Option<&IdempotencyKey>,
    ) -> Result<ProposedAgentToken, AuthenticateError> {
        let presented = self.inner.parse(bearer)?;
        let held = self.inner.held(&presented.hash()).await?;
        self.inner.admit_rotation(&held, self.inner.now())?;
        self.inner.propose(held, &presented, request.claim, key).await
    }
}

impl Inner {
    /// Proposes a successor of the presented token, which was `held` so just now and was admitted.
    pub(super) async fn propose(
        &self,
        mut held: Held,
        presented: &PlainToken,
        claim: Option<TokenHash>,
        key: Option<&IdempotencyKey>,
    ) -> Result<ProposedAgentToken, AuthenticateError> {
        for _ in 0..Self::ATTEMPTS {
            if let Some(reply) = self.try_propose(held, presented, claim, key).await? {
                return Ok(reply);
            }
            held = self.held(&presented.hash()).await?;
        }
        Err(AuthenticateError::Store(StoreErrorKind::Unavailable.into()))
    }

    /// One attempt; `None` when it has to be judged again.
    async fn try_propose(
        &self,
        held: Held,
        presented: &PlainToken,
        claim: Option<TokenHash>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<ProposedAgentToken>, AuthenticateError> {
        let now = self.now();
        let Held { revision, host, agent_tokens, token } = held;
        let lineage = Lineage::among(agent_tokens, token.lineage_id);
        let successor = self.successor_of(&token).await?;
        let offer = self.offer(presented, &token, lineage.pending.as_ref(), claim, key, now);
        let hash = offer.draft.hash;
        let siblings = [lineage.pending.as_ref(), successor.as_ref()];
        let is_sibling = siblings.into_iter().flatten().any(|token| token.hash == hash);
        let seen_elsewhere = !is_sibling && self.store.authenticate(&hash).await?.is_some();
        let request = Request::Propose { hash, seen_elsewhere };
        let verdict = lineage.judge(&token, successor.as_ref(), host.is_archived(), request, now);
        let is_in_use = matches!(token.state, AgentTokenState::Active { .. });
        let is_refused = matches!(verdict, Verdict::Refused(Refusal::Expired | Refusal::HostArchived));
        // A proposal that is refused for the time being comes from the host all the same.
        if is_in_use && !is_refused {
            self.contacts.note(host.id, token.id, now);
        }
        match verdict {
            Verdict::PromoteFirst => {
                self.promote(revision, host, lineage, now).await?;
                Ok(None)
            }
            Verdict::Repeat => {
                let repeated = siblings.into_iter().flatten().find(|token| token.hash == hash);
                Ok(repeated.map(|token| offer.reply(token)))
            }
            Verdict::Accept { displaces } => {
                let Ok(Proposal { proposed, displaced }) = lineage.propose(offer.draft, displaces, now) else {
                    return Ok(None);
                };
                let begun = EventBody::AgentTokenProposed { agent_token_id: proposed.id, predecessor: token.id };
                let yielded = displaced
                    .as_ref()
                    .map(|token| EventBody::RotationDisplaced { agent_token_id: token.id, by: proposed.id });
                let bodies = yielded.into_iter().chain([begun]);
                let events = bodies.map(|body| self.host_event(&host, None, now, body)).collect();
                let reply = offer.reply(&proposed);
                let write = HostWrite {
                    agent_tokens: displaced.into_iter().chain([proposed]).collect(),
                    ..HostWrite::new(Expected::Revision(revision), host)
                };
                match self.store.commit(Commit::of(write, events)).await {
                    Ok(_) => Ok(Some(reply)),
                    Err(error) => match error.kind() {
                        StoreErrorKind::Conflict => Ok(None),
                        // The store knows more hashes than can be looked up: those of install tokens, for example.
                        StoreErrorKind::HashSeen if claim.is_some() => {
                            Err(AuthenticateError::Refused(token.id, Refusal::ClaimInUse))
                        }
                        StoreErrorKind::HashSeen => Ok(None),
                        _ => Err(error.into()),
                    },
                }
            }
            Verdict::Refused(refusal) => {
                match refusal {
                    Refusal::RotationConflict => {
                        let event = |attempts| {
                            let body = EventBody::RotationConflict { agent_token_id: token.id, attempts };
                            self.host_event(&host, None, now, body)
                        };
                        self.raise(Subject::Conflict(token.id), now, event).await;
                    }
                    Refusal::ReuseDetected => self.reuse_detected(&token, now).await,
                    // Even a proposal comes too late.
                    Refusal::Expired => return Err(AuthenticateError::ExpiredForGood(token.id)),
                    _ => {}
                }
                Err(AuthenticateError::Refused(token.id, refusal))
            }
            Verdict::Serve => unreachable!("a proposal is not merely served"),
        }
    }

    /// What is proposed: the agent's own secret, of which only the hash is known, or one that is drawn for it.
    fn offer(
        &self,
        presented: &PlainToken,
        token: &AgentToken,
        pending: Option<&AgentToken>,
        claim: Option<TokenHash>,
        key: Option<&IdempotencyKey>,
        now: Timestamp,
    ) -> Offer {
        let id = AgentTokenId::generate(now, &*self.entropy);
        if let Some(hash) = claim {
            return Offer { draft: Draft { id, hash }, plain: None };
        }
        let prefix = self.prefixes.of(token.kind);
        let drawn = |id: AgentTokenId| {
            let plain = match key {
                // The random part of the id is the salt: it is stored with the token, and so a repeat finds it.
                Some(key) => PlainToken::derive(prefix, presented, key, id.as_uuid().as_bytes()),
                None => PlainToken::generate(prefix, &*self.entropy),
            };
            Offer { draft: Draft { id, hash: plain.hash() }, plain: Some(plain) }
        };
        // Drawn with this key before, and not used yet.
        let again = pending.filter(|_| key.is_some()).map(|pending| (pending, drawn(pending.id)));
        match again {
            Some((pending, offer)) if offer.draft.hash == pending.hash => offer,
            _ => drawn(id),
        }
    }

    /// The token that a retired one was retired for.
    async fn successor_of(&self, token: &AgentToken) -> Result<Option<AgentToken>, StoreError> {
        match token.state {
            AgentTokenState::Retired { successor, .. } => self.agent_token(successor).await,
            _ => Ok(None),
        }
    }

    /// An agent token by its id.
    pub(super) async fn agent_token(&self, id: AgentTokenId) -> Result<Option<AgentToken>, StoreError> {
        Ok(match self.store.load(&Key::AgentTokenId(id)).await? {
            Some(Aggregate::Host(aggregate)) => match aggregate.presented {
                Presented::AgentToken(token) => Some(token),
                _ => None,
            },
            _ => None,
        })
    }
}

/// A successor before it is accepted.
struct Offer {
    draft: Draft,
    /// The secret, when the server drew it.
    plain: Option<PlainToken>,
}

impl Offer {
    fn reply(self, token: &AgentToken) -> ProposedAgentToken {
        let state = match token.state {
            AgentTokenState::Pending => ProposedState::Pending,
            _ => ProposedState::Used,
        };
        ProposedAgentToken { id: token.id, token: self.plain, state }
    }
}
