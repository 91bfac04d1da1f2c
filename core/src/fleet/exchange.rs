//! The exchange: an install token becomes a credential.

use std::net::IpAddr;

use crate::agent_token::{
    AgentToken, CredentialKind, Draft, Origin, Refusal, Request, RevokeReason, Siblings, Verdict,
};
use crate::clock::Timestamp;
use crate::event::EventBody;
use crate::fleet::alarm::Subject;
use crate::fleet::authenticate::CutOff;
use crate::fleet::error::EnrolError;
use crate::fleet::{Fleet, Inner};
use crate::host::Host;
use crate::id::{AgentTokenId, HostId, LineageId, TenantId};
use crate::install_token::{Claim, Exchange, InstallToken, InstallTokenState, Purchase};
use crate::secret::{IdempotencyKey, PlainToken};
use crate::store::{
    AgentTokenQuery, Aggregate, Commit, Expected, HostAggregate, HostLookup, HostWrite, Key, Known, Presented,
    Revision, StoreError, StoreErrorKind, Tombstone, Write,
};
use crate::wire::{ExchangeReply, ExchangeRequest, ExchangedToken, ProposedHost};

impl Fleet {
    /// Exchanges an install token for an agent token. Public: the install token is the credential.
    ///
    /// With a `claim` the request can be repeated until it is answered, and is answered the same as long as what it bought is
    /// not refused. Without one the reply carries the secret: again for the same `idempotency_key` until it is first used;
    /// without a key a reply that is lost needs a new install token. A tenant's install token makes its host, or finds one
    /// by the external id; with one of a host, what the request proposes of it is not looked at. `remote` is the client's address, for the limit on
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
    /// Whether somebody presented what is no valid install token, or looks around with one: such attempts are counted.
    const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::InvalidToken
                | Self::AlreadyUsed
                | Self::Refused(..)
                | Self::HostDeleted { .. }
                | Self::NameTaken
                | Self::ExternalIdTaken
        )
    }
}

/// What an install token is bound to, as it stands.
enum Bound {
    Host {
        revision: Revision,
        host: Box<Host>,
        /// Its Pending and Active ones.
        agent_tokens: Vec<AgentToken>,
    },
    /// The revision is the token's own.
    Tenant { revision: Revision },
}

/// The host that an exchange enrols, with the guard of its write and its live agent tokens.
struct Target {
    expected: Expected,
    host: Host,
    live: Vec<AgentToken>,
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
            let aggregate = self.store.load(&key).await?.ok_or(EnrolError::InvalidToken)?;
            if let Some(reply) = self.try_exchange(aggregate, &presented, request).await? {
                return Ok(reply);
            }
        }
        Err(EnrolError::Store(StoreErrorKind::Unavailable.into()))
    }

    /// One attempt; `None` when somebody else was quicker and it has to be judged again.
    async fn try_exchange(
        &self,
        aggregate: Aggregate,
        secret: &PlainToken,
        request: &ExchangeRequest,
    ) -> Result<Option<ExchangeReply>, EnrolError> {
        let now = self.now();
        let (install_token, bound) = match aggregate {
            Aggregate::Host(aggregate) => {
                let HostAggregate { revision, host, agent_tokens, presented, .. } = *aggregate;
                let Presented::InstallToken(install_token) = presented else { return Err(EnrolError::InvalidToken) };
                (install_token, Bound::Host { revision, host: Box::new(host), agent_tokens })
            }
            Aggregate::TenantInstallToken(aggregate) => {
                (aggregate.token, Bound::Tenant { revision: aggregate.revision })
            }
        };
        let bought = match install_token.state {
            InstallTokenState::Consumed { agent_token, .. } => self.bought(agent_token).await?,
            _ => None,
        };
        let claim = match (request.claim, &request.idempotency_key) {
            (Some(hash), _) => Claim::Client(hash),
            (None, key) => Claim::Server { idempotency_key_hash: key.as_ref().map(IdempotencyKey::hash) },
        };
        match install_token.exchange(&claim, bought.as_ref().map(|(_, token)| token), now) {
            Exchange::Invalid => Err(EnrolError::InvalidToken),
            Exchange::AlreadyUsed { contested } => {
                if contested {
                    let (id, host) = (install_token.id, bought.as_ref().map(|(host, _)| host));
                    let event = |attempts| {
                        let body = EventBody::EnrolmentContested { install_token_id: id, attempts };
                        self.tenant_event(&install_token.tenant_id, host, None, now, body)
                    };
                    self.raise(Subject::Contested(id), now, event).await;
                }
                Err(EnrolError::AlreadyUsed)
            }
            Exchange::Repeat { .. } => match bought {
                Some((host, bought)) => self.repeat(&host, bought, &claim, secret, request, now).await.map(Some),
                None => Err(self.gone(&claim).await?),
            },
            Exchange::Grant => self.grant(install_token, bound, claim, secret, request, now).await,
        }
    }

    /// The same answer again, or the refusal of what was bought then.
    async fn repeat(
        &self,
        host: &Host,
        bought: AgentToken,
        claim: &Claim,
        secret: &PlainToken,
        request: &ExchangeRequest,
        now: Timestamp,
    ) -> Result<ExchangeReply, EnrolError> {
        if let Verdict::Refused(refusal) = bought.judge(host.is_archived(), Request::Serve, Siblings::default(), now) {
            // A copy of the host that has not enrolled yet: it speaks here first.
            if refusal == Refusal::ReuseDetected {
                self.reuse_detected(&bought, now).await;
            }
            return Err(EnrolError::Refused(bought.id, refusal));
        }
        let plain = match claim {
            Claim::Client(_) => None,
            Claim::Server { .. } => Some(self.draw(secret, request, bought.kind, bought.id)),
        };
        // Another prefix has been set since: the secret cannot be made again.
        if plain.as_ref().is_some_and(|plain| plain.hash() != bought.hash) {
            return Err(EnrolError::AlreadyUsed);
        }
        Ok(reply(host, &bought, plain))
    }

    /// What the claim that won reads once its host was deleted: as long as there is a tombstone, that.
    async fn gone(&self, claim: &Claim) -> Result<EnrolError, StoreError> {
        let Claim::Client(hash) = claim else { return Ok(EnrolError::AlreadyUsed) };
        Ok(match self.store.authenticate(hash).await? {
            Some(Known::Tombstone(Tombstone { token_id, host_id, .. })) => {
                EnrolError::HostDeleted { token_id, host_id }
            }
            _ => EnrolError::AlreadyUsed,
        })
    }

    /// The install token is spent, the credential begins, and with a tenant's token the host may: in one commit.
    async fn grant(
        &self,
        install_token: InstallToken,
        bound: Bound,
        claim: Claim,
        secret: &PlainToken,
        request: &ExchangeRequest,
        now: Timestamp,
    ) -> Result<Option<ExchangeReply>, EnrolError> {
        let id = AgentTokenId::generate(now, &*self.entropy);
        let (hash, plain) = match claim {
            Claim::Client(hash) => (hash, None),
            Claim::Server { .. } => {
                let plain = self.draw(secret, request, install_token.credential_kind, id);
                (plain.hash(), Some(plain))
            }
        };
        let proposed = request.host.clone().unwrap_or_default();
        let (own_revision, target) = match bound {
            Bound::Host { revision, host, agent_tokens } => {
                (None, Target { expected: Expected::Revision(revision), host: *host, live: agent_tokens })
            }
            Bound::Tenant { revision } => match self.find_or_make(&install_token, &proposed, now).await? {
                Some(target) => (Some(revision), target),
                None => return Ok(None),
            },
        };
        let Target { expected, host, live } = target;
        let earlier = self.exchanged(host.id, live).await?;
        let lineage_id = LineageId::generate(now, &*self.entropy);
        let (tenant_id, made_by) = (install_token.tenant_id.clone(), install_token.created_by.clone());
        let purchase = install_token.buy(claim, Draft { id, hash }, host.id, lineage_id, earlier, now);
        // A state that does not allow it was changed by somebody quicker, in a way that makes the token worthless.
        let Purchase { spent, bought, ended } = purchase.map_err(|_| EnrolError::InvalidToken)?;
        let host = if ended.is_empty() { host } else { host.next_generation(now) };
        let host = host.enrol(now).map_err(|_| EnrolError::InvalidToken)?;
        let answer = reply(&host, &bought, plain);
        let created = (expected == Expected::Absent).then(|| {
            let install_token_id = Some(spent.id);
            let body = EventBody::HostCreated { name: host.name.clone(), kind: host.kind, install_token_id };
            self.host_event(&host, Some(&made_by), now, body)
        });
        let enrolled = EventBody::HostEnrolled { install_token_id: spent.id, agent_token_id: bought.id };
        let reason = RevokeReason::Reenrolled;
        let revoked = ended.iter().map(|token| EventBody::AgentTokenRevoked { agent_token_id: token.id, reason });
        let bodies = [enrolled].into_iter().chain(revoked);
        let events = created.into_iter().chain(bodies.map(|body| self.host_event(&host, None, now, body))).collect();
        let _cut_off = CutOff::of(self, &ended);
        let mut write = HostWrite {
            agent_tokens: ended.into_iter().chain([bought]).collect(),
            facts: request.facts.clone(),
            ..HostWrite::new(expected, host)
        };
        let mut writes = Vec::new();
        match own_revision {
            Some(revision) => {
                writes.push(Write::TenantInstallToken { expected: Expected::Revision(revision), token: spent });
            }
            None => write.install_tokens.push(spent),
        }
        writes.push(write.into());
        match self.store.commit(Commit { writes, events }).await {
            Ok(_) => Ok(Some(answer)),
            Err(error) => match error.kind() {
                StoreErrorKind::Conflict => Ok(None),
                StoreErrorKind::HashSeen => Err(EnrolError::ClaimInUse),
                // Another exchange was quicker with this external id: judged again, its host is found.
                StoreErrorKind::ExternalIdTaken => Ok(None),
                // The name was drawn here: another one will do.
                StoreErrorKind::NameTaken if proposed.name.is_none() => Ok(None),
                StoreErrorKind::NameTaken => match self.named(&tenant_id, &proposed).await? {
                    // The same, with the same name.
                    Some(_) => Ok(None),
                    None => Err(EnrolError::NameTaken),
                },
                _ => Err(error.into()),
            },
        }
    }

    /// The host that the exchange of a tenant's install token enrols: the one that the external id names, else a new one.
    /// `None` when that was changed meanwhile.
    async fn find_or_make(
        &self,
        install_token: &InstallToken,
        proposed: &ProposedHost,
        now: Timestamp,
    ) -> Result<Option<Target>, EnrolError> {
        let Some(found) = self.named(&install_token.tenant_id, proposed).await? else {
            let id = HostId::generate(now, &*self.entropy);
            let ProposedHost { name, external_id } = proposed.clone();
            let host = install_token.make_host(id, name, external_id, now);
            return Ok(Some(Target { expected: Expected::Absent, host, live: Vec::new() }));
        };
        let Some(Aggregate::Host(aggregate)) = self.store.load(&Key::Host(found)).await? else { return Ok(None) };
        let HostAggregate { revision, host, agent_tokens: live, .. } = *aggregate;
        if host.external_id != proposed.external_id {
            return Ok(None);
        }
        if !install_token.reenrols(&host, &live) {
            return Err(EnrolError::ExternalIdTaken);
        }
        Ok(Some(Target { expected: Expected::Revision(revision), host, live }))
    }

    /// The host of the tenant that has the proposed external id.
    async fn named(&self, tenant_id: &TenantId, proposed: &ProposedHost) -> Result<Option<HostId>, StoreError> {
        let Some(external_id) = &proposed.external_id else { return Ok(None) };
        let lookup = HostLookup::ExternalId(tenant_id.clone(), external_id.clone());
        Ok(self.store.find_host(&lookup).await?.map(|record| record.host.id))
    }

    /// What an install token was exchanged for, with the host that it enrolled; `None` when that was deleted.
    async fn bought(&self, id: AgentTokenId) -> Result<Option<(Host, AgentToken)>, StoreError> {
        Ok(match self.store.load(&Key::AgentTokenId(id)).await? {
            Some(Aggregate::Host(aggregate)) => match aggregate.presented {
                Presented::AgentToken(token) => Some((aggregate.host, token)),
                _ => None,
            },
            _ => None,
        })
    }

    /// The secret of a server-made exchange. With a key it is derived, with the id of the token that it becomes as the
    /// salt: that is random, and stored with the install token, so that a repeat makes the same one.
    fn draw(
        &self,
        secret: &PlainToken,
        request: &ExchangeRequest,
        kind: CredentialKind,
        id: AgentTokenId,
    ) -> PlainToken {
        let prefix = self.prefixes.of(kind);
        match &request.idempotency_key {
            Some(key) => PlainToken::derive(prefix, secret, key, id.as_uuid().as_bytes()),
            None => PlainToken::generate(prefix, &*self.entropy),
        }
    }

    /// Those of a host's live tokens whose lineage began with an exchange: what whoever enrols it anew has lost. What an
    /// administrator issued by hand stays.
    async fn exchanged(&self, host_id: HostId, live: Vec<AgentToken>) -> Result<Vec<AgentToken>, StoreError> {
        let mut exchanged = Vec::new();
        for token in live {
            if let Origin::Exchange(_) = self.began(host_id, &token).await? {
                exchanged.push(token);
            }
        }
        Ok(exchanged)
    }

    /// The origin of the first token of a lineage. How a lineage began never changes, so it need not be read together
    /// with what is written.
    async fn began(&self, host_id: HostId, token: &AgentToken) -> Result<Origin, StoreError> {
        const PAGE: usize = 500;
        if token.origin.predecessor().is_none() {
            return Ok(token.origin.clone());
        }
        let lineage_id = Some(token.lineage_id);
        let mut query = AgentTokenQuery { lineage_id, ..AgentTokenQuery::new(host_id, PAGE) };
        loop {
            let page = self.store.list_agent_tokens(&query).await?;
            query.after = page.items.last().map(|record| record.token.id);
            // The first as a rule; not for certain, since ids follow the clocks of several servers.
            match page.items.into_iter().map(|record| record.token.origin).find(|origin| origin.predecessor().is_none())
            {
                Some(origin) => return Ok(origin),
                None if page.more => {}
                // It is gone meanwhile, with its host.
                None => return Err(StoreErrorKind::Unavailable.into()),
            }
        }
    }
}

fn reply(host: &Host, token: &AgentToken, plain: Option<PlainToken>) -> ExchangeReply {
    ExchangeReply {
        host_id: host.id,
        tenant_id: host.tenant_id.clone(),
        agent_token: ExchangedToken { id: token.id, kind: token.kind, token: plain, expires_at: token.expires_at },
    }
}
