//! Finding the hosts that have fallen silent.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, Either};

use crate::clock::Timestamp;
use crate::fleet::driver::flush_contacts;
use crate::fleet::{Fleet, Inner, Timer};
use crate::id::EventId;
use crate::liveness::{Pace, Verdict};
use crate::store::{StoreError, StoreErrorKind, Sweep, Swept};
use crate::wire::{MonitorReply, MonitorStatus};

/// How many hosts one step judges: a transaction that reports hardly notice.
const STEP: usize = 1_000;
/// How long reports have the store to themselves between two steps.
const PAUSE: Duration = Duration::from_millis(50);
/// After how long it is tried again at most when the store did not answer: one failure must not look like an absence.
const RETRY: Duration = Duration::from_secs(1);

/// What the last sweep of this replica said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    verdict: Verdict,
    storm_since: Option<Timestamp>,
    at: Timestamp,
    /// By the monotonic clock.
    heard: Duration,
}

impl Fleet {
    /// What the monitor of silence says of itself, as of this replica's last sweep. The store's other replicas keep the
    /// same monitor.
    pub fn monitor(&self) -> MonitorReply {
        let Inner { monitor, limits, clock, .. } = &*self.inner;
        let said = *monitor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut reply = MonitorReply {
            status: MonitorStatus::Stalled,
            last_sweep_at: said.map(|said| said.at),
            held_until: None,
            degraded_since: None,
        };
        // What was said two ticks ago is what a gap is told by.
        let pace = limits.sweep_pace();
        let Some(said) =
            said.filter(|said| clock.monotonic().saturating_sub(said.heard) <= pace.tick.saturating_mul(2))
        else {
            return reply;
        };
        (reply.status, reply.held_until) = match said.verdict {
            Verdict::Suspended { until, .. } => (MonitorStatus::Suspended, Some(until)),
            Verdict::Behind => (MonitorStatus::Suspended, None),
            Verdict::Holding { until, .. } => (MonitorStatus::Degraded, Some(until)),
            Verdict::Sweep { storm: true } => (MonitorStatus::Degraded, None),
            Verdict::Sweep { storm: false } => (MonitorStatus::Ok, None),
        };
        reply.degraded_since = said.storm_since.filter(|_| reply.status == MonitorStatus::Degraded);
        reply
    }
}

/// Sweeps at once, and then every tick, until `shutdown`. Any number of replicas may do it.
pub(super) async fn watch_silence(fleet: &Inner, timer: &impl Timer, shutdown: impl Future<Output = ()> + Unpin) {
    let mut shutdown = shutdown.fuse();
    let pace = fleet.limits.sweep_pace();
    loop {
        let began = fleet.clock.monotonic();
        let pause = match flush_and_sweep(fleet, pace).await {
            Ok(swept) => {
                note(fleet, &swept);
                if swept.more { PAUSE.min(pace.tick) } else { pace.tick }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "silent hosts were not looked for");
                RETRY.min(pace.tick)
            }
        };
        // A tick is from one sweep to the next, however long they take; but something is left to others.
        let pause = pause.saturating_sub(fleet.clock.monotonic().saturating_sub(began)).max(PAUSE.min(pace.tick));
        if let Either::Left(_) = future::select(&mut shutdown, timer.sleep(pause)).await {
            return;
        }
    }
}

/// What was heard here and is not written yet must not count as silence: while it cannot be written, nobody is judged. That
/// holds for contacts that come alone, and for those that reports bring.
async fn flush_and_sweep(fleet: &Inner, pace: Pace) -> Result<Swept, StoreError> {
    if fleet.uncommitted.waits_longer_than(pace.tick, fleet.now()) {
        return Err(StoreError::with_source(StoreErrorKind::Unavailable, "reports wait too long for their commit"));
    }
    flush_contacts(fleet).await?;
    fleet.store.sweep(sweep(fleet, pace)).await
}

fn sweep(fleet: &Inner, pace: Pace) -> Sweep {
    let now = fleet.now();
    let event_ids = (0..STEP).map(|_| EventId::generate(now, &*fleet.entropy)).collect();
    Sweep { now, pace, event_ids }
}

fn note(fleet: &Inner, swept: &Swept) {
    let Swept { monitor, verdict, events, .. } = swept;
    let Some(at) = monitor.last_sweep_at() else { return };
    let heard = fleet.clock.monotonic();
    let said = Said { verdict: *verdict, storm_since: monitor.storm_since(), at, heard };
    let before = fleet.monitor.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(said);
    if !events.is_empty() {
        tracing::info!(hosts = events.len(), "hosts are unreachable");
    }
    if before.is_some_and(|before| before.verdict == *verdict) {
        return;
    }
    match *verdict {
        Verdict::Suspended { until, absent_since: Some(since) } => {
            tracing::warn!(%since, %until, "nobody has looked for silent hosts: none is called unreachable");
        }
        Verdict::Suspended { until, absent_since: None } => {
            tracing::info!(%until, "silent hosts are looked for from now on: none is called unreachable yet");
        }
        Verdict::Behind => {
            tracing::warn!(last_sweep = %at, "the clock is far behind the last sweep's: nobody is called unreachable by it");
        }
        Verdict::Holding { since, until } => {
            tracing::warn!(%since, %until, "many hosts fell silent at once: none is called unreachable yet");
        }
        Verdict::Sweep { storm: true } => {
            tracing::warn!("many hosts fell silent at once, and are called unreachable now")
        }
        Verdict::Sweep { storm: false } if before.is_some() => tracing::info!("hosts that fall silent are unreachable"),
        Verdict::Sweep { storm: false } => {}
    }
}
