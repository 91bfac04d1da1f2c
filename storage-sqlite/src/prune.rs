//! What is old goes, in bounded steps, and so does what deleted hosts left behind.
//!
//! On the connection of reports: what another one writes empties its cache.

use std::collections::HashSet;

use enlist_core::store::{Page, Prune, Pruned};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Params, Row, Transaction, params};

use crate::column::{At, Id, overread};
use crate::error::Failure;
use crate::store::Ingest;
use crate::transaction::immediate_report;

/// How many rows of a kind go in one call, however many were asked for: new reports wait for as long as it has the
/// writer. Rows of containers' numbers are such a kind, give or take those of one report, which can have hundreds.
const MOST: usize = 20_000;
/// How many reports go in one call that do not lie side by side: each is on pages of its own.
const MOST_SCATTERED: usize = 1_000;

/// What one kind gave.
#[derive(Debug, Clone, Copy)]
struct Step {
    rows: usize,
    more: bool,
}

/// `prune`: one transaction, so that each call is done whole or not at all.
pub(crate) fn prune(ingest: &mut Ingest<'_>, prune: &Prune) -> Result<Pruned, Failure> {
    let prune = &Prune { limit: prune.limit.min(MOST), ..*prune };
    immediate_report(ingest.connection, |transaction| {
        // Keys behind containers and snapshots, which set them free; hosts last, when nothing is left of them.
        let snapshots = old_snapshots(&transaction, prune)?;
        let of_deleted_hosts = containers_of_deleted_hosts(&transaction, prune)?;
        let steps = [
            snapshots,
            of_deleted_hosts,
            old_containers(&transaction, prune, prune.limit.saturating_sub(of_deleted_hosts.rows))?,
            unused_keys(&transaction, prune)?,
            old_events(&transaction, prune)?,
            old_tombstones(&transaction, prune)?,
            spent_install_tokens(&transaction, prune)?,
        ];
        forget_hosts(&transaction)?;
        transaction.commit()?;
        let rows: usize = steps.iter().map(|step| step.rows).sum();
        Ok(Pruned { rows: rows as u64, more: steps.iter().any(|step| step.more) })
    })
}

/// Snapshots of deleted hosts, whatever their age, then those that are old.
fn old_snapshots(transaction: &Transaction<'_>, prune: &Prune) -> Result<Step, Failure> {
    let mut all = Step { rows: 0, more: false };
    for part in [snapshots_of_deleted_hosts, first_snapshots, other_snapshots] {
        let step = part(transaction, prune, prune.limit.saturating_sub(all.rows))?;
        all = Step { rows: all.rows + step.rows, more: step.more };
        if all.more {
            break;
        }
    }
    Ok(all)
}

fn snapshots_of_deleted_hosts(transaction: &Transaction<'_>, _: &Prune, room: usize) -> Result<Step, Failure> {
    // CROSS JOIN is taken as an order: from each host into the one index of its snapshots.
    const IDS: &str = "SELECT s.report_id
         FROM deleted_hosts d CROSS JOIN host_metric_snapshots s ON s.host_key = d.host_key
         LIMIT ?";
    let ids = load(transaction, IDS, [overread(room)], |row| row.get(0))?;
    delete_one_by_one(transaction, Page::of_overread(ids, room))
}

/// Old snapshots from the beginning of the table on, up to the first that is not: nearly all that are old, since reports come
/// in about the order in which they were measured. They lie side by side, and go together.
fn first_snapshots(transaction: &Transaction<'_>, prune: &Prune, room: usize) -> Result<Step, Failure> {
    const FIRST: &str = "SELECT report_id, recorded_at FROM host_metric_snapshots ORDER BY report_id LIMIT ?";
    // The first report that has rows beyond as many as may go.
    const TOO_FAR: &str = "SELECT report_id FROM report_containers_more
         WHERE report_id BETWEEN ? AND ? ORDER BY report_id LIMIT 1 OFFSET ?";
    let mut first = transaction.prepare_cached(FIRST)?;
    let mut rows = first.query([overread(room)])?;
    let mut old = Vec::new();
    // Most often there is none: the others are not even read.
    while let Some(row) = rows.next()?
        && row.get::<_, At>(1)?.0 < prune.snapshots_before
    {
        old.push(row.get(0)?);
    }
    drop(rows);
    let Page { items: mut ids, mut more } = Page::of_overread(old, room);
    if let [from, .., to] = *ids {
        let most = i64::try_from(MOST).unwrap_or(i64::MAX);
        let mut too_far = transaction.prepare_cached(TOO_FAR)?;
        if let Some(too_far) = too_far.query_row([from, to, most], |row| row.get::<_, i64>(0)).optional()? {
            // One goes all the same, or none ever would.
            ids.truncate(ids.partition_point(|id| *id < too_far).max(1));
            more = true;
        }
    }
    if let (Some(from), Some(to)) = (ids.first(), ids.last()) {
        delete_snapshots(transaction, *from, *to)?;
    }
    Ok(Step { rows: ids.len(), more })
}

/// Old snapshots that came late, or behind one that is not old.
fn other_snapshots(transaction: &Transaction<'_>, prune: &Prune, room: usize) -> Result<Step, Failure> {
    // By way of the hosts: an index by time alone would cost every report. In the order of the hosts, or SQLite would go to
    // them by way of some other index.
    const IDS: &str = "SELECT s.report_id
         FROM host_presence p CROSS JOIN host_metric_snapshots s ON s.host_key = p.host_key AND s.recorded_at < ?
         ORDER BY p.host_key
         LIMIT ?";
    let ids = load(transaction, IDS, params![At(prune.snapshots_before), overread(room)], |row| row.get(0))?;
    delete_one_by_one(transaction, Page::of_overread(ids, room))
}

fn delete_one_by_one(transaction: &Transaction<'_>, ids: Page<i64>) -> Result<Step, Failure> {
    let (mut rows, mut numbers) = (0, 0);
    for report_id in ids.items.iter().take(MOST_SCATTERED) {
        if numbers >= MOST {
            break;
        }
        numbers += delete_snapshots(transaction, *report_id, *report_id)?;
        rows += 1;
    }
    Ok(Step { rows, more: ids.more || rows < ids.items.len() })
}

/// All that there are in a range, which nobody else may have a part in; how many rows of containers' numbers that were.
fn delete_snapshots(transaction: &Transaction<'_>, from: i64, to: i64) -> Result<usize, Failure> {
    let delete = |text| transaction.prepare_cached(text)?.execute([from, to]);
    let numbers = delete("DELETE FROM report_containers WHERE report_id BETWEEN ? AND ?")?
        + delete("DELETE FROM report_containers_more WHERE report_id BETWEEN ? AND ?")?;
    delete("DELETE FROM host_metric_snapshots WHERE report_id BETWEEN ? AND ?")?;
    Ok(numbers)
}

const DELETE_CONTAINER: &str = "DELETE FROM containers WHERE container_key = ?";

fn containers_of_deleted_hosts(transaction: &Transaction<'_>, prune: &Prune) -> Result<Step, Failure> {
    const KEYS: &str = "SELECT c.container_key
         FROM deleted_hosts d CROSS JOIN containers c ON c.host_id = d.host_id
         LIMIT ?";
    delete_found(transaction, KEYS, [overread(prune.limit)], prune.limit, DELETE_CONTAINER)
}

/// Containers that are gone for long. Nothing is listed of them any more; a row for the key's sake stays until no
/// snapshot names it, since snapshots that are young enough stay as they are. At most `room` of them.
fn old_containers(transaction: &Transaction<'_>, prune: &Prune, room: usize) -> Result<Step, Failure> {
    // No snapshot that is stored was measured later than the newest.
    const GONE: &str = "SELECT c.container_key, c.host_id, c.container_id, p.newest_report_at
         FROM containers c JOIN host_presence p ON p.host_id = c.host_id
         WHERE c.removed_at < ?
         LIMIT ?";
    // Over the whole row: what is not said is null.
    const KEEP_KEY: &str =
        "REPLACE INTO containers (container_key, host_id, container_id, named_until) VALUES (?, ?, ?, ?)";
    const RAISE: &str = "UPDATE host_presence SET containers_version = containers_version + 1 WHERE host_id = ?";
    let decode = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let before = params![At(prune.containers_removed_before), overread(room)];
    let gone: Vec<(i64, Id, String, Option<At>)> = load(transaction, GONE, before, decode)?;
    let gone = Page::of_overread(gone, room);
    let step = Step { rows: gone.items.len(), more: gone.more };
    let mut keep_key = transaction.prepare_cached(KEEP_KEY)?;
    let mut hosts = HashSet::new();
    for (key, host_id, container_id, newest_report_at) in gone.items {
        keep_key.execute(params![key, host_id, container_id, newest_report_at])?;
        hosts.insert(host_id);
    }
    let mut raise = transaction.prepare_cached(RAISE)?;
    for host_id in hosts {
        raise.execute([host_id])?;
    }
    Ok(step)
}

/// Keys that no snapshot names any more. Nobody has seen their rows since their containers went, so that they neither
/// count nor raise a version.
fn unused_keys(transaction: &Transaction<'_>, prune: &Prune) -> Result<Step, Failure> {
    const KEYS: &str = "SELECT c.container_key FROM containers c
         WHERE c.name IS NULL AND c.named_until < ? AND NOT EXISTS (
             SELECT 1 FROM host_presence p CROSS JOIN host_metric_snapshots s ON s.host_key = p.host_key
             WHERE p.host_id = c.host_id AND s.recorded_at <= c.named_until)
         LIMIT ?";
    let before = params![At(prune.snapshots_before), overread(prune.limit)];
    let step = delete_found(transaction, KEYS, before, prune.limit, DELETE_CONTAINER)?;
    Ok(Step { rows: 0, ..step })
}

fn old_events(transaction: &Transaction<'_>, prune: &Prune) -> Result<Step, Failure> {
    const POSITIONS: &str = "SELECT position FROM events WHERE at < ? LIMIT ?";
    const DELETE: &str = "DELETE FROM events WHERE position = ?";
    delete_found(transaction, POSITIONS, params![At(prune.events_before), overread(prune.limit)], prune.limit, DELETE)
}

/// Their hashes are forgotten with them, by a trigger.
fn old_tombstones(transaction: &Transaction<'_>, prune: &Prune) -> Result<Step, Failure> {
    const HASHES: &str = "SELECT hash FROM tombstones WHERE deleted_at < ? LIMIT ?";
    const DELETE: &str = "DELETE FROM tombstones WHERE hash = ?";
    delete_found(transaction, HASHES, params![At(prune.tombstones_before), overread(prune.limit)], prune.limit, DELETE)
}

/// Their hashes stay in the register.
fn spent_install_tokens(transaction: &Transaction<'_>, prune: &Prune) -> Result<Step, Failure> {
    const IDS: &str = "SELECT id FROM install_tokens WHERE spent_at < ? LIMIT ?";
    const DELETE: &str = "DELETE FROM install_tokens WHERE id = ?";
    delete_found(transaction, IDS, params![At(prune.install_tokens_before), overread(prune.limit)], prune.limit, DELETE)
}

/// Those of which nothing is left.
fn forget_hosts(transaction: &Transaction<'_>) -> Result<(), Failure> {
    const FORGET: &str = "DELETE FROM deleted_hosts
         WHERE NOT EXISTS (SELECT 1 FROM host_metric_snapshots s WHERE s.host_key = deleted_hosts.host_key)
             AND NOT EXISTS (SELECT 1 FROM containers c WHERE c.host_id = deleted_hosts.host_id)";
    transaction.prepare_cached(FORGET)?.execute([])?;
    Ok(())
}

/// Deletes the rows whose keys are found, which is one more than there is room for where there are more.
fn delete_found(
    transaction: &Transaction<'_>,
    find: &str,
    params: impl Params,
    room: usize,
    delete: &str,
) -> Result<Step, Failure> {
    let found = Page::of_overread(load::<Value>(transaction, find, params, |row| row.get(0))?, room);
    let mut statement = transaction.prepare_cached(delete)?;
    for key in &found.items {
        statement.execute([key])?;
    }
    Ok(Step { rows: found.items.len(), more: found.more })
}

fn load<T>(
    transaction: &Transaction<'_>,
    text: &str,
    params: impl Params,
    decode: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Failure> {
    Ok(transaction.prepare_cached(text)?.query_map(params, decode)?.collect::<rusqlite::Result<_>>()?)
}
