//! The secrets that prove a host: its agent token, and the access token that one of kind `refresh` buys.

use std::fmt;

use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::{Timestamp, TokenHash};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::InvalidAgentToken;

/// The longest agent token, in bytes.
const MAX_AGENT_TOKEN: usize = 512;
/// The longest access token, in bytes: what a header can hold everywhere.
const MAX_ACCESS_TOKEN: usize = 4 * 1024;

/// What a request to the server's agent routes is made with: [`AgentToken`], [`AccessToken`], [`PlainToken`], or the
/// [`Permit`](crate::Permit) of a session.
pub trait BearerToken: sealed::Sealed + Sync {
    /// The secret itself: only to present it to the server, as `Authorization: Bearer …`.
    fn bearer(&self) -> &str;
}

pub(crate) mod sealed {
    /// Whatever implements it is visible ASCII.
    pub trait Sealed {}
}

/// A host's credential. `Debug` is redacted, memory is zeroed on drop.
///
/// ```
/// use enlist_agent_sdk::AgentToken;
///
/// // A token of the default form is checked at once; one with a prefix of the embedding service's own is passed on.
/// assert!(AgentToken::new("eat_cut_off").is_err());
/// assert!(AgentToken::new("mdt_0123456789").is_ok());
/// ```
pub struct AgentToken(Zeroizing<String>);

impl AgentToken {
    /// Takes the text, less surrounding white space.
    ///
    /// # Errors
    /// When it cannot be an agent token: the server need not be asked to know.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidAgentToken> {
        let text = Zeroizing::new(text.into());
        let token = text.trim();
        if !is_visible_ascii(token, MAX_AGENT_TOKEN) {
            return Err(InvalidAgentToken::Text);
        }
        let known = [Prefix::AGENT, Prefix::REFRESH, Prefix::INSTALL];
        if known.iter().any(|prefix| token.split_once('_').is_some_and(|(begin, _)| begin == prefix.as_str())) {
            PlainToken::parse(token, &[Prefix::AGENT, Prefix::REFRESH])?;
        }
        Ok(Self(Zeroizing::new(token.to_owned())))
    }

    /// SHA-256 of it: its claim.
    pub fn hash(&self) -> TokenHash {
        TokenHash::from_bytes(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The secret itself: only to present it to the server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AgentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentToken(redacted)")
    }
}

impl From<PlainToken> for AgentToken {
    fn from(token: PlainToken) -> Self {
        Self(Zeroizing::new(token.expose().to_owned()))
    }
}

impl sealed::Sealed for AgentToken {}
impl BearerToken for AgentToken {
    fn bearer(&self) -> &str {
        &self.0
    }
}

impl sealed::Sealed for PlainToken {}
impl BearerToken for PlainToken {
    fn bearer(&self) -> &str {
        self.expose()
    }
}

/// A short-lived signed token that a credential of kind `refresh` has bought. `Debug` is redacted, memory is zeroed on
/// drop. It is never kept on disk: another one is a request away.
pub struct AccessToken {
    text: Zeroizing<String>,
    expires_at: Timestamp,
    rotate: bool,
}

impl AccessToken {
    /// From when on the server refuses it, by the server's clock.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether the server asked, along with it, for a rotation of the agent token that bought it.
    pub const fn asks_for_rotation(&self) -> bool {
        self.rotate
    }

    /// The secret itself: only to present it to the server, or to a service that knows the server's keys.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken(redacted, expires at {})", self.expires_at)
    }
}

impl sealed::Sealed for AccessToken {}
impl BearerToken for AccessToken {
    fn bearer(&self) -> &str {
        &self.text
    }
}

/// 200 of `POST /v1/agent/token/refresh`, as far as an agent that draws its own secrets reads it.
impl<'de> Deserialize<'de> for AccessToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct RefreshReply {
            access_token: Text,
            expires_at: Timestamp,
            #[serde(default)]
            rotate: bool,
        }
        let RefreshReply { access_token: Text(text), expires_at, rotate } = RefreshReply::deserialize(deserializer)?;
        Ok(Self { text, expires_at, rotate })
    }
}

/// The text of an access token, fit for a header.
struct Text(Zeroizing<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The error does not quote it.
        let fits = is_visible_ascii(&text, MAX_ACCESS_TOKEN);
        fits.then_some(Self(text)).ok_or_else(|| D::Error::custom("not an access token"))
    }
}

fn is_visible_ascii(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::SystemEntropy;

    #[test]
    fn it_hashes_like_the_token_that_the_server_minted() {
        for prefix in [Prefix::AGENT, Prefix::REFRESH] {
            let minted = PlainToken::generate(prefix, &SystemEntropy);
            let pasted = AgentToken::new(format!(" {}\n", minted.expose())).expect("a token");
            assert_eq!(pasted.hash(), minted.hash());
        }
    }

    #[test]
    fn a_damaged_one_and_an_install_token_are_refused_before_anything_is_sent() {
        let minted = PlainToken::generate(Prefix::REFRESH, &SystemEntropy);
        let cut = &minted.expose()[..minted.expose().len() - 1];
        assert!(matches!(AgentToken::new(cut), Err(InvalidAgentToken::Malformed(_))));
        let install = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
        assert!(matches!(AgentToken::new(install.expose()), Err(InvalidAgentToken::Malformed(_))));
        for text in ["", "  ", "two words", "line\nbreak", &"x".repeat(513)] {
            assert_eq!(AgentToken::new(text).unwrap_err(), InvalidAgentToken::Text);
        }
    }

    #[test]
    fn an_access_token_that_no_header_can_hold_is_no_answer() {
        let read = |text: &str| {
            let json = serde_json::json!({"access_token": text, "expires_at": "2026-11-01T12:00:00Z", "later": 1});
            serde_json::from_value::<AccessToken>(json)
        };
        let token = read("a.b.c").expect("an access token");
        assert_eq!(token.expose(), "a.b.c");
        assert!(!format!("{token:?}").contains("a.b.c"));
        for text in ["", "a b", "canary\r\nx-y: z", &"x".repeat(4_097)] {
            let error = read(text).unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
