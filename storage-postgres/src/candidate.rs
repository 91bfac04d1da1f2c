//! Candidates for placement: a few rows of the ring, by the index that narrows it most.

use std::collections::HashMap;

use enlist_core::HostId;
use enlist_core::host::HostKind;
use enlist_core::store::{Candidate, CandidateQuery, Candidates, HostRecord, Visible};
use enlist_core::telemetry::HostMetrics;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row};

use crate::column::{Id, overread};
use crate::error::Failure;
use crate::host::{self, host_columns};
use crate::presence::presence_columns;
use crate::snapshot;
use crate::transaction::{COUNT, Db};

/// Hosts, with the machine's numbers in the newest report of each, if it is kept: one row of one day.
const RECORDS: &str = concat!(
    "SELECT ",
    host_columns!(),
    ", ",
    presence_columns!(),
    ", s.measured, s.cpu_percent, s.load_1m, s.load_5m, s.load_15m, s.memory_used_bytes, s.memory_total_bytes,
       s.swap_used_bytes, s.swap_total_bytes, s.disk_used_bytes, s.disk_total_bytes, s.network_rx_bytes,
       s.network_tx_bytes, s.uptime_seconds
     FROM {schema}.hosts AS h
     JOIN {schema}.host_presence AS p ON p.host_id = h.id
     LEFT JOIN LATERAL (
         SELECT TRUE AS measured, m.* FROM {schema}.host_metric_snapshots AS m
         WHERE m.host_id = p.host_id AND m.recorded_at = p.newest_report_at
     ) AS s ON TRUE
     WHERE h.id = ANY($1)"
);

/// What finds the hosts.
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

/// `list_candidates`. Several statements: in a snapshot, as a walk whose statements are kept.
pub(crate) async fn list(db: &mut Db, query: &CandidateQuery) -> Result<Candidates, Failure> {
    let visible = Visible::of(&query.scope, query.tenant_id.as_ref());
    if visible.is_nothing() {
        return Ok(Candidates::NONE);
    }
    let mut places = window(db, query, visible).await?;
    let more = places.len() > query.limit;
    places.truncate(query.limit);
    let next = places.last().filter(|_| more).map(|(id, _)| HostId::from(*id));
    let ids: Vec<_> = places.into_iter().filter(|(_, eligible)| *eligible).map(|(id, _)| id).collect();
    if ids.is_empty() {
        return Ok(Candidates { items: Vec::new(), next });
    }
    let mut found = records(db, &ids).await?;
    Ok(Candidates { items: ids.into_iter().filter_map(|id| found.remove(&HostId::from(id))).collect(), next })
}

async fn records(db: &mut Db, ids: &[Id]) -> Result<HashMap<HostId, Candidate>, Failure> {
    let rows = db.query(RECORDS).bind(ids.to_vec()).fetch_all(db.connection()).await?;
    let candidate = |row: &PgRow| {
        let record: HostRecord = host::record(row)?;
        Ok((record.host.id, Candidate { metrics: metrics(row)?, record }))
    };
    rows.iter().map(candidate).collect()
}

/// The next places of the ring, one more than was asked for, and whether each may take the work.
async fn window(db: &mut Db, query: &CandidateQuery, visible: Visible) -> Result<Vec<(Id, bool)>, Failure> {
    let drive = drive(db, query, &visible).await?;
    let mut text = walk(db, db.builder(""), query, visible, &drive);
    let rows = db.kept(&mut text).fetch_all(db.connection()).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("eligible")?))).collect()
}

fn walk(
    db: &Db,
    mut text: QueryBuilder<Postgres>,
    query: &CandidateQuery,
    visible: Visible,
    drive: &Drive,
) -> QueryBuilder<Postgres> {
    let id = if matches!(drive, Drive::Tag(_)) { "t.host_id" } else { "h.id" };
    // `is_eligible`, restated where rows are chosen.
    text.push("SELECT ").push(id).push(" AS id, p.presence = 'online' AND h.archived_at IS NULL AND NOT h.cordoned");
    match visible {
        Visible::Everything => {}
        Visible::Tenant(tenant_id, kind) => {
            text.push(" AND h.tenant_id = ").push_bind(tenant_id);
            if let Some(kind) = kind {
                text.push(" AND h.kind = ").push_bind(kind.as_str());
            }
        }
        Visible::Tenants { both, managed, byoc } => {
            text.push(" AND (h.tenant_id = ANY(").push_bind(both);
            text.push(") OR (h.kind = 'managed' AND h.tenant_id = ANY(").push_bind(managed);
            text.push(")) OR (h.kind = 'byoc' AND h.tenant_id = ANY(").push_bind(byoc).push(")))");
        }
    }
    if let Some(kind) = query.kind {
        text.push(" AND h.kind = ").push_bind(kind.as_str());
    }
    let shared = db.shared();
    for tag in query.tags.iter().filter(|tag| !matches!(drive, Drive::Tag(of_all) if of_all == tag.as_str())) {
        let tagged = shared.sql.put_in(" AND EXISTS (SELECT FROM {schema}.host_tags AS g WHERE g.host_id = h.id");
        text.push(tagged).push(" AND g.tag = ").push_bind(tag.as_str()).push(")");
    }
    text.push(" AS eligible FROM ");
    let hosts = "{schema}.hosts AS h JOIN {schema}.host_presence AS p ON p.host_id = h.id";
    // The partial indexes are used where their condition is asked for, to the letter.
    match drive {
        Drive::Fleet => {
            text.push(shared.sql.put_in(hosts)).push(" WHERE h.archived_at IS NULL AND NOT h.cordoned");
        }
        Drive::Tenant(tenant_id) => {
            text.push(shared.sql.put_in(hosts)).push(" WHERE h.archived_at IS NULL AND NOT h.cordoned");
            text.push(" AND h.tenant_id = ").push_bind(tenant_id.clone());
        }
        Drive::Kind(kind) => {
            text.push(shared.sql.put_in(hosts)).push(" WHERE h.archived_at IS NULL AND NOT h.cordoned");
            text.push(" AND h.kind = ").push_bind(kind.as_str());
        }
        Drive::Tag(tag) => {
            text.push(shared.sql.put_in("{schema}.host_tags AS t JOIN {schema}.hosts AS h ON h.id = t.host_id"));
            text.push(shared.sql.put_in(" JOIN {schema}.host_presence AS p ON p.host_id = t.host_id"));
            text.push(" WHERE t.status = 'online' AND NOT t.cordoned AND t.tag = ").push_bind(tag.clone());
        }
    }
    if let Some(after) = query.after {
        text.push(" AND (substr(uuid_send(").push(id).push("), 9), ").push(id).push(") > (");
        text.push_bind(after.lot().to_be_bytes().to_vec()).push(", ").push_bind(Id::from(after)).push(")");
    }
    text.push(" ORDER BY substr(uuid_send(").push(id).push("), 9), ").push(id);
    text.push(" LIMIT ").push_bind(overread(query.limit));
    text
}

/// The one that has the fewest rows, those first that are likely to.
async fn drive(db: &mut Db, query: &CandidateQuery, visible: &Visible) -> Result<Drive, Failure> {
    let (tenant, kind) = match visible {
        Visible::Tenant(tenant_id, kind) => (Some(Drive::Tenant(tenant_id.clone())), query.kind.or(*kind)),
        Visible::Everything | Visible::Tenants { .. } => (None, query.kind),
    };
    let tags = query.tags.iter().map(|tag| Drive::Tag(tag.as_str().to_owned()));
    let drives = tags.chain(kind.map(Drive::Kind)).chain(tenant).collect();
    Ok(db.choose(drives, rows_of).await?.unwrap_or(Drive::Fleet))
}

/// What is counted of a drive: in an index that says all that is asked. But for those of a tag, with the few that take no work.
fn rows_of(db: &Db, drive: &Drive) -> Option<QueryBuilder<Postgres>> {
    let mut text = db.builder(COUNT);
    let put_in = |text| db.shared().sql.put_in(text);
    match drive {
        Drive::Fleet => return None,
        Drive::Tenant(tenant_id) => text.push(put_in("{schema}.hosts WHERE tenant_id = ")).push_bind(tenant_id.clone()),
        Drive::Kind(kind) => text.push(put_in("{schema}.hosts WHERE kind = ")).push_bind(kind.as_str()),
        Drive::Tag(tag) => {
            let tagged = "{schema}.host_tags WHERE status = 'online' AND NOT cordoned AND tag = ";
            text.push(put_in(tagged)).push_bind(tag.clone())
        }
    };
    Some(text)
}

/// Of the newest report, if it is there.
fn metrics(row: &PgRow) -> Result<Option<HostMetrics>, Failure> {
    if row.try_get::<Option<bool>, _>("measured")?.is_none() {
        return Ok(None);
    }
    snapshot::metrics(row).map(Some)
}

#[cfg(test)]
mod tests {
    use enlist_core::policy::Scope;

    use super::*;
    use crate::transaction::plans;

    /// In its order: a limit ends the walk.
    #[tokio::test]
    async fn every_drive_walks_its_ring_and_looks_up_the_rest() {
        let after = Some(HostId::from_uuid(uuid::Uuid::from_u64_pair(1, 2)));
        let tags = ["x", "y"].map(|tag| tag.parse().expect("a tag")).into();
        let query = CandidateQuery { after, tags, ..CandidateQuery::new(Scope::All, 50) };
        let cases = vec![
            (Drive::Fleet, "hosts_ring on hosts h"),
            (Drive::Tenant("a".to_owned()), "hosts_ring_of_tenant on hosts h"),
            (Drive::Kind(HostKind::Byoc), "hosts_ring_of_kind on hosts h"),
            (Drive::Tag("x".to_owned()), "host_tags_ring on host_tags t"),
        ];
        let plans = plans(cases, move |db, text, (drive, _)| walk(db, text, &query, Visible::Everything, drive));
        for ((_, index), plan) in plans.await {
            assert!(plan.iter().any(|step| step.contains(index)), "{plan:#?}");
            assert!(plan.iter().all(|step| !step.contains("Sort") && !step.contains("Seq Scan")), "{plan:#?}");
        }
    }

    /// Planning takes far longer than the walk: it is not done again for other values.
    #[tokio::test]
    async fn a_walk_and_its_records_are_planned_once_whatever_the_values() {
        let database = enlist_testing::Database::empty("candidate").await.expect("a database");
        let store = crate::PgStore::connect(database.url()).await.expect("it is there");
        store.migrate().await.expect("the tables");
        let plans = store.shared.kept_walk(|db| {
            Box::pin(async move {
                for number in 1..=3 {
                    let tags =
                        [format!("x{number}"), format!("y{number}")].map(|tag| tag.parse().expect("a tag")).into();
                    let query = CandidateQuery { tags, ..CandidateQuery::new(Scope::All, number) };
                    assert_eq!(list(db, &query).await?.items.len(), 0);
                    records(db, &[Id::from(HostId::from_uuid(uuid::Uuid::from_u128(number as u128)))]).await?;
                }
                let kept = sqlx::query("SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements");
                Ok(kept.fetch_all(db.connection()).await?)
            })
        });
        let plans = plans.await.expect("statements");
        let ours = |row: &PgRow| !row.get::<String, _>("statement").contains("pg_prepared_statements");
        let plans: Vec<(i64, i64)> = plans
            .iter()
            .filter(|row| ours(row))
            .map(|row| (row.get("generic_plans"), row.get("custom_plans")))
            .collect();
        // A count of each tag, the walk, the records, and once, of a new connection, the version of the schema.
        assert!(plans.iter().all(|(_, custom)| *custom == 0), "{plans:?}");
        assert!(plans.iter().filter(|(generic, _)| *generic >= 3).count() >= 3, "{plans:?}");
        store.close().await;
    }
}
