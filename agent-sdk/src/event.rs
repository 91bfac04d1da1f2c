//! What an agent tells the program that it runs in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use enlist_core::telemetry::Report;
use enlist_core::wire::{Problem, ReportStatus};
use enlist_core::{AgentTokenId, HostId, TenantId, Timestamp};
use tokio::sync::Notify;

use crate::error::{ClientError, CredentialError};

/// How many events wait for a slow reader; then the oldest goes.
const CAPACITY: usize = 256;

/// Something that happened to the agent. None carries a secret.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The install token was exchanged in this run; the credential is kept.
    Enrolled {
        /// Who this machine is from now on.
        host_id: HostId,
        /// Whose it is.
        tenant_id: TenantId,
    },
    /// Another credential is in use than before: after enrolment, after a rotation, or one that was delivered by hand.
    CredentialChanged {
        /// Whose credential it is.
        host_id: HostId,
        /// The new one's public identity.
        token_id: AgentTokenId,
    },
    /// The server acknowledged a report: it is stored durably.
    Reported {
        /// What became of it.
        status: ReportStatus,
        /// When it was measured: its `recorded_at`.
        at: Timestamp,
        /// The server's clock.
        server_time: Timestamp,
        /// What was sent.
        report: Box<Report>,
    },
    /// A contact failed, after one that did not or as the first. Said once, until [`Event::ConnectivityRestored`].
    ConnectivityLost {
        /// Why.
        error: ClientError,
    },
    /// The server answers again.
    ConnectivityRestored,
    /// The server refused a report, a heartbeat, the credential or an install token. The credential is kept, and the agent goes on trying.
    Refused {
        /// Its words.
        problem: Box<Problem>,
    },
    /// The server refused a rotation for the time being: an administrator's successor waits, or another holder of the
    /// credential has proposed one. Work goes on with the token in use, and the same proposal is repeated every quarter
    /// of an hour. Said once for each successor that is held up so.
    RotationRefused {
        /// Its words.
        problem: Box<Problem>,
    },
    /// The server refused the agent token that was delivered by hand. It is not tried again; what was installed stays.
    AgentTokenRefused {
        /// Its words.
        problem: Box<Problem>,
    },
    /// The agent token that was delivered by hand is another host's. It is not used; what was installed stays.
    AgentTokenOfAnotherHost {
        /// That host.
        host_id: HostId,
    },
    /// A change of the credential could not be kept. Nothing is used that is not durable; the agent tries again.
    CredentialNotKept {
        /// What the store says.
        error: CredentialError,
    },
    /// The server found the time of a report implausible. From now on the agent stamps reports by the server's clock,
    /// until its own agrees with it again.
    ClockSkew {
        /// What the agent took it for.
        recorded_at: Timestamp,
        /// The server's clock, if it said.
        server_time: Option<Timestamp>,
    },
    /// A report was given up: refused, or repeated in vain.
    ReportDropped {
        /// When it was measured.
        recorded_at: Timestamp,
        /// How many were given up since the agent started.
        dropped_total: u64,
    },
    /// A collector did not finish in time and was left out of a report.
    CollectorStalled,
    /// An administrator has taken the host out of service. The agent stops; the credential is kept.
    HostArchived {
        /// The server's words.
        problem: Box<Problem>,
    },
    /// The host was deleted. The agent stops; the credential is erased.
    HostDeleted {
        /// The host that it was.
        host_id: HostId,
        /// The server's words.
        problem: Box<Problem>,
    },
    /// The reader was too slow: this many events before the next one are lost.
    Missed {
        /// How many.
        count: u64,
    },
}

/// The events of an agent, in order.
///
/// Reading is optional. At most 256 events wait; beyond that the oldest goes, since the newest say how things stand, and
/// [`Event::Missed`] says how many went. Nothing that the reader does holds the agent up.
#[derive(Debug)]
pub struct Events(Arc<Shared>);

impl Events {
    /// The next event, or `None` when the agent has ended and all were read. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            {
                let mut queue = self.0.lock();
                if queue.missed > 0 {
                    return Some(Event::Missed { count: std::mem::take(&mut queue.missed) });
                }
                if let Some(event) = queue.events.pop_front() {
                    return Some(event);
                }
                if queue.ended {
                    return None;
                }
            }
            // A permit is kept if something happens just now.
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.unread = true;
        queue.events.clear();
    }
}

/// The agent's end.
#[derive(Debug)]
pub(crate) struct EventSender(Arc<Shared>);

/// The end of a session: the agent that it belongs to decides when the events are over, if there is one.
#[derive(Debug)]
pub(crate) struct SessionEvents {
    sender: Weak<EventSender>,
    _own: Option<Arc<EventSender>>,
}

impl SessionEvents {
    pub(crate) fn of_agent(sender: &Arc<EventSender>) -> Self {
        Self { sender: Arc::downgrade(sender), _own: None }
    }

    pub(crate) fn own(sender: EventSender) -> Self {
        let own = Arc::new(sender);
        Self { sender: Arc::downgrade(&own), _own: Some(own) }
    }

    pub(crate) fn send(&self, event: Event) {
        if let Some(sender) = self.sender.upgrade() {
            sender.send(event);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    missed: u64,
    ended: bool,
    unread: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing under the lock can panic half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn channel() -> (EventSender, Events) {
    let shared = Arc::new(Shared::default());
    (EventSender(Arc::clone(&shared)), Events(shared))
}

impl EventSender {
    pub(crate) fn send(&self, event: Event) {
        {
            let mut queue = self.0.lock();
            if queue.unread {
                return;
            }
            if queue.events.len() == CAPACITY {
                queue.events.pop_front();
                queue.missed += 1;
            }
            queue.events.push_back(event);
        }
        self.0.changed.notify_one();
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let (sender, mut events) = channel();
        for n in 0..CAPACITY as u64 + 3 {
            sender.send(Event::ReportDropped { recorded_at: Timestamp::MIN, dropped_total: n });
        }
        assert!(matches!(events.next().await, Some(Event::Missed { count: 3 })));
        assert!(matches!(events.next().await, Some(Event::ReportDropped { dropped_total: 3, .. })));
        drop(sender);
        let mut left = 0;
        while events.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, CAPACITY - 1);
    }

    #[tokio::test]
    async fn without_a_reader_nothing_is_kept() {
        let (sender, events) = channel();
        sender.send(Event::ConnectivityRestored);
        drop(events);
        for _ in 0..10 {
            sender.send(Event::ConnectivityRestored);
        }
        assert!(sender.0.lock().events.is_empty());
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (sender, mut events) = channel();
        let reader = tokio::spawn(async move { events.next().await });
        tokio::task::yield_now().await;
        sender.send(Event::CollectorStalled);
        assert!(matches!(reader.await.expect("no panic"), Some(Event::CollectorStalled)));
    }
}
