//! Load from outside: connections that report one after the other, each for hosts of its own.

pub(crate) mod client;
mod enrol;
mod protocol;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::report::{Report, Scattered};
use crate::statistics::percentile;
use crate::{Error, clock, process};
pub(crate) use client::Client;
use wire::Wire;

pub use enrol::enrol;
pub use protocol::Protocol;

/// What to do to a server.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it understands.
    pub protocol: Protocol,
    /// The token of each host; at least as many as connections.
    pub tokens: Arc<[String]>,
    /// How many report at a time, each on a connection that is kept.
    pub connections: usize,
    /// The number of each host's first report: counters go on where those that are there have ended.
    pub first_sequence: u32,
    /// Load that is not measured, after the first report of each host, which is not either.
    pub warm_up: Duration,
    /// Load that is.
    pub duration: Duration,
    /// The server's process, to tell what it used.
    pub server_pid: Option<u32>,
    /// The postmaster of the PostgreSQL behind it, to tell what that and its processes used.
    pub postmaster_pid: Option<u32>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Reports that were acknowledged as new, the warm-up included.
    pub acknowledged: u64,
    /// Requests without an answer, which may have been stored or not.
    pub unknown: u64,
    /// From sending to the whole answer in microseconds, rising; of reports that were acknowledged while measuring.
    pub latencies: Vec<u32>,
    /// How long was measured.
    pub window: Duration,
    /// Everything else that was answered, by status, the warm-up included.
    pub errors: BTreeMap<String, u64>,
    /// What the server used while measuring.
    pub server_cpu: Option<Duration>,
    /// What PostgreSQL used while measuring.
    pub postgres_cpu: Option<Duration>,
    /// The most memory that the server ever had, in bytes.
    pub server_memory: Option<u64>,
}

impl Outcome {
    /// Acknowledged while measuring, by second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.window.as_secs_f64()
    }

    /// What the server used for a report, in microseconds.
    pub fn server_micros(&self) -> Option<f64> {
        self.micros(self.server_cpu)
    }

    /// What PostgreSQL used for a report, in microseconds.
    pub fn postgres_micros(&self) -> Option<f64> {
        self.micros(self.postgres_cpu)
    }

    fn micros(&self, cpu: Option<Duration>) -> Option<f64> {
        (!self.latencies.is_empty()).then_some(cpu?.as_secs_f64() * 1e6 / self.latencies.len() as f64)
    }

    /// The latency that this many of a thousand reports did not exceed, in milliseconds.
    pub fn latency_ms(&self, per_mille: usize) -> Option<f64> {
        percentile(&self.latencies, per_mille).map(|micros| f64::from(micros) / 1e3)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} reports/s", self.rate())?;
        for (name, per_mille) in [("p50", 500), ("p95", 950), ("p99", 990), ("max", 1_000)] {
            if let Some(latency) = self.latency_ms(per_mille) {
                write!(f, ", {name} {latency:.1} ms")?;
            }
        }
        match self.server_micros() {
            Some(micros) => write!(f, ", server CPU {micros:.0} µs a report")?,
            None => write!(f, ", server CPU not known")?,
        }
        if let Some(micros) = self.postgres_micros() {
            write!(f, ", in PostgreSQL {micros:.0} µs")?;
        }
        if let Some(bytes) = self.server_memory {
            write!(f, ", {:.0} MiB of memory", bytes as f64 / f64::from(1 << 20))?;
        }
        let errors: u64 = self.errors.values().sum::<u64>() + self.unknown;
        write!(f, ", {errors} errors")?;
        for (status, count) in &self.errors {
            write!(f, ", {count} × {status}")?;
        }
        if self.unknown > 0 {
            write!(f, ", {} without an answer", self.unknown)?;
        }
        Ok(())
    }
}

/// When is measured.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

/// What one connection saw.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: u64,
    unknown: u64,
    latencies: Vec<u32>,
    errors: BTreeMap<String, u64>,
}

/// Loads a server until the time is over and every request has its answer.
///
/// # Errors
/// When a connection cannot be made at first, or the server's process is not there. Refusals are counted, not errors.
pub async fn run(plan: &Plan) -> Result<Outcome, Error> {
    if plan.connections == 0 || plan.tokens.len() < plan.connections {
        return Err("each connection needs a host of its own".into());
    }
    let mut wires = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        wires.push(Wire::connect(plan.address, plan.protocol.path()).await?);
    }
    let mut connections = JoinSet::new();
    for (number, wire) in wires.into_iter().enumerate() {
        // A host's reports go out one after the other, as from an agent.
        let hosts: Vec<u32> = (number..plan.tokens.len()).step_by(plan.connections).map(|host| host as u32).collect();
        connections.spawn(Connection::new(wire, plan.clone(), hosts, number as u64).report_of_each());
    }
    let connections = connections.join_all().await;
    let from = clock::instant() + plan.warm_up;
    let window = Window { from, to: from + plan.duration };
    let mut ends: JoinSet<Seen> = connections.into_iter().map(|connection| connection.report_until(window)).collect();
    tokio::time::sleep_until(window.from.into()).await;
    let before = Used::read(plan)?;
    tokio::time::sleep_until(window.to.into()).await;
    let after = Used::read(plan)?;
    let server_memory = plan.server_pid.map(process::peak_memory).transpose()?;

    let mut all = Seen::default();
    while let Some(seen) = ends.join_next().await {
        let seen = seen?;
        all.acknowledged += seen.acknowledged;
        all.unknown += seen.unknown;
        all.latencies.extend(seen.latencies);
        for (status, count) in seen.errors {
            *all.errors.entry(status).or_default() += count;
        }
    }
    all.latencies.sort_unstable();
    Ok(Outcome {
        acknowledged: all.acknowledged,
        unknown: all.unknown,
        latencies: all.latencies,
        window: plan.duration,
        errors: all.errors,
        server_cpu: between(before.server, after.server),
        postgres_cpu: between(before.postgres, after.postgres),
        server_memory,
    })
}

/// CPU so far.
#[derive(Debug)]
struct Used {
    server: Option<Duration>,
    postgres: Option<Duration>,
}

impl Used {
    fn read(plan: &Plan) -> std::io::Result<Self> {
        Ok(Self {
            server: plan.server_pid.map(process::cpu_time).transpose()?,
            postgres: plan.postmaster_pid.map(process::family_cpu_time).transpose()?,
        })
    }
}

fn between(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    Some(after?.saturating_sub(before?))
}

/// A connection, and the hosts that report over it.
struct Connection {
    /// `None` once the server cannot be reached any more.
    wire: Option<Wire>,
    plan: Plan,
    order: Scattered,
    /// The number and the time of the next report of each, by the host's place among those of this connection.
    hosts: Vec<(u32, i64)>,
    body: String,
    seen: Seen,
}

impl Connection {
    fn new(wire: Wire, plan: Plan, hosts: Vec<u32>, seed: u64) -> Self {
        let next = vec![(plan.first_sequence, 0); hosts.len()];
        let order = Scattered::new(hosts, seed);
        Self { wire: Some(wire), plan, order, hosts: next, body: String::with_capacity(4_096), seen: Seen::default() }
    }

    /// The first report of each host, outside of what is measured: a server that has just started reads what it knows of
    /// the host.
    async fn report_of_each(mut self) -> Self {
        for _ in 0..self.hosts.len() {
            self.report(None).await;
        }
        self
    }

    async fn report_until(mut self, window: Window) -> Seen {
        while clock::instant() < window.to && self.wire.is_some() {
            self.report(Some(window)).await;
        }
        self.seen
    }

    async fn report(&mut self, window: Option<Window>) {
        let Some(wire) = &mut self.wire else { return };
        let Plan { address, protocol, tokens, connections, .. } = &self.plan;
        let host = self.order.next_host();
        let (sequence, at) = &mut self.hosts[host as usize / connections];
        // Now, and later than the host's last one.
        *at = clock::unix_micros().max(*at + 1);
        self.body.clear();
        protocol.write(&Report::new(host, *sequence, *at), &mut self.body);
        *sequence += 1;
        let sent = clock::instant();
        let answer = wire.post(&tokens[host as usize], &self.body).await;
        let answered = clock::instant();
        match answer {
            Ok((status, reply)) if protocol.is_accepted(status, reply) => {
                self.seen.acknowledged += 1;
                if window.is_some_and(|window| (window.from..window.to).contains(&answered)) {
                    let micros = answered.duration_since(sent).as_micros();
                    self.seen.latencies.push(u32::try_from(micros).unwrap_or(u32::MAX));
                }
            }
            Ok((status, _)) => {
                let status = if status.is_success() { "200, not accepted".to_owned() } else { status.to_string() };
                *self.seen.errors.entry(status).or_default() += 1;
                // One that is refused is not to become a busy loop.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(_) => {
                self.seen.unknown += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.wire = Wire::connect(*address, protocol.path()).await.ok();
            }
        }
    }
}
