//! Events: appended last in the transaction of what they tell.

use diesel::prelude::*;
use enlist_core::event::{Event, EventBody, NewEvent, Position};
use enlist_core::host::HostKind;
use enlist_core::store::{EventQuery, Page, Visible};
use rusqlite::{Transaction, params};

use crate::column::{At, Count, Id, from_json, overread, parse, parse_optional, to_json};
use crate::error::Failure;
use crate::host::kind_of;
use crate::schema::events;

/// A row of `events`, but for its position.
#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
struct EventRow {
    id: Id,
    at: At,
    tenant_id: String,
    host_id: Option<Id>,
    host_kind: Option<String>,
    actor_id: Option<String>,
    kind: String,
    data: String,
}

impl EventRow {
    fn of(event: &NewEvent) -> Result<Self, Failure> {
        let (kind, data) = event.body.clone().into_parts();
        Ok(Self {
            id: event.id.into(),
            at: At(event.at),
            tenant_id: event.tenant_id.as_str().to_owned(),
            host_id: event.host_id.map(Id::from),
            host_kind: event.host_kind.map(|kind| kind.as_str().to_owned()),
            actor_id: event.actor.as_ref().map(|actor| actor.as_str().to_owned()),
            kind,
            data: to_json(&data)?,
        })
    }

    fn decode(self, position: Count) -> Result<Event, Failure> {
        let event = NewEvent {
            id: self.id.into(),
            at: self.at.0,
            tenant_id: parse(&self.tenant_id)?,
            host_id: self.host_id.map(Into::into),
            host_kind: self.host_kind.as_deref().map(kind_of).transpose()?,
            actor: parse_optional(self.actor_id.as_deref())?,
            body: EventBody::from_parts(self.kind, from_json(&self.data)?),
        };
        Ok(Event { position: Position::new(position.0), event })
    }
}

/// Appends events in their order. The transaction holds the one write lock, so that what it appends becomes visible
/// before anything that gets a higher position.
pub(crate) fn append(connection: &mut SqliteConnection, events: Vec<NewEvent>) -> Result<Vec<Event>, Failure> {
    events
        .into_iter()
        .map(|event| {
            let position = diesel::insert_into(events::table)
                .values(&EventRow::of(&event)?)
                .returning(events::position)
                .get_result::<Count>(connection)?;
            Ok(Event { position: Position::new(position.0), event })
        })
        .collect()
}

/// [`append`] on the connection of reports.
pub(crate) fn tell(transaction: &Transaction<'_>, events: Vec<NewEvent>) -> Result<Vec<Event>, Failure> {
    const INSERT: &str = "
        INSERT INTO events (id, at, tenant_id, host_id, host_kind, actor_id, type, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    events
        .into_iter()
        .map(|event| {
            let EventRow { id, at, tenant_id, host_id, host_kind, actor_id, kind, data } = EventRow::of(&event)?;
            let row = params![id, at, tenant_id, host_id, host_kind, actor_id, kind, data];
            let position = transaction.prepare_cached(INSERT)?.insert(row)?;
            let position = u64::try_from(position).map_err(|_| Failure::Corrupt("a position is not negative"))?;
            Ok(Event { position: Position::new(position), event })
        })
        .collect()
}

/// `list_events`.
pub(crate) fn list(connection: &mut SqliteConnection, query: &EventQuery) -> Result<Page<Event>, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    if visible.is_nothing() {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let mut rows = events::table
        .filter(events::position.gt(Count(query.after.get())))
        .order(events::position)
        .limit(overread(query.limit))
        .select((events::position, EventRow::as_select()))
        .into_boxed();
    // `Scope::shows`, restated where rows are chosen: an event that concerns no host follows its tenant.
    let of_kind = |kind: HostKind| events::host_kind.is_null().or(events::host_kind.eq(kind.as_str()));
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, None) => rows = rows.filter(events::tenant_id.eq(tenant_id)),
        Visible::Tenant(tenant_id, Some(kind)) => {
            rows = rows.filter(events::tenant_id.eq(tenant_id)).filter(of_kind(kind));
        }
        Visible::Tenants { both, managed, byoc } => {
            let managed = of_kind(HostKind::Managed).and(events::tenant_id.eq_any(managed));
            let byoc = of_kind(HostKind::Byoc).and(events::tenant_id.eq_any(byoc));
            // Nullable only because a comparison with an absent kind is: what it gives is never shown.
            rows = rows.filter(events::tenant_id.eq_any(both).nullable().or(managed).or(byoc));
        }
    }
    if let Some(host_id) = query.host_id {
        rows = rows.filter(events::host_id.eq(Id::from(host_id)));
    }
    if let Some(kind) = query.kind {
        rows = rows.filter(events::host_kind.eq(kind.as_str()));
    }
    if let Some(r#type) = &query.r#type {
        rows = rows.filter(events::kind.eq(r#type.clone()));
    }
    let events = rows.load::<(Count, EventRow)>(connection)?.into_iter().map(|(position, row)| row.decode(position));
    Ok(Page::of_overread(events.collect::<Result<_, _>>()?, query.limit))
}

/// `last_position`.
pub(crate) fn last_position(connection: &mut SqliteConnection) -> Result<Position, Failure> {
    let newest = events::table.select(events::position).order(events::position.desc()).limit(1);
    let newest = newest.first::<Count>(connection).optional()?;
    Ok(newest.map_or(Position::START, |position| Position::new(position.0)))
}
