//! Reports and heartbeats: conditional, and never under the revision.

use std::collections::BTreeMap;
use std::ops::Bound;

use enlist_core::container::Container;
use enlist_core::event::{Event, NewEvent};
use enlist_core::host::Host;
use enlist_core::store::{
    Append, AppendOutcome, Appended, Contact, ContainerQuery, ContainerRecord, Page, TelemetryQuery, came_online,
};
use enlist_core::telemetry::{HostSnapshot, Report};
use enlist_core::{HostId, Timestamp};
use redb::ReadableTable;

use crate::error::Failure;
use crate::record::{ContainerRow, HostRow, PresenceRow, SnapshotRow, decode, encode};
use crate::schema::{AsKey, Reader, Writer, get, number, page, put};
use crate::{event, liveness};

impl PresenceRow {
    fn contact(&mut self, contact: &Contact, host: &Host) -> Option<NewEvent> {
        let before = self.shown.presence;
        self.shown.presence = before.contact(contact.at);
        came_online(contact, &host.tenant_id, host.kind, before, self.shown.presence)
    }
}

/// `append`. Each report sees what those before it have written, since all write through to one transaction.
pub(crate) fn append(tables: &mut Writer<'_>, reports: Vec<Append>) -> Result<Appended, Failure> {
    let mut events = Vec::new();
    let mut outcomes = Vec::with_capacity(reports.len());
    for Append { contact, report } in reports {
        outcomes.push(match append_one(tables, &contact, report, &mut events) {
            // All records that a report needs are read before the first is written, so nothing of it is half there.
            Err(failure @ Failure::Record(_)) => AppendOutcome::Failed(failure.into()),
            other => other?,
        });
    }
    Ok(Appended { outcomes, events: event::append(tables, events)? })
}

fn append_one(
    tables: &mut Writer<'_>,
    contact: &Contact,
    report: Report,
    events: &mut Vec<NewEvent>,
) -> Result<AppendOutcome, Failure> {
    let id = contact.host_id.key();
    let Some((host, mut presence)) = visit(tables, contact.host_id)? else { return Ok(AppendOutcome::HostAbsent) };
    if host.is_archived() {
        return Ok(AppendOutcome::HostArchived);
    }
    let recorded_at = report.recorded_at;
    let stored: Option<SnapshotRow> = get(&tables.snapshots, (id, recorded_at.unix_micros()))?;
    let newest = presence.shown.newest_report_at < Some(recorded_at);
    let rows = if newest { containers_of(&tables.containers, id)? } else { Vec::new() };

    note_use(tables, contact)?;
    let before = presence.shown.presence;
    events.extend(presence.contact(contact, &host));
    liveness::note(tables, &host, before, presence.shown.presence)?;
    let outcome = match stored.map(HostSnapshot::from) {
        Some(stored) if stored.repeats(&report) => AppendOutcome::Duplicate,
        Some(_) => AppendOutcome::Conflict,
        None => {
            let snapshot = SnapshotRow::from(HostSnapshot::of(&report, contact.at));
            put(&mut tables.snapshots, (id, recorded_at.unix_micros()), &snapshot)?;
            if newest {
                take_over(tables, &mut presence, rows, report, contact)?;
            }
            AppendOutcome::Accepted
        }
    };
    put(&mut tables.presence, id, &presence)?;
    Ok(outcome)
}

/// Brings facts and container rows to what a report says that is newer than all before it.
fn take_over(
    tables: &mut Writer<'_>,
    presence: &mut PresenceRow,
    rows: Vec<ContainerRecord>,
    report: Report,
    contact: &Contact,
) -> Result<(), Failure> {
    presence.shown.newest_report_at = Some(report.recorded_at);
    if let Some(facts) = &report.host.facts {
        presence.shown.facts.merge(facts);
    }
    let complete = report.containers_complete;
    let changed = changed_rows(rows, report, contact.at, presence.last_complete_at);
    presence.shown.containers_version += u64::from(!changed.is_empty());
    if complete {
        presence.last_complete_at = Some(contact.at);
    }
    for row in changed {
        let removed_at = row.removed_at.map(Timestamp::unix_micros);
        let row = ContainerRow(row);
        let key = (contact.host_id.key(), row.0.container.container_id.as_str());
        tables.containers.insert(key, (removed_at, encode(&row)?.as_slice()))?;
    }
    Ok(())
}

/// The rows that the report changes. Most reports change none: `last_seen_at` is derived when it is read.
fn changed_rows(
    rows: Vec<ContainerRecord>,
    report: Report,
    received_at: Timestamp,
    last_complete_at: Option<Timestamp>,
) -> Vec<ContainerRecord> {
    let mut rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.container.container_id.clone(), row)).collect();
    let mut changed = Vec::new();
    for container in report.containers {
        let container = Container { metrics: None, ..container };
        let known = rows.remove(&container.container_id);
        if known.as_ref().is_some_and(|row| row.removed_at.is_none() && row.container.describes_same(&container)) {
            continue;
        }
        let first_seen_at = known.map_or(received_at, |row| row.first_seen_at);
        changed.push(ContainerRecord { container, first_seen_at, last_seen_at: received_at, removed_at: None });
    }
    if report.containers_complete {
        // It was there at the last complete report, and its row does not say so yet.
        let missing = rows.into_values().filter(|row| row.removed_at.is_none());
        changed.extend(missing.map(|row| ContainerRecord {
            last_seen_at: last_complete_at.map_or(row.last_seen_at, |complete| row.last_seen_at.max(complete)),
            removed_at: Some(received_at),
            ..row
        }));
    }
    changed
}

/// `touch`.
pub(crate) fn touch(tables: &mut Writer<'_>, contacts: &[Contact]) -> Result<Vec<Event>, Failure> {
    let mut events = Vec::new();
    for contact in contacts {
        let visited = visit(tables, contact.host_id)?;
        let Some((host, mut presence)) = visited.filter(|(host, _)| !host.is_archived()) else { continue };
        note_use(tables, contact)?;
        let before = presence.shown.presence;
        events.extend(presence.contact(contact, &host));
        liveness::note(tables, &host, before, presence.shown.presence)?;
        put(&mut tables.presence, host.id.key(), &presence)?;
    }
    event::append(tables, events)
}

fn visit(tables: &Writer<'_>, host_id: HostId) -> Result<Option<(Host, PresenceRow)>, Failure> {
    let Some(HostRow { host, .. }) = get(&tables.hosts, host_id.key())? else { return Ok(None) };
    let presence = get(&tables.presence, host_id.key())?.ok_or(Failure::Record("a host without presence"))?;
    Ok(Some((host, presence)))
}

/// Only of a token of that very host: the caller may not know yet that it went with another.
fn note_use(tables: &mut Writer<'_>, contact: &Contact) -> Result<(), Failure> {
    let (token, at) = (contact.token_id.key(), contact.at.unix_micros());
    let owner = number(&tables.agent_owners, token)?;
    let last = tables.last_used.get(token)?.map(|last| last.value());
    if owner == Some(contact.host_id.key()) && last < Some(at) {
        tables.last_used.insert(token, at)?;
    }
    Ok(())
}

fn containers_of(
    table: &impl ReadableTable<(u128, &'static str), (Option<i64>, &'static [u8])>,
    host: u128,
) -> Result<Vec<ContainerRecord>, Failure> {
    // Ids may be any text, so the end of the range is the next host.
    let rows = table.range((host, "")..(host.saturating_add(1), ""))?;
    rows.map(|row| Ok(decode::<ContainerRow>(row?.1.value().1)?.0)).collect()
}

/// `list_containers`.
pub(crate) fn list_containers(tables: &Reader, query: &ContainerQuery) -> Result<Page<ContainerRecord>, Failure> {
    let id = query.host_id.key();
    // A deleted host's rows may be there still.
    let Some(presence) = get::<_, PresenceRow>(&tables.presence, id)? else { return page([], query.limit) };
    let newest = match presence.shown.newest_report_at {
        Some(at) => get::<_, SnapshotRow>(&tables.snapshots, (id, at.unix_micros()))?.map(HostSnapshot::from),
        None => None,
    };
    let measured = newest.map(|snapshot| snapshot.containers).unwrap_or_default();
    let measured: BTreeMap<_, _> = measured.into_iter().map(|row| (row.container_id, row.metrics)).collect();
    let rows = containers_of(&tables.containers, id)?.into_iter().filter(|row| {
        (query.removed || row.removed_at.is_none())
            && query.after.as_ref().is_none_or(|after| row.container.container_id > *after)
    });
    let shown = rows.map(|mut row| {
        row.container.metrics = measured.get(&row.container.container_id).copied();
        if row.removed_at.is_none() {
            row.last_seen_at = row.last_seen_at.max(presence.last_complete_at.unwrap_or(row.last_seen_at));
        }
        Ok(row)
    });
    page(shown, query.limit)
}

/// `list_telemetry`.
pub(crate) fn list_telemetry(tables: &Reader, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, Failure> {
    let id = query.host_id.key();
    // A deleted host's rows may be there still.
    if tables.hosts.get(id)?.is_none() {
        return page([], query.limit);
    }
    let from = match query.after {
        Some(after) if after >= query.from => Bound::Excluded((id, after.unix_micros())),
        _ => Bound::Included((id, query.from.unix_micros())),
    };
    let to = Bound::Excluded((id, query.to.unix_micros()));
    let rows = tables.snapshots.range((from, to))?;
    let snapshots = rows.map(|row| {
        let mut snapshot = HostSnapshot::from(decode::<SnapshotRow>(row?.1.value())?);
        // They stand in the report's record, which is read whole.
        snapshot.containers.retain(|container| query.containers.includes(&container.container_id));
        Ok(snapshot)
    });
    page(snapshots, query.limit)
}
