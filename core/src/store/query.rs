//! Queries are structs; answers come in pages.

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::event::Position;
use crate::host::{ExternalId, HostKind, HostName, Status, Tag};
use crate::id::{AgentTokenId, HostId, InstallTokenId, LineageId, TenantId};
use crate::policy::Scope;

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// At most `limit` rows, in the query's order.
    pub items: Vec<T>,
    /// Whether rows follow: then the key of the last item is the cursor that asks for them.
    pub more: bool,
}

impl<T> Page<T> {
    /// Makes a page of rows that were read with one more than `limit`, to see whether any follow.
    pub fn of_overread(mut items: Vec<T>, limit: usize) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        Self { items, more }
    }

    /// The same page of other rows.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), more: self.more }
    }
}

/// How a single host is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostLookup {
    /// By its id.
    Id(HostId),
    /// By its external id, archived or not.
    ExternalId(TenantId, ExternalId),
    /// By its name, among the tenant's unarchived hosts.
    Name(TenantId, HostName),
}

/// Which hosts, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostQuery {
    /// What the actor may see.
    pub scope: Scope,
    /// Of this status only. Without one, archived hosts are shown as well.
    pub status: Option<Status>,
    /// With this tag only.
    pub tag: Option<Tag>,
    /// Of this kind only.
    pub kind: Option<HostKind>,
    /// Of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// With a name that begins so, to the byte.
    pub name_prefix: Option<String>,
    /// Behind this one.
    pub after: Option<HostId>,
    /// At most so many; at least 1.
    pub limit: usize,
}

impl HostQuery {
    /// Every host that `scope` shows.
    pub fn new(scope: Scope, limit: usize) -> Self {
        Self { scope, status: None, tag: None, kind: None, tenant_id: None, name_prefix: None, after: None, limit }
    }
}

/// Which hosts that new work may go to, in the order of [`HostId::lot`] and then of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateQuery {
    /// Where the actor may place work.
    pub scope: Scope,
    /// Of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// Of this kind only.
    pub kind: Option<HostKind>,
    /// With all of these.
    pub tags: BTreeSet<Tag>,
    /// Behind the place of this id, whether or not there is such a host.
    pub after: Option<HostId>,
    /// At most so many, and that many looked at; at least 1.
    pub limit: usize,
}

impl CandidateQuery {
    /// Every host that `scope` shows and new work may go to.
    pub const fn new(scope: Scope, limit: usize) -> Self {
        Self { scope, tenant_id: None, kind: None, tags: BTreeSet::new(), after: None, limit }
    }

    /// Whether a host of this id stands behind `after`.
    pub fn is_ahead(&self, host_id: HostId) -> bool {
        self.after.is_none_or(|after| (host_id.lot(), host_id) > (after.lot(), after))
    }
}

/// What install tokens are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstallTokenOwner {
    /// This host.
    Host(HostId),
    /// This tenant, and none of its hosts.
    Tenant(TenantId),
}

impl From<HostId> for InstallTokenOwner {
    fn from(host_id: HostId) -> Self {
        Self::Host(host_id)
    }
}

impl From<TenantId> for InstallTokenOwner {
    fn from(tenant_id: TenantId) -> Self {
        Self::Tenant(tenant_id)
    }
}

/// Which install tokens of a host or a tenant, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallTokenQuery {
    /// Whose.
    pub owner: InstallTokenOwner,
    /// Behind this one.
    pub after: Option<InstallTokenId>,
    /// At most so many; at least 1.
    pub limit: usize,
}

/// Which agent tokens of a host, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTokenQuery {
    /// Whose.
    pub host_id: HostId,
    /// Of this lineage only. Ids rise with time, so its head comes first; the origin of a token says for certain.
    pub lineage_id: Option<LineageId>,
    /// Behind this one.
    pub after: Option<AgentTokenId>,
    /// At most so many; at least 1.
    pub limit: usize,
}

impl AgentTokenQuery {
    /// Every agent token of the host.
    pub const fn new(host_id: HostId, limit: usize) -> Self {
        Self { host_id, lineage_id: None, after: None, limit }
    }
}

/// Which events, in the order of their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// What the actor may see. An event that concerns no host follows its tenant.
    pub scope: Scope,
    /// Of this host only.
    pub host_id: Option<HostId>,
    /// Of this tenant only.
    pub tenant_id: Option<TenantId>,
    /// Of hosts of this kind only; events that concern no host are of none.
    pub kind: Option<HostKind>,
    /// Of this `type` only.
    pub r#type: Option<String>,
    /// Behind this position.
    pub after: Position,
    /// At most so many; at least 1.
    pub limit: usize,
}

impl EventQuery {
    /// Every event that `scope` shows.
    pub fn new(scope: Scope, limit: usize) -> Self {
        Self { scope, host_id: None, tenant_id: None, kind: None, r#type: None, after: Position::START, limit }
    }
}

/// Which containers of a host, in the order of their `container_id`, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerQuery {
    /// Whose.
    pub host_id: HostId,
    /// Whether those that were removed are shown as well.
    pub removed: bool,
    /// Behind this `container_id`.
    pub after: Option<String>,
    /// At most so many; at least 1.
    pub limit: usize,
}

/// Which stored reports of a host, in the order of `recorded_at`; none when `from` is not before `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryQuery {
    /// Whose.
    pub host_id: HostId,
    /// Measured at this time or later.
    pub from: Timestamp,
    /// Measured before this time.
    pub to: Timestamp,
    /// Behind this time.
    pub after: Option<Timestamp>,
    /// At most so many; at least 1.
    pub limit: usize,
    /// What comes with them. It decides about no report whether it comes.
    pub containers: SnapshotContainers,
}

impl TelemetryQuery {
    /// Every stored report of the range, with all of its containers.
    pub const fn new(host_id: HostId, from: Timestamp, to: Timestamp, limit: usize) -> Self {
        Self { host_id, from, to, after: None, limit, containers: SnapshotContainers::All }
    }
}

/// Of which containers the numbers come with a stored report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SnapshotContainers {
    /// Of all that it measured.
    #[default]
    All,
    /// Of this one, if it measured it.
    One(String),
    /// Of none.
    None,
}

impl SnapshotContainers {
    /// Whether those of this one come.
    pub fn includes(&self, container_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(only) => only == container_id,
            Self::None => false,
        }
    }
}
