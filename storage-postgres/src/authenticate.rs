//! `authenticate`: one statement for all who ask while others are asked.
//!
//! Core remembers a token for half a minute, and that is how often a host reports: in a large fleet most requests ask the
//! store. Each by itself would take a connection from the pool, which is a round trip more, and one of its own; 64 together
//! cost a sixth of that. Who asks alone is answered at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enlist_core::TokenHash;
use enlist_core::store::{Credential, Known, StoreError, StoreErrorKind, Tombstone};
use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::sync::oneshot;

use crate::agent_token::{self, agent_token_columns};
use crate::column::{At, Count, Hash, Id, parse};
use crate::error::Failure;
use crate::host::{lifecycle_of, window_of};
use crate::store::Shared;
use crate::transaction::Db;

/// How many statements are under way at once: when one is on a link that went silent, the others are not kept by it.
const AT_ONCE: usize = 3;
/// How many hashes one of them looks up, at most.
const MOST: usize = 256;

/// How many hashes there are is hidden from the planner: else it would take a plan of its own for each number to be worth while.
const CREDENTIALS: &str = concat!(
    "SELECT ",
    agent_token_columns!(),
    ", h.tenant_id, h.archived_at, h.generation, h.liveness_window
     FROM unnest((SELECT $1::bytea[])) AS v (hash)
     JOIN {schema}.agent_tokens AS a ON a.hash = v.hash
     JOIN {schema}.hosts AS h ON h.id = a.host_id"
);
const TOMBSTONES: &str = "
    SELECT t.hash, t.token_id, t.host_id, t.deleted_at
    FROM unnest((SELECT $1::bytea[])) AS v (hash) JOIN {schema}.tombstones AS t ON t.hash = v.hash";

type Answer = Result<Option<Known>, StoreError>;
type Asked = (TokenHash, oneshot::Sender<Answer>);

/// Who has asked, and was not answered.
#[derive(Default)]
pub(crate) struct Questions {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    asked: Vec<Asked>,
    /// Tasks that answer.
    at_work: usize,
}

impl Questions {
    /// Whether a task is wanted that answers.
    fn ask(&self, asked: Asked) -> bool {
        let mut waiting = self.lock();
        waiting.asked.push(asked);
        let wanted = waiting.at_work < AT_ONCE;
        waiting.at_work += usize::from(wanted);
        wanted
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that answers.
struct AtWork {
    shared: Arc<Shared>,
    over: bool,
}

impl AtWork {
    async fn answer(mut self) {
        loop {
            let asked = self.next();
            if asked.is_empty() {
                return;
            }
            let hashes = asked.iter().map(|(hash, _)| Hash(*hash)).collect();
            let found = self.shared.read(move |db| Box::pin(async move { look_up(db, hashes).await })).await;
            for (hash, reply) in asked {
                // Whoever asked may have gone away.
                let _ = reply.send(match &found {
                    Ok(found) => found.get(&hash).cloned().transpose(),
                    Err(error) => Err(error.clone()),
                });
            }
        }
    }

    /// Those who have waited longest. When there is nobody, the task is over: who asks from then on has another begun.
    fn next(&mut self) -> Vec<Asked> {
        let mut waiting = self.shared.questions.lock();
        let some = waiting.asked.len().min(MOST);
        if some == 0 {
            waiting.at_work -= 1;
            self.over = true;
        }
        waiting.asked.drain(..some).collect()
    }
}

impl Drop for AtWork {
    /// A task that was ended with its runtime answers nobody any more. If it was the last, who waits is told, by the loss of the
    /// way to reply.
    fn drop(&mut self) {
        if !self.over {
            let mut waiting = self.shared.questions.lock();
            waiting.at_work -= 1;
            if waiting.at_work == 0 {
                waiting.asked.clear();
            }
        }
    }
}

impl Shared {
    /// `authenticate`. By a statement that begins after this was called.
    pub(crate) async fn authenticate(self: &Arc<Self>, hash: &TokenHash) -> Answer {
        let (reply, answer) = oneshot::channel();
        if self.questions.ask((*hash, reply)) {
            tokio::spawn(AtWork { shared: Arc::clone(self), over: false }.answer());
        }
        let ended = || StoreError::with_source(StoreErrorKind::Unavailable, "the runtime is shutting down");
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

type Found = HashMap<TokenHash, Result<Known, StoreError>>;

/// One look-up by the hashes, and of their hosts, in one statement; another only for hashes that no token has. A deletion
/// between the two is seen by the second.
async fn look_up(db: &mut Db, hashes: Vec<Hash>) -> Result<Found, Failure> {
    let rows = db.query(CREDENTIALS).bind(hashes.clone()).fetch_all(db.connection()).await?;
    let mut found = collect(&rows, credential)?;
    let others: Vec<_> = hashes.into_iter().filter(|Hash(hash)| !found.contains_key(hash)).collect();
    if !others.is_empty() {
        let rows = db.query(TOMBSTONES).bind(others).fetch_all(db.connection()).await?;
        found.extend(collect(&rows, tombstone)?);
    }
    Ok(found)
}

/// A row that cannot be understood fails those alone who asked for it.
fn collect(rows: &[PgRow], known: impl Fn(&PgRow) -> Result<Known, Failure>) -> Result<Found, Failure> {
    rows.iter().map(|row| Ok((row.try_get::<Hash, _>("hash")?.0, known(row).map_err(StoreError::from)))).collect()
}

fn credential(row: &PgRow) -> Result<Known, Failure> {
    let generation: Count = row.try_get("generation")?;
    Ok(Known::Credential(Box::new(Credential {
        token: agent_token::decode(row)?,
        tenant_id: parse(row.try_get("tenant_id")?)?,
        lifecycle: lifecycle_of(row.try_get("archived_at")?),
        generation: generation.0,
        liveness_window: window_of(row)?,
    })))
}

fn tombstone(row: &PgRow) -> Result<Known, Failure> {
    Ok(Known::Tombstone(Tombstone {
        token_id: row.try_get::<Id, _>("token_id")?.into(),
        host_id: row.try_get::<Id, _>("host_id")?.into(),
        deleted_at: row.try_get::<At, _>("deleted_at")?.0,
    }))
}
