//! Appending in groups, as group commit does it, and deleting what is old meanwhile.

use std::time::Duration;

use enlist_benches::history::{DAY, History};
use enlist_benches::{Error, clock, process};
use enlist_benches_contract::enrol;
use enlist_benches_contract::opened::Opened;
use enlist_benches_contract::reports::{Arrival, Maker, check};
use enlist_core::Timestamp;
use enlist_core::store::{Append, Prune, Store};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::Fleet;

/// Reports of one call: as many as the floor has in a commit.
const GROUP: usize = enlist_benches::floor::BATCH as usize;
/// Reports that are made at a time, while no clock runs.
const CHUNK: u64 = 2_000;
/// Rows of a kind that one step of retention deletes: as the fleet's own.
const STEP: usize = 4_000;

/// What to append.
#[derive(Debug, clap::Args)]
pub(crate) struct Appending {
    /// Reports that are there.
    #[arg(long)]
    pub(crate) there: u64,
    /// Reports that are appended before the clock starts.
    #[arg(long)]
    pub(crate) warm_up: u64,
    /// Reports that are timed; rounded up to whole days with --retention.
    #[arg(long)]
    pub(crate) reports: u64,
    /// Delete the oldest day of reports for each day that is appended, at the same time.
    #[arg(long)]
    pub(crate) retention: bool,
    /// The postmaster of the database, to tell what PostgreSQL used.
    #[arg(long)]
    pub(crate) postmaster: Option<u32>,
}

/// What the timed parts took together.
#[derive(Debug, Default)]
struct Used {
    elapsed: Duration,
    cpu: Duration,
    postgres_cpu: Duration,
}

pub(crate) async fn append(fleet: &Fleet, appending: &Appending) -> Result<Value, Error> {
    let Appending { there, warm_up, reports, retention, postmaster } = *appending;
    let opened = Opened::open(&fleet.database).await?;
    let store = opened.store();
    let history = fleet.history();
    let mut maker = Maker::new(enrol::read(&fleet.hosts_file)?, Arrival::Now);
    let mut future = history.reports(there);
    let mut make = |count: u64| {
        let made: Result<Vec<Append>, Error> =
            future.by_ref().take(count as usize).map(|report| maker.make(&report)).collect();
        made
    };
    append_all(&*store, make(warm_up)?).await?;
    let chunk = if retention { history.reports_a_day() } else { CHUNK };
    let mut used = Used::default();
    let (mut appended, mut pruned) = (0, 0);
    while appended < reports {
        let count = if retention { chunk } else { chunk.min(reports - appended) };
        let made = make(count)?;
        let clocks = Clocks::read(postmaster)?;
        if retention {
            pruned += count;
            tokio::try_join!(append_all(&*store, made), prune(&*store, before(history, pruned)))?;
        } else {
            append_all(&*store, made).await?;
        }
        clocks.add_to(&mut used, postmaster)?;
        appended += count;
    }
    if retention {
        // A day that somebody was reading is dropped later: now.
        prune(&*store, before(history, pruned)).await?;
    }
    opened.close().await;
    Ok(json!({
        "reports": appended,
        "seconds": used.elapsed.as_secs_f64(),
        "cpu_seconds": used.cpu.as_secs_f64(),
        "postgres_cpu_seconds": postmaster.map(|_| used.postgres_cpu.as_secs_f64()),
        "left": there + warm_up + appended - pruned,
    }))
}

async fn append_all(store: &dyn Store, made: Vec<Append>) -> Result<(), Error> {
    let mut made = made.into_iter();
    loop {
        let group: Vec<Append> = made.by_ref().take(GROUP).collect();
        if group.is_empty() {
            return Ok(());
        }
        check(&store.append(group).await?)?;
    }
}

/// The end of the oldest days that hold so many reports.
fn before(history: History, pruned: u64) -> i64 {
    let days = pruned / history.reports_a_day();
    history.recorded_at(0, 1) + days as i64 * DAY
}

async fn prune(store: &dyn Store, before: i64) -> Result<(), Error> {
    let at = |micros| Timestamp::from_unix_micros(micros).ok_or("a time outside the years 1970-9999");
    let prune = Prune {
        now: at(clock::unix_micros())?,
        snapshots_before: at(before)?,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: STEP,
    };
    while store.prune(&prune).await?.more {}
    Ok(())
}

/// Where the clocks stood.
struct Clocks {
    instant: std::time::Instant,
    cpu: Duration,
    postgres_cpu: Duration,
}

impl Clocks {
    fn read(postmaster: Option<u32>) -> Result<Self, Error> {
        let postgres_cpu = postmaster.map(process::family_cpu_time).transpose()?.unwrap_or_default();
        Ok(Self { instant: clock::instant(), cpu: own_cpu_time()?, postgres_cpu })
    }

    fn add_to(&self, used: &mut Used, postmaster: Option<u32>) -> Result<(), Error> {
        used.elapsed += self.instant.elapsed();
        let now = Self::read(postmaster)?;
        used.cpu += now.cpu.saturating_sub(self.cpu);
        used.postgres_cpu += now.postgres_cpu.saturating_sub(self.postgres_cpu);
        Ok(())
    }
}

/// Finer than the ticks of `/proc`: the timed parts are short.
fn own_cpu_time() -> Result<Duration, Error> {
    Ok(clock_gettime(ClockId::ProcessCPUTime).try_into()?)
}
