//! Containers of a host: rewritten only when what is said of them changes.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;
use enlist_core::container::{Container, ContainerMetrics};
use enlist_core::store::{ContainerQuery, ContainerRecord, Page};
use enlist_core::{HostId, Timestamp};

use crate::column::{At, Count, Id, Real, from_json, overread, required, to_json};
use crate::error::Failure;
use crate::presence::PresenceRow;
use crate::schema::{container_metric_snapshots, containers, host_presence};

/// What a report says of a container: the columns of `containers` that a changed description rewrites.
#[derive(Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = containers, treat_none_as_default_value = false, treat_none_as_null = true)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
struct DescriptionRow {
    container_id: String,
    name: Option<String>,
    image: Option<String>,
    image_tag: Option<String>,
    state: Option<String>,
    health: Option<String>,
    restarts: Option<Count>,
    exit_code: Option<i64>,
    oom_killed: Option<bool>,
    ports: Option<String>,
    labels: Option<String>,
    started_at: Option<At>,
    finished_at: Option<At>,
    error: Option<String>,
    first_seen_at: Option<At>,
    last_seen_at: Option<At>,
    removed_at: Option<At>,
}

impl DescriptionRow {
    fn of(container: &Container, first_seen_at: At, last_seen_at: At) -> Result<Self, Failure> {
        let ports = (!container.ports.is_empty()).then(|| to_json(&container.ports)).transpose()?;
        let labels = (!container.labels.is_empty()).then(|| to_json(&container.labels)).transpose()?;
        Ok(Self {
            container_id: container.container_id.clone(),
            name: Some(container.name.clone()),
            image: Some(container.image.clone()),
            image_tag: container.image_tag.clone(),
            state: Some(container.state.clone()),
            health: container.health.clone(),
            restarts: container.restarts.map(Count),
            exit_code: container.exit_code,
            oom_killed: container.oom_killed,
            ports,
            labels,
            started_at: container.started_at.map(At),
            finished_at: container.finished_at.map(At),
            error: container.error.clone(),
            first_seen_at: Some(first_seen_at),
            last_seen_at: Some(last_seen_at),
            removed_at: None,
        })
    }

    fn decode(self, metrics: Option<ContainerMetrics>) -> Result<ContainerRecord, Failure> {
        let container = Container {
            container_id: self.container_id,
            name: required(self.name)?,
            image: required(self.image)?,
            image_tag: self.image_tag,
            state: required(self.state)?,
            health: self.health,
            restarts: self.restarts.map(|count| count.0),
            exit_code: self.exit_code,
            oom_killed: self.oom_killed,
            ports: self.ports.as_deref().map_or_else(|| Ok(Vec::new()), from_json)?,
            labels: self.labels.as_deref().map_or_else(|| Ok(Default::default()), from_json)?,
            started_at: self.started_at.map(|at| at.0),
            finished_at: self.finished_at.map(|at| at.0),
            error: self.error,
            metrics,
        };
        Ok(ContainerRecord {
            container,
            first_seen_at: required(self.first_seen_at)?.0,
            last_seen_at: required(self.last_seen_at)?.0,
            removed_at: self.removed_at.map(|at| at.0),
        })
    }
}

/// A container's numbers: the columns of `container_metric_snapshots` behind its key.
#[derive(Debug, Clone, Copy, Queryable, Selectable, Insertable)]
#[diesel(table_name = container_metric_snapshots, treat_none_as_default_value = false)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
pub(crate) struct ContainerMetricsRow {
    cpu_cores: Option<Real>,
    memory_used_bytes: Option<Count>,
    memory_limit_bytes: Option<Count>,
    network_rx_bytes: Option<Count>,
    network_tx_bytes: Option<Count>,
    block_read_bytes: Option<Count>,
    block_write_bytes: Option<Count>,
    pids: Option<Count>,
}

impl From<ContainerMetrics> for ContainerMetricsRow {
    fn from(metrics: ContainerMetrics) -> Self {
        Self {
            cpu_cores: metrics.cpu_cores.map(Real),
            memory_used_bytes: metrics.memory_used_bytes.map(Count),
            memory_limit_bytes: metrics.memory_limit_bytes.map(Count),
            network_rx_bytes: metrics.network_rx_bytes.map(Count),
            network_tx_bytes: metrics.network_tx_bytes.map(Count),
            block_read_bytes: metrics.block_read_bytes.map(Count),
            block_write_bytes: metrics.block_write_bytes.map(Count),
            pids: metrics.pids.map(Count),
        }
    }
}

impl From<ContainerMetricsRow> for ContainerMetrics {
    fn from(row: ContainerMetricsRow) -> Self {
        let count = |column: Option<Count>| column.map(|count| count.0);
        Self {
            cpu_cores: row.cpu_cores.map(|real| real.0),
            memory_used_bytes: count(row.memory_used_bytes),
            memory_limit_bytes: count(row.memory_limit_bytes),
            network_rx_bytes: count(row.network_rx_bytes),
            network_tx_bytes: count(row.network_tx_bytes),
            block_read_bytes: count(row.block_read_bytes),
            block_write_bytes: count(row.block_write_bytes),
            pids: count(row.pids),
        }
    }
}

/// The containers of one host, as one transaction knows them.
#[derive(Debug)]
pub(crate) struct Containers {
    host_id: Id,
    /// Those that are there and not removed.
    present: HashMap<String, Present>,
    /// Others that were looked up: removed ones, and those that are known by their key alone.
    others: HashMap<String, Other>,
}

#[derive(Debug, Clone, Copy)]
struct Other {
    key: i64,
    /// Of a row that is there for its key's sake: no snapshot that names it was measured later.
    named_until: Option<At>,
}

#[derive(Debug)]
struct Present {
    key: i64,
    first_seen_at: At,
    last_seen_at: At,
    container: Container,
}

impl Containers {
    /// One statement: every container of the host that is not removed.
    pub(crate) fn load(connection: &mut SqliteConnection, host_id: HostId) -> Result<Self, Failure> {
        let host_id = Id::from(host_id);
        let rows = containers::table
            .filter(containers::host_id.eq(host_id))
            .filter(containers::removed_at.is_null())
            .filter(containers::name.is_not_null())
            .select((containers::container_key, DescriptionRow::as_select()))
            .load::<(i64, DescriptionRow)>(connection)?;
        let present = rows
            .into_iter()
            .map(|(key, row)| {
                let ContainerRecord { container, first_seen_at, last_seen_at, .. } = row.decode(None)?;
                let id = container.container_id.clone();
                Ok((id, Present { key, first_seen_at: At(first_seen_at), last_seen_at: At(last_seen_at), container }))
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self { host_id, present, others: HashMap::new() })
    }

    /// Takes over what a report says that is newer than all before it, and arrived at `at`. Returns whether that
    /// wrote any row.
    pub(crate) fn describe(
        &mut self,
        connection: &mut SqliteConnection,
        reported: &[Container],
        at: Timestamp,
    ) -> Result<bool, Failure> {
        let mut changed = false;
        for container in reported {
            match self.present.get_mut(&container.container_id) {
                Some(known) if known.container.describes_same(container) => {}
                Some(known) => {
                    let row = DescriptionRow::of(container, known.first_seen_at, At(at))?;
                    diesel::update(containers::table.find(known.key)).set(&row).execute(connection)?;
                    known.last_seen_at = At(at);
                    known.container.clone_from(container);
                    changed = true;
                }
                None => {
                    let known = self.begin(connection, container, At(at))?;
                    self.present.insert(container.container_id.clone(), known);
                    changed = true;
                }
            }
        }
        Ok(changed)
    }

    /// Marks as removed what a complete report lacks. `last_complete_at` is when the complete one before it arrived, in
    /// which those containers still were. Returns whether that wrote any row.
    pub(crate) fn remove_missing(
        &mut self,
        connection: &mut SqliteConnection,
        reported: &[Container],
        at: Timestamp,
        last_complete_at: Option<At>,
    ) -> Result<bool, Failure> {
        let reported: HashSet<_> = reported.iter().map(|container| container.container_id.as_str()).collect();
        let missing: Vec<_> = self.present.keys().filter(|id| !reported.contains(id.as_str())).cloned().collect();
        let mut changed = false;
        for id in missing {
            let Some(known) = self.present.remove(&id) else { continue };
            // What readers saw as its last time until now stands in the row from now on.
            let last_seen_at = At(later(known.last_seen_at, last_complete_at));
            diesel::update(containers::table.find(known.key))
                .set((containers::removed_at.eq(At(at)), containers::last_seen_at.eq(last_seen_at)))
                .execute(connection)?;
            self.others.insert(id, Other { key: known.key, named_until: None });
            changed = true;
        }
        Ok(changed)
    }

    /// The key by which snapshots name the container; makes a row for its sake if there is none. `recorded_at` is when
    /// the report that names it was measured: `prune` keeps the key for as long as that report.
    pub(crate) fn key(
        &mut self,
        connection: &mut SqliteConnection,
        container_id: &str,
        recorded_at: At,
    ) -> Result<i64, Failure> {
        if let Some(known) = self.present.get(container_id) {
            return Ok(known.key);
        }
        let mut other = match self.others.get(container_id) {
            Some(other) => *other,
            None => self.other(connection, container_id, recorded_at)?,
        };
        if other.named_until.is_some_and(|until| until.0 < recorded_at.0) {
            other.named_until = Some(recorded_at);
            diesel::update(containers::table.find(other.key))
                .set(containers::named_until.eq(other.named_until))
                .execute(connection)?;
        }
        self.others.insert(container_id.to_owned(), other);
        Ok(other.key)
    }

    fn other(&self, connection: &mut SqliteConnection, container_id: &str, recorded_at: At) -> Result<Other, Failure> {
        let row = containers::table
            .filter(containers::host_id.eq(self.host_id))
            .filter(containers::container_id.eq(container_id))
            .select((containers::container_key, containers::first_seen_at, containers::named_until))
            .get_result::<(i64, Option<At>, Option<At>)>(connection)
            .optional()?;
        if let Some((key, first_seen_at, named_until)) = row {
            // A row that describes its container goes by `removed_at`.
            return Ok(Other { key, named_until: named_until.filter(|_| first_seen_at.is_none()) });
        }
        let row = (
            containers::host_id.eq(self.host_id),
            containers::container_id.eq(container_id),
            containers::named_until.eq(recorded_at),
        );
        let key = diesel::insert_into(containers::table).values(row).returning(containers::container_key);
        Ok(Other { key: key.get_result(connection)?, named_until: Some(recorded_at) })
    }

    /// A container that is new, was removed before, or is known by its key alone.
    fn begin(&self, connection: &mut SqliteConnection, container: &Container, at: At) -> Result<Present, Failure> {
        let (key, first_seen_at) = match self.stored(connection, &container.container_id)? {
            Some((key, first_seen_at)) => {
                let first_seen_at = first_seen_at.unwrap_or(at);
                let row = DescriptionRow::of(container, first_seen_at, at)?;
                diesel::update(containers::table.find(key)).set(&row).execute(connection)?;
                (key, first_seen_at)
            }
            None => {
                let row = DescriptionRow::of(container, at, at)?;
                let key = diesel::insert_into(containers::table)
                    .values((containers::host_id.eq(self.host_id), &row))
                    .returning(containers::container_key)
                    .get_result(connection)?;
                (key, at)
            }
        };
        Ok(Present { key, first_seen_at, last_seen_at: at, container: container.clone() })
    }

    fn stored(
        &self,
        connection: &mut SqliteConnection,
        container_id: &str,
    ) -> Result<Option<(i64, Option<At>)>, Failure> {
        let row = containers::table
            .filter(containers::host_id.eq(self.host_id))
            .filter(containers::container_id.eq(container_id))
            .select((containers::container_key, containers::first_seen_at));
        Ok(row.get_result(connection).optional()?)
    }
}

/// `list_containers`.
pub(crate) fn list(
    connection: &mut SqliteConnection,
    query: &ContainerQuery,
) -> Result<Page<ContainerRecord>, Failure> {
    let host_id = Id::from(query.host_id);
    let presence =
        host_presence::table.find(host_id).select(PresenceRow::as_select()).get_result(connection).optional()?;
    let Some(presence) = presence else { return Ok(Page { items: Vec::new(), more: false }) };
    // No report has this id, since SQLite counts from 1: the join then finds no numbers.
    let newest = presence.newest_report_id.unwrap_or(0);
    let numbers = container_metric_snapshots::container_key
        .eq(containers::container_key)
        .and(container_metric_snapshots::report_id.eq(newest));
    let mut rows = containers::table
        .left_join(container_metric_snapshots::table.on(numbers))
        .filter(containers::host_id.eq(host_id))
        .filter(containers::name.is_not_null())
        .order(containers::container_id)
        .limit(overread(query.limit))
        .select((
            DescriptionRow::as_select(),
            // All numbers of a row may be unknown: its key alone tells it from no row.
            container_metric_snapshots::report_id.nullable(),
            Option::<ContainerMetricsRow>::as_select(),
        ))
        .into_boxed();
    if !query.removed {
        rows = rows.filter(containers::removed_at.is_null());
    }
    if let Some(after) = &query.after {
        rows = rows.filter(containers::container_id.gt(after.clone()));
    }
    let rows = rows.load::<(DescriptionRow, Option<i64>, Option<ContainerMetricsRow>)>(connection)?;
    let records = rows.into_iter().map(|(row, report_id, metrics)| {
        let metrics = report_id.and(metrics).map(Into::into);
        let mut record = row.decode(metrics)?;
        if record.removed_at.is_none() {
            record.last_seen_at = later(At(record.last_seen_at), presence.last_complete_at);
        }
        Ok(record)
    });
    Ok(Page::of_overread(records.collect::<Result<_, Failure>>()?, query.limit))
}

/// When a container that is not removed was last reported: rows that did not change are not rewritten to say so.
fn later(own: At, last_complete_at: Option<At>) -> Timestamp {
    last_complete_at.map_or(own.0, |complete| complete.0.max(own.0))
}
