//! Bodies about events.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{Event, EventBody, Position};
use crate::id::{ActorId, EventId, HostId, TenantId};

/// An event on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventReply {
    /// Its place in the order of all events.
    pub position: Position,
    /// Its identity.
    pub id: EventId,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Whose host or token it concerns.
    pub tenant_id: TenantId,
    /// Which host it concerns, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<ActorId>,
    /// What happened: `type` and `data`.
    #[serde(flatten)]
    pub body: EventBody,
}

impl From<Event> for EventReply {
    fn from(Event { position, event }: Event) -> Self {
        Self {
            position,
            id: event.id,
            at: event.at,
            tenant_id: event.tenant_id,
            host_id: event.host_id,
            actor: event.actor,
            body: event.body,
        }
    }
}
