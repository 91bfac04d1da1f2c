//! Contacts that brought no report, coalesced: however often a host speaks, the store hears of it once an interval.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::id::{AgentTokenId, HostId};

/// The latest contact of each host since the last flush.
#[derive(Default)]
pub(super) struct Contacts {
    latest: Mutex<HashMap<HostId, (AgentTokenId, Timestamp)>>,
}

impl Contacts {
    /// Notes a contact.
    pub(super) fn note(&self, host_id: HostId, token_id: AgentTokenId, at: Timestamp) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = latest.entry(host_id).or_insert((token_id, at));
        if entry.1 < at {
            *entry = (token_id, at);
        }
    }

    /// Takes all that were noted.
    pub(super) fn take(&self) -> HashMap<HostId, (AgentTokenId, Timestamp)> {
        std::mem::take(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
