//! Events: appended last in the transaction of what they tell.

use enlist_core::event::{Event, EventBody, NewEvent, Position};
use enlist_core::store::{EventQuery, Page, Visible};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::column::{At, Count, Id, from_json, overread, parse, parse_optional, to_json};
use crate::error::Failure;
use crate::host::kind_of;
use crate::transaction::Db;

/// Held until the end of the transaction: what this one inserts becomes visible before anybody gets a higher position.
const TAKE_TURN: &str = "SELECT pg_advisory_xact_lock($1)";

/// Rows get their positions in the order in which they are sorted here.
const INSERT: &str = "
    INSERT INTO {schema}.events (id, at, tenant_id, host_id, host_kind, actor_id, type, data)
    SELECT v.id, v.at, v.tenant_id, v.host_id, v.host_kind, v.actor_id, v.type, v.data::json
    FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[])
        WITH ORDINALITY AS v (id, at, tenant_id, host_id, host_kind, actor_id, type, data, place)
    ORDER BY v.place
    RETURNING position";

/// Appends events in their order. The last thing that a transaction does: everybody else who has events waits for it.
pub(crate) async fn append(db: &mut Db, events: Vec<NewEvent>) -> Result<Vec<Event>, Failure> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let (types, data): (Vec<_>, Vec<_>) = events.iter().map(|event| event.body.clone().into_parts()).unzip();
    let data = data.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
    let key = db.shared().sql.lock_key("events");
    db.query(TAKE_TURN).bind(key).execute(db.connection()).await?;
    let insert = db
        .query(INSERT)
        .bind(events.iter().map(|event| Id::from(event.id)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| At(event.at)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.tenant_id.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.host_id.map(Id::from)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.host_kind.map(|kind| kind.as_str())).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.actor.as_ref().map(|actor| actor.as_str())).collect::<Vec<_>>())
        .bind(types)
        .bind(data);
    let rows = insert.fetch_all(db.connection()).await?;
    let positions = rows.iter().map(|row| row.try_get::<Count, _>("position"));
    let mut positions = positions.collect::<Result<Vec<_>, _>>()?;
    positions.sort_unstable();
    if positions.len() != events.len() {
        return Err(Failure::Corrupt("not every event got a position"));
    }
    let placed = positions.into_iter().zip(events);
    Ok(placed.map(|(position, event)| Event { position: Position::new(position.0), event }).collect())
}

fn decode(row: &PgRow) -> Result<Event, Failure> {
    let position: Count = row.try_get("position")?;
    let event = NewEvent {
        id: row.try_get::<Id, _>("id")?.into(),
        at: row.try_get::<At, _>("at")?.0,
        tenant_id: parse(row.try_get("tenant_id")?)?,
        host_id: row.try_get::<Option<Id>, _>("host_id")?.map(Into::into),
        host_kind: row.try_get::<Option<&str>, _>("host_kind")?.map(kind_of).transpose()?,
        actor: parse_optional(row.try_get("actor_id")?)?,
        body: EventBody::from_parts(row.try_get("type")?, from_json(row.try_get("data")?)?),
    };
    Ok(Event { position: Position::new(position.0), event })
}

/// Not the sequence's own last value: that is ahead of transactions that were not committed yet.
const NEWEST: &str = "SELECT position FROM {schema}.events ORDER BY position DESC LIMIT 1";

/// `last_position`.
pub(crate) async fn last_position(db: &mut Db) -> Result<Position, Failure> {
    let newest = db.query(NEWEST).fetch_optional(db.connection()).await?;
    let newest = newest.map(|row| row.try_get::<Count, _>("position")).transpose()?;
    Ok(newest.map_or(Position::START, |position| Position::new(position.0)))
}

/// `list_events`.
pub(crate) async fn list(db: &mut Db, query: &EventQuery) -> Result<Page<Event>, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    // A zero byte is in no text that PostgreSQL holds, and in none that it can be asked for.
    if visible.is_nothing() || query.r#type.as_ref().is_some_and(|r#type| r#type.contains('\0')) {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let mut text = db.builder(
        "SELECT position, id, at, tenant_id, host_id, host_kind, actor_id, type, data::text AS data
         FROM {schema}.events WHERE position > ",
    );
    text.push_bind(Count(query.after.get()));
    // `Scope::shows`, restated where rows are chosen: an event that concerns no host follows its tenant.
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, kind) => {
            text.push(" AND tenant_id = ").push_bind(tenant_id);
            if let Some(kind) = kind {
                text.push(" AND (host_kind IS NULL OR host_kind = ").push_bind(kind.as_str()).push(")");
            }
        }
        Visible::Tenants { both, managed, byoc } => {
            text.push(" AND (tenant_id = ANY(").push_bind(both);
            text.push(") OR (tenant_id = ANY(").push_bind(managed);
            text.push(") AND (host_kind IS NULL OR host_kind = 'managed')) OR (tenant_id = ANY(").push_bind(byoc);
            text.push(") AND (host_kind IS NULL OR host_kind = 'byoc')))");
        }
    }
    if let Some(host_id) = query.host_id {
        text.push(" AND host_id = ").push_bind(Id::from(host_id));
    }
    if let Some(kind) = query.kind {
        text.push(" AND host_kind = ").push_bind(kind.as_str());
    }
    if let Some(r#type) = &query.r#type {
        text.push(" AND type = ").push_bind(r#type.as_str());
    }
    text.push(" ORDER BY position LIMIT ").push_bind(overread(query.limit));
    let rows = text.build().persistent(false).fetch_all(db.connection()).await?;
    Ok(Page::of_overread(rows.iter().map(decode).collect::<Result<_, _>>()?, query.limit))
}
