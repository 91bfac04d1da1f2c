//! The bounds of a report. Whatever breaks one is refused whole, with the field that did.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::container::{Container, ContainerMetrics, Port};
use crate::error::FieldError;
use crate::pointer;
use crate::telemetry::report::{AgentReport, HostFacts, HostMetrics, Report};
use crate::text::{self, Alphabet};
use crate::wire::Code;

/// Containers of one report.
pub const MAX_CONTAINERS: usize = 500;
/// Custom numbers of one report.
pub const MAX_CUSTOM: usize = 32;
/// The largest counter: what a signed 64-bit column holds.
pub const MAX_COUNTER: u64 = i64::MAX as u64;
/// How far a live report's clock may be behind the server's.
pub const CLOCK_BEHIND: Duration = Duration::from_secs(60 * 60);
/// How far a live report's clock may be ahead of the server's.
pub const CLOCK_AHEAD: Duration = Duration::from_secs(5 * 60);
const MAX_CONTAINER_ID: usize = 128;
const MAX_PORTS: usize = 64;
const MAX_LABELS: usize = 64;

/// Reads a report and holds it to its bounds; `MAX_CONTAINERS` and the like say which.
///
/// # Errors
/// `invalid_json` when it is not JSON at all; `invalid_field` with a pointer to the first value of a wrong type or out
/// of its bounds; `too_many_containers`.
pub fn parse_report(json: &[u8]) -> Result<Report, FieldError> {
    let report: Report = crate::wire::parse_json(json)?;
    validate(&report)?;
    Ok(report)
}

/// Whether a live report was measured at a plausible time: within an hour before and five minutes after `now`.
///
/// # Errors
/// `clock_skew`.
pub fn judge_recorded_at(recorded_at: Timestamp, now: Timestamp) -> Result<(), FieldError> {
    let earliest = now.saturating_sub(CLOCK_BEHIND);
    let latest = now.saturating_add(CLOCK_AHEAD);
    if (earliest..=latest).contains(&recorded_at) {
        return Ok(());
    }
    Err(FieldError {
        code: Code::ClockSkew,
        field: "/recorded_at".to_owned(),
        detail: "a live report was measured within the last hour, and at most five minutes ahead of the server's \
                 clock; compare server_time"
            .to_owned(),
    })
}

/// Whether a report that was kept back was measured at a plausible time: within `retention` before and five minutes after
/// `now`. What is older would be deleted as soon as it was stored.
///
/// # Errors
/// `too_old`, `clock_skew`.
pub fn judge_catch_up(recorded_at: Timestamp, now: Timestamp, retention: Duration) -> Result<(), FieldError> {
    let (code, detail) = if recorded_at < now.saturating_sub(retention) {
        (Code::TooOld, "reports of that time are not kept any more")
    } else if recorded_at > now.saturating_add(CLOCK_AHEAD) {
        (Code::ClockSkew, "a report was measured at most five minutes ahead of the server's clock; compare server_time")
    } else {
        return Ok(());
    };
    Err(FieldError { code, field: "/recorded_at".to_owned(), detail: detail.to_owned() })
}

/// Holds a report to its bounds.
///
/// # Errors
/// `invalid_field` with a pointer to the first value out of its bounds; `too_many_containers`.
pub fn validate(report: &Report) -> Result<(), FieldError> {
    if let Some(facts) = &report.host.facts {
        validate_facts(facts, "/host/facts")?;
    }
    validate_metrics(&report.host.metrics)?;
    if report.host.custom.len() > MAX_CUSTOM {
        return Err(FieldError::invalid("/host/custom", format!("at most {MAX_CUSTOM} custom numbers")));
    }
    for (name, value) in &report.host.custom {
        let field = || pointer::member("/host/custom", name);
        text::check("custom metric name", 1, 64, Alphabet::Metric, name)
            .map_err(|e| FieldError::invalid(field(), e.to_string()))?;
        finite(*value, field)?;
    }
    if report.containers.len() > MAX_CONTAINERS {
        return Err(FieldError {
            code: Code::TooManyContainers,
            field: "/containers".to_owned(),
            detail: format!("at most {MAX_CONTAINERS} containers a report"),
        });
    }
    let mut seen = BTreeSet::new();
    for (index, container) in report.containers.iter().enumerate() {
        validate_container(container, index)?;
        if !seen.insert(container.container_id.as_str()) {
            return Err(FieldError::invalid(
                format!("/containers/{index}/container_id"),
                "each container stands in a report once",
            ));
        }
    }
    report.agent.as_ref().map_or(Ok(()), validate_agent)
}

/// Holds facts to their bounds; they also come with an exchange.
pub(crate) fn validate_facts(facts: &HostFacts, at: &str) -> Result<(), FieldError> {
    let HostFacts {
        cpu_count: _,
        memory_total_bytes,
        disk_total_bytes,
        os,
        kernel,
        arch,
        docker_version,
        agent_version,
        boot_id,
    } = facts;
    for (name, value) in [("memory_total_bytes", memory_total_bytes), ("disk_total_bytes", disk_total_bytes)] {
        counter(*value, || format!("{at}/{name}"))?;
    }
    for (name, value) in [
        ("os", os),
        ("kernel", kernel),
        ("arch", arch),
        ("docker_version", docker_version),
        ("agent_version", agent_version),
        ("boot_id", boot_id),
    ] {
        optional_text(value.as_deref(), 255, || format!("{at}/{name}"))?;
    }
    Ok(())
}

fn validate_metrics(metrics: &HostMetrics) -> Result<(), FieldError> {
    let HostMetrics {
        cpu_percent,
        load_1m,
        load_5m,
        load_15m,
        memory_used_bytes,
        memory_total_bytes,
        swap_used_bytes,
        swap_total_bytes,
        disk_used_bytes,
        disk_total_bytes,
        network_rx_bytes,
        network_tx_bytes,
        uptime_seconds,
    } = metrics;
    let at = |name: &'static str| move || format!("/host/metrics/{name}");
    if cpu_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        return Err(FieldError::invalid(at("cpu_percent")(), "0 to 100, of the whole machine"));
    }
    for (name, value) in [("load_1m", load_1m), ("load_5m", load_5m), ("load_15m", load_15m)] {
        not_negative(*value, at(name))?;
    }
    for (name, value) in [
        ("memory_used_bytes", memory_used_bytes),
        ("memory_total_bytes", memory_total_bytes),
        ("swap_used_bytes", swap_used_bytes),
        ("swap_total_bytes", swap_total_bytes),
        ("disk_used_bytes", disk_used_bytes),
        ("disk_total_bytes", disk_total_bytes),
        ("network_rx_bytes", network_rx_bytes),
        ("network_tx_bytes", network_tx_bytes),
        ("uptime_seconds", uptime_seconds),
    ] {
        counter(*value, at(name))?;
    }
    Ok(())
}

fn validate_container(container: &Container, index: usize) -> Result<(), FieldError> {
    let at = |name: &'static str| move || format!("/containers/{index}/{name}");
    check_container_id(&container.container_id, at("container_id"))?;
    required_text(&container.name, 255, at("name"))?;
    required_text(&container.image, 512, at("image"))?;
    required_text(&container.state, 32, at("state"))?;
    optional_text(container.image_tag.as_deref(), 128, at("image_tag"))?;
    optional_text(container.health.as_deref(), 32, at("health"))?;
    counter(container.restarts, at("restarts"))?;
    optional_text(container.error.as_deref(), 1024, at("error"))?;
    if container.ports.len() > MAX_PORTS {
        return Err(FieldError::invalid(at("ports")(), format!("at most {MAX_PORTS} ports")));
    }
    for (port_index, Port { host_ip, protocol, .. }) in container.ports.iter().enumerate() {
        let port = |name: &'static str| move || format!("/containers/{index}/ports/{port_index}/{name}");
        optional_text(host_ip.as_deref(), 64, port("host_ip"))?;
        optional_text(protocol.as_deref(), 16, port("protocol"))?;
    }
    if container.labels.len() > MAX_LABELS {
        return Err(FieldError::invalid(at("labels")(), format!("at most {MAX_LABELS} labels")));
    }
    for (key, value) in &container.labels {
        let label = || pointer::member(&at("labels")(), key);
        required_text(key, 128, label)?;
        optional_text(Some(value), 1024, label)?;
    }
    container.metrics.as_ref().map_or(Ok(()), |metrics| validate_container_metrics(metrics, index))
}

fn validate_container_metrics(metrics: &ContainerMetrics, index: usize) -> Result<(), FieldError> {
    let at = |name: &'static str| move || format!("/containers/{index}/metrics/{name}");
    not_negative(metrics.cpu_cores, at("cpu_cores"))?;
    metrics.counts().into_iter().try_for_each(|(name, value)| counter(value, at(name)))
}

fn validate_agent(agent: &AgentReport) -> Result<(), FieldError> {
    optional_text(agent.version.as_deref(), 64, || "/agent/version".to_owned())?;
    counter(agent.spooled, || "/agent/spooled".to_owned())?;
    counter(agent.dropped_total, || "/agent/dropped_total".to_owned())
}

/// Whether a report may call a container so.
#[cfg(feature = "server")]
pub(crate) fn is_container_id(text: &str) -> bool {
    check_container_id(text, String::new).is_ok()
}

fn check_container_id(id: &str, field: impl Fn() -> String) -> Result<(), FieldError> {
    required_text(id, MAX_CONTAINER_ID, &field)?;
    if text::is_dot_segment(id) {
        return Err(FieldError::invalid(field(), "neither . nor .., which no path can name"));
    }
    Ok(())
}

fn required_text(text: &str, max: usize, field: impl FnOnce() -> String) -> Result<(), FieldError> {
    let min = 1;
    if (min..=max).contains(&text.len()) && !text.contains('\0') {
        Ok(())
    } else {
        Err(FieldError::invalid(field(), format!("{min}–{max} bytes, without NUL")))
    }
}

fn optional_text(text: Option<&str>, max: usize, field: impl FnOnce() -> String) -> Result<(), FieldError> {
    match text {
        Some(text) if text.len() > max || text.contains('\0') => {
            Err(FieldError::invalid(field(), format!("at most {max} bytes, without NUL")))
        }
        _ => Ok(()),
    }
}

fn counter(value: Option<u64>, field: impl FnOnce() -> String) -> Result<(), FieldError> {
    match value {
        Some(value) if value > MAX_COUNTER => Err(FieldError::invalid(field(), "0 to 2^63 - 1")),
        _ => Ok(()),
    }
}

fn finite(value: f64, field: impl FnOnce() -> String) -> Result<(), FieldError> {
    if value.is_finite() { Ok(()) } else { Err(FieldError::invalid(field(), "a finite number")) }
}

fn not_negative(value: Option<f64>, field: impl FnOnce() -> String) -> Result<(), FieldError> {
    match value {
        Some(value) if !(value.is_finite() && value >= 0.0) => {
            Err(FieldError::invalid(field(), "a finite number, not negative"))
        }
        _ => Ok(()),
    }
}
