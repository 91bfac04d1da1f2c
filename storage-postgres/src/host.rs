//! Hosts: their rows, and the questions about them.

use std::collections::BTreeMap;

use enlist_core::HostId;
use enlist_core::TenantId;
use enlist_core::host::{Host, HostKind, Lifecycle};
use enlist_core::liveness::LivenessWindow;
use enlist_core::store::{Expected, HostLookup, HostRecord, Revision, StoreErrorKind};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::column::{At, Count, Id, UNKNOWN_WORD, from_json, parse, parse_optional, to_json};
use crate::error::Failure;
use crate::presence::{self, PresenceRow, presence_columns};
use crate::transaction::Db;

/// What a host is read from, of `hosts AS h`.
macro_rules! host_columns {
    () => {
        "h.id, h.revision, h.tenant_id, h.kind, h.name, h.external_id, h.provider, h.availability_zone, h.address,
         h.labels::text AS labels, h.liveness_window, h.cordoned, h.archived_at, h.generation, h.enrolled_at, h.created_at, h.updated_at,
         h.made_with, ARRAY(SELECT t.tag FROM {schema}.host_tags AS t WHERE t.host_id = h.id) AS tags"
    };
}

pub(crate) use host_columns;

/// A host with what is known of it by contact.
macro_rules! select_record {
    () => {
        concat!(
            "SELECT ",
            host_columns!(),
            ", ",
            presence_columns!(),
            " FROM {schema}.hosts AS h JOIN {schema}.host_presence AS p ON p.host_id = h.id"
        )
    };
}

const LOCK: &str = "SELECT id, revision FROM {schema}.hosts WHERE id = ANY($1) ORDER BY id FOR UPDATE";
const BY_ID: &str = concat!("SELECT ", host_columns!(), " FROM {schema}.hosts AS h WHERE h.id = $1");
const FIND_BY_ID: &str = concat!(select_record!(), " WHERE h.id = $1");
/// Hosts whose ids a query gives: it follows, and two brackets.
pub(crate) const FIND_AMONG: &str = concat!(select_record!(), " WHERE h.id = ANY(ARRAY(");
const FIND_BY_EXTERNAL_ID: &str = concat!(select_record!(), " WHERE h.tenant_id = $1 AND h.external_id = $2");
const FIND_BY_NAME: &str =
    concat!(select_record!(), " WHERE h.tenant_id = $1 AND h.name = $2 AND h.archived_at IS NULL");

/// With its row of contact. An id of a deleted host is not given again while anything of it is left.
const INSERT: &str = "
    WITH made AS (
        INSERT INTO {schema}.hosts (id, revision, tenant_id, kind, name, external_id, provider, availability_zone, address,
                                    labels, cordoned, archived_at, generation, enrolled_at, created_at, updated_at,
                                    made_with, liveness_window)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, $13, $14, $15, $16, $17, $18
        WHERE NOT EXISTS (SELECT FROM {schema}.deleted_hosts WHERE host_id = $1)
        RETURNING id
    )
    INSERT INTO {schema}.host_presence (host_id, presence, facts, containers_version, facts_version, archived,
                                       liveness_window)
    SELECT id, $19, $20::text::json, 0, 0, $12 IS NOT NULL, $18 FROM made";

/// The guard stands in the statement too, so that two writes of one aggregate in one commit cannot both pass.
const UPDATE: &str = "
    UPDATE {schema}.hosts SET
        revision = $2, tenant_id = $3, kind = $4, name = $5, external_id = $6, provider = $7, availability_zone = $8,
        address = $9, labels = $10::text::json, cordoned = $11, archived_at = $12, generation = $13, enrolled_at = $14,
        created_at = $15, updated_at = $16, made_with = $17, liveness_window = $18
    WHERE id = $1 AND revision = $19";

/// Only what changed: most writes of a host change no tag. Those that are there are left out beforehand: for each that is
/// proposed a trigger looks up the host's status.
const PUT_TAGS: &str = "
    WITH gone AS (DELETE FROM {schema}.host_tags WHERE host_id = $1 AND tag <> ALL ($2::text[]))
    INSERT INTO {schema}.host_tags (host_id, tag) SELECT $1, n.tag FROM unnest($2::text[]) AS n (tag)
    WHERE NOT EXISTS (SELECT FROM {schema}.host_tags AS t WHERE t.host_id = $1 AND t.tag = n.tag)
    ON CONFLICT DO NOTHING";

const FORGET: &str = "
    WITH silenced AS (DELETE FROM {schema}.host_presence WHERE host_id = $1)
    INSERT INTO {schema}.deleted_hosts (host_id, deleted_at) VALUES ($1, $2)";
/// A trigger does the same for a host that is deleted past the store. It finds nothing left to do here, and would write
/// the server's time.
const DELETE: &str = "DELETE FROM {schema}.hosts WHERE id = $1 AND revision = $2";

fn decode(row: &PgRow) -> Result<(Revision, Host), Failure> {
    let id: Id = row.try_get("id")?;
    let revision: Count = row.try_get("revision")?;
    let generation: Count = row.try_get("generation")?;
    let tags: Vec<String> = row.try_get("tags")?;
    let at = |column| row.try_get::<At, _>(column).map(|at| at.0);
    let host = Host {
        id: id.into(),
        tenant_id: parse(row.try_get("tenant_id")?)?,
        kind: kind_of(row.try_get("kind")?)?,
        name: parse(row.try_get("name")?)?,
        external_id: parse_optional(row.try_get("external_id")?)?,
        provider: parse_optional(row.try_get("provider")?)?,
        availability_zone: parse_optional(row.try_get("availability_zone")?)?,
        address: parse_optional(row.try_get("address")?)?,
        tags: tags.iter().map(|tag| parse(tag)).collect::<Result<_, _>>()?,
        labels: from_json(row.try_get("labels")?)?,
        liveness_window: window_of(row)?,
        cordoned: row.try_get("cordoned")?,
        lifecycle: lifecycle_of(row.try_get("archived_at")?),
        generation: generation.0,
        enrolled_at: row.try_get::<Option<At>, _>("enrolled_at")?.map(|at| at.0),
        made_with: row.try_get::<Option<Id>, _>("made_with")?.map(Into::into),
        created_at: at("created_at")?,
        updated_at: at("updated_at")?,
    };
    Ok((Revision::new(revision.0), host))
}

/// Reads [`host_columns!`] and [`presence_columns!`].
pub(crate) fn record(row: &PgRow) -> Result<HostRecord, Failure> {
    let (revision, host) = decode(row)?;
    Ok(HostRecord { revision, host, presence: PresenceRow::read(row)?.decode() })
}

/// Locks these hosts, in the order of all transactions, and reads the revisions of those that are there.
pub(crate) async fn lock(db: &mut Db, mut hosts: Vec<Id>) -> Result<BTreeMap<HostId, Revision>, Failure> {
    hosts.sort_unstable();
    let rows = db.query(LOCK).bind(hosts).fetch_all(db.connection()).await?;
    rows.iter()
        .map(|row| {
            let revision: Count = row.try_get("revision")?;
            Ok((row.try_get::<Id, _>("id")?.into(), Revision::new(revision.0)))
        })
        .collect()
}

/// The host and its revision, if there is one.
pub(crate) async fn by_id(db: &mut Db, id: HostId) -> Result<Option<(Revision, Host)>, Failure> {
    let row = db.query(BY_ID).bind(Id::from(id)).fetch_optional(db.connection()).await?;
    row.as_ref().map(decode).transpose()
}

/// Writes the host itself and its tags.
pub(crate) async fn put(db: &mut Db, host: &Host, expected: Expected) -> Result<(), Failure> {
    let text = match expected {
        Expected::Absent => INSERT,
        Expected::Revision(_) => UPDATE,
    };
    let row = db
        .query(text)
        .bind(Id::from(host.id))
        .bind(Count(expected.next().get()))
        .bind(host.tenant_id.as_str())
        .bind(host.kind.as_str())
        .bind(host.name.as_str())
        .bind(host.external_id.as_ref().map(|id| id.as_str()))
        .bind(host.provider.as_ref().map(|text| text.as_str()))
        .bind(host.availability_zone.as_ref().map(|text| text.as_str()))
        .bind(host.address.as_ref().map(|text| text.as_str()))
        .bind(to_json(&host.labels)?)
        .bind(host.cordoned)
        .bind(host.lifecycle.archived_at().map(At))
        .bind(Count(host.generation))
        .bind(host.enrolled_at.map(At))
        .bind(At(host.created_at))
        .bind(At(host.updated_at))
        .bind(host.made_with.map(Id::from))
        .bind(host.liveness_window.map(|window| Count(window.as_secs().into())));
    let row = match expected {
        Expected::Absent => row.bind(presence::NEW.0).bind(presence::NEW.1),
        Expected::Revision(revision) => row.bind(Count(revision.get())),
    };
    if row.execute(db.connection()).await?.rows_affected() == 0 {
        return Err(StoreErrorKind::Conflict.into());
    }
    // A host without tags may have had some.
    if host.tags.is_empty() && matches!(expected, Expected::Absent) {
        return Ok(());
    }
    let tags: Vec<_> = host.tags.iter().map(|tag| tag.as_str()).collect();
    db.query(PUT_TAGS).bind(Id::from(host.id)).bind(tags).execute(db.connection()).await?;
    Ok(())
}

/// Removes the host and what is its own by foreign keys; what it reported is left for [`prune`](crate::prune).
pub(crate) async fn delete(db: &mut Db, id: HostId, expected: Revision, at: At) -> Result<(), Failure> {
    db.query(FORGET).bind(Id::from(id)).bind(at).execute(db.connection()).await?;
    let deletion = db.query(DELETE).bind(Id::from(id)).bind(Count(expected.get()));
    if deletion.execute(db.connection()).await?.rows_affected() == 0 {
        return Err(StoreErrorKind::Conflict.into());
    }
    Ok(())
}

/// `find_host`.
pub(crate) async fn find(db: &mut Db, lookup: &HostLookup) -> Result<Option<HostRecord>, Failure> {
    let query = match lookup {
        HostLookup::Id(id) => db.query(FIND_BY_ID).bind(Id::from(*id)),
        HostLookup::ExternalId(tenant_id, external_id) => {
            db.query(FIND_BY_EXTERNAL_ID).bind(tenant_id.as_str()).bind(external_id.as_str())
        }
        HostLookup::Name(tenant_id, name) => db.query(FIND_BY_NAME).bind(tenant_id.as_str()).bind(name.as_str()),
    };
    query.fetch_optional(db.connection()).await?.as_ref().map(record).transpose()
}

/// What contact has to know of a host.
#[derive(Debug)]
pub(crate) struct HostHead {
    /// Whose it is.
    pub(crate) tenant_id: TenantId,
    /// Managed, or brought by the tenant.
    pub(crate) kind: HostKind,
    /// Whether it is in service.
    pub(crate) lifecycle: Lifecycle,
    /// After how much silence it is unreachable.
    pub(crate) liveness_window: Option<LivenessWindow>,
}

const HEADS: &str = "SELECT id, tenant_id, kind, archived_at, liveness_window FROM {schema}.hosts WHERE id = ANY($1)";

/// Reads these hosts as contact meets them: in a statement of its own after their presence was locked, so that it sees
/// what the one who held the lock before has committed.
pub(crate) async fn heads(db: &mut Db, hosts: Vec<Id>) -> Result<BTreeMap<Id, HostHead>, Failure> {
    let rows = db.query(HEADS).bind(hosts).fetch_all(db.connection()).await?;
    rows.iter()
        .map(|row| {
            let head = HostHead {
                tenant_id: parse(row.try_get("tenant_id")?)?,
                kind: kind_of(row.try_get("kind")?)?,
                lifecycle: lifecycle_of(row.try_get("archived_at")?),
                liveness_window: window_of(row)?,
            };
            Ok((row.try_get("id")?, head))
        })
        .collect()
}

/// Reads [`HostKind::as_str`] back.
pub(crate) fn kind_of(word: &str) -> Result<HostKind, Failure> {
    [HostKind::Managed, HostKind::Byoc].into_iter().find(|kind| kind.as_str() == word).ok_or(UNKNOWN_WORD)
}

/// Reads a window of a host's own.
pub(crate) fn window_of(row: &PgRow) -> Result<Option<LivenessWindow>, Failure> {
    let seconds: Option<Count> = row.try_get("liveness_window")?;
    seconds.map(|Count(seconds)| LivenessWindow::from_secs(seconds).map_err(|_| UNKNOWN_WORD)).transpose()
}

/// Reads the lifecycle from its one fact.
pub(crate) fn lifecycle_of(archived_at: Option<At>) -> Lifecycle {
    archived_at.map_or(Lifecycle::Live, |at| Lifecycle::Archived { at: at.0 })
}
