//! The services: what the state machines, a store, a clock and a policy add up to.
//!
//! A [`Fleet`] is cheap to clone and is shared by every handler. There are four ways into it, and no others:
//!
//! - [`Fleet::admin`] for an [`Actor`]: administration, under the policy;
//! - [`Fleet::authenticate`] for a bearer token, which gives the [`AgentIdentity`] that
//! - [`Fleet::agent`] needs: what a host does for itself;
//! - [`Fleet::enrol`] and [`Fleet::propose_agent_token`]: public, the presented token is the credential.
//!
//! [`Drivers`] is the part that runs by itself; whoever builds a fleet spawns it.

#[cfg(feature = "access-tokens")]
mod access_token;
mod admission;
mod agent_token;
mod alarm;
mod authenticate;
mod builder;
mod cache;
mod catch_up;
mod client_pool;
mod contact;
mod driver;
mod error;
mod event;
mod exchange;
mod feed;
mod gauge;
mod host;
mod host_deletion;
mod install_token;
mod limits;
mod liveness;
mod placement;
mod prefixes;
mod query;
mod queue;
mod rate;
mod retention;
mod rotation;
mod series;
mod sync;
mod telemetry;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use admission::BodyRoom;
pub use agent_token::TokenFilter;
pub use alarm::ReusePolicy;
pub use authenticate::{AgentIdentity, bearer};
pub use builder::{BuildError, FleetBuilder};
pub use catch_up::CatchUp;
pub use client_pool::{HostClientPool, PoolError};
#[cfg(feature = "tokio")]
pub use driver::TokioTimer;
pub use driver::{Drivers, Timer};
#[cfg(feature = "access-tokens")]
pub use error::RefreshError;
pub use error::{AdminError, AgentError, AuthenticateError, EnrolError, RateLimited, ReportError};
pub use event::EventFilter;
pub use feed::{EventFeed, FeedFilter, FeedItem};
pub use host::HostFilter;
pub use limits::Limits;
pub use placement::PlaceError;
pub use prefixes::Prefixes;
pub use series::SeriesRange;
pub use telemetry::{ContainerFilter, Live, TelemetryRange};

use crate::clock::{Clock, Timestamp};
use crate::entropy::Entropy;
use crate::policy::{Action, Actor, Decision, Policy, Resource};
use crate::secret::TokenHash;
use crate::store::{HostLookup, HostRecord, Store, StoreError};
use crate::wire::PageBody;
use crate::{HostId, TenantId};

/// The services of one fleet.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// What every service works with.
struct Inner {
    store: Arc<dyn Store>,
    policy: Arc<dyn Policy>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    limits: Limits,
    prefixes: Prefixes,
    default_tenant: Option<TenantId>,
    cache: cache::CredentialCache,
    contacts: contact::Contacts,
    /// Held while they are written: who comes next knows that those taken before were.
    writing_contacts: futures_util::lock::Mutex<()>,
    /// Held by whoever repeats a change of a host that another was quicker with, until it is made: one at a time over all hosts,
    /// since that is rare. Who is not too late does not wait for it.
    changing_again: futures_util::lock::Mutex<()>,
    reports: queue::Sender,
    uncommitted: driver::Uncommitted,
    /// Bodies of batches, and what others inflated to, by bytes.
    bodies: Arc<gauge::Gauge>,
    refusals: limits::RefusalLimit,
    agents: limits::AgentLimits,
    alarms: alarm::Alarms,
    reuse_policy: ReusePolicy,
    #[cfg(feature = "access-tokens")]
    access_tokens: Option<access_token::AccessTokens>,
    /// When the store was last asked whether it works, and what it said.
    checked: Mutex<Option<(Duration, Result<(), StoreError>)>>,
    feeds: feed::Feeds,
    /// What the last sweep said.
    monitor: Mutex<Option<liveness::Said>>,
}

impl Fleet {
    /// Starts building a fleet that is kept in `store`.
    pub fn builder(store: impl Store) -> FleetBuilder {
        FleetBuilder::new(Arc::new(store))
    }

    /// The same for a store that is chosen at run time.
    pub fn builder_of(store: Arc<dyn Store>) -> FleetBuilder {
        FleetBuilder::new(store)
    }

    /// The administrative verbs, as far as the policy lets `actor` use them.
    pub fn admin<'a>(&'a self, actor: &'a Actor) -> Admin<'a> {
        Admin { fleet: &self.inner, actor }
    }

    /// What a host does for itself. Reports and heartbeats go through [`Agent::live`], batches through [`Agent::catch_up`].
    pub fn agent<'a>(&'a self, identity: &'a AgentIdentity) -> Agent<'a> {
        Agent { fleet: &self.inner, identity }
    }

    /// Whether the fleet can serve: the drivers run, and the store could be read and written within the last second.
    /// However often it is asked, the store is not asked more often than that.
    ///
    /// # Errors
    /// When the store does not answer, or the drivers do not run.
    pub async fn check(&self) -> Result<(), StoreError> {
        const FRESH: Duration = Duration::from_secs(1);
        let Inner { reports, store, clock, checked, .. } = &*self.inner;
        reports.check()?;
        let known = checked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, answer)) = known
            && clock.monotonic().saturating_sub(at) < FRESH
        {
            return answer;
        }
        let answer = store.check().await;
        *checked.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock.monotonic(), answer.clone()));
        answer
    }

    /// The server's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The limits that it was built with.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

/// The administrative verbs of one actor. Made by [`Fleet::admin`]; every verb asks the policy first.
///
/// Dropping the future of a verb leaves either all of its effect or none.
#[derive(Clone, Copy)]
pub struct Admin<'a> {
    fleet: &'a Arc<Inner>,
    actor: &'a Actor,
}

/// The verbs of one authenticated host. Made by [`Fleet::agent`].
///
/// Every request of a host is a contact, save one that its rate limits refuse: so [`Agent::live`] and [`Agent::catch_up`],
/// which ask them, are the only ways to report, and each gives leave for one request.
#[derive(Clone, Copy)]
pub struct Agent<'a> {
    fleet: &'a Inner,
    identity: &'a AgentIdentity,
}

impl std::fmt::Debug for Agent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("host_id", &self.identity.host_id()).finish_non_exhaustive()
    }
}

impl Admin<'_> {
    /// The one place where the policy is asked about a single resource.
    fn authorize(&self, action: Action, resource: Resource<'_>) -> Result<(), AdminError> {
        match self.fleet.policy.authorize(self.actor, action, resource) {
            Decision::Allow => Ok(()),
            Decision::Forbid => Err(AdminError::Forbidden),
            Decision::Hide => Err(AdminError::NotFound),
        }
    }

    /// Finds a host and asks the policy about it. A host that is hidden is not found.
    async fn find(&self, action: Action, host_id: HostId) -> Result<HostRecord, AdminError> {
        let found = self.fleet.store.find_host(&HostLookup::Id(host_id)).await?;
        let record = found.ok_or(AdminError::NotFound)?;
        self.authorize(action, Resource { tenant_id: &record.host.tenant_id, kind: record.host.kind })?;
        Ok(record)
    }
}

impl Inner {
    /// Makes the caches forget these agent tokens, some of which were cut off. Access tokens do not tell which of them
    /// bought them, so all go.
    fn forget(&self, hashes: &[TokenHash]) {
        self.forget_rotated(hashes);
        #[cfg(feature = "access-tokens")]
        if let Some(access) = &self.access_tokens {
            access.cache.clear();
        }
    }

    /// Makes the caches forget these agent tokens, whose successors are in use: that ends no access token.
    fn forget_rotated(&self, hashes: &[TokenHash]) {
        self.cache.invalidate(hashes);
    }

    /// Makes the caches forget everything.
    fn forget_all(&self) {
        self.cache.clear();
        self.forget(&[]);
    }

    /// Notes that the caches know of every change that was committed before `at`, by the monotonic clock.
    fn heard(&self, at: Duration) {
        self.cache.heard(at);
        #[cfg(feature = "access-tokens")]
        if let Some(access) = &self.access_tokens {
            access.cache.heard(at);
        }
    }

    /// How many times a service loads and commits before it gives up on a thing that changes all the time.
    const ATTEMPTS: usize = 16;

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Two thirds of the host's liveness window.
    fn lease_ms(&self, agent: &AgentIdentity) -> u64 {
        millis(self.limits.window_of(agent.liveness_window()) * 2 / 3)
    }

    /// When an agent shall report next: at most a third of its host's liveness window.
    fn next_report_in_ms(&self, agent: &AgentIdentity) -> u64 {
        millis(self.limits.report_pace(agent.liveness_window()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many rows a page has: as many as were asked for, within bounds.
fn page_size(limit: Option<usize>) -> usize {
    const DEFAULT: usize = 50;
    const MAX: usize = 500;
    limit.unwrap_or(DEFAULT).clamp(1, MAX)
}

/// A page on the wire; the cursor is the key of its last row.
fn page_body<T, U>(page: crate::store::Page<T>, key: impl Fn(&T) -> String, body: impl Fn(T) -> U) -> PageBody<U> {
    let next_cursor = page.items.last().filter(|_| page.more).map(key);
    PageBody { items: page.items.into_iter().map(body).collect(), next_cursor }
}

/// A cursor that a client gave back.
fn parse_cursor<T: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<T>, AdminError> {
    cursor
        .map(|text| text.parse().map_err(|_| AdminError::InvalidQuery("cursor: take next_cursor of the page before")))
        .transpose()
}
