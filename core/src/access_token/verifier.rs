//! Verifying access tokens, with or without the server.

use std::time::Duration;

use crate::access_token::claims::{HostClaims, Received};
use crate::access_token::error::{AccessTokenError, InvalidLeeway};
use crate::access_token::jwk::Jwks;
use crate::access_token::jws::Unverified;
use crate::clock::Timestamp;

const MAX_LEEWAY: Duration = Duration::from_secs(60);
/// By how much the clock of the issuer may be ahead, leeway apart.
const FUTURE: Duration = Duration::from_secs(60);

/// Recognises hosts by their access tokens, offline.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Jwks,
    issuer: Box<str>,
    audience: Box<str>,
    leeway: Duration,
}

impl Verifier {
    /// Accepts what one of the `keys` has signed in the name of `issuer` for `audience`.
    pub fn new(keys: Jwks, issuer: impl Into<Box<str>>, audience: impl Into<Box<str>>) -> Self {
        Self { keys, issuer: issuer.into(), audience: audience.into(), leeway: Duration::ZERO }
    }

    /// By how much the clocks of issuer and verifier may differ: not at all unless it is set, 60 seconds at most. A token is
    /// accepted for so much longer.
    ///
    /// # Errors
    /// When it is more than that.
    pub fn with_leeway(self, leeway: Duration) -> Result<Self, InvalidLeeway> {
        if leeway > MAX_LEEWAY { Err(InvalidLeeway) } else { Ok(Self { leeway, ..self }) }
    }

    /// Goes on with another key set, and accepts no key that is not in it.
    pub fn replace_keys(&mut self, keys: Jwks) {
        self.keys = keys;
    }

    /// Who holds `token`. Nothing of it is believed before its signature was found to be valid.
    ///
    /// # Errors
    /// By the first of these that holds: see [`AccessTokenError`]. On [`AccessTokenError::UnknownKey`] it may help to fetch
    /// the keys again, but not at every such token: anybody can make one.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<HostClaims, AccessTokenError> {
        let token = Unverified::parse(token)?;
        let mut known = self.keys.keys().iter().filter(|key| key.kid() == token.kid).peekable();
        if known.peek().is_none() {
            return Err(AccessTokenError::UnknownKey);
        }
        let signature = token.signature().ok_or(AccessTokenError::Signature)?;
        if !known.any(|key| key.has_signed(token.message.as_bytes(), &signature)) {
            return Err(AccessTokenError::Signature);
        }
        let received: Received = token.claims()?;
        if !received.is_from(&self.issuer) {
            return Err(AccessTokenError::Issuer);
        }
        if !received.is_for(&self.audience) {
            return Err(AccessTokenError::Audience);
        }
        let not_before = received.not_before()?;
        let claims = received.into_claims()?;
        let latest = now.saturating_add(self.leeway);
        if claims.issued_at > latest.saturating_add(FUTURE) || not_before.is_some_and(|at| at > latest) {
            return Err(AccessTokenError::NotYetValid);
        }
        if now >= claims.expires_at.saturating_add(self.leeway) {
            return Err(AccessTokenError::Expired);
        }
        Ok(claims)
    }
}
