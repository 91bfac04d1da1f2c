//! Reports of hosts that go on as they did, which are nearly all: stored by one statement, which is a transaction of its
//! own.
//!
//! What it knows beforehand, it has from memory; what it decides by stands in the row of `host_presence` itself. It may
//! have to wait for that row, and sees it then as it is, but every other row as it was when the statement began. Whatever
//! it does not take, the transaction in [`telemetry`](crate::telemetry) looks at.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enlist_core::store::{Append, LAST_USE_GRAIN};
use sqlx::Row;

use crate::agent_token::note_used;
use crate::column::{At, Count, Id};
use crate::error::Failure;
use crate::partition::Day;
use crate::snapshot::{self, SnapshotRow, insert_one, insert_rows};
use crate::store::{Learnt, Shared};
use crate::telemetry::tells;

/// Several reports, as far as presence and tokens are concerned. How many there are is hidden from the planner by the inner
/// `SELECT`: else it would take a plan of its own for each small group to be cheaper than one for all, and planning costs
/// more than the rest.
macro_rules! reports {
    () => {
        "unnest((SELECT $1::uuid[]), $2::timestamptz[], $3::timestamptz[], $23::bigint[], $24::bigint[], $25::boolean[], $26::uuid[])
             AS v (host_id, recorded_at, received_at, containers_version, facts_version, complete, token_id)"
    };
}

/// That nothing of the host changes but what [`goes_on!`] writes.
///
/// The settings of `transaction::BEGIN` hold from the first row on; the isolation need not be named, since a stricter one
/// fails where this one waits.
///
/// Online is told by what no index serves: a planner that last saw a fleet of which nobody had come yet would have each
/// group of reports go through all that are online.
macro_rules! is_steady {
    () => {
        "p.presence IS NOT DISTINCT FROM 'online' AND NOT p.archived AND p.newest_report_at < v.recorded_at
         AND p.containers_version = coalesce(v.containers_version, p.containers_version)
         AND p.facts_version = coalesce(v.facts_version, p.facts_version)
         AND (SELECT set_config('lock_timeout', '10s', true) <> ''
                 AND set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                         WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, true) <> '')"
    };
}

/// `Presence::contact` of a host that is online, and what a report that is the newest moves on.
macro_rules! goes_on {
    () => {
        "UPDATE {schema}.host_presence AS p SET
             last_seen_at = greatest(p.last_seen_at, v.received_at),
             sweep_from = {schema}.sweep_from(p.sweep_from, greatest(p.last_seen_at, v.received_at), p.liveness_window),
             newest_report_at = v.recorded_at,
             last_complete_at = CASE WHEN v.complete THEN v.received_at ELSE p.last_complete_at END"
    };
}

/// One report: its row of presence is locked by being written.
macro_rules! take_one {
    () => {
        concat!(
            "WITH taken AS (",
            goes_on!(),
            " FROM (SELECT $1::uuid AS host_id, $2::timestamptz AS recorded_at, $3::timestamptz AS received_at,
                           $21::bigint AS containers_version, $22::bigint AS facts_version, $23::boolean AS complete,
                           $24::uuid AS token_id) AS v
              WHERE p.host_id = v.host_id AND ",
            is_steady!(),
            " RETURNING p.host_id, v.received_at, v.token_id
            )"
        )
    };
}

/// Several: their rows are locked in the order of all transactions before they are written.
macro_rules! take_several {
    () => {
        concat!(
            "WITH taken AS MATERIALIZED (
                SELECT p.host_id, v.recorded_at, v.received_at, v.complete, v.token_id
                FROM ",
            reports!(),
            " JOIN {schema}.host_presence AS p ON p.host_id = v.host_id
                WHERE ",
            is_steady!(),
            " ORDER BY p.host_id
                FOR UPDATE OF p
            ), moved_on AS (",
            goes_on!(),
            " FROM taken AS v WHERE p.host_id = v.host_id
            )"
        )
    };
}

macro_rules! store_one {
    () => {
        insert_one!(" FROM taken RETURNING host_id")
    };
}
macro_rules! store_several {
    () => {
        insert_rows!(" JOIN taken ON taken.host_id = v.host_id RETURNING host_id")
    };
}

/// Gives the hosts whose reports are stored. One row says them all: a row for each costs both sides more than what is in it.
macro_rules! without_uses {
    ($take:ident, $store:ident) => {
        concat!(
            $take!(),
            ", stored AS (",
            $store!(),
            ") SELECT array_agg(host_id), NULL::uuid[], NULL::timestamptz[] FROM stored"
        )
    };
}

/// The same, each with the use of its token if it was written.
macro_rules! with_uses {
    ($take:ident, $store:ident, $grain:literal) => {
        concat!(
            $take!(),
            ", stored AS (",
            $store!(),
            "), used AS (",
            note_used!("(SELECT token_id, host_id, received_at FROM taken) AS u (id, host_id, at)", $grain),
            ") SELECT array_agg(stored.host_id), array_agg(used.id), array_agg(used.last_used_at)
            FROM stored LEFT JOIN used ON used.host_id = stored.host_id"
        )
    };
}

const ONE: &str = without_uses!(take_one, store_one);
const ONE_USED: &str = with_uses!(take_one, store_one, "$25");
const SEVERAL: &str = without_uses!(take_several, store_several);
const SEVERAL_USED: &str = with_uses!(take_several, store_several, "$27");

/// Whether the one statement is tried. After a failure it is not, until the transaction has succeeded: that waits for
/// the lock of a table no longer than for that of a row, but a statement begins with those of its tables, before any
/// setting of its own holds. So what a call leaves behind when it has run out of time is one such statement, and not one
/// a call.
#[derive(Debug, Default)]
pub(crate) struct Steadiness {
    lost: AtomicBool,
}

impl Steadiness {
    /// Notes that reports were stored by the transaction.
    pub(crate) fn regain(&self) {
        self.lost.store(false, Ordering::Relaxed);
    }
}

/// A report that is taken if its host is as it is remembered.
#[derive(Debug)]
struct Candidate<'a> {
    place: usize,
    row: SnapshotRow<'a>,
    /// Of those containers that it measured.
    keys: Vec<i64>,
    /// At which version of the host's containers it changes none; `None` when it cannot at any.
    containers_version: Option<Count>,
    /// At which version of its facts it changes none; `None` when it says none.
    facts_version: Option<Count>,
    complete: bool,
    /// If its use may be due to be written.
    token_id: Option<Id>,
}

impl<'a> Candidate<'a> {
    /// `None` when it is known that it would not be taken, or the statement would fail.
    fn of(shared: &Shared, place: usize, Append { contact, report }: &'a Append) -> Option<Self> {
        if !shared.partitions.knows(Day::of(report.recorded_at)) {
            return None;
        }
        let (containers_version, keys) = if tells(report) {
            let known = &shared.remembered.described;
            let (version, described) = known.latest(contact.host_id)?;
            let fingerprints = known.fingerprints(&report.containers);
            if !described.is_unchanged_by(&fingerprints, report.containers_complete) {
                return None;
            }
            let measured = report.containers.iter().zip(&fingerprints).filter(|(of, _)| of.metrics.is_some());
            let keys: Option<_> = measured.map(|(_, fingerprint)| described.key(*fingerprint)).collect();
            (Some(Count(version)), keys?)
        } else {
            (None, Vec::new())
        };
        let facts_version = match &report.host.facts {
            None => None,
            Some(facts) => {
                let known = &shared.remembered.facts;
                let (version, told) = known.latest(contact.host_id)?;
                (told == known.fingerprint(facts)).then_some(Some(Count(version)))?
            }
        };
        let is_due = shared.remembered.uses.is_due(contact.token_id, contact.at);
        Some(Self {
            place,
            row: SnapshotRow::of(contact.host_id.into(), report, contact.at).ok()?,
            keys,
            containers_version,
            facts_version,
            complete: report.containers_complete,
            token_id: is_due.then(|| contact.token_id.into()),
        })
    }
}

/// The first report of each host, if it may be taken: one that comes after another of its host's comes after it.
fn candidates<'a>(shared: &Shared, reports: &'a [Append]) -> Vec<Candidate<'a>> {
    let mut met = HashSet::with_capacity(reports.len());
    let firsts = reports.iter().enumerate().filter(|(_, append)| met.insert(append.contact.host_id));
    firsts.filter_map(|(place, append)| Candidate::of(shared, place, append)).collect()
}

/// Stores those of `reports` whose hosts go on as they did, and tells which, by their places: they are accepted, and
/// bring no event. When the statement fails for a reason that one of them may be, or that passes, none is stored.
pub(crate) async fn append(shared: &Arc<Shared>, reports: &[Append]) -> Result<Vec<bool>, Failure> {
    let mut stored = vec![false; reports.len()];
    // What is not taken needs a transaction, and that is one more flush: worth it for a few, not where it takes many.
    let worth = |taken: usize| taken > 0 && taken * 4 >= reports.len() * 3;
    if !shared.gate.is_open() || shared.steadiness.lost.load(Ordering::Relaxed) {
        return Ok(stored);
    }
    let candidates = candidates(shared, reports);
    if !worth(candidates.len()) {
        return Ok(stored);
    }
    match store(shared, &candidates).await {
        Ok(hosts) => {
            for candidate in &candidates {
                stored[candidate.place] = hosts.contains(&candidate.row.key().0);
            }
            Ok(stored)
        }
        // The engine has told that it undid it.
        Err(failure) if failure.lacks_partition() => {
            shared.partitions.forget();
            Ok(stored)
        }
        Err(failure) if failure.lost_to_another() || failure.may_be_of_one_piece() => Ok(stored),
        // Nobody knows what became of it, or the transaction would fail alike.
        Err(failure) => {
            shared.steadiness.lost.store(true, Ordering::Relaxed);
            Err(failure)
        }
    }
}

/// The statement. Gives the hosts whose reports it has stored.
async fn store(shared: &Arc<Shared>, candidates: &[Candidate<'_>]) -> Result<HashSet<Id>, Failure> {
    let are_due = candidates.iter().any(|candidate| candidate.token_id.is_some());
    let text = match (candidates.len(), are_due) {
        (1, false) => ONE,
        (1, true) => ONE_USED,
        (_, false) => SEVERAL,
        (_, true) => SEVERAL_USED,
    };
    let rows = shared.write_alone(|db| {
        let statement = match candidates {
            [of] => snapshot::statement_of_one(db, text, (&of.row, &of.keys))?
                .bind(of.containers_version)
                .bind(of.facts_version)
                .bind(of.complete)
                .bind(of.token_id),
            several => {
                let rows: Vec<_> = several.iter().map(|of| (&of.row, &*of.keys)).collect();
                snapshot::statement(db, text, &rows)?
                    .bind(several.iter().map(|of| of.containers_version).collect::<Vec<_>>())
                    .bind(several.iter().map(|of| of.facts_version).collect::<Vec<_>>())
                    .bind(several.iter().map(|of| of.complete).collect::<Vec<_>>())
                    .bind(several.iter().map(|of| of.token_id).collect::<Vec<_>>())
            }
        };
        Ok(if are_due { statement.bind(LAST_USE_GRAIN.as_secs_f64()) } else { statement })
    });
    let (mut hosts, mut used) = (HashSet::with_capacity(candidates.len()), Vec::new());
    for row in rows.await? {
        hosts.extend(row.try_get::<Option<Vec<Id>>, _>(0)?.into_iter().flatten());
        let tokens: Option<Vec<Option<Id>>> = row.try_get(1)?;
        let times: Option<Vec<Option<At>>> = row.try_get(2)?;
        let uses = tokens.into_iter().flatten().zip(times.into_iter().flatten());
        used.extend(uses.filter_map(|(token_id, at)| Some((token_id?.into(), at?.0))));
    }
    shared.remembered.learn(Learnt { used, ..Learnt::default() });
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use enlist_testing::Database;
    use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};

    use super::*;
    use crate::PgStore;

    /// Also where the planner last saw a fleet of which nobody had come yet.
    #[tokio::test]
    async fn presence_is_found_by_its_host() {
        let database = Database::empty("storage-postgres").await.unwrap_or_else(|error| panic!("{error}"));
        let store = PgStore::connect(database.url()).await.expect("the server is there");
        store.migrate().await.expect("a fresh database can be migrated");
        let mut connection = PgConnection::connect(database.url()).await.expect("the server is there");
        let setup = "SET search_path = enlist;
             SET plan_cache_mode = force_generic_plan;
             INSERT INTO host_presence (host_id, presence, facts, containers_version, facts_version, archived)
             SELECT gen_random_uuid(), 'pending', '{}', 0, 0, false FROM generate_series(1, 20000);
             ANALYZE host_presence;
             UPDATE host_presence SET presence = 'online', last_seen_at = now(), sweep_from = now();";
        raw_sql(setup).execute(&mut connection).await.expect("the rows fit");
        for (text, values) in [(SEVERAL, 26), (SEVERAL_USED, 27), (ONE, 24), (ONE_USED, 25)] {
            let text = text.replace("{schema}", "enlist");
            let unknown = vec!["NULL"; values].join(", ");
            let text = format!("PREPARE steady AS {text}; EXPLAIN EXECUTE steady ({unknown})");
            let plan = raw_sql(AssertSqlSafe(text)).fetch_all(&mut connection).await.expect("it is a statement");
            let plan: Vec<String> = plan.iter().map(|row| row.try_get(0).expect("a step is text")).collect();
            let plan = plan.join("\n");
            assert!(plan.contains("host_presence_pkey"), "{plan}");
            assert!(!plan.contains("host_presence_online") && !plan.contains("host_presence_status"), "{plan}");
            assert!(!plan.contains("Seq Scan on host_presence"), "{plan}");
            raw_sql("DEALLOCATE steady").execute(&mut connection).await.expect("it was prepared");
        }
        store.close().await;
    }
}
