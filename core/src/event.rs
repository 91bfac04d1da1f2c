//! What happened, to whom, when, and why: appended in the commit of the change itself. Never a secret.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent_token::{CredentialKind, RevokeReason, TokenName};
use crate::clock::Timestamp;
use crate::host::{HostField, HostKind, HostName, Status};
use crate::id::{ActorId, AgentTokenId, EventId, HostId, InstallTokenId, LineageId, TenantId};
use crate::lineage::Overlap;

/// The place of an event in the one order of all events: the order in which they were committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// Takes a position that a store gave.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The position as a number, to store it.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Position {
    type Err = std::num::TryFromIntError;

    /// Up to 2⁶³ - 1: databases count with a sign.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = text.parse::<i64>().unwrap_or(-1);
        u64::try_from(position).map(Self)
    }
}

/// An event that was committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Given by the store, last in the transaction.
    pub position: Position,
    /// What happened.
    pub event: NewEvent,
}

/// An event on its way into a commit.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Its identity.
    pub id: EventId,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Whose host or token it concerns.
    pub tenant_id: TenantId,
    /// Which host it concerns, if one.
    pub host_id: Option<HostId>,
    /// That host's kind, so that a policy's scope can be applied to events as it is to hosts.
    pub host_kind: Option<HostKind>,
    /// Who asked for it; absent when a host did it, or the server itself.
    pub actor: Option<ActorId>,
    /// What happened.
    pub body: EventBody,
}

/// What happened. On the wire and in stores it is a `type` and its `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[non_exhaustive]
pub enum EventBody {
    /// A host was created.
    #[serde(rename = "host.created")]
    HostCreated {
        /// Its name.
        name: HostName,
        /// Whose machine it is.
        kind: HostKind,
        /// The tenant's install token whose exchange made it, if one did; the actor is then who made the token.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        install_token_id: Option<InstallTokenId>,
    },
    /// What is said of a host was changed.
    #[serde(rename = "host.updated")]
    HostUpdated {
        /// Which fields. What they hold is the host's to tell: a label may be a secret of somebody's.
        fields: BTreeSet<HostField>,
    },
    /// New work is kept away from a host.
    #[serde(rename = "host.cordoned")]
    HostCordoned {},
    /// New work may come to a host again.
    #[serde(rename = "host.uncordoned")]
    HostUncordoned {},
    /// A host was taken out of service.
    #[serde(rename = "host.archived")]
    HostArchived {
        /// The agent tokens that this revoked.
        revoked: Vec<AgentTokenId>,
    },
    /// An install token bought a credential.
    #[serde(rename = "host.enrolled")]
    HostEnrolled {
        /// What was exchanged.
        install_token_id: InstallTokenId,
        /// What it bought.
        agent_token_id: AgentTokenId,
    },
    /// A host was heard for the first time, or again.
    #[serde(rename = "host.online")]
    HostOnline {
        /// Its presence before.
        was: Status,
    },
    /// A host was silent for longer than its liveness window.
    #[serde(rename = "host.unreachable")]
    HostUnreachable {
        /// Its last contact.
        last_seen_at: Timestamp,
        /// Many hosts fell silent at once, and this verdict was held back for as long as that is done: the cause may be
        /// between them and the server. Not written when it is not so.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        storm: bool,
    },
    /// A host was deleted.
    #[serde(rename = "host.deleted")]
    HostDeleted {
        /// Its name.
        name: HostName,
    },
    /// An install token was made.
    #[serde(rename = "install_token.minted")]
    InstallTokenMinted {
        /// Which.
        install_token_id: InstallTokenId,
        /// The kind of credential that it buys.
        credential_kind: CredentialKind,
        /// Until when it can be exchanged.
        expires_at: Timestamp,
    },
    /// An install token was taken back: by an administrator, or since another was made or the host archived.
    #[serde(rename = "install_token.revoked")]
    InstallTokenRevoked {
        /// Which.
        install_token_id: InstallTokenId,
    },
    /// A consumed install token was presented with another claim: somebody else may hold it. At most once an hour a
    /// token, with the number of attempts since the last one.
    #[serde(rename = "enrolment.contested")]
    EnrolmentContested {
        /// Which.
        install_token_id: InstallTokenId,
        /// How many attempts this stands for.
        attempts: u64,
    },
    /// An administrator issued an agent token.
    #[serde(rename = "agent_token.issued")]
    AgentTokenIssued {
        /// Which.
        agent_token_id: AgentTokenId,
        /// The lineage that it begins.
        lineage_id: LineageId,
        /// What people call it.
        name: Option<TokenName>,
    },
    /// An agent has proposed a successor of its token; it is in use from its first use on.
    #[serde(rename = "agent_token.proposed")]
    AgentTokenProposed {
        /// The successor.
        agent_token_id: AgentTokenId,
        /// The token that it will retire.
        predecessor: AgentTokenId,
    },
    /// An administrator has made a successor of an agent token.
    #[serde(rename = "agent_token.rotated")]
    AgentTokenRotated {
        /// The successor.
        agent_token_id: AgentTokenId,
        /// The token that it follows.
        predecessor: AgentTokenId,
        /// Whether that one works until the first use, or was cut off.
        overlap: Overlap,
    },
    /// A successor that was never used has yielded to another: the agent lost it, or two hold the credential.
    #[serde(rename = "rotation.displaced")]
    RotationDisplaced {
        /// The successor that is refused from now on.
        agent_token_id: AgentTokenId,
        /// The one that took its place.
        by: AgentTokenId,
    },
    /// A second successor was proposed while another waits: two hold the credential, or a disk was set back. At most
    /// once an hour a token, with the number of proposals since the last one.
    #[serde(rename = "rotation.conflict")]
    RotationConflict {
        /// The token that it was proposed with.
        agent_token_id: AgentTokenId,
        /// How many proposals this stands for.
        attempts: u64,
    },
    /// A token that its own agent had retired was presented again: two hold the credential. At most once an hour a
    /// token, with the number of requests since the last one.
    #[serde(rename = "agent_token.reuse_detected")]
    AgentTokenReuseDetected {
        /// The retired token.
        agent_token_id: AgentTokenId,
        /// Its lineage.
        lineage_id: LineageId,
        /// How many requests this stands for.
        attempts: u64,
    },
    /// An agent token was used for the first time.
    #[serde(rename = "agent_token.promoted")]
    AgentTokenPromoted {
        /// Which.
        agent_token_id: AgentTokenId,
        /// The token that it retired.
        retired: Option<AgentTokenId>,
    },
    /// An agent token was cut off.
    #[serde(rename = "agent_token.revoked")]
    AgentTokenRevoked {
        /// Which.
        agent_token_id: AgentTokenId,
        /// Why.
        reason: RevokeReason,
    },
    /// An event of a later version of Enlist.
    #[serde(untagged)]
    Other {
        /// Its type.
        r#type: String,
        /// Its data.
        data: Value,
    },
}

impl EventBody {
    /// The `type` and the `data`: the two columns of a store.
    pub fn into_parts(self) -> (String, Value) {
        if let Self::Other { r#type, data } = self {
            return (r#type, data);
        }
        let tagged = serde_json::to_value(self).expect("an event body has string keys only, so it is JSON");
        match tagged {
            Value::Object(mut parts) => match (parts.remove("type"), parts.remove("data")) {
                (Some(Value::String(name)), data) => (name, data.unwrap_or(Value::Null)),
                _ => unreachable!("adjacently tagged enums serialize to type and data"),
            },
            _ => unreachable!("adjacently tagged enums serialize to an object"),
        }
    }

    /// Reads [`EventBody::into_parts`]. What this version does not know is [`EventBody::Other`].
    pub fn from_parts(r#type: String, data: Value) -> Self {
        let tagged = serde_json::json!({ "type": r#type, "data": data });
        serde_json::from_value(tagged).unwrap_or(Self::Other { r#type, data })
    }
}
