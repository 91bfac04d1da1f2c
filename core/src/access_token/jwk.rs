//! The public half of a key, and the set in which it is published.

use ed25519::Signature;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::access_token::jws::{self, ALGORITHM};

/// The public half of a key that signs access tokens, as a JSON Web Key (RFC 7517, RFC 8037).
///
/// Reading one from JSON refuses keys of any other kind or use, and those that are no point of the curve or one of small order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwk {
    kid: Box<str>,
    key: VerifyingKey,
}

impl Jwk {
    /// The key id by which a token names its key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key itself: a compressed point (RFC 8032).
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    pub(super) fn of(key: VerifyingKey) -> Self {
        // RFC 7638: the required members in alphabetical order, without white space.
        let canonical = format!(r#"{{"crv":"{CURVE}","kty":"{KEY_TYPE}","x":"{}"}}"#, jws::encode(key.as_bytes()));
        Self { kid: jws::encode(&Sha256::digest(canonical)).into_boxed_str(), key }
    }

    /// Strictly: neither a malleable signature nor a key of small order is accepted.
    pub(super) fn has_signed(&self, message: &[u8], signature: &Signature) -> bool {
        self.key.verify_strict(message, signature).is_ok()
    }
}

const KEY_TYPE: &str = "OKP";
const CURVE: &str = "Ed25519";
const USE: &str = "sig";

/// A key as it stands in JSON. What can be missing is what the RFC lets be missing.
#[derive(Serialize, Deserialize)]
struct Members {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
}

impl Serialize for Jwk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Members {
            kty: KEY_TYPE.to_owned(),
            crv: CURVE.to_owned(),
            x: jws::encode(self.key.as_bytes()),
            kid: self.kid.to_string(),
            alg: Some(ALGORITHM.to_owned()),
            usage: Some(USE.to_owned()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let unusable = || serde::de::Error::custom("not an Ed25519 key for verifying EdDSA signatures");
        let members = Members::deserialize(deserializer)?;
        let usable = members.kty == KEY_TYPE
            && members.crv == CURVE
            && members.alg.is_none_or(|alg| alg == ALGORITHM)
            && members.usage.is_none_or(|usage| usage == USE);
        let bytes = jws::decode(&members.x).and_then(|x| <[u8; 32]>::try_from(x).ok());
        let key = bytes.filter(|_| usable).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        // A key of small order has signatures that fit any message.
        let key = key.filter(|key| !key.is_weak()).ok_or_else(unusable)?;
        Ok(Self { kid: members.kid.into_boxed_str(), key })
    }
}

/// The keys whose signatures are accepted: a JSON Web Key Set, as it stands at `/.well-known/jwks.json`.
///
/// Public parts only. Keys of other kinds or for other uses are left out when it is read: a service may publish them in the
/// same document for something else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

impl Jwks {
    /// The keys, in the order of the document.
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }
}

/// Each key once.
impl FromIterator<Jwk> for Jwks {
    fn from_iter<I: IntoIterator<Item = Jwk>>(keys: I) -> Self {
        let mut set = Self::default();
        for key in keys {
            if !set.keys.contains(&key) {
                set.keys.push(key);
            }
        }
        set
    }
}

impl<'de> Deserialize<'de> for Jwks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Entry>,
        }

        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Entry {
            Usable(Box<Jwk>),
            Other(serde::de::IgnoredAny),
        }

        let usable = |entry| match entry {
            Entry::Usable(key) => Some(*key),
            Entry::Other(_) => None,
        };
        Ok(Document::deserialize(deserializer)?.keys.into_iter().filter_map(usable).collect())
    }
}
