//! Who presents a request: from a bearer token to an [`AgentIdentity`].

#[cfg(feature = "access-tokens")]
use crate::access_token::HostClaims;
use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Refusal, Request, Siblings, Verdict};
use crate::clock::Timestamp;
use crate::event::EventBody;
#[cfg(feature = "access-tokens")]
use crate::fleet::access_token::AccessTokens;
use crate::fleet::error::AuthenticateError;
use crate::fleet::{Agent, Fleet, Inner};
use crate::host::Host;
use crate::id::{AgentTokenId, HostId, TenantId};
use crate::lineage::{Lineage, Promotion};
use crate::liveness::LivenessWindow;
use crate::secret::{PlainToken, TokenHash};
use crate::store::{
    Aggregate, Commit, Credential, Expected, HostAggregate, HostWrite, Key, Known, Presented, Revision, StoreError,
    StoreErrorKind, Tombstone,
};
use crate::wire::AgentSelf;

/// A host that has proved its credential. Only [`Fleet::authenticate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    host_id: HostId,
    tenant_id: TenantId,
    token_id: AgentTokenId,
    kind: CredentialKind,
    generation: u64,
    liveness_window: Option<LivenessWindow>,
    expires_at: Option<Timestamp>,
    rotate_at: Option<Timestamp>,
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

    /// What that token is presented for.
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// The revocation epoch of the host that was read with it.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The host's own liveness window that was read with it.
    pub const fn liveness_window(&self) -> Option<LivenessWindow> {
        self.liveness_window
    }

    /// From when on what was presented is refused, if ever.
    pub const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Who an access token speaks of, and what was read of that host. It is not rotated, but bought anew.
    #[cfg(feature = "access-tokens")]
    pub(super) fn of_access_token(claims: HostClaims, liveness_window: Option<LivenessWindow>) -> Self {
        let HostClaims { host_id, tenant_id, token_id, generation, expires_at, .. } = claims;
        let (kind, expires_at) = (CredentialKind::Refresh, Some(expires_at));
        Self { host_id, tenant_id, token_id, kind, generation, liveness_window, expires_at, rotate_at: None }
    }

    /// Whether the agent is to be asked for a rotation.
    pub(super) fn is_old(&self, now: Timestamp) -> bool {
        self.rotate_at.is_some_and(|at| now >= at)
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
    /// Finds out who holds `bearer`, and may work with it. The first use of a Pending token promotes it, in a commit that
    /// is durable before this returns; a known Active one costs no read of the store. A fleet that issues access tokens
    /// takes those of hosts whose credential is a refresh token, and not the refresh token itself.
    ///
    /// # Errors
    /// By the rotation table; a failing store is [`AuthenticateError::Store`], never a refusal.
    pub async fn authenticate(&self, bearer: &str) -> Result<AgentIdentity, AuthenticateError> {
        let identity = self.identify(bearer).await?;
        #[cfg(feature = "access-tokens")]
        if self.inner.access_tokens.is_some() && identity.kind == CredentialKind::Refresh && !AccessTokens::mean(bearer)
        {
            return Err(AuthenticateError::AccessTokenWanted(identity.token_id));
        }
        Ok(identity)
    }

    /// The same for any credential of a host, also a refresh token: for telling a host who it is.
    ///
    /// # Errors
    /// As [`Fleet::authenticate`].
    pub async fn identify(&self, bearer: &str) -> Result<AgentIdentity, AuthenticateError> {
        #[cfg(feature = "access-tokens")]
        if let Some(access) = self.inner.access_tokens.as_ref().filter(|_| AccessTokens::mean(bearer)) {
            return self.inner.recognise(access, bearer).await;
        }
        let token = self.inner.parse(bearer)?;
        self.inner.authenticate(&token.hash()).await
    }
}

impl Agent<'_> {
    /// Who the presented credential is. A contact.
    pub fn who_am_i(&self) -> AgentSelf {
        self.contact();
        let AgentIdentity { host_id, tenant_id, token_id, kind, expires_at, .. } = self.identity.clone();
        let server_time = self.fleet.now();
        let rotate = self.identity.is_old(server_time);
        AgentSelf { host_id, tenant_id, token_id, kind, expires_at, rotate, server_time }
    }
}

impl Inner {
    pub(super) fn parse(&self, bearer: &str) -> Result<PlainToken, AuthenticateError> {
        #[cfg(feature = "access-tokens")]
        if AccessTokens::mean(bearer) {
            return Err(AuthenticateError::AgentTokenWanted);
        }
        PlainToken::parse(bearer, &self.prefixes.presented()).map_err(AuthenticateError::Malformed)
    }

    async fn authenticate(&self, hash: &TokenHash) -> Result<AgentIdentity, AuthenticateError> {
        match self.cache.find(hash, self.now(), self.clock.monotonic()) {
            Some(identity) => Ok(identity),
            None => self.prove(hash).await,
        }
    }

    /// The same from the store, whatever the cache knows.
    pub(super) async fn prove(&self, hash: &TokenHash) -> Result<AgentIdentity, AuthenticateError> {
        let (now, monotonic) = (self.now(), self.clock.monotonic());
        let epoch = self.cache.epoch();
        let credential = match self.store.authenticate(hash).await? {
            None => return Err(AuthenticateError::Unknown),
            Some(Known::Tombstone(tombstone)) => return Err(deleted(tombstone)),
            Some(Known::Credential(credential)) => *credential,
        };
        let archived = credential.lifecycle.archived_at().is_some();
        match credential.token.judge(archived, Request::Serve, Siblings::default(), now) {
            Verdict::Serve => {
                let Credential { token, tenant_id, generation, liveness_window, .. } = credential;
                let identity = self.identity(&token, tenant_id, generation, liveness_window);
                self.cache.fill(epoch, *hash, identity.clone(), monotonic);
                Ok(identity)
            }
            Verdict::PromoteFirst => self.first_use(hash).await,
            Verdict::Refused(refusal) => {
                if refusal == Refusal::ReuseDetected {
                    self.reuse_detected(&credential.token, now).await;
                }
                Err(AuthenticateError::Refused(credential.token.id, refusal))
            }
            Verdict::Repeat | Verdict::Accept { .. } => unreachable!("only a proposal is accepted or repeated"),
        }
    }

    /// The first use of a Pending token. Whoever loses the race judges again what the winner left.
    async fn first_use(&self, hash: &TokenHash) -> Result<AgentIdentity, AuthenticateError> {
        for _ in 0..Self::ATTEMPTS {
            let now = self.now();
            let Held { revision, host, agent_tokens, token } = self.held(hash).await?;
            match token.judge(host.is_archived(), Request::Serve, Siblings::default(), now) {
                Verdict::PromoteFirst => {}
                Verdict::Serve => {
                    return Ok(self.identity(&token, host.tenant_id, host.generation, host.liveness_window));
                }
                Verdict::Refused(refusal) => return Err(AuthenticateError::Refused(token.id, refusal)),
                Verdict::Repeat | Verdict::Accept { .. } => unreachable!("only a proposal is accepted or repeated"),
            }
            let (tenant_id, generation, window) = (host.tenant_id.clone(), host.generation, host.liveness_window);
            let lineage = Lineage::among(agent_tokens, token.lineage_id);
            if let Some(promoted) = self.promote(revision, host, lineage, now).await? {
                return Ok(self.identity(&promoted, tenant_id, generation, window));
            }
        }
        Err(AuthenticateError::Store(StoreErrorKind::Unavailable.into()))
    }

    /// Promotes the pending token of a lineage, and retires what it follows, in one commit; `None` when somebody else was
    /// quicker and it has to be judged again.
    pub(super) async fn promote(
        &self,
        revision: Revision,
        host: Host,
        lineage: Lineage,
        now: Timestamp,
    ) -> Result<Option<AgentToken>, StoreError> {
        let Ok(Promotion { promoted, retired }) = lineage.promote(self.limits.agent_token_life, now) else {
            return Ok(None);
        };
        let body = EventBody::AgentTokenPromoted {
            agent_token_id: promoted.id,
            retired: retired.as_ref().map(|token| token.id),
        };
        let events = vec![self.host_event(&host, None, now, body)];
        let _cut_off = CutOff::of(self, retired.as_slice());
        let write = HostWrite {
            agent_tokens: retired.into_iter().chain([promoted.clone()]).collect(),
            ..HostWrite::new(Expected::Revision(revision), host)
        };
        match self.store.commit(Commit::of(write, events)).await {
            Ok(_) => Ok(Some(promoted)),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The token with this hash, and the host that it is held by.
    pub(super) async fn held(&self, hash: &TokenHash) -> Result<Held, AuthenticateError> {
        if let Some(Aggregate::Host(aggregate)) = self.store.load(&Key::AgentToken(*hash)).await? {
            let HostAggregate { revision, host, agent_tokens, presented, .. } = *aggregate;
            if let Presented::AgentToken(token) = presented {
                return Ok(Held { revision, host, agent_tokens, token });
            }
        }
        Err(match self.store.authenticate(hash).await? {
            None => AuthenticateError::Unknown,
            Some(Known::Tombstone(tombstone)) => deleted(tombstone),
            // It came between the two reads.
            Some(Known::Credential(_)) => AuthenticateError::Store(StoreErrorKind::Unavailable.into()),
        })
    }

    fn identity(
        &self,
        token: &AgentToken,
        tenant_id: TenantId,
        generation: u64,
        liveness_window: Option<LivenessWindow>,
    ) -> AgentIdentity {
        AgentIdentity {
            host_id: token.host_id,
            tenant_id,
            token_id: token.id,
            kind: token.kind,
            generation,
            liveness_window,
            expires_at: token.expires_at,
            rotate_at: self.rotate_at(token),
        }
    }

    /// From when on the agent is asked for a rotation: after the time that the fleet sets, and at two thirds of the
    /// token's life.
    fn rotate_at(&self, token: &AgentToken) -> Option<Timestamp> {
        let AgentTokenState::Active { since } = token.state else { return None };
        let set = self.limits.rotate_after.map(|after| since.saturating_add(after));
        let life = token.life().zip(token.expires_at).map(|(life, end)| end.saturating_sub(life / 3));
        set.into_iter().chain(life).min()
    }
}

/// A token that was presented, and its host.
pub(super) struct Held {
    pub(super) revision: Revision,
    pub(super) host: Host,
    /// The live tokens of the host.
    pub(super) agent_tokens: Vec<AgentToken>,
    pub(super) token: AgentToken,
}

const fn deleted(tombstone: Tombstone) -> AuthenticateError {
    AuthenticateError::HostDeleted { token_id: tombstone.token_id, host_id: tombstone.host_id }
}

/// Tokens that the cache has to forget when this is dropped: after the commit and before the answer, so that once it is
/// acknowledged, nothing serves them. Also when the caller goes away while the commit is under way: whatever became of
/// it, the next request reads the store.
pub(super) struct CutOff<'a> {
    fleet: &'a Inner,
    hashes: Vec<TokenHash>,
    /// Whether they were all replaced by successors, and none cut off.
    rotated: bool,
}

impl<'a> CutOff<'a> {
    /// Those of `tokens` that cannot act any more.
    pub(super) fn of(fleet: &'a Inner, tokens: &[AgentToken]) -> Self {
        let ended = tokens.iter().filter(|token| !token.is_live());
        let rotated = ended.clone().all(AgentToken::was_replaced);
        Self { fleet, hashes: ended.map(|token| token.hash).collect(), rotated }
    }

    /// Those that an administrator's act has ended.
    pub(super) const fn new(fleet: &'a Inner, hashes: Vec<TokenHash>) -> Self {
        Self { fleet, hashes, rotated: false }
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        // Raising the epoch for nothing would only throw away what others are reading.
        if self.hashes.is_empty() {
            return;
        }
        match self.rotated {
            true => self.fleet.forget_rotated(&self.hashes),
            false => self.fleet.forget(&self.hashes),
        }
    }
}
