//! The lease: for how long the host may take itself for alive.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use enlist_core::Clock;
use tokio::sync::watch;

use crate::timer::Timer;

/// For how long the server will still hold this host for online. Cheap to clone.
///
/// Each acknowledged report or heartbeat renews it, counted by the monotonic clock from *sending* that request, so that
/// it ends before the server's verdict even if the reply was slow. Work that must not run in two places is called off
/// when it ends. It is not held before the first acknowledgement, and ends at once when the server refuses for good.
///
/// The monotonic clock of Linux stands still while the machine sleeps: after a suspend the lease looks longer than it is,
/// until the next contact.
#[derive(Clone)]
pub struct Lease {
    end: watch::Receiver<Option<Duration>>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
}

impl Lease {
    /// What is left of it; zero when it is not held.
    pub fn remaining(&self) -> Duration {
        let end = *self.end.borrow();
        end.map_or(Duration::ZERO, |end| end.saturating_sub(self.clock.monotonic()))
    }

    /// Whether it is held now.
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Waits until it is held. `false` when the agent has ended, so that it never will be. Dropping the future is fine.
    pub async fn held(&self) -> bool {
        let mut end = self.end.clone();
        loop {
            end.borrow_and_update();
            if self.is_held() {
                return true;
            }
            if end.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Waits until it is not held: at once if it is not, and across all renewals otherwise. Dropping the future is fine.
    pub async fn ended(&self) {
        let mut end = self.end.clone();
        loop {
            end.borrow_and_update();
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            tokio::select! {
                () = self.timer.sleep(remaining) => {}
                renewed = end.changed() => if renewed.is_err() {
                    // The agent has ended: nothing renews it, and it runs out.
                    self.timer.sleep(self.remaining()).await;
                    return;
                },
            }
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// The agent's end.
#[derive(Debug)]
pub(crate) struct LeaseHolder(watch::Sender<Option<Duration>>);

impl LeaseHolder {
    /// The server acknowledged a request that was sent at `sent`.
    pub(crate) fn renew(&self, sent: Duration, lease_ms: u64) {
        self.0.send_replace(Some(sent.saturating_add(Duration::from_millis(lease_ms))));
    }

    /// The server refuses for good.
    pub(crate) fn end(&self) {
        self.0.send_replace(None);
    }
}

pub(crate) fn lease(clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) -> (LeaseHolder, Lease) {
    let (sender, end) = watch::channel(None);
    (LeaseHolder(sender), Lease { end, clock, timer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::TokioTimer;
    use enlist_core::{ManualClock, Timestamp};

    #[test]
    fn it_counts_from_sending_and_not_from_the_reply() {
        let clock = Arc::new(ManualClock::new(Timestamp::MIN));
        let (holder, lease) = lease(Arc::clone(&clock) as _, Arc::new(TokioTimer));
        assert!(!lease.is_held(), "nothing was acknowledged yet");
        let sent = clock.monotonic();
        clock.advance(Duration::from_secs(10));
        holder.renew(sent, 60_000);
        assert_eq!(lease.remaining(), Duration::from_secs(50));
        // Whatever happens to the wall clock.
        clock.set(Timestamp::MIN);
        assert_eq!(lease.remaining(), Duration::from_secs(50));
        holder.end();
        assert!(!lease.is_held());
    }

    /// tokio's paused clock, as both hands.
    struct Paused(tokio::time::Instant);
    impl Clock for Paused {
        fn now(&self) -> Timestamp {
            Timestamp::MIN
        }
        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn its_end_is_waited_for_across_renewals() {
        let clock: Arc<dyn Clock> = Arc::new(Paused(tokio::time::Instant::now()));
        let (holder, lease) = lease(Arc::clone(&clock), Arc::new(TokioTimer));
        holder.renew(Duration::ZERO, 60_000);
        let renewals = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            holder.renew(clock.monotonic(), 60_000);
        };
        tokio::join!(lease.ended(), renewals);
        assert_eq!(clock.monotonic().as_secs(), 90);
    }
}
