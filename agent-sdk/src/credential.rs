//! The credential of a host, and the form in which it is kept.
//!
//! What is stored is one small JSON document: the installed credential, or the enrolment that is under way, each
//! optional, beside a `version`. A reader refuses what it does not know, so that a later version can add a part
//! (the successor of a rotation) without an earlier one dropping it unseen.

mod file;

use std::fmt;

use async_trait::async_trait;
use enlist_core::agent_token::CredentialKind;
use enlist_core::secret::Prefix;
use enlist_core::{AgentTokenId, HostId, PlainToken, TenantId, Timestamp, TokenHash};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::error::CredentialError;

pub use file::FileCredentialStore;

const VERSION: u64 = 1;

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
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes, redacted)", self.0.len())
    }
}

/// The installed credential of a host: its secret, and who it makes the host.
///
/// `Debug` shows no secret.
#[derive(Debug)]
pub struct Credential {
    pub(crate) token: PlainToken,
    pub(crate) host_id: HostId,
    pub(crate) tenant_id: TenantId,
    pub(crate) token_id: AgentTokenId,
    pub(crate) kind: CredentialKind,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) bought_with: TokenHash,
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
        self.host_id
    }

    /// Whose host it is.
    pub const fn tenant_id(&self) -> &TenantId {
        &self.tenant_id
    }

    /// The public identity of the agent token.
    pub const fn token_id(&self) -> AgentTokenId {
        self.token_id
    }

    /// What the agent token is presented for.
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// From when on it is refused, if ever.
    pub const fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// The secret, to call the server with.
    pub const fn token(&self) -> &PlainToken {
        &self.token
    }

    /// Whether this install token bought it.
    pub fn was_bought_with(&self, install_token: &crate::InstallToken) -> bool {
        self.bought_with == install_token.hash()
    }
}

/// A secret that was drawn for an install token and may have been claimed with.
#[derive(Debug)]
pub(crate) struct PendingEnrolment {
    pub(crate) token: PlainToken,
    pub(crate) install_token: TokenHash,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) installed: Option<Credential>,
    pub(crate) enrolment: Option<PendingEnrolment>,
}

impl Record {
    pub(crate) async fn load(store: &dyn CredentialStore) -> Result<Self, CredentialError> {
        match store.load().await? {
            Some(document) => Self::from_json(document.expose()),
            None => Ok(Self::default()),
        }
    }

    pub(crate) async fn save(&self, store: &dyn CredentialStore) -> Result<(), CredentialError> {
        store.save(&self.to_json()).await
    }

    fn to_json(&self) -> SecretBytes {
        let document = Document {
            version: VERSION,
            installed: self.installed.as_ref().map(|credential| InstalledPart {
                token: SecretText::of(&credential.token),
                token_id: credential.token_id,
                kind: credential.kind,
                expires_at: credential.expires_at,
                host_id: credential.host_id,
                tenant_id: credential.tenant_id.clone(),
                install_token_sha256: credential.bought_with,
            }),
            enrolment: self.enrolment.as_ref().map(|pending| EnrolmentPart {
                token: SecretText::of(&pending.token),
                install_token_sha256: pending.install_token,
            }),
        };
        // Room for all of it, so that growing leaves no copy of a secret behind.
        let mut json = Vec::with_capacity(4 * 1024);
        serde_json::to_writer_pretty(&mut json, &document).expect("the document has string keys only, so it is JSON");
        json.push(b'\n');
        SecretBytes::new(json)
    }

    fn from_json(json: &[u8]) -> Result<Self, CredentialError> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let Version { version } = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
        if version != VERSION {
            return Err(CredentialError::UnsupportedVersion { found: version, supported: VERSION });
        }
        let document: Document = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
        let installed = match document.installed {
            Some(part) => Some(Credential {
                token: part.token.parse()?,
                host_id: part.host_id,
                tenant_id: part.tenant_id,
                token_id: part.token_id,
                kind: part.kind,
                expires_at: part.expires_at,
                bought_with: part.install_token_sha256,
            }),
            None => None,
        };
        let enrolment = match document.enrolment {
            Some(part) => {
                Some(PendingEnrolment { token: part.token.parse()?, install_token: part.install_token_sha256 })
            }
            None => None,
        };
        if installed.is_none() && enrolment.is_none() {
            return Err(CredentialError::Corrupt { detail: "it holds neither a credential nor an enrolment".into() });
        }
        Ok(Self { installed, enrolment })
    }
}

/// Where the document stops making sense. What serde says is left out: it quotes, and may quote a secret.
fn corrupt(error: &serde_json::Error) -> CredentialError {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it is cut off",
        serde_json::error::Category::Data => "a part of it is missing, unknown or of the wrong type",
        _ => "it is not JSON",
    };
    CredentialError::Corrupt { detail: format!("{what}, line {} column {}", error.line(), error.column()) }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    installed: Option<InstalledPart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enrolment: Option<EnrolmentPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstalledPart {
    token: SecretText,
    token_id: AgentTokenId,
    kind: CredentialKind,
    expires_at: Option<Timestamp>,
    host_id: HostId,
    tenant_id: TenantId,
    install_token_sha256: TokenHash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentPart {
    token: SecretText,
    install_token_sha256: TokenHash,
}

/// The text of a token, in the document only.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl SecretText {
    fn of(token: &PlainToken) -> Self {
        Self(token.expose().to_owned())
    }

    fn parse(&self) -> Result<PlainToken, CredentialError> {
        PlainToken::parse(&self.0, &[Prefix::AGENT, Prefix::REFRESH])
            .map_err(|error| CredentialError::Corrupt { detail: format!("the agent token: {error}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::SystemEntropy;

    fn record() -> Record {
        let token = || PlainToken::generate(Prefix::AGENT, &SystemEntropy);
        Record {
            installed: Some(Credential {
                token: token(),
                host_id: HostId::generate(Timestamp::MIN, &SystemEntropy),
                tenant_id: TenantId::new("acme").expect("a tenant"),
                token_id: AgentTokenId::generate(Timestamp::MIN, &SystemEntropy),
                kind: CredentialKind::Bearer,
                expires_at: Some(Timestamp::MAX),
                bought_with: token().hash(),
            }),
            enrolment: Some(PendingEnrolment { token: token(), install_token: token().hash() }),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let written = record();
        let read = Record::from_json(written.to_json().expose()).expect("a document");
        let (a, b) = (written.installed.expect("installed"), read.installed.expect("installed"));
        assert_eq!(a.token.hash(), b.token.hash());
        assert_eq!(
            (a.host_id, &a.tenant_id, a.token_id, a.kind, a.expires_at, a.bought_with),
            (b.host_id, &b.tenant_id, b.token_id, b.kind, b.expires_at, b.bought_with)
        );
        let (a, b) = (written.enrolment.expect("pending"), read.enrolment.expect("pending"));
        assert_eq!((a.token.hash(), a.install_token), (b.token.hash(), b.install_token));
    }

    /// Cut off anywhere, it is an error that quotes nothing of it.
    #[test]
    fn a_torn_document_is_an_error_at_every_length() {
        let record = record();
        let secret = record.installed.as_ref().expect("installed").token.expose().to_owned();
        let document = record.to_json();
        let whole = document.expose().trim_ascii_end();
        for length in 0..whole.len() {
            let error = Record::from_json(&whole[..length]).expect_err("it is torn");
            assert!(matches!(error, CredentialError::Corrupt { .. }), "{length}: {error:?}");
            assert!(!format!("{error} {error:?}").contains(&secret[..12]));
        }
    }

    #[test]
    fn a_changed_secret_is_an_error_that_does_not_show_it() {
        let record = record();
        let secret = record.installed.as_ref().expect("installed").token.expose().to_owned();
        let text = String::from_utf8(record.to_json().expose().to_vec()).expect("UTF-8");
        let error = Record::from_json(text.replace(&secret[4..10], "AAAAAA").as_bytes()).expect_err("changed");
        assert!(matches!(error, CredentialError::Corrupt { .. }));
        assert!(!format!("{error} {error:?}").contains(&secret[12..40]));
        // serde would quote this one: the secret where a number belongs.
        let error = Record::from_json(format!("{{\"version\":\"{secret}\"}}").as_bytes()).expect_err("no version");
        assert!(!format!("{error} {error:?}").contains(&secret));
    }

    #[test]
    fn a_later_format_is_refused_rather_than_cut_down() {
        let later = br#"{"version":2,"installed":{},"successor":{}}"#;
        assert!(matches!(Record::from_json(later), Err(CredentialError::UnsupportedVersion { found: 2, .. })));
        let text = String::from_utf8(record().to_json().expose().to_vec()).expect("UTF-8");
        let grown = text.replacen('{', "{\"successor\":{},", 1);
        assert!(matches!(Record::from_json(grown.as_bytes()), Err(CredentialError::Corrupt { .. })));
    }
}
