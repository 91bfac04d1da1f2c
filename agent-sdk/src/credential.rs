//! The credential of a host, and the form in which it is kept.
//!
//! What is stored is one small JSON document: the installed credential with the successor of a rotation, and the
//! enrolment that is under way, each optional, beside a `version`. A reader refuses what it does not know, so that a later
//! version can add a part without an earlier one dropping it unseen.

mod document;
mod file;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use enlist_core::agent_token::CredentialKind;
use enlist_core::{AgentTokenId, HostId, TenantId, Timestamp, TokenHash};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::agent_token::AgentToken;
use crate::error::CredentialError;
use crate::keyring::Durable;

pub use file::FileCredentialStore;

/// Where the credential is kept: a place for one small secret document.
///
/// To ensure correctness:
///
/// - When [`save`](CredentialStore::save) has returned, the document survives a crash of the machine.
/// - A crash, or dropping the future, in the middle of a `save` leaves the old document or the new one, whole.
/// - `save` and `erase` take effect in the order in which they were called.
/// - [`load`](CredentialStore::load) says `None` only when there is nothing; what cannot be read is an error, or a host
///   would enrol anew over a credential that is still good.
/// - Nobody but the agent can read the document.
#[async_trait]
pub trait CredentialStore: Send + Sync + 'static {
    /// What was saved last, or `None` after nothing or an erasure.
    async fn load(&self) -> Result<Option<SecretBytes>, CredentialError>;

    /// Replaces the document.
    async fn save(&self, document: &SecretBytes) -> Result<(), CredentialError>;

    /// Removes the document, durably; nothing to remove is no error.
    async fn erase(&self) -> Result<(), CredentialError>;
}

/// A document that holds secrets: redacted `Debug`, zeroed on drop.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to keep them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 of them: equal documents have equal ones.
    pub(crate) fn hash(&self) -> TokenHash {
        TokenHash::from_bytes(Sha256::digest(&*self.0).into())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes, redacted)", self.0.len())
    }
}

/// The installed credential of a host: its secret, and who it makes the host.
///
/// `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Credential {
    pub(crate) tokens: Durable<Arc<AgentToken>>,
    pub(crate) facts: Facts,
}

/// What is known of the token in use, besides its secret.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) host_id: HostId,
    pub(crate) tenant_id: TenantId,
    pub(crate) token_id: AgentTokenId,
    pub(crate) kind: CredentialKind,
    pub(crate) expires_at: Option<Timestamp>,
    /// When the server said of the token in use who it is and how long it lives, by the agent's clock.
    pub(crate) obtained_at: Option<Timestamp>,
    /// The install tokens that have enrolled this machine, the last one last: none of them is ever tried again.
    pub(crate) spent: Vec<TokenHash>,
}

impl Credential {
    /// The installed credential in this store, or `None` before enrolment has succeeded.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub async fn load(store: &dyn CredentialStore) -> Result<Option<Self>, CredentialError> {
        Ok(Record::load(store).await?.installed)
    }

    /// The host that the server knows this machine as; fixed when it was enrolled.
    pub const fn host_id(&self) -> HostId {
        self.facts.host_id
    }

    /// Whose host it is.
    pub const fn tenant_id(&self) -> &TenantId {
        &self.facts.tenant_id
    }

    /// The public identity of the agent token in use.
    pub const fn token_id(&self) -> AgentTokenId {
        self.facts.token_id
    }

    /// What the agent token is presented for.
    pub const fn kind(&self) -> CredentialKind {
        self.facts.kind
    }

    /// From when on it is refused, if ever. A life that begins with the first use is known only after that.
    pub const fn expires_at(&self) -> Option<Timestamp> {
        self.facts.expires_at
    }

    /// Whether a successor was drawn that is not in use yet.
    pub const fn is_rotating(&self) -> bool {
        self.tokens.successor.is_some()
    }

    /// The secret in use. To call the server with it, take a [`Session`](crate::Session), which knows when not to.
    pub fn token(&self) -> &AgentToken {
        &self.tokens.current
    }

    /// Whether this install token bought it.
    pub fn was_bought_with(&self, install_token: &crate::InstallToken) -> bool {
        self.facts.spent.last() == Some(&install_token.hash())
    }
}

/// A secret that was drawn for an install token and may have been claimed with.
#[derive(Debug, Clone)]
pub(crate) struct PendingEnrolment {
    pub(crate) token: Arc<AgentToken>,
    pub(crate) install_token: TokenHash,
}

/// All that is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) installed: Option<Credential>,
    pub(crate) enrolment: Option<PendingEnrolment>,
    /// The token delivered by hand that is being tried: it may have been accepted, in an answer that was lost. Kept until
    /// there is an answer, whatever else is delivered meanwhile.
    pub(crate) trying: Option<Arc<AgentToken>>,
    /// The token last delivered by hand that was accepted or refused. It is kept with no credential as well.
    pub(crate) delivered: Option<TokenHash>,
}

impl Record {
    pub(crate) async fn load(store: &dyn CredentialStore) -> Result<Self, CredentialError> {
        match store.load().await? {
            Some(document) => document::read(document.expose()),
            None => Ok(Self::default()),
        }
    }

    pub(crate) async fn save(&self, store: &dyn CredentialStore) -> Result<(), CredentialError> {
        store.save(&self.to_json()).await
    }

    pub(crate) fn to_json(&self) -> SecretBytes {
        document::write(self)
    }
}
