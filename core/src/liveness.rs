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
//! What a single host shows of itself is [`Presence`]'s. How long it may be silent is the fleet's window,
//! or a [`LivenessWindow`] of its own: [`Rule`] says who is silent. Both rules above go by the fleet's window.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::host::Presence;

/// How many hosts a storm has at least.
pub const STORM_HOSTS: u64 = 5;
/// For how many windows a storm holds verdicts back at most.
pub const STORM_WINDOWS: u32 = 5;
/// Up to how many silent hosts a sweep counts at first; see [`Monitor::silent_to_count`].
pub const SILENT_AT_FIRST: u64 = 1_000;
/// Into how many parts of a window falls are told apart: that bounds what a monitor remembers.
const PARTS: u32 = 16;

/// After how much silence one host is unreachable, where that is not its fleet's window: 3 s to 24 h, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct LivenessWindow(u32);

/// A window that is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a liveness window is 3 to 86400 seconds")]
pub struct InvalidWindow;

impl LivenessWindow {
    /// The shortest that there may be.
    pub const SHORTEST: Self = Self(3);
    /// The longest.
    pub const LONGEST: Self = Self(24 * 60 * 60);

    /// A window of so many seconds.
    ///
    /// # Errors
    /// When it is too short or too long.
    pub fn from_secs(seconds: u64) -> Result<Self, InvalidWindow> {
        let window = u32::try_from(seconds).map(Self).map_err(|_| InvalidWindow)?;
        if (Self::SHORTEST..=Self::LONGEST).contains(&window) { Ok(window) } else { Err(InvalidWindow) }
    }

    /// How many seconds it has.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// How long it is.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl TryFrom<u64> for LivenessWindow {
    type Error = InvalidWindow;

    fn try_from(seconds: u64) -> Result<Self, InvalidWindow> {
        Self::from_secs(seconds)
    }
}

impl From<LivenessWindow> for u64 {
    fn from(window: LivenessWindow) -> Self {
        window.0.into()
    }
}

/// How sweeps go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After how much silence a host is unreachable that has no window of its own.
    pub window: Duration,
    /// How often each replica sweeps.
    pub tick: Duration,
}

/// Who is silent at a moment. Silence counts from a host's last contact or from the end of the monitor's own absence, whichever
/// is later; a host is silent when more than its window has gone by since the one, and no less since the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The moment.
    pub now: Timestamp,
    /// The fleet's window.
    pub window: Duration,
    /// The end of the monitor's last absence: contacts before it may have been missed.
    pub listening_since: Timestamp,
}

impl Rule {
    /// Hosts with this window of their own that were heard last before this were not heard within it.
    pub fn heard_from(&self, own: Option<LivenessWindow>) -> Timestamp {
        self.now.saturating_sub(self.window_of(own))
    }

    /// Those of them that were heard last before this are silent: none as long as nobody has listened for as long.
    pub fn silent_before(&self, own: Option<LivenessWindow>) -> Timestamp {
        if self.has_listened(own) { self.heard_from(own) } else { Timestamp::MIN }
    }

    /// What becomes of a host with this window of its own.
    #[must_use]
    pub fn judge(&self, presence: Presence, own: Option<LivenessWindow>) -> Presence {
        if self.has_listened(own) { presence.silence(self.now, self.window_of(own)) } else { presence }
    }

    fn has_listened(&self, own: Option<LivenessWindow>) -> bool {
        self.now.saturating_since(self.listening_since) >= self.window_of(own)
    }

    fn window_of(&self, own: Option<LivenessWindow>) -> Duration {
        own.map_or(self.window, LivenessWindow::duration)
    }
}

/// How many unarchived hosts are online in the store, by [`Rule`]. Those that were not heard within their window, and have not
/// been listened for as long either, are neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Silent: they would fall now. Counted as far as [`Monitor::silent_to_count`] says, or all.
    pub silent: u64,
    /// Heard within their window. Counted up to [`Monitor::heard_to_count`], or all.
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
    /// Nothing by this clock, which is more than a window behind the last sweep's: one of the two is wrong, and while others
    /// sweep it is taken for this one.
    Behind,
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
    /// When the last absence ended; kept beyond the suspension, for windows that are longer.
    listening_since: Option<Timestamp>,
    storm_since: Option<Timestamp>,
    fallen: Vec<Fallen>,
    behind: Option<Behind>,
    /// What a later version keeps there: replicas of two versions sweep one store, and the older must not erase it.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A clock that is far behind the last sweep's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Behind {
    last_sweep_at: Timestamp,
    /// Since when that has been the last sweep, by the clock that is behind.
    since: Timestamp,
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

    /// Who is silent at `now`. A sweep that ends an absence finds who was before it: then it makes no verdict.
    pub fn rule(&self, now: Timestamp, pace: Pace) -> Rule {
        Rule { now, window: pace.window, listening_since: self.listening_since.unwrap_or(Timestamp::MIN) }
    }

    /// How many hosts that were heard have to be counted before a sweep that finds `silent`: more do not change the verdict.
    pub fn heard_to_count(&self, silent: u64, now: Timestamp, pace: Pace) -> u64 {
        let fallen = self.fallen_within(now, pace).saturating_add(silent);
        if fallen < STORM_HOSTS { 0 } else { fallen.saturating_add(1) }
    }

    /// How far to count silent hosts anew, when counts have not shown what the verdict is: of the silent ones up to `limit`,
    /// which is [`SILENT_AT_FIRST`] to begin with, and then of those heard up to [`Monitor::heard_to_count`]. `None`: they
    /// have. So the smaller of the two decides what a sweep costs, also while all of a large fleet is silent.
    pub fn silent_to_count(&self, counted: Seen, limit: u64, now: Timestamp, pace: Pace) -> Option<u64> {
        let more_may_matter =
            counted.silent >= limit && counted.heard >= self.heard_to_count(counted.silent, now, pace);
        more_may_matter.then(|| limit.saturating_mul(4))
    }

    /// A sweep at `now`, which has found `seen`.
    #[must_use]
    pub fn tick(mut self, now: Timestamp, pace: Pace, seen: Seen) -> (Self, Verdict) {
        if self.is_behind(now, pace) {
            return (self, Verdict::Behind);
        }
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

    /// The last sweep may lie a little ahead, where replicas read clocks of their own. More than a window ahead, it was made by
    /// another replica whose clock is right, or by a clock that was wrong or has been set back since: then nobody sweeps by
    /// that clock any more, and it is forgotten.
    fn is_behind(&mut self, now: Timestamp, pace: Pace) -> bool {
        let Some(last) = self.last_sweep_at.filter(|last| last.saturating_since(now) > pace.window) else {
            return false;
        };
        match &mut self.behind {
            Some(behind) if behind.last_sweep_at == last => {
                // Ticks are at most a third of a window.
                if now.saturating_since(behind.since) <= pace.tick.saturating_mul(2).min(pace.window) {
                    behind.since = behind.since.min(now);
                    return true;
                }
            }
            behind => {
                *behind = Some(Behind { last_sweep_at: last, since: now });
                return true;
            }
        }
        *self = Self { storm_since: self.storm_since.map(|since| since.min(now)), ..Self::default() };
        false
    }

    fn note_absence(&mut self, now: Timestamp, pace: Pace) {
        match self.last_sweep_at {
            Some(last) => {
                if now.saturating_since(last) > pace.tick.saturating_mul(2) {
                    self.suspend(now, Some(last));
                }
                self.last_sweep_at = Some(last.max(now));
            }
            None => {
                self.suspend(now, None);
                self.last_sweep_at = Some(now);
            }
        }
    }

    fn suspend(&mut self, now: Timestamp, absent_since: Option<Timestamp>) {
        self.suspension = Some(Suspension { since: now, absent_since });
        self.listening_since = Some(now);
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
