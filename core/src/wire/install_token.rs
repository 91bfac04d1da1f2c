//! Bodies about install tokens.

use serde::{Deserialize, Serialize};

use crate::agent_token::CredentialKind;
use crate::clock::Timestamp;
use crate::host::{ExternalId, HostName};
use crate::id::{ActorId, AgentTokenId, HostId, InstallTokenId, TenantId};
use crate::install_token::{InstallToken, InstallTokenState, InstallTokenStatus};
use crate::secret::{IdempotencyKey, PlainToken, TokenHash};
use crate::telemetry::HostFacts;
use crate::wire::agent_token::exposed;

/// `POST /v1/hosts/{host_id}/install-tokens` and `POST /v1/tenants/{tenant_id}/install-tokens`. An empty body means the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MintInstallToken {
    /// The kind of credential that it buys; `bearer` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_kind: Option<CredentialKind>,
    /// Until when it can be exchanged: 15 minutes from now by default, 30 days at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An install token, shown this once.
#[derive(Debug, Serialize)]
pub struct MintedInstallToken {
    /// Its public identity.
    pub id: InstallTokenId,
    /// The secret.
    #[serde(serialize_with = "exposed")]
    pub token: PlainToken,
    /// Until when it can be exchanged.
    pub expires_at: Timestamp,
}

/// An install token in a list. Never its secret, nor its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallTokenBody {
    /// Its public identity.
    pub id: InstallTokenId,
    /// Where it stands, expiry included.
    pub status: InstallTokenStatus,
    /// The kind of credential that it buys.
    pub credential_kind: CredentialKind,
    /// Who made it.
    pub created_by: ActorId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it can be exchanged.
    pub expires_at: Timestamp,
    /// When it was exchanged or revoked.
    pub ended_at: Option<Timestamp>,
    /// What it bought, if it was exchanged.
    pub agent_token_id: Option<AgentTokenId>,
}

impl InstallTokenBody {
    /// How a token looks at `now`.
    pub fn of(token: InstallToken, now: Timestamp) -> Self {
        let (ended_at, agent_token_id) = match token.state {
            InstallTokenState::Issued => (None, None),
            InstallTokenState::Consumed { at, agent_token, .. } => (Some(at), Some(agent_token)),
            InstallTokenState::Revoked { at } => (Some(at), None),
        };
        Self {
            id: token.id,
            status: token.status(now),
            credential_kind: token.credential_kind,
            created_by: token.created_by,
            created_at: token.created_at,
            expires_at: token.expires_at,
            ended_at,
            agent_token_id,
        }
    }
}

/// `POST /v1/install-tokens/exchange`. Its `Debug` shows no secret.
#[derive(Deserialize)]
pub struct ExchangeRequest {
    /// The secret that the administrator gave.
    pub install_token: String,
    /// SHA-256 of the agent token that the client has drawn and stored: then no reply carries a secret.
    #[serde(default)]
    pub claim: Option<TokenHash>,
    /// What is known of the machine.
    #[serde(default)]
    pub facts: Option<HostFacts>,
    /// For tenant-bound install tokens: the host to find or make.
    #[serde(default)]
    pub host: Option<ProposedHost>,
    /// The header `Idempotency-Key`, for an exchange without a claim: the same key is answered with the same secret, until
    /// that is first used. Without a key and a claim, a reply that is lost needs a new install token.
    #[serde(skip)]
    pub idempotency_key: Option<IdempotencyKey>,
}

impl std::fmt::Debug for ExchangeRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeRequest")
            .field("install_token", &"redacted")
            .field("claim", &self.claim)
            .field("facts", &self.facts)
            .field("host", &self.host)
            .finish()
    }
}

impl Drop for ExchangeRequest {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.install_token);
    }
}

/// The host that a tenant-bound exchange finds or makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposedHost {
    /// Its name, if it is made; without one the server makes one up. Unique among the tenant's unarchived hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<HostName>,
    /// What it is found by: only among the hosts that such exchanges made, and that hold no credential any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<ExternalId>,
}

/// 200 of an exchange.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExchangeReply {
    /// Who the agent is from now on.
    pub host_id: HostId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Its credential.
    pub agent_token: ExchangedToken,
}

/// The credential that an exchange bought. Reading it back leaves a secret out: an agent draws its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExchangedToken {
    /// Its public identity.
    pub id: AgentTokenId,
    /// What it is presented for.
    pub kind: CredentialKind,
    /// The secret, when the server drew it.
    #[serde(
        serialize_with = "crate::wire::agent_token::exposed_if_any",
        skip_serializing_if = "Option::is_none",
        skip_deserializing
    )]
    pub token: Option<PlainToken>,
    /// From when on it is refused, if ever.
    pub expires_at: Option<Timestamp>,
}
