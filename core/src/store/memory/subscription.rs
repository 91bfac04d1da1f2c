//! Who is told of tokens that were cut off.

use async_trait::async_trait;
use futures_channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures_util::StreamExt;

use crate::secret::TokenHash;
use crate::store::{Change, StoreError, Subscription};

/// A queue for each subscription.
#[derive(Default)]
pub(super) struct Subscribers(Vec<UnboundedSender<Change>>);

impl Subscribers {
    pub(super) fn add(&mut self) -> Box<dyn Subscription> {
        let (sender, receiver) = mpsc::unbounded();
        self.0.push(sender);
        Box::new(Queue(receiver))
    }

    /// Tells all of them, and forgets those that have gone.
    pub(super) fn tell(&mut self, hashes: &[TokenHash]) {
        if !hashes.is_empty() {
            self.0.retain(|queue| queue.unbounded_send(Change::AgentTokens(hashes.to_vec())).is_ok());
        }
    }
}

struct Queue(UnboundedReceiver<Change>);

#[async_trait]
impl Subscription for Queue {
    async fn next(&mut self) -> Change {
        // The store lives no longer than its handles: without it nothing changes any more.
        self.0.next().await.unwrap_or(Change::Gap)
    }

    async fn sync(&mut self) -> Result<(), StoreError> {
        // A commit queues what it cut off before it returns.
        Ok(())
    }
}
