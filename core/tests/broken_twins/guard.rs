//! Guards that do not guard, and revisions that do not count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::store::{
    Aggregate, Commit, Expected, HostLookup, HostRecord, Key, Revision, StoreError, StoreErrorKind, Write,
};
use enlist_core::{HostId, MemoryStore, Store};

use crate::twin::{Fault, accept, all_hosts, faults, guard, set_guard, twins, unguarded};

faults! {
    /// Read, then write, with no predicate: the stale write is applied all the same.
    StaleWritesAreApplied {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            store.commit(unguarded(store, commit).await).await
        }
    }

    /// The guard is checked once the writes are made: the caller is told of a conflict with what it wrote itself.
    RefusedWritesStay {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let refused = store.commit(commit.clone()).await;
            if refused.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Conflict) {
                let writes = Commit { events: Vec::new(), ..unguarded(store, commit).await };
                let _ = store.commit(writes).await;
            }
            refused
        }
    }

    /// `INSERT OR REPLACE`.
    CreatingOverwrites {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                if let (Expected::Absent, Some(revision)) = guard(store, write).await {
                    set_guard(write, Expected::Revision(revision));
                }
            }
            store.commit(commit).await
        }
    }

    /// Only hosts are looked for before they are made.
    MintingOverwrites {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                let (expected, now) = guard(store, write).await;
                if let (Write::TenantInstallToken { .. }, Expected::Absent, Some(now)) = (&write, expected, now) {
                    set_guard(write, Expected::Revision(now));
                }
            }
            store.commit(commit).await
        }
    }

    /// A host's install token has a revision column like any other, and it is compared.
    HostsTokensAreTakenForTenants {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &commit.writes {
                let Write::TenantInstallToken { expected: Expected::Revision(Revision::FIRST), token } = write else {
                    continue;
                };
                if let Some(Aggregate::Host(_)) = store.load(&Key::InstallTokenId(token.id)).await? {
                    return accept(store, commit, StoreErrorKind::Conflict).await;
                }
            }
            store.commit(commit).await
        }
    }

    /// An upsert.
    WritingCreates {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                if let (Expected::Revision(_), None) = guard(store, write).await {
                    set_guard(write, Expected::Absent);
                }
            }
            store.commit(commit).await
        }
    }

    /// Only host writes are guarded.
    DeletionsAreUnguarded {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                let (_, now) = guard(store, write).await;
                if let (Write::HostDeletion { .. }, Some(now)) = (&write, now) {
                    set_guard(write, Expected::Revision(now));
                }
            }
            store.commit(commit).await
        }
    }

    /// Deleting is idempotent here.
    DeletingTheAbsentSucceeds {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            let mut writes = Vec::new();
            for write in commit.writes {
                if !matches!((&write, guard(store, &write).await), (Write::HostDeletion { .. }, (_, None))) {
                    writes.push(write);
                }
            }
            commit.writes = writes;
            store.commit(commit).await
        }
    }

    /// Only host writes are guarded.
    TenantInstallTokensAreUnguarded {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                let (expected, now) = guard(store, write).await;
                if let (Write::TenantInstallToken { .. }, Expected::Revision(_), Some(now)) = (&write, expected, now) {
                    set_guard(write, Expected::Revision(now));
                }
            }
            store.commit(commit).await
        }
    }

    /// Unique indexes speak up before guards are looked at.
    ClashesComeBeforeConflicts {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let known = all_hosts(store).await;
            let taken = commit.writes.iter().any(|write| match write {
                Write::Host(write) => known.iter().map(|record| &record.host).any(|other| {
                    let (id, name) = (other.id == write.host.id, other.name == write.host.name);
                    !id && name && other.tenant_id == write.host.tenant_id && !other.is_archived()
                }),
                _ => false,
            });
            match store.commit(commit).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && taken => {
                    Err(StoreErrorKind::NameTaken.into())
                }
                answer => answer,
            }
        }
    }

    /// Every write counts twice, as with a trigger beside the statement.
    RevisionsRiseByTwo {
        async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
            let doubled = |revision: Revision| Revision::new(revision.get() * 2 - 1);
            Ok(store.load(key).await?.map(|aggregate| reckoned(aggregate, |_, revision| doubled(revision))))
        }
        async fn find_host(&self, store: &MemoryStore, key: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
            let doubled = |revision: Revision| Revision::new(revision.get() * 2 - 1);
            let found = store.find_host(key).await?;
            Ok(found.map(|record| HostRecord { revision: doubled(record.revision), ..record }))
        }
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                if let (Expected::Revision(shown), _) = guard(store, write).await {
                    let halved = if shown.get() % 2 == 1 { shown.get().div_ceil(2) } else { 0 };
                    set_guard(write, Expected::Revision(Revision::new(halved)));
                }
            }
            store.commit(commit).await
        }
    }
}

/// An aggregate with another revision.
fn reckoned(aggregate: Aggregate, revision: impl Fn(Option<HostId>, Revision) -> Revision) -> Aggregate {
    match aggregate {
        Aggregate::Host(mut host) => {
            host.revision = revision(Some(host.host.id), host.revision);
            Aggregate::Host(host)
        }
        Aggregate::TenantInstallToken(mut token) => {
            token.revision = revision(None, token.revision);
            Aggregate::TenantInstallToken(token)
        }
    }
}

/// A write that leaves the host's own row as it was does not raise the revision, whatever tokens it brings.
#[derive(Default)]
struct UnchangedHostsKeepTheirRevision(Mutex<HashMap<HostId, u64>>);

impl UnchangedHostsKeepTheirRevision {
    fn skipped(&self, id: Option<HostId>) -> u64 {
        id.and_then(|id| self.0.lock().unwrap().get(&id).copied()).unwrap_or(0)
    }
}

#[async_trait]
impl Fault for UnchangedHostsKeepTheirRevision {
    async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let shown = |id, revision: Revision| Revision::new(revision.get() - self.skipped(id));
        Ok(store.load(key).await?.map(|aggregate| reckoned(aggregate, shown)))
    }
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        let known = all_hosts(store).await;
        let mut unchanged = Vec::new();
        for write in &mut commit.writes {
            let (Write::Host(_), (Expected::Revision(shown), _)) = (&write, guard(store, write).await) else {
                continue;
            };
            let Write::Host(host_write) = &write else { continue };
            let id = host_write.host.id;
            if known.iter().any(|record| record.host == host_write.host) {
                unchanged.push(id);
            }
            set_guard(write, Expected::Revision(Revision::new(shown.get() + self.skipped(Some(id)))));
        }
        let written = store.commit(commit).await?;
        for id in unchanged {
            *self.0.lock().unwrap().entry(id).or_default() += 1;
        }
        Ok(written)
    }
}

/// Each handle holds a guard against the revision that it remembers, and does not ask the data.
#[derive(Default)]
struct HandlesGuardByMemory(Mutex<HashMap<HostId, Revision>>);

#[async_trait]
impl Fault for HandlesGuardByMemory {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let found = store.load(key).await?;
        if let Some(Aggregate::Host(host)) = &found {
            self.0.lock().unwrap().insert(host.host.id, host.revision);
        }
        Ok(found)
    }
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        for write in &mut commit.writes {
            let id = match &write {
                Write::Host(write) => write.host.id,
                Write::HostDeletion { host_id, .. } => *host_id,
                Write::TenantInstallToken { .. } => continue,
            };
            let remembered = self.0.lock().unwrap().remove(&id);
            let (expected, now) = guard(store, write).await;
            if let (Some(remembered), Some(now)) = (remembered, now)
                && expected == Expected::Revision(remembered)
            {
                set_guard(write, Expected::Revision(now));
            }
        }
        store.commit(commit).await
    }
}

twins! {
    stale_writes_are_applied: StaleWritesAreApplied => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "commit::a_commit_writes_several_aggregates_or_none",
        "commit::a_conflict_is_reported_before_a_clash",
        "commit::a_stale_write_conflicts_and_changes_nothing",
        "commit::a_stale_write_through_another_handle_conflicts",
        "deletion::a_stale_deletion_conflicts_and_changes_nothing",
        "round_trip::a_tenant_bound_install_token_is_an_aggregate_of_its_own",
    ],
    refused_writes_stay: RefusedWritesStay => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "commit::a_commit_writes_several_aggregates_or_none",
        "commit::a_stale_write_conflicts_and_changes_nothing",
        "commit::a_stale_write_through_another_handle_conflicts",
        "deletion::a_stale_deletion_conflicts_and_changes_nothing",
        "round_trip::a_tenant_bound_install_token_is_an_aggregate_of_its_own",
    ],
    creating_overwrites: CreatingOverwrites => [
        "commit::creating_a_host_that_exists_conflicts",
        "commit::creating_a_tenant_bound_install_token_that_exists_conflicts",
        "commit::events_of_a_commit_that_failed_do_not_exist",
    ],
    minting_overwrites: MintingOverwrites => [
        "commit::creating_a_tenant_bound_install_token_that_exists_conflicts",
    ],
    hosts_tokens_are_taken_for_tenants: HostsTokensAreTakenForTenants => [
        "commit::creating_a_tenant_bound_install_token_that_exists_conflicts",
    ],
    writing_creates: WritingCreates => [
        "commit::writing_a_host_that_does_not_exist_conflicts",
        "deletion::a_deleted_host_is_written_no_more",
        "event::the_last_position_is_that_of_the_newest_event",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
    ],
    deletions_are_unguarded: DeletionsAreUnguarded => [
        "deletion::a_stale_deletion_conflicts_and_changes_nothing",
    ],
    deleting_the_absent_succeeds: DeletingTheAbsentSucceeds => [
        "deletion::a_deleted_host_is_written_no_more",
        "deletion::a_stale_deletion_conflicts_and_changes_nothing",
    ],
    tenant_install_tokens_are_unguarded: TenantInstallTokensAreUnguarded => [
        "commit::a_commit_writes_several_aggregates_or_none",
        "round_trip::a_tenant_bound_install_token_is_an_aggregate_of_its_own",
    ],
    clashes_come_before_conflicts: ClashesComeBeforeConflicts => [
        "commit::a_conflict_is_reported_before_a_clash",
    ],
    revisions_rise_by_two: RevisionsRiseByTwo => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "commit::a_stale_write_conflicts_and_changes_nothing",
        "commit::a_stale_write_through_another_handle_conflicts",
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
        "commit::revision_rises_by_one_with_each_write",
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
        "query::every_read_sees_what_another_handle_wrote",
        "round_trip::a_tenant_bound_install_token_is_an_aggregate_of_its_own",
        "window::another_window_counts_from_its_commit_on",
    ],
    unchanged_hosts_keep_their_revision: UnchangedHostsKeepTheirRevision::default() => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "commit::a_conflict_is_reported_before_a_clash",
        "commit::a_stale_write_through_another_handle_conflicts",
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
        "commit::revision_rises_by_one_with_each_write",
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
        "query::every_read_sees_what_another_handle_wrote",
    ],
    handles_guard_by_memory: HandlesGuardByMemory::default() => [
        "commit::a_stale_write_through_another_handle_conflicts",
    ],
}
