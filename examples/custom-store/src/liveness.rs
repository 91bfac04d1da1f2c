//! Sweeps: the table of hosts that are online, by their last contact, is what they go by.

use std::ops::RangeTo;

use enlist_core::host::{Host, Presence};
use enlist_core::liveness::{Monitor, Seen, Verdict};
use enlist_core::store::{Silence, Sweep, Swept, went_silent};
use redb::ReadableTable;

use crate::error::Failure;
use crate::event;
use crate::record::{HostRow, PresenceRow};
use crate::schema::{AsKey, Writer, get, put};

/// Keeps the table of those online as a host's presence says.
pub(crate) fn note(tables: &mut Writer<'_>, host: u128, before: Presence, after: Presence) -> Result<(), Failure> {
    if let Presence::Online { last_seen_at } = before {
        tables.online.remove((last_seen_at.unix_micros(), host))?;
    }
    if let Presence::Online { last_seen_at } = after {
        tables.online.insert((last_seen_at.unix_micros(), host), ())?;
    }
    Ok(())
}

/// `sweep`. One transaction writes at a time, so that there is nobody to race.
pub(crate) fn sweep(tables: &mut Writer<'_>, sweep: &Sweep) -> Result<Swept, Failure> {
    let Sweep { now, pace, .. } = *sweep;
    let monitor: Monitor = get(&tables.monitor, "monitor")?.unwrap_or_default();
    let silent_before = (pace.silent_before(now).unix_micros(), 0);
    let silent = online(tables, ..silent_before)?;
    let unarchived = silent.iter().filter(|(host, _)| !host.is_archived()).count() as u64;
    let enough = monitor.heard_to_count(unarchived, now, pace);
    let mut heard = 0;
    for row in tables.online.range(silent_before..)? {
        if heard == enough {
            break;
        }
        let host: Option<HostRow> = get(&tables.hosts, row?.0.value().1)?;
        heard += u64::from(host.is_some_and(|row| !row.host.is_archived()));
    }
    let (monitor, verdict) = monitor.tick(now, pace, Seen { silent: unarchived, heard });

    let (mut events, mut more) = (Vec::new(), false);
    if let Verdict::Sweep { storm } = verdict {
        let silences = Silence::of_sweep(sweep, now, storm, silent.iter().map(|(host, _)| host.id));
        more = silences.len() < silent.len();
        for (silence, (host, mut presence)) in silences.iter().zip(silent) {
            let before = presence.shown.presence;
            let after = before.silence(silence.at, silence.window);
            presence.shown.presence = after;
            note(tables, host.id.key(), before, after)?;
            put(&mut tables.presence, host.id.key(), &presence)?;
            if !host.is_archived() {
                events.extend(went_silent(silence, &host.tenant_id, host.kind, before, after));
            }
        }
    }
    let monitor = monitor.note_fallen(now, pace, events.len() as u64);
    put(&mut tables.monitor, "monitor", &monitor)?;
    Ok(Swept { monitor, verdict, events: event::append(tables, events)?, more })
}

/// Hosts that are online, in the order of their last contacts.
fn online(tables: &Writer<'_>, range: RangeTo<(i64, u128)>) -> Result<Vec<(Host, PresenceRow)>, Failure> {
    let rows = tables.online.range(range)?.map(|row| {
        let (_, id) = row?.0.value();
        let host: Option<HostRow> = get(&tables.hosts, id)?;
        let presence: Option<PresenceRow> = get(&tables.presence, id)?;
        host.map(|row| row.host).zip(presence).ok_or(Failure::Record("a host online that is not there"))
    });
    rows.collect()
}
