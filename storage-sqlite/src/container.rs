//! Containers of a host: rewritten only when what is said of them changes.

use std::collections::{HashMap, HashSet};

use enlist_core::container::{Container, ContainerMetrics};
use enlist_core::store::{ContainerQuery, ContainerRecord, Described, DescribedCache, Page};
use enlist_core::{HostId, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::column::{At, Count, Id, from_json, overread, required, text, to_json};
use crate::error::Failure;
use crate::snapshot::{self, Wanted};

/// What [`decode`] reads.
macro_rules! columns {
    () => {
        "container_key, container_id, name, image, image_tag, state, health, restarts, exit_code, oom_killed, ports, labels,
         started_at, finished_at, error, first_seen_at, last_seen_at, removed_at"
    };
}

/// A container's key, and what is said of it without its numbers.
fn decode(row: &Row<'_>) -> Result<(i64, ContainerRecord), Failure> {
    let count = |place| row.get::<_, Option<Count>>(place).map(|count| count.map(|count| count.0));
    let at = |place| row.get::<_, Option<At>>(place).map(|at| at.map(|at| at.0));
    let container = Container {
        container_id: row.get(1)?,
        name: required(row.get(2)?)?,
        image: required(row.get(3)?)?,
        image_tag: row.get(4)?,
        state: required(row.get(5)?)?,
        health: row.get(6)?,
        restarts: count(7)?,
        exit_code: row.get(8)?,
        oom_killed: row.get(9)?,
        ports: text(row, 10)?.map_or_else(|| Ok(Vec::new()), from_json)?,
        labels: text(row, 11)?.map_or_else(|| Ok(Default::default()), from_json)?,
        started_at: at(12)?,
        finished_at: at(13)?,
        error: row.get(14)?,
        metrics: None,
    };
    let record = ContainerRecord {
        container,
        first_seen_at: required(at(15)?)?,
        last_seen_at: required(at(16)?)?,
        removed_at: at(17)?,
    };
    Ok((row.get(0)?, record))
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
    last_seen_at: At,
    container: Container,
}

impl Containers {
    /// One statement: every container of the host that is not removed.
    pub(crate) fn load(transaction: &Transaction<'_>, host_id: HostId) -> Result<Self, Failure> {
        const PRESENT: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM containers WHERE host_id = ? AND removed_at IS NULL AND name IS NOT NULL"
        );
        let host_id = Id::from(host_id);
        let mut statement = transaction.prepare_cached(PRESENT)?;
        let mut rows = statement.query([host_id])?;
        let mut present = HashMap::new();
        while let Some(row) = rows.next()? {
            let (key, ContainerRecord { container, last_seen_at, .. }) = decode(row)?;
            let known = Present { key, last_seen_at: At(last_seen_at), container };
            present.insert(known.container.container_id.clone(), known);
        }
        Ok(Self { host_id, present, others: HashMap::new() })
    }

    /// What the rows say now.
    pub(crate) fn described(&self, cache: &DescribedCache<i64>) -> Described<i64> {
        Described::new(self.present.values().map(|known| (cache.fingerprint(&known.container), known.key)))
    }

    /// Takes over what a report says that is newer than all before it, and arrived at `at`. Returns whether that
    /// wrote any row.
    pub(crate) fn describe(
        &mut self,
        transaction: &Transaction<'_>,
        reported: &[Container],
        at: Timestamp,
    ) -> Result<bool, Failure> {
        let mut changed = false;
        for container in reported {
            let known = self.present.get(&container.container_id);
            if known.is_some_and(|known| known.container.describes_same(container)) {
                continue;
            }
            let key = self.put(transaction, container, At(at))?;
            let known =
                Present { key, last_seen_at: At(at), container: Container { metrics: None, ..container.clone() } };
            self.present.insert(container.container_id.clone(), known);
            changed = true;
        }
        Ok(changed)
    }

    /// Marks as removed what a complete report lacks. `last_complete_at` is when the complete one before it arrived, in
    /// which those containers still were. Returns whether that wrote any row.
    pub(crate) fn remove_missing(
        &mut self,
        transaction: &Transaction<'_>,
        reported: &[Container],
        at: Timestamp,
        last_complete_at: Option<At>,
    ) -> Result<bool, Failure> {
        const REMOVE: &str = "UPDATE containers SET removed_at = ?2, last_seen_at = ?3 WHERE container_key = ?1";
        let reported: HashSet<_> = reported.iter().map(|container| container.container_id.as_str()).collect();
        let missing: Vec<_> = self.present.keys().filter(|id| !reported.contains(id.as_str())).cloned().collect();
        let mut changed = false;
        for id in missing {
            let Some(known) = self.present.remove(&id) else { continue };
            // What readers saw as its last time until now stands in the row from now on.
            let last_seen_at = At(later(known.last_seen_at, last_complete_at));
            transaction.prepare_cached(REMOVE)?.execute(params![known.key, At(at), last_seen_at])?;
            self.others.insert(id, Other { key: known.key, named_until: None });
            changed = true;
        }
        Ok(changed)
    }

    /// The key by which snapshots name the container; makes a row for its sake if there is none. `recorded_at` is when
    /// the report that names it was measured: `prune` keeps the key for as long as that report.
    pub(crate) fn key(
        &mut self,
        transaction: &Transaction<'_>,
        container_id: &str,
        recorded_at: At,
    ) -> Result<i64, Failure> {
        const NAME: &str = "UPDATE containers SET named_until = ?2 WHERE container_key = ?1";
        if let Some(known) = self.present.get(container_id) {
            return Ok(known.key);
        }
        let mut other = match self.others.get(container_id) {
            Some(other) => *other,
            None => self.other(transaction, container_id, recorded_at)?,
        };
        if other.named_until.is_some_and(|until| until.0 < recorded_at.0) {
            other.named_until = Some(recorded_at);
            transaction.prepare_cached(NAME)?.execute(params![other.key, recorded_at])?;
        }
        self.others.insert(container_id.to_owned(), other);
        Ok(other.key)
    }

    fn other(&self, transaction: &Transaction<'_>, container_id: &str, recorded_at: At) -> Result<Other, Failure> {
        const FIND: &str = "
            SELECT container_key, first_seen_at, named_until FROM containers WHERE host_id = ? AND container_id = ?";
        const BEGIN: &str = "INSERT INTO containers (host_id, container_id, named_until) VALUES (?, ?, ?)";
        let found = transaction.prepare_cached(FIND)?.query_row(params![self.host_id, container_id], |row| {
            Ok((row.get(0)?, row.get::<_, Option<At>>(1)?, row.get::<_, Option<At>>(2)?))
        });
        if let Some((key, first_seen_at, named_until)) = found.optional()? {
            // A row that describes its container goes by `removed_at`.
            return Ok(Other { key, named_until: named_until.filter(|_| first_seen_at.is_none()) });
        }
        let key = transaction.prepare_cached(BEGIN)?.insert(params![self.host_id, container_id, recorded_at])?;
        Ok(Other { key, named_until: Some(recorded_at) })
    }

    /// Writes the row of a container that is new, that changed, was removed before, or is known by its key alone. When
    /// it was first seen stays.
    fn put(&self, transaction: &Transaction<'_>, container: &Container, at: At) -> Result<i64, Failure> {
        const PUT: &str = "
            INSERT INTO containers (
                host_id, container_id, name, image, image_tag, state, health, restarts, exit_code, oom_killed, ports,
                labels, started_at, finished_at, error, first_seen_at, last_seen_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (host_id, container_id) DO UPDATE SET
                name = excluded.name, image = excluded.image, image_tag = excluded.image_tag, state = excluded.state,
                health = excluded.health, restarts = excluded.restarts, exit_code = excluded.exit_code,
                oom_killed = excluded.oom_killed, ports = excluded.ports, labels = excluded.labels,
                started_at = excluded.started_at, finished_at = excluded.finished_at, error = excluded.error,
                first_seen_at = coalesce(containers.first_seen_at, excluded.first_seen_at),
                last_seen_at = excluded.last_seen_at, removed_at = NULL
            RETURNING container_key";
        let ports = (!container.ports.is_empty()).then(|| to_json(&container.ports)).transpose()?;
        let labels = (!container.labels.is_empty()).then(|| to_json(&container.labels)).transpose()?;
        let row = params![
            self.host_id,
            container.container_id,
            container.name,
            container.image,
            container.image_tag,
            container.state,
            container.health,
            container.restarts.map(Count),
            container.exit_code,
            container.oom_killed,
            ports,
            labels,
            container.started_at.map(At),
            container.finished_at.map(At),
            container.error,
            at,
            at,
        ];
        Ok(transaction.prepare_cached(PUT)?.query_row(row, |row| row.get(0))?)
    }
}

/// `list_containers`.
pub(crate) fn list(connection: &mut Connection, query: &ContainerQuery) -> Result<Page<ContainerRecord>, Failure> {
    // The report, and not its id alone: after it was pruned, SQLite may give that to another one.
    const NEWEST: &str = "SELECT s.report_id, p.last_complete_at
         FROM host_presence AS p LEFT JOIN host_metric_snapshots AS s
             ON s.report_id = p.newest_report_id AND s.host_key = p.host_key AND s.recorded_at = p.newest_report_at
         WHERE p.host_id = ?";
    const PAGE: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM containers
         WHERE host_id = ?1 AND container_id > ?2 AND name IS NOT NULL AND (?3 OR removed_at IS NULL)
         ORDER BY container_id LIMIT ?4"
    );
    // Of one moment.
    let transaction = connection.transaction()?;
    let host_id = Id::from(query.host_id);
    let mut statement = transaction.prepare_cached(NEWEST)?;
    let presence = statement.query_row([host_id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((newest, last_complete_at)) = presence else { return Ok(Page { items: Vec::new(), more: false }) };
    let newest: Option<i64> = newest;
    let mut metrics: HashMap<i64, ContainerMetrics> = match newest {
        Some(report_id) => snapshot::read(&transaction, report_id, Wanted::All)?.into_iter().collect(),
        None => HashMap::new(),
    };
    let mut statement = transaction.prepare_cached(PAGE)?;
    // No id is empty.
    let after = query.after.as_deref().unwrap_or_default();
    let mut rows = statement.query(params![host_id, after, query.removed, overread(query.limit)])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let (key, mut record) = decode(row)?;
        record.container.metrics = metrics.remove(&key);
        if record.removed_at.is_none() {
            record.last_seen_at = later(At(record.last_seen_at), last_complete_at);
        }
        records.push(record);
    }
    Ok(Page::of_overread(records, query.limit))
}

/// When a container that is not removed was last reported: rows that did not change are not rewritten to say so.
fn later(own: At, last_complete_at: Option<At>) -> Timestamp {
    last_complete_at.map_or(own.0, |complete| complete.0.max(own.0))
}
