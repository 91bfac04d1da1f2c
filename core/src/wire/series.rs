//! Bodies about the course of numbers. [`crate::telemetry::Series`] says how a course is made of reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::telemetry::{ContainerSummaries, HostSummaries, Summary};
use crate::wire::SnapshotBody;

/// 200 of `GET /v1/hosts/{host_id}/telemetry?step`, with [`HostBucketBody`], and of
/// `GET /v1/hosts/{host_id}/containers/{container_id}/telemetry`, with [`ContainerBucketBody`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesBody<B> {
    /// How long a bucket is.
    pub step_seconds: u32,
    /// In the order of time; those in which nothing was measured are left out.
    pub items: Vec<B>,
    /// Absent (`null`) when this is the end of the range. Otherwise more reports were measured than are read for one answer;
    /// with the same range and step it asks for what follows.
    pub next_cursor: Option<String>,
}

/// What became of a machine's numbers within one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostBucketBody {
    /// Its beginning, a multiple of the step since 1970.
    pub start: Timestamp,
    /// How many reports were measured in it.
    pub reports: u64,
    /// The machine's numbers.
    pub metrics: HostSummaries,
    /// The embedding service's own numbers, of [`MAX_CUSTOM`](crate::telemetry::MAX_CUSTOM) names at most.
    pub custom: BTreeMap<String, Summary>,
}

/// What became of a container's numbers within one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerBucketBody {
    /// Its beginning, a multiple of the step since 1970.
    pub start: Timestamp,
    /// How many reports measured the container in it.
    pub reports: u64,
    /// Its numbers.
    pub metrics: ContainerSummaries,
}

/// 200 of `GET /v1/hosts/{host_id}/telemetry/latest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatestTelemetry {
    /// The server's clock.
    pub server_time: Timestamp,
    /// How long ago the report was measured; absent (`null`) without one. When the agent's clock is ahead, since it arrived.
    pub age_ms: Option<u64>,
    /// The stored report that was measured last; absent (`null`) when there is none.
    pub snapshot: Option<SnapshotBody>,
}
