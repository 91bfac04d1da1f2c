//! Candidates for placement: a few rows of the ring, by the index that narrows it most.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Bool, Text};
use diesel::sqlite::Sqlite;
use enlist_core::HostId;
use enlist_core::host::HostKind;
use enlist_core::store::{Candidate, CandidateQuery, Candidates, Visible};
use enlist_core::telemetry::HostMetrics;

use crate::column::{At, Count, Id, Real, overread};
use crate::error::Failure;
use crate::host;
use crate::schema::host_metric_snapshots as snapshots;

/// What is not asked beyond, when it is asked which of several indexes has the fewest rows for a query.
const ENOUGH: i64 = 1_000;

/// What finds the hosts. `INDEXED BY`, since SQLite would rather walk a tenant's hosts in the order of their ids and sort
/// them all; `CROSS JOIN` keeps the index first.
enum Drive {
    /// All that may take work.
    Fleet,
    /// Those of a tenant.
    Tenant(String),
    /// All that have a tag.
    Tag(String),
}

/// A statement on its way, with what it asks for by `?`.
#[derive(Default)]
struct Statement {
    text: String,
    values: Vec<Value>,
}

enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
}

impl Statement {
    fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    fn bind(&mut self, text: &str, value: Value) -> &mut Self {
        self.values.push(value);
        self.push(text)
    }

    fn bind_all(&mut self, texts: Vec<String>) -> &mut Self {
        self.push("(");
        for (place, text) in texts.into_iter().enumerate() {
            self.bind(if place == 0 { "?" } else { ", ?" }, Value::Text(text));
        }
        self.push(")")
    }

    fn load<T: QueryableByName<Sqlite> + 'static>(self, connection: &mut SqliteConnection) -> Result<Vec<T>, Failure> {
        let mut query = sql_query(self.text).into_boxed::<Sqlite>();
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind::<Text, _>(text),
                Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
                Value::Number(number) => query.bind::<BigInt, _>(number),
            };
        }
        Ok(query.load(connection)?)
    }
}

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = Binary)]
    id: Id,
    #[diesel(sql_type = Bool)]
    eligible: bool,
}

#[derive(QueryableByName)]
struct Rows {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

/// `list_candidates`. Several statements: in a transaction.
pub(crate) fn list(connection: &mut SqliteConnection, query: &CandidateQuery) -> Result<Candidates, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    if visible.is_nothing() {
        return Ok(Candidates::NONE);
    }
    let mut places = window(connection, query, visible)?;
    let more = places.len() > query.limit;
    places.truncate(query.limit);
    let next = places.last().filter(|_| more).map(|place| place.id.into());
    let ids: Vec<_> = places.into_iter().filter(|place| place.eligible).map(|place| place.id).collect();

    let mut records = HashMap::new();
    let mut report_ids = Vec::new();
    // A statement has a bound on its parameters, a query has none.
    for ids in ids.chunks(1_000) {
        for (record, report_id) in host::records(connection, ids)? {
            report_ids.extend(report_id);
            records.insert(record.host.id, (record, None));
        }
    }
    for report_ids in report_ids.chunks(1_000) {
        for (host_id, recorded_at, metrics) in measured(connection, report_ids)? {
            if let Some((record, newest)) = records.get_mut(&host_id)
                && record.presence.newest_report_at == Some(recorded_at.0)
            {
                *newest = Some(metrics);
            }
        }
    }
    let found = ids.into_iter().filter_map(|id| records.remove(&HostId::from(id)));
    Ok(Candidates { items: found.map(|(record, metrics)| Candidate { record, metrics }).collect(), next })
}

/// The next places of the ring, one more than was asked for, and whether each may take the work.
fn window(connection: &mut SqliteConnection, query: &CandidateQuery, visible: Visible) -> Result<Vec<Place>, Failure> {
    let drive = drive(connection, query, &visible)?;
    let (id, table, condition) = match &drive {
        Drive::Fleet => ("h.id", "hosts AS h INDEXED BY hosts_ring", "h.archived_at IS NULL AND h.cordoned = 0"),
        Drive::Tenant(_) => (
            "h.id",
            "hosts AS h INDEXED BY hosts_ring_of_tenant",
            "h.archived_at IS NULL AND h.cordoned = 0 AND h.tenant_id = ?",
        ),
        Drive::Tag(_) => (
            "t.host_id",
            "host_tags AS t INDEXED BY host_tags_ring CROSS JOIN hosts AS h ON h.id = t.host_id",
            "t.tag = ?",
        ),
    };
    let mut text = Statement::default();
    // `is_eligible`, restated where rows are chosen.
    text.push("SELECT ").push(id).push(" AS id, ");
    text.push("p.presence = 'online' AND h.archived_at IS NULL AND h.cordoned = 0");
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, kind) => {
            text.bind(" AND h.tenant_id = ?", Value::Text(tenant_id));
            if let Some(kind) = kind {
                text.bind(" AND h.kind = ?", Value::Text(kind.as_str().to_owned()));
            }
        }
        Visible::Tenants { both, managed, byoc } => {
            text.push(" AND (h.tenant_id IN ").bind_all(both);
            for (kind, tenants) in [(HostKind::Managed, managed), (HostKind::Byoc, byoc)] {
                text.bind(" OR (h.kind = ? AND h.tenant_id IN ", Value::Text(kind.as_str().to_owned()));
                text.bind_all(tenants).push(")");
            }
            text.push(")");
        }
    }
    if let Some(kind) = query.kind {
        text.bind(" AND h.kind = ?", Value::Text(kind.as_str().to_owned()));
    }
    for tag in &query.tags {
        let tagged = " AND EXISTS (SELECT 1 FROM host_tags AS g WHERE g.host_id = h.id AND g.tag = ?)";
        text.bind(tagged, Value::Text(tag.as_str().to_owned()));
    }
    text.push(" AS eligible FROM ").push(table).push(" CROSS JOIN host_presence AS p ON p.host_id = h.id WHERE ");
    match drive {
        Drive::Fleet => text.push(condition),
        Drive::Tenant(value) | Drive::Tag(value) => text.bind(condition, Value::Text(value)),
    };
    if let Some(after) = query.after {
        let lot = || Value::Bytes(after.lot().to_be_bytes().to_vec());
        // The first alone is what SQLite makes a range of the index of.
        text.push(" AND substr(").push(id).bind(", 9) >= ?", lot());
        text.push(" AND (substr(").push(id).push(", 9), ").push(id).bind(") > (?, ", lot());
        text.bind("?)", Value::Bytes(after.as_uuid().as_bytes().to_vec()));
    }
    text.push(" ORDER BY substr(").push(id).push(", 9), ").push(id);
    text.bind(" LIMIT ?", Value::Number(overread(query.limit)));
    text.load(connection)
}

/// The one that has the fewest rows. Counted only where there is a choice, and no further than to see that it is large.
fn drive(connection: &mut SqliteConnection, query: &CandidateQuery, visible: &Visible) -> Result<Drive, Failure> {
    let tags = query.tags.iter().map(|tag| Drive::Tag(tag.as_str().to_owned()));
    let tenant = match visible {
        Visible::Tenant(tenant_id, _) => Some(Drive::Tenant(tenant_id.clone())),
        Visible::Everything | Visible::Tenants { .. } => None,
    };
    let mut drives: Vec<_> = tenant.into_iter().chain(tags).collect();
    if drives.len() < 2 {
        return Ok(drives.pop().unwrap_or(Drive::Fleet));
    }
    let mut fewest: Option<(i64, Drive)> = None;
    for drive in drives {
        let mut text = Statement::default();
        text.push("SELECT count(*) AS number FROM (SELECT 1 FROM ");
        match &drive {
            Drive::Fleet => text.push("hosts"),
            Drive::Tenant(tenant_id) => text.bind(
                "hosts INDEXED BY hosts_ring_of_tenant
                 WHERE archived_at IS NULL AND cordoned = 0 AND tenant_id = ?",
                Value::Text(tenant_id.clone()),
            ),
            Drive::Tag(tag) => text.bind("host_tags WHERE tag = ?", Value::Text(tag.clone())),
        };
        text.bind(" LIMIT ?)", Value::Number(ENOUGH));
        let number = text.load::<Rows>(connection)?.first().map_or(0, |rows| rows.number);
        if fewest.as_ref().is_none_or(|(least, _)| number < *least) {
            fewest = Some((number, drive));
        }
    }
    Ok(fewest.map_or(Drive::Fleet, |(_, drive)| drive))
}

type Reals = (Option<Real>, Option<Real>, Option<Real>, Option<Real>);
type Counts = (
    Option<Count>,
    Option<Count>,
    Option<Count>,
    Option<Count>,
    Option<Count>,
    Option<Count>,
    Option<Count>,
    Option<Count>,
    Option<Count>,
);

/// The machine's numbers in these reports.
fn measured(connection: &mut SqliteConnection, report_ids: &[i64]) -> Result<Vec<(HostId, At, HostMetrics)>, Failure> {
    let reals = (snapshots::cpu_percent, snapshots::load_1m, snapshots::load_5m, snapshots::load_15m);
    let counts = (
        snapshots::memory_used_bytes,
        snapshots::memory_total_bytes,
        snapshots::swap_used_bytes,
        snapshots::swap_total_bytes,
        snapshots::disk_used_bytes,
        snapshots::disk_total_bytes,
        snapshots::network_rx_bytes,
        snapshots::network_tx_bytes,
        snapshots::uptime_seconds,
    );
    let rows = snapshots::table
        .filter(snapshots::report_id.eq_any(report_ids))
        .select((snapshots::host_id, snapshots::recorded_at, reals, counts))
        .load::<(Id, At, Reals, Counts)>(connection)?;
    let real = |real: Option<Real>| real.map(|real| real.0);
    let count = |count: Option<Count>| count.map(|count| count.0);
    let decode = |(id, at, reals, counts): (Id, At, Reals, Counts)| {
        let metrics = HostMetrics {
            cpu_percent: real(reals.0),
            load_1m: real(reals.1),
            load_5m: real(reals.2),
            load_15m: real(reals.3),
            memory_used_bytes: count(counts.0),
            memory_total_bytes: count(counts.1),
            swap_used_bytes: count(counts.2),
            swap_total_bytes: count(counts.3),
            disk_used_bytes: count(counts.4),
            disk_total_bytes: count(counts.5),
            network_rx_bytes: count(counts.6),
            network_tx_bytes: count(counts.7),
            uptime_seconds: count(counts.8),
        };
        (id.into(), at, metrics)
    };
    Ok(rows.into_iter().map(decode).collect())
}
