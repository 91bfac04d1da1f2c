//! The body and its bounds: those of Enlist that cost something to check.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MAX_CONTAINERS: usize = 500;
const MAX_CUSTOM: usize = 32;
const MAX_PORTS: usize = 64;
const MAX_LABELS: usize = 64;
const HOUR: i64 = 3_600_000_000;
const FIVE_MINUTES: i64 = 300_000_000;

#[derive(Debug, Deserialize)]
struct Body {
    recorded_at: String,
    host: Host,
    #[serde(default)]
    containers: Vec<Container>,
    agent: Option<Agent>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Host {
    #[serde(default)]
    pub(super) facts: Facts,
    pub(super) metrics: HostMetrics,
    #[serde(default)]
    custom: BTreeMap<String, f64>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Facts {
    pub(super) cpu_count: Option<u32>,
    pub(super) memory_total_bytes: Option<u64>,
    pub(super) os: Option<String>,
    pub(super) kernel: Option<String>,
    pub(super) arch: Option<String>,
    pub(super) docker_version: Option<String>,
    pub(super) agent_version: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct HostMetrics {
    pub(super) cpu_percent: Option<f64>,
    pub(super) load_1m: Option<f64>,
    pub(super) load_5m: Option<f64>,
    pub(super) load_15m: Option<f64>,
    pub(super) memory_used_bytes: Option<u64>,
    pub(super) memory_total_bytes: Option<u64>,
    pub(super) swap_used_bytes: Option<u64>,
    pub(super) swap_total_bytes: Option<u64>,
    pub(super) disk_used_bytes: Option<u64>,
    pub(super) disk_total_bytes: Option<u64>,
    pub(super) network_rx_bytes: Option<u64>,
    pub(super) network_tx_bytes: Option<u64>,
    pub(super) uptime_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Container {
    pub(super) container_id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) image_tag: Option<String>,
    pub(super) state: String,
    pub(super) health: Option<String>,
    pub(super) restarts: Option<u64>,
    pub(super) exit_code: Option<i64>,
    pub(super) oom_killed: Option<bool>,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) error: Option<String>,
    pub(super) metrics: Option<ContainerMetrics>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Port {
    container_port: u16,
    host_port: Option<u16>,
    host_ip: Option<String>,
    protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ContainerMetrics {
    pub(super) cpu_cores: Option<f64>,
    pub(super) memory_used_bytes: Option<u64>,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) network_rx_bytes: Option<u64>,
    pub(super) network_tx_bytes: Option<u64>,
    pub(super) block_read_bytes: Option<u64>,
    pub(super) block_write_bytes: Option<u64>,
    pub(super) pids: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Agent {
    version: Option<String>,
}

/// A report within its bounds.
#[derive(Debug)]
pub(super) struct Report {
    /// Microseconds since 1970.
    pub(super) recorded_at: i64,
    pub(super) host: Host,
    pub(super) containers: Vec<Container>,
}

/// Reads a body and holds it to its bounds; says what is wrong with it otherwise.
pub(super) fn read(json: &[u8], now: i64) -> Result<Report, String> {
    let body: Body = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let recorded_at = OffsetDateTime::parse(&body.recorded_at, &Rfc3339).map_err(|error| error.to_string())?;
    let recorded_at = i64::try_from(recorded_at.unix_timestamp_nanos() / 1_000).map_err(|error| error.to_string())?;
    demand(recorded_at >= now - HOUR && recorded_at <= now + FIVE_MINUTES, "recorded_at: clock skew")?;
    check_host(&body.host)?;
    demand(body.containers.len() <= MAX_CONTAINERS, "containers: too many")?;
    let mut seen = HashSet::with_capacity(body.containers.len());
    for container in &body.containers {
        check_container(container)?;
        demand(seen.insert(container.container_id.as_str()), "containers: one stands there twice")?;
    }
    text(body.agent.as_ref().and_then(|agent| agent.version.as_deref()), 64, "agent.version")?;
    Ok(Report { recorded_at, host: body.host, containers: body.containers })
}

fn check_host(host: &Host) -> Result<(), String> {
    let Facts { os, kernel, arch, docker_version, agent_version, memory_total_bytes, .. } = &host.facts;
    for value in [os, kernel, arch, docker_version, agent_version] {
        text(value.as_deref(), 255, "host.facts")?;
    }
    counters(&[*memory_total_bytes], "host.facts")?;
    let metrics = &host.metrics;
    demand(metrics.cpu_percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)), "cpu_percent: 0 to 100")?;
    for load in [metrics.load_1m, metrics.load_5m, metrics.load_15m] {
        not_negative(load)?;
    }
    let integers = [
        metrics.memory_used_bytes,
        metrics.memory_total_bytes,
        metrics.swap_used_bytes,
        metrics.swap_total_bytes,
        metrics.disk_used_bytes,
        metrics.disk_total_bytes,
        metrics.network_rx_bytes,
        metrics.network_tx_bytes,
        metrics.uptime_seconds,
    ];
    counters(&integers, "host.metrics")?;
    demand(host.custom.len() <= MAX_CUSTOM, "host.custom: too many")?;
    for (name, value) in &host.custom {
        let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        demand(letters && (1..=64).contains(&name.len()) && value.is_finite(), "host.custom")?;
    }
    Ok(())
}

fn check_container(container: &Container) -> Result<(), String> {
    let required = [(&container.container_id, 128), (&container.name, 255), (&container.image, 512)];
    for (value, max) in required.into_iter().chain([(&container.state, 32)]) {
        demand(!value.is_empty(), "containers: an empty text")?;
        text(Some(value), max, "containers")?;
    }
    text(container.image_tag.as_deref(), 128, "image_tag")?;
    text(container.health.as_deref(), 32, "health")?;
    text(container.error.as_deref(), 1_024, "error")?;
    counters(&[container.restarts], "restarts")?;
    demand(container.ports.len() <= MAX_PORTS && container.labels.len() <= MAX_LABELS, "containers: too much")?;
    for port in &container.ports {
        text(port.host_ip.as_deref(), 64, "host_ip")?;
        text(port.protocol.as_deref(), 16, "protocol")?;
    }
    for (key, value) in &container.labels {
        demand(!key.is_empty(), "labels: an empty key")?;
        text(Some(key), 128, "labels")?;
        text(Some(value), 1_024, "labels")?;
    }
    let Some(metrics) = &container.metrics else { return Ok(()) };
    not_negative(metrics.cpu_cores)?;
    let integers = [
        metrics.memory_used_bytes,
        metrics.memory_limit_bytes,
        metrics.network_rx_bytes,
        metrics.network_tx_bytes,
        metrics.block_read_bytes,
        metrics.block_write_bytes,
        metrics.pids,
    ];
    counters(&integers, "containers.metrics")
}

fn text(value: Option<&str>, max: usize, field: &str) -> Result<(), String> {
    demand(value.is_none_or(|text| text.len() <= max && !text.contains('\0')), field)
}

fn counters(values: &[Option<u64>], field: &str) -> Result<(), String> {
    demand(values.iter().flatten().all(|value| i64::try_from(*value).is_ok()), field)
}

fn not_negative(value: Option<f64>) -> Result<(), String> {
    demand(value.is_none_or(|value| value.is_finite() && value >= 0.0), "a number is negative")
}

fn demand(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("out of bounds: {otherwise}")) }
}
