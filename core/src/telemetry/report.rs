//! The report: one machine and its containers at one moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::container::Container;
use crate::wire::{known, or_default};

/// What an agent sends. Unknown fields are ignored, so that newer agents can talk to older servers. What may be left out may as
/// well be `null`, which means the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it was measured, by the agent's clock; with the host it is the report's identity. An agent never gives two
    /// reports the same time.
    pub recorded_at: Timestamp,
    /// The machine.
    pub host: HostReport,
    /// Its containers, at most [`MAX_CONTAINERS`](super::MAX_CONTAINERS), each once.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// Whether `containers` is all there are: then those that are missing from it are marked removed.
    #[serde(default, deserialize_with = "or_default")]
    pub containers_complete: bool,
    /// The agent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentReport>,
}

/// The machine, in a report.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HostReport {
    /// What rarely changes. Only what is present replaces what is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
    /// What is measured.
    pub metrics: HostMetrics,
    /// The embedding service's own numbers: at most [`MAX_CUSTOM`](super::MAX_CUSTOM), named `[a-z0-9_]{1,64}`, finite.
    /// One that is `null` is left out.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, f64>,
}

/// What rarely changes about a machine. Texts are at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct HostFacts {
    /// Logical CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    /// Installed memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// All local disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
    /// As in "Debian GNU/Linux 12".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// As in "x86_64".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Of the Docker engine, if one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    /// Of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Changes at every boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

impl HostFacts {
    /// Takes over what `newer` knows; says whether that changed anything.
    pub fn merge(&mut self, newer: &Self) -> bool {
        fn take<T: PartialEq + Clone>(known: &mut Option<T>, newer: &Option<T>) -> bool {
            let changed = newer.is_some() && known != newer;
            if changed {
                known.clone_from(newer);
            }
            changed
        }
        // Not `||`: every field is taken, whether or not one before it changed.
        take(&mut self.cpu_count, &newer.cpu_count)
            | take(&mut self.memory_total_bytes, &newer.memory_total_bytes)
            | take(&mut self.disk_total_bytes, &newer.disk_total_bytes)
            | take(&mut self.os, &newer.os)
            | take(&mut self.kernel, &newer.kernel)
            | take(&mut self.arch, &newer.arch)
            | take(&mut self.docker_version, &newer.docker_version)
            | take(&mut self.agent_version, &newer.agent_version)
            | take(&mut self.boot_id, &newer.boot_id)
    }
}

/// What is measured about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct HostMetrics {
    /// 0–100 of the whole machine, since the report before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Load average over one minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_1m: Option<f64>,
    /// Over five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_5m: Option<f64>,
    /// Over fifteen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_15m: Option<f64>,
    /// Without caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// In use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_used_bytes: Option<u64>,
    /// Configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_total_bytes: Option<u64>,
    /// Over all local disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<u64>,
    /// Over all local disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
    /// A counter, over all but the loopback interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_rx_bytes: Option<u64>,
    /// A counter, over all but the loopback interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_tx_bytes: Option<u64>,
    /// Since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentReport {
    /// Its version. At most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Reports that wait on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spooled: Option<u64>,
    /// Reports that it had to drop, ever. A counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_total: Option<u64>,
}
