//! Sweeps: the table of hosts that are online, by their last contact, is what they go by.

use enlist_core::Timestamp;
use enlist_core::host::{Host, Presence};
use enlist_core::liveness::{LivenessWindow, Monitor, Seen, Verdict};
use enlist_core::store::{Silence, Sweep, Swept, went_silent};
use redb::ReadableTable;

use crate::error::Failure;
use crate::event;
use crate::record::{HostRow, PresenceRow};
use crate::schema::{AsKey, Writer, get, put};

/// Keeps the table of those online as a host's presence says.
pub(crate) fn note(tables: &mut Writer<'_>, host: &Host, before: Presence, after: Presence) -> Result<(), Failure> {
    let window = seconds(host.liveness_window);
    if let Presence::Online { last_seen_at } = before {
        tables.online.remove((window, last_seen_at.unix_micros(), host.id.key()))?;
    }
    if let Presence::Online { last_seen_at } = after {
        tables.online.insert((window, last_seen_at.unix_micros(), host.id.key()), ())?;
    }
    Ok(())
}

/// `sweep`. One transaction writes at a time, so that there is nobody to race.
pub(crate) fn sweep(tables: &mut Writer<'_>, sweep: &Sweep) -> Result<Swept, Failure> {
    let Sweep { now, pace, .. } = *sweep;
    let monitor: Monitor = get(&tables.monitor, "monitor")?.unwrap_or_default();
    let rule = monitor.rule(now, pace);
    let windows = windows(tables)?;
    let mut silent = Vec::new();
    for own in &windows {
        silent.extend(online(tables, *own, rule.silent_before(*own))?);
    }
    silent.sort_by_key(|(ended, ..)| *ended);
    let unarchived = silent.iter().filter(|(_, host, _)| !host.is_archived()).count() as u64;
    let enough = monitor.heard_to_count(unarchived, now, pace);
    let mut heard = 0;
    for own in windows {
        let (window, from) = (seconds(own), rule.heard_from(own).unix_micros());
        for row in tables.online.range((window, from, 0)..=(window, i64::MAX, u128::MAX))? {
            if heard == enough {
                break;
            }
            let host: Option<HostRow> = get(&tables.hosts, row?.0.value().2)?;
            heard += u64::from(host.is_some_and(|row| !row.host.is_archived()));
        }
    }
    let (monitor, verdict) = monitor.tick(now, pace, Seen { silent: unarchived, heard });

    let (mut events, mut more) = (Vec::new(), false);
    if let Verdict::Sweep { storm } = verdict {
        let silences = Silence::of_sweep(sweep, rule, storm, silent.iter().map(|(_, host, _)| host.id));
        more = silences.len() < silent.len();
        for (silence, (_, host, mut presence)) in silences.iter().zip(silent) {
            let before = presence.shown.presence;
            let after = silence.rule.judge(before, host.liveness_window);
            presence.shown.presence = after;
            note(tables, &host, before, after)?;
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

fn seconds(own: Option<LivenessWindow>) -> u32 {
    own.map_or(0, LivenessWindow::as_secs)
}

/// The windows that hosts have which are online: each is a range of the table.
fn windows(tables: &Writer<'_>) -> Result<Vec<Option<LivenessWindow>>, Failure> {
    let (mut windows, mut next) = (Vec::new(), 0);
    while let Some(row) = tables.online.range((next, i64::MIN, 0)..)?.next() {
        let (window, ..) = row?.0.value();
        windows.push(match window {
            0 => None,
            window => Some(LivenessWindow::from_secs(window.into()).map_err(|_| Failure::Record("a liveness window"))?),
        });
        next = window + 1;
    }
    Ok(windows)
}

/// Hosts with this window that are online and were heard last before a time, each with when its window ended, in the order of
/// that.
fn online(
    tables: &Writer<'_>,
    own: Option<LivenessWindow>,
    before: Timestamp,
) -> Result<Vec<(i64, Host, PresenceRow)>, Failure> {
    let window = seconds(own);
    let rows = tables.online.range((window, i64::MIN, 0)..(window, before.unix_micros(), 0))?.map(|row| {
        let (_, last_seen_at, id) = row?.0.value();
        let host: Option<HostRow> = get(&tables.hosts, id)?;
        let presence: Option<PresenceRow> = get(&tables.presence, id)?;
        let (host, presence) = host.zip(presence).ok_or(Failure::Record("a host online that is not there"))?;
        Ok((last_seen_at - before.unix_micros(), host.host, presence))
    });
    rows.collect()
}
