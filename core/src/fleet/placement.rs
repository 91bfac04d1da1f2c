//! Placement: the sample that a scheduler picks from, read host by host and not fleet by fleet.

use std::collections::HashSet;

use futures_util::future;

use super::host::host_body;
use super::{Admin, Inner};
use crate::HostId;
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::placement::{Misfits, PlaceRequest, Plan, Scheduler, is_eligible};
use crate::policy::{Action, Decision, Resource, Scope};
use crate::store::{Candidate, CandidateQuery, Candidates, HostRecord, StoreError};
use crate::wire::HostBody;

/// How many hosts that may be picked are looked at before the fleet is said to be full.
const MOST: usize = 2_000;
/// How many rows of its index a store looks at in one call, at most.
const ROWS: usize = 1_024;
/// How many calls one placement makes, at most: some 60,000 rows, in which hosts that may be picked are rare.
const LOOKS: usize = 64;
/// How many of them are for a sample at one place. Where hosts that may be picked are rarer, it is a smaller one.
const SAMPLE_LOOKS: usize = 3;

/// Why there is no host for the work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// No host is online, not cordoned, and as asked for, among those that the actor may place work on.
    #[error("no host is online, not cordoned, and of that tenant, kind and tags")]
    NoEligibleHost {
        /// Whether all hosts were looked at.
        all: bool,
    },
    /// There are some, and none of those looked at has room.
    #[error("no host that may take the work has room: {misfits}")]
    NoFit {
        /// Why not.
        misfits: Misfits,
        /// Whether all hosts were looked at.
        all: bool,
    },
    /// The demand is out of its bounds.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Admin<'_> {
    /// Finds a host for new work: one that is online, live, not cordoned, as asked for, and that the policy lets the actor
    /// place work on ([`Action::PlaceWork`]). Nothing is written, and nothing is set aside for the work: what it uses is seen
    /// with the host's next report.
    ///
    /// A host that has been silent for its window is passed over, also while the monitor withholds its verdict.
    ///
    /// Reads a sample, whatever the size of the fleet. Only when nothing in it fits, it goes on round the ring, until some
    /// 2,000 hosts that may be picked were looked at, or some 60,000 of any sort, or all.
    ///
    /// # Errors
    /// When there is no such host, or none with room, with the reasons counted; when the demand is not a finite number of
    /// cores from 0 on; when the store fails.
    pub async fn place(&self, request: &PlaceRequest, scheduler: &dyn Scheduler) -> Result<HostBody, PlaceError> {
        let cores = request.demand.cpu_cores;
        if !cores.is_finite() || cores < 0.0 {
            return Err(FieldError::invalid("/demand/cpu_cores", "a finite number, 0 or more").into());
        }
        let fleet = self.fleet;
        let mut draw = || fleet.lot();
        let Plan { after, sample } = scheduler.plan(request, &mut draw);
        let sample = sample.max(1);
        let scope = fleet.policy.scope(self.actor, Action::PlaceWork);
        let starts = if after.is_empty() { vec![None] } else { after.into_iter().map(Some).collect() };
        let mut rings: Vec<_> = starts.into_iter().map(|start| Ring::behind(start, sample)).collect();
        let mut seen = HashSet::new();

        // At once: they know nothing of each other, and each is a way to the store and back.
        let samples = rings.iter_mut().map(|ring| self.sample(ring, request, &scope, sample));
        let samples = future::try_join_all(samples).await?;
        let mut looks: usize = samples.iter().map(|(_, looks)| looks).sum();
        let found = samples.into_iter().flat_map(|(found, _)| found);
        let mut candidates: Vec<_> = found.filter(|candidate| seen.insert(candidate.record.host.id)).collect();
        let mut ring = match rings.iter().position(|ring| ring.closed) {
            Some(closed) => rings.swap_remove(closed),
            None => rings.swap_remove(0),
        };
        let mut misfits = Misfits::default();
        loop {
            if !candidates.is_empty() {
                match scheduler.pick(request, &candidates, &mut draw) {
                    Ok(place) => {
                        let picked = candidates.swap_remove(place).record;
                        return Ok(host_body(picked));
                    }
                    Err(more) => misfits.add(more),
                }
            }
            if ring.closed || seen.len() >= MOST || looks >= LOOKS {
                break;
            }
            looks += 1;
            candidates = self.window(&mut ring, request, &scope).await?;
            candidates.retain(|candidate| seen.insert(candidate.record.host.id));
        }
        if seen.is_empty() {
            return Err(PlaceError::NoEligibleHost { all: ring.closed });
        }
        Err(PlaceError::NoFit { misfits, all: ring.closed })
    }

    /// So many hosts on the ring that may be picked, or fewer where they are rare, and how many looks they took.
    async fn sample(
        &self,
        ring: &mut Ring,
        request: &PlaceRequest,
        scope: &Scope,
        sample: usize,
    ) -> Result<(Vec<Candidate>, usize), StoreError> {
        let (mut found, mut looked) = (Vec::new(), 0);
        while found.len() < sample && !ring.closed && looked < SAMPLE_LOOKS {
            looked += 1;
            found.append(&mut self.window(ring, request, scope).await?);
        }
        Ok((found, looked))
    }

    /// The next hosts on the ring that may be picked; possibly none.
    async fn window(
        &self,
        ring: &mut Ring,
        request: &PlaceRequest,
        scope: &Scope,
    ) -> Result<Vec<Candidate>, StoreError> {
        let PlaceRequest { tenant_id, kind, tags, .. } = request;
        let query = CandidateQuery {
            scope: scope.clone(),
            tenant_id: tenant_id.clone(),
            kind: *kind,
            tags: tags.clone(),
            after: ring.at,
            limit: ring.rows,
        };
        let Candidates { mut items, next } = self.fleet.store.list_candidates(&query).await?;
        let end = ring.go_on(next);
        let now = self.fleet.now();
        // Asked again of what the store gave, since a mistake here would put work on somebody else's machine.
        items.retain(|Candidate { record, .. }| {
            let resource = Resource { tenant_id: &record.host.tenant_id, kind: record.host.kind };
            end.is_none_or(|end| ring_key(record.host.id) <= ring_key(end))
                && is_eligible(record, &query)
                && !self.is_silent(record, now)
                && self.fleet.policy.authorize(self.actor, Action::PlaceWork, resource) == Decision::Allow
        });
        Ok(items)
    }

    fn is_silent(&self, HostRecord { host, presence, .. }: &HostRecord, now: Timestamp) -> bool {
        let window = self.fleet.limits.window_of(host.liveness_window);
        presence.presence.silence(now, window) != presence.presence
    }
}

/// Where a host stands on the ring.
fn ring_key(host_id: HostId) -> (u64, HostId) {
    (host_id.lot(), host_id)
}

/// A walk once round the ring.
struct Ring {
    start: Option<HostId>,
    at: Option<HostId>,
    /// Whether it has gone over the end of the order, and begun again.
    wrapped: bool,
    closed: bool,
    rows: usize,
}

impl Ring {
    fn behind(start: Option<HostId>, sample: usize) -> Self {
        // Some of a fleet are always silent or cordoned: mostly one look is enough.
        let rows = sample.saturating_add(sample.div_ceil(4)).min(ROWS);
        Self { start, at: start, wrapped: false, closed: false, rows }
    }

    /// Goes on behind `next`, or at the beginning if there is none. Gives the end of the walk where the window just read may
    /// have gone beyond it.
    fn go_on(&mut self, next: Option<HostId>) -> Option<HostId> {
        let end = self.start.filter(|_| self.wrapped);
        self.rows = self.rows.saturating_mul(2).min(ROWS);
        self.at = next;
        match next {
            Some(next) => self.closed = end.is_some_and(|end| ring_key(next) >= ring_key(end)),
            None if end.is_none() && self.start.is_some() => self.wrapped = true,
            None => self.closed = true,
        }
        end
    }
}

impl Inner {
    fn lot(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }
}
