//! Bodies about agent tokens.

use serde::{Deserialize, Serialize, Serializer};

use crate::agent_token::{CredentialKind, TokenName};
use crate::clock::Timestamp;
use crate::id::{AgentTokenId, HostId, TenantId};
use crate::secret::PlainToken;

/// `POST /v1/hosts/{host_id}/tokens`. An empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueAgentToken {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TokenName>,
    /// `bearer` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<CredentialKind>,
    /// Never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An agent token that an administrator issued, shown this once.
#[derive(Debug, Serialize)]
pub struct IssuedAgentToken {
    /// Its public identity.
    pub id: AgentTokenId,
    /// The secret.
    #[serde(serialize_with = "exposed")]
    pub token: PlainToken,
    /// What people call it.
    pub name: Option<TokenName>,
    /// What it is presented for.
    pub kind: CredentialKind,
    /// From when on it is refused, if ever.
    pub expires_at: Option<Timestamp>,
}

/// 200 of `GET /v1/agent/self`: who the presented credential is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSelf {
    /// Its host.
    pub host_id: HostId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The credential's public identity.
    pub token_id: AgentTokenId,
    /// What it is presented for.
    pub kind: CredentialKind,
    /// From when on it is refused, if ever.
    pub expires_at: Option<Timestamp>,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// The only place where a secret is written into a reply: the one that issues it.
pub(super) fn exposed<S: Serializer>(token: &PlainToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

pub(super) fn exposed_if_any<S: Serializer>(token: &Option<PlainToken>, serializer: S) -> Result<S::Ok, S::Error> {
    match token {
        Some(token) => exposed(token, serializer),
        None => serializer.serialize_none(),
    }
}
