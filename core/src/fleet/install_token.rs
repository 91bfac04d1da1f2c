//! Install tokens: minting, and the exchange.

use std::net::IpAddr;

use crate::agent_token::{
    AgentToken, AgentTokenState, CredentialKind, Origin, Request, RevokeReason, Siblings, Verdict,
};
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::event::EventBody;
use crate::fleet::agent_token::{Change, CutOff};
use crate::fleet::error::{AdminError, EnrolError};
use crate::fleet::{Admin, Fleet, Inner};
use crate::host::Host;
use crate::id::{ActorId, AgentTokenId, HostId, InstallTokenId, LineageId};
use crate::install_token::{Binding, Claim, Exchange, InstallToken, InstallTokenState, MAX_LIFE};
use crate::policy::Action;
use crate::secret::PlainToken;
use crate::store::{Aggregate, Commit, Expected, HostAggregate, HostWrite, Key, Presented, StoreErrorKind};
use crate::telemetry::HostFacts;
use crate::wire::{ExchangeReply, ExchangeRequest, ExchangedToken, MintInstallToken, MintedInstallToken};

impl Admin<'_> {
    /// Makes an install token for a host; an earlier one that was not exchanged is revoked.
    ///
    /// # Errors
    /// When the host is not found or archived, the policy forbids it, or `expires_at` is out of bounds.
    pub async fn mint_install_token(
        &self,
        host_id: HostId,
        request: MintInstallToken,
    ) -> Result<MintedInstallToken, AdminError> {
        let draft = Draft::new(self.fleet, &request)?;
        let id = self
            .change(Action::MintInstallToken, &Key::Host(host_id), |aggregate, now| {
                let HostAggregate { revision, host, install_token, .. } = aggregate;
                if host.is_archived() {
                    return Err(AdminError::HostArchived);
                }
                let mut events = Vec::new();
                let earlier = install_token.and_then(|token| token.revoke(now).ok());
                events.extend(
                    earlier.as_ref().map(|token| EventBody::InstallTokenRevoked { install_token_id: token.id }),
                );
                let minted = draft.token(&host, &self.actor.id, now, self.fleet);
                events.push(minted_event(&minted));
                let id = minted.id;
                let write = HostWrite {
                    install_tokens: earlier.into_iter().chain([minted]).collect(),
                    ..HostWrite::new(Expected::Revision(revision), Host { updated_at: now, ..host })
                };
                Ok(Change { write: Some((write, events)), cut_off: Vec::new(), result: id })
            })
            .await?;
        Ok(draft.reveal(id))
    }
}

/// An install token before it is known which host it is for: its secret is drawn once, however often a commit is tried.
pub(super) struct Draft {
    plain: PlainToken,
    credential_kind: CredentialKind,
    expires_at: Timestamp,
}

impl Draft {
    pub(super) fn new(fleet: &Inner, request: &MintInstallToken) -> Result<Self, AdminError> {
        let now = fleet.now();
        let expires_at = request.expires_at.unwrap_or_else(|| now.saturating_add(fleet.limits.install_token_life));
        if expires_at <= now || expires_at > now.saturating_add(MAX_LIFE) {
            return Err(FieldError::invalid("/expires_at", "within the next 30 days").into());
        }
        Ok(Self {
            plain: PlainToken::generate(fleet.prefixes.install, &*fleet.entropy),
            credential_kind: request.credential_kind.unwrap_or(CredentialKind::Bearer),
            expires_at,
        })
    }

    pub(super) fn token(&self, host: &Host, by: &ActorId, now: Timestamp, fleet: &Inner) -> InstallToken {
        InstallToken {
            id: InstallTokenId::generate(now, &*fleet.entropy),
            tenant_id: host.tenant_id.clone(),
            binding: Binding::Host(host.id),
            hash: self.plain.hash(),
            credential_kind: self.credential_kind,
            state: InstallTokenState::Issued,
            created_by: by.clone(),
            created_at: now,
            expires_at: self.expires_at,
        }
    }

    pub(super) fn reveal(self, id: InstallTokenId) -> MintedInstallToken {
        MintedInstallToken { id, token: self.plain, expires_at: self.expires_at }
    }
}

pub(super) const fn minted_event(token: &InstallToken) -> EventBody {
    EventBody::InstallTokenMinted {
        install_token_id: token.id,
        credential_kind: token.credential_kind,
        expires_at: token.expires_at,
    }
}

impl Fleet {
    /// Exchanges an install token for an agent token. Public: the install token is the credential.
    ///
    /// With a `claim` the request can be repeated for ever and is answered the same; without one the reply carries the
    /// secret, and a reply that is lost needs a new install token. `remote` is the client's address, for the limit on
    /// refused exchanges; without one, all clients share one limit.
    ///
    /// Dropping the future leaves the token either consumed by this very claim, or not at all.
    ///
    /// # Errors
    /// By the exchange table. Everything that can refuse is checked before the token is consumed.
    pub async fn enrol(&self, request: ExchangeRequest, remote: Option<IpAddr>) -> Result<ExchangeReply, EnrolError> {
        let result = self.inner.enrol(&request).await;
        match &result {
            Err(error) if error.is_refusal() => {
                self.inner.refusals.count(remote).map_err(EnrolError::RateLimited)?;
            }
            _ => {}
        }
        result
    }
}

impl EnrolError {
    /// Whether somebody presented what is no valid install token: such attempts are counted.
    const fn is_refusal(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::InvalidToken | Self::AlreadyUsed | Self::Refused(..))
    }
}

impl Inner {
    async fn enrol(&self, request: &ExchangeRequest) -> Result<ExchangeReply, EnrolError> {
        if let Some(facts) = &request.facts {
            crate::telemetry::validate_facts(facts, "/facts")?;
        }
        let presented =
            PlainToken::parse(&request.install_token, &self.prefixes.exchanged()).map_err(EnrolError::Malformed)?;
        let key = Key::InstallToken(presented.hash());
        for _ in 0..Self::ATTEMPTS {
            let aggregate = match self.store.load(&key).await? {
                Some(Aggregate::Host(aggregate)) => *aggregate,
                Some(Aggregate::TenantInstallToken(_)) => return Err(EnrolError::TenantBound),
                None => return Err(EnrolError::InvalidToken),
            };
            if let Some(reply) = self.try_exchange(aggregate, request).await? {
                return Ok(reply);
            }
        }
        Err(EnrolError::Store(StoreErrorKind::Unavailable.into()))
    }

    /// One attempt; `None` when somebody else was quicker and it has to be judged again.
    async fn try_exchange(
        &self,
        aggregate: HostAggregate,
        request: &ExchangeRequest,
    ) -> Result<Option<ExchangeReply>, EnrolError> {
        let now = self.now();
        let HostAggregate { revision, host, agent_tokens, presented, .. } = aggregate;
        let Presented::InstallToken(install_token) = presented else { return Err(EnrolError::InvalidToken) };
        let bought = match install_token.state {
            InstallTokenState::Consumed { agent_token, .. } => self.agent_token(agent_token).await?,
            _ => None,
        };
        let claim = match request.claim {
            Some(hash) => Claim::Client(hash),
            None => Claim::Server { idempotency_key_hash: None },
        };
        match install_token.exchange(&claim, bought.as_ref(), now) {
            Exchange::Invalid => Err(EnrolError::InvalidToken),
            Exchange::AlreadyUsed { contested } => {
                if contested {
                    self.raise_contested(&host, install_token.id, now).await;
                }
                Err(EnrolError::AlreadyUsed)
            }
            Exchange::Repeat { .. } => {
                let bought = bought.ok_or(EnrolError::InvalidToken)?;
                match bought.judge(host.is_archived(), Request::Serve, Siblings::default(), now) {
                    Verdict::Refused(refusal) => Err(EnrolError::Refused(bought.id, refusal)),
                    _ => Ok(Some(reply(&host, &bought, None))),
                }
            }
            Exchange::Grant => {
                let Grant { write, events, token, plain } =
                    self.grant(host, revision, agent_tokens, install_token, claim, request.facts.clone(), now)?;
                let answer = reply(&write.host, &token, plain);
                let events = events.into_iter().map(|body| self.host_event(&write.host, None, now, body)).collect();
                let hashes =
                    write.agent_tokens.iter().filter(|token| !token.is_live()).map(|token| token.hash).collect();
                let _cut_off = CutOff { cache: &self.cache, hashes };
                match self.store.commit(Commit::of(write, events)).await {
                    Ok(_) => Ok(Some(answer)),
                    Err(error) => match error.kind() {
                        StoreErrorKind::Conflict => Ok(None),
                        StoreErrorKind::HashSeen => Err(EnrolError::ClaimInUse),
                        _ => Err(error.into()),
                    },
                }
            }
        }
    }

    /// Everything that an exchange writes, as one commit: the install token is spent, the agent token begins, and the
    /// credentials that earlier exchanges gave the host end, since whoever enrols it anew has lost them.
    #[allow(clippy::too_many_arguments, reason = "the parts of one aggregate, taken by value")]
    fn grant(
        &self,
        host: Host,
        revision: crate::store::Revision,
        agent_tokens: Vec<AgentToken>,
        install_token: InstallToken,
        claim: Claim,
        facts: Option<HostFacts>,
        now: Timestamp,
    ) -> Result<Grant, EnrolError> {
        let kind = install_token.credential_kind;
        let plain = match claim {
            Claim::Client(_) => None,
            Claim::Server { .. } => Some(PlainToken::generate(self.prefixes.of(kind), &*self.entropy)),
        };
        let hash = match (&claim, &plain) {
            (Claim::Client(hash), _) => *hash,
            (Claim::Server { .. }, Some(plain)) => plain.hash(),
            (Claim::Server { .. }, None) => unreachable!("a server-made claim was just given a secret"),
        };
        let token = AgentToken {
            id: AgentTokenId::generate(now, &*self.entropy),
            host_id: host.id,
            lineage_id: LineageId::generate(now, &*self.entropy),
            hash,
            kind,
            name: None,
            origin: Origin::Exchange(install_token.id),
            state: AgentTokenState::Pending,
            created_at: now,
            expires_at: None,
        };
        let mut events = vec![EventBody::HostEnrolled { install_token_id: install_token.id, agent_token_id: token.id }];
        let reason = RevokeReason::Reenrolled;
        let mut changed: Vec<_> = agent_tokens
            .into_iter()
            .filter(|earlier| matches!(earlier.origin, Origin::Exchange(_)))
            .filter_map(|earlier| earlier.revoke(reason, now).ok())
            .collect();
        events.extend(changed.iter().map(|token| EventBody::AgentTokenRevoked { agent_token_id: token.id, reason }));
        let host = if changed.is_empty() { host } else { host.next_generation(now) };
        // A state that does not allow it was changed by somebody quicker, in a way that makes the token worthless.
        let host = host.enrol(now).map_err(|_| EnrolError::InvalidToken)?;
        let spent = install_token.consume(claim, token.id, now).map_err(|_| EnrolError::InvalidToken)?;
        changed.push(token.clone());
        let write = HostWrite {
            install_tokens: vec![spent],
            agent_tokens: changed,
            facts,
            ..HostWrite::new(Expected::Revision(revision), host)
        };
        Ok(Grant { write, events, token, plain })
    }

    async fn agent_token(&self, id: AgentTokenId) -> Result<Option<AgentToken>, EnrolError> {
        Ok(match self.store.load(&Key::AgentTokenId(id)).await? {
            Some(Aggregate::Host(aggregate)) => match aggregate.presented {
                Presented::AgentToken(token) => Some(token),
                _ => None,
            },
            _ => None,
        })
    }

    /// Somebody else seems to hold the install token: says so, at most once an hour a token. The refusal stands whether
    /// or not this can be written.
    async fn raise_contested(&self, host: &Host, install_token_id: InstallTokenId, now: Timestamp) {
        let Some(alarm) = self.alarms.raise(install_token_id, now) else { return };
        let body = EventBody::EnrolmentContested { install_token_id, attempts: alarm.attempts };
        let events = vec![self.host_event(host, None, now, body)];
        match self.store.commit(Commit { writes: Vec::new(), events }).await {
            Ok(_) => alarm.written(),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, %install_token_id, "contested enrolment");
            }
        }
    }
}

/// An exchange that is about to be committed.
struct Grant {
    write: HostWrite,
    events: Vec<EventBody>,
    token: AgentToken,
    plain: Option<PlainToken>,
}

fn reply(host: &Host, token: &AgentToken, plain: Option<PlainToken>) -> ExchangeReply {
    ExchangeReply {
        host_id: host.id,
        tenant_id: host.tenant_id.clone(),
        agent_token: ExchangedToken { id: token.id, kind: token.kind, token: plain, expires_at: token.expires_at },
    }
}
