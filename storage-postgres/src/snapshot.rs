//! A report as it is stored: one row, its containers' numbers in two arrays.

use std::collections::HashMap;

use enlist_core::Timestamp;
use enlist_core::container::ContainerMetrics;
use enlist_core::store::{SnapshotContainers, TelemetryQuery};
use enlist_core::telemetry::{ContainerSnapshot, HostMetrics, HostReport, HostSnapshot, Report};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use crate::column::{At, Count, Id, Values, from_json, overread, to_json};
use crate::error::Failure;
use crate::telemetry::ReportKey;
use crate::transaction::Db;

/// What a [`HostSnapshot`] is read from, of `host_metric_snapshots AS s`, but for its containers.
macro_rules! machine_columns {
    () => {
        "s.host_id, s.recorded_at, s.received_at, s.cpu_percent, s.load_1m, s.load_5m, s.load_15m, s.memory_used_bytes,
         s.memory_total_bytes, s.swap_used_bytes, s.swap_total_bytes, s.disk_used_bytes, s.disk_total_bytes,
         s.network_rx_bytes, s.network_tx_bytes, s.uptime_seconds, s.custom::text AS custom, s.agent::text AS agent"
    };
}

/// Where a report goes.
macro_rules! into_snapshots {
    () => {
        "INSERT INTO {schema}.host_metric_snapshots
             (host_id, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m, memory_used_bytes,
              memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes, network_rx_bytes,
              network_tx_bytes, uptime_seconds, custom, agent, container_cpu_cores, container_numbers)"
    };
}

/// The containers of all reports come in arrays that are as long as there are containers, of which each report takes its
/// part: arrays of arrays of different lengths do not exist in PostgreSQL, and as text it would have to read every number.
/// Without containers the bounds are null, and so is the part.
macro_rules! insert {
    ($end:literal) => {
        concat!(
            crate::snapshot::into_snapshots!(),
            " SELECT v.host_id, v.recorded_at, v.received_at, v.cpu_percent, v.load_1m, v.load_5m, v.load_15m,
                    v.memory_used_bytes, v.memory_total_bytes, v.swap_used_bytes, v.swap_total_bytes, v.disk_used_bytes,
                    v.disk_total_bytes, v.network_rx_bytes, v.network_tx_bytes, v.uptime_seconds, v.custom::json, v.agent::json,
                    ($21::double precision[])[v.low:v.high], ($22::bigint[])[8 * v.low - 7:8 * v.high]
             FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::double precision[], $5::double precision[],
                         $6::double precision[], $7::double precision[], $8::bigint[], $9::bigint[], $10::bigint[],
                         $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::text[],
                         $18::text[], $19::integer[], $20::integer[])
                 AS v (host_id, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m, memory_used_bytes,
                       memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes,
                       network_rx_bytes, network_tx_bytes, uptime_seconds, custom, agent, low, high)",
            $end
        )
    };
}
pub(crate) use insert as insert_rows;

/// One report, value by value: taking arrays apart costs more than storing what is in them.
macro_rules! insert_one {
    ($from:literal) => {
        concat!(
            crate::snapshot::into_snapshots!(),
            " SELECT $1::uuid, $2::timestamptz, $3::timestamptz, $4::double precision, $5::double precision,
                    $6::double precision, $7::double precision, $8::bigint, $9::bigint, $10::bigint, $11::bigint, $12::bigint,
                    $13::bigint, $14::bigint, $15::bigint, $16::bigint, $17::text::json, $18::text::json,
                    $19::double precision[], $20::bigint[]",
            $from
        )
    };
}
pub(crate) use {insert_one, into_snapshots};

/// Of reports that are not there yet.
const INSERT: &str = insert!("");

/// Reports that are there, with the ids of the containers that they name: each once, in the first row, since they are
/// longer than all else of a report.
macro_rules! stored {
    ($containers:literal, $of:expr) => {
        concat!(
            "WITH stored AS MATERIALIZED (SELECT ",
            machine_columns!(),
            ", ",
            $containers,
            $of,
            "), named AS (
                SELECT array_agg(c.container_key) AS named_keys, array_agg(c.container_id) AS named_ids
                FROM (
                    SELECT DISTINCT s.host_id, n.number AS container_key
                    FROM stored AS s CROSS JOIN LATERAL unnest(s.container_numbers) WITH ORDINALITY AS n (number, place)
                    WHERE n.place % 8 = 1
                ) AS k
                JOIN {schema}.containers AS c ON c.host_id = k.host_id AND c.container_key = k.container_key
            )
            SELECT s.*, named.named_keys, named.named_ids
            FROM (SELECT *, row_number() OVER (ORDER BY recorded_at) AS place FROM stored) AS s
            LEFT JOIN named ON s.place = 1
            ORDER BY s.recorded_at"
        )
    };
}

/// With the bounds, only the days in between are looked at.
const BY_KEYS: &str = stored!(
    "s.container_cpu_cores, s.container_numbers",
    " FROM unnest($1::uuid[], $2::timestamptz[]) AS k (host_id, recorded_at)
      JOIN {schema}.host_metric_snapshots AS s ON s.host_id = k.host_id AND s.recorded_at = k.recorded_at
      WHERE s.recorded_at >= $3 AND s.recorded_at <= $4"
);

/// A host that was deleted has no presence, and so no reports that are read out.
macro_rules! range {
    ($containers:literal, $at:literal) => {
        stored!(
            $containers,
            concat!(
                " FROM {schema}.host_metric_snapshots AS s ",
                $at,
                " WHERE s.host_id = $1 AND s.recorded_at >= $2 AND s.recorded_at < $3
                    AND ($4::timestamptz IS NULL OR s.recorded_at > $4)
                    AND EXISTS (SELECT FROM {schema}.host_presence AS p WHERE p.host_id = $1)
                  ORDER BY s.recorded_at
                  LIMIT $5"
            )
        )
    };
}

const RANGE: &str = range!("s.container_cpu_cores, s.container_numbers", "");
const RANGE_WITHOUT_CONTAINERS: &str =
    range!("NULL::double precision[] AS container_cpu_cores, NULL::bigint[] AS container_numbers", "");
/// Its part of the arrays, or null where the container is not in them: the others stay in the server.
const RANGE_OF_ONE_CONTAINER: &str = range!(
    "s.container_cpu_cores[at.nth:at.nth] AS container_cpu_cores,
     s.container_numbers[8 * at.nth - 7:8 * at.nth] AS container_numbers",
    "LEFT JOIN LATERAL (
        SELECT ((n.place + 7) / 8)::integer AS nth
        FROM {schema}.containers AS c
        JOIN unnest(s.container_numbers) WITH ORDINALITY AS n (number, place)
            ON n.number = c.container_key AND n.place % 8 = 1
        WHERE c.host_id = $1 AND c.container_id = $6
    ) AS at ON TRUE"
);

/// A report on its way into the table.
#[derive(Debug)]
pub(crate) struct SnapshotRow<'a> {
    host_id: Id,
    report: &'a Report,
    received_at: Timestamp,
    /// In the order of the columns.
    reals: [Option<f64>; 4],
    counts: [Option<u64>; 9],
    custom: Option<String>,
    agent: Option<String>,
    /// Those that were measured, in the order of the report.
    containers: Vec<&'a ContainerMetrics>,
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

impl<'a> SnapshotRow<'a> {
    /// What is stored of a report, if the columns can hold it: found out here, a bad number costs its report alone, and
    /// no round trip.
    pub(crate) fn of(host_id: Id, report: &'a Report, received_at: Timestamp) -> Result<Self, Failure> {
        let mut ids: Vec<_> = report.containers.iter().map(|container| container.container_id.as_str()).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Failure::Invalid("a report names each container once"));
        }
        if report.containers.iter().any(|container| container.restarts.is_some_and(too_large)) {
            return Err(TOO_LARGE);
        }
        let HostReport { metrics, custom, .. } = &report.host;
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
        } = *metrics;
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
        let containers: Vec<_> = report.containers.iter().filter_map(|container| container.metrics.as_ref()).collect();
        let of_containers = containers.iter().flat_map(|of| COUNTS.map(|count| count(of)));
        if counts.into_iter().chain(of_containers).flatten().any(too_large) {
            return Err(TOO_LARGE);
        }
        // PostgreSQL would store them; JSON has no word for them; nobody has measured them.
        let reals = [cpu_percent, load_1m, load_5m, load_15m];
        let cores = containers.iter().map(|of| of.cpu_cores);
        if !reals.into_iter().chain(cores).flatten().chain(custom.values().copied()).all(f64::is_finite) {
            return Err(Failure::Invalid("a measured number is finite"));
        }
        Ok(Self {
            host_id,
            report,
            received_at,
            reals,
            counts,
            custom: (!custom.is_empty()).then(|| to_json(custom)).transpose()?,
            agent: report.agent.as_ref().map(to_json).transpose()?,
            containers,
        })
    }

    /// What tells it from all others.
    pub(crate) const fn key(&self) -> ReportKey {
        (self.host_id, At(self.report.recorded_at))
    }

    /// What will be read back.
    pub(crate) fn snapshot(&self) -> HostSnapshot {
        HostSnapshot::of(self.report, self.received_at)
    }
}

const TOO_LARGE: Failure = Failure::Invalid("a counter is at most 2^63 - 1");

fn too_large(count: u64) -> bool {
    i64::try_from(count).is_err()
}

/// A report, and the keys of those containers that it measured, in its order.
pub(crate) type Keyed<'r, 'a> = (&'r SnapshotRow<'a>, &'r [i64]);

/// The containers of several reports, one after the other.
struct Containers {
    /// Where those of each report begin and end, counted from 1.
    bounds: (Vec<Option<i32>>, Vec<Option<i32>>),
    cpu_cores: Vec<Option<f64>>,
    /// Of each its key, and its counts.
    numbers: Vec<Option<Count>>,
}

impl Containers {
    fn of(rows: &[Keyed<'_, '_>]) -> Result<Self, Failure> {
        let place = |place: usize| i32::try_from(place).map_err(|_| Failure::Invalid("too many containers at once"));
        let number = rows.iter().map(|(_, keys)| keys.len()).sum();
        let mut all = Self {
            bounds: (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len())),
            cpu_cores: Vec::with_capacity(number),
            numbers: Vec::with_capacity(number * 8),
        };
        for (row, keys) in rows {
            let low = all.cpu_cores.len() + 1;
            for (key, metrics) in keys.iter().zip(&row.containers) {
                all.cpu_cores.push(metrics.cpu_cores);
                // PostgreSQL counts them from 1.
                all.numbers.push(Some(Count(key.unsigned_abs())));
                all.numbers.extend(COUNTS.map(|count| count(metrics).map(Count)));
            }
            let some = !keys.is_empty();
            all.bounds.0.push(some.then(|| place(low)).transpose()?);
            all.bounds.1.push(some.then(|| place(all.cpu_cores.len())).transpose()?);
        }
        Ok(all)
    }
}

/// Stores reports that are not there yet.
pub(crate) async fn insert(db: &mut Db, rows: &[Keyed<'_, '_>]) -> Result<(), Failure> {
    if !rows.is_empty() {
        statement(db, INSERT, rows)?.execute(db.connection()).await?;
    }
    Ok(())
}

/// A statement of this crate with its values, ready to be run.
type Statement = Query<'static, Postgres, PgArguments>;

/// How many values a statement of reports has at most.
const VALUES: usize = 27;
/// About how many bytes they are for each report, and for each of its containers: as much memory is taken at once, which else
/// grows by doubling and copying.
const BYTES: (usize, usize) = (400, 9 * 12);

/// The statement with what `insert!` takes of these reports.
pub(crate) fn statement(db: &Db, text: &'static str, rows: &[Keyed<'_, '_>]) -> Result<Statement, Failure> {
    let of_all = || rows.iter().map(|(row, _)| row);
    let Containers { bounds: (lows, highs), cpu_cores, numbers } = Containers::of(rows)?;
    let mut statement = db
        .query_with_room(text, VALUES, rows.len() * BYTES.0 + cpu_cores.len() * BYTES.1)
        .bind(of_all().map(|row| row.host_id).collect::<Vec<_>>())
        .bind(Values(of_all().map(|row| Some(At(row.report.recorded_at))).collect()))
        .bind(Values(of_all().map(|row| Some(At(row.received_at))).collect()));
    for n in 0..4 {
        statement = statement.bind(Values(of_all().map(|row| row.reals[n]).collect()));
    }
    for n in 0..9 {
        statement = statement.bind(Values(of_all().map(|row| row.counts[n].map(Count)).collect()));
    }
    Ok(statement
        .bind(of_all().map(|row| row.custom.as_deref()).collect::<Vec<_>>())
        .bind(of_all().map(|row| row.agent.as_deref()).collect::<Vec<_>>())
        .bind(lows)
        .bind(highs)
        .bind(Values(cpu_cores))
        .bind(Values(numbers)))
}

/// The statement with what `insert_one!` takes of this report.
pub(crate) fn statement_of_one(db: &Db, text: &'static str, of: Keyed<'_, '_>) -> Result<Statement, Failure> {
    let (row, keys) = of;
    let Containers { cpu_cores, numbers, .. } = Containers::of(&[of])?;
    let measured = !keys.is_empty();
    let mut statement = db.query(text).bind(row.host_id).bind(At(row.report.recorded_at)).bind(At(row.received_at));
    for real in row.reals {
        statement = statement.bind(real);
    }
    for count in row.counts {
        statement = statement.bind(count.map(Count));
    }
    Ok(statement
        .bind(row.custom.as_deref())
        .bind(row.agent.as_deref())
        .bind(measured.then_some(Values(cpu_cores)))
        .bind(measured.then_some(Values(numbers))))
}

/// The stored reports of these identities.
pub(crate) async fn by_keys(db: &mut Db, keys: &[ReportKey]) -> Result<HashMap<ReportKey, HostSnapshot>, Failure> {
    let (hosts, times): (Vec<_>, Vec<_>) = keys.iter().copied().unzip();
    let (Some(first), Some(last)) = (times.iter().min().copied(), times.iter().max().copied()) else {
        return Ok(HashMap::new());
    };
    let rows = db.query(BY_KEYS).bind(hosts).bind(times).bind(first).bind(last);
    let rows = rows.fetch_all(db.connection()).await?;
    let names = names(&rows)?;
    rows.iter()
        .map(|row| {
            let snapshot = decode(row, &names)?;
            Ok(((row.try_get("host_id")?, At(snapshot.recorded_at)), snapshot))
        })
        .collect()
}

/// The stored reports of a query, with one more than its limit.
pub(crate) async fn range(db: &mut Db, query: &TelemetryQuery) -> Result<Vec<HostSnapshot>, Failure> {
    let text = match query.containers {
        SnapshotContainers::All => RANGE,
        SnapshotContainers::One(_) => RANGE_OF_ONE_CONTAINER,
        SnapshotContainers::None => RANGE_WITHOUT_CONTAINERS,
    };
    let mut rows = db
        .query(text)
        .bind(Id::from(query.host_id))
        .bind(At(query.from))
        .bind(At(query.to))
        .bind(query.after.map(At))
        .bind(overread(query.limit));
    if let SnapshotContainers::One(container_id) = &query.containers {
        rows = rows.bind(container_id.clone());
    }
    let rows = rows.fetch_all(db.connection()).await?;
    let names = names(&rows)?;
    rows.iter().map(|row| decode(row, &names)).collect()
}

/// The ids of containers, by their keys.
fn names(rows: &[PgRow]) -> Result<HashMap<i64, String>, Failure> {
    for row in rows {
        if let Some(keys) = row.try_get::<Option<Vec<i64>>, _>("named_keys")? {
            return Ok(keys.into_iter().zip(row.try_get::<Vec<String>, _>("named_ids")?).collect());
        }
    }
    Ok(HashMap::new())
}

fn decode(row: &PgRow, names: &HashMap<i64, String>) -> Result<HostSnapshot, Failure> {
    let json = |column| row.try_get::<Option<&str>, _>(column);
    Ok(HostSnapshot {
        recorded_at: row.try_get::<At, _>("recorded_at")?.0,
        received_at: row.try_get::<At, _>("received_at")?.0,
        metrics: metrics(row)?,
        custom: json("custom")?.map_or_else(|| Ok(Default::default()), from_json)?,
        agent: json("agent")?.map(from_json).transpose()?,
        containers: decode_containers(row, names)?,
    })
}

/// The machine's numbers, of a row that has them.
pub(crate) fn metrics(row: &PgRow) -> Result<HostMetrics, Failure> {
    let count = |column| row.try_get::<Option<Count>, _>(column).map(|count| count.map(|count| count.0));
    Ok(HostMetrics {
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
    })
}

fn decode_containers(row: &PgRow, names: &HashMap<i64, String>) -> Result<Vec<ContainerSnapshot>, Failure> {
    let cpu_cores: Option<Vec<Option<f64>>> = row.try_get("container_cpu_cores")?;
    let numbers: Option<Vec<Option<Count>>> = row.try_get("container_numbers")?;
    let (Some(cpu_cores), Some(numbers)) = (cpu_cores, numbers) else { return Ok(Vec::new()) };
    let (of_each, _) = numbers.as_chunks::<8>();
    let each = cpu_cores.into_iter().zip(of_each).filter_map(|(cpu_cores, numbers)| {
        let [key, counts @ ..] = numbers.map(|number| number.map(|number| number.0));
        let [memory_used_bytes, memory_limit_bytes, network_rx_bytes, network_tx_bytes, block_read, block_write, pids] =
            counts;
        // A row that somebody else has deleted takes the numbers of its container along, and nothing else of the report.
        let container_id = names.get(&key?.cast_signed())?.clone();
        let metrics = ContainerMetrics {
            cpu_cores,
            memory_used_bytes,
            memory_limit_bytes,
            network_rx_bytes,
            network_tx_bytes,
            block_read_bytes: block_read,
            block_write_bytes: block_write,
            pids,
        };
        Some(ContainerSnapshot { container_id, metrics })
    });
    let mut containers: Vec<_> = each.collect();
    containers.sort_unstable_by(|a, b| a.container_id.cmp(&b.container_id));
    Ok(containers)
}
