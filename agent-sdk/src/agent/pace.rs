//! When the next report is due.

use std::time::Duration;

use enlist_core::HostId;

use crate::backoff::LONGEST_RETRY_AFTER;

/// What no server and no builder gets below.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// The interval between reports, and this host's place in it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What the builder asked for.
    wished: Option<Duration>,
    /// The host's place in an interval, of 2³².
    phase: u32,
    /// Whether the next wait leads to that place.
    aligned: bool,
}

impl Pace {
    pub(super) fn new(wished: Option<Duration>) -> Self {
        Self { wished, ..Self::default() }
    }

    /// The last bytes of an id are random: hosts are spread evenly.
    pub(super) fn set_host(&mut self, host_id: HostId) {
        let [.., a, b, c, d] = *host_id.as_uuid().as_bytes();
        self.phase = u32::from_be_bytes([a, b, c, d]);
    }

    /// Leads to the host's place in the interval again.
    pub(super) fn align(&mut self) {
        self.aligned = false;
    }

    /// How long to wait after a contact that the server acknowledged and that was sent `since_sent` ago.
    pub(super) fn after(&mut self, asked: Duration, since_sent: Duration) -> Duration {
        // One wrong answer must not silence a host for good.
        let interval = self.wished.map_or(asked, |wished| wished.min(asked)).clamp(SHORTEST, LONGEST_RETRY_AFTER);
        if std::mem::replace(&mut self.aligned, true) {
            // A server that takes longer than the interval to answer is not asked without any pause.
            interval.saturating_sub(since_sent).max(interval / 10)
        } else {
            interval.mul_f64(f64::from(self.phase) / 2f64.powi(32)).max(SHORTEST)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pace(wished: Option<u64>, phase: u32) -> Pace {
        Pace { wished: wished.map(Duration::from_secs), phase, aligned: true }
    }

    #[test]
    fn the_server_sets_the_pace_and_the_builder_can_only_quicken_it() {
        let after = |wished, asked| pace(wished, 0).after(Duration::from_secs(asked), Duration::ZERO).as_secs();
        assert_eq!(after(None, 30), 30);
        assert_eq!(after(Some(2), 30), 2);
        assert_eq!(after(Some(60), 30), 30);
        assert_eq!(after(Some(0), 30), 1);
        assert_eq!(after(None, 0), 1);
        assert_eq!(after(None, u64::MAX / 1_000), 3_600);
    }

    #[test]
    fn time_spent_on_the_contact_is_not_waited_again() {
        assert_eq!(pace(None, 0).after(MINUTE, Duration::from_secs(5)), Duration::from_secs(55));
        assert_eq!(pace(None, 0).after(MINUTE, MINUTE * 3), Duration::from_secs(6));
    }

    #[test]
    fn the_wait_after_the_first_contact_is_the_hosts_place_in_the_interval() {
        let mut quarter = pace(None, 1 << 30);
        quarter.align();
        assert_eq!(quarter.after(MINUTE, Duration::ZERO), MINUTE / 4);
        assert_eq!(quarter.after(MINUTE, Duration::ZERO), MINUTE);
        let mut last = pace(None, u32::MAX);
        last.align();
        assert!(last.after(MINUTE, Duration::ZERO) <= MINUTE);
    }
}
