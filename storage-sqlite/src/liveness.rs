//! Sweeps: hosts that have fallen silent, and the monitor that says whether it counts.

use enlist_core::HostId;
use enlist_core::event::NewEvent;
use enlist_core::liveness::{Monitor, Pace, Rule, SILENT_AT_FIRST, Seen, Verdict};
use enlist_core::store::{Silence, Sweep, Swept, went_silent};
use rusqlite::{Transaction, params};

use crate::column::{At, Count, Id, from_json, overread, parse, required, text, to_json};
use crate::error::Failure;
use crate::event;
use crate::host::{kind_of, lifecycle_of, window_of};
use crate::presence::{PresenceState, presence_columns};
use crate::store::Ingest;
use crate::transaction::immediate_report;

const MONITOR: &str = "SELECT state FROM monitor WHERE id = 1";
const KEEP: &str = "UPDATE monitor SET state = ? WHERE id = 1";

/// Hosts that are online, of one of two sorts: those without a window of their own, by when they were heard last, and those
/// with one, by when it ends. Each sort has an index. To SQLite, CROSS JOIN is an order to go from there to their hosts, and a
/// plus before a column not to look for it in another index.
macro_rules! online {
    ($columns:expr, $which:literal, $rest:expr) => {
        concat!("SELECT ", $columns, " WHERE p.presence = 'online' AND ", $which, $rest)
    };
}

/// `Rule`, restated where rows are chosen. `?1` is from when on those without a window of their own have to be heard, `?2` the
/// moment, `?3` since when somebody has listened.
macro_rules! silent {
    (fleet $columns:expr, $rest:expr) => {
        online!($columns, "p.liveness_window IS NULL AND p.last_seen_at < ?1 AND p.sweep_from < ?1", $rest)
    };
    (own $columns:expr, $rest:expr) => {
        online!(
            $columns,
            "p.liveness_window IS NOT NULL AND p.last_seen_at + p.liveness_window * 1000000 < ?2
             AND ?3 + p.liveness_window * 1000000 <= ?2 AND p.sweep_from < ?2",
            $rest
        )
    };
}
macro_rules! heard {
    (fleet $columns:expr, $rest:expr) => {
        online!($columns, "p.liveness_window IS NULL AND p.last_seen_at >= ?1 AND p.sweep_from > ?1 - 60000000", $rest)
    };
    (own $columns:expr, $rest:expr) => {
        online!(
            $columns,
            "p.liveness_window IS NOT NULL AND p.last_seen_at + p.liveness_window * 1000000 >= ?2
             AND p.sweep_from > ?2 - 60000000",
            $rest
        )
    };
}

const SILENT: &str = concat!(
    "SELECT count(*) FROM (",
    silent!(fleet "1 FROM host_presence AS p", " AND +p.archived = 0"),
    " UNION ALL ",
    silent!(own "1 FROM host_presence AS p", " AND +p.archived = 0"),
    " LIMIT ?4)"
);
const HEARD: &str = concat!(
    "SELECT count(*) FROM (",
    heard!(fleet "1 FROM host_presence AS p", " AND +p.archived = 0"),
    " UNION ALL ",
    heard!(own "1 FROM host_presence AS p", " AND +p.archived = 0"),
    " LIMIT ?3)"
);

/// What a verdict needs of a host, and when its window ended.
macro_rules! judged {
    ($ended:literal) => {
        concat!(
            "h.id, h.tenant_id, h.kind, h.archived_at, p.liveness_window, ",
            presence_columns!(),
            ", ",
            $ended,
            " AS ended FROM host_presence AS p CROSS JOIN hosts AS h ON h.host_key = p.host_key"
        )
    };
}
/// Those whose windows ended first, to the minute, archived ones among them.
const LONGEST_SILENT: &str = concat!(
    "SELECT * FROM (SELECT * FROM (",
    silent!(fleet judged!("p.last_seen_at + (?2 - ?1)"), " ORDER BY p.sweep_from LIMIT ?4"),
    ") UNION ALL SELECT * FROM (",
    silent!(own judged!("p.last_seen_at + p.liveness_window * 1000000"),
        " ORDER BY p.sweep_from LIMIT ?4"),
    ")) ORDER BY ended LIMIT ?4"
);

/// `sweep`. The transaction has the write lock from its beginning: a contact made before that wins, and one sweep at a time
/// reads the monitor.
pub(crate) fn sweep(ingest: &mut Ingest<'_>, sweep: &Sweep) -> Result<Swept, Failure> {
    let Sweep { now, pace, .. } = *sweep;
    immediate_report(ingest.connection, |transaction| {
        let state: String = transaction.prepare_cached(MONITOR)?.query_row([], |row| row.get(0))?;
        let monitor: Monitor = from_json(&state)?;
        let rule = monitor.rule(now, pace);
        let seen = count(&transaction, &monitor, rule, pace)?;
        let (monitor, verdict) = monitor.tick(now, pace, seen);
        let (events, more) = match verdict {
            Verdict::Sweep { storm } => judge(&transaction, sweep, rule, storm)?,
            Verdict::Suspended { .. } | Verdict::Holding { .. } | Verdict::Behind => (Vec::new(), false),
        };
        let monitor = monitor.note_fallen(now, pace, events.len() as u64);
        transaction.prepare_cached(KEEP)?.execute([to_json(&monitor)?])?;
        let events = event::tell(&transaction, events)?;
        transaction.commit()?;
        Ok(Swept { monitor, verdict, events, more })
    })
}

/// As many as it takes to see what the verdict is.
fn count(transaction: &Transaction<'_>, monitor: &Monitor, rule: Rule, pace: Pace) -> Result<Seen, Failure> {
    let now = rule.now;
    let mut limit = SILENT_AT_FIRST;
    loop {
        let silent = params![At(rule.silent_before(None)), At(now), At(rule.listening_since), Count(limit)];
        let Count(silent) = transaction.prepare_cached(SILENT)?.query_row(silent, |row| row.get(0))?;
        let heard = match monitor.heard_to_count(silent, now, pace) {
            0 => 0,
            enough => {
                let heard = params![At(rule.heard_from(None)), At(now), Count(enough)];
                let Count(heard) = transaction.prepare_cached(HEARD)?.query_row(heard, |row| row.get(0))?;
                heard
            }
        };
        let seen = Seen { silent, heard };
        match monitor.silent_to_count(seen, limit, now, pace) {
            Some(more) => limit = more,
            None => return Ok(seen),
        }
    }
}

/// Judges as many as there are ids for; the events of those that fell, and whether more are silent.
fn judge(
    transaction: &Transaction<'_>,
    sweep: &Sweep,
    rule: Rule,
    storm: bool,
) -> Result<(Vec<NewEvent>, bool), Failure> {
    let limit = sweep.event_ids.len();
    let found = {
        let mut statement = transaction.prepare_cached(LONGEST_SILENT)?;
        let silent_before = At(rule.silent_before(None));
        let mut rows =
            statement.query(params![silent_before, At(rule.now), At(rule.listening_since), overread(limit)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let host_id = HostId::from(row.get::<_, Id>(0)?);
            let tenant_id = parse(required(text(row, 1)?)?)?;
            let (kind, lifecycle) = (kind_of(required(text(row, 2)?)?)?, lifecycle_of(row.get(3)?));
            found.push((tenant_id, kind, lifecycle, window_of(row.get(4)?)?, PresenceState::read(host_id, row, 5)?));
        }
        found
    };
    let more = found.len() > limit;
    let silences = Silence::of_sweep(sweep, rule, storm, found.iter().map(|(.., presence)| presence.host_id));
    let mut events = Vec::new();
    let mut contact = PresenceState::prepare(transaction)?;
    for (silence, (tenant_id, kind, lifecycle, own, mut presence)) in silences.iter().zip(found) {
        let before = presence.presence;
        presence.presence = silence.rule.judge(before, own);
        presence.write(transaction, &mut contact)?;
        if lifecycle.archived_at().is_none() {
            events.extend(went_silent(silence, &tenant_id, kind, before, presence.presence));
        }
    }
    Ok((events, more))
}

#[cfg(test)]
mod tests {
    use diesel::{Connection, SqliteConnection};

    use super::*;

    /// Whatever part of the fleet is silent, and whatever part has windows of its own.
    #[test]
    fn hosts_are_found_by_the_indexes_of_those_online_alone() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("enlist.db");
        let mut migrated = SqliteConnection::establish(path.to_str().expect("the path is text")).expect("it opens");
        crate::migrate::migrate(&mut migrated).expect("a fresh file can be migrated");
        let connection = rusqlite::Connection::open(path).expect("it opens");
        for text in [SILENT, HEARD, LONGEST_SILENT] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).expect("it is a statement");
            let unknown = vec![rusqlite::types::Null; statement.parameter_count()];
            let unknown = rusqlite::params_from_iter(unknown);
            let steps = statement.query_map(unknown, |row| row.get::<_, String>("detail")).expect("it has a plan");
            let steps: Vec<_> = steps.map(|step| step.expect("a step is text")).collect();
            let ranges = ["host_presence_online (sweep_from", "host_presence_online_own (sweep_from"];
            for range in ranges {
                assert!(
                    steps.iter().any(|step| step.starts_with("SEARCH p USING") && step.contains(range)),
                    "{steps:#?}"
                );
            }
            assert!(!steps.iter().any(|step| step == "SCAN p" || step.starts_with("SCAN h")), "{steps:#?}");
            // The longest silent come in the order of an index, so that a limit ends the search; what is sorted is those few.
            let sorted = steps.windows(2).filter(|pair| pair[1].contains("TEMP B-TREE"));
            assert!(sorted.into_iter().all(|pair| pair[0].starts_with("SCAN (subquery")), "{steps:#?}");
        }
    }
}
