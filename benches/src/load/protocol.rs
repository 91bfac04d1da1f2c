//! How a report is said to a server.

use std::fmt::Write as _;

use hyper::StatusCode;

use crate::report::{CONTAINER_INTEGERS, HOST_FLOATS, HOST_INTEGERS, Report, container_id};

/// What a server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Enlist's `POST /v1/agent/telemetry`, which the baseline has, too.
    Enlist,
    /// InfluxDB's lines, as VictoriaMetrics takes them: one for the machine and one for each container.
    Influx,
}

impl Protocol {
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Enlist => "/v1/agent/telemetry",
            Self::Influx => "/write",
        }
    }

    pub(super) fn write(self, report: &Report, out: &mut String) {
        match self {
            Self::Enlist => report.write_json(out),
            // Writing to a String does not fail.
            Self::Influx => drop(write_lines(report, out)),
        }
    }

    /// Whether the report was stored as a new one. A duplicate is acknowledged too, but nothing was stored.
    pub(super) fn is_accepted(self, status: StatusCode, reply: &[u8]) -> bool {
        const WORD: &[u8] = b"\"accepted\"";
        match self {
            Self::Enlist => status == StatusCode::OK && reply.windows(WORD.len()).any(|window| window == WORD),
            Self::Influx => status == StatusCode::NO_CONTENT,
        }
    }
}

/// Times are in nanoseconds there.
fn write_lines(report: &Report, out: &mut String) -> std::fmt::Result {
    let nanos = report.recorded_at * 1_000;
    write!(out, "host,host=host-{} ", report.host)?;
    for (name, value) in HOST_FLOATS.iter().zip(report.floats) {
        write!(out, "{name}={value},")?;
    }
    for (name, value) in HOST_INTEGERS.iter().zip(report.integers) {
        write!(out, "{name}={value},")?;
    }
    out.pop();
    writeln!(out, " {nanos}")?;
    for (number, measured) in report.containers.iter().enumerate() {
        let id = container_id(report.host, number);
        write!(out, "container,host=host-{},container_id={id} cpu_cores={}", report.host, measured.cpu_cores)?;
        for (name, value) in CONTAINER_INTEGERS.iter().zip(measured.integers) {
            write!(out, ",{name}={value}")?;
        }
        writeln!(out, " {nanos}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_every_number_of_the_report() {
        let mut lines = String::new();
        let report = Report::new(3, 4, 1_800_000_000_123_456);
        Protocol::Influx.write(&report, &mut lines);
        assert_eq!(lines.lines().count(), 11);
        assert_eq!(lines.matches('=').count(), (1 + 13) + 10 * (2 + 8));
        assert!(lines.lines().all(|line| line.ends_with(" 1800000000123456000")), "{lines}");
        assert!(lines.contains(&format!(",memory_used_bytes={},", report.integers[0])), "{lines}");
    }

    #[test]
    fn only_what_was_stored_is_accepted() {
        let enlist = |status, reply: &str| Protocol::Enlist.is_accepted(status, reply.as_bytes());
        assert!(enlist(StatusCode::OK, r#"{"status":"accepted"}"#));
        assert!(!enlist(StatusCode::OK, r#"{"status":"duplicate"}"#));
        assert!(!enlist(StatusCode::ACCEPTED, r#"{"status":"accepted"}"#));
        assert!(Protocol::Influx.is_accepted(StatusCode::NO_CONTENT, b""));
        assert!(!Protocol::Influx.is_accepted(StatusCode::OK, b""));
    }
}
