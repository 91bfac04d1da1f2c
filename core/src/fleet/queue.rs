//! The queue between requests and the driver: bounded by reports and by bytes, and closed unless the driver runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use futures_channel::{mpsc, oneshot};

use crate::store::{Append, AppendOutcome, StoreError, StoreErrorKind};

/// A report that waits for its commit.
pub(super) struct Job {
    pub(super) append: Append,
    pub(super) reply: oneshot::Sender<Result<AppendOutcome, StoreError>>,
    pub(super) slot: Slot,
}

/// The place that a report takes in the queue, from being sent until its answer is known.
pub(super) struct Slot {
    shared: Arc<Shared>,
    bytes: usize,
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
    shared: Arc<Shared>,
    max_reports: usize,
    max_bytes: usize,
}

/// The end that the driver holds. While it lives and was opened, reports are taken.
pub(super) struct Receiver {
    jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    phase: AtomicU8,
    reports: AtomicUsize,
    bytes: AtomicUsize,
}

/// `Drivers::run` was not polled yet.
const IDLE: u8 = 0;
const OPEN: u8 = 1;
/// The drivers have stopped, or were dropped.
const CLOSED: u8 = 2;

pub(super) fn channel(max_reports: usize, max_bytes: usize) -> (Sender, Receiver) {
    // Unbounded in itself: the slots bound it, by reports and by bytes, which a bounded channel cannot.
    let (sender, receiver) = mpsc::unbounded();
    let shared =
        Arc::new(Shared { phase: AtomicU8::new(IDLE), reports: AtomicUsize::new(0), bytes: AtomicUsize::new(0) });
    (Sender { jobs: sender, shared: Arc::clone(&shared), max_reports, max_bytes }, Receiver { jobs: receiver, shared })
}

impl Sender {
    /// Whether the drivers run.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let reason = match self.shared.phase.load(Ordering::Acquire) {
            OPEN => return Ok(()),
            IDLE => "the drivers do not run: spawn Drivers::run",
            _ => "the drivers have stopped",
        };
        Err(StoreError::with_source(StoreErrorKind::Unavailable, reason))
    }

    /// Takes a report; its answer comes through the receiver, which ends without one if the driver is dropped.
    pub(super) fn send(
        &self,
        append: Append,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<AppendOutcome, StoreError>>, Refused> {
        self.check().map_err(|_| Refused::Closed)?;
        let slot = Slot::take(&self.shared, bytes);
        let (reports, queued) =
            (self.shared.reports.load(Ordering::Relaxed), self.shared.bytes.load(Ordering::Relaxed));
        if reports > self.max_reports || queued > self.max_bytes {
            return Err(Refused::Full);
        }
        let (reply, answer) = oneshot::channel();
        self.jobs.unbounded_send(Job { append, reply, slot }).map_err(|_| Refused::Closed)?;
        Ok(answer)
    }
}

impl Receiver {
    /// Lets reports in.
    pub(super) fn open(&self) {
        self.shared.phase.store(OPEN, Ordering::Release);
    }

    /// Lets no more reports in; those that were taken can still be received.
    pub(super) fn close(&mut self) {
        self.shared.phase.store(CLOSED, Ordering::Release);
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
    fn take(shared: &Arc<Shared>, bytes: usize) -> Self {
        shared.reports.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), bytes }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.reports.fetch_sub(1, Ordering::Relaxed);
        self.shared.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
