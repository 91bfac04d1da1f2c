//! Which host takes new work: pure rules over a sample of hosts that may.
//!
//! A [`Scheduler`] says where to look and picks one of what was found there; the service reads the sample, asks the policy
//! and goes on looking when nothing fits. How full a host is, is what its newest report says, and what a scheduler has
//! placed there since: schedulers of other replicas are not asked.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::host::{HostKind, Status, Tag};
use crate::id::{HostId, TenantId};
use crate::store::{Candidate, CandidateQuery, HostRecord};

/// What is to be placed, and on which hosts it may go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlaceRequest {
    /// On hosts of this tenant only; otherwise of any that the actor may place work on.
    pub tenant_id: Option<TenantId>,
    /// On hosts of this kind only.
    pub kind: Option<HostKind>,
    /// On hosts that have all of these.
    pub tags: BTreeSet<Tag>,
    /// What the work needs.
    pub demand: Demand,
}

/// What work needs of a host. Of what it needs nothing of, it does not matter whether the host has any.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Demand {
    /// Logical CPUs, or parts of them.
    pub cpu_cores: f64,
    /// Memory.
    pub memory_bytes: u64,
    /// Room on local disks.
    pub disk_bytes: u64,
}

impl Demand {
    fn and(self, more: Self) -> Self {
        Self {
            cpu_cores: self.cpu_cores + more.cpu_cores,
            memory_bytes: self.memory_bytes.saturating_add(more.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(more.disk_bytes),
        }
    }
}

/// A number for each of what hosts can run out of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Of the logical CPUs.
    pub cpu: f64,
    /// Of the memory.
    pub memory: f64,
    /// Of the local disks.
    pub disk: f64,
}

impl Shares {
    /// The same of all.
    pub const fn all(share: f64) -> Self {
        Self { cpu: share, memory: share, disk: share }
    }
}

/// How full hosts may get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizing {
    overcommit: Shares,
    reserve: Shares,
}

impl Default for Sizing {
    /// No more than there is, and a twentieth of it stays free.
    fn default() -> Self {
        Self { overcommit: Shares::all(1.0), reserve: Shares::all(0.05) }
    }
}

impl Sizing {
    /// `overcommit` times what a host has may be used, less `reserve`, a share of what it has.
    ///
    /// # Errors
    /// When an overcommit is not above 0, or a reserve not from 0 to 1.
    pub fn new(overcommit: Shares, reserve: Shares) -> Result<Self, FieldError> {
        let of = |shares: Shares| [shares.cpu, shares.memory, shares.disk];
        if !of(overcommit).iter().all(|share| share.is_finite() && *share > 0.0) {
            return Err(FieldError::invalid("/overcommit", "above 0"));
        }
        if !of(reserve).iter().all(|share| (0.0..=1.0).contains(share)) {
            return Err(FieldError::invalid("/reserve", "from 0 to 1"));
        }
        Ok(Self { overcommit, reserve })
    }

    /// What is left of the host once it has taken the work, as a share of what it has: of CPU, memory and disk the least.
    /// What is not known is passed over where nothing is needed of it; if nothing at all is known, it is 0.
    ///
    /// # Errors
    /// What it has too little of, or does not say.
    pub fn headroom(&self, candidate: &Candidate, demand: &Demand) -> Result<f64, Misfit> {
        self.headroom_beside(candidate, demand, &Demand::default())
    }

    /// The same of a host that has been given `others` since its newest report.
    fn headroom_beside(&self, candidate: &Candidate, demand: &Demand, others: &Demand) -> Result<f64, Misfit> {
        let metrics = candidate.metrics.unwrap_or_default();
        let facts = &candidate.record.presence.facts;
        let cores = facts.cpu_count.map(f64::from);
        let busy = cores.zip(metrics.cpu_percent).map(|(cores, percent)| cores * percent / 100.0);
        let memory = metrics.memory_total_bytes.or(facts.memory_total_bytes);
        let disk = metrics.disk_total_bytes.or(facts.disk_total_bytes);
        let Self { overcommit, reserve } = *self;
        let rooms = [
            (
                Misfit::Cpu,
                cores,
                busy.map(|busy| busy + others.cpu_cores),
                demand.cpu_cores,
                overcommit.cpu,
                reserve.cpu,
            ),
            (
                Misfit::Memory,
                memory.map(real),
                metrics.memory_used_bytes.map(|used| real(used) + real(others.memory_bytes)),
                real(demand.memory_bytes),
                overcommit.memory,
                reserve.memory,
            ),
            (
                Misfit::Disk,
                disk.map(real),
                metrics.disk_used_bytes.map(|used| real(used) + real(others.disk_bytes)),
                real(demand.disk_bytes),
                overcommit.disk,
                reserve.disk,
            ),
        ];
        let mut tightest: Option<f64> = None;
        for (short, capacity, used, needed, overcommit, reserve) in rooms {
            let Some((capacity, used)) = capacity.zip(used).filter(|(capacity, _)| *capacity > 0.0) else {
                if needed > 0.0 {
                    return Err(Misfit::Unknown);
                }
                continue;
            };
            let left = capacity * (overcommit - reserve) - used - needed;
            if needed > 0.0 && left < 0.0 {
                return Err(short);
            }
            let share = left / capacity;
            tightest = Some(tightest.map_or(share, |tightest| tightest.min(share)));
        }
        Ok(tightest.unwrap_or(0.0))
    }
}

/// Exact up to 8 PiB, and to a share that does not matter beyond.
#[allow(clippy::cast_precision_loss, reason = "shares of a machine, not sums")]
const fn real(bytes: u64) -> f64 {
    bytes as f64
}

/// Why a host cannot take the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Misfit {
    /// Too little CPU is free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// Too little disk is free.
    Disk,
    /// It has not reported what it has or uses of what the work needs.
    Unknown,
}

/// How many hosts could not take the work, by the first reason of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Misfits {
    /// Too little CPU.
    pub cpu: usize,
    /// Too little memory.
    pub memory: usize,
    /// Too little disk.
    pub disk: usize,
    /// Unknown.
    pub unknown: usize,
}

impl Misfits {
    /// Counts one more.
    pub const fn note(&mut self, misfit: Misfit) {
        match misfit {
            Misfit::Cpu => self.cpu += 1,
            Misfit::Memory => self.memory += 1,
            Misfit::Disk => self.disk += 1,
            Misfit::Unknown => self.unknown += 1,
        }
    }

    /// Counts those of `more` as well.
    pub const fn add(&mut self, more: Self) {
        self.cpu += more.cpu;
        self.memory += more.memory;
        self.disk += more.disk;
        self.unknown += more.unknown;
    }

    /// All of them.
    pub const fn total(&self) -> usize {
        self.cpu + self.memory + self.disk + self.unknown
    }
}

impl fmt::Display for Misfits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, memory, disk, unknown } = self;
        write!(f, "too little CPU {cpu}, memory {memory}, disk {disk}; not reported {unknown}")
    }
}

/// Where to look for hosts: they stand on a ring, in an order that has to do with nothing about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Behind which places; none: from the beginning.
    pub after: Vec<HostId>,
    /// How many hosts at each.
    pub sample: usize,
}

/// Picks a host. It reads nothing of the store, draws only what it is given, and may remember what it has picked.
pub trait Scheduler: Send + Sync {
    /// Where to look first. When nothing fits there, the service goes on from there, round the ring.
    fn plan(&self, request: &PlaceRequest, draw: &mut dyn FnMut() -> u64) -> Plan;

    /// Picks one of `candidates`, by its place among them. All of them may be picked; there is at least one, and they stand
    /// in the order of the ring from where it was looked. What is picked is what the caller gets.
    ///
    /// # Errors
    /// Why none fits.
    fn pick(
        &self,
        request: &PlaceRequest,
        candidates: &[Candidate],
        draw: &mut dyn FnMut() -> u64,
    ) -> Result<usize, Misfits>;
}

/// A place of the ring, drawn at random.
pub fn anywhere(draw: &mut dyn FnMut() -> u64) -> HostId {
    /// The variant of every UUID of ours stands there.
    const VARIANT: u64 = 0b10 << 62;
    HostId::from_uuid(Uuid::from_u64_pair(0, (draw() >> 2) | VARIANT))
}

/// How many hosts, or sorts of requests, a scheduler remembers something of. With more it forgets all and begins anew, which
/// costs a little of fairness.
const REMEMBERED: usize = 4_096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One after the other: among those that a sort of requests (tenant, kind, tags) may go to, each host that fits once, before
/// any is picked again. What was picked last is remembered here, not in the store: several replicas each go round by
/// themselves. Actors that see different hosts each need their own.
#[derive(Debug, Default)]
pub struct RoundRobin {
    sizing: Sizing,
    last: Mutex<HashMap<Sort, HostId>>,
}

type Sort = (Option<TenantId>, Option<HostKind>, BTreeSet<Tag>);

impl RoundRobin {
    /// Passes over hosts that are too full.
    pub fn new(sizing: Sizing) -> Self {
        Self { sizing, last: Mutex::default() }
    }

    fn sort(request: &PlaceRequest) -> Sort {
        (request.tenant_id.clone(), request.kind, request.tags.clone())
    }
}

impl Scheduler for RoundRobin {
    fn plan(&self, request: &PlaceRequest, _draw: &mut dyn FnMut() -> u64) -> Plan {
        Plan { after: lock(&self.last).get(&Self::sort(request)).copied().into_iter().collect(), sample: 8 }
    }

    fn pick(
        &self,
        request: &PlaceRequest,
        candidates: &[Candidate],
        _draw: &mut dyn FnMut() -> u64,
    ) -> Result<usize, Misfits> {
        let sort = Self::sort(request);
        let mut last = lock(&self.last);
        // Others may have picked since these were looked up: it goes on behind the last of them.
        let taken = last.get(&sort).and_then(|last| candidates.iter().position(|here| here.record.host.id == *last));
        let first = taken.map_or(0, |taken| taken + 1);
        let mut misfits = Misfits::default();
        for place in (first..candidates.len()).chain(0..first) {
            match self.sizing.headroom(&candidates[place], &request.demand) {
                Ok(_) => {
                    if last.len() >= REMEMBERED {
                        last.clear();
                    }
                    last.insert(sort, candidates[place].record.host.id);
                    return Ok(place);
                }
                Err(misfit) => misfits.note(misfit),
            }
        }
        Err(misfits)
    }
}

/// The host with the most [headroom](Sizing::headroom) of a sample from two places; of several such, any. What it has placed
/// on a host since that host's newest report counts as used.
#[derive(Debug)]
pub struct LeastLoaded {
    sizing: Sizing,
    sample: usize,
    placed: Mutex<HashMap<HostId, Placed>>,
}

/// What a host was given since a report of its own.
#[derive(Debug, Clone, Copy, Default)]
struct Placed {
    since: Option<Timestamp>,
    demand: Demand,
}

impl Default for LeastLoaded {
    fn default() -> Self {
        Self::new(Sizing::default(), 32)
    }
}

impl LeastLoaded {
    /// Looks at about `sample` hosts, at least 2.
    pub fn new(sizing: Sizing, sample: usize) -> Self {
        Self { sizing, sample, placed: Mutex::default() }
    }
}

impl Scheduler for LeastLoaded {
    fn plan(&self, _request: &PlaceRequest, draw: &mut dyn FnMut() -> u64) -> Plan {
        Plan { after: vec![anywhere(draw), anywhere(draw)], sample: self.sample.div_ceil(2).max(1) }
    }

    fn pick(
        &self,
        request: &PlaceRequest,
        candidates: &[Candidate],
        draw: &mut dyn FnMut() -> u64,
    ) -> Result<usize, Misfits> {
        let mut placed = lock(&self.placed);
        let since_its_report = |candidate: &Candidate, placed: &HashMap<HostId, Placed>| {
            let HostRecord { host, presence, .. } = &candidate.record;
            let given = placed.get(&host.id).filter(|placed| placed.since == presence.newest_report_at);
            given.map_or(Demand::default(), |placed| placed.demand)
        };
        let mut misfits = Misfits::default();
        let mut best: Option<(f64, Vec<usize>)> = None;
        for (place, candidate) in candidates.iter().enumerate() {
            let others = since_its_report(candidate, &placed);
            match self.sizing.headroom_beside(candidate, &request.demand, &others) {
                Err(misfit) => misfits.note(misfit),
                Ok(room) => match &mut best {
                    Some((most, _)) if room < *most => {}
                    Some((most, places)) if room <= *most => places.push(place),
                    _ => best = Some((room, vec![place])),
                },
            }
        }
        let (_, places) = best.ok_or(misfits)?;
        // The remainder favours the first by less than one in 2⁵⁰.
        let chosen = draw() % places.len() as u64;
        let place = places[usize::try_from(chosen).expect("it is below the number of places")];
        let candidate = &candidates[place];
        let demand = since_its_report(candidate, &placed).and(request.demand);
        if placed.len() >= REMEMBERED {
            placed.clear();
        }
        placed.insert(candidate.record.host.id, Placed { since: candidate.record.presence.newest_report_at, demand });
        Ok(place)
    }
}

/// Whether new work may go to this host at all: live, online, not cordoned, in scope, and as asked for. The one rule;
/// stores restate it where they choose rows, and the service asks it again of what they gave.
pub fn is_eligible(HostRecord { host, presence, .. }: &HostRecord, query: &CandidateQuery) -> bool {
    let CandidateQuery { scope, tenant_id, kind, tags, .. } = query;
    Status::of(host.lifecycle, presence.presence) == Status::Online
        && !host.cordoned
        && scope.shows(&host.tenant_id, Some(host.kind))
        && tenant_id.as_ref().is_none_or(|tenant_id| *tenant_id == host.tenant_id)
        && kind.is_none_or(|kind| kind == host.kind)
        && tags.is_subset(&host.tags)
}
