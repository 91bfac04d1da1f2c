//! Building a fleet.

use std::sync::Arc;

#[cfg(feature = "access-tokens")]
use crate::access_token::Issuer;
use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, SystemEntropy};
#[cfg(feature = "access-tokens")]
use crate::fleet::access_token::AccessTokens;
use crate::fleet::alarm::{Alarms, ReusePolicy};
use crate::fleet::driver::{Drivers, Uncommitted};
use crate::fleet::gauge::Gauge;
use crate::fleet::limits::{AgentLimits, Limits, RefusalLimit};
use crate::fleet::prefixes::Prefixes;
use crate::fleet::{Fleet, Inner, cache, contact, feed, queue};
use crate::id::TenantId;
use crate::policy::{DefaultPolicy, Policy};
use crate::store::Store;

/// Collects what a [`Fleet`] is made of. Made by [`Fleet::builder`].
#[must_use]
pub struct FleetBuilder {
    store: Arc<dyn Store>,
    policy: Arc<dyn Policy>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    limits: Limits,
    prefixes: Prefixes,
    default_tenant: Option<TenantId>,
    reuse_policy: ReusePolicy,
    #[cfg(feature = "access-tokens")]
    issuer: Option<Issuer>,
}

/// Limits or prefixes that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fleet cannot be built: {0}")]
pub struct BuildError(pub(super) &'static str);

impl FleetBuilder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            policy: Arc::new(DefaultPolicy),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
            limits: Limits::default(),
            prefixes: Prefixes::default(),
            default_tenant: None,
            reuse_policy: ReusePolicy::default(),
            #[cfg(feature = "access-tokens")]
            issuer: None,
        }
    }

    /// Who may do what; [`DefaultPolicy`] unless it is set.
    pub fn policy(self, policy: impl Policy) -> Self {
        Self { policy: Arc::new(policy), ..self }
    }

    /// Where the time comes from; the operating system unless it is set.
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Where ids and secrets come from; the operating system unless it is set.
    pub fn entropy(self, entropy: impl Entropy) -> Self {
        Self { entropy: Arc::new(entropy), ..self }
    }

    /// Windows, sizes and rates; [`Limits::default`] unless they are set.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What new tokens begin with; [`Prefixes::default`] unless it is set. The default prefixes are always accepted besides.
    pub fn prefixes(self, prefixes: Prefixes) -> Self {
        Self { prefixes, ..self }
    }

    /// The tenant of hosts that are created without one, for a service with a single tenant.
    pub fn default_tenant(self, tenant: TenantId) -> Self {
        Self { default_tenant: Some(tenant), ..self }
    }

    /// What happens when a retired token is presented again; [`ReusePolicy::Report`] unless it is set.
    pub fn reuse_policy(self, reuse_policy: ReusePolicy) -> Self {
        Self { reuse_policy, ..self }
    }

    /// Issues access tokens to hosts whose credential is a refresh token, and recognises them; none unless it is set, and
    /// then refresh tokens are accepted for work themselves.
    #[cfg(feature = "access-tokens")]
    pub fn access_tokens(self, issuer: Issuer) -> Self {
        Self { issuer: Some(issuer), ..self }
    }

    /// The fleet, and the part of it that has to be spawned.
    ///
    /// # Errors
    /// When the limits contradict each other, or install tokens and agent tokens share a prefix.
    pub fn build(self) -> Result<(Fleet, Drivers), BuildError> {
        let Self { store, policy, clock, entropy, limits, prefixes, default_tenant, reuse_policy, .. } = self;
        limits.check()?;
        if !prefixes.are_distinct() {
            return Err(BuildError("install tokens and agent tokens have different prefixes"));
        }
        let (sender, receiver) = queue::channel(limits.queue_reports, limits.queue_bytes);
        let inner = Arc::new(Inner {
            cache: cache::CredentialCache::new(limits.cached_credentials, limits.credential_cache_ttl),
            contacts: contact::Contacts::default(),
            writing_contacts: futures_util::lock::Mutex::default(),
            changing_again: futures_util::lock::Mutex::default(),
            uncommitted: Uncommitted::default(),
            reports: sender,
            bodies: Gauge::new(limits.queue_bytes),
            refusals: RefusalLimit::new(limits.refused_exchanges_per_minute, Arc::clone(&clock)),
            agents: AgentLimits::new(&limits, &clock),
            alarms: Alarms::default(),
            reuse_policy,
            #[cfg(feature = "access-tokens")]
            access_tokens: self.issuer.map(|issuer| AccessTokens::new(issuer, &limits)),
            feeds: feed::Feeds::default(),
            checked: std::sync::Mutex::default(),
            monitor: std::sync::Mutex::default(),
            store,
            policy,
            clock,
            entropy,
            limits,
            prefixes,
            default_tenant,
        });
        Ok((Fleet { inner: Arc::clone(&inner) }, Drivers::new(inner, receiver)))
    }
}
