//! What can be wrong with a token, a key or a configuration. No message repeats any of it.

use crate::text::InvalidText;

/// Why a text is not accepted as an access token of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AccessTokenError {
    /// It is longer than any token of ours; nothing of it was decoded.
    #[error("the token is longer than 4096 bytes")]
    TooLong,
    /// It is no JWT, or one of another kind: a user's, for one.
    #[error("it is not an access token of a host")]
    NotAHostToken,
    /// Its header demands an extension; none is understood here.
    #[error("the token demands an extension that is not supported")]
    Critical,
    /// It names another algorithm than EdDSA, or none.
    #[error("the token is not signed with EdDSA")]
    Algorithm,
    /// It names no key, or one that is not in the key set. It may be newer than the set.
    #[error("the token is signed with a key that is not known")]
    UnknownKey,
    /// The signature does not match.
    #[error("the signature of the token is not valid")]
    Signature,
    /// It is signed, but what it says is not what such a token says.
    #[error("the claims of the token are malformed")]
    Claims,
    /// Another service issued it.
    #[error("the token was issued by another service")]
    Issuer,
    /// It is meant for another service.
    #[error("the token is meant for another service")]
    Audience,
    /// It comes from the future: one of the two clocks is wrong.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// Settings with which no token can be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIssuer {
    /// The text of the issuer or of the audience is out of bounds.
    #[error(transparent)]
    Text(#[from] InvalidText),
    /// A token must not live for so short or so long a time.
    #[error("an access token lives for 1 minute at least and for 24 hours at most")]
    Life,
}

/// More tolerance than two clocks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leeway is 60 seconds at most")]
pub struct InvalidLeeway;

/// Why a text is not a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSigningKey {
    /// Another format, another algorithm, encrypted, or damaged.
    #[error("a signing key is an unencrypted Ed25519 private key in PKCS#8 PEM (-----BEGIN PRIVATE KEY-----)")]
    Format,
    /// It carries a public key that belongs to another private key.
    #[error("the public key in the file does not belong to its private key")]
    Mismatch,
}
