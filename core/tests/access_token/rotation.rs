//! How a key comes and goes.

use enlist_core::access_token::{AccessTokenError, Issuer, SigningKey, Verifier};
use enlist_core::{AccessToken, SystemEntropy};

use crate::{AUDIENCE, ISSUER, at, host, issuer, key};

fn generation(signs: u8, published: &[u8]) -> Issuer {
    Issuer::builder(ISSUER, AUDIENCE, key(signs))
        .publish(published.iter().map(|&seed| key(seed).public()))
        .build()
        .unwrap()
}

fn bought(issuer: &Issuer) -> AccessToken {
    issuer.issue(&host(0), at(0), &SystemEntropy).token
}

fn accepts(verifier: &Verifier, token: &AccessToken) -> Result<(), AccessTokenError> {
    verifier.verify(token.expose(), at(1)).map(|_| ())
}

/// Publish the new key, sign with it, drop the old one. Each verifier knows the key set of this step or of the one before.
#[test]
fn a_key_is_replaced_without_refusing_anybody() {
    let steps = [
        generation(1, &[]),
        generation(1, &[2]),
        generation(2, &[1]),
        generation(2, &[]),
        generation(2, &[3]),
        generation(3, &[2]),
        generation(3, &[]),
    ];
    let tokens = steps.each_ref().map(bought);
    for (step, issuer) in steps.iter().enumerate() {
        let before = step.saturating_sub(1);
        // A verifier is behind by a step, and so may a token be; a key is dropped once no token of it is left.
        for (verifier, token) in [(step, step), (before, step), (before, before)] {
            assert_eq!(accepts(&steps[verifier].verifier(), &tokens[token]), Ok(()), "{verifier} {token}");
        }
        let mut verifier = steps[0].verifier();
        verifier.replace_keys(issuer.jwks());
        assert_eq!(accepts(&verifier, &tokens[step]), Ok(()));
    }
    let refused = |verifier: usize, token: usize| accepts(&steps[verifier].verifier(), &tokens[token]);
    // Too soon for who has not heard of the new key; too late for the old one.
    for (verifier, token) in [(0, 2), (3, 1), (6, 0), (6, 3), (3, 5)] {
        assert_eq!(refused(verifier, token), Err(AccessTokenError::UnknownKey), "{verifier} {token}");
    }
}

#[test]
fn a_replaced_key_set_accepts_no_key_of_the_one_before() {
    let mut verifier = issuer(1).verifier();
    verifier.replace_keys(issuer(2).jwks());
    assert_eq!(accepts(&verifier, &bought(&issuer(1))), Err(AccessTokenError::UnknownKey));
    assert_eq!(accepts(&verifier, &bought(&issuer(2))), Ok(()));
}

/// So that the same list of keys can be configured in every step.
#[test]
fn a_key_is_published_once() {
    let issuer = generation(2, &[1, 2, 3, 1]);
    let kids: Vec<_> = issuer.jwks().keys().iter().map(|key| key.kid().to_owned()).collect();
    assert_eq!(kids, [2, 1, 3].map(|seed| SigningKey::kid(&key(seed)).to_owned()));
}
