//! The same rows straight into the engine: what is left when everything but storing is taken away.

mod postgres;
mod sqlite;

use std::time::Duration;

use crate::clock;
use crate::report::{Report, Scattered};

pub use postgres::{Layout, postgres};
pub use sqlite::sqlite;

/// Reports of one commit.
pub const BATCH: u32 = 100;

/// What to store.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// That report, in scattered order.
    pub hosts: u32,
    /// Reports that are there before the clock starts.
    pub before: u32,
    /// Reports that are timed. Both are rounded up to whole commits.
    pub reports: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Reports that were timed.
    pub reports: u32,
    /// How long they took, the last commit included.
    pub took: Duration,
    /// Rows of hosts that are there in the end.
    pub host_rows: u64,
    /// Numbers of containers that are there in the end, in whatever rows.
    pub container_rows: u64,
}

impl Plan {
    fn batches_before(self) -> u32 {
        self.before.div_ceil(BATCH)
    }

    fn batches(self) -> u32 {
        self.reports.div_ceil(BATCH)
    }

    /// All reports that there shall be in the end.
    pub fn total(self) -> u64 {
        u64::from(self.batches_before() + self.batches()) * u64::from(BATCH)
    }
}

/// Makes the reports of one commit after the other. The time that it takes is not part of the floor.
struct Reports {
    order: Scattered,
    sequences: Vec<u32>,
    start: i64,
}

impl Reports {
    fn new(hosts: u32) -> Self {
        let order = Scattered::new((0..hosts).collect(), 1);
        Self { order, sequences: vec![0; hosts as usize], start: clock::unix_micros() }
    }

    fn batch(&mut self) -> Vec<Report> {
        (0..BATCH).map(|_| self.next_report()).collect()
    }

    fn next_report(&mut self) -> Report {
        let host = self.order.next_host();
        let sequence = &mut self.sequences[host as usize];
        *sequence += 1;
        // Half a minute apart, as real ones are.
        Report::new(host, *sequence, self.start + i64::from(*sequence) * 30_000_000)
    }
}
