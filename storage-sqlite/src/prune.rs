//! What is old goes, in bounded steps, and so does what deleted hosts left behind.

use std::collections::HashSet;

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use enlist_core::store::{Page, Prune, Pruned};

use crate::column::{At, Id, overread};
use crate::error::Failure;
use crate::schema::{
    containers, deleted_hosts, events, host_metric_snapshots, host_presence, install_tokens, report_containers,
    report_containers_more, tombstones,
};
use crate::transaction::immediate;

/// How many rows of a kind go in one call, however many were asked for: new reports wait for as long as it has the
/// writer. Rows of containers' numbers are such a kind, give or take those of one report, which can have hundreds.
const MOST: usize = 20_000;
/// A statement has a bound on its parameters.
const CHUNK: usize = 1_000;

/// What one kind gave.
#[derive(Debug, Clone, Copy)]
struct Step {
    rows: usize,
    more: bool,
}

/// `prune`: one transaction, so that each call is done whole or not at all.
pub(crate) fn prune(connection: &mut SqliteConnection, prune: &Prune) -> Result<Pruned, Failure> {
    let prune = &Prune { limit: prune.limit.min(MOST), ..*prune };
    immediate(connection, |connection| {
        // Keys behind containers and snapshots, which set them free; hosts last, when nothing is left of them.
        let snapshots = old_snapshots(connection, prune)?;
        let of_deleted_hosts = containers_of_deleted_hosts(connection, prune)?;
        let steps = [
            snapshots,
            of_deleted_hosts,
            old_containers(connection, prune, prune.limit.saturating_sub(of_deleted_hosts.rows))?,
            unused_keys(connection, prune)?,
            old_events(connection, prune)?,
            old_tombstones(connection, prune)?,
            spent_install_tokens(connection, prune)?,
        ];
        forget_hosts(connection)?;
        let rows: usize = steps.iter().map(|step| step.rows).sum();
        Ok(Pruned { rows: rows as u64, more: steps.iter().any(|step| step.more) })
    })
}

/// Snapshots of deleted hosts, whatever their age, then those that are old.
fn old_snapshots(connection: &mut SqliteConnection, prune: &Prune) -> Result<Step, Failure> {
    let mut all = Step { rows: 0, more: false };
    for part in [snapshots_of_deleted_hosts, first_snapshots, other_snapshots] {
        let step = part(connection, prune, prune.limit.saturating_sub(all.rows))?;
        all = Step { rows: all.rows + step.rows, more: step.more };
        if all.more {
            break;
        }
    }
    Ok(all)
}

fn snapshots_of_deleted_hosts(connection: &mut SqliteConnection, _: &Prune, room: usize) -> Result<Step, Failure> {
    // As text for the sake of CROSS JOIN, which SQLite takes as an order: from each host into the one index of its
    // snapshots.
    const IDS: &str = "SELECT s.report_id
         FROM deleted_hosts d CROSS JOIN host_metric_snapshots s ON s.host_key = d.host_key
         LIMIT ?";
    let ids = sql_query(IDS).bind::<BigInt, _>(overread(room)).load(connection)?;
    delete_one_by_one(connection, Page::of_overread(ids, room))
}

/// Old snapshots from the beginning of the table on, up to the first that is not: nearly all that are old, since reports come
/// in about the order in which they were measured. They lie side by side, and go together.
fn first_snapshots(connection: &mut SqliteConnection, prune: &Prune, room: usize) -> Result<Step, Failure> {
    // The first report that has rows beyond as many as may go.
    const TOO_FAR: &str = "SELECT report_id FROM report_containers_more
         WHERE report_id BETWEEN ? AND ? ORDER BY report_id LIMIT 1 OFFSET ?";
    let ids = host_metric_snapshots::table
        .select((host_metric_snapshots::report_id, host_metric_snapshots::recorded_at))
        .order(host_metric_snapshots::report_id)
        .limit(overread(room))
        .load::<(i64, At)>(connection)?;
    let old = ids.into_iter().take_while(|(_, recorded_at)| recorded_at.0 < prune.snapshots_before);
    let mut ids = Page::of_overread(old.map(|(report_id, _)| report_id).collect(), room);
    let (Some(from), Some(to)) = (ids.items.first(), ids.items.last()) else {
        return Ok(Step { rows: 0, more: ids.more });
    };
    let most = i64::try_from(MOST).unwrap_or(i64::MAX);
    let too_far = sql_query(TOO_FAR).bind::<BigInt, _>(from).bind::<BigInt, _>(to).bind::<BigInt, _>(most);
    let too_far: Option<ReportId> = too_far.get_result(connection).optional()?;
    if let Some(ReportId { report_id }) = too_far {
        // The first of them goes all the same, or none ever would.
        let end = ids.items.partition_point(|id| *id < report_id).max(1);
        ids.more |= end < ids.items.len();
        ids.items.truncate(end);
    }
    if let (Some(from), Some(to)) = (ids.items.first(), ids.items.last()) {
        delete_snapshots(connection, *from, *to)?;
    }
    Ok(Step { rows: ids.items.len(), more: ids.more })
}

/// Old snapshots that came late, or behind one that is not old.
fn other_snapshots(connection: &mut SqliteConnection, prune: &Prune, room: usize) -> Result<Step, Failure> {
    // By way of the hosts: an index by time alone would cost every report. In the order of the hosts, or SQLite would go to
    // them by way of some other index.
    const IDS: &str = "SELECT s.report_id
         FROM host_presence p CROSS JOIN host_metric_snapshots s ON s.host_key = p.host_key AND s.recorded_at < ?
         ORDER BY p.host_id
         LIMIT ?";
    let before = At(prune.snapshots_before);
    let ids = sql_query(IDS).bind::<BigInt, _>(before).bind::<BigInt, _>(overread(room)).load(connection)?;
    delete_one_by_one(connection, Page::of_overread(ids, room))
}

#[derive(Debug, QueryableByName)]
struct ReportId {
    #[diesel(sql_type = BigInt)]
    report_id: i64,
}

fn delete_one_by_one(connection: &mut SqliteConnection, ids: Page<ReportId>) -> Result<Step, Failure> {
    let (mut rows, mut numbers) = (0, 0);
    for ReportId { report_id } in &ids.items {
        if numbers >= MOST {
            break;
        }
        numbers += delete_snapshots(connection, *report_id, *report_id)?;
        rows += 1;
    }
    Ok(Step { rows, more: ids.more || rows < ids.items.len() })
}

/// All that there are in a range, which nobody else may have a part in; how many rows of containers' numbers that were.
fn delete_snapshots(connection: &mut SqliteConnection, from: i64, to: i64) -> Result<usize, Failure> {
    let first = diesel::delete(report_containers::table.filter(report_containers::report_id.between(from, to)));
    let more =
        diesel::delete(report_containers_more::table.filter(report_containers_more::report_id.between(from, to)));
    let numbers = first.execute(connection)? + more.execute(connection)?;
    diesel::delete(host_metric_snapshots::table.filter(host_metric_snapshots::report_id.between(from, to)))
        .execute(connection)?;
    Ok(numbers)
}

fn containers_of_deleted_hosts(connection: &mut SqliteConnection, prune: &Prune) -> Result<Step, Failure> {
    // Not a join: SQLite would go through all containers for it.
    let keys = containers::table
        .filter(containers::host_id.eq_any(deleted_hosts::table.select(deleted_hosts::host_id)))
        .select(containers::container_key)
        .limit(overread(prune.limit));
    let keys = Page::of_overread(keys.load::<i64>(connection)?, prune.limit);
    delete_containers(connection, keys)
}

/// Containers that are gone for long. Nothing is listed of them any more; a row for the key's sake stays until no
/// snapshot names it, since snapshots that are young enough stay as they are. At most `room` of them.
fn old_containers(connection: &mut SqliteConnection, prune: &Prune, room: usize) -> Result<Step, Failure> {
    let gone = containers::table
        .inner_join(host_presence::table.on(host_presence::host_id.eq(containers::host_id)))
        .filter(containers::removed_at.lt(At(prune.containers_removed_before)))
        .select((
            containers::container_key,
            containers::host_id,
            containers::container_id,
            host_presence::newest_report_at,
        ))
        .limit(overread(room));
    let gone = Page::of_overread(gone.load::<(i64, Id, String, Option<At>)>(connection)?, room);
    let step = Step { rows: gone.items.len(), more: gone.more };
    let mut hosts = HashSet::new();
    for (key, host_id, container_id, newest_report_at) in gone.items {
        let key_only = (
            containers::container_key.eq(key),
            containers::host_id.eq(host_id),
            containers::container_id.eq(container_id),
            // No snapshot that is stored was measured later.
            containers::named_until.eq(newest_report_at),
        );
        // Over the whole row: what is not said is null.
        diesel::replace_into(containers::table).values(key_only).execute(connection)?;
        hosts.insert(host_id);
    }
    for host_id in hosts {
        diesel::update(host_presence::table.find(host_id))
            .set(host_presence::containers_version.eq(host_presence::containers_version + 1))
            .execute(connection)?;
    }
    Ok(step)
}

/// Keys that no snapshot names any more. Nobody has seen their rows since their containers went, so that they neither
/// count nor raise a version.
fn unused_keys(connection: &mut SqliteConnection, prune: &Prune) -> Result<Step, Failure> {
    let may_name = host_metric_snapshots::table
        .inner_join(host_presence::table.on(host_presence::host_key.eq(host_metric_snapshots::host_key)))
        .filter(host_presence::host_id.eq(containers::host_id))
        .filter(host_metric_snapshots::recorded_at.nullable().le(containers::named_until));
    let keys = containers::table
        .filter(containers::name.is_null())
        .filter(containers::named_until.lt(At(prune.snapshots_before)))
        .filter(not(exists(may_name)))
        .select(containers::container_key)
        .limit(overread(prune.limit));
    let keys = Page::of_overread(keys.load::<i64>(connection)?, prune.limit);
    Ok(Step { rows: 0, ..delete_containers(connection, keys)? })
}

fn delete_containers(connection: &mut SqliteConnection, keys: Page<i64>) -> Result<Step, Failure> {
    for keys in keys.items.chunks(CHUNK) {
        diesel::delete(containers::table.filter(containers::container_key.eq_any(keys))).execute(connection)?;
    }
    Ok(Step { rows: keys.items.len(), more: keys.more })
}

fn old_events(connection: &mut SqliteConnection, prune: &Prune) -> Result<Step, Failure> {
    let positions = events::table
        .filter(events::at.lt(At(prune.events_before)))
        .select(events::position)
        .limit(overread(prune.limit));
    let positions = Page::of_overread(positions.load::<i64>(connection)?, prune.limit);
    for positions in positions.items.chunks(CHUNK) {
        diesel::delete(events::table.filter(events::position.eq_any(positions))).execute(connection)?;
    }
    Ok(Step { rows: positions.items.len(), more: positions.more })
}

/// Their hashes are forgotten with them, by a trigger.
fn old_tombstones(connection: &mut SqliteConnection, prune: &Prune) -> Result<Step, Failure> {
    let hashes = tombstones::table
        .filter(tombstones::deleted_at.lt(At(prune.tombstones_before)))
        .select(tombstones::hash)
        .limit(overread(prune.limit));
    let hashes = Page::of_overread(hashes.load::<Vec<u8>>(connection)?, prune.limit);
    for hashes in hashes.items.chunks(CHUNK) {
        diesel::delete(tombstones::table.filter(tombstones::hash.eq_any(hashes))).execute(connection)?;
    }
    Ok(Step { rows: hashes.items.len(), more: hashes.more })
}

/// Their hashes stay in the register.
fn spent_install_tokens(connection: &mut SqliteConnection, prune: &Prune) -> Result<Step, Failure> {
    let ids = install_tokens::table
        .filter(install_tokens::spent_at.lt(At(prune.install_tokens_before)))
        .select(install_tokens::id)
        .limit(overread(prune.limit));
    let ids = Page::of_overread(ids.load::<Id>(connection)?, prune.limit);
    for ids in ids.items.chunks(CHUNK) {
        diesel::delete(install_tokens::table.filter(install_tokens::id.eq_any(ids))).execute(connection)?;
    }
    Ok(Step { rows: ids.items.len(), more: ids.more })
}

fn forget_hosts(connection: &mut SqliteConnection) -> Result<(), Failure> {
    let snapshots = host_metric_snapshots::table.filter(host_metric_snapshots::host_key.eq(deleted_hosts::host_key));
    let rows = containers::table.filter(containers::host_id.eq(deleted_hosts::host_id));
    let done = deleted_hosts::table.filter(not(exists(snapshots))).filter(not(exists(rows)));
    diesel::delete(done).execute(connection)?;
    Ok(())
}
