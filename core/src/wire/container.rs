//! Bodies about containers.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::container::Container;

/// A container on the wire: what the agent last said of it, and what the server knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerBody {
    /// What the agent last said, its numbers in the newest report included.
    #[serde(flatten)]
    pub container: Container,
    /// When it was first reported, by the server's clock.
    pub first_seen_at: Timestamp,
    /// When it was last reported, by the server's clock.
    pub last_seen_at: Timestamp,
    /// When a complete report first lacked it.
    pub removed_at: Option<Timestamp>,
    /// Whether its host is not online, so that nothing is known of it now. Derived, never stored.
    pub missing: bool,
}
