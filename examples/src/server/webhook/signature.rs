//! The signature of a delivery: whoever gets one can tell that it is the server's, and of when.

use std::time::Duration;

use enlist_core::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header that carries it: `t=<seconds since 1970>,v1=<64 hexadecimal digits>`.
pub const SIGNATURE_HEADER: &str = "enlist-signature";

/// Why a delivery is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignature {
    /// The header does not have that form.
    #[error("the signature is malformed")]
    Malformed,
    /// It was made too long ago, or in the future: somebody may be sending again what they have seen.
    #[error("the signature is not of this time")]
    Stale,
    /// It was made with another secret, or of another body.
    #[error("the signature is of another body, or made with another secret")]
    Wrong,
}

/// Signs `body` as sent at `now`: HMAC-SHA-256 (RFC 2104) with `secret`, over the seconds, a full stop and the body.
pub fn sign(secret: &[u8], body: &[u8], now: Timestamp) -> String {
    let seconds = seconds(now);
    let digest = mac(secret, seconds, body).finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

/// Checks what [`sign`] made, as a receiver has to before it believes anything of the body. Five minutes is a usual
/// `tolerance`.
///
/// # Errors
/// When it is malformed, not of this time, or not of this secret and body.
pub fn verify(
    secret: &[u8],
    signature: &str,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), InvalidSignature> {
    let parts = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1="));
    let (at, hex) = parts.ok_or(InvalidSignature::Malformed)?;
    let at: i64 = at.parse().map_err(|_| InvalidSignature::Malformed)?;
    let digest = digest(hex).ok_or(InvalidSignature::Malformed)?;
    if at.abs_diff(seconds(now)) > tolerance.as_secs() {
        return Err(InvalidSignature::Stale);
    }
    mac(secret, at, body).verify_slice(&digest).map_err(|_| InvalidSignature::Wrong)
}

fn seconds(now: Timestamp) -> i64 {
    now.unix_micros().div_euclid(1_000_000)
}

fn mac(secret: &[u8], seconds: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of HMAC may have any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

fn digest(hex: &str) -> Option<Vec<u8>> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000 + 999_999).unwrap()
    }

    const TOLERANCE: Duration = Duration::from_secs(300);

    /// `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret`
    #[test]
    fn a_signature_is_what_other_tools_make() {
        let signature = sign(b"secret", br#"{"a":1}"#, at(1_700_000_000));
        let digest = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
        assert_eq!(signature, format!("t=1700000000,v1={digest}"));
    }

    #[test]
    fn what_was_changed_or_is_not_of_this_time_is_refused() {
        let signature = sign(b"secret", b"body", at(1_000));
        let check =
            |secret: &[u8], signature: &str, body: &[u8], now| verify(secret, signature, body, at(now), TOLERANCE);
        assert_eq!(check(b"secret", &signature, b"body", 1_300), Ok(()));
        assert_eq!(check(b"secret", &signature, b"body", 700), Ok(()));
        assert_eq!(check(b"secret", &signature, b"body", 1_301), Err(InvalidSignature::Stale));
        assert_eq!(check(b"secret", &signature, b"body", 699), Err(InvalidSignature::Stale));
        assert_eq!(check(b"Secret", &signature, b"body", 1_000), Err(InvalidSignature::Wrong));
        assert_eq!(check(b"secret", &signature, b"Body", 1_000), Err(InvalidSignature::Wrong));
        // The time is signed as well.
        let later = signature.replace("t=1000", "t=1200");
        assert_eq!(check(b"secret", &later, b"body", 1_200), Err(InvalidSignature::Wrong));
        for malformed in ["", "t=1000", "t=x,v1=00", &signature[..signature.len() - 2], &signature.replace("v1", "v0")]
        {
            assert_eq!(check(b"secret", malformed, b"body", 1_000), Err(InvalidSignature::Malformed), "{malformed}");
        }
    }
}
