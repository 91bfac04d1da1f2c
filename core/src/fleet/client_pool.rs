//! Clients of hosts: made when they are first needed, dropped when their host is gone or elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::HostId;
use crate::event::EventBody;
use crate::host::{HostField, Placement, Status};
use crate::wire::{EventReply, HostBody};

/// Why there is no client of a host.
#[derive(Debug, thiserror::Error)]
pub enum PoolError<E> {
    /// Nobody would answer.
    #[error("the host is not online")]
    NotOnline(Status),
    /// It could not be made. Nothing is kept, and the next call tries again.
    #[error("a client of the host cannot be made")]
    Make(#[source] E),
}

/// One client a host, of whatever the embedding service talks to its hosts with.
///
/// It knows of its hosts what it is told: give it hosts as they were just read, and every event to
/// [`observe`](HostClientPool::observe). A host that was read before an event that was observed since puts back what that event
/// had dropped: read hosts when you need them. Whoever holds a client that was dropped from the pool goes on holding it.
pub struct HostClientPool<C> {
    clients: Mutex<HashMap<HostId, Entry<C>>>,
}

struct Entry<C> {
    address: Option<Placement>,
    /// Locked while the client is made, so that one is made, and no other host waits for it.
    client: Arc<Mutex<Option<Arc<C>>>>,
}

impl<C> Default for HostClientPool<C> {
    fn default() -> Self {
        Self { clients: Mutex::default() }
    }
}

impl<C> fmt::Debug for HostClientPool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostClientPool").field("hosts", &self.entries().len()).finish()
    }
}

impl<C> HostClientPool<C> {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// The client of a host; `make` makes it if there is none, or its address was another. Calls for one host wait for each
    /// other, those for different hosts do not.
    ///
    /// # Errors
    /// When the host is not online: a client that it had is then dropped. When `make` fails.
    pub fn client<E>(
        &self,
        host: &HostBody,
        make: impl FnOnce(&HostBody) -> Result<C, E>,
    ) -> Result<Arc<C>, PoolError<E>> {
        if host.status != Status::Online {
            self.drop_client(host.id);
            return Err(PoolError::NotOnline(host.status));
        }
        let (slot, moved) = {
            let mut entries = self.entries();
            let entry = entries.entry(host.id).or_insert_with(|| Entry::new(host));
            let moved = (entry.address != host.address).then(|| std::mem::replace(entry, Entry::new(host)));
            (Arc::clone(&entry.client), moved)
        };
        // Its `drop` runs once the lock is free, and may ask the pool.
        drop(moved);
        let mut client = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        match make(host) {
            Ok(made) => Ok(Arc::clone(client.insert(Arc::new(made)))),
            Err(error) => {
                drop(client);
                let mut entries = self.entries();
                // Unless another was put in its place, or has made it meanwhile.
                let is_empty = |entry: &Entry<C>| {
                    Arc::ptr_eq(&entry.client, &slot) && entry.client.try_lock().is_ok_and(|client| client.is_none())
                };
                if entries.get(&host.id).is_some_and(is_empty) {
                    entries.remove(&host.id);
                }
                Err(PoolError::Make(error))
            }
        }
    }

    /// Drops the client of a host that was archived, deleted, fell silent, or has another address.
    pub fn observe(&self, event: &EventReply) {
        let gone = match &event.body {
            EventBody::HostArchived { .. } | EventBody::HostDeleted { .. } | EventBody::HostUnreachable { .. } => true,
            EventBody::HostUpdated { fields } => fields.contains(&HostField::Address),
            _ => false,
        };
        if let Some(host_id) = event.host_id.filter(|_| gone) {
            self.drop_client(host_id);
        }
    }

    /// Drops the client of a host, if there is one.
    pub fn drop_client(&self, host_id: HostId) {
        // The client's own `drop` runs once the lock is free.
        let dropped = self.entries().remove(&host_id);
        drop(dropped);
    }

    /// Drops every client: what to do when events may have been missed.
    pub fn clear(&self) {
        let dropped = std::mem::take(&mut *self.entries());
        drop(dropped);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<HostId, Entry<C>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Entry<C> {
    fn new(host: &HostBody) -> Self {
        Self { address: host.address.clone(), client: Arc::default() }
    }
}
