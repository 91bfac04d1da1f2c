//! What tokens begin with: the embedding service's own prefixes, with the default ones always accepted besides.

use crate::agent_token::CredentialKind;
use crate::secret::Prefix;

/// The prefixes that new tokens get. The default ones are accepted besides, since a token that a client has made is
/// seen only as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefixes {
    /// Of install tokens. Default `eit`.
    pub install: Prefix,
    /// Of agent tokens of kind `bearer`. Default `eat`.
    pub agent: Prefix,
    /// Of agent tokens of kind `refresh`. Default `ert`.
    pub refresh: Prefix,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { install: Prefix::INSTALL, agent: Prefix::AGENT, refresh: Prefix::REFRESH }
    }
}

impl Prefixes {
    pub(super) const fn of(&self, kind: CredentialKind) -> Prefix {
        match kind {
            CredentialKind::Bearer => self.agent,
            CredentialKind::Refresh => self.refresh,
        }
    }

    /// The kinds of token that can be exchanged.
    pub(super) const fn exchanged(&self) -> [Prefix; 2] {
        [self.install, Prefix::INSTALL]
    }

    /// The kinds of token that a host may present.
    pub(super) const fn presented(&self) -> [Prefix; 4] {
        [self.agent, self.refresh, Prefix::AGENT, Prefix::REFRESH]
    }

    /// Whether a token tells by its beginning what it is for.
    pub(super) fn are_distinct(&self) -> bool {
        self.exchanged().iter().all(|install| !self.presented().contains(install))
    }
}
