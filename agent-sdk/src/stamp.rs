//! The times of reports: plausible to the server, and never the same twice.

use std::time::Duration;

use enlist_core::Timestamp;
use enlist_core::telemetry::CLOCK_AHEAD;

/// A clock that differs less than this from the server's is used as it is.
const TOLERANCE: Duration = Duration::from_secs(60);
const ONE: Duration = Duration::from_micros(1);

/// Stamps reports. The times of one agent rise strictly, also when its clock steps back.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// The newest that was given out and may be stored at the server.
    newest: Option<Timestamp>,
    /// The one before it.
    earlier: Option<Timestamp>,
    /// The newest that the server is known to have stored.
    stored: Option<Timestamp>,
    /// What to add to the agent's clock, in microseconds: zero until the server complains.
    offset: i64,
}

impl Stamps {
    /// The time of the next report.
    pub(crate) fn next(&mut self, now: Timestamp) -> Timestamp {
        let corrected = now.unix_micros().saturating_add(self.offset);
        let corrected = Timestamp::from_unix_micros(corrected).unwrap_or(now);
        let stamp = match self.newest {
            Some(newest) if corrected <= newest => newest.saturating_add(ONE),
            _ => corrected,
        };
        self.earlier = self.newest;
        self.newest = Some(stamp);
        stamp
    }

    /// The server has stored the report of this time; it showed `server_time`, and the agent's clock `now`.
    pub(crate) fn stored(&mut self, stamp: Timestamp, server_time: Timestamp, now: Timestamp) {
        self.stored = self.stored.max(Some(stamp));
        if self.offset != 0 {
            self.offset = correction(server_time, now);
        }
    }

    /// The server refused a time as implausible.
    pub(crate) fn implausible(&mut self, server_time: Timestamp, now: Timestamp) {
        self.offset = correction(server_time, now);
        // What lay too far ahead was never stored: it must not hold back the times to come.
        let latest = server_time.saturating_add(CLOCK_AHEAD);
        if self.newest > Some(latest) {
            let may_be_stored = if self.earlier <= Some(latest) { self.earlier } else { Some(latest) };
            self.newest = may_be_stored.max(self.stored);
        }
    }
}

fn correction(server_time: Timestamp, now: Timestamp) -> i64 {
    let offset = server_time.unix_micros() - now.unix_micros();
    if Duration::from_micros(offset.unsigned_abs()) < TOLERANCE { 0 } else { offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000).expect("a time")
    }

    proptest! {
        /// Whatever the clock does and the server says.
        #[test]
        fn no_time_that_may_be_stored_is_given_twice(
            steps in prop::collection::vec((0i64..20_000, 0i64..20_000, 0u8..3), 1..60)
        ) {
            let mut stamps = Stamps::default();
            let (mut stored, mut unknown) = (Vec::new(), Vec::new());
            for (now, server, what) in steps {
                let stamp = stamps.next(at(now));
                let newest = stored.iter().chain(&unknown).max().copied();
                prop_assert!(Some(stamp) > newest, "{stamp} after {newest:?}");
                match what {
                    0 => {
                        stamps.stored(stamp, at(server), at(now));
                        stored.push(stamp);
                    }
                    1 => unknown.push(stamp),
                    _ => {
                        stamps.implausible(at(server), at(now));
                        // This one was refused, and any that lay too far ahead was too.
                        unknown.retain(|&stamp| stamp <= at(server).saturating_add(CLOCK_AHEAD));
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_two_hours_ahead_is_corrected_by_the_second_report() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.next(at(20_000)), at(20_000));
        stamps.implausible(at(12_800), at(20_000));
        assert_eq!(stamps.next(at(20_030)), at(12_830));
    }

    #[test]
    fn the_correction_ends_when_the_clock_was_set_right() {
        let mut stamps = Stamps::default();
        stamps.next(at(1_000));
        stamps.implausible(at(90_000), at(1_000));
        let stamp = stamps.next(at(1_030));
        assert_eq!(stamp, at(90_030));
        stamps.stored(stamp, at(90_031), at(90_030));
        assert_eq!(stamps.next(at(90_060)), at(90_060));
    }

    #[test]
    fn times_rise_when_the_clock_stands_still() {
        let mut stamps = Stamps::default();
        let first = stamps.next(at(5_000));
        assert_eq!(stamps.next(at(5_000)), first.saturating_add(ONE));
        assert_eq!(stamps.next(at(5_000)), first.saturating_add(ONE * 2));
    }

    #[test]
    fn times_rise_when_the_clock_steps_back() {
        let mut stamps = Stamps::default();
        let first = stamps.next(at(5_000));
        assert_eq!(stamps.next(at(10)), first.saturating_add(ONE));
        assert_eq!(stamps.next(at(5_001)), at(5_001));
    }
}
