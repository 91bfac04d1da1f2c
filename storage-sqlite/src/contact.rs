//! Contact: what a transaction of reports or heartbeats knows of the hosts that it meets, and writes at its end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use enlist_core::event::{Event, NewEvent};
use enlist_core::host::Presence;
use enlist_core::store::{Contact, Described, came_online};
use enlist_core::telemetry::HostFacts;
use enlist_core::{AgentTokenId, HostId, Timestamp};
use rusqlite::{CachedStatement, Statement, Transaction, params};

use crate::column::{Count, Id, from_json, parse, required, text, to_json};
use crate::container::Containers;
use crate::error::Failure;
use crate::host::kind_of;
use crate::presence::{PresenceState, presence_columns};
use crate::store::{Ingest, Remembered};
use crate::transaction::immediate_report;
use crate::{agent_token, event};

/// What contact has to know of a host, all of it in one row: that and nothing else is read for a host that goes on as it
/// did.
const HEAD: &str = concat!(
    "SELECT p.archived, p.facts_version, ",
    presence_columns!(),
    " FROM host_presence AS p WHERE p.host_id = ?"
);
/// What an event tells of it besides.
const WHOSE: &str = "SELECT tenant_id, kind FROM hosts WHERE host_key = ?";

/// `touch`.
pub(crate) fn touch(ingest: &mut Ingest<'_>, contacts: &[Contact]) -> Result<Vec<Event>, Failure> {
    let remembered = ingest.remembered;
    immediate_report(ingest.connection, |transaction| {
        let mut visits = Visits::begin(&transaction, remembered)?;
        for contact in contacts {
            if let Some(visit) = visits.of(contact.host_id)? {
                visit.contact(contact);
            }
        }
        let visited = visits.write()?;
        transaction.commit()?;
        Ok(visited.remember(remembered))
    })
}

/// The hosts that a transaction meets: each is read once, and written once.
pub(crate) struct Visits<'a> {
    transaction: &'a Transaction<'a>,
    remembered: &'a Remembered,
    head: CachedStatement<'a>,
    hosts: HashMap<HostId, Option<Visit>>,
    /// In the order in which they were met, which is the order in which they are written and told of.
    order: Vec<HostId>,
}

/// What is told and remembered of them once the transaction has been committed.
#[derive(Default)]
pub(crate) struct Visited {
    events: Vec<Event>,
    used: Vec<(AgentTokenId, Timestamp)>,
    told: Vec<(HostId, u64, u64)>,
    read: Vec<(HostId, u64, Containers)>,
}

/// A host that a transaction meets.
pub(crate) struct Visit {
    /// Which.
    pub(crate) host_id: HostId,
    /// What it shows of itself.
    pub(crate) presence: PresenceState,
    is_archived: bool,
    facts: Facts,
    /// What the rows of its containers say, remembered from another transaction.
    described: Option<Arc<Described<i64>>>,
    /// The rows, once they were read.
    containers: Option<Containers>,
    /// When its tokens were used: most often one.
    uses: Vec<(AgentTokenId, Timestamp)>,
    /// The contact by which it came online, and what it was before.
    came: Option<(Contact, Presence)>,
}

/// What is stored of a host's machine, as far as a transaction has to know it.
struct Facts {
    /// Raised with every write, by a trigger.
    version: u64,
    /// The fingerprint of what would change nothing if a report said it again.
    told: Option<u64>,
    /// Read only when a report says something else.
    known: Option<HostFacts>,
    changed: bool,
}

impl<'a> Visits<'a> {
    pub(crate) fn begin(transaction: &'a Transaction<'a>, remembered: &'a Remembered) -> Result<Self, Failure> {
        let head = transaction.prepare_cached(HEAD)?;
        Ok(Self { transaction, remembered, head, hosts: HashMap::new(), order: Vec::new() })
    }

    /// The host, read inside the transaction; `None` if there is none.
    pub(crate) fn of(&mut self, host_id: HostId) -> Result<Option<&mut Visit>, Failure> {
        let visit = match self.hosts.entry(host_id) {
            Entry::Occupied(met) => met.into_mut(),
            Entry::Vacant(unmet) => {
                self.order.push(host_id);
                unmet.insert(Visit::begin(&mut self.head, self.remembered, host_id)?)
            }
        };
        Ok(visit.as_mut())
    }

    /// Writes what changed, save for archived hosts.
    pub(crate) fn write(mut self) -> Result<Visited, Failure> {
        let mut contact = PresenceState::prepare(self.transaction)?;
        let mut visited = Visited::default();
        let mut events = Vec::new();
        for host_id in self.order {
            let Some(visit) = self.hosts.remove(&host_id).flatten().filter(|visit| !visit.is_archived) else {
                continue;
            };
            visit.presence.write(self.transaction, &mut contact)?;
            visited.told.extend(visit.facts.write(self.transaction, &visit.presence)?);
            for (token, at) in visit.uses {
                if self.remembered.uses.is_due(token, at)
                    && agent_token::note_use(self.transaction, host_id, token, at)?
                {
                    visited.used.push((token, at));
                }
            }
            if let Some((contact, before)) = visit.came {
                events.extend(online_event(self.transaction, &contact, before, &visit.presence)?);
            }
            if let Some(containers) = visit.containers {
                visited.read.push((host_id, visit.presence.containers_version.0, containers));
            }
        }
        visited.events = event::tell(self.transaction, events)?;
        Ok(visited)
    }
}

impl Visited {
    /// After the commit, and not before: what is rolled back was never so. Returns the events of hosts that came online.
    pub(crate) fn remember(self, Remembered { described, facts, uses }: &Remembered) -> Vec<Event> {
        for (token, at) in self.used {
            uses.note(token, at);
        }
        for (host_id, version, fingerprint) in self.told {
            facts.fill(host_id, version, fingerprint);
        }
        for (host_id, version, containers) in self.read {
            described.fill(host_id, version, Arc::new(containers.described(described)));
        }
        self.events
    }
}

impl Visit {
    fn begin(head: &mut Statement<'_>, remembered: &Remembered, host_id: HostId) -> Result<Option<Self>, Failure> {
        let mut rows = head.query([Id::from(host_id)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let Count(version) = row.get(1)?;
        let presence = PresenceState::read(host_id, row, 2)?;
        Ok(Some(Self {
            host_id,
            is_archived: row.get(0)?,
            facts: Facts { version, told: remembered.facts.find(host_id, version), known: None, changed: false },
            described: remembered.described.find(host_id, presence.containers_version.0),
            presence,
            containers: None,
            uses: Vec::with_capacity(1),
            came: None,
        }))
    }

    /// Whether the host is out of service: then nothing is written for it.
    pub(crate) const fn is_archived(&self) -> bool {
        self.is_archived
    }

    /// Notes that it proved its credential.
    pub(crate) fn contact(&mut self, contact: &Contact) {
        let before = self.presence.presence;
        let after = before.contact(contact.at);
        self.presence.presence = after;
        if before.status() != after.status() {
            self.came = Some((contact.clone(), before));
        }
        match self.uses.iter_mut().find(|(token_id, _)| *token_id == contact.token_id) {
            Some((_, used_at)) => *used_at = contact.at.max(*used_at),
            None => self.uses.push((contact.token_id, contact.at)),
        }
    }

    /// Takes over what the newest report says of the machine. Agents say all they know each time.
    pub(crate) fn merge_facts(
        &mut self,
        transaction: &Transaction<'_>,
        remembered: &Remembered,
        newer: &HostFacts,
    ) -> Result<(), Failure> {
        const READ: &str = "SELECT facts FROM hosts WHERE host_key = ?";
        let fingerprint = remembered.facts.fingerprint(newer);
        if self.facts.told == Some(fingerprint) {
            return Ok(());
        }
        let known = match &mut self.facts.known {
            Some(known) => known,
            unread => {
                let mut statement = transaction.prepare_cached(READ)?;
                let mut rows = statement.query([self.presence.host_key])?;
                unread.insert(from_json(required(text(required(rows.next()?)?, 0)?)?)?)
            }
        };
        self.facts.changed |= known.merge(newer);
        self.facts.told = Some(fingerprint);
        Ok(())
    }

    /// What the rows of its containers say, if that is known without reading them, and they were not read since.
    pub(crate) fn described(&self) -> Option<&Described<i64>> {
        self.described.as_deref().filter(|_| self.containers.is_none())
    }

    /// Its containers, read once a transaction.
    pub(crate) fn containers(&mut self, transaction: &Transaction<'_>) -> Result<&mut Containers, Failure> {
        match &mut self.containers {
            Some(containers) => Ok(containers),
            unread => Ok(unread.insert(Containers::load(transaction, self.host_id)?)),
        }
    }
}

impl Facts {
    /// Writes them if they changed. What there is to remember, when the transaction has been committed: the version, and
    /// what was told.
    fn write(self, transaction: &Transaction<'_>, of: &PresenceState) -> Result<Option<(HostId, u64, u64)>, Failure> {
        const WRITE: &str = "UPDATE hosts SET facts = ?2 WHERE host_key = ?1";
        // Nothing was read: what is remembered holds.
        let (Some(known), Some(told)) = (self.known, self.told) else { return Ok(None) };
        if self.changed {
            transaction.prepare_cached(WRITE)?.execute(params![of.host_key, to_json(&known)?])?;
        }
        Ok(Some((of.host_id, self.version + u64::from(self.changed), told)))
    }
}

fn online_event(
    transaction: &Transaction<'_>,
    contact: &Contact,
    before: Presence,
    after: &PresenceState,
) -> Result<Option<NewEvent>, Failure> {
    let mut statement = transaction.prepare_cached(WHOSE)?;
    let mut rows = statement.query([after.host_key])?;
    let row = required(rows.next()?)?;
    let (tenant_id, kind) = (parse(required(text(row, 0)?)?)?, kind_of(required(text(row, 1)?)?)?);
    Ok(came_online(contact, &tenant_id, kind, before, after.presence))
}
