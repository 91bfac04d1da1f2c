//! The one place that reads the clocks: a bench measures real time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the home of the wall clock in this crate")]
pub fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A moment of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the home of the monotonic clock in this crate")]
pub fn instant() -> Instant {
    Instant::now()
}
