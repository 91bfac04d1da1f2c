//! What others change, told as it happens.

use async_trait::async_trait;

use crate::secret::TokenHash;
use crate::store::error::StoreError;

/// What a subscription tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These agent tokens were cut off, retired or deleted: whoever remembers them has to ask the store again. Tokens
    /// that did not change may be among them; what changed is told once.
    AgentTokens(Vec<TokenHash>),
    /// Something may have been missed, as when a connection was lost: whoever remembers anything has to forget all of it.
    Gap,
}

/// A running subscription: made by [`Store::subscribe`](super::Store::subscribe), ended by dropping it.
#[async_trait]
pub trait Subscription: Send {
    /// The next change. Waits for as long as there is none. A store may leave the finding to [`sync`](Self::sync), and
    /// then never wakes by itself: whoever listens calls `sync` at intervals. What is there is given at the first poll,
    /// whatever the runtime's budget. Dropping the future loses no change.
    async fn next(&mut self) -> Change;

    /// Makes sure: once this has returned, every change whose commit had returned before the call was made is given by
    /// `next` without waiting. Dropping the future loses no change.
    ///
    /// # Errors
    /// When that cannot be promised any more; the subscription is then of no further use.
    async fn sync(&mut self) -> Result<(), StoreError>;
}
