//! Bodies about agent tokens.

use serde::{Deserialize, Serialize, Serializer};

use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin, RevokeReason, TokenName};
use crate::clock::Timestamp;
use crate::id::{AgentTokenId, HostId, LineageId, TenantId};
use crate::lineage::Overlap;
use crate::secret::{AccessToken, PlainToken, TokenHash};

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

/// `POST /v1/hosts/{host_id}/tokens/{token_id}/rotate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateAgentToken {
    /// For how long the rotated token still works.
    pub overlap: Overlap,
}

/// An agent token in a list. Never its secret, nor its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentTokenBody {
    /// Its public identity.
    pub id: AgentTokenId,
    /// What people call it.
    pub name: Option<TokenName>,
    /// What it is presented for.
    pub kind: CredentialKind,
    /// Where it stands.
    pub status: AgentTokenStatus,
    /// How it came to be.
    pub origin: TokenOrigin,
    /// The line of successors that it stands in.
    pub lineage_id: LineageId,
    /// The token that it follows, if one.
    pub predecessor: Option<AgentTokenId>,
    /// The token that it was retired for, or yielded to.
    pub successor: Option<AgentTokenId>,
    /// Why it was revoked, if it was.
    pub revoked_for: Option<RevokeReason>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was retired, displaced or revoked.
    pub ended_at: Option<Timestamp>,
    /// When it last proved the host, by the server's clock; up to a minute late.
    pub last_used_at: Option<Timestamp>,
    /// From when on it is refused, if ever. One that was not given a time gets it with its first use.
    pub expires_at: Option<Timestamp>,
}

/// What the wire calls the state of an agent token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentTokenStatus {
    /// Never presented yet.
    Pending,
    /// In use.
    Active,
    /// Pending or Active, and its time is over.
    Expired,
    /// Its successor was presented.
    Retired,
    /// It yielded to another successor.
    Displaced,
    /// Cut off.
    Revoked,
    /// A status of a later version.
    #[serde(other)]
    Unknown,
}

/// What the wire calls the origin of an agent token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenOrigin {
    /// Bought with an install token.
    Exchange,
    /// Issued by an administrator.
    Issued,
    /// Proposed by the agent as a successor.
    Proposed,
    /// Made by an administrator as a successor.
    Rotated,
    /// An origin of a later version.
    #[serde(other)]
    Unknown,
}

impl AgentTokenBody {
    /// How a token looks at `now`.
    pub fn of(token: AgentToken, last_used_at: Option<Timestamp>, now: Timestamp) -> Self {
        let expired = token.is_live() && token.is_expired(now);
        let (status, ended_at, successor, revoked_for) = match token.state {
            _ if expired => (AgentTokenStatus::Expired, None, None, None),
            AgentTokenState::Pending => (AgentTokenStatus::Pending, None, None, None),
            AgentTokenState::Active { .. } => (AgentTokenStatus::Active, None, None, None),
            AgentTokenState::Retired { at, successor, .. } => {
                (AgentTokenStatus::Retired, Some(at), Some(successor), None)
            }
            AgentTokenState::Displaced { at, by } => (AgentTokenStatus::Displaced, Some(at), Some(by), None),
            AgentTokenState::Revoked { at, reason } => (AgentTokenStatus::Revoked, Some(at), None, Some(reason)),
        };
        let origin = match token.origin {
            Origin::Exchange(_) => TokenOrigin::Exchange,
            Origin::Issued(_) => TokenOrigin::Issued,
            Origin::Proposed { .. } => TokenOrigin::Proposed,
            Origin::Rotated { .. } => TokenOrigin::Rotated,
        };
        Self {
            id: token.id,
            predecessor: token.origin.predecessor(),
            name: token.name,
            kind: token.kind,
            status,
            origin,
            lineage_id: token.lineage_id,
            successor,
            revoked_for,
            created_at: token.created_at,
            ended_at,
            last_used_at,
            expires_at: token.expires_at,
        }
    }
}

/// 200 of `DELETE /v1/hosts/{host_id}/tokens`: everything of the host was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedAgentTokens {
    /// The tokens that could still act until now.
    pub revoked: Vec<AgentTokenId>,
}

/// `POST /v1/agent/token/rotate`. An empty body asks the server to draw the successor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposeAgentToken {
    /// SHA-256 of the successor that the agent has drawn and stored: then no reply carries a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<TokenHash>,
}

/// 200 of `POST /v1/agent/token/rotate`: the successor is accepted, and its first use retires what it follows. Reading
/// it back leaves a secret out: an agent draws its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProposedAgentToken {
    /// The successor's public identity.
    pub id: AgentTokenId,
    /// The secret, when the server drew it.
    #[serde(serialize_with = "exposed_if_any", skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub token: Option<PlainToken>,
    /// `pending`: it was never presented yet; `used` when this repeats a proposal whose successor is in use.
    pub state: ProposedState,
}

/// Where an accepted successor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProposedState {
    /// Never presented yet.
    Pending,
    /// It was presented, and has retired what it follows.
    Used,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

/// `POST /v1/agent/token/refresh`. An empty body asks for an access token, and no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshAccessToken {
    /// Proposes a successor of the refresh token along with it, as `POST /v1/agent/token/rotate` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<TokenHash>,
    /// Asks the server to draw that successor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
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
    /// Whether the agent shall rotate its credential now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// 200 of `POST /v1/agent/token/refresh`: what a refresh token bought.
#[derive(Debug, Serialize)]
pub struct RefreshReply {
    /// The signed token, for other services.
    #[serde(serialize_with = "exposed_access_token")]
    pub access_token: AccessToken,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// The successor of the refresh token, when the server drew it.
    #[serde(serialize_with = "exposed_if_any", skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<PlainToken>,
    /// Whether the agent shall rotate its refresh token now: replies to what it does with the access token do not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
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

fn exposed_access_token<S: Serializer>(token: &AccessToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_shows_its_secrets_in_the_reply_only() {
        let token = PlainToken::generate(crate::secret::Prefix::REFRESH, &crate::SystemEntropy);
        let (shown, secret) = (token.expose().to_owned(), "eyJ.canary.x".to_owned());
        let mut reply = RefreshReply {
            access_token: AccessToken::from(zeroize::Zeroizing::new(secret)),
            expires_at: Timestamp::MIN,
            refresh_token: None,
            rotate: false,
        };
        let json = r#"{"access_token":"eyJ.canary.x","expires_at":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        reply.refresh_token = Some(token);
        let json = json.replace('}', &format!(r#","refresh_token":"{shown}"}}"#));
        assert_eq!(serde_json::to_string(&reply).unwrap(), json);
        let debug = format!("{reply:?}");
        assert!(!debug.contains("canary") && !debug.contains(&shown), "{debug}");
    }
}
