//! A container of a host, as its agent describes it.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::wire::{known, or_default};

/// What an agent says of a container. Unknown is absent, never a made-up zero.
///
/// The bounds of its texts are checked with the report that it comes in, so that the error can name the field.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Container {
    /// The engine's id of it: unique on its host. 1–128 bytes, and neither `.` nor `..`: it stands in paths.
    pub container_id: String,
    /// 1–255 bytes.
    pub name: String,
    /// The image without its tag. 1–512 bytes.
    pub image: String,
    /// At most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tag: Option<String>,
    /// As the engine calls it: `running`, `exited`, … 1–32 bytes.
    pub state: String,
    /// As the engine calls it: `healthy`, `unhealthy`, … At most 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// How often the engine restarted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// Of its last end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Whether the kernel ended it for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
    /// At most 64.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// At most 64; keys up to 128 bytes, values up to 1,024. One that is `null` is left out.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// By the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// By the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// What the engine says went wrong. At most 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it uses; absent when it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<ContainerMetrics>,
}

/// A port that a container publishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Port {
    /// Inside the container.
    pub container_port: u16,
    /// On the host, if it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The address that it is published on. At most 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// `tcp`, `udp` or `sctp`. At most 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What a container uses. Sizes in bytes, counters since its start; unknown is `null`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerMetrics {
    /// Cores in use: 1.5 is one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<f64>,
    /// Without the page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Its limit, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// A counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_rx_bytes: Option<u64>,
    /// A counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_tx_bytes: Option<u64>,
    /// A counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_read_bytes: Option<u64>,
    /// A counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_write_bytes: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl ContainerMetrics {
    /// Its numbers that are counts, by name and in the order of the fields: all but `cpu_cores`.
    pub const fn counts(&self) -> [(&'static str, Option<u64>); 7] {
        // Taken apart, so that a field that is added cannot be forgotten here.
        let Self {
            cpu_cores: _,
            memory_used_bytes,
            memory_limit_bytes,
            network_rx_bytes,
            network_tx_bytes,
            block_read_bytes,
            block_write_bytes,
            pids,
        } = *self;
        [
            ("memory_used_bytes", memory_used_bytes),
            ("memory_limit_bytes", memory_limit_bytes),
            ("network_rx_bytes", network_rx_bytes),
            ("network_tx_bytes", network_tx_bytes),
            ("block_read_bytes", block_read_bytes),
            ("block_write_bytes", block_write_bytes),
            ("pids", pids),
        ]
    }
}

/// What is said of a container, whatever it uses: what its row keeps.
#[derive(PartialEq, Eq, Hash)]
struct Description<'a> {
    container_id: &'a str,
    name: &'a str,
    image: &'a str,
    image_tag: Option<&'a str>,
    state: &'a str,
    health: Option<&'a str>,
    restarts: Option<u64>,
    exit_code: Option<i64>,
    oom_killed: Option<bool>,
    ports: &'a [Port],
    labels: &'a BTreeMap<String, String>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    error: Option<&'a str>,
}

impl Container {
    /// Whether its agent last said that it runs.
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Whether the two say the same of the container, whatever it uses: then its row need not be rewritten.
    pub fn describes_same(&self, other: &Self) -> bool {
        self.description() == other.description()
    }

    /// Hashes what is said of the container: the same for two that [describe the same](Self::describes_same).
    pub fn hash_description(&self, state: &mut impl Hasher) {
        self.description().hash(state);
    }

    fn description(&self) -> Description<'_> {
        // Taken apart, so that a field that is added cannot be forgotten here.
        let Self {
            container_id,
            name,
            image,
            image_tag,
            state,
            health,
            restarts,
            exit_code,
            oom_killed,
            ports,
            labels,
            started_at,
            finished_at,
            error,
            metrics: _,
        } = self;
        Description {
            container_id,
            name,
            image,
            image_tag: image_tag.as_deref(),
            state,
            health: health.as_deref(),
            restarts: *restarts,
            exit_code: *exit_code,
            oom_killed: *oom_killed,
            ports,
            labels,
            started_at: *started_at,
            finished_at: *finished_at,
            error: error.as_deref(),
        }
    }
}
