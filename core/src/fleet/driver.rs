//! The part of a fleet that runs by itself.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, Either};

use crate::clock::Timestamp;
use crate::fleet::feed::ring_feeds;
use crate::fleet::liveness::watch_silence;
use crate::fleet::queue::{Job, Outcomes, Receiver, Slot};
use crate::fleet::retention::prune_store;
use crate::fleet::watch::watch_changes;
use crate::fleet::{Fleet, Inner};
use crate::id::EventId;
use crate::store::{Append, AppendOutcome, Appended, Contact, StoreError, StoreErrorKind};

/// How the drivers sleep. One method, so that any runtime can give it.
pub trait Timer: Send + Sync + 'static {
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Sleeps with tokio.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioTimer;

#[cfg(feature = "tokio")]
impl Timer for TokioTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// What a fleet does by itself: it commits reports in groups, writes contacts, forgets what others cut off, deletes
/// what is too old, finds the hosts that have fallen silent, and tells feeds of new events.
///
/// Whoever builds a fleet spawns [`Drivers::run`]. Until it is first polled, and after it has ended or was dropped,
/// reports and heartbeats are refused at once with `Unavailable`; they never hang. Nothing else needs it, save that
/// without it credentials are remembered for a second only, and no host becomes unreachable.
#[must_use = "without its drivers a fleet takes no reports: spawn `drivers.run(…)`"]
pub struct Drivers {
    fleet: Arc<Inner>,
    receiver: Receiver,
}

impl Drivers {
    pub(super) const fn new(fleet: Arc<Inner>, receiver: Receiver) -> Self {
        Self { fleet, receiver }
    }

    /// Runs until `shutdown` completes; then takes no more reports, commits those that were taken, and ends.
    ///
    /// Dropping the future in mid-flight is safe: whoever waits for an answer gets `Unavailable`, and may send again.
    pub async fn run(self, timer: impl Timer, shutdown: impl Future<Output = ()> + Send) {
        let Self { fleet, receiver } = self;
        receiver.open();
        fleet.feeds.open();
        let shutdown = shutdown.boxed().shared();
        let upkeep = future::join5(
            write_contacts(&fleet, &timer, shutdown.clone()),
            watch_changes(&fleet, &timer, shutdown.clone()),
            prune_store(&fleet, &timer, shutdown.clone()),
            watch_silence(&fleet, &timer, shutdown.clone()),
            ring_feeds(&fleet, &timer, shutdown.clone()),
        );
        future::join(commit_reports(&fleet, receiver, shutdown), upkeep).await;
        // Heartbeats were taken until the last batch was committed.
        drop(flush_contacts(&fleet).await);
    }
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers").finish_non_exhaustive()
    }
}

impl Fleet {
    /// Whether the drivers run, so that reports and heartbeats are taken.
    pub fn accepts_reports(&self) -> bool {
        self.inner.reports.check().is_ok()
    }
}

/// Group commit: a batch is what came while the commit before it ran, so an idle server commits a lone report at once
/// and a busy one needs no timer.
async fn commit_reports(fleet: &Inner, mut receiver: Receiver, shutdown: impl Future<Output = ()> + Unpin) {
    let mut shutdown = shutdown.fuse();
    loop {
        let first = {
            let next = pin!(receiver.next());
            // The shutdown is asked first: under load there is always a next report.
            match future::select(&mut shutdown, next).await {
                Either::Left(_) => break,
                Either::Right((job, _)) => job,
            }
        };
        let Some(first) = first else { return };
        commit_batch(fleet, fill_batch(fleet, first, &mut receiver)).await;
    }
    receiver.close();
    while let Some(first) = receiver.next().await {
        commit_batch(fleet, fill_batch(fleet, first, &mut receiver)).await;
    }
}

fn fill_batch(fleet: &Inner, first: Job, receiver: &mut Receiver) -> Vec<Job> {
    let (mut reports, mut bytes) = (first.appends.len(), first.slot.bytes());
    let mut batch = vec![first];
    while reports < fleet.limits.batch_reports && bytes < fleet.limits.batch_bytes {
        let Some(job) = receiver.try_next() else { break };
        reports += job.appends.len();
        bytes += job.slot.bytes();
        batch.push(job);
    }
    batch
}

async fn commit_batch(fleet: &Inner, batch: Vec<Job>) {
    let mut waiting = Vec::with_capacity(batch.len());
    let mut reports = Vec::with_capacity(batch.len());
    for Job { appends, reply, slot } in batch {
        waiting.push(Waiting { reply, count: appends.len(), _slot: slot });
        reports.extend(appends);
    }
    let count = reports.len();
    let contacts: Vec<Contact> = reports.iter().map(|append: &Append| append.contact.clone()).collect();
    let appended = {
        let _committing = Committing::of(fleet, contacts.iter().map(|contact| contact.at).min());
        let appended = fleet.store.append(reports).await;
        note_unwritten(fleet, &contacts, &appended);
        appended
    };
    // A request whose future was dropped is stored all the same; there is only nobody to tell.
    match appended {
        Ok(appended) if appended.outcomes.len() == count => {
            let mut outcomes = appended.outcomes.into_iter();
            for Waiting { reply, count, _slot } in waiting {
                let _ = reply.send(Ok(outcomes.by_ref().take(count).collect()));
            }
        }
        Ok(_) => {
            tracing::error!("the store answered for another number of reports than it was given");
            refuse_all(waiting, &StoreError::new(StoreErrorKind::Corrupt));
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, reports = count, "reports not stored");
            refuse_all(waiting, &error);
        }
    }
}

/// What a report says never changes presence: the host of one that was not stored has proved its credential all the same.
/// Here and not where the answer is waited for, since a request that took too long may be gone by now.
fn note_unwritten(fleet: &Inner, contacts: &[Contact], appended: &Result<Appended, StoreError>) {
    let outcomes = appended.as_ref().ok().map(|appended| &appended.outcomes);
    for (place, contact) in contacts.iter().enumerate() {
        let outcome = outcomes.and_then(|outcomes| outcomes.get(place));
        if outcome.is_none_or(|outcome| matches!(outcome, AppendOutcome::Failed(_))) {
            fleet.contacts.note(contact.host_id, contact.token_id, contact.at);
        }
    }
}

/// When the oldest report arrived of the commit that is under way. Those that wait behind it are later.
#[derive(Debug, Default)]
pub(super) struct Uncommitted(Mutex<Option<Timestamp>>);

impl Uncommitted {
    /// Whether a report has been waiting to be committed for longer than that.
    pub(super) fn waits_longer_than(&self, patience: Duration, now: Timestamp) -> bool {
        let oldest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.is_some_and(|oldest| now.saturating_since(oldest) > patience)
    }

    fn set(&self, oldest: Option<Timestamp>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }
}

/// A commit that is under way, until it is dropped.
struct Committing<'a>(&'a Inner);

impl<'a> Committing<'a> {
    fn of(fleet: &'a Inner, oldest: Option<Timestamp>) -> Self {
        fleet.uncommitted.set(oldest);
        Self(fleet)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.uncommitted.set(None);
    }
}

/// Who waits for the answer of a job, and for how many reports.
struct Waiting {
    reply: futures_channel::oneshot::Sender<Outcomes>,
    count: usize,
    _slot: Slot,
}

fn refuse_all(waiting: Vec<Waiting>, error: &StoreError) {
    for Waiting { reply, .. } in waiting {
        let _ = reply.send(Err(error.clone()));
    }
}

/// Writes the contacts that brought no report, every interval.
async fn write_contacts(fleet: &Inner, timer: &impl Timer, shutdown: impl Future<Output = ()> + Unpin) {
    let mut shutdown = shutdown.fuse();
    let interval = fleet.limits.contact_interval;
    while let Either::Right(_) = future::select(&mut shutdown, timer.sleep(interval)).await {
        // What could not be written was said, and is tried again.
        drop(flush_contacts(fleet).await);
    }
}

/// How many contacts one transaction takes.
const CONTACTS: usize = 1_000;

/// Writes the contacts that were noted so far; when it ends well, all of them are written, also those that another call had
/// taken before.
pub(super) async fn flush_contacts(fleet: &Inner) -> Result<(), StoreError> {
    let _writing = fleet.writing_contacts.lock().await;
    let mut outcome = Ok(());
    let contacts: Vec<_> = fleet
        .contacts
        .take()
        .into_iter()
        .map(|(host_id, (token_id, at))| {
            let event_id = EventId::generate(at, &*fleet.entropy);
            Contact { host_id, token_id, at, event_id }
        })
        .collect();
    for group in contacts.chunks(CONTACTS) {
        let Err(error) = fleet.store.touch(group.to_vec()).await else { continue };
        tracing::warn!(error = &error as &dyn std::error::Error, hosts = group.len(), "contacts not written yet");
        if error.is_retryable() {
            for contact in group {
                fleet.contacts.note(contact.host_id, contact.token_id, contact.at);
            }
            outcome = Err(error);
            continue;
        }
        // One of them is to blame: the others must not wait for it for ever.
        for contact in group {
            let Err(error) = fleet.store.touch(vec![contact.clone()]).await else { continue };
            let host_id = contact.host_id;
            if error.is_retryable() {
                tracing::warn!(error = &error as &dyn std::error::Error, %host_id, "a contact is not written yet");
                fleet.contacts.note(host_id, contact.token_id, contact.at);
                outcome = Err(error);
            } else {
                tracing::error!(error = &error as &dyn std::error::Error, %host_id, "a contact cannot be written");
            }
        }
    }
    outcome
}
