//! What an access token says.

use serde::{Deserialize, Serialize};

use crate::access_token::error::AccessTokenError;
use crate::clock::Timestamp;
use crate::id::{AccessTokenId, AgentTokenId, HostId, TenantId};

/// Of whom a new access token is to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostClaimsDraft {
    /// The host that holds it.
    pub host_id: HostId,
    /// Whose the host is.
    pub tenant_id: TenantId,
    /// The agent token that buys it.
    pub token_id: AgentTokenId,
    /// The revocation epoch of the host.
    pub generation: u64,
    /// From when on that agent token is refused, if ever: no access token outlives what bought it.
    pub token_expires_at: Option<Timestamp>,
}

/// What a verified access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostClaims {
    /// Who issued it (`iss`).
    pub issuer: Box<str>,
    /// The host that holds it (`sub`).
    pub host_id: HostId,
    /// Whose the host is (`tid`).
    pub tenant_id: TenantId,
    /// The agent token that bought it (`cid`).
    pub token_id: AgentTokenId,
    /// The revocation epoch of the host when it was bought (`gen`): once the host has a higher one, the token is stale.
    pub generation: u64,
    /// When it was issued (`iat`), in whole seconds.
    pub issued_at: Timestamp,
    /// From when on it is refused (`exp`), in whole seconds.
    pub expires_at: Timestamp,
    /// Its own id (`jti`).
    pub id: AccessTokenId,
}

/// The payload as our issuer writes it.
#[derive(Serialize)]
pub(super) struct Payload<'a> {
    pub(super) iss: &'a str,
    pub(super) aud: &'a str,
    pub(super) sub: HostId,
    pub(super) tid: &'a TenantId,
    #[serde(rename = "gen")]
    pub(super) generation: u64,
    pub(super) exp: Seconds,
    pub(super) iat: Seconds,
    pub(super) jti: AccessTokenId,
    pub(super) cid: AgentTokenId,
}

/// The payload as it is read. Members that are not known are ignored (RFC 7519 §4).
#[derive(Deserialize)]
pub(super) struct Received {
    iss: Box<str>,
    aud: Audience,
    sub: HostId,
    tid: TenantId,
    #[serde(rename = "gen")]
    generation: u64,
    exp: Seconds,
    iat: Seconds,
    /// We write none, but who understands it must obey it.
    nbf: Option<Seconds>,
    jti: AccessTokenId,
    cid: AgentTokenId,
}

impl Received {
    pub(super) fn is_from(&self, issuer: &str) -> bool {
        *self.iss == *issuer
    }

    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Audience::One(one) => **one == *audience,
            Audience::Many(many) => many.iter().any(|one| **one == *audience),
        }
    }

    /// From when on it is valid, by its own account.
    pub(super) fn not_before(&self) -> Result<Option<Timestamp>, AccessTokenError> {
        self.nbf.map(Seconds::at).transpose()
    }

    pub(super) fn into_claims(self) -> Result<HostClaims, AccessTokenError> {
        Ok(HostClaims {
            issuer: self.iss,
            host_id: self.sub,
            tenant_id: self.tid,
            token_id: self.cid,
            generation: self.generation,
            issued_at: self.iat.at()?,
            expires_at: self.exp.at()?,
            id: self.jti,
        })
    }
}

/// RFC 7519 §4.1.3: one, or several. Ours writes one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(Box<str>),
    Many(Vec<Box<str>>),
}

/// A NumericDate (RFC 7519 §2), of which we take whole seconds only.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Seconds(i64);

impl Seconds {
    /// Fractions are cut off.
    pub(super) const fn of(at: Timestamp) -> Self {
        Self(at.unix_micros() / 1_000_000)
    }

    /// An error outside the years 1970–9999.
    pub(super) fn at(self) -> Result<Timestamp, AccessTokenError> {
        self.0.checked_mul(1_000_000).and_then(Timestamp::from_unix_micros).ok_or(AccessTokenError::Claims)
    }
}
