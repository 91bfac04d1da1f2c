//! The JSON of the credential document. Version 2 is written; 1, which knew no rotation, is read as well.

use std::sync::Arc;

use enlist_core::agent_token::CredentialKind;
use enlist_core::{AgentTokenId, HostId, TenantId, Timestamp, TokenHash};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Credential, Facts, PendingEnrolment, Record, SecretBytes};
use crate::agent_token::AgentToken;
use crate::error::CredentialError;
use crate::keyring::{Durable, Successor};

const VERSION: u64 = 2;
const WITHOUT_ROTATION: u64 = 1;

pub(super) fn write(record: &Record) -> SecretBytes {
    let document = Document {
        version: VERSION,
        installed: record.installed.as_ref().map(InstalledPart::of),
        enrolment: record.enrolment.as_ref().map(|pending| EnrolmentPart {
            token: SecretText::of(&pending.token),
            install_token_sha256: pending.install_token,
        }),
        delivered: record.trying.as_deref().map(SecretText::of),
        delivered_sha256: record.delivered,
    };
    // Room for all of it, so that growing leaves no copy of a secret behind.
    let mut json = Vec::with_capacity(4 * 1024);
    serde_json::to_writer_pretty(&mut json, &document).expect("the document has string keys only, so it is JSON");
    json.push(b'\n');
    SecretBytes::new(json)
}

pub(super) fn read(json: &[u8]) -> Result<Record, CredentialError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let Version { version } = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
    if !(WITHOUT_ROTATION..=VERSION).contains(&version) {
        return Err(CredentialError::UnsupportedVersion { found: version, supported: VERSION });
    }
    let document: Document = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
    if version == WITHOUT_ROTATION && !document.fits_version_1() {
        return Err(CredentialError::Corrupt { detail: "a part of it is missing, or not of its version".into() });
    }
    let installed = document.installed.map(InstalledPart::into_credential).transpose()?;
    let enrolment = match document.enrolment {
        Some(part) => Some(PendingEnrolment { token: part.token.parse()?, install_token: part.install_token_sha256 }),
        None => None,
    };
    let trying = document.delivered.map(|text| text.parse()).transpose()?;
    let record = Record { installed, enrolment, trying, delivered: document.delivered_sha256 };
    let is_empty = record.installed.is_none() && record.enrolment.is_none();
    if is_empty && record.trying.is_none() && record.delivered.is_none() {
        return Err(CredentialError::Corrupt { detail: "it holds neither a credential nor an enrolment".into() });
    }
    Ok(record)
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
    /// Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivered: Option<SecretText>,
    /// Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivered_sha256: Option<TokenHash>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstalledPart {
    token: SecretText,
    token_id: AgentTokenId,
    kind: CredentialKind,
    expires_at: Option<Timestamp>,
    /// Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    obtained_at: Option<Timestamp>,
    host_id: HostId,
    tenant_id: TenantId,
    /// Optional since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    install_token_sha256: Option<TokenHash>,
    /// Those before it. Since version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier_install_tokens_sha256: Vec<TokenHash>,
    /// Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<SuccessorPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SuccessorPart {
    token: SecretText,
    refused: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentPart {
    token: SecretText,
    install_token_sha256: TokenHash,
}

impl Document {
    fn fits_version_1(&self) -> bool {
        self.delivered.is_none()
            && self.delivered_sha256.is_none()
            && self.installed.as_ref().is_none_or(|part| {
                part.install_token_sha256.is_some()
                    && part.earlier_install_tokens_sha256.is_empty()
                    && part.obtained_at.is_none()
                    && part.successor.is_none()
            })
    }
}

impl InstalledPart {
    fn of(credential: &Credential) -> Self {
        let Credential { tokens, facts } = credential;
        let (last, earlier) =
            facts.spent.split_last().map_or((None, &[][..]), |(last, earlier)| (Some(*last), earlier));
        Self {
            token: SecretText::of(&tokens.current),
            token_id: facts.token_id,
            kind: facts.kind,
            expires_at: facts.expires_at,
            obtained_at: facts.obtained_at,
            host_id: facts.host_id,
            tenant_id: facts.tenant_id.clone(),
            install_token_sha256: last,
            earlier_install_tokens_sha256: earlier.to_vec(),
            successor: tokens
                .successor
                .as_ref()
                .map(|Successor { token, refused }| SuccessorPart { token: SecretText::of(token), refused: *refused }),
        }
    }

    fn into_credential(self) -> Result<Credential, CredentialError> {
        let successor = match self.successor {
            Some(part) => Some(Successor { token: part.token.parse()?, refused: part.refused }),
            None => None,
        };
        let facts = Facts {
            host_id: self.host_id,
            tenant_id: self.tenant_id,
            token_id: self.token_id,
            kind: self.kind,
            expires_at: self.expires_at,
            obtained_at: self.obtained_at,
            spent: self.earlier_install_tokens_sha256.into_iter().chain(self.install_token_sha256).collect(),
        };
        Ok(Credential { tokens: Durable { current: self.token.parse()?, successor }, facts })
    }
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
    fn of(token: &AgentToken) -> Self {
        Self(token.expose().to_owned())
    }

    fn parse(&self) -> Result<Arc<AgentToken>, CredentialError> {
        AgentToken::new(self.0.as_str())
            .map(Arc::new)
            .map_err(|error| CredentialError::Corrupt { detail: format!("the agent token: {error}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::secret::{PlainToken, Prefix};
    use enlist_core::{SystemEntropy, Timestamp};

    fn token() -> Arc<AgentToken> {
        Arc::new(PlainToken::generate(Prefix::AGENT, &SystemEntropy).into())
    }

    fn record() -> Record {
        Record {
            installed: Some(Credential {
                tokens: Durable { current: token(), successor: Some(Successor { token: token(), refused: true }) },
                facts: Facts {
                    host_id: HostId::generate(Timestamp::MIN, &SystemEntropy),
                    tenant_id: TenantId::new("acme").expect("a tenant"),
                    token_id: AgentTokenId::generate(Timestamp::MIN, &SystemEntropy),
                    kind: CredentialKind::Refresh,
                    expires_at: Some(Timestamp::MAX),
                    obtained_at: Some(Timestamp::MIN),
                    spent: vec![token().hash(), token().hash()],
                },
            }),
            enrolment: Some(PendingEnrolment { token: token(), install_token: token().hash() }),
            trying: Some(token()),
            delivered: Some(token().hash()),
        }
    }

    /// `Debug` shows hashes and facts whole enough, and tokens not at all.
    fn shape(record: &Record) -> String {
        let tokens = record.installed.iter().flat_map(|credential| {
            let successor = credential.tokens.successor.iter().map(|successor| successor.token.hash());
            successor.chain([credential.tokens.current.hash()])
        });
        let pending = record.enrolment.iter().map(|pending| pending.token.hash());
        let trying = record.trying.iter().map(|token| token.hash());
        format!("{record:?} {:?}", tokens.chain(pending).chain(trying).map(|hash| hash.to_hex()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_written_is_read_back_with_each_part_alone_too() {
        let whole = record();
        for written in [
            Record { enrolment: None, trying: None, delivered: None, ..whole.clone() },
            Record { installed: None, trying: None, delivered: None, ..whole.clone() },
            Record { installed: None, enrolment: None, trying: None, ..whole.clone() },
            Record { installed: None, enrolment: None, delivered: None, ..whole.clone() },
            whole,
        ] {
            assert_eq!(shape(&read(write(&written).expose()).expect("a document")), shape(&written));
        }
    }

    /// Cut off anywhere, it is an error that quotes nothing of it.
    #[test]
    fn a_torn_document_is_an_error_at_every_length() {
        let record = record();
        let secret = record.installed.as_ref().expect("installed").token().expose().to_owned();
        let document = write(&record);
        let whole = document.expose().trim_ascii_end();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).expect_err("it is torn");
            assert!(matches!(error, CredentialError::Corrupt { .. }), "{length}: {error:?}");
            assert!(!format!("{error} {error:?}").contains(&secret[..12]));
        }
    }

    #[test]
    fn a_changed_secret_is_an_error_that_does_not_show_it() {
        let record = record();
        let credential = record.installed.as_ref().expect("installed");
        let text = String::from_utf8(write(&record).expose().to_vec()).expect("UTF-8");
        let successor = &credential.tokens.successor.as_ref().expect("a successor").token;
        for secret in [credential.token().expose(), successor.expose()] {
            let error = read(text.replace(&secret[4..10], "AAAAAA").as_bytes()).expect_err("changed");
            assert!(matches!(error, CredentialError::Corrupt { .. }));
            assert!(!format!("{error} {error:?}").contains(&secret[12..40]));
        }
        // serde would quote this one: the secret where a number belongs.
        let secret = successor.expose();
        let error = read(format!("{{\"version\":\"{secret}\"}}").as_bytes()).expect_err("no version");
        assert!(!format!("{error} {error:?}").contains(secret));
    }

    #[test]
    fn a_later_format_is_refused_rather_than_cut_down() {
        let later = br#"{"version":3,"installed":{},"spare":{}}"#;
        assert!(matches!(read(later), Err(CredentialError::UnsupportedVersion { found: 3, supported: 2 })));
        let text = String::from_utf8(write(&record()).expose().to_vec()).expect("UTF-8");
        for part in ["{", "\"installed\": {", "\"successor\": {", "\"enrolment\": {"] {
            let grown = text.replacen(part, &format!("{part}\"spare\":{{}},"), 1);
            assert!(matches!(read(grown.as_bytes()), Err(CredentialError::Corrupt { .. })), "{part}");
        }
    }

    /// As version 0.1.0 wrote it, byte for byte but for the secret.
    fn version_1(secret: &str) -> String {
        let hash = token().hash().to_hex();
        format!(
            r#"{{
  "version": 1,
  "installed": {{
    "token": "{secret}",
    "token_id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "kind": "bearer",
    "expires_at": null,
    "host_id": "01890a5d-ac96-774b-bcce-000040000000",
    "tenant_id": "acme",
    "install_token_sha256": "{hash}"
  }}
}}
"#
        )
    }

    #[test]
    fn a_document_of_version_1_is_read() {
        let token = token();
        let document = version_1(token.expose());
        let credential = read(document.as_bytes()).expect("a document").installed.expect("installed");
        assert_eq!(credential.token().hash(), token.hash());
        assert!(!credential.is_rotating() && credential.facts.obtained_at.is_none());
        assert_eq!(credential.facts.spent.last().map(|hash| document.contains(&hash.to_hex())), Some(true));
    }

    /// It would have been dropped by what wrote version 1: so it cannot be whole.
    #[test]
    fn a_document_of_version_1_with_parts_of_version_2_is_damaged() {
        let document = version_1(token().expose());
        for part in
            ["\"obtained_at\": \"2026-11-01T12:00:00Z\",", "\"successor\": {\"token\": \"mdt_x\", \"refused\": false},"]
        {
            let grown = document.replace("\"kind\"", &format!("{part} \"kind\""));
            assert!(matches!(read(grown.as_bytes()), Err(CredentialError::Corrupt { .. })), "{grown}");
            assert!(read(grown.replace("\"version\": 1", "\"version\": 2").as_bytes()).is_ok());
        }
        let (before, _) = document.split_once(",\n    \"install_token_sha256\"").expect("it is the last part");
        let cut = format!("{before}}}}}");
        assert!(read(cut.replace("\"version\": 1", "\"version\": 2").as_bytes()).is_ok());
        assert!(matches!(read(cut.as_bytes()), Err(CredentialError::Corrupt { .. })));
    }
}
