//! Secrets as types. A [`PlainToken`] can be made, sent once and hashed; it cannot be printed, compared or stored.
//! Everything else in Enlist knows only its [`TokenHash`].
//!
//! The text of a token is `<prefix>_<43 base62 characters>_<6 base62 characters>`: 256 bits drawn uniformly, then the
//! CRC-32 of all that stands before it. The checksum lets a typing error or a cut-off paste be refused without asking
//! the store, and lets a scanner for leaked secrets recognise one; it guards nothing.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::entropy::Entropy;

/// Characters of the random part: ⌈256 / log2 62⌉.
const RANDOM_CHARS: usize = 43;
/// Characters of the checksum: ⌈32 / log2 62⌉.
const CHECKSUM_CHARS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The longest prefix that [`Prefix::new`] admits.
const MAX_PREFIX: usize = 8;

/// The kind of a token, readable by a human: 2–8 lower-case letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(&'static str);

impl Prefix {
    /// Install tokens.
    pub const INSTALL: Self = Self("eit");
    /// Agent tokens of kind `bearer`.
    pub const AGENT: Self = Self("eat");
    /// Agent tokens of kind `refresh`.
    pub const REFRESH: Self = Self("ert");

    /// A prefix of the embedding service's own.
    ///
    /// # Panics
    /// Unless it is 2–8 lower-case ASCII letters: in a `const` that is a compile error.
    pub const fn new(prefix: &'static str) -> Self {
        let bytes = prefix.as_bytes();
        assert!(bytes.len() >= 2 && bytes.len() <= MAX_PREFIX, "a prefix is 2-8 letters");
        let mut i = 0;
        while i < bytes.len() {
            assert!(bytes[i].is_ascii_lowercase(), "a prefix is lower-case letters");
            i += 1;
        }
        Self(prefix)
    }

    /// The prefix as text.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// A token in the clear.
///
/// Its `Debug` is redacted, it has no `Display`, no `PartialEq` and no `Serialize`, and its memory is zeroed on drop.
/// The one way to its text is [`PlainToken::expose`], so that every place where a secret leaves can be found by name.
pub struct PlainToken(Zeroizing<String>);

impl PlainToken {
    /// Draws a new token.
    pub fn generate(prefix: Prefix, entropy: &dyn Entropy) -> Self {
        let capacity = prefix.0.len() + 1 + RANDOM_CHARS + 1 + CHECKSUM_CHARS;
        // Reserved whole, so that growing never leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        text.push_str(prefix.0);
        text.push('_');
        push_random(&mut text, entropy);
        let checksum = checksum(&text);
        text.push('_');
        text.extend(checksum.iter().map(|&b| char::from(b)));
        Self(text)
    }

    /// Derives a token from a secret that its holder has, an idempotency key of theirs, and a stored random salt: the same
    /// three give the same token, so that a repeated request can be answered as the first one was, and nothing that is
    /// stored gives it away. HKDF-SHA-256.
    pub fn derive(prefix: Prefix, secret: &Self, key: &IdempotencyKey, salt: &[u8]) -> Self {
        // The secret's text has a fixed length for each prefix, and no line feed: the two cannot run into each other.
        let input = Zeroizing::new([secret.0.as_bytes(), b"\n", key.0.as_bytes()].concat());
        Self::generate(prefix, &Derived { hkdf: Hkdf::new(Some(salt), &input), block: AtomicU8::new(0) })
    }

    /// Takes the text of a token that carries one of the `accepted` prefixes.
    ///
    /// # Errors
    /// Says which part is wrong, never what it was.
    pub fn parse(text: &str, accepted: &[Prefix]) -> Result<Self, MalformedToken> {
        let (prefix, rest) = text.split_once('_').ok_or(MalformedToken::Shape)?;
        let (random, found) = rest.split_once('_').ok_or(MalformedToken::Shape)?;
        let base62 = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric());
        if random.len() != RANDOM_CHARS || found.len() != CHECKSUM_CHARS || !base62(random) || !base62(found) {
            return Err(MalformedToken::Shape);
        }
        let signed = &text[..text.len() - CHECKSUM_CHARS - 1];
        if checksum(signed) != found.as_bytes() {
            return Err(MalformedToken::Checksum);
        }
        if !accepted.iter().any(|known| known.0 == prefix) {
            return Err(MalformedToken::Prefix);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// What the store may know of it: SHA-256 of the whole text.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of_text(&self.0)
    }

    /// The secret itself: only to hand it to its holder, or to present it to the server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainToken(redacted)")
    }
}

/// What a client sends in the header `Idempotency-Key` so that a request whose reply was lost can be repeated. It takes
/// part in the making of a secret: 128 random bits or more, never used for two things.
///
/// Its `Debug` is redacted, and its memory is zeroed on drop.
#[derive(Clone)]
pub struct IdempotencyKey(Zeroizing<String>);

impl IdempotencyKey {
    /// The fewest characters that 128 bits need in base 64.
    const MIN: usize = 22;
    const MAX: usize = 255;

    /// Takes the value of the header.
    ///
    /// # Errors
    /// Says what a key has to look like.
    pub fn parse(value: &[u8]) -> Result<Self, &'static str> {
        const SHAPE: &str = "Idempotency-Key: 22 to 255 visible ASCII characters, 128 random bits or more";
        if !(Self::MIN..=Self::MAX).contains(&value.len()) || !value.iter().all(u8::is_ascii_graphic) {
            return Err(SHAPE);
        }
        std::str::from_utf8(value).map(|text| Self(Zeroizing::new(text.to_owned()))).map_err(|_| SHAPE)
    }

    /// What is stored of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of_text(&self.0)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(redacted)")
    }
}

/// The output of a key derivation as a source of bytes: block by block, without end.
struct Derived {
    hkdf: Hkdf<Sha256>,
    block: AtomicU8,
}

impl Entropy for Derived {
    fn fill(&self, bytes: &mut [u8]) {
        let block = self.block.fetch_add(1, Ordering::Relaxed);
        let info = [b"enlist/agent-token/1/".as_slice(), &[block]].concat();
        self.hkdf.expand(&info, bytes).expect("HKDF-SHA-256 gives 8,160 bytes, and a token takes 64 at a time");
    }
}

/// A signed access token in the clear: whoever holds it is taken for the host until it expires.
///
/// As with [`PlainToken`] its `Debug` is redacted, it has no `Display`, no `PartialEq` and no `Serialize`, and its memory
/// is zeroed on drop. Nothing is checked here: whether the text is a token, and of whom, the verification says.
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    /// The token itself: only to hand it to its holder, or to present it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<Zeroizing<String>> for AccessToken {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(redacted)")
    }
}

/// Why a text is not a token of ours. Nothing was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedToken {
    /// It does not have the three parts that a token has.
    #[error("it does not have the form of a token")]
    Shape,
    /// A character was changed or lost on the way.
    #[error("its checksum does not match: was it cut off or mistyped?")]
    Checksum,
    /// It is a token, but of another kind.
    #[error("it is a token of another kind")]
    Prefix,
}

/// SHA-256 of a token: what stores index, caches key and clients claim with.
///
/// Equal hashes mean equal tokens. It is not a secret that grants anything, yet `Debug` shows only its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// SHA-256 of `text`.
    pub(crate) fn of_text(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Takes a hash that was stored before.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash, to store it.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits: the form of a claim.
    pub fn to_hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
            hex
        })
    }

    /// Reads [`TokenHash::to_hex`], in either case; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}…)", &self.to_hex()[..8])
    }
}

impl serde::Serialize for TokenHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> serde::Deserialize<'de> for TokenHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        Self::from_hex(&hex)
            .ok_or_else(|| serde::de::Error::custom("a claim is 64 hexadecimal digits, sha256 of the agent token"))
    }
}

/// Appends 43 characters, each drawn uniformly: bytes of 248 and above are thrown away, since 248 = 4 × 62.
fn push_random(text: &mut String, entropy: &dyn Entropy) {
    let mut pool = Zeroizing::new([0u8; 64]);
    let mut left = RANDOM_CHARS;
    while left > 0 {
        entropy.fill(&mut *pool);
        for byte in pool.iter().filter(|&&b| b < 248).take(left) {
            text.push(char::from(BASE62[usize::from(byte % 62)]));
            left -= 1;
        }
    }
}

/// The CRC-32 (IEEE) of `signed` in base 62, most significant digit first, padded with zeroes.
fn checksum(signed: &str) -> [u8; CHECKSUM_CHARS] {
    let mut rest = crc32fast::hash(signed.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SystemEntropy;
    use proptest::prelude::*;

    const ALL: &[Prefix] = &[Prefix::INSTALL, Prefix::AGENT, Prefix::REFRESH];

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    /// Agents of other languages make tokens too: the format is a promise.
    #[test]
    fn the_format_is_pinned() {
        let token = PlainToken::generate(Prefix::AGENT, &Fixed(10));
        assert_eq!(token.expose(), "eat_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_136x1a");
        assert_eq!(token.hash().to_hex(), "2b97a36ae0c8bafd10d60ccf7c272fef84493268f9f7410a9e8fa4640ebb9d39");
    }

    #[test]
    fn the_random_part_uses_every_character_about_equally() {
        let mut seen = [0u32; 62];
        for _ in 0..2_000 {
            let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
            for byte in token.expose()[4..47].bytes() {
                seen[BASE62.iter().position(|&b| b == byte).expect("base 62")] += 1;
            }
        }
        let expected = 2_000.0 * 43.0 / 62.0;
        let chi_squared: f64 = seen.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // 61 degrees of freedom: one run in 10^9 exceeds 145.
        assert!(chi_squared < 145.0, "χ² = {chi_squared}");
    }

    /// A repeat may come years later, from another version.
    #[test]
    fn a_derived_token_is_pinned_and_hangs_on_all_three() {
        let secret = PlainToken::generate(Prefix::INSTALL, &Fixed(10));
        let key = |text: &str| IdempotencyKey::parse(text.as_bytes()).unwrap();
        let (one, two) = (key("0123456789abcdefghijkl"), key("0123456789abcdefghijkm"));
        let derive = |secret: &PlainToken, key: &IdempotencyKey, salt: &[u8]| {
            PlainToken::derive(Prefix::AGENT, secret, key, salt).expose().to_owned()
        };
        let token = derive(&secret, &one, b"salt");
        assert_eq!(token, "eat_UdVSR2ESGOODQg3iZnqGDG80bqxcHG6G9x7FhwKD6Qv_1YrYiI");
        assert_eq!(token, derive(&secret, &one, b"salt"));
        assert_ne!(token, derive(&secret, &two, b"salt"));
        assert_ne!(token, derive(&secret, &one, b"other"));
        assert_ne!(token, derive(&PlainToken::generate(Prefix::INSTALL, &Fixed(11)), &one, b"salt"));
        assert!(PlainToken::parse(&token, ALL).is_ok());
    }

    #[test]
    fn an_idempotency_key_has_128_bits_and_is_not_shown() {
        for bad in
            ["", "0123456789abcdefghijk", "0123456789 abcdefghijkl", &"x".repeat(256), "0123456789abcdefghijk\u{e9}"]
        {
            assert!(IdempotencyKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let key = IdempotencyKey::parse(b"0123456789abcdefghijkl").unwrap();
        assert_eq!(format!("{key:?}"), "IdempotencyKey(redacted)");
    }

    #[test]
    fn debug_shows_nothing_of_the_secret() {
        let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
        assert_eq!(format!("{token:?}"), "PlainToken(redacted)");
        let token = AccessToken::from(Zeroizing::new("eyJ.canary.x".to_owned()));
        assert_eq!(format!("{token:?}"), "AccessToken(redacted)");
    }

    #[test]
    fn another_kind_is_told_apart_from_a_broken_one() {
        let token = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
        let refused = |text: &str| PlainToken::parse(text, &[Prefix::AGENT]).map(|_| ()).unwrap_err();
        assert_eq!(refused(token.expose()), MalformedToken::Prefix);
        assert_eq!(refused(&token.expose().replace("eit", "eat")), MalformedToken::Checksum);
        assert_eq!(refused("eat_short_000000"), MalformedToken::Shape);
        assert_eq!(refused(""), MalformedToken::Shape);
    }

    proptest! {
        #[test]
        fn what_is_generated_parses_to_the_same_hash(seed in any::<[u8; 32]>()) {
            struct Repeat([u8; 32]);
            impl Entropy for Repeat {
                fn fill(&self, bytes: &mut [u8]) {
                    // One byte below 248 at least, or the draw would never end.
                    for (i, b) in bytes.iter_mut().enumerate() { *b = if i == 0 { 7 } else { self.0[i % 32] }; }
                }
            }
            let token = PlainToken::generate(Prefix::REFRESH, &Repeat(seed));
            let parsed = PlainToken::parse(token.expose(), ALL).unwrap();
            prop_assert_eq!(parsed.hash(), token.hash());
        }

        #[test]
        fn one_changed_character_is_refused(at in 0usize..54, by in 1usize..62) {
            let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
            let mut text = token.expose().as_bytes().to_vec();
            let was = BASE62.iter().position(|&b| b == text[at]).unwrap_or_default();
            text[at] = BASE62[(was + by) % 62];
            let text = String::from_utf8(text).unwrap();
            prop_assert!(PlainToken::parse(&text, ALL).is_err());
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,80}") {
            let _ = PlainToken::parse(&text, ALL);
        }

        #[test]
        fn hex_is_read_back(bytes in any::<[u8; 32]>()) {
            let hash = TokenHash::from_bytes(bytes);
            prop_assert_eq!(TokenHash::from_hex(&hash.to_hex()), Some(hash));
            prop_assert_eq!(TokenHash::from_hex(&hash.to_hex().to_uppercase()), Some(hash));
        }
    }
}
