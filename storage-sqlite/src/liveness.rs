//! Sweeps: hosts that have fallen silent, and the monitor that says whether it counts.

use enlist_core::event::NewEvent;
use enlist_core::liveness::{Monitor, Seen, Verdict};
use enlist_core::store::{Silence, Sweep, Swept, went_silent};
use enlist_core::{HostId, Timestamp};
use rusqlite::{Transaction, params};

use crate::column::{At, Count, Id, from_json, overread, parse, required, text, to_json};
use crate::error::Failure;
use crate::event;
use crate::host::{kind_of, lifecycle_of};
use crate::presence::{PresenceState, presence_columns};
use crate::store::Ingest;
use crate::transaction::immediate_report;

const MONITOR: &str = "SELECT state FROM monitor WHERE id = 1";
const KEEP: &str = "UPDATE monitor SET state = ? WHERE id = 1";

/// CROSS JOIN, here and below: SQLite takes it as an order to go from the index of those online to their hosts.
const SILENT: &str = "
    SELECT count(*) FROM host_presence AS p CROSS JOIN hosts AS h ON h.id = p.host_id
    WHERE p.presence = 'online' AND p.last_seen_at < ? AND h.archived_at IS NULL";
const HEARD: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM host_presence AS p CROSS JOIN hosts AS h ON h.id = p.host_id
        WHERE p.presence = 'online' AND p.last_seen_at >= ? AND h.archived_at IS NULL
        LIMIT ?
    )";

/// The longest silent first, archived ones among them.
const LONGEST_SILENT: &str = concat!(
    "SELECT h.id, h.tenant_id, h.kind, h.archived_at, ",
    presence_columns!(),
    " FROM host_presence AS p CROSS JOIN hosts AS h ON h.id = p.host_id
    WHERE p.presence = 'online' AND p.last_seen_at < ?
    ORDER BY p.last_seen_at
    LIMIT ?"
);

/// `sweep`. The transaction has the write lock from its beginning: a contact made before that wins, and one sweep at a time
/// reads the monitor.
pub(crate) fn sweep(ingest: &mut Ingest<'_>, sweep: &Sweep) -> Result<Swept, Failure> {
    let Sweep { now, pace, .. } = *sweep;
    immediate_report(ingest.connection, |transaction| {
        let state: String = transaction.prepare_cached(MONITOR)?.query_row([], |row| row.get(0))?;
        let monitor: Monitor = from_json(&state)?;
        let silent_before = At(pace.silent_before(now));
        let Count(silent) = transaction.prepare_cached(SILENT)?.query_row([silent_before], |row| row.get(0))?;
        let heard = match monitor.heard_to_count(silent, now, pace) {
            0 => 0,
            enough => {
                let mut statement = transaction.prepare_cached(HEARD)?;
                let Count(heard) = statement.query_row(params![silent_before, Count(enough)], |row| row.get(0))?;
                heard
            }
        };
        let (monitor, verdict) = monitor.tick(now, pace, Seen { silent, heard });
        let (events, more) = match verdict {
            Verdict::Sweep { storm } => judge(&transaction, sweep, now, storm)?,
            Verdict::Suspended { .. } | Verdict::Holding { .. } => (Vec::new(), false),
        };
        let monitor = monitor.note_fallen(now, pace, events.len() as u64);
        transaction.prepare_cached(KEEP)?.execute([to_json(&monitor)?])?;
        let events = event::tell(&transaction, events)?;
        transaction.commit()?;
        Ok(Swept { monitor, verdict, events, more })
    })
}

/// Judges as many as there are ids for; the events of those that fell, and whether more are silent.
fn judge(
    transaction: &Transaction<'_>,
    sweep: &Sweep,
    now: Timestamp,
    storm: bool,
) -> Result<(Vec<NewEvent>, bool), Failure> {
    let limit = sweep.event_ids.len();
    let found = {
        let mut statement = transaction.prepare_cached(LONGEST_SILENT)?;
        let mut rows = statement.query(params![At(sweep.pace.silent_before(now)), overread(limit)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let host_id = HostId::from(row.get::<_, Id>(0)?);
            let tenant_id = parse(required(text(row, 1)?)?)?;
            let (kind, lifecycle) = (kind_of(required(text(row, 2)?)?)?, lifecycle_of(row.get(3)?));
            found.push((tenant_id, kind, lifecycle, PresenceState::read(host_id, row, 4)?));
        }
        found
    };
    let more = found.len() > limit;
    let silences = Silence::of_sweep(sweep, now, storm, found.iter().map(|(.., presence)| presence.host_id));
    let mut events = Vec::new();
    for (silence, (tenant_id, kind, lifecycle, mut presence)) in silences.iter().zip(found) {
        let before = presence.presence;
        presence.presence = before.silence(silence.at, silence.window);
        presence.write(transaction)?;
        if lifecycle.archived_at().is_none() {
            events.extend(went_silent(silence, &tenant_id, kind, before, presence.presence));
        }
    }
    Ok((events, more))
}
