//! Keys: their files, their names, and the document in which they are published.

use enlist_core::SystemEntropy;
use enlist_core::access_token::{InvalidSigningKey, Jwk, Jwks, SigningKey};
use proptest::prelude::*;
use serde_json::json;

use crate::{Seed, at, forge, host, issuer, key};

/// Written by `openssl genpkey -algorithm ed25519`.
const OPENSSL: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIE4vkSDs4qkaORnN01PYUcqT0TGZ3/0jlCLK1Omlk3wN\n\
    -----END PRIVATE KEY-----\n";
/// The same one with its public key: version 2 of the format (RFC 5958).
const WITH_PUBLIC: &str = "-----BEGIN PRIVATE KEY-----\n\
    MFECAQEwBQYDK2VwBCIEIE4vkSDs4qkaORnN01PYUcqT0TGZ3/0jlCLK1Omlk3wN\n\
    gSEA423F9RiVS/IjGzvjoIRLuNMRIR1zsholzGyBZlkVJfk=\n\
    -----END PRIVATE KEY-----\n";
/// Its public key by `openssl pkey -pubout`.
const PUBLIC: &str = "423F9RiVS_IjGzvjoIRLuNMRIR1zsholzGyBZlkVJfk";

#[test]
fn a_key_of_openssl_is_read_with_and_without_its_public_key() {
    for pem in [OPENSSL, WITH_PUBLIC, &OPENSSL.replace('\n', "\r\n"), &format!("\n{OPENSSL}\n\n")] {
        let key = SigningKey::from_pkcs8_pem(pem).unwrap();
        assert_eq!(forge::encode(key.public().as_bytes()), PUBLIC);
    }
}

/// As OpenSSL writes it: any version of it reads that.
#[test]
fn a_key_is_written_as_openssl_does() {
    assert_eq!(*SigningKey::from_pkcs8_pem(WITH_PUBLIC).unwrap().to_pkcs8_pem(), OPENSSL);
}

#[test]
fn a_file_that_is_no_signing_key_is_refused_without_repeating_it() {
    let refused = |pem: &str| {
        let error = SigningKey::from_pkcs8_pem(pem).unwrap_err();
        assert!(!error.to_string().contains("MC4"), "{error}");
        error
    };
    // Of P-256, by `openssl genpkey -algorithm ec`.
    let other = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBHsP4i0/11IRAiwC\n\
        THTbc5kvgWBCfdwVH2IzWtS1jzGhRANCAAQ8sTkdbDkzNYPORUkL7rC0dq2Z7CC6\n\
        d53K+ubKTEi32S1k8rqSSkpLBMNQDKa9XkfsJcgbjvzuhNhPapMXaEV8\n\
        -----END PRIVATE KEY-----\n";
    for pem in [
        "",
        "MC4CAQAwBQYDK2VwBCIEIE4vkSDs4qkaORnN01PYUcqT0TGZ3/0jlCLK1Omlk3wN",
        &OPENSSL.replace("PRIVATE", "PUBLIC"),
        &OPENSSL.replace("PRIVATE", "ENCRYPTED PRIVATE"),
        &OPENSSL.replace("K2VwB", "K2VuB"),
        &OPENSSL.replace("3wN", "3w"),
        &OPENSSL.replace("k3wN", "k3wNAAAA"),
        other,
    ] {
        assert_eq!(refused(pem), InvalidSigningKey::Format, "{pem}");
    }
    assert_eq!(refused(&WITH_PUBLIC.replace("gSEA423F", "gSEA423E")), InvalidSigningKey::Mismatch);
}

/// RFC 8037 A.1–A.3.
#[test]
fn the_thumbprint_is_that_of_the_rfc() {
    let seed = forge::decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    let key = SigningKey::generate(&Seed(seed.try_into().unwrap()));
    assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(
        serde_json::to_value(key.public()).unwrap(),
        json!({
            "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "alg": "EdDSA", "use": "sig",
        })
    );
}

proptest! {
    #[test]
    fn a_key_is_read_back(seed in any::<[u8; 32]>()) {
        let key = SigningKey::generate(&Seed(seed));
        let again = SigningKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap();
        prop_assert_eq!(again.public(), key.public());
        prop_assert_eq!(again.to_pkcs8_pem(), key.to_pkcs8_pem());
        let published: Jwk = serde_json::from_value(serde_json::to_value(key.public()).unwrap()).unwrap();
        prop_assert_eq!(published, key.public());
    }
}

#[test]
fn two_keys_are_never_the_same() {
    assert_ne!(SigningKey::generate(&SystemEntropy).kid(), SigningKey::generate(&SystemEntropy).kid());
}

/// The document serves other purposes too.
#[test]
fn keys_of_other_kinds_and_uses_are_left_out() {
    let ours = serde_json::to_value(key(1).public()).unwrap();
    // Named otherwise: of two equal keys only one is kept.
    let spare = forge::with(ours.clone(), "kid", json!("spare"));
    let other = |member: &str, value: serde_json::Value| forge::with(spare.clone(), member, value);
    let document = json!({
        "keys": [
            {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "a"},
            other("kty", json!("EC")),
            other("crv", json!("Ed448")),
            other("crv", json!("X25519")),
            other("alg", json!("ES256")),
            other("use", json!("enc")),
            other("kid", serde_json::Value::Null),
            other("x", json!("AAAA")),
            other("x", json!(format!("{}=", ours["x"].as_str().unwrap()))),
            // Of small order: some signature fits every message.
            other("x", json!(forge::encode(&{ let mut one = [0; 32]; one[0] = 1; one }))),
            // Not on the curve.
            other("x", json!(forge::encode(&{ let mut two = [0; 32]; two[0] = 2; two }))),
            "text", null, 7, [], {},
            ours,
            ours,
        ],
        "more": true,
    });
    let keys: Jwks = serde_json::from_value(document).unwrap();
    assert_eq!(keys.keys(), [key(1).public()]);
    assert!(serde_json::from_str::<Jwks>("{}").is_err());
}

/// RFC 7517 §4.2 and §4.4 let them be missing.
#[test]
fn a_key_without_alg_and_use_is_taken() {
    let key_of_two = forge::with(serde_json::to_value(key(2).public()).unwrap(), "alg", serde_json::Value::Null);
    let bare = forge::with(key_of_two, "use", serde_json::Value::Null);
    let keys: Jwks = serde_json::from_value(json!({"keys": [bare]})).unwrap();
    assert_eq!(keys.keys(), [key(2).public()]);
}

/// A verifier cannot tell a key id that was given twice: it tries both.
#[test]
fn two_keys_of_one_id_are_both_tried() {
    let named = |seed| forge::with(serde_json::to_value(key(seed).public()).unwrap(), "kid", json!(key(1).kid()));
    for order in [[1, 2], [2, 1]] {
        let keys: Jwks = serde_json::from_value(json!({"keys": order.map(named)})).unwrap();
        let mut verifier = issuer(1).verifier();
        verifier.replace_keys(keys);
        let issued = issuer(1).issue(&host(0), at(0), &SystemEntropy);
        assert!(verifier.verify(issued.token.expose(), at(0)).is_ok());
    }
}

/// Nothing private is published.
#[test]
fn the_document_is_pinned() {
    let x = forge::encode(key(1).public().as_bytes());
    let kid = key(1).kid().to_owned();
    assert_eq!(
        serde_json::to_string(&issuer(1).jwks()).unwrap(),
        format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}","alg":"EdDSA","use":"sig"}}]}}"#)
    );
}
