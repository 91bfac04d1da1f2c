//! Events: appended last in the transaction of what they tell.

use enlist_core::event::{Event, EventBody, NewEvent, Position};
use enlist_core::store::{EventDrive, EventQuery, Page, Visible};
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row};

use crate::column::{At, Count, Id, from_json, overread, parse, parse_optional, to_json};
use crate::error::Failure;
use crate::host::kind_of;
use crate::transaction::{COUNT, Db};

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

/// `list_events`. Several statements, and a walk.
pub(crate) async fn list(db: &mut Db, query: &EventQuery) -> Result<Page<Event>, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    // A zero byte is in no text that PostgreSQL holds, and in none that it can be asked for.
    if visible.is_nothing() || query.r#type.as_ref().is_some_and(|r#type| r#type.contains('\0')) {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let drives = EventDrive::of(query, &visible);
    let drive = db.choose(drives, |db, drive| rows_of(db, query, drive)).await?.unwrap_or(EventDrive::Everything);
    let mut text = db.builder(
        "SELECT position, id, at, tenant_id, host_id, host_kind, actor_id, type, data::text AS data
         FROM {schema}.events WHERE position = ANY(ARRAY(",
    );
    walk(&mut text, query, &visible, &drive, &|text| db.shared().sql.put_in(text));
    text.push("))");
    let rows = text.build().persistent(false).fetch_all(db.connection()).await?;
    let mut items = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    items.sort_unstable_by_key(|event| event.position);
    Ok(Page::of_overread(items, query.limit))
}

/// The positions of the page, and one more.
fn walk(
    text: &mut QueryBuilder<Postgres>,
    query: &EventQuery,
    visible: &Visible,
    drive: &EventDrive,
    put_in: &impl Fn(&str) -> String,
) {
    match drive {
        EventDrive::Tenants(tenants) => {
            text.push("SELECT m.position FROM (");
            for (place, tenant_id) in tenants.iter().enumerate() {
                text.push(if place == 0 { "(" } else { " UNION ALL (" });
                positions(text, query, visible, drive, Some(tenant_id), put_in);
                text.push(")");
            }
            text.push(") AS m ORDER BY m.position LIMIT ").push_bind(overread(query.limit));
        }
        _ => positions(text, query, visible, drive, None, put_in),
    }
}

/// What is counted of a drive: rows behind the cursor; nothing of what is all.
fn rows_of(db: &Db, query: &EventQuery, drive: &EventDrive) -> Option<QueryBuilder<Postgres>> {
    if *drive == EventDrive::Everything {
        return None;
    }
    let mut text = db.builder(COUNT);
    text.push(db.shared().sql.put_in("{schema}.events AS d WHERE "));
    condition(&mut text, query, drive, None);
    Some(text)
}

fn condition(text: &mut QueryBuilder<Postgres>, query: &EventQuery, drive: &EventDrive, tenant_id: Option<&String>) {
    text.push("d.position > ").push_bind(Count(query.after.get()));
    match (drive, tenant_id) {
        (EventDrive::Host(host_id), _) => text.push(" AND d.host_id = ").push_bind(Id::from(*host_id)),
        (EventDrive::Type(r#type), _) => text.push(" AND d.type = ").push_bind(r#type.clone()),
        (EventDrive::Kind(kind), _) => text.push(" AND d.host_kind = ").push_bind(kind.as_str()),
        (_, Some(tenant_id)) => text.push(" AND d.tenant_id = ").push_bind(tenant_id.clone()),
        (EventDrive::Tenants(tenants), None) => {
            text.push(" AND d.tenant_id = ANY(").push_bind(tenants.clone()).push(")")
        }
        (EventDrive::Everything, None) => text,
    };
}

/// Positions in their order. What is asked beside the index stands in a query of its own, which `OFFSET` keeps from being
/// merged with it: then there is no way but to walk the index and look at each row.
fn positions(
    text: &mut QueryBuilder<Postgres>,
    query: &EventQuery,
    visible: &Visible,
    drive: &EventDrive,
    tenant_id: Option<&String>,
    put_in: &impl Fn(&str) -> String,
) {
    text.push(put_in(
        "SELECT d.position FROM {schema}.events AS d CROSS JOIN LATERAL (
             SELECT o.tenant_id, o.host_id, o.host_kind, o.type FROM {schema}.events AS o WHERE o.position = d.position OFFSET 0
         ) AS e WHERE ",
    ));
    condition(text, query, drive, tenant_id);
    // `Scope::shows`, restated where rows are chosen: an event that concerns no host follows its tenant.
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, kind) => {
            text.push(" AND e.tenant_id = ").push_bind(tenant_id.clone());
            if let Some(kind) = kind {
                text.push(" AND (e.host_kind IS NULL OR e.host_kind = ").push_bind(kind.as_str()).push(")");
            }
        }
        Visible::Tenants { both, managed, byoc } => {
            text.push(" AND (e.tenant_id = ANY(").push_bind(both.clone());
            text.push(") OR (e.tenant_id = ANY(").push_bind(managed.clone());
            text.push(") AND (e.host_kind IS NULL OR e.host_kind = 'managed')) OR (e.tenant_id = ANY(");
            text.push_bind(byoc.clone()).push(") AND (e.host_kind IS NULL OR e.host_kind = 'byoc')))");
        }
    }
    if let Some(host_id) = query.host_id {
        text.push(" AND e.host_id = ").push_bind(Id::from(host_id));
    }
    if let Some(kind) = query.kind {
        text.push(" AND e.host_kind = ").push_bind(kind.as_str());
    }
    if let Some(r#type) = &query.r#type {
        text.push(" AND e.type = ").push_bind(r#type.clone());
    }
    text.push(" ORDER BY d.position LIMIT ").push_bind(overread(query.limit));
}

#[cfg(test)]
mod tests {
    use enlist_core::HostId;
    use enlist_core::host::HostKind;
    use enlist_core::policy::{Kinds, Scope};

    use super::*;
    use crate::transaction::plans;

    #[tokio::test]
    async fn every_drive_walks_its_index_in_its_order() {
        let tenant = |tenant_id: &str| (tenant_id.parse().expect("a tenant"), Kinds::Only(HostKind::Byoc));
        let query = EventQuery {
            kind: Some(HostKind::Byoc),
            r#type: Some("host.online".to_owned()),
            ..EventQuery::new(Scope::Tenants([tenant("a"), tenant("b")].into()), 50)
        };
        let cases = vec![
            (EventDrive::Host(HostId::from_uuid(Default::default())), "events_host"),
            (EventDrive::Type("host.online".to_owned()), "events_type"),
            (EventDrive::Tenants(vec!["a".to_owned(), "b".to_owned()]), "events_tenant"),
            (EventDrive::Kind(HostKind::Byoc), "events_kind"),
            (EventDrive::Everything, "events_pkey"),
        ];
        let plans = plans(cases, move |db, mut text, (drive, _)| {
            let visible = Visible::of(&query.scope, None);
            walk(&mut text, &query, &visible, drive, &|text| db.shared().sql.put_in(text));
            text
        });
        for ((drive, index), plan) in plans.await {
            let walked: Vec<_> = plan.iter().filter(|step| step.contains(" on events d")).collect();
            assert!(!walked.is_empty() && walked.iter().all(|step| step.contains(index)), "{drive:?}: {plan:#?}");
            assert!(plan.iter().all(|step| !step.contains("Seq Scan")), "{drive:?}: {plan:#?}");
        }
    }
}
