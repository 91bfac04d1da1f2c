//! Events: positions are given by the one writer, so that the order of commits is theirs.

use std::ops::Bound;

use enlist_core::event::{Event, NewEvent, Position};
use enlist_core::store::{EventQuery, Page};
use redb::ReadableTable;

use crate::error::Failure;
use crate::record::{EventRow, decode, encode};
use crate::schema::{Reader, Writer, page};

/// Appends events behind all that were ever appended. The last position is kept by itself: events go by age, and what is
/// pruned must not be given again.
pub(crate) fn append(tables: &mut Writer<'_>, events: Vec<NewEvent>) -> Result<Vec<Event>, Failure> {
    let mut position = tables.meta.get("last_position")?.map_or(0, |last| last.value());
    let mut appended = Vec::with_capacity(events.len());
    for event in events {
        position += 1;
        let (at, row) = (event.at.unix_micros(), EventRow::of(event));
        tables.events.insert(position, (at, encode(&row)?.as_slice()))?;
        appended.push(row.into_event(position));
    }
    tables.meta.insert("last_position", position)?;
    Ok(appended)
}

/// `list_events`.
pub(crate) fn list(tables: &Reader, query: &EventQuery) -> Result<Page<Event>, Failure> {
    let rows = tables.events.range((Bound::Excluded(query.after.get()), Bound::Unbounded))?;
    let events = rows.map(|row| {
        let (position, value) = row?;
        let row: EventRow = decode(value.value().1)?;
        let of_type = query.r#type.as_ref().is_none_or(|name| row.is_of_type(name));
        let Event { position, event } = row.into_event(position.value());
        let wanted = of_type
            && query.scope.shows(&event.tenant_id, event.host_kind)
            && query.host_id.is_none_or(|host| event.host_id == Some(host))
            && query.kind.is_none_or(|kind| event.host_kind == Some(kind))
            && query.tenant_id.as_ref().is_none_or(|tenant| *tenant == event.tenant_id);
        Ok(wanted.then_some(Event { position, event }))
    });
    page(events.filter_map(Result::transpose), query.limit)
}

/// `last_position`.
pub(crate) fn last_position(tables: &Reader) -> Result<Position, Failure> {
    let newest = tables.events.last()?;
    Ok(newest.map_or(Position::START, |(position, _)| Position::new(position.value())))
}
