//! Listening to what other processes cut off, so that the cache of credentials forgets it at once.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, Either};

use crate::fleet::{Inner, Timer};
use crate::store::{Change, Subscription};

/// How often the subscription has to prove that it works.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);
/// How long the proof may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// Follows the store's subscription, and begins another whenever one is lost, until `shutdown`. Returns at once when
/// the store has none: the cache then believes itself for a second only.
pub(super) async fn watch_changes(fleet: &Inner, timer: &impl Timer, shutdown: impl Future<Output = ()> + Unpin) {
    let mut shutdown = shutdown.fuse();
    loop {
        let subscribed = match future::select(&mut shutdown, fleet.store.subscribe()).await {
            Either::Left(_) => return,
            Either::Right((subscribed, _)) => subscribed,
        };
        match subscribed {
            Ok(None) => return,
            Ok(Some(mut subscription)) => {
                // What happened before it began was told to nobody.
                fleet.forget_all();
                let followed = follow(fleet, timer, &mut *subscription).boxed();
                if let Either::Left(_) = future::select(&mut shutdown, followed).await {
                    return;
                }
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "not told of changes by others"),
        }
        if let Either::Left(_) = future::select(&mut shutdown, timer.sleep(SYNC_INTERVAL)).await {
            return;
        }
    }
}

/// Applies changes as they come, until the subscription is lost. It is believed from its first proof on.
async fn follow(fleet: &Inner, timer: &impl Timer, subscription: &mut dyn Subscription) {
    while prove(fleet, timer, subscription).await {
        let mut tick = timer.sleep(SYNC_INTERVAL);
        // The tick is asked first: a flood of changes must not keep the proof away.
        while let Either::Right((change, _)) = future::select(&mut tick, subscription.next()).await {
            apply(fleet, change).await;
        }
    }
}

/// Whether the subscription still works: then everything committed before has been applied.
async fn prove(fleet: &Inner, timer: &impl Timer, subscription: &mut dyn Subscription) -> bool {
    let asked_at = fleet.clock.monotonic();
    let failed = match future::select(subscription.sync(), timer.sleep(SYNC_TIMEOUT)).await {
        Either::Left((synced, _)) => synced.err().map(Some),
        Either::Right(_) => Some(None),
    };
    if let Some(error) = failed {
        let error = error.as_ref().map(|error| error as &dyn std::error::Error);
        tracing::warn!(error, "lost touch with changes by others: every credential is read from the store");
        return false;
    }
    while let Some(change) = subscription.next().now_or_never() {
        apply(fleet, change).await;
    }
    fleet.heard(asked_at);
    true
}

async fn apply(fleet: &Inner, change: Change) {
    match change {
        Change::AgentTokens(hashes) => {
            fleet.forget_rotated(&hashes);
            #[cfg(feature = "access-tokens")]
            if fleet.access_tokens.is_some() && !were_replaced(fleet, &hashes).await {
                fleet.forget(&hashes);
            }
        }
        Change::Gap => fleet.forget_all(),
    }
}

/// Whether all of these were replaced by successors: then no access token has ended with them, and a rotation somewhere in
/// the fleet does not cost every other host a read. What cannot be read counts as cut off.
#[cfg(feature = "access-tokens")]
async fn were_replaced(fleet: &Inner, hashes: &[crate::TokenHash]) -> bool {
    for hash in hashes {
        match fleet.store.authenticate(hash).await {
            Ok(Some(crate::store::Known::Credential(credential))) if credential.token.was_replaced() => {}
            _ => return false,
        }
    }
    true
}
