//! Sweeps: hosts that have fallen silent, and the monitor that says whether it counts.

use enlist_core::HostId;
use enlist_core::liveness::{Monitor, Seen, Verdict};
use enlist_core::store::{Silence, Sweep, Swept};
use sqlx::Row;

use crate::column::{At, Count, Id, from_json, overread, to_json};
use crate::contact;
use crate::error::Failure;
use crate::transaction::Db;

/// The first lock of a sweep, and nobody else's: sweeps take turns.
const MONITOR: &str = "
    SELECT m.state::text AS state, clock_timestamp() AS now
    FROM {schema}.monitor AS m WHERE m.id = 1 FOR UPDATE";
const KEEP: &str = "UPDATE {schema}.monitor SET state = $1::text::json WHERE id = 1";

/// The minute of a time, as the index has it.
macro_rules! minute {
    ($at:literal) => {
        concat!("floor(date_part('epoch', ", $at, " - timestamptz '2000-01-01 00:00:00+00') / 60)::bigint")
    };
}

const SILENT: &str = concat!(
    "SELECT count(*) AS hosts FROM {schema}.host_presence AS p JOIN {schema}.hosts AS h ON h.id = p.host_id
     WHERE p.presence = 'online' AND h.archived_at IS NULL AND p.last_seen_at < $1 AND p.last_seen_minute <= ",
    minute!("$1")
);
const HEARD: &str = concat!(
    "SELECT count(*) AS hosts FROM (
        SELECT FROM {schema}.host_presence AS p JOIN {schema}.hosts AS h ON h.id = p.host_id
        WHERE p.presence = 'online' AND h.archived_at IS NULL AND p.last_seen_at >= $1 AND p.last_seen_minute >= ",
    minute!("$1"),
    " LIMIT $2) AS enough"
);

/// Those that have been silent for longest first, to the minute, archived ones among them.
const LONGEST_SILENT: &str = concat!(
    "SELECT p.host_id FROM {schema}.host_presence AS p
     WHERE p.presence = 'online' AND p.last_seen_at < $1 AND p.last_seen_minute <= ",
    minute!("$1"),
    " ORDER BY p.last_seen_minute LIMIT $2"
);

/// `sweep`, inside a transaction. What is found before the hosts are locked is only who to look at.
pub(crate) async fn sweep(db: &mut Db, sweep: &Sweep) -> Result<Swept, Failure> {
    let pace = sweep.pace;
    let row = db.query(MONITOR).fetch_one(db.connection()).await?;
    let monitor: Monitor = from_json(row.try_get("state")?)?;
    let now = sweep.now.min(row.try_get::<At, _>("now")?.0);
    let silent_before = At(pace.silent_before(now));

    let row = db.query(SILENT).bind(silent_before).fetch_one(db.connection()).await?;
    let Count(silent) = row.try_get("hosts")?;
    let heard = match monitor.heard_to_count(silent, now, pace) {
        0 => 0,
        enough => {
            let row = db.query(HEARD).bind(silent_before).bind(Count(enough)).fetch_one(db.connection()).await?;
            row.try_get::<Count, _>("hosts")?.0
        }
    };
    let (monitor, verdict) = monitor.tick(now, pace, Seen { silent, heard });

    let (mut events, mut more) = (Vec::new(), false);
    if let Verdict::Sweep { storm } = verdict {
        let limit = sweep.event_ids.len();
        let find = db.query(LONGEST_SILENT).bind(silent_before).bind(overread(limit));
        let rows = find.fetch_all(db.connection()).await?;
        let hosts = rows.iter().map(|row| Ok(HostId::from(row.try_get::<Id, _>("host_id")?)));
        let hosts = hosts.collect::<Result<Vec<_>, Failure>>()?;
        more = hosts.len() > limit;
        events = contact::mark_silent(db, &Silence::of_sweep(sweep, now, storm, hosts)).await?;
    }
    let monitor = monitor.note_fallen(now, pace, events.len() as u64);
    db.query(KEEP).bind(to_json(&monitor)?).execute(db.connection()).await?;
    Ok(Swept { monitor, verdict, events, more })
}
