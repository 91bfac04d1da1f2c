//! A report as it is stored: one row, its containers' numbers in parallel arrays.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use enlist_core::Timestamp;
use enlist_core::container::ContainerMetrics;
use enlist_core::store::TelemetryQuery;
use enlist_core::telemetry::{ContainerSnapshot, HostMetrics, HostSnapshot, Report};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::column::{At, Count, Id, array_literal, from_json, overread, quote_element, to_json};
use crate::error::Failure;
use crate::telemetry::ReportKey;
use crate::transaction::Db;

/// What a [`HostSnapshot`] is read from, of `host_metric_snapshots AS s`.
macro_rules! snapshot_columns {
    () => {
        "s.host_id, s.recorded_at, s.received_at, s.cpu_percent, s.load_1m, s.load_5m, s.load_15m, s.memory_used_bytes,
         s.memory_total_bytes, s.swap_used_bytes, s.swap_total_bytes, s.disk_used_bytes, s.disk_total_bytes,
         s.network_rx_bytes, s.network_tx_bytes, s.uptime_seconds, s.custom::text AS custom, s.agent::text AS agent,
         s.container_ids, s.container_cpu_cores, s.container_memory_used_bytes, s.container_memory_limit_bytes,
         s.container_network_rx_bytes, s.container_network_tx_bytes, s.container_block_read_bytes,
         s.container_block_write_bytes, s.container_pids"
    };
}

/// What is there already stays, and is not returned.
const INSERT: &str = "
    INSERT INTO {schema}.host_metric_snapshots
        (host_id, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m, memory_used_bytes,
         memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes, network_rx_bytes,
         network_tx_bytes, uptime_seconds, custom, agent, container_ids, container_cpu_cores,
         container_memory_used_bytes, container_memory_limit_bytes, container_network_rx_bytes,
         container_network_tx_bytes, container_block_read_bytes, container_block_write_bytes, container_pids)
    SELECT v.host_id, v.recorded_at, v.received_at, v.cpu_percent, v.load_1m, v.load_5m, v.load_15m,
           v.memory_used_bytes, v.memory_total_bytes, v.swap_used_bytes, v.swap_total_bytes, v.disk_used_bytes,
           v.disk_total_bytes, v.network_rx_bytes, v.network_tx_bytes, v.uptime_seconds, v.custom::json, v.agent::json,
           v.ids::text[], v.cpu_cores::double precision[], v.used::bigint[], v.limits::bigint[], v.rx::bigint[],
           v.tx::bigint[], v.reads::bigint[], v.writes::bigint[], v.pids::bigint[]
    FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::double precision[], $5::double precision[],
                $6::double precision[], $7::double precision[], $8::bigint[], $9::bigint[], $10::bigint[],
                $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::text[],
                $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[], $25::text[],
                $26::text[], $27::text[])
        AS v (host_id, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m, memory_used_bytes,
              memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes,
              network_rx_bytes, network_tx_bytes, uptime_seconds, custom, agent, ids, cpu_cores, used, limits, rx, tx,
              reads, writes, pids)
    ON CONFLICT (host_id, recorded_at) DO NOTHING
    RETURNING host_id, recorded_at";

const BY_KEYS: &str = concat!(
    "SELECT ",
    snapshot_columns!(),
    " FROM unnest($1::uuid[], $2::timestamptz[]) AS k (host_id, recorded_at)
     JOIN {schema}.host_metric_snapshots AS s ON s.host_id = k.host_id AND s.recorded_at = k.recorded_at"
);

/// A host that was deleted has no presence, and so no reports that are read out.
const RANGE: &str = concat!(
    "SELECT ",
    snapshot_columns!(),
    " FROM {schema}.host_metric_snapshots AS s
     WHERE s.host_id = $1 AND s.recorded_at >= $2 AND s.recorded_at < $3
       AND ($4::timestamptz IS NULL OR s.recorded_at > $4)
       AND EXISTS (SELECT FROM {schema}.host_presence AS p WHERE p.host_id = $1)
     ORDER BY s.recorded_at
     LIMIT $5"
);

/// A report on its way into the table.
#[derive(Debug)]
pub(crate) struct SnapshotRow {
    host_id: Id,
    snapshot: HostSnapshot,
    custom: Option<String>,
    agent: Option<String>,
    containers: Option<Arrays>,
}

/// Array literals: see [`array_literal`].
#[derive(Debug)]
struct Arrays {
    ids: String,
    cpu_cores: String,
    counts: [String; 7],
}

/// The counts of a container, in the order of the columns.
const COUNTS: [fn(&ContainerMetrics) -> Option<u64>; 7] = [
    |metrics| metrics.memory_used_bytes,
    |metrics| metrics.memory_limit_bytes,
    |metrics| metrics.network_rx_bytes,
    |metrics| metrics.network_tx_bytes,
    |metrics| metrics.block_read_bytes,
    |metrics| metrics.block_write_bytes,
    |metrics| metrics.pids,
];

impl SnapshotRow {
    /// What is stored of a report, if the columns can hold it: found out here, a bad number costs its report alone, and
    /// no round trip.
    pub(crate) fn of(host_id: Id, report: &Report, received_at: Timestamp) -> Result<Self, Failure> {
        let mut ids = HashSet::with_capacity(report.containers.len());
        if !report.containers.iter().all(|container| ids.insert(container.container_id.as_str())) {
            return Err(Failure::Invalid("a report names each container once"));
        }
        if report.containers.iter().any(|container| container.restarts.is_some_and(too_large)) {
            return Err(TOO_LARGE);
        }
        let snapshot = HostSnapshot::of(report, received_at);
        let HostMetrics {
            cpu_percent,
            load_1m,
            load_5m,
            load_15m,
            memory_used_bytes,
            memory_total_bytes,
            swap_used_bytes,
            swap_total_bytes,
            disk_used_bytes,
            disk_total_bytes,
            network_rx_bytes,
            network_tx_bytes,
            uptime_seconds,
        } = snapshot.metrics;
        let counts = [
            memory_used_bytes,
            memory_total_bytes,
            swap_used_bytes,
            swap_total_bytes,
            disk_used_bytes,
            disk_total_bytes,
            network_rx_bytes,
            network_tx_bytes,
            uptime_seconds,
        ];
        let of_containers = || snapshot.containers.iter().map(|container| &container.metrics);
        if counts
            .into_iter()
            .chain(of_containers().flat_map(|of| COUNTS.map(|count| count(of))))
            .flatten()
            .any(too_large)
        {
            return Err(TOO_LARGE);
        }
        // PostgreSQL would store them; JSON has no word for them; nobody has measured them.
        let measured =
            [cpu_percent, load_1m, load_5m, load_15m].into_iter().chain(of_containers().map(|of| of.cpu_cores));
        if !measured.flatten().chain(snapshot.custom.values().copied()).all(f64::is_finite) {
            return Err(Failure::Invalid("a measured number is finite"));
        }
        Ok(Self {
            host_id,
            custom: (!snapshot.custom.is_empty()).then(|| to_json(&snapshot.custom)).transpose()?,
            agent: snapshot.agent.as_ref().map(to_json).transpose()?,
            containers: (!snapshot.containers.is_empty()).then(|| Arrays::of(&snapshot.containers)),
            snapshot,
        })
    }

    /// What tells it from all others.
    pub(crate) const fn key(&self) -> ReportKey {
        (self.host_id, At(self.snapshot.recorded_at))
    }

    /// What will be read back.
    pub(crate) const fn snapshot(&self) -> &HostSnapshot {
        &self.snapshot
    }
}

const TOO_LARGE: Failure = Failure::Invalid("a counter is at most 2^63 - 1");

fn too_large(count: u64) -> bool {
    i64::try_from(count).is_err()
}

impl Arrays {
    fn of(containers: &[ContainerSnapshot]) -> Self {
        let each = || containers.iter().map(|container| &container.metrics);
        // Writing to a string cannot fail.
        let number = |text: &mut String, number: f64| {
            let _ = write!(text, "{number:?}");
        };
        let integer = |text: &mut String, integer: u64| {
            let _ = write!(text, "{integer}");
        };
        let ids = containers.iter().map(|container| Some(container.container_id.as_str()));
        Self {
            ids: array_literal(ids, quote_element),
            // The shortest text that reads back to the very same number.
            cpu_cores: array_literal(each().map(|metrics| metrics.cpu_cores), number),
            counts: COUNTS.map(|count| array_literal(each().map(count), integer)),
        }
    }
}

/// Stores those of `rows` that are not there yet, and says which.
pub(crate) async fn insert(db: &mut Db, rows: &[&SnapshotRow]) -> Result<HashSet<ReportKey>, Failure> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    macro_rules! reals {
        ($field:ident) => {
            rows.iter().map(|row| row.snapshot.metrics.$field).collect::<Vec<_>>()
        };
    }
    macro_rules! counts {
        ($field:ident) => {
            rows.iter().map(|row| row.snapshot.metrics.$field.map(Count)).collect::<Vec<_>>()
        };
    }
    let arrays = |of: fn(&Arrays) -> &str| -> Vec<Option<&str>> {
        rows.iter().map(|row| row.containers.as_ref().map(of)).collect()
    };
    let insert = db
        .query(INSERT)
        .bind(rows.iter().map(|row| row.host_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| At(row.snapshot.recorded_at)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| At(row.snapshot.received_at)).collect::<Vec<_>>())
        .bind(reals!(cpu_percent))
        .bind(reals!(load_1m))
        .bind(reals!(load_5m))
        .bind(reals!(load_15m))
        .bind(counts!(memory_used_bytes))
        .bind(counts!(memory_total_bytes))
        .bind(counts!(swap_used_bytes))
        .bind(counts!(swap_total_bytes))
        .bind(counts!(disk_used_bytes))
        .bind(counts!(disk_total_bytes))
        .bind(counts!(network_rx_bytes))
        .bind(counts!(network_tx_bytes))
        .bind(counts!(uptime_seconds))
        .bind(rows.iter().map(|row| row.custom.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.agent.as_deref()).collect::<Vec<_>>())
        .bind(arrays(|arrays| &arrays.ids))
        .bind(arrays(|arrays| &arrays.cpu_cores))
        .bind(arrays(|arrays| &arrays.counts[0]))
        .bind(arrays(|arrays| &arrays.counts[1]))
        .bind(arrays(|arrays| &arrays.counts[2]))
        .bind(arrays(|arrays| &arrays.counts[3]))
        .bind(arrays(|arrays| &arrays.counts[4]))
        .bind(arrays(|arrays| &arrays.counts[5]))
        .bind(arrays(|arrays| &arrays.counts[6]));
    let stored = insert.fetch_all(db.connection()).await?;
    stored.iter().map(|row| Ok((row.try_get("host_id")?, row.try_get("recorded_at")?))).collect()
}

/// The stored reports of these identities.
pub(crate) async fn by_keys(db: &mut Db, keys: &[ReportKey]) -> Result<HashMap<ReportKey, HostSnapshot>, Failure> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let (hosts, times): (Vec<_>, Vec<_>) = keys.iter().copied().unzip();
    let rows = db.query(BY_KEYS).bind(hosts).bind(times).fetch_all(db.connection()).await?;
    rows.iter()
        .map(|row| {
            let snapshot = decode(row)?;
            Ok(((row.try_get("host_id")?, At(snapshot.recorded_at)), snapshot))
        })
        .collect()
}

/// The stored reports of a query, with one more than its limit.
pub(crate) async fn range(db: &mut Db, query: &TelemetryQuery) -> Result<Vec<HostSnapshot>, Failure> {
    let rows = db
        .query(RANGE)
        .bind(Id::from(query.host_id))
        .bind(At(query.from))
        .bind(At(query.to))
        .bind(query.after.map(At))
        .bind(overread(query.limit));
    rows.fetch_all(db.connection()).await?.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> Result<HostSnapshot, Failure> {
    let count = |column| row.try_get::<Option<Count>, _>(column).map(|count| count.map(|count| count.0));
    let json = |column| row.try_get::<Option<&str>, _>(column);
    Ok(HostSnapshot {
        recorded_at: row.try_get::<At, _>("recorded_at")?.0,
        received_at: row.try_get::<At, _>("received_at")?.0,
        metrics: HostMetrics {
            cpu_percent: row.try_get("cpu_percent")?,
            load_1m: row.try_get("load_1m")?,
            load_5m: row.try_get("load_5m")?,
            load_15m: row.try_get("load_15m")?,
            memory_used_bytes: count("memory_used_bytes")?,
            memory_total_bytes: count("memory_total_bytes")?,
            swap_used_bytes: count("swap_used_bytes")?,
            swap_total_bytes: count("swap_total_bytes")?,
            disk_used_bytes: count("disk_used_bytes")?,
            disk_total_bytes: count("disk_total_bytes")?,
            network_rx_bytes: count("network_rx_bytes")?,
            network_tx_bytes: count("network_tx_bytes")?,
            uptime_seconds: count("uptime_seconds")?,
        },
        custom: json("custom")?.map_or_else(|| Ok(Default::default()), from_json)?,
        agent: json("agent")?.map(from_json).transpose()?,
        containers: decode_containers(row)?,
    })
}

fn decode_containers(row: &PgRow) -> Result<Vec<ContainerSnapshot>, Failure> {
    let Some(ids) = row.try_get::<Option<Vec<String>>, _>("container_ids")? else { return Ok(Vec::new()) };
    let cpu_cores: Vec<Option<f64>> = row.try_get("container_cpu_cores")?;
    let counts = |column| row.try_get::<Vec<Option<Count>>, _>(column);
    let memory_used = counts("container_memory_used_bytes")?;
    let memory_limit = counts("container_memory_limit_bytes")?;
    let network_rx = counts("container_network_rx_bytes")?;
    let network_tx = counts("container_network_tx_bytes")?;
    let block_read = counts("container_block_read_bytes")?;
    let block_write = counts("container_block_write_bytes")?;
    let pids = counts("container_pids")?;
    // The schema keeps them of one length; where it does not, a number is unknown rather than another container's.
    let at = |counts: &[Option<Count>], index: usize| counts.get(index).copied().flatten().map(|count| count.0);
    let each = ids.into_iter().enumerate().map(|(index, container_id)| ContainerSnapshot {
        container_id,
        metrics: ContainerMetrics {
            cpu_cores: cpu_cores.get(index).copied().flatten(),
            memory_used_bytes: at(&memory_used, index),
            memory_limit_bytes: at(&memory_limit, index),
            network_rx_bytes: at(&network_rx, index),
            network_tx_bytes: at(&network_tx, index),
            block_read_bytes: at(&block_read, index),
            block_write_bytes: at(&block_write, index),
            pids: at(&pids, index),
        },
    });
    Ok(each.collect())
}
