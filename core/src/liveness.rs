//! When silence counts: the monitor, which decides whether hosts that are not heard may be called unreachable.
//!
//! A host that is silent may be gone; so may be whoever listens. Every sweep of every replica passes through the one
//! [`Monitor`] of the store, which tells the two apart by two rules:
//!
//! - **Absence**: when nobody has swept for more than two ticks, nobody may have listened either. Verdicts are suspended for
//!   one window from then on, in which hosts that are there are heard.
//! - **Storm**: when at least [`STORM_HOSTS`] hosts, and at least half of those that were online, fall silent within one
//!   window, the likelier cause is on this side. The monitor is degraded and holds its verdicts back, for
//!   [`STORM_WINDOWS`] windows at most; then it makes them, and each event says so. An outage is never hidden for ever.
//!
//! What a single host shows of itself is [`Presence`](crate::host::Presence)'s.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How many hosts a storm has at least.
pub const STORM_HOSTS: u64 = 5;
/// For how many windows a storm holds verdicts back at most.
pub const STORM_WINDOWS: u32 = 5;
/// Into how many parts of a window falls are told apart: that bounds what a monitor remembers.
const PARTS: u32 = 16;

/// How sweeps go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After how much silence a host is unreachable.
    pub window: Duration,
    /// How often each replica sweeps.
    pub tick: Duration,
}

impl Pace {
    /// Hosts heard last before this are silent: [`Presence::silence`](crate::host::Presence::silence), turned round.
    pub fn silent_before(&self, now: Timestamp) -> Timestamp {
        now.saturating_sub(self.window)
    }
}

/// How many unarchived hosts are online in the store, by whether they were heard within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Not heard: they would fall now.
    pub silent: u64,
    /// Heard; counted up to [`Monitor::heard_to_count`].
    pub heard: u64,
}

/// What may be done with hosts that are silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are unreachable.
    Sweep {
        /// Many fell at once; the cause may be on this side.
        storm: bool,
    },
    /// Nothing yet: nobody has listened for a while.
    Suspended {
        /// Until when, unless there is another gap.
        until: Timestamp,
        /// When the last sweep before the gap was; `None` when there was none, or the clock was set back.
        absent_since: Option<Timestamp>,
    },
    /// Nothing yet: too many fell at once.
    Holding {
        /// Since when.
        since: Timestamp,
        /// Until when at most.
        until: Timestamp,
    },
}

/// What all replicas that sweep one store know together: kept in the store, as JSON, and changed by sweeps alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Monitor {
    last_sweep_at: Option<Timestamp>,
    suspension: Option<Suspension>,
    storm_since: Option<Timestamp>,
    fallen: Vec<Fallen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Suspension {
    since: Timestamp,
    absent_since: Option<Timestamp>,
}

/// Hosts that were called unreachable at about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Fallen {
    at: Timestamp,
    hosts: u64,
}

impl Monitor {
    /// When any replica last swept.
    pub const fn last_sweep_at(&self) -> Option<Timestamp> {
        self.last_sweep_at
    }

    /// Since when there is a storm, also once its verdicts are no longer held back.
    pub const fn storm_since(&self) -> Option<Timestamp> {
        self.storm_since
    }

    /// How many hosts that were heard have to be counted before a sweep that finds `silent`: more do not change the verdict.
    pub fn heard_to_count(&self, silent: u64, now: Timestamp, pace: Pace) -> u64 {
        let fallen = self.fallen_within(now, pace).saturating_add(silent);
        if fallen < STORM_HOSTS { 0 } else { fallen.saturating_add(1) }
    }

    /// A sweep at `now`, which has found `seen`.
    #[must_use]
    pub fn tick(mut self, now: Timestamp, pace: Pace, seen: Seen) -> (Self, Verdict) {
        self.note_absence(now, pace);
        if let Some(Suspension { since, absent_since }) = self.suspension {
            let until = since.saturating_add(pace.window);
            if now < until {
                return (self, Verdict::Suspended { until, absent_since });
            }
            self.suspension = None;
        }
        let verdict = self.weather(now, pace, seen);
        (self, verdict)
    }

    /// Notes that a sweep at `now` has called so many hosts unreachable.
    #[must_use]
    pub fn note_fallen(mut self, now: Timestamp, pace: Pace, hosts: u64) -> Self {
        self.fallen.retain(|fallen| is_within(*fallen, now, pace));
        match self.fallen.last_mut() {
            _ if hosts == 0 => {}
            Some(last) if now.saturating_since(last.at) < pace.window / PARTS => last.hosts += hosts,
            _ => self.fallen.push(Fallen { at: now, hosts }),
        }
        self
    }

    /// The last sweep may lie a little ahead, where replicas read clocks of their own. One that is a window ahead was made
    /// by a clock that was wrong, and says nothing of how long ago it was.
    fn note_absence(&mut self, now: Timestamp, pace: Pace) {
        match self.last_sweep_at {
            Some(last) if last.saturating_since(now) > pace.window => {
                self.suspension = Some(Suspension { since: now, absent_since: None });
                self.storm_since = self.storm_since.map(|since| since.min(now));
                self.fallen.retain(|fallen| fallen.at <= now);
                self.last_sweep_at = Some(now);
            }
            Some(last) => {
                if now.saturating_since(last) > pace.tick.saturating_mul(2) {
                    self.suspension = Some(Suspension { since: now, absent_since: Some(last) });
                }
                self.last_sweep_at = Some(last.max(now));
            }
            None => {
                self.suspension = Some(Suspension { since: now, absent_since: None });
                self.last_sweep_at = Some(now);
            }
        }
    }

    fn weather(&mut self, now: Timestamp, pace: Pace, seen: Seen) -> Verdict {
        let fallen = self.fallen_within(now, pace).saturating_add(seen.silent);
        // At least half of those that were online: of the fallen and those still heard.
        if fallen < STORM_HOSTS || fallen < seen.heard {
            self.storm_since = None;
            return Verdict::Sweep { storm: false };
        }
        let since = *self.storm_since.get_or_insert(now);
        let until = since.saturating_add(pace.window.saturating_mul(STORM_WINDOWS));
        if now < until { Verdict::Holding { since, until } } else { Verdict::Sweep { storm: true } }
    }

    fn fallen_within(&self, now: Timestamp, pace: Pace) -> u64 {
        let recent = self.fallen.iter().filter(|fallen| is_within(**fallen, now, pace));
        recent.fold(0, |sum, fallen| sum.saturating_add(fallen.hosts))
    }
}

fn is_within(fallen: Fallen, now: Timestamp, pace: Pace) -> bool {
    now.saturating_since(fallen.at) < pace.window
}
