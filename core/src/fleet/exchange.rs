//! The exchange: an install token becomes a credential.

use std::net::IpAddr;

use crate::agent_token::{
    AgentToken, CredentialKind, Draft, Origin, Refusal, Request, RevokeReason, Siblings, Verdict,
};
use crate::event::EventBody;
use crate::fleet::alarm::Subject;
use crate::fleet::authenticate::CutOff;
use crate::fleet::error::EnrolError;
use crate::fleet::{Fleet, Inner};
use crate::host::Host;
use crate::id::{AgentTokenId, HostId, LineageId};
use crate::install_token::{Claim, Exchange, InstallTokenState, Purchase};
use crate::secret::{IdempotencyKey, PlainToken};
use crate::store::{
    AgentTokenQuery, Aggregate, Commit, Expected, HostAggregate, HostWrite, Key, Presented, StoreError, StoreErrorKind,
};
use crate::wire::{ExchangeReply, ExchangeRequest, ExchangedToken};

impl Fleet {
    /// Exchanges an install token for an agent token. Public: the install token is the credential.
    ///
    /// With a `claim` the request can be repeated until it is answered, and is answered the same as long as what it bought is
    /// not refused. Without one the reply carries the secret: again for the same `idempotency_key` until it is first used;
    /// without a key a reply that is lost needs a new install token. `remote` is the client's address, for the limit on
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
            if let Some(reply) = self.try_exchange(aggregate, &presented, request).await? {
                return Ok(reply);
            }
        }
        Err(EnrolError::Store(StoreErrorKind::Unavailable.into()))
    }

    /// One attempt; `None` when somebody else was quicker and it has to be judged again.
    async fn try_exchange(
        &self,
        aggregate: HostAggregate,
        secret: &PlainToken,
        request: &ExchangeRequest,
    ) -> Result<Option<ExchangeReply>, EnrolError> {
        let now = self.now();
        let HostAggregate { revision, host, agent_tokens, presented, .. } = aggregate;
        let Presented::InstallToken(install_token) = presented else { return Err(EnrolError::InvalidToken) };
        let bought = match install_token.state {
            InstallTokenState::Consumed { agent_token, .. } => self.agent_token(agent_token).await?,
            _ => None,
        };
        let claim = match (request.claim, &request.idempotency_key) {
            (Some(hash), _) => Claim::Client(hash),
            (None, key) => Claim::Server { idempotency_key_hash: key.as_ref().map(IdempotencyKey::hash) },
        };
        match install_token.exchange(&claim, bought.as_ref(), now) {
            Exchange::Invalid => Err(EnrolError::InvalidToken),
            Exchange::AlreadyUsed { contested } => {
                if contested {
                    let install_token_id = install_token.id;
                    let body = |attempts| EventBody::EnrolmentContested { install_token_id, attempts };
                    self.raise(&host, Subject::Contested(install_token_id), now, body).await;
                }
                Err(EnrolError::AlreadyUsed)
            }
            Exchange::Repeat { .. } => {
                let bought = bought.ok_or(EnrolError::InvalidToken)?;
                match bought.judge(host.is_archived(), Request::Serve, Siblings::default(), now) {
                    Verdict::Refused(refusal) => {
                        // A copy of the host that has not enrolled yet: it speaks here first.
                        if refusal == Refusal::ReuseDetected {
                            self.reuse_detected(&bought, now).await;
                        }
                        Err(EnrolError::Refused(bought.id, refusal))
                    }
                    _ => {
                        let plain = match claim {
                            Claim::Client(_) => None,
                            Claim::Server { .. } => Some(self.draw(secret, request, bought.kind, bought.id)),
                        };
                        // Another prefix has been set since: the secret cannot be made again.
                        if plain.as_ref().is_some_and(|plain| plain.hash() != bought.hash) {
                            return Err(EnrolError::AlreadyUsed);
                        }
                        Ok(Some(reply(&host, &bought, plain)))
                    }
                }
            }
            Exchange::Grant => {
                let id = AgentTokenId::generate(now, &*self.entropy);
                let (hash, plain) = match claim {
                    Claim::Client(hash) => (hash, None),
                    Claim::Server { .. } => {
                        let plain = self.draw(secret, request, install_token.credential_kind, id);
                        (plain.hash(), Some(plain))
                    }
                };
                let earlier = self.exchanged(host.id, agent_tokens).await?;
                let lineage_id = LineageId::generate(now, &*self.entropy);
                let purchase = install_token.buy(claim, Draft { id, hash }, host.id, lineage_id, earlier, now);
                // A state that does not allow it was changed by somebody quicker, in a way that makes the token worthless.
                let Purchase { spent, bought, ended } = purchase.map_err(|_| EnrolError::InvalidToken)?;
                let host = if ended.is_empty() { host } else { host.next_generation(now) };
                let host = host.enrol(now).map_err(|_| EnrolError::InvalidToken)?;
                let answer = reply(&host, &bought, plain);
                let enrolled = EventBody::HostEnrolled { install_token_id: spent.id, agent_token_id: bought.id };
                let reason = RevokeReason::Reenrolled;
                let revoked =
                    ended.iter().map(|token| EventBody::AgentTokenRevoked { agent_token_id: token.id, reason });
                let events =
                    [enrolled].into_iter().chain(revoked).map(|body| self.host_event(&host, None, now, body)).collect();
                let _cut_off = CutOff::of(self, &ended);
                let write = HostWrite {
                    install_tokens: vec![spent],
                    agent_tokens: ended.into_iter().chain([bought]).collect(),
                    facts: request.facts.clone(),
                    ..HostWrite::new(Expected::Revision(revision), host)
                };
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
