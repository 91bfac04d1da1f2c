//! Access tokens: what is issued is recognised, and nothing else is.

mod forge;
mod keys;
mod refusals;
mod rotation;

use std::collections::HashSet;
use std::time::Duration;

use enlist_core::access_token::{HostClaimsDraft, InvalidIssuer, Issuer, Jwks, SigningKey, Verifier, looks_like_jwt};
use enlist_core::{AgentTokenId, Entropy, HostId, SystemEntropy, TenantId, Timestamp};
use proptest::prelude::*;

const ISSUER: &str = "https://fleet.example";
const AUDIENCE: &str = "https://logs.example";
/// Ten minutes.
const LIFE: u64 = 600;

/// A private key that the tests know, to forge with it what an issuer would not sign.
struct Seed([u8; 32]);

impl Entropy for Seed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0);
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::generate(&Seed([seed; 32]))
}

fn issuer(seed: u8) -> Issuer {
    Issuer::builder(ISSUER, AUDIENCE, key(seed)).build().unwrap()
}

/// 2026-01-31T12:00:00.75Z and so many seconds.
fn at(seconds: i64) -> Timestamp {
    "2026-01-31T12:00:00.75Z"
        .parse::<Timestamp>()
        .map(|start| Timestamp::from_unix_micros(start.unix_micros() + seconds * 1_000_000))
        .unwrap()
        .unwrap()
}

fn host(generation: u64) -> HostClaimsDraft {
    HostClaimsDraft {
        host_id: HostId::generate(at(0), &SystemEntropy),
        tenant_id: TenantId::new("acme").unwrap(),
        token_id: AgentTokenId::generate(at(0), &SystemEntropy),
        generation,
        token_expires_at: None,
    }
}

proptest! {
    #[test]
    fn what_is_issued_is_recognised_until_it_expires(
        tenant in "[^\\p{C}\\s]{1,32}",
        generation in any::<u64>(),
        micros in 0..4_102_444_800_000_000i64,
        life in 60u64..=86_400,
        seed in any::<[u8; 32]>(),
        texts in ("[!-~]{1,256}", "[!-~]{1,256}"),
    ) {
        let now = Timestamp::from_unix_micros(micros).unwrap();
        let issuer = Issuer::builder(&texts.0, &texts.1, SigningKey::generate(&Seed(seed)))
            .life(Duration::from_secs(life))
            .build()
            .unwrap();
        let draft = HostClaimsDraft { tenant_id: TenantId::new(tenant).unwrap(), ..host(generation) };
        let issued = issuer.issue(&draft, now, &SystemEntropy);
        prop_assert!(looks_like_jwt(issued.token.expose()));

        // Another service has the key set as JSON only.
        let keys: Jwks = serde_json::from_str(&serde_json::to_string(&issuer.jwks()).unwrap()).unwrap();
        let verifier = Verifier::new(keys, texts.1.clone(), texts.0.clone());
        prop_assert_eq!(verifier.verify(issued.token.expose(), now).is_ok(), texts.0 == texts.1);
        let verifier = Verifier::new(issuer.jwks(), texts.0.clone(), texts.1);
        let last = Timestamp::from_unix_micros(issued.expires_at.unix_micros() - 1).unwrap();
        for moment in [now, last] {
            let claims = verifier.verify(issued.token.expose(), moment).unwrap();
            prop_assert_eq!(&*claims.issuer, &*texts.0);
            prop_assert_eq!(claims.host_id, draft.host_id);
            prop_assert_eq!(&claims.tenant_id, &draft.tenant_id);
            prop_assert_eq!(claims.token_id, draft.token_id);
            prop_assert_eq!(claims.generation, generation);
            prop_assert_eq!(claims.expires_at, issued.expires_at);
            prop_assert_eq!(claims.issued_at.unix_micros(), micros - micros % 1_000_000);
        }
        // Rounded down to a second, and by less than one.
        let lived = issued.expires_at.unix_micros() - micros;
        let meant = i64::try_from(life).unwrap() * 1_000_000;
        prop_assert!(issued.expires_at.unix_micros() % 1_000_000 == 0);
        prop_assert!(lived <= meant && lived > meant - 1_000_000, "{lived}");
        prop_assert!(verifier.verify(issued.token.expose(), issued.expires_at).is_err());
    }


    /// In the header, in the payload, in the signature, or a dot.
    #[test]
    fn a_bit_flipped_anywhere_is_refused(bit in 0usize..8, place in any::<prop::sample::Index>()) {
        let issuer = issuer(1);
        let issued = issuer.issue(&host(7), at(0), &SystemEntropy);
        let mut text = issued.token.expose().as_bytes().to_vec();
        let place = place.index(text.len());
        text[place] ^= 1 << bit;
        if let Ok(text) = String::from_utf8(text) {
            prop_assert!(issuer.verifier().verify(&text, at(1)).is_err(), "{place}");
        }
    }

    /// So that base64 has no second spelling of a token.
    #[test]
    fn a_bit_flipped_in_what_is_encoded_is_refused(part in 0usize..3, bit in 0u32..8, place in any::<prop::sample::Index>()) {
        let issuer = issuer(1);
        let issued = issuer.issue(&host(7), at(0), &SystemEntropy);
        let mut parts: Vec<_> = issued.token.expose().split('.').map(forge::decode).collect();
        let place = place.index(parts[part].len());
        parts[part][place] ^= 1 << bit;
        let text = parts.iter().map(|part| forge::encode(part)).collect::<Vec<_>>().join(".");
        prop_assert!(issuer.verifier().verify(&text, at(1)).is_err());
    }

    #[test]
    fn no_text_makes_verifying_panic(text in "(eyJ)?[A-Za-z0-9_-]{0,40}\\.?[A-Za-z0-9_-]{0,40}\\.?\\PC{0,40}") {
        prop_assert!(issuer(1).verifier().verify(&text, at(0)).is_err());
    }
}

/// Other services read them too: the form is a promise.
#[test]
fn the_form_is_pinned() {
    let issuer = issuer(1);
    let draft = host(7);
    let issued = issuer.issue(&draft, at(0), &SystemEntropy);
    let parts: Vec<_> = issued.token.expose().split('.').map(forge::decode).collect();
    assert_eq!(
        String::from_utf8(parts[0].clone()).unwrap(),
        format!(r#"{{"alg":"EdDSA","typ":"host+jwt","kid":"{}"}}"#, key(1).kid())
    );
    let id = issuer.verifier().verify(issued.token.expose(), at(0)).unwrap().id;
    let (host_id, token_id) = (draft.host_id, draft.token_id);
    let payload = format!(
        r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"{host_id}","tid":"acme","gen":7,"exp":1769861400,"iat":1769860800,"jti":"{id}","cid":"{token_id}"}}"#
    );
    assert_eq!(String::from_utf8(parts[1].clone()).unwrap(), payload);
    assert_eq!(id.as_uuid().get_version_num(), 7);
    assert_eq!(issued.expires_at.to_string(), "2026-01-31T12:10:00Z");
}

#[test]
fn no_two_tokens_are_the_same() {
    let (issuer, draft) = (issuer(1), host(0));
    let verifier = issuer.verifier();
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let issued = issuer.issue(&draft, at(0), &SystemEntropy);
        assert!(seen.insert(verifier.verify(issued.token.expose(), at(0)).unwrap().id));
    }
}

/// The longest that an issuer can make stays below what a verifier reads.
#[test]
fn the_longest_token_is_read() {
    let longest = "\"".repeat(256);
    let issuer = Issuer::builder(&longest, &longest, key(1)).build().unwrap();
    let tenant_id = TenantId::new("\\".repeat(TenantId::MAX_BYTES)).unwrap();
    let issued = issuer.issue(&HostClaimsDraft { tenant_id, ..host(u64::MAX) }, at(0), &SystemEntropy);
    assert!((2_000..2_500).contains(&issued.token.expose().len()), "{}", issued.token.expose().len());
    issuer.verifier().verify(issued.token.expose(), at(0)).unwrap();
}

#[test]
fn an_issuer_out_of_bounds_is_not_built() {
    let life = |seconds| {
        Issuer::builder(ISSUER, AUDIENCE, key(1)).life(Duration::from_secs(seconds)).build().map(|issuer| issuer.life())
    };
    assert_eq!(issuer(1).life(), Duration::from_secs(LIFE));
    for seconds in [60, 86_400] {
        assert_eq!(life(seconds), Ok(Duration::from_secs(seconds)));
    }
    for seconds in [0, 59, 86_401, u64::MAX] {
        assert_eq!(life(seconds), Err(InvalidIssuer::Life));
    }
    for text in ["", " padded", "canary\n", &"x".repeat(257)] {
        for built in [Issuer::builder(text, AUDIENCE, key(1)).build(), Issuer::builder(ISSUER, text, key(1)).build()] {
            let error = built.unwrap_err();
            assert!(matches!(error, InvalidIssuer::Text(_)), "{error:?}");
            assert!(!error.to_string().contains("canary"));
        }
    }
}

/// A token, or a key that signs some, shows up in no log.
#[test]
fn debug_shows_no_secret() {
    let issuer = issuer(1);
    let issued = issuer.issue(&host(0), at(0), &SystemEntropy);
    let signature = issued.token.expose().rsplit('.').next().unwrap();
    assert_eq!(format!("{:?}", issued.token), "AccessToken(redacted)");
    assert!(!format!("{issued:?}").contains(signature));
    assert_eq!(format!("{:?}", key(1)), format!("SigningKey({}, redacted)", key(1).kid()));
    let builder = Issuer::builder(ISSUER, AUDIENCE, key(1));
    for shown in [format!("{issuer:?}"), format!("{builder:?}"), format!("{:?}", issuer.verifier())] {
        // The private key is 32 times the byte 1, in whatever form it is shown.
        for form in ["1, 1, 1", "01010101", "AQEBAQ"] {
            assert!(!shown.contains(form), "{shown}");
        }
    }
}
