//! Sweeps, in a time of their own: it runs from when the fleet was made towards now, as fast as sweeps are made.

use std::time::Duration;

use enlist_benches::{Error, clock};
use enlist_core::liveness::{Pace, Verdict};
use enlist_core::store::{Contact, Store, Sweep, Swept};
use enlist_core::{EventId, SystemEntropy, Timestamp};

use super::built::Built;
use crate::enrol::Reporter;

/// As the server's default.
const WINDOW: Duration = Duration::from_secs(90);
/// So that a turn of falling silent is no gap between two sweeps.
const PACE: Pace = Pace { window: WINDOW, tick: WINDOW };
/// How many hosts one sweep judges: as the fleet's own.
pub(super) const STEP: usize = 1_000;
const SECOND: Duration = Duration::from_secs(1);

/// What sweeps have come to.
pub(super) struct Watch {
    /// When the last sweep was.
    at: Timestamp,
    /// Nobody is heard after this, but for those that fall silent again and again.
    last_heard: Timestamp,
    /// Who falls silent again and again: as many as one sweep judges, and not so many as to be a storm.
    restless: Vec<Reporter>,
}

/// What is measured of sweeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// So many hosts fell silent since the last one.
    Of(usize),
    /// Nobody did.
    None,
    /// Everybody did: a storm, and verdicts are held back.
    Held,
    /// Everybody did, and long enough ago: a step of calling them unreachable.
    Storm,
}

impl Silence {
    /// Whether a sweep that finds it writes for each host.
    pub(super) const fn writes(self) -> bool {
        matches!(self, Self::Of(_) | Self::Storm)
    }
}

impl Watch {
    /// How many hosts fall silent again and again, of so many that are online.
    pub(super) fn restless_of(online: usize) -> usize {
        STEP.min(online * 2 / 5)
    }

    /// Sweeps until those that were heard last by `fell` are unreachable. The restless ones were, too, and are heard once
    /// more; all others are heard until `last_heard`.
    pub(super) async fn begin(
        store: &dyn Store,
        restless: Vec<Reporter>,
        fell: Timestamp,
        last_heard: Timestamp,
    ) -> Result<Self, Error> {
        let mut watch = Self { at: fell, last_heard, restless };
        // The first one of all calls nobody unreachable: it may have been away.
        watch.sweep(store).await?;
        watch.fall(store, watch.restless.len()).await?;
        // A second before these are silent.
        watch.at = watch.at.saturating_sub(SECOND);
        while watch.sweep(store).await?.more {}
        Ok(watch)
    }

    /// How many fall silent again and again.
    pub(super) fn restless(&self) -> usize {
        self.restless.len()
    }

    /// The first of them are heard, and then for a window nobody is.
    async fn fall(&mut self, store: &dyn Store, many: usize) -> Result<(), Error> {
        let at = self.at.saturating_add(SECOND);
        let contacts = self.restless[..many].iter().map(|Reporter { host_id, token_id }| Contact {
            host_id: *host_id,
            token_id: *token_id,
            at,
            event_id: EventId::generate(at, &SystemEntropy),
        });
        store.touch(contacts.collect()).await?;
        self.at = at.saturating_add(WINDOW + SECOND);
        Ok(())
    }

    async fn sweep(&self, store: &dyn Store) -> Result<Swept, Error> {
        Ok(store.sweep(self.next(STEP)).await?)
    }

    fn next(&self, limit: usize) -> Sweep {
        let event_ids = (0..limit).map(|_| EventId::generate(self.at, &SystemEntropy)).collect();
        Sweep { now: self.at, pace: PACE, event_ids }
    }
}

impl Built {
    /// Makes what the next sweeps are to find.
    pub(super) async fn prepare(&mut self, silence: Silence) -> Result<(), Error> {
        let watch = &mut self.watch;
        match silence {
            Silence::Of(_) | Silence::None => {}
            Silence::Held => {
                // The way here was a gap: nothing is judged for a window.
                watch.at = watch.at.max(watch.last_heard).saturating_add(WINDOW * 2);
                watch.sweep(&*self.store).await?;
                watch.at = watch.at.saturating_add(WINDOW);
                watch.sweep(&*self.store).await?;
            }
            Silence::Storm => loop {
                watch.at = watch.at.saturating_add(WINDOW);
                if let Verdict::Sweep { .. } = self.store.sweep(watch.next(1)).await?.verdict {
                    break;
                }
            },
        }
        Ok(())
    }

    /// One sweep: how long it took, and how many it has called unreachable. `None` when there are not so many to be found,
    /// or no more.
    pub(super) async fn sweep(&mut self, silence: Silence) -> Result<Option<(Duration, usize)>, Error> {
        let watch = &mut self.watch;
        match silence {
            Silence::Of(many) if many > watch.restless() => return Ok(None),
            Silence::Of(many) => watch.fall(&*self.store, many).await?,
            Silence::None | Silence::Held | Silence::Storm => watch.at = watch.at.saturating_add(SECOND),
        }
        let sweep = watch.next(STEP);
        let started = clock::instant();
        let swept = self.store.sweep(sweep).await?;
        let took = started.elapsed();
        let judged = swept.events.len();
        let as_meant = match (silence, swept.verdict) {
            (Silence::Of(many), Verdict::Sweep { storm: false }) => judged == many && !swept.more,
            (Silence::None, Verdict::Sweep { storm: false }) | (Silence::Held, Verdict::Holding { .. }) => judged == 0,
            // What falls by steps ceases to be a storm with the last of them.
            (Silence::Storm, Verdict::Sweep { .. }) if judged == 0 => return Ok(None),
            (Silence::Storm, Verdict::Sweep { .. }) => true,
            _ => false,
        };
        if !as_meant {
            return Err(format!("{silence:?}: a sweep of {judged} hosts, {:?}", swept.verdict).into());
        }
        Ok(Some((took, judged)))
    }
}
