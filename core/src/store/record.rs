//! What stores give and take besides the entities themselves.

use crate::agent_token::AgentToken;
use crate::clock::Timestamp;
use crate::container::Container;
use crate::event::{Event, EventBody, NewEvent};
use crate::host::{Host, HostKind, Lifecycle, Presence};
use crate::id::{AgentTokenId, EventId, HostId, InstallTokenId, TenantId};
use crate::install_token::InstallToken;
use crate::liveness::{LivenessWindow, Monitor, Pace, Rule, Verdict};
use crate::secret::TokenHash;
use crate::store::error::StoreError;
use crate::telemetry::{HostFacts, HostMetrics, Report};

/// How often an aggregate was written. Rises by one with each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Of an aggregate just made.
    pub const FIRST: Self = Self(1);

    /// Takes a revision that was stored before.
    pub const fn new(revision: u64) -> Self {
        Self(revision)
    }

    /// The revision as a number, to store it.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What names an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A host by its id.
    Host(HostId),
    /// The aggregate of an install token: its host's, or its own when it is bound to a tenant.
    InstallToken(TokenHash),
    /// The same by the token's public id.
    InstallTokenId(InstallTokenId),
    /// The host of an agent token.
    AgentToken(TokenHash),
    /// The same by the token's public id.
    AgentTokenId(AgentTokenId),
}

/// What [`Store::load`](super::Store::load) gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Aggregate {
    /// A host with its tokens.
    Host(Box<HostAggregate>),
    /// An install token that is bound to a tenant.
    TenantInstallToken(Box<TenantInstallToken>),
}

/// A host, its tokens that can still act, and the token that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct HostAggregate {
    /// The guard of the next write.
    pub revision: Revision,
    /// The host.
    pub host: Host,
    /// Its Issued install token, if it has one.
    pub install_token: Option<InstallToken>,
    /// Its Pending and Active agent tokens, in the order of their ids.
    pub agent_tokens: Vec<AgentToken>,
    /// The token that the key named, whatever state it is in; a live one stands above as well.
    pub presented: Presented,
}

/// The token that a key named.
#[derive(Debug, Clone, PartialEq)]
pub enum Presented {
    /// The key named the host itself.
    Nothing,
    /// An install token.
    InstallToken(InstallToken),
    /// An agent token.
    AgentToken(AgentToken),
}

/// An install token that is bound to a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantInstallToken {
    /// The guard of the next write.
    pub revision: Revision,
    /// The token.
    pub token: InstallToken,
}

/// A host that new work may go to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The host.
    pub record: HostRecord,
    /// The machine's numbers in the newest report, while that is kept.
    pub metrics: Option<HostMetrics>,
}

/// A part of the ring of hosts that new work may go to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// In the query's order.
    pub items: Vec<Candidate>,
    /// Behind which place to go on; `None` when nothing follows.
    pub next: Option<HostId>,
}

impl Candidates {
    /// None, and none follow.
    pub const NONE: Self = Self { items: Vec::new(), next: None };
}

/// What a hash that was presented turns out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Known {
    /// An agent token, in whatever state.
    Credential(Box<Credential>),
    /// An agent token of a host that was deleted.
    Tombstone(Tombstone),
}

/// What is left of an agent token when its host is deleted, so that the agent can be told, and the hash stays refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// The public identity of the token.
    pub token_id: AgentTokenId,
    /// The host that was deleted.
    pub host_id: HostId,
    /// When.
    pub deleted_at: Timestamp,
}

/// An agent token with what is needed to judge it.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    /// The token.
    pub token: AgentToken,
    /// Whose its host is.
    pub tenant_id: TenantId,
    /// The administrator's state of its host.
    pub lifecycle: Lifecycle,
    /// The revocation epoch of its host.
    pub generation: u64,
    /// Its host's own liveness window.
    pub liveness_window: Option<LivenessWindow>,
}

/// An agent token with what is known of it by contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTokenRecord {
    /// The token.
    pub token: AgentToken,
    /// When it last proved its host, by the server's clock; `None` if it never did. As coarse as
    /// [`Store::touch`](super::Store::touch) says: it never goes back, and may lag by a minute.
    pub last_used_at: Option<Timestamp>,
}

/// A host with what is known of it by contact.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRecord {
    /// The guard of the next write.
    pub revision: Revision,
    /// The host.
    pub host: Host,
    /// What it shows of itself.
    pub presence: HostPresence,
}

/// What a host shows of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct HostPresence {
    /// Whether it is heard.
    pub presence: Presence,
    /// What it last said of itself.
    pub facts: HostFacts,
    /// `recorded_at` of its newest stored report.
    pub newest_report_at: Option<Timestamp>,
    /// Raised by every write of one of its container rows.
    pub containers_version: u64,
}

impl Default for HostPresence {
    fn default() -> Self {
        Self { presence: Presence::Pending, facts: HostFacts::default(), newest_report_at: None, containers_version: 0 }
    }
}

/// An authenticated request of a host, by the server's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Contact {
    /// Which host.
    pub host_id: HostId,
    /// The token that proved it.
    pub token_id: AgentTokenId,
    /// When.
    pub at: Timestamp,
    /// The identity of the event, should this contact bring the host online.
    pub event_id: EventId,
}

/// A look for hosts that have fallen silent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The time of the call, by the clock of whoever sweeps.
    pub now: Timestamp,
    /// The fleet's liveness window, and how often each replica sweeps.
    pub pace: Pace,
    /// The identities of events to be: at most so many hosts are judged in this call; at least 1.
    pub event_ids: Vec<EventId>,
}

/// What [`Store::sweep`](super::Store::sweep) found and did.
#[derive(Debug, Clone, PartialEq)]
pub struct Swept {
    /// What the store knows of sweeps from now on.
    pub monitor: Monitor,
    /// Whether silent hosts were to be called unreachable.
    pub verdict: Verdict,
    /// The events of those that were, with their positions.
    pub events: Vec<Event>,
    /// Whether the ids ran out: then call again.
    pub more: bool,
}

/// A verdict of silence on a host, to be made only if it still holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// Which host.
    pub host_id: HostId,
    /// By what it was found silent, and when.
    pub rule: Rule,
    /// Whether many fell silent at once.
    pub storm: bool,
    /// The identity of the event, should the verdict hold.
    pub event_id: EventId,
}

impl Silence {
    /// The verdicts of a sweep on these hosts: on as many as it has ids of events for.
    pub fn of_sweep(sweep: &Sweep, rule: Rule, storm: bool, hosts: impl IntoIterator<Item = HostId>) -> Vec<Self> {
        let hosts = hosts.into_iter().zip(&sweep.event_ids);
        hosts.map(|(host_id, event_id)| Self { host_id, rule, storm, event_id: *event_id }).collect()
    }
}

/// What is old enough to go. [`Timestamp::MIN`] keeps everything of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune {
    /// The time of the call: stores that keep snapshots by day make room for the days to come.
    pub now: Timestamp,
    /// Snapshots by their `recorded_at`.
    pub snapshots_before: Timestamp,
    /// Events by their time.
    pub events_before: Timestamp,
    /// Containers that are gone, by `removed_at`.
    pub containers_removed_before: Timestamp,
    /// Tombstones by `deleted_at`.
    pub tombstones_before: Timestamp,
    /// Install tokens of no use any more, by [`InstallToken::spent_at`].
    pub install_tokens_before: Timestamp,
    /// At most so many rows of each kind in this call; at least 1.
    pub limit: usize,
}

/// What a [`Prune`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// How many rows went, as far as the store can say: what is dropped by the day is not counted by the row.
    pub rows: u64,
    /// Whether the limit left something over: then call again.
    pub more: bool,
}

/// A report to store, and the contact that it proves.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// Who, when, with what. `contact.at` is when the report arrived.
    pub contact: Contact,
    /// The report, held to its bounds before.
    pub report: Report,
}

/// What [`Store::append`](super::Store::append) gives.
#[derive(Debug)]
pub struct Appended {
    /// An answer for each report, in the order of the reports.
    pub outcomes: Vec<AppendOutcome>,
    /// The events of hosts that came online, with their positions.
    pub events: Vec<Event>,
}

/// What became of one report.
#[derive(Debug, Clone)]
pub enum AppendOutcome {
    /// Stored.
    Accepted,
    /// It was stored before.
    Duplicate,
    /// Another report of that host and time was stored before, and stays.
    Conflict,
    /// The host is out of service.
    HostArchived,
    /// There is no such host.
    HostAbsent,
    /// The store could not store this one, for a reason of its own.
    Failed(StoreError),
}

/// A container as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    /// What the agent last said of it, with its numbers if the host's newest report has any.
    pub container: Container,
    /// When it was first reported, by the server's clock.
    pub first_seen_at: Timestamp,
    /// When it was last reported, by the server's clock: the time of the host's newest report that was complete, or
    /// of the newest one that changed its row, whichever is later; once it is removed, what that was just before.
    pub last_seen_at: Timestamp,
    /// When a complete report first lacked it, by the server's clock.
    pub removed_at: Option<Timestamp>,
}

/// The event that belongs to a change of presence from `before` to `after`, if it is one of coming online. Stores
/// write it in the transaction of the change; that it is made here keeps its shape in one place.
pub fn came_online(
    contact: &Contact,
    tenant_id: &TenantId,
    kind: HostKind,
    before: Presence,
    after: Presence,
) -> Option<NewEvent> {
    let was = before.status();
    if was == after.status() || !matches!(after, Presence::Online { .. }) {
        return None;
    }
    Some(NewEvent {
        id: contact.event_id,
        at: contact.at,
        tenant_id: tenant_id.clone(),
        host_id: Some(contact.host_id),
        host_kind: Some(kind),
        actor: None,
        body: EventBody::HostOnline { was },
    })
}

/// The event that belongs to a verdict of silence on an unarchived host, if it changed `before` into `after`; see
/// [`came_online`].
pub fn went_silent(
    silence: &Silence,
    tenant_id: &TenantId,
    kind: HostKind,
    before: Presence,
    after: Presence,
) -> Option<NewEvent> {
    let (Presence::Online { last_seen_at }, Presence::Unreachable { .. }) = (before, after) else { return None };
    Some(NewEvent {
        id: silence.event_id,
        at: silence.rule.now,
        tenant_id: tenant_id.clone(),
        host_id: Some(silence.host_id),
        host_kind: Some(kind),
        actor: None,
        body: EventBody::HostUnreachable { last_seen_at, storm: silence.storm },
    })
}
