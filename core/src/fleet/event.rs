//! Events, as administrators read them.

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent, Position};
use crate::fleet::error::AdminError;
use crate::fleet::{Admin, Inner, page_body, page_size, parse_cursor, query};
use crate::host::{Host, HostKind};
use crate::id::{ActorId, EventId, HostId, TenantId};
use crate::policy::Action;
use crate::store::EventQuery;
use crate::wire::{EventReply, PageBody};

/// Which events to list: the query of `GET /v1/events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Of this host only.
    #[serde(default, deserialize_with = "query::host_id")]
    pub host_id: Option<HostId>,
    /// Of this tenant only.
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    /// Of hosts of this kind only.
    #[serde(default)]
    pub kind: Option<HostKind>,
    /// Of this type only, as in `host.created`.
    #[serde(default)]
    pub r#type: Option<String>,
    /// `next_cursor` of the page before, or any position: what follows it is listed.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How many; 50 unless it is said, at least 1, 500 at most.
    #[serde(default, deserialize_with = "query::limit")]
    pub limit: Option<usize>,
}

/// Refuses a position that is ahead of the newest event: it is of another database, or of one that was put back to an earlier
/// day. A store without events may have deleted them all by age.
pub(super) fn within_reach(position: Position, newest: Position) -> Result<(), AdminError> {
    if newest > Position::START && position > newest {
        return Err(AdminError::InvalidQuery("the position lies ahead of every event: it is of another database"));
    }
    Ok(())
}

impl Inner {
    /// An event about a host.
    pub(super) fn host_event(&self, host: &Host, actor: Option<&ActorId>, now: Timestamp, body: EventBody) -> NewEvent {
        self.tenant_event(&host.tenant_id, Some(host), actor, now, body)
    }

    /// An event about what is a tenant's, and about one of its hosts if it concerns one.
    pub(super) fn tenant_event(
        &self,
        tenant_id: &TenantId,
        host: Option<&Host>,
        actor: Option<&ActorId>,
        now: Timestamp,
        body: EventBody,
    ) -> NewEvent {
        NewEvent {
            id: EventId::generate(now, &*self.entropy),
            at: now,
            tenant_id: tenant_id.clone(),
            host_id: host.map(|host| host.id),
            host_kind: host.map(|host| host.kind),
            actor: actor.cloned(),
            body,
        }
    }
}

impl Admin<'_> {
    /// A page of the events that the actor may see, oldest first. The position of the last one is a cursor at any
    /// time: a reader that comes back with it misses nothing.
    ///
    /// # Errors
    /// When the cursor is none of ours, or lies ahead of every event, as that of another database does.
    pub async fn list_events(&self, filter: EventFilter) -> Result<PageBody<EventReply>, AdminError> {
        let query = EventQuery {
            scope: self.fleet.policy.scope(self.actor, Action::ReadEvents),
            host_id: filter.host_id,
            tenant_id: filter.tenant_id,
            kind: filter.kind,
            r#type: filter.r#type,
            after: parse_cursor(filter.cursor.as_deref())?.unwrap_or(Position::START),
            limit: page_size(filter.limit),
        };
        let page = self.fleet.store.list_events(&query).await?;
        // Whoever is shown anything is not ahead, so that only the last page pays for the question.
        if page.items.is_empty() && query.after > Position::START {
            within_reach(query.after, self.fleet.store.last_position().await?)?;
        }
        Ok(page_body(page, |event| event.position.to_string(), EventReply::from))
    }
}
