//! The days of `host_metric_snapshots`: made before they are needed, dropped when they are old.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use enlist_core::Timestamp;
use sqlx::{AssertSqlSafe, Row, raw_sql};

use crate::error::{Failure, NOT_ATTACHED};
use crate::lease::Lease;
use crate::store::Shared;
use crate::transaction::Db;

const MICROS_A_DAY: i64 = 24 * 60 * 60 * 1_000_000;
const PARENT: &str = "host_metric_snapshots";

/// A report does not wait for long for its day to be made: those of other days wait with it.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL lock_timeout = '1s';
    SET LOCAL idle_in_transaction_session_timeout = '8s'";

/// A day in UTC: its number since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Day(i64);

impl Day {
    /// The day that holds `at`.
    pub(crate) fn of(at: Timestamp) -> Self {
        Self(at.unix_micros().div_euclid(MICROS_A_DAY))
    }

    /// The day `days` later.
    pub(crate) const fn later(self, days: i64) -> Self {
        Self(self.0 + days)
    }

    /// Year, month and day of the Gregorian calendar.
    ///
    /// Counted from a March 1st, so that the leap day is the last of its year; 400 years always have 146,097 days.
    const fn date(self) -> (i64, i64, i64) {
        let from_march = self.0 + 719_468;
        let (era, in_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
        let year_of_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
        let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * in_year + 2) / 153;
        let day = in_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
        (year, month, day)
    }

    /// Reads the number back from a partition's name.
    fn of_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(PARENT)?.strip_prefix('_')?;
        let number: i64 = (digits.len() == 8).then(|| digits.parse().ok())??;
        let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
        // The only day with this date lies within two of this estimate.
        let estimate = (year - 1970) * 365 + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400;
        let months =
            (1..month).map(|month| [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][(month - 1) as usize % 12]);
        let estimate = estimate + months.sum::<i64>() + day - 1;
        (estimate - 2..=estimate + 2).map(Self).find(|candidate| candidate.date() == (year, month, day))
    }

    fn name(self) -> String {
        let (year, month, day) = self.date();
        format!("{PARENT}_{year:04}{month:02}{day:02}")
    }

    fn bound(self) -> String {
        let (year, month, day) = self.date();
        format!("{year:04}-{month:02}-{day:02} 00:00:00+00")
    }
}

/// Which partitions this store has seen.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    seen: Mutex<BTreeSet<Day>>,
}

impl Partitions {
    /// Makes those of `days` that are not there, and returns those that cannot be had now. Costs nothing for days that
    /// this store has seen.
    ///
    /// In a transaction of its own before the one that needs them: made in the same one, the new table would be locked
    /// until that one ends.
    pub(crate) async fn ensure(&self, shared: &Arc<Shared>, days: &[Day]) -> Result<BTreeSet<Day>, Failure> {
        let mut missing: BTreeSet<Day> = {
            let seen = self.seen();
            days.iter().copied().filter(|day| !seen.contains(day)).collect()
        };
        if missing.is_empty() {
            return Ok(missing);
        }
        let failure = match self.make(shared, &missing).await {
            Ok(()) => return Ok(BTreeSet::new()),
            Err(failure) if failure.is_of_a_day() => failure,
            Err(failure) => return Err(failure),
        };
        tracing::warn!(schema = shared.sql.schema(), %failure, "a day of snapshots cannot be made");
        // One day is no reason to refuse the others. Those that are there need no lock.
        let there = attached(shared).await?;
        missing.retain(|day| !there.contains(day));
        self.seen().extend(there);
        // Whoever holds a lock against one day holds it against all that are not there.
        if !failure.is_lock_timeout() {
            for day in missing.clone() {
                match self.make(shared, &BTreeSet::from([day])).await {
                    Ok(()) => drop(missing.remove(&day)),
                    Err(failure) if failure.is_lock_timeout() => break,
                    Err(failure) if failure.is_of_a_day() => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(missing)
    }

    /// Whether this store has seen the day's partition.
    pub(crate) fn knows(&self, day: Day) -> bool {
        self.seen().contains(&day)
    }

    async fn make(&self, shared: &Arc<Shared>, days: &BTreeSet<Day>) -> Result<(), Failure> {
        let sql = &shared.sql;
        let mut lease = Lease::begin(&shared.pool, BEGIN).await?;
        // One at a time makes them, so that "is it there?" stays true until it is made. Released with the transaction:
        // a lock of the session would stay behind on the pooler's connection.
        let mut texts = vec![format!("SELECT pg_advisory_xact_lock({})", sql.lock_key("partitions"))];
        texts.extend(days.iter().map(|day| sql.put_in(&creation(*day, sql.schema()))));
        for text in texts {
            if let Err(error) = raw_sql(AssertSqlSafe(text)).execute(lease.connection()).await {
                lease.rollback().await;
                return Err(error.into());
            }
        }
        lease.commit().await?;
        self.seen().extend(days);
        Ok(())
    }

    /// Forgets all of them: somebody else has dropped one.
    pub(crate) fn forget(&self) {
        self.seen().clear();
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeSet<Day>> {
        // A set that lacks a day is only slower.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the partition of a day unless it is there. Made beside its parent and then attached: `PARTITION OF` would lock
/// the parent against everybody, attaching lets reports and reads go on. A table that somebody has detached to keep it
/// is not ours to attach again.
fn creation(day: Day, schema: &str) -> String {
    let (name, from, to) = (day.name(), day.bound(), day.later(1).bound());
    format!(
        "DO $enlist$ BEGIN
            IF to_regclass('\"{schema}\".{name}') IS NULL THEN
                CREATE TABLE {{schema}}.{name} (LIKE {{schema}}.{PARENT} INCLUDING CONSTRAINTS INCLUDING STORAGE);
                ALTER TABLE {{schema}}.{PARENT} ATTACH PARTITION {{schema}}.{name} FOR VALUES FROM ('{from}') TO ('{to}');
            ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_inherits
                WHERE inhrelid = to_regclass('\"{schema}\".{name}') AND inhparent = to_regclass('\"{schema}\".{PARENT}'))
            THEN
                RAISE EXCEPTION 'table {name} is there, but no partition' USING ERRCODE = '{NOT_ATTACHED}';
            END IF;
        END $enlist$"
    )
}

/// The days that are there. In one statement, that waits for no lock.
async fn attached(shared: &Arc<Shared>) -> Result<Vec<Day>, Failure> {
    let mut lease = Lease::begin(&shared.pool, BEGIN).await?;
    let rows = raw_sql(AssertSqlSafe(shared.sql.put_in(PARTITIONS))).fetch_all(lease.connection()).await?;
    lease.rollback().await;
    let names = rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<Vec<_>, _>>()?;
    Ok(names.iter().filter_map(|name| Day::of_name(name)).collect())
}

const PARTITIONS: &str = "
    SELECT child.relname::text
    FROM pg_catalog.pg_inherits AS link
    JOIN pg_catalog.pg_class AS child ON child.oid = link.inhrelid
    WHERE link.inhparent = to_regclass('{schema}.host_metric_snapshots')
    ORDER BY child.relname";

/// The days that lie wholly before `before`, oldest first.
pub(crate) async fn older(db: &mut Db, before: Timestamp) -> Result<Vec<Day>, Failure> {
    let rows = db.query(PARTITIONS).fetch_all(db.connection()).await?;
    let names = rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<Vec<_>, _>>()?;
    let mut days: Vec<_> = names.iter().filter_map(|name| Day::of_name(name)).collect();
    days.retain(|day| *day < Day::of(before));
    days.sort_unstable();
    Ok(days)
}

/// Drops a day. Fails with a lock time-out when somebody reads or writes for longer than a moment: whoever came behind
/// this would wait for it as well.
pub(crate) async fn drop_day(db: &mut Db, day: Day) -> Result<(), Failure> {
    let text = format!("SET LOCAL lock_timeout = '250ms'; DROP TABLE IF EXISTS {{schema}}.{}", day.name());
    let shared = db.shared();
    raw_sql(AssertSqlSafe(shared.sql.put_in(&text))).execute(db.connection()).await?;
    shared.partitions.seen().remove(&day);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_dates_of_the_calendar() {
        let names = [
            (0, "19700101"),
            (58, "19700228"),
            (59, "19700301"),
            (11_016, "20000229"),
            (11_017, "20000301"),
            (20_454, "20260101"),
            (47_540, "21000228"),
            (47_541, "21000301"),
            (2_932_896, "99991231"),
        ];
        for (number, date) in names {
            assert_eq!(Day(number).name(), format!("{PARENT}_{date}"));
        }
        assert_eq!(Day::of(Timestamp::MAX).later(1).bound(), "10000-01-01 00:00:00+00");
    }

    #[test]
    fn every_name_is_read_back() {
        for number in 0..=Day::of(Timestamp::MAX).0 {
            assert_eq!(Day::of_name(&Day(number).name()), Some(Day(number)));
        }
        for other in
            ["host_metric_snapshots_default", "host_metric_snapshots_20260230", "hosts", "host_metric_snapshots_1"]
        {
            assert_eq!(Day::of_name(other), None, "{other}");
        }
    }
}
