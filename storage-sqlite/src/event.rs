//! Events: appended last in the transaction of what they tell.

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use enlist_core::event::{Event, EventBody, NewEvent, Position};
use enlist_core::host::HostKind;
use enlist_core::store::{EventDrive, EventQuery, Page, Visible};
use rusqlite::{Transaction, params};

use crate::column::{At, Count, Id, from_json, overread, parse, parse_optional, to_json};
use crate::error::Failure;
use crate::host::kind_of;
use crate::schema::events;
use crate::statement::{Statement, Value, choose};

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

/// `list_events`. Several statements: in a transaction.
pub(crate) fn list(connection: &mut SqliteConnection, query: &EventQuery) -> Result<Page<Event>, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    if visible.is_nothing() {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let after = position_of(query)?;
    let drives = EventDrive::of(query, &visible);
    let drive = choose(connection, drives, |drive| rows_of(drive, after))?.unwrap_or(EventDrive::Everything);
    let places = Page::of_overread(walk(query, &visible, &drive)?.load::<Place>(connection)?, query.limit);
    let positions: Vec<_> = places.items.into_iter().map(|place| place.position).collect();
    let mut items = Vec::with_capacity(positions.len());
    // A statement has a bound on its parameters, a page has none.
    for positions in positions.chunks(1_000) {
        let rows = events::table
            .filter(events::position.eq_any(positions))
            .order(events::position)
            .select((events::position, EventRow::as_select()));
        for (position, row) in rows.load::<(Count, EventRow)>(connection)? {
            items.push(row.decode(position)?);
        }
    }
    Ok(Page { items, more: places.more })
}

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = BigInt)]
    position: Count,
}

/// What is counted of a drive: rows behind the cursor.
fn rows_of(drive: &EventDrive, after: i64) -> Option<Statement> {
    let mut text = Statement::default();
    text.push("SELECT 1 FROM ").push(index_of(drive)).push(" WHERE ");
    match drive {
        EventDrive::Everything => return None,
        EventDrive::Tenants(tenants) => text.push("tenant_id IN ").bind_all(tenants.clone()),
        other => condition(&mut text, other, None),
    };
    text.bind(" AND position > ?", Value::Number(after));
    Some(text)
}

/// The positions of the page, and one more.
fn walk(query: &EventQuery, visible: &Visible, drive: &EventDrive) -> Result<Statement, Failure> {
    let mut text = Statement::default();
    match drive {
        EventDrive::Tenants(tenants) => {
            for (place, tenant_id) in tenants.iter().enumerate() {
                text.push(if place == 0 { "SELECT position FROM (" } else { " UNION ALL SELECT position FROM (" });
                walk_one(&mut text, query, visible, drive, Some(tenant_id))?;
                text.push(")");
            }
            text.bind(" ORDER BY position LIMIT ?", Value::Number(overread(query.limit)));
        }
        _ => walk_one(&mut text, query, visible, drive, None)?,
    }
    Ok(text)
}

/// `INDEXED BY`, since SQLite knows nothing of how often a value is there.
const fn index_of(drive: &EventDrive) -> &'static str {
    match drive {
        EventDrive::Host(_) => "events INDEXED BY events_host",
        EventDrive::Type(_) => "events INDEXED BY events_type",
        EventDrive::Tenants(_) => "events INDEXED BY events_tenant",
        EventDrive::Kind(_) => "events INDEXED BY events_kind",
        EventDrive::Everything => "events NOT INDEXED",
    }
}

fn condition<'a>(text: &'a mut Statement, drive: &EventDrive, tenant_id: Option<&String>) -> &'a mut Statement {
    match (drive, tenant_id) {
        (EventDrive::Host(host_id), _) => text.bind("host_id = ?", Value::Bytes(host_id.as_uuid().as_bytes().to_vec())),
        (EventDrive::Type(r#type), _) => text.bind("type = ?", Value::Text(r#type.clone())),
        (EventDrive::Kind(kind), _) => text.bind("host_kind = ?", Value::Text(kind.as_str().to_owned())),
        (_, Some(tenant_id)) => text.bind("tenant_id = ?", Value::Text(tenant_id.clone())),
        (EventDrive::Tenants(_) | EventDrive::Everything, None) => text.push("TRUE"),
    }
}

fn position_of(query: &EventQuery) -> Result<i64, Failure> {
    i64::try_from(query.after.get()).map_err(|_| Failure::Invalid("a position is at most 2^63 - 1"))
}

/// Positions in their order. A `+` keeps a column from being looked up in an index: those are conditions of rows alone.
fn walk_one(
    text: &mut Statement,
    query: &EventQuery,
    visible: &Visible,
    drive: &EventDrive,
    tenant_id: Option<&String>,
) -> Result<(), Failure> {
    text.push("SELECT position FROM ").push(index_of(drive)).push(" WHERE ");
    condition(text, drive, tenant_id).bind(" AND position > ?", Value::Number(position_of(query)?));
    // `Scope::shows`, restated where rows are chosen: an event that concerns no host follows its tenant.
    const OF_KIND: &str = "(+host_kind IS NULL OR +host_kind = ?)";
    let word = |kind: HostKind| Value::Text(kind.as_str().to_owned());
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, kind) => {
            text.bind(" AND +tenant_id = ?", Value::Text(tenant_id.clone()));
            if let Some(kind) = kind {
                text.push(" AND ").bind(OF_KIND, word(*kind));
            }
        }
        Visible::Tenants { both, managed, byoc } => {
            text.push(" AND (+tenant_id IN ").bind_all(both.clone());
            for (kind, tenants) in [(HostKind::Managed, managed), (HostKind::Byoc, byoc)] {
                text.push(" OR (").bind(OF_KIND, word(kind)).push(" AND +tenant_id IN ");
                text.bind_all(tenants.clone()).push(")");
            }
            text.push(")");
        }
    }
    if let Some(host_id) = query.host_id {
        text.bind(" AND +host_id = ?", Value::Bytes(host_id.as_uuid().as_bytes().to_vec()));
    }
    if let Some(kind) = query.kind {
        text.bind(" AND +host_kind = ?", word(kind));
    }
    if let Some(r#type) = &query.r#type {
        text.bind(" AND +type = ?", Value::Text(r#type.clone()));
    }
    text.bind(" ORDER BY position LIMIT ?", Value::Number(overread(query.limit)));
    Ok(())
}

/// `last_position`.
pub(crate) fn last_position(connection: &mut SqliteConnection) -> Result<Position, Failure> {
    let newest = events::table.select(events::position).order(events::position.desc()).limit(1);
    let newest = newest.first::<Count>(connection).optional()?;
    Ok(newest.map_or(Position::START, |position| Position::new(position.0)))
}

#[cfg(test)]
mod tests {
    use enlist_core::HostId;
    use enlist_core::policy::{Kinds, Scope};

    use super::*;
    use crate::statement::plan;

    #[test]
    fn every_drive_walks_its_index_in_its_order() {
        let host_id = HostId::from_uuid(Default::default());
        let tenant = |tenant_id: &str| (tenant_id.parse().expect("a tenant"), Kinds::Only(HostKind::Byoc));
        let scope = Scope::Tenants([tenant("a"), tenant("b")].into());
        let query = EventQuery {
            kind: Some(HostKind::Byoc),
            r#type: Some("host.online".to_owned()),
            ..EventQuery::new(scope, 50)
        };
        let visible = Visible::of(&query.scope, None);
        for (drive, index) in [
            (EventDrive::Host(host_id), "events_host"),
            (EventDrive::Type("host.online".to_owned()), "events_type"),
            (EventDrive::Tenants(vec!["a".to_owned(), "b".to_owned()]), "events_tenant"),
            (EventDrive::Kind(HostKind::Byoc), "events_kind"),
            (EventDrive::Everything, "INTEGER PRIMARY KEY"),
        ] {
            let plan = plan(walk(&query, &visible, &drive).expect("a statement"));
            let of_events: Vec<_> = plan.iter().filter(|step| step.contains(" events ")).collect();
            assert!(!of_events.is_empty() && of_events.iter().all(|step| step.contains(index)), "{drive:?}: {plan:#?}");
            let merges = matches!(drive, EventDrive::Tenants(_));
            assert_eq!(plan.iter().any(|step| step.contains("TEMP B-TREE")), merges, "{drive:?}: {plan:#?}");
        }
    }
}
