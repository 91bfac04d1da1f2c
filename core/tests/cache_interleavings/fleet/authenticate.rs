//! Stands in for the identity: all that the cache asks of one.

use crate::clock::Timestamp;

#[derive(Debug, Clone)]
pub(super) struct AgentIdentity;

impl AgentIdentity {
    pub(super) const fn expires_at(&self) -> Option<Timestamp> {
        None
    }
}
