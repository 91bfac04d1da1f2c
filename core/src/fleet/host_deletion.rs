//! The end of a host.

use crate::container::Container;
use crate::event::EventBody;
use crate::fleet::authenticate::CutOff;
use crate::fleet::error::AdminError;
use crate::fleet::{Admin, Inner};
use crate::host::Status;
use crate::id::HostId;
use crate::policy::{Action, Resource};
use crate::store::{
    Aggregate, Commit, ContainerQuery, HostAggregate, HostLookup, HostRecord, Key, StoreErrorKind, Write,
};
use crate::wire::{DeletePreview, RunningContainer};

/// How many of the running containers are listed.
const LISTED: usize = 50;
/// Up to how many they are counted.
const COUNTED: u64 = 10_000;
/// How many containers are read at once.
const READ: usize = 500;

impl Admin<'_> {
    /// What a deletion would take: the containers that run on the host.
    ///
    /// # Errors
    /// When it is not found, or hidden.
    pub async fn delete_preview(&self, host_id: HostId) -> Result<DeletePreview, AdminError> {
        let record = self.find(Action::ReadHost, host_id).await?;
        self.running(&record).await
    }

    /// Deletes a host, its tokens and what it reported, for good; its name and its external id are free again. Its agent
    /// is told `host_deleted` for a year.
    ///
    /// Unless `force` is set, a host on which containers run is left as it is. They are looked at before the deletion is
    /// committed: one that is first reported in between does not keep it.
    ///
    /// # Errors
    /// When it is not found, as after the first time; when the policy forbids it; when containers run on it.
    pub async fn delete_host(&self, host_id: HostId, force: bool) -> Result<(), AdminError> {
        for _ in 0..Inner::ATTEMPTS {
            let now = self.fleet.now();
            let loaded = self.fleet.store.load(&Key::Host(host_id)).await?;
            let Some(Aggregate::Host(aggregate)) = loaded else { return Err(AdminError::NotFound) };
            let HostAggregate { revision, host, agent_tokens, .. } = *aggregate;
            self.authorize(Action::DeleteHost, Resource { tenant_id: &host.tenant_id, kind: host.kind })?;
            if !force {
                let found = self.fleet.store.find_host(&HostLookup::Id(host_id)).await?;
                let running = self.running(&found.ok_or(AdminError::NotFound)?).await?;
                if running.total > 0 {
                    return Err(AdminError::HostHasContainers(Box::new(running)));
                }
            }
            let _cut_off = CutOff::new(self.fleet, agent_tokens.iter().map(|token| token.hash).collect());
            let body = EventBody::HostDeleted { name: host.name.clone() };
            let event = self.fleet.host_event(&host, Some(&self.actor.id), now, body);
            let write = Write::HostDeletion { expected: revision, host_id, at: now };
            match self.fleet.store.commit(Commit::of(write, vec![event])).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AdminError::Conflict)
    }

    /// The containers that run on a host: nothing is known of those of one that is not online.
    async fn running(&self, record: &HostRecord) -> Result<DeletePreview, AdminError> {
        let mut running = DeletePreview::default();
        if Status::of(record.host.lifecycle, record.presence.presence) != Status::Online {
            return Ok(running);
        }
        let mut query = ContainerQuery { host_id: record.host.id, removed: false, after: None, limit: READ };
        loop {
            let page = self.fleet.store.list_containers(&query).await?;
            query.after = page.items.last().map(|row| row.container.container_id.clone());
            for Container { container_id, name, image, image_tag, .. } in
                page.items.into_iter().map(|row| row.container).filter(Container::is_running)
            {
                running.total += 1;
                if running.containers.len() < LISTED {
                    running.containers.push(RunningContainer { container_id, name, image, image_tag });
                }
            }
            // Those that do not run have to be passed by, however many they are: one behind them may.
            if !page.more || running.total >= COUNTED {
                running.total = running.total.min(COUNTED);
                return Ok(running);
            }
        }
    }
}
