//! Reports made from numbers: the same host and sequence give the same report in every run.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Containers of each report.
pub const CONTAINERS: usize = 10;

/// The machine's numbers that are floats, by name.
pub const HOST_FLOATS: [&str; 4] = ["cpu_percent", "load_1m", "load_5m", "load_15m"];

/// The machine's numbers that are integers, by name.
pub const HOST_INTEGERS: [&str; 9] = [
    "memory_used_bytes",
    "memory_total_bytes",
    "swap_used_bytes",
    "swap_total_bytes",
    "disk_used_bytes",
    "disk_total_bytes",
    "network_rx_bytes",
    "network_tx_bytes",
    "uptime_seconds",
];

/// A container's numbers that are integers, by name. The one float is `cpu_cores`.
pub const CONTAINER_INTEGERS: [&str; 7] = [
    "memory_used_bytes",
    "memory_limit_bytes",
    "network_rx_bytes",
    "network_tx_bytes",
    "block_read_bytes",
    "block_write_bytes",
    "pids",
];

/// One host and its containers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// From zero.
    pub host: u32,
    /// When it was measured, in microseconds since 1970.
    pub recorded_at: i64,
    /// By [`HOST_FLOATS`].
    pub floats: [f64; 4],
    /// By [`HOST_INTEGERS`].
    pub integers: [i64; 9],
    /// In the order of their ids' numbers.
    pub containers: [Measured; CONTAINERS],
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Cores in use.
    pub cpu_cores: f64,
    /// By [`CONTAINER_INTEGERS`].
    pub integers: [i64; 7],
}

impl Report {
    /// The report of this host with this number. Its values follow from the two alone; counters rise with `sequence`.
    pub fn new(host: u32, sequence: u32, recorded_at: i64) -> Self {
        const GIB: i64 = 1 << 30;
        let mut random = Random::new((u64::from(host) << 32) | u64::from(sequence));
        let count = i64::from(sequence) + 1;
        let percent = random.fraction(10_000) * 100.0;
        let floats =
            [percent, percent / 25.0, percent / 26.0, percent / 27.0].map(|value| (value * 100.0).round() / 100.0);
        let integers = [
            4 * GIB + random.below(8 * GIB),
            16 * GIB,
            random.below(GIB),
            2 * GIB,
            80 * GIB + random.below(GIB),
            256 * GIB,
            count * 1_500_000 + random.below(1_000_000),
            count * 900_000 + random.below(800_000),
            86_400 + 30 * count,
        ];
        let containers = std::array::from_fn(|_| Measured {
            cpu_cores: random.fraction(10_000) * 2.0,
            integers: [
                64_000_000 + random.below(400_000_000),
                GIB / 2,
                count * 200_000 + random.below(190_000),
                count * 100_000 + random.below(90_000),
                count * 50_000 + random.below(40_000),
                count * 30_000 + random.below(20_000),
                4 + random.below(60),
            ],
        });
        Self { host, recorded_at, floats, integers, containers }
    }

    /// Writes it as the body of `POST /v1/agent/telemetry`, after what is in `out`.
    pub fn write_json(&self, out: &mut String) {
        // Writing to a String does not fail.
        let _ = self.try_write_json(out);
    }

    fn try_write_json(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            r#"{{"recorded_at":"{}","host":{{"facts":{{"cpu_count":8,"memory_total_bytes":{},"#,
            rfc3339(self.recorded_at),
            self.integers[1]
        )?;
        out.push_str(
            r#""os":"Debian GNU/Linux 12","kernel":"6.1.0-40-amd64","arch":"x86_64","docker_version":"27.3.1","#,
        );
        out.push_str(r#""agent_version":"0.1.0"},"metrics":{"#);
        for (name, value) in HOST_FLOATS.iter().zip(self.floats) {
            write!(out, r#""{name}":{value},"#)?;
        }
        for (name, value) in HOST_INTEGERS.iter().zip(self.integers) {
            write!(out, r#""{name}":{value},"#)?;
        }
        out.pop();
        out.push_str(r#"}},"containers":["#);
        for (number, container) in self.containers.iter().enumerate() {
            write!(out, r#"{{"container_id":"{}","name":"app-{number}","#, container_id(self.host, number))?;
            write!(out, r#""image":"app-{number}","state":"running","metrics":{{"#)?;
            write!(out, r#""cpu_cores":{}"#, container.cpu_cores)?;
            for (name, value) in CONTAINER_INTEGERS.iter().zip(container.integers) {
                write!(out, r#","{name}":{value}"#)?;
            }
            out.push_str("}},");
        }
        out.pop();
        out.push_str(r#"],"containers_complete":true,"agent":{"version":"0.1.0","spooled":0,"dropped_total":0}}"#);
        Ok(())
    }
}

/// The engine's id of a host's container: 12 digits, as `docker ps` shows them.
pub fn container_id(host: u32, number: usize) -> String {
    format!("{:012x}", Random::new((u64::from(host) << 8) | number as u64).next() >> 16)
}

/// The token of a host of the baseline, which makes the same ones.
pub fn baseline_token(host: u32) -> String {
    let digest = Sha256::digest(format!("baseline host {host}"));
    let mut token = "eat_".to_owned();
    for byte in digest {
        let _ = write!(token, "{byte:02x}");
    }
    token
}

fn rfc3339(micros: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).expect("a bench runs within the years 1970-9999")
}

/// Hosts in an order that scatters: all of them, then all of them in another order, and so on.
#[derive(Debug, Clone)]
pub struct Scattered {
    hosts: Vec<u32>,
    next: usize,
    random: Random,
}

impl Scattered {
    /// Goes through these hosts, of which there is one at least; the same seed gives the same orders.
    pub fn new(hosts: Vec<u32>, seed: u64) -> Self {
        assert!(!hosts.is_empty(), "somebody has to report");
        Self { next: hosts.len(), hosts, random: Random::new(seed) }
    }

    /// Whose turn it is.
    pub fn next_host(&mut self) -> u32 {
        if self.next == self.hosts.len() {
            for last in (1..self.hosts.len()).rev() {
                let other = self.random.below(last as i64 + 1) as usize;
                self.hosts.swap(last, other);
            }
            self.next = 0;
        }
        self.next += 1;
        self.hosts[self.next - 1]
    }
}

/// SplitMix64: a few instructions a number, and the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: i64) -> i64 {
        (self.next() >> 1) as i64 % bound
    }

    /// At least 0 and less than 1, in this many steps.
    fn fraction(&mut self, steps: i64) -> f64 {
        self.below(steps) as f64 / steps as f64
    }
}
