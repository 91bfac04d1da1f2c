//! Candidates for placement: a few rows of the ring, by the index that narrows it most.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool};
use enlist_core::host::HostKind;
use enlist_core::store::{Candidate, CandidateQuery, Candidates, Visible};
use enlist_core::telemetry::HostMetrics;

use crate::column::{At, Count, Id, Real, overread};
use crate::error::Failure;
use crate::host;
use crate::schema::host_metric_snapshots as snapshots;
use crate::statement::{Statement, Value, choose};

/// What finds the hosts. `INDEXED BY`, since SQLite would rather walk a tenant's hosts in the order of their ids and sort
/// them all; `CROSS JOIN` keeps the index first.
enum Drive {
    /// All that may take work.
    Fleet,
    /// Those of a tenant.
    Tenant(String),
    /// Those of a kind.
    Kind(HostKind),
    /// Those with a tag that may take work, as it stands beside the tag.
    Tag(String),
}

#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = BigInt)]
    host_key: i64,
    #[diesel(sql_type = Binary)]
    id: Id,
    #[diesel(sql_type = Bool)]
    eligible: bool,
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
    let keys: Vec<_> = places.into_iter().filter(|place| place.eligible).map(|place| place.host_key).collect();

    let (mut candidates, mut report_ids) = (HashMap::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
    // A statement has a bound on its parameters, a query has none.
    for keys in keys.chunks(1_000) {
        for (record, host_key, report_id) in host::records(connection, keys)? {
            candidates.insert(host_key, Candidate { record, metrics: None });
            report_ids.extend(report_id);
        }
    }
    for report_ids in report_ids.chunks(1_000) {
        for (host_key, recorded_at, metrics) in measured(connection, report_ids)? {
            if let Some(candidate) = candidates.get_mut(&host_key)
                && candidate.record.presence.newest_report_at == Some(recorded_at.0)
            {
                candidate.metrics = Some(metrics);
            }
        }
    }
    let items = keys.into_iter().filter_map(|host_key| candidates.remove(&host_key)).collect();
    Ok(Candidates { items, next })
}

/// The next places of the ring, one more than was asked for, and whether each may take the work.
fn window(connection: &mut SqliteConnection, query: &CandidateQuery, visible: Visible) -> Result<Vec<Place>, Failure> {
    let drive = drive(connection, query, &visible)?;
    walk(query, visible, drive).load(connection)
}

fn walk(query: &CandidateQuery, visible: Visible, drive: Drive) -> Statement {
    let (id, table, condition) = match &drive {
        Drive::Fleet => ("h.id", "hosts AS h INDEXED BY hosts_ring", "h.archived_at IS NULL AND h.cordoned = 0"),
        Drive::Tenant(_) => (
            "h.id",
            "hosts AS h INDEXED BY hosts_ring_of_tenant",
            "h.archived_at IS NULL AND h.cordoned = 0 AND h.tenant_id = ?",
        ),
        Drive::Kind(_) => (
            "h.id",
            "hosts AS h INDEXED BY hosts_ring_of_kind",
            "h.archived_at IS NULL AND h.cordoned = 0 AND h.kind = ?",
        ),
        Drive::Tag(_) => (
            "t.host_id",
            "host_tags AS t INDEXED BY host_tags_ring CROSS JOIN hosts AS h ON h.id = t.host_id",
            "t.status = 'online' AND t.cordoned = 0 AND t.tag = ?",
        ),
    };
    let mut text = Statement::default();
    // `is_eligible`, restated where rows are chosen.
    text.push("SELECT h.host_key, ").push(id).push(" AS id, ");
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
    for tag in query.tags.iter().filter(|tag| !matches!(&drive, Drive::Tag(of_all) if of_all == tag.as_str())) {
        let tagged = " AND EXISTS (SELECT 1 FROM host_tags AS g WHERE g.host_id = h.id AND g.tag = ?)";
        text.bind(tagged, Value::Text(tag.as_str().to_owned()));
    }
    text.push(" AS eligible FROM ")
        .push(table)
        .push(" CROSS JOIN host_presence AS p ON p.host_key = h.host_key WHERE ");
    match drive {
        Drive::Fleet => text.push(condition),
        Drive::Kind(kind) => text.bind(condition, Value::Text(kind.as_str().to_owned())),
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
    text
}

/// The one that has the fewest rows, those first that are likely to.
fn drive(connection: &mut SqliteConnection, query: &CandidateQuery, visible: &Visible) -> Result<Drive, Failure> {
    let (tenant, kind) = match visible {
        Visible::Tenant(tenant_id, kind) => (Some(Drive::Tenant(tenant_id.clone())), query.kind.or(*kind)),
        Visible::Everything | Visible::Tenants { .. } => (None, query.kind),
    };
    let tags = query.tags.iter().map(|tag| Drive::Tag(tag.as_str().to_owned()));
    let drives = tags.chain(kind.map(Drive::Kind)).chain(tenant).collect();
    Ok(choose(connection, drives, rows_of)?.unwrap_or(Drive::Fleet))
}

/// What is counted of a drive: in an index that says all that is asked. But for those of a tag, with the few that take no work.
fn rows_of(drive: &Drive) -> Option<Statement> {
    let mut text = Statement::default();
    match drive {
        Drive::Fleet => return None,
        Drive::Tenant(tenant_id) => text.bind(
            "SELECT 1 FROM hosts INDEXED BY sqlite_autoindex_hosts_2 WHERE tenant_id = ?",
            Value::Text(tenant_id.clone()),
        ),
        Drive::Kind(kind) => {
            text.bind("SELECT 1 FROM hosts INDEXED BY hosts_kind WHERE kind = ?", Value::Text(kind.as_str().to_owned()))
        }
        Drive::Tag(tag) => text.bind(
            "SELECT 1 FROM host_tags INDEXED BY host_tags_ring WHERE status = 'online' AND cordoned = 0 AND tag = ?",
            Value::Text(tag.clone()),
        ),
    };
    Some(text)
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

/// The machine's numbers in these reports, by the keys of their hosts.
fn measured(connection: &mut SqliteConnection, report_ids: &[i64]) -> Result<Vec<(i64, At, HostMetrics)>, Failure> {
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
        .select((snapshots::host_key, snapshots::recorded_at, reals, counts))
        .load::<(i64, At, Reals, Counts)>(connection)?;
    let real = |real: Option<Real>| real.map(|real| real.0);
    let count = |count: Option<Count>| count.map(|count| count.0);
    let decode = |(host_key, at, reals, counts): (i64, At, Reals, Counts)| {
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
        (host_key, at, metrics)
    };
    Ok(rows.into_iter().map(decode).collect())
}

#[cfg(test)]
mod tests {
    use enlist_core::HostId;
    use enlist_core::policy::Scope;

    use super::*;
    use crate::statement::plan;

    /// Behind a place of the ring, in its order: a limit ends the walk.
    #[test]
    fn every_drive_walks_its_ring_and_looks_up_the_rest() {
        let after = Some(HostId::from_uuid(uuid::Uuid::from_u64_pair(1, 2)));
        let tags = ["x", "y"].map(|tag| tag.parse().expect("a tag")).into();
        let query = CandidateQuery { after, tags, ..CandidateQuery::new(Scope::All, 50) };
        for (drive, index) in [
            (Drive::Fleet, "hosts_ring (<expr>>?"),
            (Drive::Tenant("a".to_owned()), "hosts_ring_of_tenant (tenant_id=? AND <expr>>?"),
            (Drive::Kind(HostKind::Byoc), "hosts_ring_of_kind (kind=? AND <expr>>?"),
            (Drive::Tag("x".to_owned()), "host_tags_ring (tag=? AND <expr>>?"),
        ] {
            let plan = plan(walk(&query, Visible::Everything, drive));
            assert!(plan[0].contains(index), "{plan:#?}");
            assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE") && !step.starts_with("SCAN")), "{plan:#?}");
        }
    }

    #[test]
    fn rows_are_counted_in_the_index_alone() {
        for drive in [Drive::Tenant("a".to_owned()), Drive::Kind(HostKind::Byoc), Drive::Tag("x".to_owned())] {
            let plan = plan(rows_of(&drive).expect("it is counted"));
            assert!(plan.iter().any(|step| step.contains("USING COVERING INDEX")), "{plan:#?}");
        }
    }
}
