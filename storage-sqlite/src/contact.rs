//! Contact: what a transaction of reports or heartbeats knows of the hosts that it meets, and writes at its end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use enlist_core::event::{Event, NewEvent};
use enlist_core::host::{HostKind, Lifecycle};
use enlist_core::store::{Contact, Described, DescribedCache, came_online};
use enlist_core::{AgentTokenId, HostId, TenantId, Timestamp};
use rusqlite::Transaction;

use crate::column::{Id, parse, required, text};
use crate::container::Containers;
use crate::error::Failure;
use crate::host::{kind_of, lifecycle_of};
use crate::presence::{PresenceState, presence_columns};
use crate::store::{Ingest, Remembered};
use crate::transaction::immediate_report;
use crate::{agent_token, event};

/// What contact has to know of a host.
const HEAD: &str = concat!(
    "SELECT h.tenant_id, h.kind, h.archived_at, ",
    presence_columns!(),
    " FROM hosts AS h JOIN host_presence AS p ON p.host_id = h.id WHERE h.id = ?"
);

/// `touch`.
pub(crate) fn touch(ingest: &mut Ingest<'_>, contacts: &[Contact]) -> Result<Vec<Event>, Failure> {
    let remembered = ingest.remembered;
    immediate_report(ingest.connection, |transaction| {
        let mut visits = Visits::new(remembered);
        for contact in contacts {
            if let Some(visit) = visits.of(&transaction, contact.host_id)? {
                visit.contact(contact);
            }
        }
        visits.finish(transaction)
    })
}

/// The hosts that a transaction meets: each is read once, and written once.
pub(crate) struct Visits<'a> {
    remembered: &'a Remembered,
    hosts: HashMap<HostId, Option<Visit>>,
    /// In the order in which they were met, which is the order in which they are written and told of.
    order: Vec<HostId>,
}

/// A host that a transaction meets.
pub(crate) struct Visit {
    /// Which.
    pub(crate) host_id: HostId,
    /// What it shows of itself.
    pub(crate) presence: PresenceState,
    tenant_id: TenantId,
    kind: HostKind,
    lifecycle: Lifecycle,
    /// What the rows of its containers say, remembered from another transaction.
    described: Option<Arc<Described<i64>>>,
    /// The rows, once they were read.
    containers: Option<Containers>,
    uses: HashMap<AgentTokenId, Timestamp>,
    events: Vec<NewEvent>,
}

impl<'a> Visits<'a> {
    pub(crate) fn new(remembered: &'a Remembered) -> Self {
        Self { remembered, hosts: HashMap::new(), order: Vec::new() }
    }

    /// The host, read inside the transaction; `None` if there is none.
    pub(crate) fn of(&mut self, transaction: &Transaction<'_>, host_id: HostId) -> Result<Option<&mut Visit>, Failure> {
        let visit = match self.hosts.entry(host_id) {
            Entry::Occupied(met) => met.into_mut(),
            Entry::Vacant(unmet) => {
                self.order.push(host_id);
                unmet.insert(Visit::begin(transaction, &self.remembered.described, host_id)?)
            }
        };
        Ok(visit.as_mut())
    }

    /// Writes what changed, save for archived hosts, and commits; returns the events of hosts that came
    /// online.
    pub(crate) fn finish(mut self, transaction: Transaction<'_>) -> Result<Vec<Event>, Failure> {
        let Remembered { described, uses } = self.remembered;
        let (mut events, mut used, mut read) = (Vec::new(), Vec::new(), Vec::new());
        for host_id in self.order {
            let Some(visit) = self.hosts.remove(&host_id).flatten().filter(|visit| !visit.is_archived()) else {
                continue;
            };
            visit.presence.write(&transaction)?;
            for (token, at) in visit.uses {
                if uses.is_due(token, at) && agent_token::note_use(&transaction, host_id, token, at)? {
                    used.push((token, at));
                }
            }
            events.extend(visit.events);
            if let Some(containers) = visit.containers {
                read.push((host_id, visit.presence.containers_version.0, containers));
            }
        }
        let events = event::tell(&transaction, events)?;
        transaction.commit()?;
        // Not before: what is rolled back was never so.
        for (token, at) in used {
            uses.note(token, at);
        }
        for (host_id, version, containers) in read {
            described.fill(host_id, version, Arc::new(containers.described(described)));
        }
        Ok(events)
    }
}

impl Visit {
    fn begin(
        transaction: &Transaction<'_>,
        described: &DescribedCache<i64>,
        host_id: HostId,
    ) -> Result<Option<Self>, Failure> {
        let mut statement = transaction.prepare_cached(HEAD)?;
        let mut rows = statement.query([Id::from(host_id)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let presence = PresenceState::read(host_id, row, 3)?;
        Ok(Some(Self {
            host_id,
            tenant_id: parse(required(text(row, 0)?)?)?,
            kind: kind_of(required(text(row, 1)?)?)?,
            lifecycle: lifecycle_of(row.get(2)?),
            described: described.find(host_id, presence.containers_version.0),
            presence,
            containers: None,
            uses: HashMap::new(),
            events: Vec::new(),
        }))
    }

    /// Whether the host is out of service: then nothing is written for it.
    pub(crate) const fn is_archived(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Archived { .. })
    }

    /// Notes that it proved its credential.
    pub(crate) fn contact(&mut self, contact: &Contact) {
        let before = self.presence.presence;
        let after = before.contact(contact.at);
        self.presence.presence = after;
        self.events.extend(came_online(contact, &self.tenant_id, self.kind, before, after));
        let used_at = self.uses.entry(contact.token_id).or_insert(contact.at);
        *used_at = contact.at.max(*used_at);
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
