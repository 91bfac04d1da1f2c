//! Records: what stands in the rows, as JSON.
//!
//! Core's entities do not serialise themselves, so that their layout on a disk is each store's own. Here serde's `remote`
//! derives copy their fields: one that core adds does not compile until somebody has decided what it is in old files.

use std::collections::{BTreeMap, BTreeSet};

use enlist_core::agent_token::{
    AgentToken, AgentTokenState, CredentialKind, Origin, RetiredBy, RevokeReason, TokenName,
};
use enlist_core::container::{Container, ContainerMetrics};
use enlist_core::event::{Event, EventBody, NewEvent, Position};
use enlist_core::host::{
    ExternalId, Host, HostKind, HostName, LabelKey, LabelValue, Lifecycle, Placement, Presence, Tag,
};
use enlist_core::install_token::{Binding, Claim, InstallToken, InstallTokenState};
use enlist_core::liveness::LivenessWindow;
use enlist_core::store::{ContainerRecord, HostPresence, StoreErrorKind, Tombstone};
use enlist_core::telemetry::{AgentReport, ContainerSnapshot, HostFacts, HostMetrics, HostSnapshot};
use enlist_core::{ActorId, AgentTokenId, EventId, HostId, InstallTokenId, LineageId, TenantId, Timestamp, TokenHash};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// Reads a record. What serde says of it may quote it, so that is left out of the error.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|_| Failure::Record(std::any::type_name::<T>()))
}

/// Writes a record.
pub(crate) fn encode(record: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(record).map_err(|_| Failure::Refused(StoreErrorKind::Invalid))
}

/// A host under its revision.
#[derive(Serialize, Deserialize)]
pub(crate) struct HostRow {
    pub(crate) revision: u64,
    #[serde(with = "HostDef")]
    pub(crate) host: Host,
}

/// What a host shows of itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct PresenceRow {
    #[serde(with = "HostPresenceDef")]
    pub(crate) shown: HostPresence,
    /// When the newest complete report arrived.
    pub(crate) last_complete_at: Option<Timestamp>,
}

/// An install token. The revision counts only when it is an aggregate of its own.
#[derive(Serialize, Deserialize)]
pub(crate) struct InstallTokenRow {
    pub(crate) revision: u64,
    #[serde(with = "InstallTokenDef")]
    pub(crate) token: InstallToken,
}

/// An agent token.
#[derive(Serialize, Deserialize)]
pub(crate) struct AgentTokenRow(#[serde(with = "AgentTokenDef")] pub(crate) AgentToken);

/// What is left of an agent token.
#[derive(Serialize, Deserialize)]
pub(crate) struct TombstoneRow(#[serde(with = "TombstoneDef")] pub(crate) Tombstone);

/// A container, without what the newest report adds to it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRow(#[serde(with = "ContainerRecordDef")] pub(crate) ContainerRecord);

/// An event; its position is the key.
#[derive(Serialize, Deserialize)]
pub(crate) struct EventRow {
    id: EventId,
    at: Timestamp,
    tenant_id: TenantId,
    host_id: Option<HostId>,
    host_kind: Option<HostKind>,
    actor: Option<ActorId>,
    r#type: String,
    data: serde_json::Value,
}

impl EventRow {
    pub(crate) fn of(event: NewEvent) -> Self {
        let NewEvent { id, at, tenant_id, host_id, host_kind, actor, body } = event;
        let (r#type, data) = body.into_parts();
        Self { id, at, tenant_id, host_id, host_kind, actor, r#type, data }
    }

    pub(crate) fn is_of_type(&self, name: &str) -> bool {
        self.r#type == name
    }

    pub(crate) fn into_event(self, position: u64) -> Event {
        let Self { id, at, tenant_id, host_id, host_kind, actor, r#type, data } = self;
        let body = EventBody::from_parts(r#type, data);
        let event = NewEvent { id, at, tenant_id, host_id, host_kind, actor, body };
        Event { position: Position::new(position), event }
    }
}

/// A stored report.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotRow {
    recorded_at: Timestamp,
    received_at: Timestamp,
    metrics: HostMetrics,
    custom: BTreeMap<String, f64>,
    agent: Option<AgentReport>,
    containers: Vec<(String, ContainerMetrics)>,
}

impl From<HostSnapshot> for SnapshotRow {
    fn from(snapshot: HostSnapshot) -> Self {
        let HostSnapshot { recorded_at, received_at, metrics, custom, agent, containers } = snapshot;
        let containers = containers.into_iter().map(|container| (container.container_id, container.metrics)).collect();
        Self { recorded_at, received_at, metrics, custom, agent, containers }
    }
}

impl From<SnapshotRow> for HostSnapshot {
    fn from(row: SnapshotRow) -> Self {
        let SnapshotRow { recorded_at, received_at, metrics, custom, agent, containers } = row;
        let container = |(container_id, metrics)| ContainerSnapshot { container_id, metrics };
        let containers = containers.into_iter().map(container).collect();
        Self { recorded_at, received_at, metrics, custom, agent, containers }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Host")]
struct HostDef {
    id: HostId,
    tenant_id: TenantId,
    kind: HostKind,
    name: HostName,
    external_id: Option<ExternalId>,
    provider: Option<Placement>,
    availability_zone: Option<Placement>,
    address: Option<Placement>,
    tags: BTreeSet<Tag>,
    labels: BTreeMap<LabelKey, LabelValue>,
    liveness_window: Option<LivenessWindow>,
    cordoned: bool,
    #[serde(with = "LifecycleDef")]
    lifecycle: Lifecycle,
    generation: u64,
    enrolled_at: Option<Timestamp>,
    made_with: Option<InstallTokenId>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Lifecycle")]
enum LifecycleDef {
    Live,
    Archived { at: Timestamp },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "HostPresence")]
struct HostPresenceDef {
    #[serde(with = "PresenceDef")]
    presence: Presence,
    facts: HostFacts,
    newest_report_at: Option<Timestamp>,
    containers_version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Presence")]
enum PresenceDef {
    Pending,
    Online { last_seen_at: Timestamp },
    Unreachable { last_seen_at: Timestamp, since: Timestamp },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "InstallToken")]
struct InstallTokenDef {
    id: InstallTokenId,
    tenant_id: TenantId,
    #[serde(with = "BindingDef")]
    binding: Binding,
    hash: TokenHash,
    credential_kind: CredentialKind,
    #[serde(with = "InstallTokenStateDef")]
    state: InstallTokenState,
    created_by: ActorId,
    created_at: Timestamp,
    expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Binding")]
enum BindingDef {
    Host(HostId),
    Tenant,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "InstallTokenState")]
enum InstallTokenStateDef {
    Issued,
    Consumed {
        #[serde(with = "ClaimDef")]
        claim: Claim,
        at: Timestamp,
        agent_token: AgentTokenId,
    },
    Revoked {
        at: Timestamp,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Claim")]
enum ClaimDef {
    Client(TokenHash),
    Server { idempotency_key_hash: Option<TokenHash> },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AgentToken")]
struct AgentTokenDef {
    id: AgentTokenId,
    host_id: HostId,
    lineage_id: LineageId,
    hash: TokenHash,
    kind: CredentialKind,
    name: Option<TokenName>,
    #[serde(with = "OriginDef")]
    origin: Origin,
    #[serde(with = "AgentTokenStateDef")]
    state: AgentTokenState,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Origin")]
enum OriginDef {
    Exchange(InstallTokenId),
    Issued(ActorId),
    Proposed { predecessor: AgentTokenId },
    Rotated { predecessor: AgentTokenId, by: ActorId },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AgentTokenState")]
enum AgentTokenStateDef {
    Pending,
    Active { since: Timestamp },
    Retired { at: Timestamp, successor: AgentTokenId, by: RetiredBy },
    Displaced { at: Timestamp, by: AgentTokenId },
    Revoked { at: Timestamp, reason: RevokeReason },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Tombstone")]
struct TombstoneDef {
    token_id: AgentTokenId,
    host_id: HostId,
    deleted_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ContainerRecord")]
struct ContainerRecordDef {
    container: Container,
    first_seen_at: Timestamp,
    last_seen_at: Timestamp,
    removed_at: Option<Timestamp>,
}
