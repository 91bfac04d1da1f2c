//! What a host shows of itself: the row that contact writes.

use enlist_core::HostId;
use enlist_core::host::{Presence, Status};
use enlist_core::store::HostPresence;
use enlist_core::telemetry::HostFacts;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::column::{At, Count, Id, UNKNOWN_WORD, from_json, required, to_json};
use crate::error::Failure;
use crate::transaction::Db;

/// The columns of a [`PresenceRow`], of `host_presence AS p`.
macro_rules! presence_columns {
    () => {
        "p.host_id AS presence_of, p.presence, p.last_seen_at, p.unreachable_since, p.facts::text AS facts,
         p.newest_report_at, p.last_complete_at, p.containers_version, p.facts_version"
    };
}
pub(crate) use presence_columns;

/// A row of `host_presence`.
#[derive(Debug, Clone)]
pub(crate) struct PresenceRow {
    /// Whose.
    pub(crate) host_id: Id,
    presence: Presence,
    facts: HostFacts,
    /// Raised by every write of the facts.
    pub(crate) facts_version: Count,
    /// `recorded_at` of the newest stored report.
    pub(crate) newest_report_at: Option<At>,
    /// When the newest complete report arrived.
    pub(crate) last_complete_at: Option<At>,
    /// Raised by every write of a container row.
    pub(crate) containers_version: Count,
    changed: bool,
    status_changed: bool,
    facts_changed: bool,
}

macro_rules! lock {
    ($held:literal) => {
        concat!(
            "SELECT ",
            presence_columns!(),
            " FROM {schema}.host_presence AS p WHERE p.host_id = ANY($1) ORDER BY p.host_id FOR UPDATE",
            $held
        )
    };
}
const LOCK: &str = lock!("");
const LOCK_UNHELD: &str = lock!(" SKIP LOCKED");

const PUT: &str = "
    UPDATE {schema}.host_presence AS p SET
        presence = v.presence,
        last_seen_at = v.last_seen_at,
        sweep_from = {schema}.sweep_from(p.sweep_from, v.last_seen_at, p.liveness_window),
        unreachable_since = v.unreachable_since,
        facts = coalesce(v.facts::json, p.facts),
        facts_version = v.facts_version,
        newest_report_at = v.newest_report_at,
        last_complete_at = v.last_complete_at,
        containers_version = v.containers_version
    FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::timestamptz[],
                $7::timestamptz[], $8::bigint[], $9::bigint[])
        AS v (host_id, presence, last_seen_at, unreachable_since, facts, newest_report_at, last_complete_at,
              containers_version, facts_version)
    WHERE p.host_id = v.host_id";

/// What stands beside the tags of a host follows by a trigger, a run for each. From so many on it follows by one statement.
const MANY: usize = 16;
/// Until the end of the transaction, or of [`FOLLOW`].
const FOLLOW_LATER: &str = "SELECT set_config('enlist.statuses_follow', 'on', true)";
const FOLLOW: &str = "SELECT {schema}.restate_statuses($1)";

impl PresenceRow {
    /// Reads [`presence_columns!`].
    pub(crate) fn read(row: &PgRow) -> Result<Self, Failure> {
        let last_seen_at: Option<At> = row.try_get("last_seen_at")?;
        let since: Option<At> = row.try_get("unreachable_since")?;
        let seen = || required(last_seen_at).map(|at| at.0);
        let presence = match row.try_get("presence")? {
            "pending" => Presence::Pending,
            "online" => Presence::Online { last_seen_at: seen()? },
            "unreachable" => Presence::Unreachable { last_seen_at: seen()?, since: required(since)?.0 },
            _ => return Err(UNKNOWN_WORD),
        };
        Ok(Self {
            host_id: row.try_get("presence_of")?,
            presence,
            facts: from_json(row.try_get("facts")?)?,
            facts_version: row.try_get("facts_version")?,
            newest_report_at: row.try_get("newest_report_at")?,
            last_complete_at: row.try_get("last_complete_at")?,
            containers_version: row.try_get("containers_version")?,
            changed: false,
            status_changed: false,
            facts_changed: false,
        })
    }

    /// What readers see of it.
    pub(crate) fn decode(self) -> HostPresence {
        HostPresence {
            presence: self.presence,
            facts: self.facts,
            newest_report_at: self.newest_report_at.map(|at| at.0),
            containers_version: self.containers_version.0,
        }
    }

    /// Whether the host is heard.
    pub(crate) const fn presence(&self) -> Presence {
        self.presence
    }

    /// Takes over another presence.
    pub(crate) fn set_presence(&mut self, presence: Presence) {
        self.changed |= presence != self.presence;
        self.status_changed |= presence.status() != self.presence.status();
        self.presence = presence;
    }

    /// Takes over what `newer` knows.
    pub(crate) fn merge_facts(&mut self, newer: &HostFacts) {
        if self.facts.merge(newer) {
            self.facts_version.0 += u64::from(!self.facts_changed);
            self.facts_changed = true;
            self.changed = true;
        }
    }

    /// Notes that something else of it was changed.
    pub(crate) const fn touch(&mut self) {
        self.changed = true;
    }
}

/// Locks the rows of these hosts, in the order of all transactions, and reads them as they are then. Hosts that are not
/// there are left out.
pub(crate) async fn lock(db: &mut Db, hosts: Vec<Id>) -> Result<Vec<PresenceRow>, Failure> {
    lock_by(LOCK, db, hosts).await
}

/// The same of those that nobody else holds just then: for sweeps alone, which come again, and are not to keep the others from
/// their hosts while they wait for one.
pub(crate) async fn lock_unheld(db: &mut Db, hosts: Vec<Id>) -> Result<Vec<PresenceRow>, Failure> {
    lock_by(LOCK_UNHELD, db, hosts).await
}

async fn lock_by(text: &'static str, db: &mut Db, mut hosts: Vec<Id>) -> Result<Vec<PresenceRow>, Failure> {
    hosts.sort_unstable();
    hosts.dedup();
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let rows = db.query(text).bind(hosts).fetch_all(db.connection()).await?;
    rows.iter().map(PresenceRow::read).collect()
}

/// Writes those rows that changed.
pub(crate) async fn put(db: &mut Db, rows: &[&PresenceRow]) -> Result<(), Failure> {
    let rows: Vec<_> = rows.iter().filter(|row| row.changed).collect();
    if rows.is_empty() {
        return Ok(());
    }
    // What did not change is not sent: most reports repeat the facts.
    let facts = rows.iter().map(|row| row.facts_changed.then(|| to_json(&row.facts)).transpose());
    let facts = facts.collect::<Result<Vec<_>, _>>()?;
    let since = |row: &&&PresenceRow| match row.presence {
        Presence::Unreachable { since, .. } => Some(At(since)),
        Presence::Pending | Presence::Online { .. } => None,
    };
    let risen_or_fallen: Vec<_> = rows.iter().filter(|row| row.status_changed).map(|row| row.host_id).collect();
    let at_once = risen_or_fallen.len() >= MANY;
    if at_once {
        db.query(FOLLOW_LATER).execute(db.connection()).await?;
    }
    db.query(PUT)
        .bind(rows.iter().map(|row| row.host_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.presence.status().as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.presence.last_seen_at().map(At)).collect::<Vec<_>>())
        .bind(rows.iter().map(since).collect::<Vec<_>>())
        .bind(facts)
        .bind(rows.iter().map(|row| row.newest_report_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.last_complete_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.containers_version).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.facts_version).collect::<Vec<_>>())
        .execute(db.connection())
        .await?;
    if at_once {
        db.query(FOLLOW).bind(risen_or_fallen).execute(db.connection()).await?;
    }
    Ok(())
}

/// The row of a host that was just made: Pending, without facts.
pub(crate) const NEW: (&str, &str) = (Status::Pending.as_str(), "{}");

/// Merges what an enrolment knew of the machine, while no report of the host is stored: reports know better. The row
/// is locked by the commit already.
pub(crate) async fn merge_enrolment_facts(db: &mut Db, host_id: HostId, facts: &HostFacts) -> Result<(), Failure> {
    for mut row in lock(db, vec![host_id.into()]).await? {
        if row.newest_report_at.is_none() {
            row.merge_facts(facts);
            put(db, &[&row]).await?;
        }
    }
    Ok(())
}
