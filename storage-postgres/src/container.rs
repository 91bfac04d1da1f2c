//! Containers of a host: rewritten only when what is said of them changes.

use std::collections::{BTreeMap, HashMap, HashSet};

use enlist_core::Timestamp;
use enlist_core::container::{Container, ContainerMetrics};
use enlist_core::store::{ContainerQuery, ContainerRecord, Described, DescribedCache, Page};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::column::{At, Count, Id, from_json, overread, to_json};
use crate::error::Failure;
use crate::transaction::Db;

/// What a [`ContainerRecord`] is read from, of `containers AS c`.
macro_rules! container_columns {
    () => {
        "c.host_id, c.container_id, c.name, c.image, c.image_tag, c.state, c.health, c.restarts, c.exit_code, c.oom_killed,
         c.ports::text AS ports, c.labels::text AS labels, c.started_at, c.finished_at, c.error, c.first_seen_at,
         c.last_seen_at, c.removed_at"
    };
}

const PRESENT: &str = concat!(
    "SELECT c.container_key, ",
    container_columns!(),
    " FROM {schema}.containers AS c WHERE c.host_id = ANY($1) AND c.removed_at IS NULL AND c.name IS NOT NULL"
);

/// When it was first seen stays: a row that this transaction did not read may be one that was removed before. Or it is
/// there for the sake of its key alone, and the container is first seen now.
const PUT: &str = "
    INSERT INTO {schema}.containers
        (host_id, container_id, name, image, image_tag, state, health, restarts, exit_code, oom_killed, ports, labels,
         started_at, finished_at, error, first_seen_at, last_seen_at, removed_at)
    SELECT v.host_id, v.container_id, v.name, v.image, v.image_tag, v.state, v.health, v.restarts, v.exit_code,
           v.oom_killed, v.ports::json, v.labels::json, v.started_at, v.finished_at, v.error, v.first_seen_at,
           v.last_seen_at, v.removed_at
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                $9::bigint[], $10::boolean[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
                $15::text[], $16::timestamptz[], $17::timestamptz[], $18::timestamptz[])
        AS v (host_id, container_id, name, image, image_tag, state, health, restarts, exit_code, oom_killed, ports, labels,
              started_at, finished_at, error, first_seen_at, last_seen_at, removed_at)
    ON CONFLICT (host_id, container_id) DO UPDATE SET
        name = excluded.name, image = excluded.image, image_tag = excluded.image_tag, state = excluded.state,
        health = excluded.health, restarts = excluded.restarts, exit_code = excluded.exit_code,
        oom_killed = excluded.oom_killed, ports = excluded.ports, labels = excluded.labels,
        started_at = excluded.started_at, finished_at = excluded.finished_at, error = excluded.error,
        first_seen_at = coalesce(containers.first_seen_at, excluded.first_seen_at),
        last_seen_at = excluded.last_seen_at, removed_at = excluded.removed_at, named_until = NULL
    RETURNING host_id, container_id, container_key";

/// The keys of containers, whatever is known of them: rows are made for those that have none, and kept for as long as the
/// reports that name them now. A row that describes its container goes by `removed_at`, and is left alone. What is written
/// is returned twice where it was there before, under the same key.
const NAME: &str = "
    WITH named AS MATERIALIZED (
        SELECT v.host_id, v.container_id, v.named_until, c.container_key, c.named_until AS known_until
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS v (host_id, container_id, named_until)
        LEFT JOIN {schema}.containers AS c ON c.host_id = v.host_id AND c.container_id = v.container_id
    ), written AS (
        INSERT INTO {schema}.containers (host_id, container_id, named_until)
        SELECT host_id, container_id, named_until FROM named
        WHERE container_key IS NULL OR known_until < named_until
        ON CONFLICT (host_id, container_id) DO UPDATE SET named_until = excluded.named_until
        RETURNING host_id, container_id, container_key
    )
    SELECT host_id, container_id, container_key FROM named WHERE container_key IS NOT NULL
    UNION ALL
    SELECT host_id, container_id, container_key FROM written";

/// With the numbers of the host's newest report, which is one row. A host that was deleted has no presence, and so
/// no containers that are read out.
const LIST: &str = concat!(
    "WITH host AS MATERIALIZED (
        SELECT host_id, newest_report_at, last_complete_at FROM {schema}.host_presence WHERE host_id = $1
    ), measured AS MATERIALIZED (
        SELECT m.container_id AS measured_id, m.cpu_cores, m.memory_used_bytes, m.memory_limit_bytes, m.network_rx_bytes,
               m.network_tx_bytes, m.block_read_bytes, m.block_write_bytes, m.pids
        FROM host
        JOIN {schema}.container_metric_snapshots AS m ON m.host_id = $1 AND m.recorded_at = host.newest_report_at
    )
    SELECT ",
    container_columns!(),
    ", host.last_complete_at, m.*
    FROM host
    JOIN {schema}.containers AS c ON c.host_id = host.host_id
    LEFT JOIN measured AS m ON m.measured_id = c.container_id
    WHERE c.name IS NOT NULL AND ($2 OR c.removed_at IS NULL) AND ($3::text IS NULL OR c.container_id > $3 COLLATE \"C\")
    ORDER BY c.container_id
    LIMIT $4"
);

fn decode(row: &PgRow, metrics: Option<ContainerMetrics>) -> Result<ContainerRecord, Failure> {
    let at = |column| row.try_get::<At, _>(column).map(|at| at.0);
    let optional = |column| row.try_get::<Option<At>, _>(column).map(|at| at.map(|at| at.0));
    let json = |column| row.try_get::<Option<&str>, _>(column);
    let container = Container {
        container_id: row.try_get("container_id")?,
        name: row.try_get("name")?,
        image: row.try_get("image")?,
        image_tag: row.try_get("image_tag")?,
        state: row.try_get("state")?,
        health: row.try_get("health")?,
        restarts: row.try_get::<Option<Count>, _>("restarts")?.map(|count| count.0),
        exit_code: row.try_get("exit_code")?,
        oom_killed: row.try_get("oom_killed")?,
        ports: json("ports")?.map_or_else(|| Ok(Vec::new()), from_json)?,
        labels: json("labels")?.map_or_else(|| Ok(BTreeMap::new()), from_json)?,
        started_at: optional("started_at")?,
        finished_at: optional("finished_at")?,
        error: row.try_get("error")?,
        metrics,
    };
    Ok(ContainerRecord {
        container,
        first_seen_at: at("first_seen_at")?,
        last_seen_at: at("last_seen_at")?,
        removed_at: optional("removed_at")?,
    })
}

fn decode_metrics(row: &PgRow) -> Result<Option<ContainerMetrics>, Failure> {
    // All numbers of a container may be unknown: its id alone tells it from one that was not measured.
    if row.try_get::<Option<&str>, _>("measured_id")?.is_none() {
        return Ok(None);
    }
    let count = |column| row.try_get::<Option<Count>, _>(column).map(|count| count.map(|count| count.0));
    Ok(Some(ContainerMetrics {
        cpu_cores: row.try_get("cpu_cores")?,
        memory_used_bytes: count("memory_used_bytes")?,
        memory_limit_bytes: count("memory_limit_bytes")?,
        network_rx_bytes: count("network_rx_bytes")?,
        network_tx_bytes: count("network_tx_bytes")?,
        block_read_bytes: count("block_read_bytes")?,
        block_write_bytes: count("block_write_bytes")?,
        pids: count("pids")?,
    }))
}

/// The containers of one host, as one transaction knows them: those that are there, and those that it removed.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    rows: BTreeMap<String, Tracked>,
}

#[derive(Debug)]
struct Tracked {
    /// What reports name it by; a row that was not written yet has none.
    key: Option<i64>,
    record: ContainerRecord,
    changed: bool,
}

/// What tells a container from all others to those who report it.
pub(crate) type ContainerName = (Id, String);

/// The containers that are there on these hosts: one statement.
pub(crate) async fn load(db: &mut Db, hosts: Vec<Id>) -> Result<HashMap<Id, Containers>, Failure> {
    let mut of_host: HashMap<_, _> = hosts.iter().map(|host| (*host, Containers::default())).collect();
    if hosts.is_empty() {
        return Ok(of_host);
    }
    for row in db.query(PRESENT).bind(hosts).fetch_all(db.connection()).await? {
        let (key, record) = (Some(row.try_get("container_key")?), decode(&row, None)?);
        let containers = of_host.entry(row.try_get("host_id")?).or_default();
        containers.rows.insert(record.container.container_id.clone(), Tracked { key, record, changed: false });
    }
    Ok(of_host)
}

/// Writes what changed: one statement. Every row has its key then.
pub(crate) async fn put(db: &mut Db, of_host: &mut HashMap<Id, Containers>) -> Result<(), Failure> {
    let changed = of_host.iter().flat_map(|(host, containers)| {
        containers.rows.values().filter(|row| row.changed).map(|row| (*host, &row.record))
    });
    let mut rows: Vec<(Id, &ContainerRecord)> = changed.collect();
    if rows.is_empty() {
        return Ok(());
    }
    // In the order of the key, so that neighbours are written next to each other.
    rows.sort_unstable_by(|a, b| (a.0, &a.1.container.container_id).cmp(&(b.0, &b.1.container.container_id)));
    macro_rules! texts {
        ($field:ident) => {
            rows.iter().map(|(_, row)| row.container.$field.as_str()).collect::<Vec<_>>()
        };
    }
    macro_rules! optional_texts {
        ($field:ident) => {
            rows.iter().map(|(_, row)| row.container.$field.as_deref()).collect::<Vec<_>>()
        };
    }
    macro_rules! jsons {
        ($field:ident) => {
            rows.iter()
                .map(|(_, row)| &row.container.$field)
                .map(|value| (!value.is_empty()).then(|| to_json(value)).transpose())
                .collect::<Result<Vec<_>, _>>()?
        };
    }
    let (ports, labels) = (jsons!(ports), jsons!(labels));
    let put = db
        .query(PUT)
        .bind(rows.iter().map(|(host, _)| *host).collect::<Vec<_>>())
        .bind(texts!(container_id))
        .bind(texts!(name))
        .bind(texts!(image))
        .bind(optional_texts!(image_tag))
        .bind(texts!(state))
        .bind(optional_texts!(health))
        .bind(rows.iter().map(|(_, row)| row.container.restarts.map(Count)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.container.exit_code).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.container.oom_killed).collect::<Vec<_>>())
        .bind(ports)
        .bind(labels)
        .bind(rows.iter().map(|(_, row)| row.container.started_at.map(At)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.container.finished_at.map(At)).collect::<Vec<_>>())
        .bind(optional_texts!(error))
        .bind(rows.iter().map(|(_, row)| At(row.first_seen_at)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| At(row.last_seen_at)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.removed_at.map(At)).collect::<Vec<_>>());
    for row in put.fetch_all(db.connection()).await? {
        let (host, id) = (row.try_get("host_id")?, row.try_get("container_id")?);
        let containers = of_host.get_mut(&host);
        if let Some(tracked) = containers.and_then(|containers| containers.rows.get_mut::<str>(id)) {
            tracked.key = Some(row.try_get("container_key")?);
        }
    }
    Ok(())
}

/// The keys of containers that reports name until then, of each the latest: one statement. It changes nothing that is
/// listed.
pub(crate) async fn name(
    db: &mut Db,
    named: &BTreeMap<ContainerName, At>,
) -> Result<HashMap<ContainerName, i64>, Failure> {
    if named.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = db
        .query(NAME)
        .bind(named.keys().map(|(host, _)| *host).collect::<Vec<_>>())
        .bind(named.keys().map(|(_, id)| id.as_str()).collect::<Vec<_>>())
        .bind(named.values().copied().collect::<Vec<_>>());
    let rows = rows.fetch_all(db.connection()).await?;
    let key =
        |row: &PgRow| Ok(((row.try_get("host_id")?, row.try_get("container_id")?), row.try_get("container_key")?));
    rows.iter().map(key).collect()
}

impl Containers {
    /// What the rows of those that are there say now.
    pub(crate) fn described(&self, cache: &DescribedCache<i64>) -> Described<i64> {
        let there = self.rows.values().filter(|row| row.record.removed_at.is_none());
        Described::new(there.filter_map(|row| Some((cache.fingerprint(&row.record.container), row.key?))))
    }

    /// The key by which reports name the container, if this transaction has read or written its row.
    pub(crate) fn key(&self, container_id: &str) -> Option<i64> {
        self.rows.get(container_id)?.key
    }

    /// Takes over what a report says that is newer than all before it, and arrived at `at`. Returns whether that
    /// changed any row.
    pub(crate) fn describe(&mut self, reported: &[Container], at: Timestamp) -> bool {
        let mut changed = false;
        for container in reported {
            let known = self.rows.get(&container.container_id);
            if known
                .is_some_and(|row| row.record.removed_at.is_none() && row.record.container.describes_same(container))
            {
                continue;
            }
            let record = ContainerRecord {
                container: Container { metrics: None, ..container.clone() },
                first_seen_at: known.map_or(at, |row| row.record.first_seen_at),
                last_seen_at: at,
                removed_at: None,
            };
            let key = known.and_then(|row| row.key);
            self.rows.insert(container.container_id.clone(), Tracked { key, record, changed: true });
            changed = true;
        }
        changed
    }

    /// Marks as removed what a complete report lacks. `last_complete_at` is when the complete one before it arrived, in
    /// which those containers still were. Returns whether that changed any row.
    pub(crate) fn remove_missing(
        &mut self,
        reported: &[Container],
        at: Timestamp,
        last_complete_at: Option<At>,
    ) -> bool {
        let reported: HashSet<_> = reported.iter().map(|container| container.container_id.as_str()).collect();
        let mut changed = false;
        for (id, row) in &mut self.rows {
            if row.record.removed_at.is_none() && !reported.contains(id.as_str()) {
                // What readers saw as its last time until now stands in the row from now on.
                row.record.last_seen_at = later(row.record.last_seen_at, last_complete_at);
                row.record.removed_at = Some(at);
                row.changed = true;
                changed = true;
            }
        }
        changed
    }
}

/// `list_containers`.
pub(crate) async fn list(db: &mut Db, query: &ContainerQuery) -> Result<Page<ContainerRecord>, Failure> {
    // No text that PostgreSQL holds has a zero byte, and those behind "a\0b" are just those behind "a".
    let after = query.after.as_deref().and_then(|after| after.split('\0').next());
    let page = db.query(LIST).bind(Id::from(query.host_id)).bind(query.removed).bind(after).bind(overread(query.limit));
    let rows = page.fetch_all(db.connection()).await?;
    let records = rows.iter().map(|row| {
        let mut record = decode(row, decode_metrics(row)?)?;
        if record.removed_at.is_none() {
            record.last_seen_at = later(record.last_seen_at, row.try_get("last_complete_at")?);
        }
        Ok(record)
    });
    Ok(Page::of_overread(records.collect::<Result<_, Failure>>()?, query.limit))
}

/// When a container that is not removed was last reported: rows that did not change are not rewritten to say so.
fn later(own: Timestamp, last_complete_at: Option<At>) -> Timestamp {
    last_complete_at.map_or(own, |complete| complete.0.max(own))
}
