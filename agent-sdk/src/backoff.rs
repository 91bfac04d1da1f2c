//! How long to wait after a failure.
//!
//! Exponential, capped, and only then jittered over the whole range ("full jitter"): a fleet that lost its server at
//! one moment does not come back at another one. The crates for this add their jitter on top of the capped delay,
//! which keeps a floor under it and breaks the cap; hence these few lines.

use std::time::Duration;

use enlist_core::Entropy;
use enlist_core::wire::Problem;

use crate::error::ClientError;

/// The longest `Retry-After` that is believed. A proxy that says "next week" must not silence a host.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// After a refusal that a person has to resolve, the agent tries again after this long, and up to as much again.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// The delays after a run of failures: the n-th is drawn uniformly from `0 .. min(cap, base · 2ⁿ)`.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays whose upper bound starts at `base`, doubles with each failure, and never exceeds `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// For exchanges: 1 s to 30 s.
    pub const fn enrolment() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(30))
    }

    /// For reports and heartbeats: 1 s to 10 s, since the server counts silence.
    pub const fn contact() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(10))
    }

    /// The same with delays that never exceed `longest` either.
    #[must_use]
    pub fn within(self, longest: Duration) -> Self {
        Self { base: self.base.min(longest), cap: self.cap.min(longest), ..self }
    }

    /// The upper bound of the next delay.
    pub fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// Counts a failure and draws the delay after it.
    pub fn next_delay(&mut self, entropy: &dyn Entropy) -> Duration {
        let delay = full_jitter(self.ceiling(), entropy);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Forgets the failures: the next delay is a short one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay after this error: `Retry-After` (up to one hour) and the jittered delay on top of it, else the latter.
    pub fn delay_after(&mut self, error: &ClientError, entropy: &dyn Entropy) -> Duration {
        let asked = match error {
            ClientError::RetryLater { after, .. } => (*after).min(LONGEST_RETRY_AFTER),
            _ => Duration::ZERO,
        };
        asked + self.next_delay(entropy)
    }
}

/// Uniform in `0 .. ceiling`.
pub(crate) fn full_jitter(ceiling: Duration, entropy: &dyn Entropy) -> Duration {
    let mut random = [0; 8];
    entropy.fill(&mut random);
    let micros = ceiling.as_micros().min(u128::from(u64::MAX));
    // A 64-bit fraction of a 64-bit number: the product fits, and its upper half is below `micros`.
    let drawn = (micros * u128::from(u64::from_le_bytes(random))) >> 64;
    Duration::from_micros(u64::try_from(drawn).unwrap_or(u64::MAX))
}

/// How long a refused host waits: as the server asks, within reason, and 30 to 60 s otherwise.
pub(crate) fn refused_pause(problem: &Problem, entropy: &dyn Entropy) -> Duration {
    let asked = problem.retry_after.unwrap_or_default().clamp(REFUSED_PAUSE, LONGEST_RETRY_AFTER);
    asked + full_jitter(REFUSED_PAUSE, entropy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::wire::Code;
    use proptest::prelude::*;

    /// Draws the same fraction always.
    struct Fraction(u64);
    impl Entropy for Fraction {
        fn fill(&self, bytes: &mut [u8]) {
            for (byte, drawn) in bytes.iter_mut().zip(self.0.to_le_bytes()) {
                *byte = drawn;
            }
        }
    }

    proptest! {
        #[test]
        fn no_delay_exceeds_the_cap(base_ms in 1u64..100_000, cap_ms in 1u64..100_000, draw in any::<u64>()) {
            let cap = Duration::from_millis(cap_ms);
            let mut backoff = Backoff::new(Duration::from_millis(base_ms), cap);
            for _ in 0..80 {
                prop_assert!(backoff.next_delay(&Fraction(draw)) <= cap);
            }
        }

        /// Jitter before the cap would leave every agent of a long outage at the cap exactly.
        #[test]
        fn jitter_is_applied_after_the_cap(failures in 10u32..80, draw in any::<u64>()) {
            let cap = Duration::from_secs(30);
            let mut backoff = Backoff::new(Duration::from_secs(1), cap);
            for _ in 0..failures {
                backoff.next_delay(&Fraction(0));
            }
            let expected = cap.mul_f64(draw as f64 / 2f64.powi(64));
            let delay = backoff.next_delay(&Fraction(draw));
            prop_assert!(delay.abs_diff(expected) < Duration::from_millis(1), "{delay:?} against {expected:?}");
        }

        #[test]
        fn retry_after_is_never_cut_short(asked_s in 0u64..3_600, draw in any::<u64>(), failures in 0u32..80) {
            let mut backoff = Backoff { failures, ..Backoff::contact() };
            let after = Duration::from_secs(asked_s);
            let error = ClientError::RetryLater { status: 429, after, problem: None };
            let delay = backoff.delay_after(&error, &Fraction(draw));
            prop_assert!(delay >= after && delay <= after + Duration::from_secs(10));
        }
    }

    #[test]
    fn the_upper_bound_doubles_up_to_the_cap_and_starts_again_after_a_reset() {
        let mut backoff = Backoff::enrolment();
        let ceilings: Vec<u64> = (0..7)
            .map(|_| {
                let ceiling = backoff.ceiling().as_secs();
                backoff.next_delay(&Fraction(0));
                ceiling
            })
            .collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_secs(1));
    }

    #[test]
    fn an_absurd_retry_after_is_cut_to_an_hour() {
        let error = ClientError::RetryLater { status: 503, after: Duration::from_secs(1 << 40), problem: None };
        let delay = Backoff::contact().delay_after(&error, &Fraction(u64::MAX));
        assert!(delay <= Duration::from_secs(3_601), "{delay:?}");
    }

    #[test]
    fn an_absurd_retry_after_neither_panics_nor_silences_a_refused_host_for_good() {
        let after = |retry_after| {
            refused_pause(&Problem { retry_after, ..Problem::new(Code::TokenRevoked, "why") }, &Fraction(0))
        };
        assert_eq!(after(None), REFUSED_PAUSE);
        assert_eq!(after(Some(Duration::from_secs(120))), Duration::from_secs(120));
        assert_eq!(after(Some(Duration::MAX)), LONGEST_RETRY_AFTER);
        let longest = refused_pause(&Problem::new(Code::TokenRevoked, "why"), &Fraction(u64::MAX));
        assert!(longest > REFUSED_PAUSE && longest <= REFUSED_PAUSE * 2, "{longest:?}");
    }
}
