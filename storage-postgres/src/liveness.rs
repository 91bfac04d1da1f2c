//! Sweeps: hosts that have fallen silent, and the monitor that says whether it counts.

use enlist_core::HostId;
use enlist_core::liveness::{Monitor, Pace, Rule, SILENT_AT_FIRST, Seen, Verdict};
use enlist_core::store::{Silence, Sweep, Swept};
use sqlx::Row;

use crate::column::{At, Count, Id, from_json, overread, to_json};
use crate::contact;
use crate::error::Failure;
use crate::transaction::Db;

/// The first lock of a sweep, and nobody else's: sweeps take turns.
///
/// From here on it walks through the indexes, in their order, and stops where it has counted enough. The planner goes by what
/// was so when it last looked: that few are silent, so that it might as well look at all of those, or that all are, so that any
/// rows would do. Where that is so no more, either would read the whole fleet with every sweep.
/// What is switched off and needed all the same is dear enough to be compiled, for 200 ms a sweep: that is off, too. So are
/// other processes, which cost more to call than it takes to count.
const MONITOR: &str = "
    SELECT m.state::text AS state, clock_timestamp() AS now,
           set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_sort', 'off', true), set_config('jit', 'off', true),
           set_config('max_parallel_workers_per_gather', '0', true)
    FROM {schema}.monitor AS m WHERE m.id = 1 FOR UPDATE";
const KEEP: &str = "UPDATE {schema}.monitor SET state = $1::text::json WHERE id = 1";

/// Hosts that are online, of one of two sorts: those without a window of their own, by when they were heard last, and those
/// with one, by when it ends; each sort has an index. `Rule`, restated where rows are chosen: `$1` is from when on those
/// without a window of their own have to be heard, `$2` the moment, `$3` since when somebody has listened.
macro_rules! silent {
    (fleet) => {
        " {schema}.host_presence AS p WHERE p.presence = 'online' AND p.liveness_window IS NULL
              AND p.last_seen_at < $1 AND p.sweep_from < $1"
    };
    (own) => {
        " {schema}.host_presence AS p WHERE p.presence = 'online' AND p.liveness_window IS NOT NULL
              AND p.last_seen_at + make_interval(secs => p.liveness_window) < $2
              AND $3 + make_interval(secs => p.liveness_window) <= $2 AND p.sweep_from < $2"
    };
}
macro_rules! heard {
    (fleet) => {
        " {schema}.host_presence AS p WHERE p.presence = 'online' AND p.liveness_window IS NULL
              AND p.last_seen_at >= $1 AND p.sweep_from > $1 - interval '1 minute'"
    };
    (own) => {
        " {schema}.host_presence AS p WHERE p.presence = 'online' AND p.liveness_window IS NOT NULL
              AND p.last_seen_at + make_interval(secs => p.liveness_window) >= $2
              AND p.sweep_from > $2 - interval '1 minute'"
    };
}

const SILENT: &str = concat!(
    "SELECT count(*) AS hosts FROM ((SELECT FROM",
    silent!(fleet),
    " AND NOT p.archived ORDER BY p.sweep_from LIMIT $4) UNION ALL (SELECT FROM",
    silent!(own),
    " AND NOT p.archived ORDER BY p.sweep_from LIMIT $4) LIMIT $4) AS silent"
);
const HEARD: &str = concat!(
    "SELECT count(*) AS hosts FROM ((SELECT FROM",
    heard!(fleet),
    " AND NOT p.archived ORDER BY p.sweep_from DESC LIMIT $3) UNION ALL (SELECT FROM",
    heard!(own),
    " AND NOT p.archived ORDER BY p.sweep_from DESC LIMIT $3) LIMIT $3) AS enough"
);

/// Those whose windows ended first, to the minute, archived ones among them.
const LONGEST_SILENT: &str = concat!(
    "(SELECT p.host_id, p.last_seen_at + ($2 - $1) AS ended FROM",
    silent!(fleet),
    " ORDER BY p.sweep_from LIMIT $4)
     UNION ALL
     (SELECT p.host_id, p.last_seen_at + make_interval(secs => p.liveness_window) AS ended FROM",
    silent!(own),
    " ORDER BY p.sweep_from LIMIT $4)
     ORDER BY ended LIMIT $4"
);

/// `sweep`, inside a transaction. What is found before the hosts are locked is only who to look at.
pub(crate) async fn sweep(db: &mut Db, sweep: &Sweep) -> Result<Swept, Failure> {
    let pace = sweep.pace;
    let row = db.query(MONITOR).fetch_one(db.connection()).await?;
    let monitor: Monitor = from_json(row.try_get("state")?)?;
    let now = sweep.now.min(row.try_get::<At, _>("now")?.0);
    let rule = monitor.rule(now, pace);
    let seen = count(db, &monitor, rule, pace).await?;
    let (monitor, verdict) = monitor.tick(now, pace, seen);

    let (mut events, mut more) = (Vec::new(), false);
    if let Verdict::Sweep { storm } = verdict {
        let limit = sweep.event_ids.len();
        let find = db.query(LONGEST_SILENT).bind(At(rule.silent_before(None))).bind(At(now));
        let find = find.bind(At(rule.listening_since)).bind(overread(limit));
        let rows = find.fetch_all(db.connection()).await?;
        let hosts = rows.iter().map(|row| Ok(HostId::from(row.try_get::<Id, _>("host_id")?)));
        let hosts = hosts.collect::<Result<Vec<_>, Failure>>()?;
        let found = hosts.len();
        let judged = contact::mark_silent(db, &Silence::of_sweep(sweep, rule, storm, hosts)).await?;
        // Where others hold all of them, the next sweep would find the same.
        more = found > limit && judged.hosts > 0;
        events = judged.events;
    }
    let monitor = monitor.note_fallen(now, pace, events.len() as u64);
    db.query(KEEP).bind(to_json(&monitor)?).execute(db.connection()).await?;
    Ok(Swept { monitor, verdict, events, more })
}

/// As many as it takes to see what the verdict is.
async fn count(db: &mut Db, monitor: &Monitor, rule: Rule, pace: Pace) -> Result<Seen, Failure> {
    let now = rule.now;
    let mut limit = SILENT_AT_FIRST;
    loop {
        let find = db.query(SILENT).bind(At(rule.silent_before(None))).bind(At(now));
        let find = find.bind(At(rule.listening_since)).bind(Count(limit));
        let Count(silent) = find.fetch_one(db.connection()).await?.try_get("hosts")?;
        let heard = match monitor.heard_to_count(silent, now, pace) {
            0 => 0,
            enough => {
                let find = db.query(HEARD).bind(At(rule.heard_from(None))).bind(At(now)).bind(Count(enough));
                let Count(heard) = find.fetch_one(db.connection()).await?.try_get("hosts")?;
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

#[cfg(test)]
mod tests {
    use enlist_testing::Database;
    use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};

    use super::*;
    use crate::PgStore;

    /// Of 20,000 hosts, of which half have windows of their own, as few are looked at as are silent, or as it takes: whatever
    /// the planner has last seen of them.
    #[tokio::test]
    async fn hosts_are_found_by_the_indexes_of_those_online_alone() {
        let database = Database::empty("storage-postgres").await.unwrap_or_else(|error| panic!("{error}"));
        let store = PgStore::connect(database.url()).await.expect("the server is there");
        store.migrate().await.expect("a fresh database can be migrated");
        let mut connection = PgConnection::connect(database.url()).await.expect("the server is there");
        let setup = "SET search_path = enlist;
             INSERT INTO host_presence (host_id, presence, last_seen_at, facts, containers_version, facts_version, archived,
                                        liveness_window, sweep_from)
             SELECT gen_random_uuid(), 'online', h.heard, '{}', 0, 0, false, h.own, sweep_from(NULL, h.heard, h.own)
             FROM (SELECT timestamptz '2026-01-01 12:00:00Z'
                              - CASE WHEN n % 1000 < 2 THEN 7200 ELSE n % 60 END * interval '1 s' AS heard,
                          CASE WHEN n % 2 = 0 THEN 600 END AS own
                   FROM generate_series(1, 20000) AS n) AS h;
             ANALYZE host_presence;
             -- Other processes look worth calling, as they do in a fleet of some 100,000.
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;
             BEGIN;";
        raw_sql(setup).execute(&mut connection).await.expect("the rows fit");
        let monitor = MONITOR.replace("{schema}", "enlist");
        raw_sql(AssertSqlSafe(monitor)).execute(&mut connection).await.expect("the monitor is there");
        // As when it looked; when all have gone on for an hour since; and when all have fallen silent.
        let heard_for_an_hour = "UPDATE host_presence SET last_seen_at = last_seen_at + interval '1 hour',
                                     sweep_from = sweep_from + interval '1 hour' WHERE last_seen_at > '2026-01-01 11:00:00Z'";
        for (so, now) in [("", "12:00:00"), (heard_for_an_hour, "13:00:00"), ("", "13:30:00")] {
            raw_sql(so).execute(&mut connection).await.expect("they are heard");
            let now = format!("timestamptz '2026-01-01 {now}Z'");
            let (silent_before, since) = (format!("{now} - interval '90 s'"), format!("{now} - interval '1 day'"));
            for (text, values) in [
                (SILENT, [silent_before.clone(), now.clone(), since.clone(), SILENT_AT_FIRST.to_string()]),
                (HEARD, [silent_before.clone(), now.clone(), "100".to_owned(), String::new()]),
                (LONGEST_SILENT, [silent_before.clone(), now.clone(), since.clone(), "1001".to_owned()]),
            ] {
                let text = values.iter().enumerate().fold(text.replace("{schema}", "enlist"), |text, (n, value)| {
                    text.replace(&format!("${}", n + 1), &format!("({value})"))
                });
                let plan = raw_sql(AssertSqlSafe(format!("EXPLAIN {text}"))).fetch_all(&mut connection).await;
                let plan = plan.unwrap_or_else(|error| panic!("{error}: {text}"));
                let plan: Vec<String> = plan.iter().map(|row| row.try_get(0).expect("a step is text")).collect();
                let plan = plan.join("\n");
                for index in ["host_presence_online ", "host_presence_online_own "] {
                    assert!(plan.contains(&format!("using {index}")), "at {now}:\n{plan}");
                }
                let unwanted = ["Seq Scan", "Bitmap", "JIT", "Gather"];
                assert!(!unwanted.iter().any(|step| plan.contains(step)), "at {now}:\n{plan}");
            }
        }
        store.close().await;
    }
}
