//! The private half of a key.

use std::fmt;

use ed25519::pkcs8::spki::der::pem::LineEnding;
use ed25519::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519::{KeypairBytes, Signature};
use ed25519_dalek::Signer;
use zeroize::Zeroizing;

use crate::access_token::error::InvalidSigningKey;
use crate::access_token::jwk::Jwk;
use crate::entropy::Entropy;

/// An Ed25519 private key that signs access tokens.
///
/// Its `Debug` shows only the key id, it has no `Display` and no `Serialize`, and its memory is zeroed on drop. The one way
/// out is [`SigningKey::to_pkcs8_pem`].
pub struct SigningKey {
    private: ed25519_dalek::SigningKey,
    public: Jwk,
}

impl SigningKey {
    /// Draws a new key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        Self::of(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads a key as `openssl genpkey -algorithm ed25519` writes it: PKCS#8 in PEM, with the public key or without.
    ///
    /// # Errors
    /// When it is anything else, or its public key is not its own. Says nothing of what was read.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, InvalidSigningKey> {
        let pair = KeypairBytes::from_pkcs8_pem(pem.trim()).map_err(|_| InvalidSigningKey::Format)?;
        ed25519_dalek::SigningKey::try_from(&pair).map(Self::of).map_err(|_| InvalidSigningKey::Mismatch)
    }

    /// The key in PKCS#8 PEM, to keep it: a secret. Without the public key, since OpenSSL 3.0 does not read both.
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        let pair = KeypairBytes { secret_key: self.private.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes have an encoding in PKCS#8")
    }

    /// Its id: the RFC 7638 thumbprint of the public key.
    pub fn kid(&self) -> &str {
        self.public.kid()
    }

    /// The public half, to publish it.
    pub fn public(&self) -> Jwk {
        self.public.clone()
    }

    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        self.private.sign(message)
    }

    fn of(private: ed25519_dalek::SigningKey) -> Self {
        Self { public: Jwk::of(private.verifying_key()), private }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, redacted)", self.kid())
    }
}
