//! What a host shows of itself: the row that contact writes.

use diesel::prelude::*;
use enlist_core::HostId;
use enlist_core::host::{Presence, Status};
use enlist_core::store::HostPresence;
use enlist_core::telemetry::HostFacts;

use crate::column::{At, Count, Id, UNKNOWN_WORD, from_json, required, to_json};
use crate::error::Failure;
use crate::schema::host_presence;

/// A row of `host_presence`.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = host_presence, treat_none_as_default_value = false)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
pub(crate) struct PresenceRow {
    host_id: Id,
    presence: String,
    last_seen_at: Option<At>,
    unreachable_since: Option<At>,
    facts: String,
    /// `recorded_at` of the newest stored report.
    pub(crate) newest_report_at: Option<At>,
    /// Its row.
    pub(crate) newest_report_id: Option<i64>,
    /// When the newest complete report arrived.
    pub(crate) last_complete_at: Option<At>,
    /// Raised by every write of a container row.
    pub(crate) containers_version: Count,
}

impl PresenceRow {
    /// Of a host that was just made: Pending, without facts.
    pub(crate) fn new(host_id: HostId) -> Result<Self, Failure> {
        Ok(Self {
            host_id: host_id.into(),
            presence: Status::Pending.as_str().to_owned(),
            last_seen_at: None,
            unreachable_since: None,
            facts: to_json(&HostFacts::default())?,
            newest_report_at: None,
            newest_report_id: None,
            last_complete_at: None,
            containers_version: Count(0),
        })
    }

    /// Writes the row over the one that is there. As `REPLACE`, since diesel compiles every `UPDATE` anew, and this is
    /// one for each report; nothing refers to the row that it deletes.
    pub(crate) fn put(&self, connection: &mut SqliteConnection) -> Result<(), Failure> {
        diesel::replace_into(host_presence::table).values(self).execute(connection)?;
        Ok(())
    }

    /// What readers see of it.
    pub(crate) fn decode(self) -> Result<HostPresence, Failure> {
        Ok(HostPresence {
            presence: self.presence()?,
            facts: self.facts()?,
            newest_report_at: self.newest_report_at.map(|at| at.0),
            containers_version: self.containers_version.0,
        })
    }

    /// Whether the host is heard.
    pub(crate) fn presence(&self) -> Result<Presence, Failure> {
        let last_seen_at = || required(self.last_seen_at).map(|at| at.0);
        match self.presence.as_str() {
            "pending" => Ok(Presence::Pending),
            "online" => Ok(Presence::Online { last_seen_at: last_seen_at()? }),
            "unreachable" => {
                Ok(Presence::Unreachable { last_seen_at: last_seen_at()?, since: required(self.unreachable_since)?.0 })
            }
            _ => Err(UNKNOWN_WORD),
        }
    }

    /// Takes over another presence.
    pub(crate) fn set_presence(&mut self, presence: Presence) {
        presence.status().as_str().clone_into(&mut self.presence);
        self.last_seen_at = presence.last_seen_at().map(At);
        self.unreachable_since = match presence {
            Presence::Unreachable { since, .. } => Some(At(since)),
            Presence::Pending | Presence::Online { .. } => None,
        };
    }

    /// Takes over what `newer` knows; says whether that changed anything.
    pub(crate) fn merge_facts(&mut self, newer: &HostFacts) -> Result<bool, Failure> {
        let mut facts = self.facts()?;
        let changed = facts.merge(newer);
        if changed {
            self.facts = to_json(&facts)?;
        }
        Ok(changed)
    }

    fn facts(&self) -> Result<HostFacts, Failure> {
        from_json(&self.facts)
    }
}

/// Merges what an enrolment knew of the machine, while no report of the host is stored: reports know better.
pub(crate) fn merge_enrolment_facts(
    connection: &mut SqliteConnection,
    host_id: HostId,
    facts: &HostFacts,
) -> Result<(), Failure> {
    let mut row =
        host_presence::table.find(Id::from(host_id)).select(PresenceRow::as_select()).get_result(connection)?;
    if row.newest_report_at.is_none() && row.merge_facts(facts)? {
        row.put(connection)?;
    }
    Ok(())
}
