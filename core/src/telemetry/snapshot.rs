//! What is kept of a report: one row for the machine, one for each container that was measured.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::container::ContainerMetrics;
use crate::telemetry::report::{AgentReport, HostMetrics, Report};

/// A stored report. Its identity is the host and `recorded_at`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSnapshot {
    /// When it was measured, by the agent's clock.
    pub recorded_at: Timestamp,
    /// When it arrived, by the server's clock.
    pub received_at: Timestamp,
    /// The machine's numbers.
    pub metrics: HostMetrics,
    /// The embedding service's own numbers.
    pub custom: BTreeMap<String, f64>,
    /// The agent itself.
    pub agent: Option<AgentReport>,
    /// The containers that were measured, by `container_id`.
    pub containers: Vec<ContainerSnapshot>,
}

/// A container's numbers in a stored report.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSnapshot {
    /// The engine's id of it.
    pub container_id: String,
    /// Its numbers.
    pub metrics: ContainerMetrics,
}

impl HostSnapshot {
    /// What is kept of `report`, which arrived at `received_at`.
    pub fn of(report: &Report, received_at: Timestamp) -> Self {
        let mut containers: Vec<_> = report
            .containers
            .iter()
            .filter_map(|container| {
                let metrics = container.metrics?;
                Some(ContainerSnapshot { container_id: container.container_id.clone(), metrics })
            })
            .collect();
        containers.sort_unstable_by(|a, b| a.container_id.cmp(&b.container_id));
        Self {
            recorded_at: report.recorded_at,
            received_at,
            metrics: report.host.metrics,
            custom: report.host.custom.clone(),
            agent: report.agent.clone(),
            containers,
        }
    }

    /// Whether `report` would be kept as this very snapshot: then it is a repeat, otherwise a conflict. When it
    /// arrived does not matter, and neither does what is not kept.
    pub fn repeats(&self, report: &Report) -> bool {
        *self == Self::of(report, self.received_at)
    }
}
