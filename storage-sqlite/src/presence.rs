//! What a host shows of itself: the row that contact writes.

use diesel::prelude::*;
use enlist_core::host::{Host, Presence, Status};
use enlist_core::store::HostPresence;
use enlist_core::telemetry::HostFacts;
use enlist_core::{HostId, Timestamp};
use rusqlite::{CachedStatement, Row, Statement, Transaction, params};

use crate::column::{At, Count, Id, UNKNOWN_WORD, from_json, required, text, to_json};
use crate::error::Failure;
use crate::schema::{host_presence, hosts};

/// What [`PresenceState::read`] reads, of `host_presence AS p`.
macro_rules! presence_columns {
    () => {
        "p.host_key, p.presence, p.last_seen_at, p.unreachable_since, p.newest_report_at, p.newest_report_id, p.last_complete_at,
         p.containers_version, p.liveness_window, p.sweep_from"
    };
}
pub(crate) use presence_columns;

/// A row of `host_presence`.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = host_presence, treat_none_as_default_value = false)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
pub(crate) struct PresenceRow {
    /// What snapshots name the host by.
    pub(crate) host_key: i64,
    host_id: Id,
    presence: String,
    last_seen_at: Option<At>,
    unreachable_since: Option<At>,
    newest_report_at: Option<At>,
    /// The row of the newest stored report.
    pub(crate) newest_report_id: Option<i64>,
    /// When the newest complete report arrived.
    pub(crate) last_complete_at: Option<At>,
    containers_version: Count,
    liveness_window: Option<i64>,
}

impl PresenceRow {
    /// Of a host that was just made: Pending.
    pub(crate) fn new(host: &Host, host_key: i64) -> Self {
        Self {
            host_key,
            host_id: host.id.into(),
            presence: Status::Pending.as_str().to_owned(),
            last_seen_at: None,
            unreachable_since: None,
            newest_report_at: None,
            newest_report_id: None,
            last_complete_at: None,
            containers_version: Count(0),
            liveness_window: host.liveness_window.map(|window| window.as_secs().into()),
        }
    }

    /// What readers see of it, and of the facts beside it.
    pub(crate) fn decode(self, facts: &str) -> Result<HostPresence, Failure> {
        Ok(HostPresence {
            presence: presence_of(&self.presence, self.last_seen_at, self.unreachable_since)?,
            facts: from_json(facts)?,
            newest_report_at: self.newest_report_at.map(|at| at.0),
            containers_version: self.containers_version.0,
        })
    }
}

/// The same while contacts are noted: read once a transaction, and written once.
#[derive(Debug)]
pub(crate) struct PresenceState {
    /// Whose.
    pub(crate) host_id: HostId,
    /// What snapshots name the host by, and what its row is found by.
    pub(crate) host_key: i64,
    /// Whether the host is heard.
    pub(crate) presence: Presence,
    /// `recorded_at` of the newest stored report.
    pub(crate) newest_report_at: Option<At>,
    /// Its row.
    pub(crate) newest_report_id: Option<i64>,
    /// When the newest complete report arrived.
    pub(crate) last_complete_at: Option<At>,
    /// Raised by every write of a container row.
    pub(crate) containers_version: Count,
    /// The host's own window, in seconds.
    liveness_window: Option<i64>,
    /// What it was when it was read: whether it is Online, the version of its containers, and what sweeps find it by.
    before: (bool, Count, Option<i64>),
}

impl PresenceState {
    /// Reads it from `first` on: the columns of [`presence_columns!`].
    pub(crate) fn read(host_id: HostId, row: &Row<'_>, first: usize) -> Result<Self, Failure> {
        let presence = presence_of(required(text(row, first + 1)?)?, row.get(first + 2)?, row.get(first + 3)?)?;
        let containers_version = row.get(first + 7)?;
        Ok(Self {
            host_id,
            host_key: row.get(first)?,
            presence,
            newest_report_at: row.get(first + 4)?,
            newest_report_id: row.get(first + 5)?,
            last_complete_at: row.get(first + 6)?,
            containers_version,
            liveness_window: row.get(first + 8)?,
            before: (is_online(presence), containers_version, row.get(first + 9)?),
        })
    }

    /// Prepares the one of the statements of [`PresenceState::write`] that most hosts take.
    pub(crate) fn prepare<'a>(transaction: &'a Transaction<'_>) -> Result<CachedStatement<'a>, Failure> {
        const CONTACT: &str = "
            UPDATE host_presence
            SET last_seen_at = ?2, newest_report_at = ?3, newest_report_id = ?4, last_complete_at = ?5
            WHERE host_key = ?1";
        Ok(transaction.prepare_cached(CONTACT)?)
    }

    /// Writes it over what is there: most often only that the host is still heard, which is what was prepared. Every column
    /// that is named costs its checks.
    pub(crate) fn write(&self, transaction: &Transaction<'_>, contact: &mut Statement<'_>) -> Result<(), Failure> {
        // Names what the indexes of sweeps have, too.
        const MOVED: &str = "
            UPDATE host_presence
            SET last_seen_at = ?2, newest_report_at = ?3, newest_report_id = ?4, last_complete_at = ?5,
                containers_version = ?6, sweep_from = ?7
            WHERE host_key = ?1";
        // And those of statuses: of transitions only.
        const CHANGE: &str = "
            UPDATE host_presence
            SET last_seen_at = ?2, newest_report_at = ?3, newest_report_id = ?4, last_complete_at = ?5,
                containers_version = ?6, sweep_from = ?7, presence = ?8, unreachable_since = ?9
            WHERE host_key = ?1";
        let last_seen_at = self.presence.last_seen_at();
        let (was_online, version_before, from_before) = self.before;
        let sweep_from = last_seen_at.map(|at| sweep_from(from_before, at, self.liveness_window));
        let last_seen_at = last_seen_at.map(At);
        let Self { host_key, newest_report_at, newest_report_id, last_complete_at, containers_version, .. } = self;
        let is_still_online = was_online && is_online(self.presence);
        if is_still_online && version_before == *containers_version && from_before == sweep_from {
            contact.execute(params![host_key, last_seen_at, newest_report_at, newest_report_id, last_complete_at])?;
        } else if is_still_online {
            transaction.prepare_cached(MOVED)?.execute(params![
                host_key,
                last_seen_at,
                newest_report_at,
                newest_report_id,
                last_complete_at,
                containers_version,
                sweep_from,
            ])?;
        } else {
            let since = match self.presence {
                Presence::Unreachable { since, .. } => Some(At(since)),
                Presence::Pending | Presence::Online { .. } => None,
            };
            transaction.prepare_cached(CHANGE)?.execute(params![
                host_key,
                last_seen_at,
                newest_report_at,
                newest_report_id,
                last_complete_at,
                containers_version,
                sweep_from,
                self.presence.status().as_str(),
                since,
            ])?;
        }
        Ok(())
    }
}

/// `host_presence.sweep_from`, what it was before, as long as that will do: the table checks it.
fn sweep_from(before: Option<i64>, last_seen_at: Timestamp, liveness_window: Option<i64>) -> i64 {
    const MINUTE: i64 = 60_000_000;
    let now = last_seen_at.unix_micros() + liveness_window.unwrap_or(0) * 1_000_000;
    before.filter(|before| (0..MINUTE).contains(&(now - before))).unwrap_or(now)
}

const fn is_online(presence: Presence) -> bool {
    matches!(presence, Presence::Online { .. })
}

fn presence_of(word: &str, last_seen_at: Option<At>, unreachable_since: Option<At>) -> Result<Presence, Failure> {
    let last_seen_at = || required(last_seen_at).map(|at| at.0);
    match word {
        "pending" => Ok(Presence::Pending),
        "online" => Ok(Presence::Online { last_seen_at: last_seen_at()? }),
        "unreachable" => {
            Ok(Presence::Unreachable { last_seen_at: last_seen_at()?, since: required(unreachable_since)?.0 })
        }
        _ => Err(UNKNOWN_WORD),
    }
}

/// Merges what an enrolment knew of the machine, while no report of the host is stored: reports know better.
pub(crate) fn merge_enrolment_facts(
    connection: &mut SqliteConnection,
    host_id: HostId,
    facts: &HostFacts,
) -> Result<(), Failure> {
    let host = hosts::table.find(Id::from(host_id));
    let (newest_report_at, known) = host
        .inner_join(host_presence::table.on(host_presence::host_key.eq(hosts::host_key)))
        .select((host_presence::newest_report_at, hosts::facts))
        .get_result::<(Option<At>, String)>(connection)?;
    let mut known: HostFacts = from_json(&known)?;
    if newest_report_at.is_none() && known.merge(facts) {
        diesel::update(host).set(hosts::facts.eq(to_json(&known)?)).execute(connection)?;
    }
    Ok(())
}
