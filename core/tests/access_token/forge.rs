//! Tokens as only an attacker, or another service with the same key, would make them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::Signer;
use serde_json::{Value, json};

use crate::{AUDIENCE, ISSUER, LIFE, at, host, key};

pub(crate) fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn decode(text: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// The header that an issuer writes.
pub(crate) fn header(seed: u8) -> Value {
    json!({"alg": "EdDSA", "typ": "host+jwt", "kid": key(seed).kid()})
}

/// The payload that an issuer writes at `at(0)`.
pub(crate) fn payload() -> Value {
    let draft = host(7);
    let now = at(0).unix_micros() / 1_000_000;
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": draft.host_id, "tid": "acme", "gen": 7,
        "iat": now, "exp": now + i64::try_from(LIFE).unwrap(), "jti": draft.token_id, "cid": draft.token_id,
    })
}

/// `value` with one member set, or taken away where it is `Null`.
pub(crate) fn with(mut value: Value, member: &str, to: Value) -> Value {
    let members = value.as_object_mut().unwrap();
    members.remove(member);
    if !to.is_null() {
        members.insert(member.to_owned(), to);
    }
    value
}

pub(crate) fn unsigned(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", encode(header), encode(payload))
}

/// Signed with the key of `seed`, whatever it says.
pub(crate) fn signed(seed: u8, header: &Value, payload: &Value) -> String {
    signed_bytes(seed, header.to_string().as_bytes(), payload.to_string().as_bytes())
}

pub(crate) fn signed_bytes(seed: u8, header: &[u8], payload: &[u8]) -> String {
    let message = unsigned(header, payload);
    let signature = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).sign(message.as_bytes());
    format!("{message}.{}", encode(&signature.to_bytes()))
}
