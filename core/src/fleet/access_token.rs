//! Access tokens: a refresh token buys one, and the server's own routes accept it for as long as nothing of its host was
//! cut off.

use crate::access_token::{HostClaims, HostClaimsDraft, Issuer, Jwks, Verifier, looks_like_jwt};
use crate::agent_token::{CredentialKind, Refusal, Request, Siblings, Verdict};
use crate::fleet::authenticate::{AgentIdentity, Held};
use crate::fleet::cache::CredentialCache;
use crate::fleet::error::{AuthenticateError, RefreshError};
use crate::fleet::limits::Limits;
use crate::fleet::{Fleet, Inner};
use crate::secret::{IdempotencyKey, TokenHash};
use crate::store::HostLookup;
use crate::wire::{ProposedState, RefreshAccessToken, RefreshReply};

/// What a fleet needs to issue and to recognise access tokens.
pub(super) struct AccessTokens {
    issuer: Issuer,
    verifier: Verifier,
    /// Recognised tokens, by the hash of their text.
    pub(super) cache: CredentialCache,
}

impl AccessTokens {
    pub(super) fn new(issuer: Issuer, limits: &Limits) -> Self {
        let cache = CredentialCache::new(limits.cached_credentials, limits.credential_cache_ttl);
        Self { verifier: issuer.verifier(), issuer, cache }
    }

    /// Whether the text is presented as an access token rather than as an agent token.
    pub(super) fn mean(text: &str) -> bool {
        looks_like_jwt(text)
    }
}

impl Fleet {
    /// Buys an access token with a refresh token. With a `claim`, or `rotate`, it first proposes a successor of the refresh
    /// token, as [`Fleet::propose_agent_token`] does; `key` is for a successor that the server draws.
    ///
    /// # Errors
    /// By the rotation table; when the host does it too often; when the fleet issues none, or the presented token is not for
    /// refreshing.
    pub async fn refresh(
        &self,
        bearer: &str,
        request: &RefreshAccessToken,
        key: Option<&IdempotencyKey>,
    ) -> Result<RefreshReply, RefreshError> {
        let fleet = &*self.inner;
        let access = fleet.access_tokens.as_ref().ok_or(RefreshError::Disabled)?;
        let presented = fleet.parse(bearer)?;
        let hash = presented.hash();
        let held = fleet.held(&hash).await?;
        fleet.admit_rotation(&held, fleet.now()).map_err(AuthenticateError::RateLimited)?;
        let mut refresh_token = None;
        if request.claim.is_some() || request.rotate {
            let Held { host, token, .. } = &held;
            if token.kind != CredentialKind::Refresh {
                return Err(RefreshError::NotARefreshToken);
            }
            // It can propose and buys nothing: the successor would be lost with the refusal.
            let served = token.judge(host.is_archived(), Request::Serve, Siblings::default(), fleet.now());
            if served == Verdict::Refused(Refusal::Expired) {
                return Err(AuthenticateError::Refused(token.id, Refusal::Expired).into());
            }
            let token_id = token.id;
            let proposed = fleet.propose(held, &presented, request.claim, key).await?;
            if proposed.state == ProposedState::Used {
                // A duplicate that came late: what it was sent with is retired by now, and serving it would look like theft.
                return Err(AuthenticateError::Refused(token_id, Refusal::Superseded).into());
            }
            refresh_token = proposed.token;
        }
        let identity = fleet.prove(&hash).await?;
        if identity.kind() != CredentialKind::Refresh {
            return Err(RefreshError::NotARefreshToken);
        }
        let now = fleet.now();
        fleet.contacts.note(identity.host_id(), identity.token_id(), now);
        let draft = HostClaimsDraft {
            host_id: identity.host_id(),
            tenant_id: identity.tenant_id().clone(),
            token_id: identity.token_id(),
            generation: identity.generation(),
            token_expires_at: identity.expires_at(),
        };
        let issued = access.issuer.issue(&draft, now, &*fleet.entropy);
        Ok(RefreshReply {
            access_token: issued.token,
            expires_at: issued.expires_at,
            refresh_token,
            rotate: identity.is_old(now),
        })
    }

    /// The keys of access tokens, for whoever verifies them offline; `None` when the fleet issues none.
    pub fn jwks(&self) -> Option<Jwks> {
        self.inner.access_tokens.as_ref().map(|access| access.issuer.jwks())
    }
}

impl Inner {
    /// Who holds an access token. Its revocation epoch is compared with the host's, so that here a revocation does not
    /// wait for the expiry.
    pub(super) async fn recognise(
        &self,
        access: &AccessTokens,
        text: &str,
    ) -> Result<AgentIdentity, AuthenticateError> {
        let (now, monotonic) = (self.now(), self.clock.monotonic());
        let hash = TokenHash::of_text(text);
        if let Some(identity) = access.cache.find(&hash, now, monotonic) {
            return Ok(identity);
        }
        let claims = access.verifier.verify(text, now).map_err(AuthenticateError::AccessToken)?;
        let epoch = access.cache.epoch();
        let identity = self.bearer_of(claims).await?;
        access.cache.fill(epoch, hash, identity.clone(), monotonic);
        Ok(identity)
    }

    async fn bearer_of(&self, claims: HostClaims) -> Result<AgentIdentity, AuthenticateError> {
        let stale = AuthenticateError::StaleAccessToken(claims.token_id);
        // Of a deleted host the refresh token tells, which has a tombstone.
        let Some(record) = self.store.find_host(&HostLookup::Id(claims.host_id)).await? else { return Err(stale) };
        if record.host.is_archived() {
            return Err(AuthenticateError::Refused(claims.token_id, Refusal::HostArchived));
        }
        if record.host.generation != claims.generation || record.host.tenant_id != claims.tenant_id {
            return Err(stale);
        }
        Ok(AgentIdentity::of_access_token(claims, record.host.liveness_window))
    }
}
