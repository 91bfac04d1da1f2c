//! Agent tokens, as administrators see and change them.

use serde::Deserialize;

use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Draft, Origin, RevokeReason};
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::event::EventBody;
use crate::fleet::authenticate::CutOff;
use crate::fleet::error::AdminError;
use crate::fleet::{Admin, Inner, page_body, page_size, parse_cursor, query};
use crate::id::{AgentTokenId, HostId, LineageId};
use crate::lineage::{Lineage, Overlap, Replacement};
use crate::policy::{Action, Resource};
use crate::secret::{PlainToken, TokenHash};
use crate::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Commit, Expected, HostAggregate, HostWrite, Key, Presented,
    StoreErrorKind,
};
use crate::wire::{AgentTokenBody, IssueAgentToken, IssuedAgentToken, PageBody, RevokedAgentTokens, RotateAgentToken};

/// Which part of a list of tokens: the query of `GET /v1/hosts/{host_id}/tokens` and `…/install-tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFilter {
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How many; 50 unless it is said, at least 1, 500 at most.
    #[serde(default, deserialize_with = "query::limit")]
    pub limit: Option<usize>,
}

impl Admin<'_> {
    /// A page of a host's agent tokens, refused ones included, in the order of their ids, which is about that of their
    /// making. Never a secret.
    ///
    /// # Errors
    /// When the host is not found, the policy forbids it, or the cursor is none of ours.
    pub async fn list_agent_tokens(
        &self,
        host_id: HostId,
        filter: TokenFilter,
    ) -> Result<PageBody<AgentTokenBody>, AdminError> {
        let after = parse_cursor(filter.cursor.as_deref())?;
        self.find(Action::ReadTokens, host_id).await?;
        let query = AgentTokenQuery { after, ..AgentTokenQuery::new(host_id, page_size(filter.limit)) };
        let page = self.fleet.store.list_agent_tokens(&query).await?;
        let now = self.fleet.now();
        Ok(page_body(
            page,
            |record| record.token.id.to_string(),
            |AgentTokenRecord { token, last_used_at }| AgentTokenBody::of(token, last_used_at, now),
        ))
    }

    /// Issues an agent token by hand: the head of a lineage of its own.
    ///
    /// # Errors
    /// When the host is not found or archived, the policy forbids it, or `expires_at` is not in the future.
    pub async fn issue_agent_token(
        &self,
        host_id: HostId,
        request: IssueAgentToken,
    ) -> Result<IssuedAgentToken, AdminError> {
        let IssueAgentToken { name, kind, expires_at } = request;
        let kind = kind.unwrap_or(CredentialKind::Bearer);
        if expires_at.is_some_and(|at| at <= self.fleet.now()) {
            return Err(FieldError::invalid("/expires_at", "a time in the future").into());
        }
        let plain = PlainToken::generate(self.fleet.prefixes.of(kind), &*self.fleet.entropy);
        let issued = self
            .change(Action::IssueAgentToken, &Key::Host(host_id), |aggregate, now| {
                if aggregate.host.is_archived() {
                    return Err(AdminError::HostArchived);
                }
                let token = AgentToken {
                    id: AgentTokenId::generate(now, &*self.fleet.entropy),
                    host_id,
                    lineage_id: LineageId::generate(now, &*self.fleet.entropy),
                    hash: plain.hash(),
                    kind,
                    name: name.clone(),
                    origin: Origin::Issued(self.actor.id.clone()),
                    state: AgentTokenState::Pending,
                    created_at: now,
                    expires_at,
                };
                let issued = EventBody::AgentTokenIssued {
                    agent_token_id: token.id,
                    lineage_id: token.lineage_id,
                    name: name.clone(),
                };
                let id = token.id;
                let write = HostWrite {
                    agent_tokens: vec![token],
                    ..HostWrite::new(Expected::Revision(aggregate.revision), aggregate.host)
                };
                Ok(Change { write: Some((write, vec![issued])), cut_off: Vec::new(), result: id })
            })
            .await?;
        Ok(IssuedAgentToken { id: issued, token: plain, name, kind, expires_at })
    }

    /// Cuts an agent token off, now. Revoking one that cannot act any more changes nothing.
    ///
    /// # Errors
    /// When the host has no such token, or the policy forbids it.
    pub async fn revoke_agent_token(&self, host_id: HostId, token_id: AgentTokenId) -> Result<(), AdminError> {
        self.change(Action::RevokeAgentToken, &Key::AgentTokenId(token_id), |aggregate, now| {
            let HostAggregate { revision, host, presented, .. } = aggregate;
            let Presented::AgentToken(token) = presented else { return Err(AdminError::NotFound) };
            // A token of another host under this host's path does not exist here.
            if host.id != host_id {
                return Err(AdminError::NotFound);
            }
            let hash = token.hash;
            let reason = RevokeReason::Administrator;
            let Ok(revoked) = token.revoke(reason, now) else {
                // Whoever revoked it may not have come to tell the cache: this answer must hold as well.
                return Ok(Change { write: None, cut_off: vec![hash], result: () });
            };
            let write = HostWrite {
                agent_tokens: vec![revoked],
                ..HostWrite::new(Expected::Revision(revision), host.next_generation(now))
            };
            let event = EventBody::AgentTokenRevoked { agent_token_id: token_id, reason };
            Ok(Change { write: Some((write, vec![event])), cut_off: vec![hash], result: () })
        })
        .await
    }

    /// Cuts every agent token of a host off, now. An install token that waits for its exchange still can be exchanged.
    ///
    /// # Errors
    /// When the host is not found, or the policy forbids it.
    pub async fn revoke_agent_tokens(&self, host_id: HostId) -> Result<RevokedAgentTokens, AdminError> {
        self.change(Action::RevokeAgentToken, &Key::Host(host_id), |aggregate, now| {
            let HostAggregate { revision, host, agent_tokens, .. } = aggregate;
            let reason = RevokeReason::Administrator;
            let tokens: Vec<_> = agent_tokens.into_iter().filter_map(|token| token.revoke(reason, now).ok()).collect();
            let revoked = tokens.iter().map(|token| token.id).collect();
            let result = RevokedAgentTokens { revoked };
            if tokens.is_empty() {
                // Whoever revoked them may not have come to tell the cache, and they are not listed any more.
                self.fleet.forget_all();
                return Ok(Change { write: None, cut_off: Vec::new(), result });
            }
            let cut_off = tokens.iter().map(|token| token.hash).collect();
            let events =
                tokens.iter().map(|token| EventBody::AgentTokenRevoked { agent_token_id: token.id, reason }).collect();
            let write = HostWrite {
                agent_tokens: tokens,
                ..HostWrite::new(Expected::Revision(revision), host.next_generation(now))
            };
            Ok(Change { write: Some((write, events)), cut_off, result })
        })
        .await
    }

    /// Makes a successor of an agent token, to be delivered by hand: the rotated token works until the successor is first
    /// used, or is cut off now. An earlier successor that an administrator made and nobody used yields to it.
    ///
    /// # Errors
    /// When the host has no such token or is archived, or the policy forbids it; with an overlap also when the token is not
    /// in use, or the agent's own successor waits; without one, when the token is refused already.
    pub async fn rotate_agent_token(
        &self,
        host_id: HostId,
        token_id: AgentTokenId,
        request: RotateAgentToken,
    ) -> Result<IssuedAgentToken, AdminError> {
        let RotateAgentToken { overlap } = request;
        // Drawn when the kind is known, and once, however often a commit is tried.
        let drawn = std::sync::OnceLock::new();
        let (id, name, kind) = self
            .change(Action::RotateAgentToken, &Key::AgentTokenId(token_id), |aggregate, now| {
                let HostAggregate { revision, host, presented, agent_tokens, .. } = aggregate;
                let Presented::AgentToken(token) = presented else { return Err(AdminError::NotFound) };
                if host.id != host_id {
                    return Err(AdminError::NotFound);
                }
                if host.is_archived() {
                    return Err(AdminError::HostArchived);
                }
                let plain = drawn
                    .get_or_init(|| PlainToken::generate(self.fleet.prefixes.of(token.kind), &*self.fleet.entropy));
                let draft = Draft { id: AgentTokenId::generate(now, &*self.fleet.entropy), hash: plain.hash() };
                let lineage = Lineage::among(agent_tokens, token.lineage_id);
                let Replacement { successor, ended } =
                    lineage.rotate(&token, draft, overlap, self.actor.id.clone(), now)?;
                let mut events: Vec<_> = ended
                    .iter()
                    .map(|ended| match ended.state {
                        AgentTokenState::Revoked { reason, .. } => {
                            EventBody::AgentTokenRevoked { agent_token_id: ended.id, reason }
                        }
                        _ => EventBody::RotationDisplaced { agent_token_id: ended.id, by: successor.id },
                    })
                    .collect();
                events.push(EventBody::AgentTokenRotated {
                    agent_token_id: successor.id,
                    predecessor: token.id,
                    overlap,
                });
                let host = match overlap {
                    Overlap::None => host.next_generation(now),
                    Overlap::UntilFirstUse => host,
                };
                let cut_off = ended.iter().map(|token| token.hash).collect();
                let result = (successor.id, successor.name.clone(), successor.kind);
                let write = HostWrite {
                    agent_tokens: ended.into_iter().chain([successor]).collect(),
                    ..HostWrite::new(Expected::Revision(revision), host)
                };
                Ok(Change { write: Some((write, events)), cut_off, result })
            })
            .await?;
        let token = drawn.into_inner().ok_or(AdminError::Conflict)?;
        Ok(IssuedAgentToken { id, token, name, kind, expires_at: None })
    }

    /// Load, ask the policy, decide, commit; on a conflict all of it again, a bounded number of times. Every verb that
    /// changes a host goes through here.
    pub(super) async fn change<T>(
        &self,
        action: Action,
        key: &Key,
        decide: impl Fn(HostAggregate, Timestamp) -> Result<Change<T>, AdminError>,
    ) -> Result<T, AdminError> {
        let mut turn = None;
        for _ in 0..Inner::ATTEMPTS {
            let now = self.fleet.now();
            let loaded = self.fleet.store.load(key).await?;
            let Some(Aggregate::Host(aggregate)) = loaded else { return Err(AdminError::NotFound) };
            self.authorize(action, Resource { tenant_id: &aggregate.host.tenant_id, kind: aggregate.host.kind })?;
            let Change { write, cut_off, result } = decide(*aggregate, now)?;
            let _cut_off = CutOff::new(self.fleet, cut_off);
            let Some((write, bodies)) = write else { return Ok(result) };
            let events = bodies
                .into_iter()
                .map(|body| self.fleet.host_event(&write.host, Some(&self.actor.id), now, body))
                .collect();
            let host = write.host.clone();
            match self.fleet.store.commit(Commit::of(write, events)).await {
                Ok(_) => return Ok(result),
                // Who was too late once goes on by turns: of many who change one host at a time, as they set its tags, each
                // attempt lets only one through.
                Err(error) if error.kind() == StoreErrorKind::Conflict && turn.is_none() => {
                    turn = Some(self.fleet.changing_again.lock().await);
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(self.clash(error, &host).await),
            }
        }
        Err(AdminError::Conflict)
    }
}

/// What a verb has decided.
pub(super) struct Change<T> {
    /// What to commit, with its events; nothing when all is as it shall be.
    pub(super) write: Option<(HostWrite, Vec<EventBody>)>,
    /// The tokens that this cuts off.
    pub(super) cut_off: Vec<TokenHash>,
    /// What the verb answers.
    pub(super) result: T,
}
