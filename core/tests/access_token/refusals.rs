//! Every refusal, each by a token that is right but for one thing.

use std::ops::{Add, Mul};
use std::time::Duration;

use enlist_core::access_token::AccessTokenError::{
    Algorithm, Audience, Claims, Critical, Expired, Issuer as OtherIssuer, NotAHostToken, NotYetValid, Signature,
    TooLong, UnknownKey,
};
use enlist_core::access_token::{AccessTokenError, HostClaims, Jwks, Verifier};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::forge::{encode, header, payload, signed, signed_bytes, unsigned, with};
use crate::{AUDIENCE, ISSUER, LIFE, at, issuer, key};

fn verify(token: &str) -> Result<HostClaims, AccessTokenError> {
    issuer(1).verifier().verify(token, at(1))
}

fn refused(token: &str) -> AccessTokenError {
    verify(token).unwrap_err()
}

/// Otherwise every refusal below could be for another reason.
#[test]
fn a_forged_token_that_is_right_in_everything_is_accepted() {
    assert_eq!(verify(&signed(1, &header(1), &payload())).unwrap().generation, 7);
}

/// A user's token is never taken for a host's.
#[test]
fn a_token_of_another_kind_is_refused_although_the_same_key_has_signed_it() {
    for kind in
        [json!("JWT"), json!("jwt"), json!("at+jwt"), json!("HOST+JWT"), json!("application/host+jwt"), json!(1)]
    {
        let token = signed(1, &with(header(1), "typ", kind.clone()), &payload());
        assert_eq!(refused(&token), NotAHostToken, "{kind}");
    }
    assert_eq!(refused(&signed(1, &with(header(1), "typ", Value::Null), &payload())), NotAHostToken);
    assert_eq!(
        refused(&signed(1, &json!({"alg": "EdDSA", "typ": null, "kid": key(1).kid()}), &payload())),
        NotAHostToken
    );
}

#[test]
fn what_has_not_the_form_of_a_token_is_refused() {
    let token = signed(1, &header(1), &payload());
    let (head, rest) = token.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let array = json!(["host+jwt", "EdDSA", key(1).kid()]).to_string();
    let twice = header(1).to_string().replacen('{', r#"{"typ":"JWT","#, 1);
    for other in [
        "",
        "eat_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_136x1a",
        "..",
        &format!("{head}.{body}"),
        &format!("{token}.{signature}"),
        &format!("{token}."),
        &format!("{head}={}", &token[head.len()..]),
        &format!("{head}\n.{rest}"),
        &format!(" {token}"),
        &signed_bytes(1, b"null", b"{}"),
        &signed_bytes(1, b"{", b"{}"),
        &signed_bytes(1, b"\xff\xfe", b"{}"),
        &signed_bytes(1, array.as_bytes(), payload().to_string().as_bytes()),
        &signed_bytes(1, twice.as_bytes(), payload().to_string().as_bytes()),
    ] {
        assert_eq!(refused(other), NotAHostToken, "{other}");
    }
}

#[test]
fn another_algorithm_is_refused() {
    for algorithm in [json!("none"), json!("None"), json!("HS256"), json!("ES256"), json!("eddsa"), Value::Null] {
        let token = signed(1, &with(header(1), "alg", algorithm.clone()), &payload());
        assert_eq!(refused(&token), Algorithm, "{algorithm}");
    }
}

#[test]
fn an_unsigned_token_is_refused() {
    let none = with(header(1), "alg", json!("none"));
    assert_eq!(refused(&(unsigned(none.to_string().as_bytes(), payload().to_string().as_bytes()) + ".")), Algorithm);
    let unsigned = unsigned(header(1).to_string().as_bytes(), payload().to_string().as_bytes());
    assert_eq!(refused(&format!("{unsigned}.")), Signature);
}

/// The classic confusion: the public key, which everybody has, as the secret of an HMAC.
#[test]
fn the_public_key_is_no_secret_for_hs256() {
    let message =
        unsigned(with(header(1), "alg", json!("HS256")).to_string().as_bytes(), payload().to_string().as_bytes());
    let mac = hmac_sha256(key(1).public().as_bytes(), message.as_bytes());
    assert_eq!(refused(&format!("{message}.{}", encode(&mac))), Algorithm);
}

/// RFC 2104, for a key that is shorter than a block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect::<Vec<_>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[test]
fn a_key_that_is_not_known_is_refused() {
    assert_eq!(refused(&signed(2, &header(2), &payload())), UnknownKey);
    assert_eq!(refused(&signed(1, &with(header(1), "kid", Value::Null), &payload())), UnknownKey);
    // A key that the token brings along is not looked at.
    let brought = with(header(2), "jwk", serde_json::to_value(key(2).public()).unwrap());
    assert_eq!(refused(&signed(2, &brought, &payload())), UnknownKey);
}

#[test]
fn a_signature_by_another_key_or_for_another_payload_is_refused() {
    assert_eq!(refused(&signed(2, &header(1), &payload())), Signature);
    let token = signed(1, &header(1), &payload());
    let signature = token.rsplit('.').next().unwrap();
    let other = unsigned(header(1).to_string().as_bytes(), with(payload(), "gen", json!(8)).to_string().as_bytes());
    assert_eq!(refused(&format!("{other}.{signature}")), Signature);
    let (message, _) = token.rsplit_once('.').unwrap();
    for length in [0, 63, 65, 128] {
        assert_eq!(refused(&format!("{message}.{}", encode(&vec![0; length]))), Signature, "{length}");
    }
    assert_eq!(refused(&format!("{token}=")), Signature);
}

/// S + L is as good as S by the equation alone (RFC 8032 §5.1.7): a second spelling of the same signature.
#[test]
fn a_malleable_signature_is_refused() {
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let token = signed(1, &header(1), &payload());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = crate::forge::decode(signature);
    let mut carry = 0;
    for (byte, more) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(refused(&format!("{message}.{}", encode(&signature))), Signature);
}

/// R is the neutral point, S the key's scalar times the challenge: the plain equation of RFC 8032 holds. Only strict
/// verification refuses it.
#[test]
fn a_signature_with_a_point_of_small_order_is_refused() {
    use ed25519_dalek::Verifier as _;

    /// Little endian, modulo the order of the group.
    fn scalar<S: Copy + From<u64> + Add<Output = S> + Mul<Output = S>>(_like: S, bytes: &[u8]) -> S {
        bytes.iter().rev().fold(S::from(0), |sum, &byte| sum * S::from(256) + S::from(u64::from(byte)))
    }

    let private = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let message = unsigned(header(1).to_string().as_bytes(), payload().to_string().as_bytes());
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let challenge =
        Sha512::new().chain_update(neutral).chain_update(key(1).public().as_bytes()).chain_update(&message).finalize();
    let s = scalar(private.to_scalar(), &challenge) * private.to_scalar();
    let signature = [neutral, s.to_bytes()].concat();
    let lax = ed25519_dalek::Signature::from_slice(&signature).unwrap();
    private.verifying_key().verify(message.as_bytes(), &lax).unwrap();
    assert_eq!(refused(&format!("{message}.{}", encode(&signature))), Signature);
}

#[test]
fn a_demanded_extension_is_refused() {
    for crit in [json!(["exp"]), json!([]), json!("b64")] {
        assert_eq!(refused(&signed(1, &with(header(1), "crit", crit), &payload())), Critical);
    }
    let null = header(1).to_string().replacen('{', r#"{"crit":null,"#, 1);
    assert_eq!(refused(&signed_bytes(1, null.as_bytes(), payload().to_string().as_bytes())), Critical);
}

/// Before anything of it is decoded: it has the right form and would be refused for its key.
#[test]
fn a_token_that_is_too_long_is_refused() {
    let padded = |more: usize| {
        let token = signed(2, &header(2), &with(payload(), "more", json!("x".repeat(more))));
        (token.len(), refused(&token))
    };
    let (mut longest, mut shortest) = (0, usize::MAX);
    for more in 2_500..3_000 {
        match padded(more) {
            (length, UnknownKey) => longest = longest.max(length),
            (length, TooLong) => shortest = shortest.min(length),
            other => panic!("{other:?}"),
        }
    }
    assert!((4_094..=4_096).contains(&longest) && (4_097..=4_099).contains(&shortest), "{longest} {shortest}");
}

#[test]
fn another_issuer_or_audience_is_refused() {
    for other in ["https://other.example", "https://fleet.example/", "HTTPS://FLEET.EXAMPLE", ""] {
        assert_eq!(refused(&signed(1, &header(1), &with(payload(), "iss", json!(other)))), OtherIssuer);
        assert_eq!(refused(&signed(1, &header(1), &with(payload(), "aud", json!(other)))), Audience);
    }
    for others in [json!([]), json!(["https://other.example", "https://log.example"])] {
        assert_eq!(refused(&signed(1, &header(1), &with(payload(), "aud", others))), Audience);
    }
    let (keys, token) = (|| issuer(1).jwks(), signed(1, &header(1), &payload()));
    assert_eq!(Verifier::new(keys(), AUDIENCE, AUDIENCE).verify(&token, at(1)), Err(OtherIssuer));
    assert_eq!(Verifier::new(keys(), ISSUER, ISSUER).verify(&token, at(1)), Err(Audience));
}

#[test]
fn one_of_several_audiences_is_enough() {
    let several = with(payload(), "aud", json!(["https://other.example", AUDIENCE]));
    verify(&signed(1, &header(1), &several)).unwrap();
}

#[test]
fn malformed_claims_are_refused() {
    for member in ["iss", "aud", "sub", "tid", "gen", "exp", "iat", "jti", "cid"] {
        let token = signed(1, &header(1), &with(payload(), member, Value::Null));
        assert_eq!(refused(&token), Claims, "no {member}");
        for wrong in [json!({}), json!(true), json!("\n"), json!(-1), json!(0.5)] {
            if member == "aud" && wrong.is_string() {
                continue;
            }
            let error = refused(&signed(1, &header(1), &with(payload(), member, wrong.clone())));
            let expected = if member == "iss" && wrong.is_string() { OtherIssuer } else { Claims };
            assert_eq!(error, expected, "{member}: {wrong}");
        }
    }
    for (member, wrong) in [
        ("exp", json!(i64::MAX)),
        ("exp", json!(253_402_300_800i64)),
        // In microseconds it is a multiple of 2^64.
        ("iat", json!(1i64 << 58)),
        ("exp", json!("1769861400")),
        ("nbf", json!("soon")),
        ("tid", json!("")),
        ("gen", json!("7")),
        ("aud", json!([AUDIENCE, 1])),
    ] {
        assert_eq!(
            refused(&signed(1, &header(1), &with(payload(), member, wrong.clone()))),
            Claims,
            "{member}: {wrong}"
        );
    }
    let head = header(1).to_string();
    let twice = payload().to_string().replacen('{', r#"{"gen":8,"#, 1);
    let fields = payload().as_object().unwrap().values().cloned().collect::<Value>().to_string();
    for body in ["", "null", "[]", "7", &twice, &fields] {
        assert_eq!(refused(&signed_bytes(1, head.as_bytes(), body.as_bytes())), Claims, "{body}");
    }
}

/// What is not understood is ignored, in the header and in the payload.
#[test]
fn an_unknown_member_is_ignored() {
    let (header, payload) = (with(header(1), "x5t", json!("x")), with(payload(), "scope", json!(["x"])));
    verify(&signed(1, &header, &payload)).unwrap();
}

#[test]
fn a_token_is_refused_from_the_second_on_in_which_it_expires() {
    let life = i64::try_from(LIFE).unwrap();
    let token = signed(1, &header(1), &payload());
    let verifier = issuer(1).verifier();
    // The clock shows three quarters of a second more than is in the token.
    for (leeway, last) in [(0, life - 1), (60, life + 59)] {
        let verifier = verifier.clone().with_leeway(Duration::from_secs(leeway)).unwrap();
        assert!(verifier.verify(&token, at(last)).is_ok(), "{leeway}");
        assert_eq!(verifier.verify(&token, at(last + 1)), Err(Expired), "{leeway}");
    }
}

#[test]
fn a_token_from_the_future_is_refused() {
    let token = signed(1, &header(1), &payload());
    // Issued at 12:00:00; the clock shows so many seconds before 12:00:00.75.
    for (leeway, first) in [(0, -60), (60, -120)] {
        let verifier = issuer(1).verifier().with_leeway(Duration::from_secs(leeway)).unwrap();
        assert!(verifier.verify(&token, at(first)).is_ok(), "{leeway}");
        assert_eq!(verifier.verify(&token, at(first - 1)), Err(NotYetValid), "{leeway}");
    }
}

#[test]
fn a_token_that_says_from_when_on_it_is_valid_is_refused_before() {
    let from = |seconds: i64| with(payload(), "nbf", json!(at(seconds).unix_micros() / 1_000_000));
    for (leeway, first) in [(0, 1), (60, 61)] {
        let verifier = issuer(1).verifier().with_leeway(Duration::from_secs(leeway)).unwrap();
        assert!(verifier.verify(&signed(1, &header(1), &from(first)), at(1)).is_ok(), "{leeway}");
        assert_eq!(verifier.verify(&signed(1, &header(1), &from(first + 1)), at(1)), Err(NotYetValid), "{leeway}");
    }
}

#[test]
fn more_leeway_than_a_minute_is_refused() {
    assert!(issuer(1).verifier().with_leeway(Duration::from_secs(60)).is_ok());
    assert!(issuer(1).verifier().with_leeway(Duration::from_millis(60_001)).is_err());
}

/// A key set of nobody accepts nothing.
#[test]
fn without_keys_every_token_is_refused() {
    let verifier = Verifier::new(Jwks::default(), ISSUER, AUDIENCE);
    assert_eq!(verifier.verify(&signed(1, &header(1), &payload()), at(1)), Err(UnknownKey));
}

#[test]
fn no_message_repeats_the_token() {
    let canary = with(payload(), "tid", json!("canary\n"));
    for token in
        ["canary", &signed(1, &with(header(1), "alg", json!("canary")), &payload()), &signed(1, &header(1), &canary)]
    {
        let error = refused(token);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
