//! Contact, and the lack of it: what a transaction of reports, heartbeats or verdicts knows of the hosts that it meets,
//! and writes at its end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use diesel::SqliteConnection;
use enlist_core::event::{Event, NewEvent};
use enlist_core::host::{HostKind, Lifecycle};
use enlist_core::store::{Contact, Silence, came_online, went_silent};
use enlist_core::{AgentTokenId, HostId, TenantId, Timestamp};

use crate::container::Containers;
use crate::error::Failure;
use crate::presence::PresenceRow;
use crate::transaction::immediate;
use crate::{agent_token, event, host};

/// How much later a use of a token has to be than the one that is stored, to be stored in its place: it is there for
/// people to see what is in use, not to be written with every request.
const LAST_USE_GRAIN: Duration = Duration::from_secs(60);

/// `touch`.
pub(crate) fn touch(connection: &mut SqliteConnection, contacts: &[Contact]) -> Result<Vec<Event>, Failure> {
    immediate(connection, |connection| {
        let mut visits = Visits::default();
        for contact in contacts {
            if let Some(visit) = visits.of(connection, contact.host_id)? {
                visit.contact(contact)?;
            }
        }
        visits.finish(connection)
    })
}

/// `mark_silent`. Decided on what is stored when the transaction has the write lock: a contact made before that wins.
pub(crate) fn mark_silent(connection: &mut SqliteConnection, silences: &[Silence]) -> Result<Vec<Event>, Failure> {
    immediate(connection, |connection| {
        let mut visits = Visits::default();
        for silence in silences {
            if let Some(visit) = visits.of(connection, silence.host_id)? {
                visit.silence(silence)?;
            }
        }
        visits.finish(connection)
    })
}

/// The hosts that a transaction meets: each is read once, and written once.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    hosts: HashMap<HostId, Option<Visit>>,
    /// In the order in which they were met, which is the order in which they are written and told of.
    order: Vec<HostId>,
}

/// A host that a transaction meets.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Which.
    pub(crate) host_id: HostId,
    /// What it shows of itself.
    pub(crate) presence: PresenceRow,
    tenant_id: TenantId,
    kind: HostKind,
    lifecycle: Lifecycle,
    /// Read when they are first asked for: most contacts have nothing to say of them.
    containers: Option<Containers>,
    uses: HashMap<AgentTokenId, Timestamp>,
    events: Vec<NewEvent>,
}

impl Visits {
    /// The host, read inside the transaction; `None` if there is none.
    pub(crate) fn of(
        &mut self,
        connection: &mut SqliteConnection,
        host_id: HostId,
    ) -> Result<Option<&mut Visit>, Failure> {
        let visit = match self.hosts.entry(host_id) {
            Entry::Occupied(met) => met.into_mut(),
            Entry::Vacant(unmet) => {
                self.order.push(host_id);
                unmet.insert(Visit::begin(connection, host_id)?)
            }
        };
        Ok(visit.as_mut())
    }

    /// Writes what changed, save for archived hosts; returns the events of hosts that came online or
    /// fell silent.
    pub(crate) fn finish(mut self, connection: &mut SqliteConnection) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        for host_id in self.order {
            let Some(visit) = self.hosts.remove(&host_id).flatten().filter(|visit| !visit.is_archived()) else {
                continue;
            };
            visit.presence.put(connection)?;
            for (token, at) in visit.uses {
                let fresh_since = at.saturating_sub(LAST_USE_GRAIN);
                agent_token::note_use(connection, host_id, token, at, fresh_since)?;
            }
            events.extend(visit.events);
        }
        event::append(connection, events)
    }
}

impl Visit {
    fn begin(connection: &mut SqliteConnection, host_id: HostId) -> Result<Option<Self>, Failure> {
        let head = host::head(connection, host_id)?;
        Ok(head.map(|head| Self {
            host_id,
            presence: head.presence,
            tenant_id: head.tenant_id,
            kind: head.kind,
            lifecycle: head.lifecycle,
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
    pub(crate) fn contact(&mut self, contact: &Contact) -> Result<(), Failure> {
        let before = self.presence.presence()?;
        let after = before.contact(contact.at);
        self.presence.set_presence(after);
        self.events.extend(came_online(contact, &self.tenant_id, self.kind, before, after));
        let used_at = self.uses.entry(contact.token_id).or_insert(contact.at);
        *used_at = contact.at.max(*used_at);
        Ok(())
    }

    /// Makes a verdict of silence, if it still holds.
    fn silence(&mut self, silence: &Silence) -> Result<(), Failure> {
        let before = self.presence.presence()?;
        let after = before.silence(silence.at, silence.window);
        self.presence.set_presence(after);
        self.events.extend(went_silent(silence, &self.tenant_id, self.kind, before, after));
        Ok(())
    }

    /// Its containers, read once a transaction.
    pub(crate) fn containers(&mut self, connection: &mut SqliteConnection) -> Result<&mut Containers, Failure> {
        match &mut self.containers {
            Some(containers) => Ok(containers),
            unread => Ok(unread.insert(Containers::load(connection, self.host_id)?)),
        }
    }
}
