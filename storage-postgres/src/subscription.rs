//! Cut-offs, told to other processes as they are committed: PostgreSQL's NOTIFY.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::TokenHash;
use enlist_core::store::{Change, StoreError, Subscription};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Executor, raw_sql};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::Failure;
use crate::store::Shared;
use crate::transaction::Db;

/// A payload is shorter than 8,000 bytes: so many hashes of 64 digits, with a comma each.
const HASHES_A_PAYLOAD: usize = 120;
/// So many changes may wait to be read. Behind them everything is to be forgotten, which is one change.
const MAX_WAITING: usize = 1_024;
/// How long a round trip on the listening connection may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long is waited before connecting again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How long a listening connection is believed to hear what the pool's connections say.
const BELIEVED: Duration = Duration::from_secs(60);
/// What is said only to be heard by the one who says it. No hash begins so.
const HELLO: &str = "hello:";

const NOTIFY: &str = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/// Tells of hashes that were cut off: in the transaction that cuts them off, so that it is told if that is committed,
/// and before the commit returns to whoever made it.
pub(crate) async fn tell(db: &mut Db, hashes: &[TokenHash]) -> Result<(), Failure> {
    if hashes.is_empty() {
        return Ok(());
    }
    let payloads = hashes.chunks(HASHES_A_PAYLOAD).map(|hashes| {
        let hashes: Vec<_> = hashes.iter().map(TokenHash::to_hex).collect();
        hashes.join(",")
    });
    let channel = db.shared().sql.channel();
    db.query(NOTIFY).bind(channel).bind(payloads.collect::<Vec<_>>()).execute(db.connection()).await?;
    Ok(())
}

/// Reads what [`tell`] wrote. What another version wrote otherwise may stand for anything. `None` for a greeting, which
/// concerns only whoever said it.
fn read(payload: &str) -> Option<Change> {
    if payload.starts_with(HELLO) {
        return None;
    }
    let hashes: Option<Vec<_>> = payload.split(',').map(TokenHash::from_hex).collect();
    Some(hashes.map_or(Change::Gap, Change::AgentTokens))
}

/// A greeting that nobody else says.
fn greeting() -> String {
    let [one, other] = [(); 2].map(|()| RandomState::new().build_hasher().finish());
    format!("{HELLO}{one:016x}{other:016x}")
}

/// Says it where cut-offs are told: through the pool. It is said when this returns.
async fn say(shared: &Arc<Shared>, greeting: String) -> Result<(), Failure> {
    let saying = shared.attempt(&[], |db| {
        let greeting = greeting.clone();
        Box::pin(async move {
            let channel = db.shared().sql.channel();
            db.query(NOTIFY).bind(channel).bind(vec![greeting]).execute(db.connection()).await?;
            Ok(())
        })
    });
    saying.await
}

/// What the task has heard, and the one who subscribed has not read yet.
#[derive(Debug, Default)]
struct Queue {
    changes: Mutex<VecDeque<Change>>,
    filled: Notify,
}

impl Queue {
    fn push(&self, change: Change) {
        let mut changes = self.changes();
        if changes.len() >= MAX_WAITING || change == Change::Gap {
            // Whoever forgets everything need not be told what.
            changes.clear();
            changes.push_back(Change::Gap);
        } else {
            changes.push_back(change);
        }
        drop(changes);
        self.filled.notify_one();
    }

    /// Takes a payload in; returns whether it was `greeting`.
    fn take(&self, payload: &str, greeting: Option<&str>) -> bool {
        if let Some(change) = read(payload) {
            self.push(change);
        }
        greeting == Some(payload)
    }

    fn changes(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription: its task listens, and puts what it hears into the queue. It ends when this is dropped.
struct Listening {
    queue: Arc<Queue>,
    syncs: mpsc::Sender<oneshot::Sender<()>>,
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self) -> Change {
        loop {
            // Only one waits, since it takes `&mut self`: a wake-up that was meant for a dropped future is kept.
            if let Some(change) = self.queue.changes().pop_front() {
                return change;
            }
            self.queue.filled.notified().await;
        }
    }

    async fn sync(&mut self) -> Result<(), StoreError> {
        let late = || StoreError::from(Failure::Unavailable("the listening connection does not answer"));
        let (reply, answered) = oneshot::channel();
        let asked = async {
            self.syncs.send(reply).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten().ok_or_else(late)
    }
}

/// Begins to listen. Whatever is committed after this has returned is told.
pub(crate) async fn subscribe(
    shared: &Arc<Shared>,
    options: &PgConnectOptions,
) -> Result<Box<dyn Subscription>, Failure> {
    let queue = Arc::new(Queue::default());
    let (syncs, asked) = mpsc::channel(16);
    let way = Way { shared: Arc::clone(shared), options: options.clone(), queue: Arc::clone(&queue) };
    let listener = way.connect().await?;
    let task = Task { way: Arc::new(way), asked, unanswered: None, heard: Instant::now(), said: None };
    tokio::spawn(task.run(listener));
    Ok(Box::new(Listening { queue, syncs }))
}

/// How a connection that listens is had.
struct Way {
    shared: Arc<Shared>,
    options: PgConnectOptions,
    queue: Arc<Queue>,
}

impl Way {
    /// A connection that was found to hear what is said through the pool. One to another database, or through a pooler
    /// that hands out its connections by the transaction, would listen in silence for ever.
    async fn connect(&self) -> Result<PgListener, Failure> {
        let late = Failure::Unavailable("the listening connection could not be made in time");
        let listening = tokio::time::timeout(RETRY.1, self.listen()).await;
        let mut listener = listening.unwrap_or(Err(late))?;
        let greeting = greeting();
        say(&self.shared, greeting.clone()).await?;
        // Nothing is asked on this connection meanwhile: a pooler would lend it one that heard something.
        let heard = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(notification)) = listener.try_recv().await {
                if self.queue.take(notification.payload(), Some(&greeting)) {
                    return true;
                }
            }
            false
        });
        match heard.await {
            Ok(true) => Ok(listener),
            _ => Err(Failure::Unavailable("the listening connection does not hear what is said through the pool")),
        }
    }

    /// A connection of its own, that no pool recycles: what it listens to belongs to the connection.
    async fn listen(&self) -> Result<PgListener, Failure> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(RETRY.1)
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        // We connect again by ourselves, whatever the error was, and say that there was a gap.
        listener.eager_reconnect(false);
        listener.listen(&self.shared.sql.channel()).await?;
        Ok(listener)
    }
}

struct Task {
    way: Arc<Way>,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    /// Whoever asked, and was not answered before the connection was lost.
    unanswered: Option<oneshot::Sender<()>>,
    /// When the connection last heard a greeting of ours.
    heard: Instant,
    /// A greeting on its way: what is said, and who says it.
    said: Option<(String, JoinHandle<Result<(), Failure>>)>,
}

impl Task {
    async fn run(mut self, mut listener: PgListener) {
        // Ends when the subscription was dropped: then nobody can ask any more.
        while self.hear(&mut listener).await.is_some() {
            drop(listener);
            let schema = self.way.shared.sql.schema();
            tracing::warn!(schema, "the connection that listens for cut-offs was lost");
            let Some(again) = self.connect().await else { return };
            listener = again;
            (self.heard, self.said) = (Instant::now(), None);
            // Told only now: whoever forgets everything at this moment and is told of all that follows misses nothing.
            self.way.queue.push(Change::Gap);
            // A gap stands for everything that was committed before.
            self.answer();
        }
    }

    /// Tells the one who asked last that all is heard, if they still wait.
    fn answer(&mut self) {
        if let Some(reply) = self.unanswered.take() {
            // Whoever asked may have gone.
            let _ = reply.send(());
        }
    }

    /// Listens until the connection is lost; `None` when nobody is interested any more.
    async fn hear(&mut self, listener: &mut PgListener) -> Option<()> {
        loop {
            tokio::select! {
                asked = self.asked.recv() => {
                    self.unanswered = Some(asked?);
                    let greeting = self.greet().await;
                    let trip = tokio::time::timeout(PATIENCE, self.trip(listener, greeting.as_deref())).await;
                    match trip {
                        Ok(true) => self.answer(),
                        Ok(false) => return Some(()),
                        // Deaf: nobody is told that all is heard until another connection is.
                        Err(_) => {
                            self.unanswered = None;
                            return Some(());
                        }
                    }
                }
                heard = listener.try_recv() => match heard {
                    Ok(Some(notification)) => self.take(notification.payload(), None),
                    Ok(None) | Err(_) => return Some(()),
                },
            }
        }
    }

    /// The greeting that has to be heard by now, if one was said. From time to time begins to say another: whoever asks
    /// does not wait for the pool.
    async fn greet(&mut self) -> Option<String> {
        if self.heard.elapsed() >= BELIEVED && self.said.is_none() {
            let (way, greeting) = (Arc::clone(&self.way), greeting());
            let words = greeting.clone();
            self.said = Some((greeting, tokio::spawn(async move { say(&way.shared, words).await })));
        }
        let (greeting, saying) = self.said.take_if(|(_, saying)| saying.is_finished())?;
        // One that could not be said says nothing of the ear; another is tried with the next question.
        matches!(saying.await, Ok(Ok(()))).then_some(greeting)
    }

    /// One round trip, and all that was committed before it; with `greeting` among it, if there is one. On this very
    /// connection: on another one it would say nothing. Returns whether the connection is still there.
    async fn trip(&mut self, listener: &mut PgListener, greeting: Option<&str>) -> bool {
        let mut answered = listener.execute(raw_sql("SELECT 1")).await.is_ok();
        let before = self.heard;
        while let Some(notification) = listener.next_buffered() {
            self.take(notification.payload(), greeting);
        }
        while answered && greeting.is_some() && self.heard == before {
            match listener.try_recv().await {
                Ok(Some(notification)) => self.take(notification.payload(), greeting),
                Ok(None) | Err(_) => answered = false,
            }
        }
        answered
    }

    /// Takes a payload in. One that was said while nobody had to hear it yet counts as well.
    fn take(&mut self, payload: &str, greeting: Option<&str>) {
        let saying = self.said.as_ref().map(|(greeting, _)| greeting.as_str());
        if self.way.queue.take(payload, greeting.or(saying)) {
            self.heard = Instant::now();
            self.said = None;
        }
    }

    /// Connects again, for as long as it takes and somebody is interested.
    async fn connect(&mut self) -> Option<PgListener> {
        let mut wait = RETRY.0;
        loop {
            let way = Arc::clone(&self.way);
            let attempt = way.connect();
            tokio::pin!(attempt);
            let made = loop {
                tokio::select! {
                    made = &mut attempt => break made,
                    asked = self.asked.recv() => self.unanswered = Some(asked?),
                }
            };
            if let Ok(listener) = made {
                return Some(listener);
            }
            let deadline = Instant::now() + wait;
            // Nobody can be told meanwhile that all is heard: their reply is dropped, which says so.
            self.unanswered = None;
            while let Ok(asked) = tokio::time::timeout_at(deadline, self.asked.recv()).await {
                drop(asked?);
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_back_and_fit() {
        let hash = |n: usize| TokenHash::from_bytes([n as u8; 32]);
        let hashes: Vec<_> = (0..HASHES_A_PAYLOAD).map(hash).collect();
        let payload = hashes.iter().map(TokenHash::to_hex).collect::<Vec<_>>().join(",");
        assert!(payload.len() < 8_000);
        assert_eq!(read(&payload), Some(Change::AgentTokens(hashes)));
        assert_eq!(read("something else"), Some(Change::Gap));
        assert_eq!(read(""), Some(Change::Gap));
        assert_eq!(read(&greeting()), None);
        assert_ne!(greeting(), greeting());
    }

    #[test]
    fn a_queue_that_nobody_reads_becomes_a_gap() {
        let queue = Queue::default();
        for n in 0..=MAX_WAITING {
            queue.push(Change::AgentTokens(vec![TokenHash::from_bytes([n as u8; 32])]));
        }
        assert_eq!(*queue.changes(), [Change::Gap]);
    }
}
