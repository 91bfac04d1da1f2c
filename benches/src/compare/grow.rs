//! Databases with a past: made once for each contestant, outside the clock, and copied for each of its turns.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::contract;
use super::count::{Rows, count};
use super::place::Place;
use super::postgres::PostgresServer;
use super::target::Contestant;
use crate::floor::{self, Layout, Plan as FloorPlan};
use crate::history::History;
use crate::report::{CONTAINERS, baseline_token};
use crate::{Error, baseline};

/// A database with reports of hosts, whose tokens are known.
#[derive(Debug)]
pub(crate) struct Grown {
    pub(crate) place: Place,
    /// What is in it.
    pub(crate) rows: Rows,
    /// What it takes on disk.
    pub(crate) bytes: u64,
    /// Of each host, by its number.
    pub(crate) tokens: Arc<[String]>,
    /// The same with their ids, for `contract`.
    hosts: TempDir,
}

impl Grown {
    /// Makes one with so many reports, and at least one of each host.
    pub(crate) async fn new(
        contestant: Contestant,
        postgres: Option<&PostgresServer>,
        history: History,
        reports: u32,
    ) -> Result<Self, Error> {
        let place = Place::empty(postgres, contestant.name()).await?;
        let hosts = tempfile::tempdir()?;
        let file = hosts_in(&hosts);
        let tokens = match contestant {
            Contestant::Baseline => {
                match place.file() {
                    Some(path) => baseline::grow_sqlite(&path, history, reports).await?,
                    None => baseline::grow_postgres(&place.url(), history, reports).await?,
                }
                (0..history.hosts).map(baseline_token).collect()
            }
            Contestant::Enlist => {
                contract::grow(&place, &file, history, reports).await?;
                let text = std::fs::read_to_string(&file)?;
                let tokens = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
                tokens.map(str::to_owned).collect()
            }
        };
        let rows = count(&place, contestant).await?;
        rows.judge(0, u64::from(reports), 0).map_err(|wrong| format!("{}, grown: {wrong}", contestant.name()))?;
        place.settle().await?;
        let bytes = place.bytes().await?;
        Ok(Self { place, rows, bytes, tokens, hosts })
    }

    /// The hosts' tokens and ids, as `contract` reads them.
    pub(crate) fn hosts_file(&self) -> PathBuf {
        hosts_in(&self.hosts)
    }
}

fn hosts_in(directory: &TempDir) -> PathBuf {
    directory.path().join("hosts")
}

/// What the floor goes on from.
#[derive(Debug)]
pub(crate) struct GrownFloor {
    place: Place,
    /// Of PostgreSQL's; SQLite's has one only.
    layout: Option<Layout>,
    there: u32,
    hosts: u32,
}

impl GrownFloor {
    /// Fills the floor's tables.
    pub(crate) async fn new(
        layout: Option<Layout>,
        postgres: Option<&PostgresServer>,
        hosts: u32,
        reports: u32,
    ) -> Result<Self, Error> {
        let mut grown = Self { place: Place::empty(postgres, "floor").await?, layout, there: 0, hosts };
        grown.store(&grown.place, reports, 0).await?;
        grown.place.settle().await?;
        grown.there = reports.div_ceil(floor::BATCH) * floor::BATCH;
        Ok(grown)
    }

    /// Stores so many reports in a copy, the first of them before the clock starts, and gives the rate of the rest.
    pub(crate) async fn turn(
        &self,
        postgres: Option<&PostgresServer>,
        warm_up: u32,
        reports: u32,
    ) -> Result<f64, Error> {
        let copy = self.place.copy(postgres, "floor").await?;
        self.store(&copy, warm_up, reports).await
    }

    async fn store(&self, place: &Place, before: u32, reports: u32) -> Result<f64, Error> {
        let plan = FloorPlan { hosts: self.hosts, there: self.there, before, reports };
        let outcome = match (place.file(), self.layout) {
            (Some(path), _) => floor::sqlite(&path, plan)?,
            (None, layout) => floor::postgres(&place.url(), layout.unwrap_or(Layout::Usual), plan).await?,
        };
        let rows = (outcome.host_rows, outcome.container_rows);
        if rows != (plan.total(), plan.total() * CONTAINERS as u64) {
            return Err(format!("floor: {} and {} rows of {} reports", rows.0, rows.1, plan.total()).into());
        }
        Ok(f64::from(outcome.reports) / outcome.took.as_secs_f64())
    }
}
