//! Hosts: their rows, and the questions about them.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use enlist_core::host::{Host, HostKind, Lifecycle, Tag};
use enlist_core::liveness::LivenessWindow;
use enlist_core::store::{Expected, HostLookup, HostRecord, Revision, StoreErrorKind};
use enlist_core::{HostId, Timestamp};

use crate::column::{At, Count, Id, UNKNOWN_WORD, from_json, parse, parse_optional, to_json};
use crate::error::Failure;
use crate::presence::PresenceRow;
use crate::schema::{deleted_hosts, host_presence, host_tags, hosts};

/// A row of `hosts`, but for its key. Null is written as NULL, so that each statement has one text and is prepared once.
#[derive(Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = hosts, treat_none_as_default_value = false, treat_none_as_null = true)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
pub(crate) struct HostRow {
    id: Id,
    revision: Count,
    tenant_id: String,
    kind: String,
    name: String,
    external_id: Option<String>,
    provider: Option<String>,
    availability_zone: Option<String>,
    address: Option<String>,
    labels: String,
    liveness_window: Option<i64>,
    cordoned: bool,
    archived_at: Option<At>,
    generation: Count,
    enrolled_at: Option<At>,
    made_with: Option<Id>,
    created_at: At,
    updated_at: At,
}

impl HostRow {
    fn of(host: &Host, revision: Revision) -> Result<Self, Failure> {
        Ok(Self {
            id: host.id.into(),
            revision: Count(revision.get()),
            tenant_id: host.tenant_id.as_str().to_owned(),
            kind: host.kind.as_str().to_owned(),
            name: host.name.as_str().to_owned(),
            external_id: host.external_id.as_ref().map(|id| id.as_str().to_owned()),
            provider: host.provider.as_ref().map(|text| text.as_str().to_owned()),
            availability_zone: host.availability_zone.as_ref().map(|text| text.as_str().to_owned()),
            address: host.address.as_ref().map(|text| text.as_str().to_owned()),
            labels: to_json(&host.labels)?,
            liveness_window: host.liveness_window.map(|window| window.as_secs().into()),
            cordoned: host.cordoned,
            archived_at: host.lifecycle.archived_at().map(At),
            generation: Count(host.generation),
            enrolled_at: host.enrolled_at.map(At),
            made_with: host.made_with.map(Id::from),
            created_at: At(host.created_at),
            updated_at: At(host.updated_at),
        })
    }

    fn into_host(self, tags: BTreeSet<Tag>) -> Result<(Revision, Host), Failure> {
        let host = Host {
            id: self.id.into(),
            tenant_id: parse(&self.tenant_id)?,
            kind: kind_of(&self.kind)?,
            name: parse(&self.name)?,
            external_id: parse_optional(self.external_id.as_deref())?,
            provider: parse_optional(self.provider.as_deref())?,
            availability_zone: parse_optional(self.availability_zone.as_deref())?,
            address: parse_optional(self.address.as_deref())?,
            tags,
            labels: from_json(&self.labels)?,
            liveness_window: window_of(self.liveness_window)?,
            cordoned: self.cordoned,
            lifecycle: lifecycle_of(self.archived_at),
            generation: self.generation.0,
            enrolled_at: self.enrolled_at.map(|at| at.0),
            made_with: self.made_with.map(Into::into),
            created_at: self.created_at.0,
            updated_at: self.updated_at.0,
        };
        Ok((Revision::new(self.revision.0), host))
    }
}

/// The revision that the host's aggregate is at, if there is one.
pub(crate) fn revision(connection: &mut SqliteConnection, id: HostId) -> Result<Option<Revision>, Failure> {
    let revision =
        hosts::table.find(Id::from(id)).select(hosts::revision).get_result::<Count>(connection).optional()?;
    Ok(revision.map(|revision| Revision::new(revision.0)))
}

/// The host and its revision, if there is one.
pub(crate) fn by_id(connection: &mut SqliteConnection, id: HostId) -> Result<Option<(Revision, Host)>, Failure> {
    let row = hosts::table.find(Id::from(id)).select(HostRow::as_select()).get_result(connection).optional()?;
    let Some(row) = row else { return Ok(None) };
    let tags = tags_of(connection, id)?;
    row.into_host(tags).map(Some)
}

/// Writes the host itself and its tags. The guard stands in the statement too, so that two writes of one aggregate in
/// one commit cannot both pass.
pub(crate) fn put(connection: &mut SqliteConnection, host: &Host, expected: Expected) -> Result<(), Failure> {
    let row = HostRow::of(host, expected.next())?;
    match expected {
        Expected::Absent => {
            let made = diesel::insert_into(hosts::table).values(&row).execute(connection);
            made.map_err(|error| first_clash(connection, host, error.into()))?;
            let host_key = hosts::table.find(row.id).select(hosts::host_key).get_result(connection)?;
            let presence = PresenceRow::new(host, host_key);
            diesel::insert_into(host_presence::table).values(&presence).execute(connection)?;
        }
        Expected::Revision(revision) => {
            let guarded = hosts::table.find(row.id).filter(hosts::revision.eq(Count(revision.get())));
            let changed = diesel::update(guarded).set(&row).execute(connection);
            if changed.map_err(|error| first_clash(connection, host, error.into()))? == 0 {
                return Err(StoreErrorKind::Conflict.into());
            }
        }
    }
    put_tags(connection, host)
}

/// Of several clashes SQLite reports whichever index it meets first; the contract wants the name's before the others.
fn first_clash(connection: &mut SqliteConnection, host: &Host, failure: Failure) -> Failure {
    if failure.kind() != StoreErrorKind::ExternalIdTaken || host.is_archived() {
        return failure;
    }
    let lookup = HostLookup::Name(host.tenant_id.clone(), host.name.clone());
    match find(connection, &lookup) {
        Ok(Some(other)) if other.host.id != host.id => StoreErrorKind::NameTaken.into(),
        _ => failure,
    }
}

/// Deletes the host under its guard, and with it, by cascade, all that is identity of its own; what it reported is left
/// to `prune`. Its agent tokens have to be buried before.
pub(crate) fn delete(
    connection: &mut SqliteConnection,
    id: HostId,
    expected: Revision,
    at: Timestamp,
) -> Result<(), Failure> {
    let id = Id::from(id);
    let entry = hosts::table.find(id).select((hosts::id, hosts::host_key, At(at).into_sql::<BigInt>()));
    diesel::insert_into(deleted_hosts::table)
        .values(entry)
        .into_columns((deleted_hosts::host_id, deleted_hosts::host_key, deleted_hosts::deleted_at))
        .execute(connection)?;
    let guarded = hosts::table.find(id).filter(hosts::revision.eq(Count(expected.get())));
    if diesel::delete(guarded).execute(connection)? == 0 {
        return Err(StoreErrorKind::Conflict.into());
    }
    Ok(())
}

/// `find_host`.
pub(crate) fn find(connection: &mut SqliteConnection, lookup: &HostLookup) -> Result<Option<HostRecord>, Failure> {
    let of_one = host_presence::table.on(host_presence::host_key.eq(hosts::host_key));
    let query = hosts::table.inner_join(of_one).select((HostRow::as_select(), hosts::facts, PresenceRow::as_select()));
    let row: Result<RecordRow, _> = match lookup {
        HostLookup::Id(id) => query.filter(hosts::id.eq(Id::from(*id))).get_result(connection),
        HostLookup::ExternalId(tenant_id, external_id) => query
            .filter(hosts::tenant_id.eq(tenant_id.as_str()))
            .filter(hosts::external_id.eq(external_id.as_str()))
            .get_result(connection),
        HostLookup::Name(tenant_id, name) => query
            .filter(hosts::tenant_id.eq(tenant_id.as_str()))
            .filter(hosts::name.eq(name.as_str()))
            .filter(hosts::archived_at.is_null())
            .get_result(connection),
    };
    let Some(row) = row.optional()? else { return Ok(None) };
    let tags = tags_of(connection, HostId::from(row.0.id))?;
    record(row, tags).map(Some)
}

/// The hosts of these keys, each with its key and the row of its newest report; as many as a statement may have parameters.
pub(crate) fn records(
    connection: &mut SqliteConnection,
    keys: &[i64],
) -> Result<Vec<(HostRecord, i64, Option<i64>)>, Failure> {
    let rows = hosts::table
        .inner_join(host_presence::table.on(host_presence::host_key.eq(hosts::host_key)))
        .filter(hosts::host_key.eq_any(keys))
        .select((HostRow::as_select(), hosts::facts, PresenceRow::as_select()))
        .load::<RecordRow>(connection)?;
    let mut tags = tags_of_all(connection, &rows)?;
    rows.into_iter()
        .map(|row| {
            let PresenceRow { host_key, newest_report_id, .. } = row.2;
            let tags = tags.remove(&HostId::from(row.0.id)).unwrap_or_default();
            Ok((record(row, tags)?, host_key, newest_report_id))
        })
        .collect()
}

/// Reads [`HostKind::as_str`] back.
pub(crate) fn kind_of(word: &str) -> Result<HostKind, Failure> {
    [HostKind::Managed, HostKind::Byoc].into_iter().find(|kind| kind.as_str() == word).ok_or(UNKNOWN_WORD)
}

/// Reads the lifecycle from its one fact.
pub(crate) fn lifecycle_of(archived_at: Option<At>) -> Lifecycle {
    archived_at.map_or(Lifecycle::Live, |at| Lifecycle::Archived { at: at.0 })
}

/// Reads a window of a host's own.
pub(crate) fn window_of(seconds: Option<i64>) -> Result<Option<LivenessWindow>, Failure> {
    let window = |seconds| u64::try_from(seconds).ok().and_then(|seconds| LivenessWindow::from_secs(seconds).ok());
    seconds.map(|seconds| window(seconds).ok_or(UNKNOWN_WORD)).transpose()
}

/// A host, its facts and its presence.
type RecordRow = (HostRow, String, PresenceRow);

fn record((host, facts, presence): RecordRow, tags: BTreeSet<Tag>) -> Result<HostRecord, Failure> {
    let (revision, host) = host.into_host(tags)?;
    Ok(HostRecord { revision, host, presence: presence.decode(&facts)? })
}

fn tags_of(connection: &mut SqliteConnection, id: HostId) -> Result<BTreeSet<Tag>, Failure> {
    let tags = host_tags::table.filter(host_tags::host_id.eq(Id::from(id))).select(host_tags::tag);
    tags.load::<String>(connection)?.iter().map(|tag| parse(tag)).collect()
}

fn tags_of_all(
    connection: &mut SqliteConnection,
    rows: &[RecordRow],
) -> Result<HashMap<HostId, BTreeSet<Tag>>, Failure> {
    let ids = rows.iter().map(|(host, ..)| host.id);
    let tags = host_tags::table.filter(host_tags::host_id.eq_any(ids)).select((host_tags::host_id, host_tags::tag));
    let mut of_hosts = HashMap::<HostId, BTreeSet<Tag>>::with_capacity(rows.len());
    for (id, tag) in tags.load::<(Id, String)>(connection)? {
        of_hosts.entry(id.into()).or_default().insert(parse(&tag)?);
    }
    Ok(of_hosts)
}

/// Writes only what changed: most writes of a host change no tag.
fn put_tags(connection: &mut SqliteConnection, host: &Host) -> Result<(), Failure> {
    let stored = tags_of(connection, host.id)?;
    let id = Id::from(host.id);
    for gone in stored.difference(&host.tags) {
        diesel::delete(host_tags::table.find((id, gone.as_str()))).execute(connection)?;
    }
    for new in host.tags.difference(&stored) {
        let row = (host_tags::host_id.eq(id), host_tags::tag.eq(new.as_str()));
        diesel::insert_into(host_tags::table).values(row).execute(connection)?;
    }
    Ok(())
}
