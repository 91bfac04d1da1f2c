//! Issuing access tokens.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::access_token::claims::{HostClaimsDraft, Payload, Seconds};
use crate::access_token::error::InvalidIssuer;
use crate::access_token::jwk::{Jwk, Jwks};
use crate::access_token::jws;
use crate::access_token::signing_key::SigningKey;
use crate::access_token::verifier::Verifier;
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::id::AccessTokenId;
use crate::secret::AccessToken;
use crate::text::{Alphabet, check};

const LIFE: Duration = Duration::from_secs(10 * 60);
const MIN_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest text of an issuer or of an audience, in bytes: with it every token stays below what a verifier reads.
const MAX_TEXT: usize = 256;
/// A signature in base64.
const SIGNATURE_CHARS: usize = 86;

/// Makes the access tokens of one service, and publishes the keys that they are verified with.
///
/// Keys rotate in three steps, each kept up for as long as verifiers may go on with an old key set and tokens live: publish
/// the new key besides ([`IssuerBuilder::publish`]); sign with it and publish the old one besides; drop the old one.
#[derive(Debug)]
pub struct Issuer {
    issuer: Box<str>,
    audience: Box<str>,
    key: SigningKey,
    /// Encoded: it is the same in every token.
    header: Box<str>,
    jwks: Jwks,
    life: Duration,
}

/// Collects what an [`Issuer`] is made of. Made by [`Issuer::builder`].
#[must_use]
#[derive(Debug)]
pub struct IssuerBuilder {
    issuer: String,
    audience: String,
    key: SigningKey,
    published: Vec<Jwk>,
    life: Duration,
}

/// A new access token.
#[derive(Debug)]
pub struct Issued {
    /// The secret.
    pub token: AccessToken,
    /// From when on it is refused: a whole second.
    pub expires_at: Timestamp,
}

impl IssuerBuilder {
    /// Further keys, only published and accepted: the one that comes next, or the one that was signed with before. The signing
    /// key may be among them.
    pub fn publish(mut self, keys: impl IntoIterator<Item = Jwk>) -> Self {
        self.published.extend(keys);
        self
    }

    /// For how long a token is good: 10 minutes unless it is set, 1 minute at least and 24 hours at most.
    pub fn life(self, life: Duration) -> Self {
        Self { life, ..self }
    }

    /// The issuer.
    ///
    /// # Errors
    /// When the life is out of bounds; when issuer or audience are not 1–256 bytes without control characters and
    /// surrounding white space.
    pub fn build(self) -> Result<Issuer, InvalidIssuer> {
        let Self { issuer, audience, key, published, life } = self;
        check("token issuer", 1, MAX_TEXT, Alphabet::Printable, &issuer)?;
        check("token audience", 1, MAX_TEXT, Alphabet::Printable, &audience)?;
        if !(MIN_LIFE..=MAX_LIFE).contains(&life) {
            return Err(InvalidIssuer::Life);
        }
        Ok(Issuer {
            issuer: issuer.into_boxed_str(),
            audience: audience.into_boxed_str(),
            header: jws::header(key.kid()).into_boxed_str(),
            jwks: std::iter::once(key.public()).chain(published).collect(),
            key,
            life,
        })
    }
}

impl Issuer {
    /// An issuer that signs with `key`. `issuer` and `audience` become `iss` and `aud`; the server's URL serves as either.
    pub fn builder(issuer: impl Into<String>, audience: impl Into<String>, key: SigningKey) -> IssuerBuilder {
        IssuerBuilder { issuer: issuer.into(), audience: audience.into(), key, published: Vec::new(), life: LIFE }
    }

    /// A token for this host, from `now` on. Its times are whole seconds, rounded down: it never lives longer than
    /// [`IssuerBuilder::life`], nor than the agent token that buys it, and up to a second less.
    pub fn issue(&self, host: &HostClaimsDraft, now: Timestamp, entropy: &dyn Entropy) -> Issued {
        let end = now.saturating_add(self.life);
        let exp = Seconds::of(host.token_expires_at.map_or(end, |at| at.min(end)));
        let payload = Payload {
            iss: &self.issuer,
            aud: &self.audience,
            sub: host.host_id,
            tid: &host.tenant_id,
            generation: host.generation,
            exp,
            iat: Seconds::of(now),
            jti: AccessTokenId::generate(now, entropy),
            cid: host.token_id,
        };
        let payload = serde_json::to_vec(&payload).expect("texts, ids and integers have a form in JSON");
        let payload_chars = (payload.len() * 4).div_ceil(3);
        // Reserved whole, so that growing never leaves a copy behind.
        let mut text =
            Zeroizing::new(String::with_capacity(self.header.len() + 1 + payload_chars + 1 + SIGNATURE_CHARS));
        text.push_str(&self.header);
        text.push('.');
        jws::encode_into(&payload, &mut text);
        let signature = self.key.sign(text.as_bytes());
        text.push('.');
        jws::encode_into(&signature.to_bytes(), &mut text);
        let expires_at = exp.at().expect("it was a Timestamp before it was rounded down");
        Issued { token: AccessToken::from(text), expires_at }
    }

    /// The keys whose tokens are to be accepted: what is published.
    pub fn jwks(&self) -> Jwks {
        self.jwks.clone()
    }

    /// For how long a token is good.
    pub const fn life(&self) -> Duration {
        self.life
    }

    /// Verifies what this issuer has issued, and what the other published keys have signed in its name.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.jwks(), &*self.issuer, &*self.audience)
    }
}
