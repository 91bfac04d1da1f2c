//! Reports: appended with the contact that they prove; read back in the order in which they were measured.
//!
//! By statements that stay prepared, and not by diesel: there are thousands of reports a second, of a dozen rows each.

use std::collections::HashMap;

use enlist_core::container::ContainerMetrics;
use enlist_core::store::{Append, AppendOutcome, Appended, Fingerprint, Page, SnapshotContainers, TelemetryQuery};
use enlist_core::telemetry::{ContainerSnapshot, HostMetrics, HostSnapshot, Report};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Statement, Transaction, params};

use crate::column::{At, Count, Id, Real, from_json, overread, text, to_json};
use crate::contact::{Visit, Visits};
use crate::error::Failure;
use crate::snapshot::{self, Wanted};
use crate::store::{Ingest, Remembered};
use crate::transaction::immediate_report;

const INSERT: &str = "
    INSERT INTO host_metric_snapshots (
        host_key, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m, memory_used_bytes,
        memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes, network_rx_bytes,
        network_tx_bytes, uptime_seconds, custom, agent)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// What [`decode`] reads.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT report_id, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m, memory_used_bytes,
                    memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes,
                    network_rx_bytes, network_tx_bytes, uptime_seconds, custom, agent
             FROM host_metric_snapshots WHERE ",
            $condition
        )
    };
}

const ONE: &str = select!("host_key = ? AND recorded_at = ?");
const RANGE: &str =
    select!("host_key = ? AND recorded_at >= ? AND recorded_at < ? AND recorded_at > ? ORDER BY recorded_at LIMIT ?");

const HOST_KEY: &str = "SELECT host_key FROM host_presence WHERE host_id = ?";
const CONTAINER_KEY: &str = "SELECT container_key FROM containers WHERE host_id = ? AND container_id = ?";
const CONTAINER_ID: &str = "SELECT container_id FROM containers WHERE container_key = ?";

/// `append`: all reports in one transaction. If that fails for a reason that one of them may be, each gets one of its
/// own, so that the bad one fails alone.
pub(crate) fn append(ingest: &mut Ingest<'_>, reports: &[Append]) -> Result<Appended, Failure> {
    match append_together(ingest, reports) {
        Err(failure) if failure.may_be_of_one_piece() => append_singly(ingest, reports),
        answer => answer,
    }
}

fn append_together(ingest: &mut Ingest<'_>, reports: &[Append]) -> Result<Appended, Failure> {
    let remembered = ingest.remembered;
    immediate_report(ingest.connection, |transaction| {
        let mut visits = Visits::begin(&transaction, remembered)?;
        let mut rows = Rows::prepare(&transaction)?;
        let mut outcomes = Vec::with_capacity(reports.len());
        for Append { contact, report } in reports {
            outcomes.push(match visits.of(contact.host_id)? {
                None => AppendOutcome::HostAbsent,
                Some(visit) if visit.is_archived() => AppendOutcome::HostArchived,
                Some(visit) => {
                    visit.contact(contact);
                    rows.store(remembered, visit, report, At(contact.at))?
                }
            });
        }
        drop(rows);
        let visited = visits.write()?;
        transaction.commit()?;
        Ok(Appended { outcomes, events: visited.remember(remembered) })
    })
}

fn append_singly(ingest: &mut Ingest<'_>, reports: &[Append]) -> Result<Appended, Failure> {
    let mut appended = Appended { outcomes: Vec::with_capacity(reports.len()), events: Vec::new() };
    for append in reports {
        match append_together(ingest, std::slice::from_ref(append)) {
            Ok(one) => {
                appended.outcomes.extend(one.outcomes);
                appended.events.extend(one.events);
            }
            Err(failure) => {
                // What a report says never changes presence: the host has proved its credential all the same. If even
                // that cannot be noted, its next contact will be.
                if let Ok(events) = crate::contact::touch(ingest, std::slice::from_ref(&append.contact)) {
                    appended.events.extend(events);
                }
                appended.outcomes.push(AppendOutcome::Failed(failure.into()));
            }
        }
    }
    Ok(appended)
}

/// The rows that reports add, by statements that are looked up once a transaction.
struct Rows<'a> {
    transaction: &'a Transaction<'a>,
    report: CachedStatement<'a>,
    containers: snapshot::Inserts<'a>,
}

impl<'a> Rows<'a> {
    fn prepare(transaction: &'a Transaction<'a>) -> Result<Self, Failure> {
        let report = transaction.prepare_cached(INSERT)?;
        Ok(Self { transaction, report, containers: snapshot::Inserts::new(transaction)? })
    }

    /// Stores one report of a host that is in service.
    fn store(
        &mut self,
        remembered: &Remembered,
        visit: &mut Visit,
        report: &Report,
        received_at: At,
    ) -> Result<AppendOutcome, Failure> {
        let newest = visit.presence.newest_report_at.is_none_or(|newest| report.recorded_at > newest.0);
        // A report that is newer than the newest one was not stored before.
        if !newest && let Some(stored) = stored(self.transaction, visit.presence.host_key, At(report.recorded_at))? {
            return Ok(if stored.repeats(report) { AppendOutcome::Duplicate } else { AppendOutcome::Conflict });
        }
        let fingerprints = remembered.described.fingerprints(&report.containers);
        if newest {
            describe(self.transaction, remembered, visit, report, &fingerprints, received_at)?;
        }
        insert(&mut self.report, visit.presence.host_key, report, received_at)?;
        let report_id = self.transaction.last_insert_rowid();
        self.containers.insert(report_id, &keyed(self.transaction, visit, report, &fingerprints)?)?;
        // Not newer than the newest, and yet of its time: that one was pruned, and this is it again.
        if newest || visit.presence.newest_report_at == Some(At(report.recorded_at)) {
            visit.presence.newest_report_at = Some(At(report.recorded_at));
            visit.presence.newest_report_id = Some(report_id);
        }
        Ok(AppendOutcome::Accepted)
    }
}

/// Takes over the facts and the containers of a report that is newer than all before it.
fn describe(
    transaction: &Transaction<'_>,
    remembered: &Remembered,
    visit: &mut Visit,
    report: &Report,
    fingerprints: &[Fingerprint],
    received_at: At,
) -> Result<(), Failure> {
    if let Some(facts) = &report.host.facts {
        visit.merge_facts(transaction, remembered, facts)?;
    }
    let complete = report.containers_complete;
    if report.containers.is_empty() && !complete {
        return Ok(());
    }
    if !visit.described().is_some_and(|known| known.is_unchanged_by(fingerprints, complete)) {
        let last_complete_at = visit.presence.last_complete_at;
        let containers = visit.containers(transaction)?;
        let mut changed = containers.describe(transaction, &report.containers, received_at.0)?;
        if complete {
            changed |= containers.remove_missing(transaction, &report.containers, received_at.0, last_complete_at)?;
        }
        visit.presence.containers_version.0 += u64::from(changed);
    }
    if complete {
        visit.presence.last_complete_at = Some(received_at);
    }
    Ok(())
}

/// Appends the report's own row.
fn insert(row: &mut Statement<'_>, host_key: i64, report: &Report, received_at: At) -> Result<(), Failure> {
    // JSON has no word for them, and serde would write `null`, which could not be read back.
    if !report.host.custom.values().all(|value| value.is_finite()) {
        return Err(Failure::Invalid("a custom number is finite"));
    }
    let custom = (!report.host.custom.is_empty()).then(|| to_json(&report.host.custom)).transpose()?;
    let agent = report.agent.as_ref().map(to_json).transpose()?;
    let metrics = &report.host.metrics;
    let reals = [metrics.cpu_percent, metrics.load_1m, metrics.load_5m, metrics.load_15m];
    let counts = [
        metrics.memory_used_bytes,
        metrics.memory_total_bytes,
        metrics.swap_used_bytes,
        metrics.swap_total_bytes,
        metrics.disk_used_bytes,
        metrics.disk_total_bytes,
        metrics.network_rx_bytes,
        metrics.network_tx_bytes,
        metrics.uptime_seconds,
    ];
    row.raw_bind_parameter(1, host_key)?;
    row.raw_bind_parameter(2, At(report.recorded_at))?;
    row.raw_bind_parameter(3, received_at)?;
    bind(row, 4, reals.map(|real| real.map(Real)))?;
    bind(row, 8, counts.map(|count| count.map(Count)))?;
    row.raw_bind_parameter(17, custom)?;
    row.raw_bind_parameter(18, agent)?;
    row.raw_execute()?;
    Ok(())
}

fn bind<T: rusqlite::ToSql, const N: usize>(
    row: &mut Statement<'_>,
    first: usize,
    values: [T; N],
) -> rusqlite::Result<()> {
    values.iter().enumerate().try_for_each(|(place, value)| row.raw_bind_parameter(first + place, value))
}

/// The numbers of the report's containers, by their keys.
fn keyed(
    transaction: &Transaction<'_>,
    visit: &mut Visit,
    report: &Report,
    fingerprints: &[Fingerprint],
) -> Result<Vec<(i64, ContainerMetrics)>, Failure> {
    let mut rows = Vec::with_capacity(report.containers.len());
    for (container, fingerprint) in report.containers.iter().zip(fingerprints) {
        let Some(metrics) = container.metrics else { continue };
        let known = visit.described().and_then(|known| known.key(*fingerprint));
        let key = match known {
            Some(key) => key,
            None => {
                let containers = visit.containers(transaction)?;
                containers.key(transaction, &container.container_id, At(report.recorded_at))?
            }
        };
        rows.push((key, metrics));
    }
    rows.sort_unstable_by_key(|(key, _)| *key);
    if rows.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Failure::Invalid("a report names each container once"));
    }
    Ok(rows)
}

/// `list_telemetry`.
pub(crate) fn list(connection: &mut Connection, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, Failure> {
    // Of one moment.
    let transaction = connection.transaction()?;
    // What a deleted host reported is removed later, and not shown until then: it has no presence any more.
    let mut statement = transaction.prepare_cached(HOST_KEY)?;
    let host_key: Option<i64> = statement.query_row([Id::from(query.host_id)], |row| row.get(0)).optional()?;
    let Some(host_key) = host_key else { return Ok(Page { items: Vec::new(), more: false }) };
    let mut containers = Containers::of(&transaction, query)?;
    // Before all times that there are.
    let after = query.after.map_or(-1, |after| after.unix_micros());
    let mut statement = transaction.prepare_cached(RANGE)?;
    let mut rows = statement.query(params![host_key, At(query.from), At(query.to), after, overread(query.limit)])?;
    let mut snapshots = Vec::new();
    while let Some(row) = rows.next()? {
        snapshots.push(decode(row, &mut containers)?);
    }
    Ok(Page::of_overread(snapshots, query.limit))
}

/// The containers that are read with reports, and what those of their host are called.
struct Containers<'a> {
    connection: &'a Connection,
    wanted: Wanted,
    /// By their keys: a host's reports name the same ones again and again.
    ids: HashMap<i64, Option<String>>,
}

impl<'a> Containers<'a> {
    fn all(connection: &'a Connection) -> Self {
        Self { connection, wanted: Wanted::All, ids: HashMap::new() }
    }

    fn of(
        connection: &'a Connection,
        TelemetryQuery { host_id, containers, .. }: &TelemetryQuery,
    ) -> Result<Self, Failure> {
        let wanted = match containers {
            SnapshotContainers::All => Wanted::All,
            SnapshotContainers::None => Wanted::None,
            SnapshotContainers::One(container_id) => {
                let mut statement = connection.prepare_cached(CONTAINER_KEY)?;
                let key =
                    statement.query_row(params![Id::from(*host_id), container_id], |row| row.get(0)).optional()?;
                // Without a key nothing was ever measured of it.
                key.map_or(Wanted::None, Wanted::One)
            }
        };
        Ok(Self { wanted, ..Self::all(connection) })
    }

    fn read(&mut self, report_id: i64) -> Result<Vec<ContainerSnapshot>, Failure> {
        let found = snapshot::read(self.connection, report_id, self.wanted)?;
        let mut snapshots = Vec::with_capacity(found.len());
        for (key, metrics) in found {
            // Without a row that says whose they are, somebody has deleted it past the store; the others are not to blame.
            if let Some(container_id) = self.id(key)? {
                snapshots.push(ContainerSnapshot { container_id, metrics });
            }
        }
        snapshots.sort_unstable_by(|a, b| a.container_id.cmp(&b.container_id));
        Ok(snapshots)
    }

    fn id(&mut self, key: i64) -> Result<Option<String>, Failure> {
        if let Some(id) = self.ids.get(&key) {
            return Ok(id.clone());
        }
        let mut statement = self.connection.prepare_cached(CONTAINER_ID)?;
        let id: Option<String> = statement.query_row([key], |row| row.get(0)).optional()?;
        self.ids.insert(key, id.clone());
        Ok(id)
    }
}

fn stored(connection: &Connection, host_key: i64, at: At) -> Result<Option<HostSnapshot>, Failure> {
    let mut statement = connection.prepare_cached(ONE)?;
    let mut containers = Containers::all(connection);
    let decoded = statement.query_row(params![host_key, at], |row| Ok(decode(row, &mut containers))).optional()?;
    decoded.transpose()
}

fn decode(row: &Row<'_>, containers: &mut Containers<'_>) -> Result<HostSnapshot, Failure> {
    let real = |place| row.get::<_, Option<Real>>(place).map(|real| real.map(|real| real.0));
    let count = |place| row.get::<_, Option<Count>>(place).map(|count| count.map(|count| count.0));
    Ok(HostSnapshot {
        recorded_at: row.get::<_, At>(1)?.0,
        received_at: row.get::<_, At>(2)?.0,
        metrics: HostMetrics {
            cpu_percent: real(3)?,
            load_1m: real(4)?,
            load_5m: real(5)?,
            load_15m: real(6)?,
            memory_used_bytes: count(7)?,
            memory_total_bytes: count(8)?,
            swap_used_bytes: count(9)?,
            swap_total_bytes: count(10)?,
            disk_used_bytes: count(11)?,
            disk_total_bytes: count(12)?,
            network_rx_bytes: count(13)?,
            network_tx_bytes: count(14)?,
            uptime_seconds: count(15)?,
        },
        custom: text(row, 16)?.map_or_else(|| Ok(Default::default()), from_json)?,
        agent: text(row, 17)?.map(from_json).transpose()?,
        containers: containers.read(row.get(0)?)?,
    })
}
