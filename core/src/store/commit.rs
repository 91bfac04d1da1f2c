//! The transaction as data.

use crate::agent_token::AgentToken;
use crate::clock::Timestamp;
use crate::event::NewEvent;
use crate::host::Host;
use crate::id::HostId;
use crate::install_token::InstallToken;
use crate::store::record::Revision;
use crate::telemetry::HostFacts;

/// Guarded writes and the events that go with them: all or nothing.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// One for each aggregate that changes.
    pub writes: Vec<Write>,
    /// In the order in which they happened.
    pub events: Vec<NewEvent>,
}

impl Commit {
    /// A commit of one aggregate.
    pub fn of(write: impl Into<Write>, events: Vec<NewEvent>) -> Self {
        Self { writes: vec![write.into()], events }
    }
}

/// A write of one aggregate, under its guard.
#[derive(Debug, Clone)]
pub enum Write {
    /// A host and tokens of its.
    Host(Box<HostWrite>),
    /// An install token that is bound to a tenant: an aggregate of its own.
    TenantInstallToken {
        /// What must hold.
        expected: Expected,
        /// The whole of it.
        token: InstallToken,
    },
    /// The end of a host: its row and those of its tokens go, its name and its external id are free again, and every
    /// agent token's hash leaves a [`Tombstone`](super::Tombstone).
    HostDeletion {
        /// The guard: what is absent cannot be deleted.
        expected: Revision,
        /// Which.
        host_id: HostId,
        /// When, for the tombstones.
        at: Timestamp,
    },
}

/// A host's aggregate: the host as it shall be, and those of its tokens that change.
#[derive(Debug, Clone)]
pub struct HostWrite {
    /// What must hold. [`Expected::Absent`] makes the host, Pending and without facts.
    pub expected: Expected,
    /// The whole host, tags included.
    pub host: Host,
    /// Install tokens to make or to overwrite, by id.
    pub install_tokens: Vec<InstallToken>,
    /// Agent tokens to make or to overwrite whole, by id. A store writes those that end before those that begin, so that
    /// one can take another's place in the same commit.
    pub agent_tokens: Vec<AgentToken>,
    /// Facts known from the enrolment: merged only while no report of the host is stored, since those know better.
    pub facts: Option<HostFacts>,
}

impl HostWrite {
    /// A write of the host alone.
    pub fn new(expected: Expected, host: Host) -> Self {
        Self { expected, host, install_tokens: Vec::new(), agent_tokens: Vec::new(), facts: None }
    }
}

impl From<HostWrite> for Write {
    fn from(write: HostWrite) -> Self {
        Self::Host(Box::new(write))
    }
}

/// The guard of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is no such aggregate yet.
    Absent,
    /// It is at this revision.
    Revision(Revision),
}

impl Expected {
    /// The revision that the aggregate has after the write.
    pub const fn next(self) -> Revision {
        match self {
            Self::Absent => Revision::FIRST,
            Self::Revision(revision) => revision.next(),
        }
    }
}
