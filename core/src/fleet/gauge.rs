//! How much of something waits or is held, within a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What comes first when there is little room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Reports of this moment: may take all of a gauge.
    Live,
    /// Reports of the past: may take half of it, so that the others find room in a storm of them.
    CatchUp,
}

/// A bounded amount.
#[derive(Debug)]
pub(super) struct Gauge {
    max: usize,
    total: AtomicUsize,
    /// What catch-up has of it.
    catch_up: AtomicUsize,
}

/// A part of a gauge, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    gauge: Arc<Gauge>,
    lane: Lane,
    amount: usize,
}

impl Gauge {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, total: AtomicUsize::new(0), catch_up: AtomicUsize::new(0) })
    }

    /// A claim to nothing yet.
    pub(super) fn claim(self: &Arc<Self>, lane: Lane) -> Claim {
        Claim { gauge: Arc::clone(self), lane, amount: 0 }
    }

    /// Takes `more`, or nothing. What passes the bound by itself is taken only where nothing else is: it would otherwise be
    /// refused for ever.
    fn take(&self, lane: Lane, more: usize) -> bool {
        let half = self.max / 2;
        match lane {
            Lane::Live => raise(&self.total, more, self.max),
            Lane::CatchUp => {
                let of_all = if more > half { 0 } else { self.max };
                let taken = raise(&self.catch_up, more, half);
                if taken && !raise(&self.total, more, of_all) {
                    self.catch_up.fetch_sub(more, Ordering::Relaxed);
                    return false;
                }
                taken
            }
        }
    }

    fn give_back(&self, lane: Lane, amount: usize) {
        self.total.fetch_sub(amount, Ordering::Relaxed);
        if lane == Lane::CatchUp {
            self.catch_up.fetch_sub(amount, Ordering::Relaxed);
        }
    }
}

/// Adds `more` unless something is there and the sum passes `max`.
fn raise(value: &AtomicUsize, more: usize, max: usize) -> bool {
    let raised = |now: usize| now.checked_add(more).filter(|sum| now == 0 || *sum <= max);
    value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raised).is_ok()
}

impl Claim {
    /// Takes `more` of the gauge besides what it has; `false`, and nothing changed, when there is no room.
    #[must_use]
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let taken = self.gauge.take(self.lane, more);
        if taken {
            self.amount += more;
        }
        taken
    }

    /// Hands `amount` of it over to a claim of its own.
    pub(super) fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { gauge: Arc::clone(&self.gauge), lane: self.lane, amount }
    }

    pub(super) const fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.gauge.give_back(self.lane, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(gauge: &Arc<Gauge>, lane: Lane, amount: usize) -> Option<Claim> {
        let mut claim = gauge.claim(lane);
        claim.grow(amount).then_some(claim)
    }

    #[test]
    fn catch_up_takes_half_and_live_all() {
        let gauge = Gauge::new(10);
        let first = taken(&gauge, Lane::CatchUp, 3).expect("there is room");
        assert!(taken(&gauge, Lane::CatchUp, 3).is_none());
        let second = taken(&gauge, Lane::CatchUp, 2).expect("half of it");
        let live = taken(&gauge, Lane::Live, 5).expect("the other half");
        assert!(taken(&gauge, Lane::Live, 1).is_none());
        drop((first, second));
        assert!(taken(&gauge, Lane::Live, 6).is_none());
        let others = taken(&gauge, Lane::Live, 5).expect("what catch-up gave back");
        assert!(taken(&gauge, Lane::CatchUp, 1).is_none(), "live has all of it");
        drop((live, others));
        assert_eq!(gauge.total.load(Ordering::Relaxed), 0);
        assert_eq!(gauge.catch_up.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_too_large_by_itself_is_taken_alone() {
        let gauge = Gauge::new(10);
        let one = taken(&gauge, Lane::Live, 1).expect("there is room");
        assert!(taken(&gauge, Lane::CatchUp, 6).is_none());
        assert!(taken(&gauge, Lane::Live, 11).is_none());
        drop(one);
        let large = taken(&gauge, Lane::CatchUp, 600).expect("nothing else is there");
        assert!(taken(&gauge, Lane::Live, 1).is_none() && taken(&gauge, Lane::CatchUp, 1).is_none());
        drop(large);
        assert!(taken(&gauge, Lane::Live, 11).is_some());
    }

    #[test]
    fn parts_of_a_claim_are_given_back_one_by_one() {
        let gauge = Gauge::new(10);
        let mut claim = taken(&gauge, Lane::CatchUp, 5).expect("there is room");
        let part = claim.split(2);
        assert_eq!((claim.amount(), part.amount()), (3, 2));
        drop(claim);
        assert!(taken(&gauge, Lane::CatchUp, 4).is_none());
        assert!(taken(&gauge, Lane::CatchUp, 3).is_some());
        drop(part);
        assert!(taken(&gauge, Lane::CatchUp, 5).is_some());
    }
}
