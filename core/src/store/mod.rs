//! The storage contract: what a store must do, in prose that an implementor can obey.
//!
//! A store loads and commits; the transaction is data, not a handle. Services load an aggregate, run a pure
//! transition, commit, and on [`StoreErrorKind::Conflict`] load again. A new verb therefore adds a function to core,
//! not a method to every store. The `conformance` feature holds the properties that every store has to pass.
//!
//! Two kinds of data, with two kinds of rules:
//!
//! - **Identity** (hosts, install tokens, agent tokens, events): small, guarded by a [`Revision`] an aggregate,
//!   written by [`Store::commit`] alone.
//! - **Contact** (presence, facts, containers, snapshots): large, written by [`Store::append`], [`Store::touch`] and
//!   [`Store::sweep`], conditionally and never under the revision, so that a report never fails because an
//!   administrator was quicker.

mod commit;
mod described;
mod drive;
mod error;
mod facts;
mod memory;
mod query;
mod recent;
mod record;
mod subscription;
mod visible;

use async_trait::async_trait;

pub use commit::{Commit, Expected, HostWrite, Write};
pub use described::{Described, DescribedCache, Fingerprint};
pub use drive::{Choice, ENOUGH, EventDrive, HostDrive, behind_prefix};
pub use error::{StoreError, StoreErrorKind};
pub use facts::FactsCache;
pub use memory::MemoryStore;
pub use query::{
    AgentTokenQuery, CandidateQuery, ContainerQuery, EventQuery, HostLookup, HostQuery, InstallTokenOwner,
    InstallTokenQuery, Page, SnapshotContainers, TelemetryQuery,
};
pub use recent::{LAST_USE_GRAIN, RecentUses};
pub use record::{
    AgentTokenRecord, Aggregate, Append, AppendOutcome, Appended, Candidate, Candidates, Contact, ContainerRecord,
    Credential, HostAggregate, HostPresence, HostRecord, Key, Known, Presented, Prune, Pruned, Revision, Silence,
    Sweep, Swept, TenantInstallToken, Tombstone, came_online, went_silent,
};
pub use subscription::{Change, Subscription};
pub use visible::Visible;

use crate::event::{Event, Position};
use crate::install_token::InstallToken;
use crate::secret::TokenHash;
use crate::telemetry::HostSnapshot;

/// Where a fleet is kept.
///
/// # To ensure correctness
///
/// These hold for every method:
///
/// - **Durability**: when a writing method returns `Ok`, what it wrote survives the loss of power, as far as the
///   engine can promise it.
/// - **Cancellation**: dropping the future of a writing method leaves either all of its effect or none, never an open
///   transaction; the caller then does not know which.
/// - **Consistency**: a read that begins after a write has returned `Ok` sees it, through every handle on the data.
/// - **Failure**: what the engine cannot answer is [`StoreErrorKind::Unavailable`], never an empty result: a host must
///   not be told that its credential is unknown because a disk was busy.
/// - **Secrecy**: a store only ever sees hashes, and puts no data into its errors. What a decoder says of a row that it
///   cannot read may quote it: such words are not a source.
/// - **Damage**: what cannot be understood is [`StoreErrorKind::Corrupt`]; a reading method fails as a whole then.
///
/// Opening, migrating and closing are each store's own affair, and stand outside this trait.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Loads the aggregate that `key` names, as of one moment; `None` when there is none.
    ///
    /// To ensure correctness, a host's aggregate holds its Issued install token (commits let it have one at most), *every*
    /// Pending and Active agent token, and besides them what the key itself named, whatever state that is in. Expiry is
    /// not considered.
    async fn load(&self, key: &Key) -> Result<Option<Aggregate>, StoreError>;

    /// Applies all of `commit`, or nothing.
    ///
    /// To ensure correctness:
    ///
    /// - Every guard is checked inside the transaction that writes. A write with [`Expected::Revision`] on an
    ///   aggregate that is absent or at another revision, and one with [`Expected::Absent`] on an id that exists, fails
    ///   with `Conflict`; so do all the others with it. A conflict is reported before any clash below. A host's install
    ///   token exists, but is at no revision of its own.
    /// - The writes are made in their order; a second one of the same aggregate is a `Conflict`.
    /// - An aggregate's revision is 1 when it is made and rises by exactly one with each write.
    /// - A name that another unarchived host of the tenant has is `NameTaken`; an external id that another host of the
    ///   tenant has is `ExternalIdTaken`; the hash of an agent token that any agent token ever had, or of an install
    ///   token that any install token ever had, is `HashSeen`. Whether the two kinds share a register is the store's choice.
    /// - A second Active or a second Pending token of a lineage, and a second Issued install token of a host, are
    ///   refused by the schema itself (`Invalid`), and so are a token of another host in a host's write, a host's install
    ///   token in a tenant's, a token id that another aggregate has, and a token that is overwritten with another hash:
    ///   core never asks for any of these.
    /// - An agent token that is overwritten is overwritten whole: all but its id, its host and its hash can change.
    /// - The hash of an agent token of a deleted host stays seen for as long as its [`Tombstone`] is kept, and may be
    ///   forgotten with it; that of an install token stays seen for as long at least.
    /// - A deletion leaves nothing of the host to be read but its events, those of its commit included. What it reported
    ///   is not read out any more from then on, and is removed then or by [`Store::prune`]. Core
    ///   never gives the id of a deleted host again.
    /// - The events get positions in the order in which they stand, behind every event committed before; a reader of
    ///   the events never sees a position and later one below it.
    ///
    /// Returns the events with their positions.
    async fn commit(&self, commit: Commit) -> Result<Vec<Event>, StoreError>;

    /// Looks up the agent token with this hash, in whatever state, with what is needed to judge it, or its tombstone.
    /// Never writes.
    async fn authenticate(&self, hash: &TokenHash) -> Result<Option<Known>, StoreError>;

    /// Finds one host; archived ones by id or external id only.
    async fn find_host(&self, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError>;

    /// Hosts in the order of their ids. To ensure correctness, a host that exists, unchanged, throughout a walk by
    /// cursor is seen exactly once, whatever is added meanwhile; rows outside the query's scope are never read out.
    async fn list_hosts(&self, query: &HostQuery) -> Result<Page<HostRecord>, StoreError>;

    /// Hosts that new work may go to, in the order of [`HostId::lot`] and then of their ids, which has to do with nothing about
    /// them: a few behind a place drawn at random are a sample.
    ///
    /// To ensure correctness, exactly those that [`is_eligible`] names are given; there may be fewer than were asked for, or
    /// none, though more follow: `next` says. A walk by `next` ends. The cost follows `limit` and not how many hosts there
    /// are: a store looks at no more than so many rows of an index, chosen by what the query narrows most.
    ///
    /// [`HostId::lot`]: crate::HostId::lot
    /// [`is_eligible`]: crate::placement::is_eligible
    async fn list_candidates(&self, query: &CandidateQuery) -> Result<Candidates, StoreError>;

    /// Install tokens of a host, or those that are bound to a tenant itself, in the order of their ids, spent ones included.
    async fn list_install_tokens(&self, query: &InstallTokenQuery) -> Result<Page<InstallToken>, StoreError>;

    /// Agent tokens of a host, in the order of their ids, refused ones included, each with its last use as
    /// [`Store::append`] and [`Store::touch`] noted it. A commit leaves that as it is.
    async fn list_agent_tokens(&self, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, StoreError>;

    /// Events in the order of their positions. To ensure correctness, once a position was read out, no event with a
    /// lower one appears.
    async fn list_events(&self, query: &EventQuery) -> Result<Page<Event>, StoreError>;

    /// The position of the newest event that can be read; [`Position::START`] when there is none. Asked a few times a second
    /// while somebody follows events, so an index has to know it.
    ///
    /// To ensure correctness, every event up to it that was not pruned is found by a [`Store::list_events`] that begins
    /// after this has answered.
    async fn last_position(&self) -> Result<Position, StoreError>;

    /// Stores reports and the contacts that they prove; answers for each, in order. In one transaction, unless it is for a
    /// reason that a report is in another; each report is whole.
    ///
    /// To ensure correctness:
    ///
    /// - A report's identity is its host and `recorded_at`. If it is stored already, nothing of the report is written
    ///   and the answer is `Duplicate`, or `Conflict` when [`HostSnapshot::repeats`] says that its content is another.
    ///   This is decided inside the transaction, also against earlier reports of the same call.
    /// - Otherwise its snapshot and those of its containers are stored. Facts and container rows are touched only by
    ///   a report that is newer than the newest one stored of its host: facts by [`HostFacts::merge`]; container rows
    ///   when [`Container::describes_same`] says that they changed; containers that a *complete* report lacks are
    ///   marked removed.
    /// - Presence follows [`Presence::contact`], also for a duplicate and a conflict; a transition to Online brings its
    ///   event ([`came_online`]) in the same transaction.
    /// - A host that is archived, or not there, is refused by a check inside the transaction; nothing is written for it.
    /// - A failure that one report causes is that report's alone: the others are stored, and it gets
    ///   [`AppendOutcome::Failed`], with nothing of it stored; whether its contact is noted is the store's choice, since
    ///   core notes it besides. An engine without nested transactions therefore reads all that a report needs before it
    ///   writes any of it.
    /// - A container row that is written raises `containers_version`; once a report is enough.
    /// - Each token's last use is noted as in [`Store::touch`].
    ///
    /// [`HostSnapshot::repeats`] compares numbers to the bit: a store that keeps them as text has to read them back so
    /// (serde_json: feature `float_roundtrip`).
    ///
    /// [`HostFacts::merge`]: crate::telemetry::HostFacts::merge
    /// [`Container::describes_same`]: crate::container::Container::describes_same
    /// [`Presence::contact`]: crate::host::Presence::contact
    async fn append(&self, reports: Vec<Append>) -> Result<Appended, StoreError>;

    /// Notes contacts that brought no report: presence as in [`Store::append`], and each token's last use, which never
    /// goes back, may lag by a minute, and is passed over for a token that is not the host's. Archived and absent
    /// hosts are passed over. Returns the events of hosts that came online, in any order between hosts.
    async fn touch(&self, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError>;

    /// Looks for hosts that have fallen silent, and calls them unreachable if the [`Monitor`] lets it.
    ///
    /// To ensure correctness, in one transaction:
    ///
    /// - There is one monitor, read under a lock that every sweep takes, through whichever handle, and written by
    ///   each: first as [`Monitor::default`], then as the sweep before has left it.
    /// - Unarchived hosts that are Online are counted for [`Monitor::tick`], which decides. Archived ones never count. Who is
    ///   silent, and who was heard, is [`Monitor::rule`]'s to say, of the monitor as it was read, and for each host by its own
    ///   window, where it has one.
    /// - If the verdict is [`Verdict::Sweep`], as many Online hosts as there are ids, those whose windows ended first
    ///   first or nearly so, are judged by [`Rule::judge`] on what is stored when they can no longer be changed by
    ///   others, so that a contact made meanwhile always wins. Each that changes is told of by an event ([`went_silent`]) in
    ///   the same transaction, so that of any number of sweeps one makes it; an archived host changes without one, and no
    ///   later sweep comes by it again. Those told of are noted by [`Monitor::note_fallen`]. There is `more` when there was no
    ///   id left for a host that is silent.
    /// - A store may pass over hosts that others are changing just then, instead of waiting: a later sweep finds them. Where
    ///   all that there were ids for are passed over, there is not `more`.
    /// - `now` is the caller's, or the store's own where it has a clock of its own that is earlier: a replica whose clock
    ///   runs ahead must not judge by it.
    /// - The cost follows how many are judged, and the smaller of how many are silent and how many were heard, not how many
    ///   there are, nor how many have windows of their own: indexes find them, and [`Monitor::silent_to_count`] says how far.
    ///
    /// [`Monitor`]: crate::liveness::Monitor
    /// [`Monitor::default`]: crate::liveness::Monitor
    /// [`Monitor::rule`]: crate::liveness::Monitor::rule
    /// [`Monitor::tick`]: crate::liveness::Monitor::tick
    /// [`Monitor::note_fallen`]: crate::liveness::Monitor::note_fallen
    /// [`Monitor::silent_to_count`]: crate::liveness::Monitor::silent_to_count
    /// [`Verdict::Sweep`]: crate::liveness::Verdict::Sweep
    /// [`Rule::judge`]: crate::liveness::Rule::judge
    async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError>;

    /// Begins to tell which agent tokens others cut off, so that caches can forget them.
    ///
    /// To ensure correctness, every agent token that a commit leaves neither Pending nor Active, or deletes with its
    /// host, is told of, through whichever handle, of whichever process, the commit came, if it was made after this
    /// returned. It is told once the commit can be read, so that whoever asks the store again finds it, and whatever
    /// became of the caller: a commit whose future was dropped, or whose answer was lost, is told as well. `None` when the
    /// store has no way to know: what is cached then lives for a second only.
    async fn subscribe(&self) -> Result<Option<Box<dyn Subscription>>, StoreError>;

    /// Deletes what is old, a bounded number of rows in each call, and what deleted hosts left behind, whatever its age.
    ///
    /// To ensure correctness, what is as old as asked or younger stays, and so do a host's facts, its presence, the
    /// time of its newest report and containers that are there. Once a call has answered that there is not `more`,
    /// everything has gone that was to go; snapshots may stay for up to a day longer, so that they can go by the day, and
    /// are not `more` meanwhile. Removing container rows raises their host's `containers_version`.
    /// A position once given is never given again, whatever was pruned.
    ///
    /// Of an install token that goes, the hash stays seen for ever. No revision is raised: it can be loaded and written by its
    /// aggregate no more, save that a commit which loaded it before may write it once again.
    async fn prune(&self, prune: &Prune) -> Result<Pruned, StoreError>;

    /// Containers of a host, in the order of their `container_id`, as UTF-8 bytes.
    async fn list_containers(&self, query: &ContainerQuery) -> Result<Page<ContainerRecord>, StoreError>;

    /// Stored reports of a host, in the order of `recorded_at`. `after` narrows the range and never widens it; one that
    /// ends where it begins, or before, is empty. Of containers that were not asked for nothing is given, and nothing need be
    /// read: courses are made of tens of thousands of reports, which may have hundreds of containers each.
    async fn list_telemetry(&self, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, StoreError>;

    /// Whether the store can read and write now: the answer of `/readyz`. To ensure correctness, it writes: what only shows
    /// with a write (a full disk, a replica that may not) has to show here.
    async fn check(&self) -> Result<(), StoreError>;
}
