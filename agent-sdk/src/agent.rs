//! The agent: enrols, reports, keeps its lease, and stops only when it has to.

mod builder;
mod credential;
mod measure;
mod pace;
mod work;

use std::fmt;
use std::future::Future;

use enlist_core::HostId;
use enlist_core::wire::Problem;

pub use builder::AgentBuilder;

use crate::error::RunError;
use crate::lease::Lease;
use crate::session::Session;
use work::Work;

/// A host's agent: [`Agent::builder`], [`AgentBuilder::open`], [`Agent::run`].
///
/// It reports at once after enrolment or start, a second time after a part of the interval that its host id decides (so
/// that a fleet that started at one moment spreads), and from then on when the server's `next_report_in_ms` says, or more
/// often if the builder asks for it.
///
/// A contact that brings no answer is repeated within 10 s, or within the last `next_report_in_ms` if that is shorter,
/// jittered over the whole range, or when `Retry-After` says. A report whose fate is unknown is sent again exactly as it was, three
/// times in all, so that it is stored once; then it is given up and counted in `agent.dropped_total`, which starts at zero
/// with the agent. Reports are not kept on disk in this version. The times of reports rise strictly, also when the clock steps back; a clock that the server finds
/// implausible is corrected by the server's.
///
/// The credential is rotated by a [`Session`], when the server asks and before it grows old. While a rotation is
/// unanswered nothing is reported, since what is in use then is not certain.
///
/// Only two answers end it, both in the server's own form: `host_archived`, and 410 `host_deleted`, which alone erases the
/// credential. After any other refusal of the credential it keeps it and tries again every 30 to 60 s. If the server has
/// refused the credential for good and the builder was given another install token than the one that bought it, the host
/// enrols anew; the old credential is kept until that has succeeded.
pub struct Agent {
    work: Work,
    lease: Lease,
}

/// Why an agent ended without an error.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It was asked to.
    Shutdown,
    /// An administrator has taken the host out of service. The credential is kept.
    HostArchived(Box<Problem>),
    /// The host was deleted. The credential is erased.
    HostDeleted(Box<Problem>),
}

impl Agent {
    /// Begins an agent of the server at this base URL.
    pub fn builder(url: &str) -> AgentBuilder {
        AgentBuilder::new(url)
    }

    /// The lease that this agent will keep.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Who this machine is, if it was enrolled before.
    pub fn host_id(&self) -> Option<HostId> {
        self.work.session.host_id()
    }

    /// The credential in use, for requests of the program's own and to ask for a rotation. It is the agent's: both take
    /// turns.
    pub fn session(&self) -> Session {
        self.work.session.clone()
    }

    /// Enrols if need be, and reports until `shutdown` completes or the server says that the host is gone.
    ///
    /// On shutdown, as on dropping the future, a request in flight is abandoned; at most that one report is lost, and the
    /// stored credential stays whole.
    ///
    /// # Errors
    /// When there is no credential and none is to be had, for the enrolment is refused for good or cannot be kept; or when
    /// the credential cannot be erased. Never for want of a server.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Outcome, RunError> {
        let Self { mut work, lease: _ } = self;
        // Boxed: the state of the work is large, and the caller's future need not be.
        let work = Box::pin(async move { work.work_until_the_end().await });
        tokio::select! {
            biased;
            () = shutdown => Ok(Outcome::Shutdown),
            outcome = work => outcome,
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("host_id", &self.host_id()).field("lease", &self.lease).finish_non_exhaustive()
    }
}
