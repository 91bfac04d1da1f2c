//! Reports: appended with the contact that they prove; read back in the order in which they were measured.

use std::collections::HashMap;

use diesel::prelude::*;
use enlist_core::HostId;
use enlist_core::store::{Append, AppendOutcome, Appended, Page, TelemetryQuery};
use enlist_core::telemetry::{ContainerSnapshot, HostMetrics, HostSnapshot, Report};

use crate::column::{At, Count, Id, Real, from_json, overread, to_json};
use crate::contact::{Visit, Visits};
use crate::container::ContainerMetricsRow;
use crate::error::Failure;
use crate::host;
use crate::schema::{container_metric_snapshots, containers, host_metric_snapshots};
use crate::transaction::immediate;

/// A row of `host_metric_snapshots`, but for its id.
#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = host_metric_snapshots, treat_none_as_default_value = false)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
struct SnapshotRow {
    host_id: Id,
    recorded_at: At,
    received_at: At,
    cpu_percent: Option<Real>,
    load_1m: Option<Real>,
    load_5m: Option<Real>,
    load_15m: Option<Real>,
    memory_used_bytes: Option<Count>,
    memory_total_bytes: Option<Count>,
    swap_used_bytes: Option<Count>,
    swap_total_bytes: Option<Count>,
    disk_used_bytes: Option<Count>,
    disk_total_bytes: Option<Count>,
    network_rx_bytes: Option<Count>,
    network_tx_bytes: Option<Count>,
    uptime_seconds: Option<Count>,
    custom: Option<String>,
    agent: Option<String>,
}

impl SnapshotRow {
    fn of(host_id: HostId, snapshot: &HostSnapshot) -> Result<Self, Failure> {
        let metrics = &snapshot.metrics;
        // JSON has no word for them, and serde would write `null`, which could not be read back.
        if !snapshot.custom.values().all(|value| value.is_finite()) {
            return Err(Failure::Invalid("a custom number is finite"));
        }
        Ok(Self {
            host_id: host_id.into(),
            recorded_at: At(snapshot.recorded_at),
            received_at: At(snapshot.received_at),
            cpu_percent: metrics.cpu_percent.map(Real),
            load_1m: metrics.load_1m.map(Real),
            load_5m: metrics.load_5m.map(Real),
            load_15m: metrics.load_15m.map(Real),
            memory_used_bytes: metrics.memory_used_bytes.map(Count),
            memory_total_bytes: metrics.memory_total_bytes.map(Count),
            swap_used_bytes: metrics.swap_used_bytes.map(Count),
            swap_total_bytes: metrics.swap_total_bytes.map(Count),
            disk_used_bytes: metrics.disk_used_bytes.map(Count),
            disk_total_bytes: metrics.disk_total_bytes.map(Count),
            network_rx_bytes: metrics.network_rx_bytes.map(Count),
            network_tx_bytes: metrics.network_tx_bytes.map(Count),
            uptime_seconds: metrics.uptime_seconds.map(Count),
            custom: (!snapshot.custom.is_empty()).then(|| to_json(&snapshot.custom)).transpose()?,
            agent: snapshot.agent.as_ref().map(to_json).transpose()?,
        })
    }

    fn decode(self, containers: Vec<ContainerSnapshot>) -> Result<HostSnapshot, Failure> {
        let real = |column: Option<Real>| column.map(|real| real.0);
        let count = |column: Option<Count>| column.map(|count| count.0);
        Ok(HostSnapshot {
            recorded_at: self.recorded_at.0,
            received_at: self.received_at.0,
            metrics: HostMetrics {
                cpu_percent: real(self.cpu_percent),
                load_1m: real(self.load_1m),
                load_5m: real(self.load_5m),
                load_15m: real(self.load_15m),
                memory_used_bytes: count(self.memory_used_bytes),
                memory_total_bytes: count(self.memory_total_bytes),
                swap_used_bytes: count(self.swap_used_bytes),
                swap_total_bytes: count(self.swap_total_bytes),
                disk_used_bytes: count(self.disk_used_bytes),
                disk_total_bytes: count(self.disk_total_bytes),
                network_rx_bytes: count(self.network_rx_bytes),
                network_tx_bytes: count(self.network_tx_bytes),
                uptime_seconds: count(self.uptime_seconds),
            },
            custom: self.custom.as_deref().map_or_else(|| Ok(Default::default()), from_json)?,
            agent: self.agent.as_deref().map(from_json).transpose()?,
            containers,
        })
    }
}

/// `append`: all reports in one transaction. If that fails for a reason that one of them may be, each gets one of its
/// own, so that the bad one fails alone.
pub(crate) fn append(connection: &mut SqliteConnection, reports: &[Append]) -> Result<Appended, Failure> {
    match append_together(connection, reports) {
        Err(failure) if failure.may_be_of_one_piece() => append_singly(connection, reports),
        answer => answer,
    }
}

fn append_together(connection: &mut SqliteConnection, reports: &[Append]) -> Result<Appended, Failure> {
    immediate(connection, |connection| {
        let mut visits = Visits::default();
        let mut outcomes = Vec::with_capacity(reports.len());
        for Append { contact, report } in reports {
            outcomes.push(match visits.of(connection, contact.host_id)? {
                None => AppendOutcome::HostAbsent,
                Some(visit) if visit.is_archived() => AppendOutcome::HostArchived,
                Some(visit) => {
                    visit.contact(contact)?;
                    store(connection, visit, report, At(contact.at))?
                }
            });
        }
        let events = visits.finish(connection)?;
        Ok(Appended { outcomes, events })
    })
}

fn append_singly(connection: &mut SqliteConnection, reports: &[Append]) -> Result<Appended, Failure> {
    let mut appended = Appended { outcomes: Vec::with_capacity(reports.len()), events: Vec::new() };
    for append in reports {
        match append_together(connection, std::slice::from_ref(append)) {
            Ok(one) => {
                appended.outcomes.extend(one.outcomes);
                appended.events.extend(one.events);
            }
            Err(failure) => {
                // What a report says never changes presence: the host has proved its credential all the same. If even
                // that cannot be noted, its next contact will be.
                if let Ok(events) = crate::contact::touch(connection, std::slice::from_ref(&append.contact)) {
                    appended.events.extend(events);
                }
                appended.outcomes.push(AppendOutcome::Failed(failure.into()));
            }
        }
    }
    Ok(appended)
}

/// Stores one report of a host that is in service.
fn store(
    connection: &mut SqliteConnection,
    visit: &mut Visit,
    report: &Report,
    received_at: At,
) -> Result<AppendOutcome, Failure> {
    let newest = visit.presence.newest_report_at.is_none_or(|newest| report.recorded_at > newest.0);
    // A report that is newer than the newest one was not stored before.
    if !newest && let Some(stored) = stored(connection, visit.host_id, At(report.recorded_at))? {
        return Ok(if stored.repeats(report) { AppendOutcome::Duplicate } else { AppendOutcome::Conflict });
    }
    if newest {
        describe(connection, visit, report, received_at)?;
    }
    let snapshot = HostSnapshot::of(report, received_at.0);
    let report_id = diesel::insert_into(host_metric_snapshots::table)
        .values(&SnapshotRow::of(visit.host_id, &snapshot)?)
        .returning(host_metric_snapshots::report_id)
        .get_result::<i64>(connection)?;
    store_containers(connection, visit, report_id, &snapshot)?;
    // Not newer than the newest, and yet of its time: that one was pruned, and this is it again.
    if newest || visit.presence.newest_report_at == Some(At(report.recorded_at)) {
        visit.presence.newest_report_at = Some(At(report.recorded_at));
        visit.presence.newest_report_id = Some(report_id);
    }
    Ok(AppendOutcome::Accepted)
}

/// Takes over the facts and the containers of a report that is newer than all before it.
fn describe(
    connection: &mut SqliteConnection,
    visit: &mut Visit,
    report: &Report,
    received_at: At,
) -> Result<(), Failure> {
    if let Some(facts) = &report.host.facts {
        visit.presence.merge_facts(facts)?;
    }
    if report.containers.is_empty() && !report.containers_complete {
        return Ok(());
    }
    let last_complete_at = visit.presence.last_complete_at;
    let containers = visit.containers(connection)?;
    let mut changed = containers.describe(connection, &report.containers, received_at.0)?;
    if report.containers_complete {
        changed |= containers.remove_missing(connection, &report.containers, received_at.0, last_complete_at)?;
        visit.presence.last_complete_at = Some(received_at);
    }
    visit.presence.containers_version.0 += u64::from(changed);
    Ok(())
}

fn store_containers(
    connection: &mut SqliteConnection,
    visit: &mut Visit,
    report_id: i64,
    snapshot: &HostSnapshot,
) -> Result<(), Failure> {
    if snapshot.containers.is_empty() {
        return Ok(());
    }
    let containers = visit.containers(connection)?;
    let recorded_at = At(snapshot.recorded_at);
    let mut rows = snapshot
        .containers
        .iter()
        .map(|container| Ok((containers.key(connection, &container.container_id, recorded_at)?, container.metrics)))
        .collect::<Result<Vec<_>, Failure>>()?;
    // In the order of the table, so that each row is appended behind the one before it.
    rows.sort_unstable_by_key(|(key, _)| *key);
    for (key, metrics) in rows {
        let key =
            (container_metric_snapshots::report_id.eq(report_id), container_metric_snapshots::container_key.eq(key));
        diesel::insert_into(container_metric_snapshots::table)
            .values((key, ContainerMetricsRow::from(metrics)))
            .execute(connection)?;
    }
    Ok(())
}

/// `list_telemetry`.
pub(crate) fn list(connection: &mut SqliteConnection, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, Failure> {
    // What a deleted host reported is removed later, and not shown until then.
    if host::revision(connection, query.host_id)?.is_none() {
        return Ok(Page { items: Vec::new(), more: false });
    }
    let mut rows = host_metric_snapshots::table
        .filter(host_metric_snapshots::host_id.eq(Id::from(query.host_id)))
        .filter(host_metric_snapshots::recorded_at.ge(At(query.from)))
        .filter(host_metric_snapshots::recorded_at.lt(At(query.to)))
        .order(host_metric_snapshots::recorded_at)
        .limit(overread(query.limit))
        .select((host_metric_snapshots::report_id, SnapshotRow::as_select()))
        .into_boxed();
    if let Some(after) = query.after {
        rows = rows.filter(host_metric_snapshots::recorded_at.gt(At(after)));
    }
    let rows = Page::of_overread(rows.load(connection)?, query.limit);
    Ok(Page { more: rows.more, items: with_containers(connection, rows.items)? })
}

fn stored(connection: &mut SqliteConnection, host_id: HostId, at: At) -> Result<Option<HostSnapshot>, Failure> {
    let row = host_metric_snapshots::table
        .filter(host_metric_snapshots::host_id.eq(Id::from(host_id)))
        .filter(host_metric_snapshots::recorded_at.eq(at))
        .select((host_metric_snapshots::report_id, SnapshotRow::as_select()))
        .get_result(connection)
        .optional()?;
    Ok(with_containers(connection, row.into_iter().collect())?.pop())
}

/// Joins reports with their containers: two statements, however many reports there are.
fn with_containers(
    connection: &mut SqliteConnection,
    rows: Vec<(i64, SnapshotRow)>,
) -> Result<Vec<HostSnapshot>, Failure> {
    let mut of_report = HashMap::<i64, Vec<ContainerSnapshot>>::new();
    let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
    // A statement has a bound on its parameters, a page has none.
    for ids in ids.chunks(1_000) {
        let numbers = container_metric_snapshots::table
            .inner_join(containers::table)
            .filter(container_metric_snapshots::report_id.eq_any(ids))
            .select((
                container_metric_snapshots::report_id,
                containers::container_id,
                ContainerMetricsRow::as_select(),
            ));
        for (report_id, container_id, metrics) in numbers.load::<(i64, String, ContainerMetricsRow)>(connection)? {
            let snapshot = ContainerSnapshot { container_id, metrics: metrics.into() };
            of_report.entry(report_id).or_default().push(snapshot);
        }
    }
    rows.into_iter()
        .map(|(id, row)| {
            let mut containers = of_report.remove(&id).unwrap_or_default();
            containers.sort_unstable_by(|a, b| a.container_id.cmp(&b.container_id));
            row.decode(containers)
        })
        .collect()
}
