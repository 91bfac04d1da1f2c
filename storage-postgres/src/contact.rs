//! Contact: what a transaction of reports or heartbeats knows of the hosts that it meets, and writes at its end.

use std::collections::HashMap;

use enlist_core::event::{Event, NewEvent};
use enlist_core::host::Lifecycle;
use enlist_core::store::{Contact, Silence, came_online, went_silent};
use enlist_core::{AgentTokenId, Timestamp};

use crate::column::{At, Id};
use crate::error::Failure;
use crate::host::{self, HostHead};
use crate::presence::{self, PresenceRow};
use crate::transaction::Db;
use crate::{agent_token, event};

/// A token, and the use of it that was written.
pub(crate) type Used = (AgentTokenId, Timestamp);

/// `touch`, inside a transaction.
pub(crate) async fn touch(db: &mut Db, contacts: &[Contact]) -> Result<(Vec<Event>, Vec<Used>), Failure> {
    let mut visits = Visits::begin(db, contacts.iter().map(|contact| contact.host_id.into()).collect()).await?;
    for contact in contacts {
        visits.contact(contact);
    }
    visits.finish(db).await
}

/// What became of verdicts of silence.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Of how many hosts one was looked at: of all that nobody else held.
    pub(crate) hosts: usize,
    /// Of those where it held.
    pub(crate) events: Vec<Event>,
}

/// Makes verdicts of silence where they still hold, inside a transaction; archived hosts fall without an event. Whoever holds
/// a host is about to say something of it, or somebody at the prompt: it is passed over, and the next sweep sees it.
pub(crate) async fn mark_silent(db: &mut Db, silences: &[Silence]) -> Result<Judged, Failure> {
    let rows = presence::lock_unheld(db, silences.iter().map(|silence| silence.host_id.into()).collect()).await?;
    let mut visits = Visits::of(db, rows).await?;
    for silence in silences {
        visits.silence(silence);
    }
    let hosts = visits.hosts.len();
    let (events, _) = visits.finish(db).await?;
    Ok(Judged { hosts, events })
}

/// The hosts that a transaction meets: each is locked and read once, and written once.
#[derive(Debug)]
pub(crate) struct Visits {
    hosts: HashMap<Id, Visit>,
    /// The latest use of each token, with its host.
    uses: HashMap<(Id, Id), At>,
    /// In the order in which they happened.
    events: Vec<NewEvent>,
}

/// A host that a transaction meets.
#[derive(Debug)]
pub(crate) struct Visit {
    /// What it shows of itself.
    pub(crate) presence: PresenceRow,
    head: HostHead,
}

impl Visit {
    /// Whether the host is out of service: then nothing is written for it.
    pub(crate) const fn is_archived(&self) -> bool {
        matches!(self.head.lifecycle, Lifecycle::Archived { .. })
    }
}

impl Visits {
    /// Two statements, however many hosts: their presence is locked, and then read is what the administrator says of
    /// them. Not in one: it would see the moment before the lock was had, and a report would be taken for a host that
    /// was archived meanwhile.
    pub(crate) async fn begin(db: &mut Db, hosts: Vec<Id>) -> Result<Self, Failure> {
        let rows = presence::lock(db, hosts).await?;
        Self::of(db, rows).await
    }

    /// Of rows that are locked already.
    async fn of(db: &mut Db, rows: Vec<PresenceRow>) -> Result<Self, Failure> {
        let mut heads = if rows.is_empty() {
            Default::default()
        } else {
            host::heads(db, rows.iter().map(|row| row.host_id).collect()).await?
        };
        let hosts = rows.into_iter().filter_map(|presence| {
            let head = heads.remove(&presence.host_id)?;
            Some((presence.host_id, Visit { presence, head }))
        });
        Ok(Self { hosts: hosts.collect(), uses: HashMap::new(), events: Vec::new() })
    }

    /// The host, if there is one.
    pub(crate) fn get_mut(&mut self, host_id: Id) -> Option<&mut Visit> {
        self.hosts.get_mut(&host_id)
    }

    /// Notes that a host proved its credential. Absent and archived hosts are passed over.
    pub(crate) fn contact(&mut self, contact: &Contact) {
        let host_id = Id::from(contact.host_id);
        let Some(visit) = self.hosts.get_mut(&host_id).filter(|visit| !visit.is_archived()) else { return };
        let before = visit.presence.presence();
        let after = before.contact(contact.at);
        visit.presence.set_presence(after);
        self.events.extend(came_online(contact, &visit.head.tenant_id, visit.head.kind, before, after));
        let used_at = self.uses.entry((contact.token_id.into(), host_id)).or_insert(At(contact.at));
        *used_at = At(contact.at).max(*used_at);
    }

    fn silence(&mut self, silence: &Silence) {
        let Some(visit) = self.hosts.get_mut(&silence.host_id.into()) else { return };
        let before = visit.presence.presence();
        let after = silence.rule.judge(before, visit.head.liveness_window);
        visit.presence.set_presence(after);
        if !visit.is_archived() {
            self.events.extend(went_silent(silence, &visit.head.tenant_id, visit.head.kind, before, after));
        }
    }

    /// Writes what changed; returns the events, and which uses of tokens were written.
    pub(crate) async fn finish(self, db: &mut Db) -> Result<(Vec<Event>, Vec<Used>), Failure> {
        presence::put(db, &self.hosts.values().map(|visit| &visit.presence).collect::<Vec<_>>()).await?;
        let shared = db.shared();
        let due = |(token, at): (AgentTokenId, Timestamp)| shared.remembered.uses.is_due(token, at);
        let uses = self.uses.into_iter().map(|((token, host), at)| (token, host, at));
        let uses: Vec<_> = uses.filter(|(token, _, at)| due(((*token).into(), at.0))).collect();
        let used = agent_token::note_uses(db, &uses).await?;
        Ok((event::append(db, self.events).await?, used))
    }
}
