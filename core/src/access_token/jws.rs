//! The compact form (RFC 7515 §7.1): three parts, each base64url without padding.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519::Signature;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::access_token::error::AccessTokenError;

/// The one algorithm.
pub(super) const ALGORITHM: &str = "EdDSA";
/// The kind of token: what keeps a user's token from being taken for a host's.
const TYPE: &str = "host+jwt";
/// An `Issuer` makes none of more than 2,500 bytes.
const MAX_BYTES: usize = 4_096;

/// Whether a bearer text looks like a JWT rather than like an agent token: three parts between dots, the first one the
/// beginning of a JSON object. Nothing is decoded or believed.
pub fn looks_like_jwt(text: &str) -> bool {
    // `{"` in base64.
    text.starts_with("eyJ")
        && text.bytes().filter(|&b| b == b'.').count() == 2
        && !text.contains("..")
        && !text.ends_with('.')
}

/// The header of our own tokens, encoded.
pub(super) fn header(kid: &str) -> String {
    let header = Written { alg: ALGORITHM, typ: TYPE, kid };
    encode(&serde_json::to_vec(&header).expect("three strings have a form in JSON"))
}

/// A token whose header says that it is ours. Its signature has not been checked.
pub(super) struct Unverified<'a> {
    pub(super) kid: String,
    /// Header and payload: what is signed.
    pub(super) message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Unverified<'a> {
    /// Reads no more than the header.
    pub(super) fn parse(text: &'a str) -> Result<Self, AccessTokenError> {
        if text.len() > MAX_BYTES {
            return Err(AccessTokenError::TooLong);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(AccessTokenError::NotAHostToken)?;
        let (header, payload) = message.split_once('.').ok_or(AccessTokenError::NotAHostToken)?;
        if payload.contains('.') {
            return Err(AccessTokenError::NotAHostToken);
        }
        let header: Header = object(header).ok_or(AccessTokenError::NotAHostToken)?;
        // Exactly: whoever writes the kind in another way is not our issuer.
        if header.typ.as_deref() != Some(TYPE) {
            return Err(AccessTokenError::NotAHostToken);
        }
        if header.crit.0 {
            return Err(AccessTokenError::Critical);
        }
        if header.alg.as_deref() != Some(ALGORITHM) {
            return Err(AccessTokenError::Algorithm);
        }
        let kid = header.kid.ok_or(AccessTokenError::UnknownKey)?;
        Ok(Self { kid, message, payload, signature })
    }

    /// Absent if it cannot be one.
    pub(super) fn signature(&self) -> Option<Signature> {
        Signature::from_slice(&decode(self.signature)?).ok()
    }

    /// Only to be asked once the signature was found to be valid.
    pub(super) fn claims<T: DeserializeOwned>(&self) -> Result<T, AccessTokenError> {
        object(self.payload).ok_or(AccessTokenError::Claims)
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn encode_into(bytes: &[u8], text: &mut String) {
    BASE64_URL_SAFE_NO_PAD.encode_string(bytes, text);
}

/// Strictly: no padding, no white space, and no bits left over at the end.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// serde would also take the fields of an object as an array, in an order that nobody promised.
fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = decode(part)?;
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(&json).ok()).flatten()
}

#[derive(Serialize)]
struct Written<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

/// Of a header that others may have written. What is not understood is ignored, unless `crit` forbids that.
#[derive(Deserialize)]
struct Header {
    typ: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    #[serde(default)]
    crit: Present,
}

/// Whether a member is there, whatever its value: `null` too.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_token::SigningKey;
    use crate::entropy::Entropy;

    /// RFC 8037 A.1.
    struct Seed;
    impl Entropy for Seed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap());
        }
    }

    /// RFC 8037 A.4 and A.5.
    #[test]
    fn the_signature_is_that_of_the_rfc() {
        let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let key = SigningKey::generate(&Seed);
        let signature = key.sign(message.as_bytes());
        assert_eq!(
            encode(&signature.to_bytes()),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        );
        assert!(key.public().has_signed(message.as_bytes(), &signature));
        assert!(!key.public().has_signed(&message.as_bytes()[1..], &signature));
    }

    #[test]
    fn base64_is_read_in_one_form_only() {
        assert_eq!(decode("_-8"), Some(vec![0xff, 0xef]));
        // Padded, of the other alphabet, bits left over, too short, white space.
        for other in ["_-8=", "/+8", "_-9", "_", "_-8\n", " _-8"] {
            assert_eq!(decode(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_looks_like_a_jwt_is_told_from_an_agent_token() {
        assert!(looks_like_jwt("eyJhbGciOiJFZERTQSJ9.e30.AAAA"));
        let agent_token = "eat_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_136x1a";
        for other in
            [agent_token, "", "eyJ", "eyJ.e30", "eyJ..e30", "eyJ.e30.", "eyJ.e30.A.A", "EyJ.e30.A", " eyJ.e30.A"]
        {
            assert!(!looks_like_jwt(other), "{other:?}");
        }
    }
}
