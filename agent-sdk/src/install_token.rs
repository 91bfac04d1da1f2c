//! The install token, as the agent holds it: given by a person, sent once, never kept.

use std::fmt;

use enlist_core::TokenHash;
use enlist_core::secret::{PlainToken, Prefix};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::InvalidInstallToken;

const MAX_BYTES: usize = 512;

/// The single-use secret that buys a host its credential. `Debug` is redacted, memory is zeroed on drop.
///
/// ```
/// use enlist_agent_sdk::InstallToken;
///
/// // A token of the default form is checked at once; one with a prefix of the embedding service's own is passed on.
/// assert!(InstallToken::new("eit_cut_off").is_err());
/// assert!(InstallToken::new("mit_0123456789").is_ok());
/// ```
pub struct InstallToken(Zeroizing<String>);

impl InstallToken {
    /// Takes the text, less surrounding white space.
    ///
    /// # Errors
    /// When it cannot be an install token: the server need not be asked to know.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidInstallToken> {
        let text = Zeroizing::new(text.into());
        let token = text.trim();
        if token.is_empty() || token.len() > MAX_BYTES || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidInstallToken::Text);
        }
        if token.starts_with("eit_") {
            PlainToken::parse(token, &[Prefix::INSTALL])?;
        }
        Ok(Self(Zeroizing::new(token.to_owned())))
    }

    /// SHA-256 of it: what the pending enrolment remembers.
    pub fn hash(&self) -> TokenHash {
        TokenHash::from_bytes(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The secret itself: only to present it to the server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for InstallToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallToken(redacted)")
    }
}

impl From<PlainToken> for InstallToken {
    fn from(token: PlainToken) -> Self {
        Self(Zeroizing::new(token.expose().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::SystemEntropy;

    #[test]
    fn it_hashes_like_the_token_that_the_server_minted() {
        let minted = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
        let pasted = InstallToken::new(format!(" {}\n", minted.expose())).expect("a token");
        assert_eq!(pasted.hash(), minted.hash());
    }

    #[test]
    fn a_damaged_one_is_refused_before_anything_is_sent() {
        let minted = PlainToken::generate(Prefix::INSTALL, &SystemEntropy);
        let cut = &minted.expose()[..minted.expose().len() - 1];
        assert!(matches!(InstallToken::new(cut), Err(InvalidInstallToken::Malformed(_))));
        for text in ["", "  ", "two words", "line\nbreak", &"x".repeat(513)] {
            assert_eq!(InstallToken::new(text).unwrap_err(), InvalidInstallToken::Text);
        }
    }
}
