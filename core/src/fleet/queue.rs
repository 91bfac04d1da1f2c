//! The queue between requests and the driver: bounded by reports and by bytes, and closed unless the driver runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_channel::{mpsc, oneshot};

use crate::fleet::gauge::{Claim, Gauge, Lane};
use crate::store::{Append, AppendOutcome, StoreError, StoreErrorKind};

/// What became of the reports of a job, in their order.
pub(super) type Outcomes = Result<Vec<AppendOutcome>, StoreError>;

/// Reports that wait for their commit, which is one for all of them.
pub(super) struct Job {
    pub(super) appends: Vec<Append>,
    pub(super) reply: oneshot::Sender<Outcomes>,
    pub(super) slot: Slot,
}

/// The place that a job takes in the queue, from being sent until its answer is known.
pub(super) struct Slot {
    /// Held for its drop only.
    _reports: Claim,
    bytes: Claim,
}

/// Why a report was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// As many wait as may.
    Full,
    /// The drivers do not run.
    Closed,
}

/// The end that requests hold.
pub(super) struct Sender {
    jobs: mpsc::UnboundedSender<Job>,
    phase: Arc<AtomicU8>,
    reports: Arc<Gauge>,
    bytes: Arc<Gauge>,
}

/// The end that the driver holds. While it lives and was opened, reports are taken.
pub(super) struct Receiver {
    jobs: mpsc::UnboundedReceiver<Job>,
    phase: Arc<AtomicU8>,
}

/// `Drivers::run` was not polled yet.
const IDLE: u8 = 0;
const OPEN: u8 = 1;
/// The drivers have stopped, or were dropped.
const CLOSED: u8 = 2;

pub(super) fn channel(max_reports: usize, max_bytes: usize) -> (Sender, Receiver) {
    // Unbounded in itself: the slots bound it, by reports and by bytes, which a bounded channel cannot.
    let (sender, receiver) = mpsc::unbounded();
    let phase = Arc::new(AtomicU8::new(IDLE));
    let (reports, bytes) = (Gauge::new(max_reports), Gauge::new(max_bytes));
    (Sender { jobs: sender, phase: Arc::clone(&phase), reports, bytes }, Receiver { jobs: receiver, phase })
}

impl Sender {
    /// Whether the drivers run.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let reason = match self.phase.load(Ordering::Acquire) {
            OPEN => return Ok(()),
            IDLE => "the drivers do not run: spawn Drivers::run",
            _ => "the drivers have stopped",
        };
        Err(StoreError::with_source(StoreErrorKind::Unavailable, reason))
    }

    /// Takes groups of reports, each with its bytes: all of them or none. A group is committed as one and in its order, after
    /// those before it; its answer comes through the receiver, which ends without one if the driver is dropped.
    pub(super) fn send(
        &self,
        lane: Lane,
        groups: Vec<(Vec<Append>, usize)>,
    ) -> Result<Vec<oneshot::Receiver<Outcomes>>, Refused> {
        self.check().map_err(|_| Refused::Closed)?;
        let (mut reports, mut bytes) = (self.reports.claim(lane), self.bytes.claim(lane));
        let of_all = |count: fn(&(Vec<Append>, usize)) -> usize| groups.iter().map(count).sum();
        if !reports.grow(of_all(|(appends, _)| appends.len())) || !bytes.grow(of_all(|(_, bytes)| *bytes)) {
            return Err(Refused::Full);
        }
        let send = |(appends, size): (Vec<Append>, usize)| {
            let slot = Slot { _reports: reports.split(appends.len()), bytes: bytes.split(size) };
            let (reply, answer) = oneshot::channel();
            self.jobs.unbounded_send(Job { appends, reply, slot }).map_err(|_| Refused::Closed)?;
            Ok(answer)
        };
        groups.into_iter().map(send).collect()
    }
}

impl Receiver {
    /// Lets reports in.
    pub(super) fn open(&self) {
        self.phase.store(OPEN, Ordering::Release);
    }

    /// Lets no more reports in; those that were taken can still be received.
    pub(super) fn close(&mut self) {
        self.phase.store(CLOSED, Ordering::Release);
        self.jobs.close();
    }

    /// Waits for a report; `None` once it is closed and empty.
    pub(super) async fn next(&mut self) -> Option<Job> {
        futures_util::StreamExt::next(&mut self.jobs).await
    }

    /// A report that waits already.
    pub(super) fn try_next(&mut self) -> Option<Job> {
        self.jobs.try_recv().ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.close();
    }
}

impl Slot {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes.amount()
    }
}
