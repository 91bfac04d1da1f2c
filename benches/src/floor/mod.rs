//! The same rows straight into the engine: what is left when everything but storing is taken away.

mod postgres;
mod sqlite;

use std::time::Duration;

use crate::clock;
use crate::history::HALF_A_MINUTE;
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
    /// Reports that an earlier call has left in the same place, and the tables with them.
    pub there: u32,
    /// Reports that are stored before the clock starts.
    pub before: u32,
    /// Reports that are timed. All three are rounded up to whole commits.
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
    fn batches_there(self) -> u32 {
        self.there.div_ceil(BATCH)
    }

    fn batches_before(self) -> u32 {
        self.before.div_ceil(BATCH)
    }

    fn batches(self) -> u32 {
        self.reports.div_ceil(BATCH)
    }

    /// All reports that there shall be in the end.
    pub fn total(self) -> u64 {
        u64::from(self.batches_there() + self.batches_before() + self.batches()) * u64::from(BATCH)
    }
}

/// Makes the reports of one commit after the other. The time that it takes is not part of the floor.
struct Reports {
    order: Scattered,
    sequences: Vec<u32>,
    start: i64,
}

impl Reports {
    /// Those behind the ones that are there.
    fn new(plan: Plan) -> Self {
        let order = Scattered::new((0..plan.hosts).collect(), 1);
        let mut reports = Self { order, sequences: vec![0; plan.hosts as usize], start: clock::unix_micros() };
        for _ in 0..plan.batches_there() * BATCH {
            reports.next_turn();
        }
        reports
    }

    fn batch(&mut self) -> Vec<Report> {
        (0..BATCH).map(|_| self.next_report()).collect()
    }

    fn next_turn(&mut self) -> (u32, u32) {
        let host = self.order.next_host();
        let sequence = &mut self.sequences[host as usize];
        *sequence += 1;
        (host, *sequence)
    }

    fn next_report(&mut self) -> Report {
        let (host, sequence) = self.next_turn();
        Report::new(host, sequence, self.start + i64::from(sequence) * HALF_A_MINUTE)
    }
}
