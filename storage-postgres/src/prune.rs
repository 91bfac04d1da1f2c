//! What is old goes, in steps; each is a transaction of its own, so that none holds anything for long.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use enlist_core::Timestamp;
use enlist_core::store::{Prune, Pruned};
use futures_util::future::BoxFuture;
use sqlx::Row;

use crate::column::{At, Count, Id, bounded, overread};
use crate::error::Failure;
use crate::partition::{self, Day};
use crate::presence::{self, PresenceRow};
use crate::store::Shared;
use crate::transaction::Db;

/// How many days are made ahead of the one that is.
const DAYS_AHEAD: i64 = 2;
/// How many days are dropped in a call at most: as with rows, the rest is left to the next one.
const DAYS_A_CALL: usize = 32;
/// How many deleted hosts are looked at in a call at most.
const HOSTS_A_CALL: i64 = 256;

const EVENTS: &str = "
    WITH old AS MATERIALIZED (
        SELECT position FROM {schema}.events WHERE at < $1 ORDER BY position LIMIT $3
    ), gone AS (
        DELETE FROM {schema}.events WHERE position IN (SELECT position FROM old ORDER BY position LIMIT $2)
        RETURNING position
    )
    SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM old) AS old";

/// The register's row goes, and the tombstone with it.
const TOMBSTONES: &str = "
    WITH old AS MATERIALIZED (
        SELECT hash FROM {schema}.tombstones WHERE deleted_at < $1 ORDER BY hash LIMIT $3
    ), gone AS (
        DELETE FROM {schema}.token_hashes WHERE hash IN (SELECT hash FROM old ORDER BY hash LIMIT $2)
        RETURNING hash
    )
    SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM old) AS old";

/// Their hashes stay in the register.
const INSTALL_TOKENS: &str = "
    WITH old AS MATERIALIZED (
        SELECT id FROM {schema}.install_tokens WHERE spent_at < $1 ORDER BY spent_at, id LIMIT $3
    ), gone AS (
        DELETE FROM {schema}.install_tokens AS t
        WHERE t.id IN (SELECT id FROM old LIMIT $2) AND t.spent_at < $1
        RETURNING t.id
    )
    SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM old) AS old";

/// Only of hosts that are there: what deleted ones leave behind goes with them.
const REMOVED_CONTAINERS: &str = "
    SELECT c.host_id, c.container_id
    FROM {schema}.containers AS c
    JOIN {schema}.host_presence AS p ON p.host_id = c.host_id
    WHERE c.removed_at < $1
    ORDER BY c.removed_at
    LIMIT $2";
/// What is left is what reports name it by.
const FORGET_CONTAINERS: &str = "
    UPDATE {schema}.containers AS c SET
        name = NULL, image = NULL, image_tag = NULL, state = NULL, health = NULL, restarts = NULL, exit_code = NULL,
        oom_killed = NULL, ports = NULL, labels = NULL, started_at = NULL, finished_at = NULL, error = NULL,
        first_seen_at = NULL, last_seen_at = NULL, removed_at = NULL, named_until = k.named_until
    FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS k (host_id, container_id, named_until)
    WHERE c.host_id = k.host_id AND c.container_id = k.container_id AND c.removed_at < $4
    RETURNING c.host_id";

/// Rows for the sake of a key that no report names any more. The second bound of a report's time says nothing new: it
/// keeps days out that are too young.
macro_rules! unused_keys {
    ($begin:literal, $end:literal) => {
        concat!(
            $begin,
            " c.name IS NULL AND c.named_until < $1 AND NOT EXISTS (
                SELECT FROM {schema}.host_metric_snapshots AS s
                WHERE s.host_id = c.host_id AND s.recorded_at <= c.named_until AND s.recorded_at < $1)",
            $end
        )
    };
}
const UNUSED_KEYS: &str = unused_keys!(
    "SELECT c.host_id, c.container_id FROM {schema}.containers AS c WHERE",
    " ORDER BY c.named_until LIMIT $2"
);
const DELETE_KEYS: &str = unused_keys!(
    "DELETE FROM {schema}.containers AS c
     USING unnest($2::uuid[], $3::text[]) AS k (host_id, container_id)
     WHERE c.host_id = k.host_id AND c.container_id = k.container_id AND",
    ""
);

/// Locked, so that two replicas take turns.
const DELETED_HOSTS: &str = "SELECT host_id FROM {schema}.deleted_hosts ORDER BY host_id LIMIT $1 FOR UPDATE";
const CONTAINERS_OF_DELETED: &str = "
    DELETE FROM {schema}.containers WHERE (host_id, container_id) IN (
        SELECT host_id, container_id FROM {schema}.containers WHERE host_id = ANY($1) LIMIT $2)";
/// Day after day, until there are enough: the newest of them bounds what is deleted.
const SNAPSHOTS_OF_DELETED: &str = "
    SELECT host_id, recorded_at FROM {schema}.host_metric_snapshots WHERE host_id = ANY($1) LIMIT $2";
/// With the bounds, only the days in between are looked at.
const DELETE_SNAPSHOTS: &str = "
    DELETE FROM {schema}.host_metric_snapshots AS s
    USING unnest($1::uuid[], $2::timestamptz[]) AS k (host_id, recorded_at)
    WHERE s.host_id = k.host_id AND s.recorded_at = k.recorded_at AND s.recorded_at >= $3 AND s.recorded_at <= $4";
const LEFT_OF_DELETED: &str = "
    SELECT EXISTS (SELECT FROM {schema}.containers WHERE host_id = ANY($1))
        OR EXISTS (SELECT FROM {schema}.host_metric_snapshots WHERE host_id = ANY($1)) AS something";
const FORGET_DELETED: &str = "DELETE FROM {schema}.deleted_hosts WHERE host_id = ANY($1)";

/// What a step did: how many rows, and whether something is left.
type Step = (u64, bool);

/// `prune`.
pub(crate) async fn prune(shared: Arc<Shared>, prune: Prune) -> Result<Pruned, Failure> {
    let today = Day::of(prune.now);
    let ahead: Vec<_> = (0..=DAYS_AHEAD).map(|days| today.later(days)).collect();
    shared.attempt(&ahead, |_| Box::pin(async { Ok(()) })).await?;
    let steps = [
        days(&shared, &prune).await?,
        // Keys behind containers and reports, which set them free.
        step(&shared, prune, |db, prune| Box::pin(removed_containers(db, prune))).await?,
        step(&shared, prune, |db, prune| Box::pin(unused_keys(db, prune))).await?,
        step(&shared, prune, |db, prune| Box::pin(counted(db, EVENTS, At(prune.events_before), prune.limit))).await?,
        step(&shared, prune, |db, prune| Box::pin(counted(db, TOMBSTONES, At(prune.tombstones_before), prune.limit)))
            .await?,
        step(&shared, prune, |db, prune| {
            Box::pin(counted(db, INSTALL_TOKENS, At(prune.install_tokens_before), prune.limit))
        })
        .await?,
        step(&shared, prune, |db, prune| Box::pin(deleted_hosts(db, prune.limit))).await?,
    ];
    let rows = steps.iter().map(|(rows, _)| rows).sum();
    Ok(Pruned { rows, more: steps.iter().any(|(_, more)| *more) })
}

async fn step(
    shared: &Arc<Shared>,
    prune: Prune,
    work: impl for<'a> Fn(&'a mut Db, Prune) -> BoxFuture<'a, Result<Step, Failure>> + Send + Sync,
) -> Result<Step, Failure> {
    shared.attempt(&[], |db| work(db, prune)).await
}

/// Drops the days that lie wholly before, each in a transaction of its own. The first one that is in use ends it: every
/// further attempt would hold up the reports that come behind it. What is left waits for the next call, and is not
/// "more": asking again at once would meet the same reader.
async fn days(shared: &Arc<Shared>, prune: &Prune) -> Result<Step, Failure> {
    let before = prune.snapshots_before;
    let old = shared.attempt(&[], |db| Box::pin(partition::older(db, before))).await?;
    let more = old.len() > DAYS_A_CALL;
    for day in old.into_iter().take(DAYS_A_CALL) {
        match shared.attempt(&[], |db| Box::pin(partition::drop_day(db, day))).await {
            Ok(()) => {}
            Err(failure) if failure.is_lock_timeout() || failure.lost_to_another() => return Ok((0, false)),
            Err(failure) => return Err(failure),
        }
    }
    Ok((0, more))
}

/// One statement that reads one more than it deletes.
async fn counted(db: &mut Db, text: &'static str, before: At, limit: usize) -> Result<Step, Failure> {
    let query = db.query(text).bind(before).bind(bounded(limit)).bind(overread(limit));
    let row = query.fetch_one(db.connection()).await?;
    let (gone, old): (Count, Count) = (row.try_get("gone")?, row.try_get("old")?);
    Ok((gone.0, old.0 > gone.0))
}

/// Containers that were removed long ago. Nothing is listed of them any more; their keys stay for as long as there may be
/// reports that name them. Whoever caches a host's containers is told by its version.
async fn removed_containers(db: &mut Db, prune: Prune) -> Result<Step, Failure> {
    let before = At(prune.containers_removed_before);
    let (mut hosts, mut ids, more) = containers(db, REMOVED_CONTAINERS, before, prune.limit).await?;
    if hosts.is_empty() {
        return Ok((0, more));
    }
    let mut locked = presence::lock(db, hosts.clone()).await?;
    // No report that is stored was measured later. Where none was, none names a container.
    let newest = |row: &PresenceRow| (row.host_id, row.newest_report_at.unwrap_or(At(Timestamp::MIN)));
    let newest: HashMap<Id, At> = locked.iter().map(newest).collect();
    // A host that was deleted meanwhile takes its containers along.
    (hosts, ids) = hosts.into_iter().zip(ids).filter(|(host, _)| newest.contains_key(host)).unzip();
    let until = hosts.iter().map(|host| newest[host]).collect::<Vec<_>>();
    // Asked again under the lock: a container may have come back meanwhile.
    let forget = db.query(FORGET_CONTAINERS).bind(hosts).bind(ids).bind(until).bind(before);
    let gone = forget.fetch_all(db.connection()).await?;
    let touched: BTreeSet<Id> = gone.iter().map(|row| row.try_get("host_id")).collect::<Result<_, _>>()?;
    for row in locked.iter_mut().filter(|row| touched.contains(&row.host_id)) {
        row.containers_version.0 += 1;
        row.touch();
    }
    presence::put(db, &locked.iter().collect::<Vec<_>>()).await?;
    Ok((gone.len() as u64, more))
}

/// Keys that no report names any more. Nobody has seen their rows since their containers went, so that they neither count
/// nor raise a version.
async fn unused_keys(db: &mut Db, prune: Prune) -> Result<Step, Failure> {
    let before = At(prune.snapshots_before);
    let (hosts, ids, more) = containers(db, UNUSED_KEYS, before, prune.limit).await?;
    if !hosts.is_empty() {
        presence::lock(db, hosts.clone()).await?;
        // Asked again under the lock: a late report may have named one meanwhile.
        db.query(DELETE_KEYS).bind(before).bind(hosts).bind(ids).execute(db.connection()).await?;
    }
    Ok((0, more))
}

/// The containers that a statement finds, at most `limit`, and whether there are more.
async fn containers(
    db: &mut Db,
    text: &'static str,
    before: At,
    limit: usize,
) -> Result<(Vec<Id>, Vec<String>, bool), Failure> {
    let rows = db.query(text).bind(before).bind(overread(limit)).fetch_all(db.connection()).await?;
    let of_page = rows.iter().take(limit);
    let hosts = of_page.clone().map(|row| row.try_get("host_id")).collect::<Result<_, _>>()?;
    let ids = of_page.map(|row| row.try_get("container_id")).collect::<Result<_, _>>()?;
    Ok((hosts, ids, rows.len() > limit))
}

/// What deleted hosts have reported. Nobody writes it any more: an append finds no presence to lock.
async fn deleted_hosts(db: &mut Db, limit: usize) -> Result<Step, Failure> {
    let rows = db.query(DELETED_HOSTS).bind(HOSTS_A_CALL + 1).fetch_all(db.connection()).await?;
    let mut hosts = rows.iter().map(|row| row.try_get::<Id, _>("host_id")).collect::<Result<Vec<_>, _>>()?;
    let further = hosts.len() as i64 > HOSTS_A_CALL;
    hosts.truncate(HOSTS_A_CALL as usize);
    if hosts.is_empty() {
        return Ok((0, false));
    }
    let delete = db.query(CONTAINERS_OF_DELETED).bind(hosts.clone()).bind(bounded(limit));
    let mut gone = delete.execute(db.connection()).await?.rows_affected();
    gone += snapshots_of_deleted(db, &hosts, limit).await?;
    let left = db.query(LEFT_OF_DELETED).bind(hosts.clone()).fetch_one(db.connection()).await?;
    let left: bool = left.try_get("something")?;
    if !left {
        db.query(FORGET_DELETED).bind(hosts).execute(db.connection()).await?;
    }
    Ok((gone, left || further))
}

async fn snapshots_of_deleted(db: &mut Db, hosts: &[Id], limit: usize) -> Result<u64, Failure> {
    let some = db.query(SNAPSHOTS_OF_DELETED).bind(hosts.to_vec()).bind(bounded(limit));
    let rows = some.fetch_all(db.connection()).await?;
    let of = rows.iter().map(|row| row.try_get::<Id, _>("host_id")).collect::<Result<Vec<_>, _>>()?;
    let times = rows.iter().map(|row| row.try_get::<At, _>("recorded_at")).collect::<Result<Vec<_>, _>>()?;
    let (Some(first), Some(last)) = (times.iter().min().copied(), times.iter().max().copied()) else { return Ok(0) };
    let delete = db.query(DELETE_SNAPSHOTS).bind(of).bind(times).bind(first).bind(last);
    Ok(delete.execute(db.connection()).await?.rows_affected())
}
