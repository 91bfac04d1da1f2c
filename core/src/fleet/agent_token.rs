//! Agent tokens: authentication, and what administrators do with them.

use crate::agent_token::{
    AgentToken, AgentTokenState, CredentialKind, Origin, Request, RevokeReason, Siblings, Verdict,
};
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::event::{EventBody, NewEvent};
use crate::fleet::cache::CredentialCache;
use crate::fleet::error::{AdminError, AuthenticateError};
use crate::fleet::{Admin, Agent, Fleet, Inner};
use crate::host::{Host, Lifecycle};
use crate::id::{AgentTokenId, EventId, HostId, LineageId, TenantId};
use crate::policy::{Action, Resource};
use crate::secret::{PlainToken, TokenHash};
use crate::store::{
    Aggregate, Commit, Expected, HostAggregate, HostWrite, Key, Known, Presented, StoreErrorKind, Tombstone,
};
use crate::wire::{AgentSelf, IssueAgentToken, IssuedAgentToken};

/// A host that has proved its credential. Only [`Fleet::authenticate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    host_id: HostId,
    tenant_id: TenantId,
    token_id: AgentTokenId,
    kind: CredentialKind,
    expires_at: Option<Timestamp>,
}

impl AgentIdentity {
    /// Which host.
    pub const fn host_id(&self) -> HostId {
        self.host_id
    }

    /// Whose it is.
    pub const fn tenant_id(&self) -> &TenantId {
        &self.tenant_id
    }

    /// The token that proved it.
    pub const fn token_id(&self) -> AgentTokenId {
        self.token_id
    }

    /// From when on that token is refused, if ever.
    pub const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    fn of(token: &AgentToken, tenant_id: TenantId) -> Self {
        Self { host_id: token.host_id, tenant_id, token_id: token.id, kind: token.kind, expires_at: token.expires_at }
    }
}

/// The bearer token of a request, from the values of all its `Authorization` headers.
///
/// # Errors
/// When there is none, more than one, or one of another scheme.
pub fn bearer<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a str, AuthenticateError> {
    let mut values = values.into_iter();
    let value = values.next().ok_or(AuthenticateError::Missing)?;
    if values.next().is_some() {
        return Err(AuthenticateError::BadHeader("present one Authorization header, not several"));
    }
    crate::wire::bearer(value).map_err(AuthenticateError::BadHeader)
}

impl Fleet {
    /// Finds out who holds `bearer`. The first use of a Pending token promotes it, in a commit that is durable before
    /// this returns; a known Active one costs no read of the store.
    ///
    /// # Errors
    /// By the rotation table; a failing store is [`AuthenticateError::Store`], never a refusal.
    pub async fn authenticate(&self, bearer: &str) -> Result<AgentIdentity, AuthenticateError> {
        let token =
            PlainToken::parse(bearer, &self.inner.prefixes.presented()).map_err(AuthenticateError::Malformed)?;
        self.inner.authenticate(&token.hash()).await
    }
}

impl Inner {
    async fn authenticate(&self, hash: &TokenHash) -> Result<AgentIdentity, AuthenticateError> {
        let (now, monotonic) = (self.now(), self.clock.monotonic());
        if let Some(identity) = self.cache.find(hash, now, monotonic) {
            return Ok(identity);
        }
        let epoch = self.cache.epoch();
        let credential = match self.store.authenticate(hash).await? {
            None => return Err(AuthenticateError::Unknown),
            Some(Known::Tombstone(Tombstone { token_id, host_id, .. })) => {
                return Err(AuthenticateError::HostDeleted { token_id, host_id });
            }
            Some(Known::Credential(credential)) => *credential,
        };
        let archived = matches!(credential.lifecycle, Lifecycle::Archived { .. });
        match credential.token.judge(archived, Request::Serve, Siblings::default(), now) {
            Verdict::Serve => {
                let identity = AgentIdentity::of(&credential.token, credential.tenant_id);
                self.cache.fill(epoch, *hash, identity.clone(), monotonic);
                Ok(identity)
            }
            Verdict::PromoteFirst => self.promote(hash).await,
            Verdict::Refused(refusal) => Err(AuthenticateError::Refused(credential.token.id, refusal)),
            Verdict::Repeat | Verdict::Accept { .. } => unreachable!("only a proposal is accepted or repeated"),
        }
    }

    /// The first use: Pending becomes Active, and what it succeeds is retired, in one commit. Whoever loses the race
    /// judges again what the winner left.
    async fn promote(&self, hash: &TokenHash) -> Result<AgentIdentity, AuthenticateError> {
        for _ in 0..Self::ATTEMPTS {
            let now = self.now();
            let loaded = self.store.load(&Key::AgentToken(*hash)).await?;
            let Some(Aggregate::Host(aggregate)) = loaded else { return Err(AuthenticateError::Unknown) };
            let HostAggregate { revision, host, agent_tokens, presented, .. } = *aggregate;
            let Presented::AgentToken(token) = presented else { return Err(AuthenticateError::Unknown) };
            let (token_id, tenant_id) = (token.id, host.tenant_id.clone());
            match token.judge(host.is_archived(), Request::Serve, Siblings::default(), now) {
                Verdict::PromoteFirst => {}
                Verdict::Serve => return Ok(AgentIdentity::of(&token, tenant_id)),
                Verdict::Refused(refusal) => return Err(AuthenticateError::Refused(token_id, refusal)),
                Verdict::Repeat | Verdict::Accept { .. } => unreachable!("only a proposal is accepted or repeated"),
            }
            let Ok(promoted) = token.promote(now) else {
                unreachable!("what is to be promoted first is Pending");
            };
            let retired = agent_tokens
                .into_iter()
                .find(|other| {
                    other.lineage_id == promoted.lineage_id && matches!(other.state, AgentTokenState::Active { .. })
                })
                .and_then(|predecessor| predecessor.retire(&promoted, now).ok());
            let event = self.host_event(
                &host,
                None,
                now,
                EventBody::AgentTokenPromoted {
                    agent_token_id: token_id,
                    retired: retired.as_ref().map(|token| token.id),
                },
            );
            let hashes = retired.iter().map(|token| token.hash).collect();
            let _cut_off = CutOff { cache: &self.cache, hashes };
            let identity = AgentIdentity::of(&promoted, tenant_id);
            let write = HostWrite {
                agent_tokens: retired.into_iter().chain([promoted]).collect(),
                ..HostWrite::new(Expected::Revision(revision), host)
            };
            match self.store.commit(Commit::of(write, vec![event])).await {
                Ok(_) => return Ok(identity),
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AuthenticateError::Store(StoreErrorKind::Unavailable.into()))
    }

    /// An event about a host.
    pub(super) fn host_event(
        &self,
        host: &Host,
        actor: Option<&crate::ActorId>,
        now: Timestamp,
        body: EventBody,
    ) -> NewEvent {
        NewEvent {
            id: EventId::generate(now, &*self.entropy),
            at: now,
            tenant_id: host.tenant_id.clone(),
            host_id: Some(host.id),
            host_kind: Some(host.kind),
            actor: actor.cloned(),
            body,
        }
    }
}

impl Agent<'_> {
    /// Who the presented credential is. A contact.
    pub fn who_am_i(&self) -> AgentSelf {
        self.contact();
        let AgentIdentity { host_id, tenant_id, token_id, kind, expires_at } = self.identity.clone();
        AgentSelf { host_id, tenant_id, token_id, kind, expires_at, server_time: self.fleet.now() }
    }
}

impl Admin<'_> {
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

    /// Load, ask the policy, decide, commit; on a conflict all of it again, a bounded number of times. Every verb that
    /// changes a host goes through here.
    pub(super) async fn change<T>(
        &self,
        action: Action,
        key: &Key,
        decide: impl Fn(HostAggregate, Timestamp) -> Result<Change<T>, AdminError>,
    ) -> Result<T, AdminError> {
        for _ in 0..Inner::ATTEMPTS {
            let now = self.fleet.now();
            let loaded = self.fleet.store.load(key).await?;
            let Some(Aggregate::Host(aggregate)) = loaded else { return Err(AdminError::NotFound) };
            self.authorize(action, Resource { tenant_id: &aggregate.host.tenant_id, kind: aggregate.host.kind })?;
            let Change { write, cut_off, result } = decide(*aggregate, now)?;
            // Told on every way out, also when the caller goes away while the commit is under way: whatever became of
            // it, the next request reads the store.
            let _cut_off = CutOff { cache: &self.fleet.cache, hashes: cut_off };
            let Some((write, bodies)) = write else { return Ok(result) };
            let events = bodies
                .into_iter()
                .map(|body| self.fleet.host_event(&write.host, Some(&self.actor.id), now, body))
                .collect();
            match self.fleet.store.commit(Commit::of(write, events)).await {
                Ok(_) => return Ok(result),
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AdminError::Conflict)
    }
}

/// Tokens that the cache has to forget when this is dropped: after the commit and before the answer, so that once it is
/// acknowledged, nothing serves them.
pub(super) struct CutOff<'a> {
    pub(super) cache: &'a CredentialCache,
    pub(super) hashes: Vec<TokenHash>,
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        // Raising the epoch for nothing would only throw away what others are reading.
        if !self.hashes.is_empty() {
            self.cache.invalidate(&self.hashes);
        }
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
