//! Windows, sizes and rates of a fleet.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::FieldError;
use crate::fleet::builder::BuildError;
use crate::fleet::error::RateLimited;
use crate::fleet::rate::KeyedLimit;
use crate::id::{AgentTokenId, HostId};
use crate::liveness::{LivenessWindow, Pace};

/// Windows, sizes and rates of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// After how much silence a host counts as unreachable that has no window of its own. Default 90 s.
    pub liveness_window: Duration,
    /// How often each replica looks for hosts that have fallen silent; at least three times a liveness window. When nobody has
    /// for twice as long, no host is called unreachable for one window. Default 10 s.
    pub sweep_interval: Duration,
    /// How often agents shall report; at most a third of the liveness window is asked for. Default 30 s.
    pub report_interval: Duration,
    /// How long an install token can be exchanged unless its maker says otherwise. Default 15 min.
    pub install_token_life: Duration,
    /// The largest body of an agent's request, in bytes, as it is sent and as it inflates. Default 1 MiB. HTTP adapters hold
    /// to it.
    pub body_bytes: usize,
    /// The largest body of a batch of reports, in bytes, as it inflates; compressed it is sent in `body_bytes` at most.
    /// Default 8 MiB. HTTP adapters hold to it.
    pub batch_body_bytes: usize,
    /// How many reports may wait for the store; those of batches fill at most half of it. Default 4,096. A batch that is
    /// larger than that half by itself is taken only while nothing else waits.
    pub queue_reports: usize,
    /// How many bytes of JSON may wait for the store; those of batches fill at most half of it. As much again is held at most
    /// in bodies of batches and in what other bodies inflated to. Default 64 MiB.
    pub queue_bytes: usize,
    /// How many reports one transaction takes, and up to half as many more that came in one batch. Default 256.
    pub batch_reports: usize,
    /// How many bytes of JSON one transaction takes before the last of its reports is added. Default 4 MiB.
    pub batch_bytes: usize,
    /// How many credentials are remembered, at some 200 bytes each. Default 200,000. Each that is not costs a look into the store.
    pub cached_credentials: usize,
    /// How long one is remembered; never more than 30 s. Default 30 s.
    pub credential_cache_ttl: Duration,
    /// How long reports are kept, by when they were measured. Default 30 days.
    pub telemetry_retention: Duration,
    /// How long events are kept. Default 365 days.
    pub event_retention: Duration,
    /// How long containers that are gone are shown. Default 7 days.
    pub removed_container_retention: Duration,
    /// How long the credentials of a deleted host are answered with that. Default 365 days.
    pub tombstone_retention: Duration,
    /// How long install tokens are listed that are of no use any more: expired, revoked, or exchanged for a credential that has
    /// ended. What is presented later is unknown, and its hash is never taken again. At least 30 days; default 365 days.
    pub install_token_retention: Duration,
    /// How often what is too old is deleted. Default 1 h.
    pub prune_interval: Duration,
    /// How often contacts without a report are written; never more than 5 s. Default 1 s.
    pub contact_interval: Duration,
    /// How long an agent token lives from its first use on, and each of its successors; `None` for ever. Agents rotate at
    /// two thirds of it, and can for 7 days after its end. 3 minutes at least; default none.
    pub agent_token_life: Option<Duration>,
    /// How long after its first use an agent is asked to rotate its token; `None` for never. Default none.
    pub rotate_after: Option<Duration>,
    /// How many refused exchanges a minute an address may have (IPv6: a /64); `None` for no limit. Default 30.
    pub refused_exchanges_per_minute: Option<NonZeroU32>,
    /// How many live reports and heartbeats a minute an agent token may send, all of a minute's at once if it likes; `None`
    /// for no limit. Default 60.
    pub live_per_minute: Option<NonZeroU32>,
    /// How many batches a minute an agent token may send besides; `None` for no limit. Default 12.
    pub batches_per_minute: Option<NonZeroU32>,
    /// How many proposals of successors and refreshes together a minute a host may send; `None` for no limit. Default 12.
    /// Of the host, since each rotation makes another token.
    pub rotations_per_minute: Option<NonZeroU32>,
    /// How many feeds of events may be open at a time. Default 256.
    pub event_feeds: usize,
    /// How many of them one actor may have. Default 32.
    pub event_feeds_per_actor: usize,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Limits {
    fn default() -> Self {
        Self {
            liveness_window: Duration::from_secs(90),
            sweep_interval: Duration::from_secs(10),
            report_interval: Duration::from_secs(30),
            install_token_life: crate::install_token::DEFAULT_LIFE,
            body_bytes: 1 << 20,
            batch_body_bytes: 8 << 20,
            queue_reports: 4096,
            queue_bytes: 64 << 20,
            batch_reports: 256,
            batch_bytes: 4 << 20,
            cached_credentials: 200_000,
            credential_cache_ttl: Duration::from_secs(30),
            telemetry_retention: 30 * DAY,
            event_retention: 365 * DAY,
            removed_container_retention: 7 * DAY,
            tombstone_retention: 365 * DAY,
            install_token_retention: 365 * DAY,
            prune_interval: Duration::from_secs(60 * 60),
            contact_interval: Duration::from_secs(1),
            agent_token_life: None,
            rotate_after: None,
            refused_exchanges_per_minute: NonZeroU32::new(30),
            live_per_minute: NonZeroU32::new(60),
            batches_per_minute: NonZeroU32::new(12),
            rotations_per_minute: NonZeroU32::new(12),
            event_feeds: 256,
            event_feeds_per_actor: 32,
        }
    }
}

impl Limits {
    /// The liveness window of a host that has this one of its own.
    pub(super) fn window_of(&self, own: Option<LivenessWindow>) -> Duration {
        own.map_or(self.liveness_window, LivenessWindow::duration)
    }

    /// How often the agent of such a host is asked to report.
    pub(super) fn report_pace(&self, own: Option<LivenessWindow>) -> Duration {
        self.report_interval.min(self.window_of(own) / 3)
    }

    /// Whether a host may have this window of its own: as the fleet's may be what it is.
    pub(super) fn check_window(&self, own: LivenessWindow) -> Result<(), FieldError> {
        let refuse = |why: &str| Err(FieldError::invalid("/liveness_window_seconds", why));
        if !self.lets_report(Some(own)) {
            return refuse("too short: an agent may not report three times within it (live_per_minute)");
        }
        if self.contact_interval > own.duration() / 3 {
            return refuse("too short: contacts are not written three times within it (contact_interval)");
        }
        Ok(())
    }

    /// Whether agents may report as often as they are asked to.
    fn lets_report(&self, own: Option<LivenessWindow>) -> bool {
        self.live_per_minute.is_none_or(|live| self.report_pace(own).saturating_mul(live.get()) >= MINUTE)
    }

    /// How silent hosts are looked for.
    pub(super) fn sweep_pace(&self) -> Pace {
        Pace { window: self.liveness_window, tick: self.sweep_interval.min(self.liveness_window / 3) }
    }

    pub(super) fn check(&self) -> Result<(), BuildError> {
        let rules = [
            (self.liveness_window >= Duration::from_secs(3), "the liveness window is at least 3 s"),
            (!self.sweep_interval.is_zero(), "the sweep interval is not zero"),
            (!self.report_interval.is_zero(), "the report interval is not zero"),
            (self.lets_report(None), "live_per_minute lets agents report as often as they are asked to"),
            (!self.install_token_life.is_zero(), "the life of an install token is not zero"),
            (self.install_token_life <= crate::install_token::MAX_LIFE, "an install token lives at most 30 days"),
            (self.body_bytes >= 1024, "a body may have at least 1 KiB"),
            (self.queue_reports > 0 && self.batch_reports > 0, "the queue and a batch hold at least one report"),
            (self.queue_bytes >= self.body_bytes, "the queue holds at least one body"),
            (self.batch_body_bytes >= self.body_bytes, "a batch may be as large as any other body"),
            (self.queue_bytes / 2 >= self.batch_body_bytes, "half of the queue holds at least one batch"),
            // A report that is pruned while it can still be sent again would be stored again.
            (self.telemetry_retention >= DAY, "reports are kept for at least a day"),
            (self.install_token_retention >= 30 * DAY, "spent install tokens are kept for at least 30 days"),
            (!self.prune_interval.is_zero(), "the prune interval is not zero"),
            // An agent needs a few requests in the last third of a life.
            (
                self.agent_token_life.is_none_or(|life| life >= 3 * MINUTE),
                "an agent token lives for 3 minutes at least",
            ),
            (self.rotate_after.is_none_or(|after| after >= MINUTE), "a rotation is asked for after a minute at least"),
            (self.batch_bytes > 0, "a batch holds at least one byte"),
            (self.cached_credentials > 0, "at least one credential is remembered"),
            (self.credential_cache_ttl <= Duration::from_secs(30), "a credential is remembered for at most 30 s"),
            (
                !self.contact_interval.is_zero() && self.contact_interval <= Duration::from_secs(5),
                "contacts are written at least every 5 s",
            ),
            // Another replica sweeps meanwhile.
            (
                self.contact_interval <= self.liveness_window / 3,
                "contacts are written at least three times a liveness window",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(BuildError(broken)),
            None => Ok(()),
        }
    }
}

/// What refused exchanges are counted by. Without an address everybody shares one bucket: limited, not off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Unknown,
    V4(std::net::Ipv4Addr),
    /// The first half of an address: whoever has one has the whole /64.
    V6Net(u64),
}

impl From<Option<IpAddr>> for Source {
    fn from(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Unknown,
            Some(IpAddr::V4(v4)) => Self::V4(v4),
            Some(IpAddr::V6(v6)) => Self::V6Net(first_half(v6)),
        }
    }
}

fn first_half(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

/// Counts refused exchanges by address. Only refusals count, and only refusals are limited: a neighbour behind the
/// same address can never keep a valid enrolment out.
pub(super) struct RefusalLimit(KeyedLimit<Source>);

impl RefusalLimit {
    pub(super) fn new(per_minute: Option<NonZeroU32>, clock: Arc<dyn Clock>) -> Self {
        Self(KeyedLimit::new(per_minute, clock))
    }

    /// Counts a refusal; beyond the limit, says how long to wait.
    pub(super) fn count(&self, address: Option<IpAddr>) -> Result<(), RateLimited> {
        self.0.count(&Source::from(address))
    }
}

/// What agents are held to: a bucket for each thing that they do, so that none keeps them from another.
pub(super) struct AgentLimits {
    pub(super) live: KeyedLimit<AgentTokenId>,
    pub(super) batches: KeyedLimit<AgentTokenId>,
    pub(super) rotations: KeyedLimit<HostId>,
}

impl AgentLimits {
    pub(super) fn new(limits: &Limits, clock: &Arc<dyn Clock>) -> Self {
        let (live, batches) = (limits.live_per_minute, limits.batches_per_minute);
        Self {
            live: KeyedLimit::new(live, Arc::clone(clock)),
            batches: KeyedLimit::new(batches, Arc::clone(clock)),
            rotations: KeyedLimit::new(limits.rotations_per_minute, Arc::clone(clock)),
        }
    }
}
