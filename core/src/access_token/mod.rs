//! Access tokens: short-lived, signed, so that other services recognise a host without asking the server.
//!
//! A refresh-kind agent token buys one. It is a JWT in the compact form (RFC 7519, RFC 7515), signed with Ed25519
//! (RFC 8037), and says which host holds it, whose the host is, and in which revocation epoch it was bought. Its header
//! has `typ` `host+jwt`: a token of another kind is refused even if the very same key has signed it.
//!
//! The [`Issuer`] makes them and publishes its keys as a [`Jwks`]. Another service needs that document, the texts of
//! issuer and audience, and nothing else of Enlist:
//!
//! ```
//! use enlist_core::access_token::{AccessTokenError, Jwks, Verifier};
//! use enlist_core::{Clock, SystemClock};
//! # use enlist_core::access_token::{HostClaimsDraft, Issuer, SigningKey};
//! # use enlist_core::{AgentTokenId, HostId, SystemEntropy, TenantId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let clock = SystemClock::default();
//! # let key = SigningKey::generate(&SystemEntropy);
//! # let issuer = Issuer::builder("https://fleet.example", "https://logs.example", key).build()?;
//! # let published = serde_json::to_string(&issuer.jwks())?;
//! # let host = HostClaimsDraft {
//! #     host_id: HostId::generate(clock.now(), &SystemEntropy),
//! #     tenant_id: TenantId::new("acme")?,
//! #     token_id: AgentTokenId::generate(clock.now(), &SystemEntropy),
//! #     generation: 0,
//! #     token_expires_at: None,
//! # };
//! # let issued = issuer.issue(&host, clock.now(), &SystemEntropy);
//! # let bearer = issued.token.expose();
//! // `published` was fetched from /.well-known/jwks.json, `bearer` stands in the request.
//! let keys: Jwks = serde_json::from_str(&published)?;
//! let mut verifier = Verifier::new(keys, "https://fleet.example", "https://logs.example");
//!
//! let claims = verifier.verify(bearer, SystemClock::default().now())?;
//! println!("host {} of {}", claims.host_id, claims.tenant_id);
//! # assert_eq!(claims.host_id, host.host_id);
//!
//! // A key that is not known may be a new one: fetch the document again, at most once a minute or so.
//! # let published = serde_json::to_string(&issuer.jwks())?;
//! verifier.replace_keys(serde_json::from_str(&published)?);
//! # Ok(())
//! # }
//! ```
//!
//! A verifier that is offline sees no revocation: a token is good until it expires. Who keeps the newest
//! [`HostClaims::generation`] of each host can refuse the older ones at once.
//!
//! Times in a JWT are whole seconds. The expiry is rounded down, so that no token lives longer than it was meant to.

mod claims;
mod error;
mod issuer;
mod jwk;
mod jws;
mod signing_key;
mod verifier;

pub use claims::{HostClaims, HostClaimsDraft};
pub use error::{AccessTokenError, InvalidIssuer, InvalidLeeway, InvalidSigningKey};
pub use issuer::{Issued, Issuer, IssuerBuilder};
pub use jwk::{Jwk, Jwks};
pub use jws::looks_like_jwt;
pub use signing_key::SigningKey;
pub use verifier::Verifier;

pub use crate::secret::AccessToken;
