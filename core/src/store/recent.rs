//! When tokens were last used: written down coarsely, since people look at it and nothing depends on it.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::clock::Timestamp;
use crate::id::AgentTokenId;

/// How much later a use of a token has to be than the one that is stored, to be stored in its place.
pub const LAST_USE_GRAIN: Duration = Duration::from_secs(60);

/// Which uses a store has written lately, so that it need not look for each whether it is worth writing.
///
/// To ensure correctness, a store notes a use only when the transaction that wrote it has been committed. What is not
/// remembered costs a look at the row.
#[derive(Debug)]
pub struct RecentUses {
    written: Cache<AgentTokenId, Timestamp>,
}

impl RecentUses {
    /// Remembers this many tokens, at about 50 bytes each.
    pub fn new(tokens: usize) -> Self {
        Self { written: Cache::new(tokens) }
    }

    /// Whether a use at `at` may have to be written: the row decides.
    pub fn is_due(&self, token_id: AgentTokenId, at: Timestamp) -> bool {
        self.written.get(&token_id).is_none_or(|written| written < at.saturating_sub(LAST_USE_GRAIN))
    }

    /// Notes that a use at `at` was written.
    pub fn note(&self, token_id: AgentTokenId, at: Timestamp) {
        self.written.insert(token_id, at);
    }
}
