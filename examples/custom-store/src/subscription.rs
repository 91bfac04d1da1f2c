//! Who is told of tokens that were cut off. The file is this process's alone, so queues in memory know of every commit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use enlist_core::TokenHash;
use enlist_core::store::{Change, StoreError, Subscription};
use futures_channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures_util::StreamExt;

use crate::RedbStore;

/// A queue for each subscription.
#[derive(Default)]
pub(crate) struct Subscribers(Mutex<Vec<UnboundedSender<Change>>>);

impl Subscribers {
    pub(crate) fn add(&self, store: RedbStore) -> Box<dyn Subscription> {
        let (sender, changes) = mpsc::unbounded();
        self.queues().push(sender);
        Box::new(Queue { changes, _store: store })
    }

    /// Tells all of them, and forgets those that have gone.
    pub(crate) fn tell(&self, hashes: &[TokenHash]) {
        if !hashes.is_empty() {
            self.queues().retain(|queue| queue.unbounded_send(Change::AgentTokens(hashes.to_vec())).is_ok());
        }
    }

    fn queues(&self) -> MutexGuard<'_, Vec<UnboundedSender<Change>>> {
        // A list of senders is whole at every moment, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Queue {
    // Not tokio's: its channels say now and then that nothing is there, to let other tasks run, and what `sync` has
    // promised must come without waiting.
    changes: UnboundedReceiver<Change>,
    /// Keeps the file open, so that nobody can open it anew and commit what this queue is not told of.
    _store: RedbStore,
}

#[async_trait]
impl Subscription for Queue {
    async fn next(&mut self) -> Change {
        self.changes.next().await.unwrap_or(Change::Gap)
    }

    async fn sync(&mut self) -> Result<(), StoreError> {
        // A commit queues what it cut off before it returns.
        Ok(())
    }
}
