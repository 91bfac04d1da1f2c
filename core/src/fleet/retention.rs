//! What is too old goes, a little at a time.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, Either};

use crate::fleet::{Inner, Timer};
use crate::store::Prune;

/// How many rows of a kind one step deletes: ten or twenty milliseconds on SQLite, where reports wait for it. Of fewer, each
/// costs more: old reports lie side by side, but what finds them by host does not, and each step writes all of that once.
const STEP: usize = 4_000;
/// How long others have the store to themselves between two steps.
const PAUSE: Duration = Duration::from_millis(50);

/// Deletes what is too old at once, and then every interval, until `shutdown`. Any number of replicas may do it.
pub(super) async fn prune_store(fleet: &Inner, timer: &impl Timer, shutdown: impl Future<Output = ()> + Unpin) {
    let mut shutdown = shutdown.fuse();
    loop {
        let pause = match fleet.store.prune(&what_is_old(fleet)).await {
            Ok(pruned) if pruned.more => PAUSE,
            Ok(_) => fleet.limits.prune_interval,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "what is too old was not deleted");
                fleet.limits.prune_interval
            }
        };
        if let Either::Left(_) = future::select(&mut shutdown, timer.sleep(pause)).await {
            return;
        }
    }
}

fn what_is_old(fleet: &Inner) -> Prune {
    let (now, limits) = (fleet.now(), &fleet.limits);
    Prune {
        now,
        snapshots_before: now.saturating_sub(limits.telemetry_retention),
        events_before: now.saturating_sub(limits.event_retention),
        containers_removed_before: now.saturating_sub(limits.removed_container_retention),
        tombstones_before: now.saturating_sub(limits.tombstone_retention),
        install_tokens_before: now.saturating_sub(limits.install_token_retention),
        limit: STEP,
    }
}
