//! Bodies about telemetry. The report itself is [`crate::telemetry::Report`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::container::ContainerMetrics;
use crate::telemetry::{AgentReport, ContainerSnapshot, HostMetrics, HostSnapshot};
use crate::wire::Code;

/// What became of a report that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReportStatus {
    /// It is stored, durably.
    Accepted,
    /// The same report was stored before; nothing was written.
    Duplicate,
    /// Another report of the same time was stored before; that one stays.
    Conflict,
    /// It was refused, and nothing of it written; only reports of a batch have this status.
    Rejected,
    /// A status of a later version.
    #[serde(other)]
    Unknown,
}

/// 200 of `POST /v1/agent/telemetry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetryReply {
    /// What became of it.
    pub status: ReportStatus,
    /// The server's clock.
    pub server_time: Timestamp,
    /// When to report next.
    pub next_report_in_ms: u64,
    /// Whether the agent shall rotate its credential now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// Two thirds of the liveness window, from *sending* this request by the agent's monotonic clock: when it ends
    /// without another acknowledgement, call off work.
    pub lease_ms: u64,
}

/// 200 of `POST /v1/agent/telemetry/batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReply {
    /// What became of each report, in the order of the request.
    pub results: Vec<BatchResult>,
    /// The server's clock.
    pub server_time: Timestamp,
    /// When to report next.
    pub next_report_in_ms: u64,
    /// As in [`TelemetryReply::rotate`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// As in [`TelemetryReply::lease_ms`].
    pub lease_ms: u64,
}

/// What became of a report of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    /// When it was measured; `null` if that could not be read.
    pub recorded_at: Option<Timestamp>,
    /// What became of it.
    pub status: ReportStatus,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// A JSON Pointer into the batch to what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// 200 of `POST /v1/agent/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The server's clock.
    pub server_time: Timestamp,
    /// When to report next.
    pub next_report_in_ms: u64,
    /// As in [`TelemetryReply::rotate`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
    /// As in [`TelemetryReply::lease_ms`].
    pub lease_ms: u64,
}

/// A stored report on the wire: `GET /v1/hosts/{host_id}/telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotBody {
    /// When it was measured, by the agent's clock.
    pub recorded_at: Timestamp,
    /// When it arrived, by the server's clock.
    pub received_at: Timestamp,
    /// The machine's numbers.
    pub metrics: HostMetrics,
    /// The embedding service's own numbers.
    pub custom: BTreeMap<String, f64>,
    /// The agent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentReport>,
    /// The containers that were measured.
    pub containers: Vec<ContainerSnapshotBody>,
}

/// A container's numbers in a stored report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSnapshotBody {
    /// The engine's id of it.
    pub container_id: String,
    /// Its numbers.
    pub metrics: ContainerMetrics,
}

impl From<HostSnapshot> for SnapshotBody {
    fn from(snapshot: HostSnapshot) -> Self {
        Self {
            recorded_at: snapshot.recorded_at,
            received_at: snapshot.received_at,
            metrics: snapshot.metrics,
            custom: snapshot.custom,
            agent: snapshot.agent,
            containers: snapshot.containers.into_iter().map(ContainerSnapshotBody::from).collect(),
        }
    }
}

impl From<ContainerSnapshot> for ContainerSnapshotBody {
    fn from(ContainerSnapshot { container_id, metrics }: ContainerSnapshot) -> Self {
        Self { container_id, metrics }
    }
}
