//! Contacts and reports of hosts that are out of service, and versions that do not tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enlist_core::container::Container;
use enlist_core::event::Event;
use enlist_core::store::{
    Append, AppendOutcome, Appended, Commit, Contact, ContainerQuery, ContainerRecord, Expected, HostLookup,
    HostRecord, HostWrite, Page, StoreError, StoreErrorKind, Sweep, Swept, Write,
};
use enlist_core::telemetry::HostFacts;
use enlist_core::{HostId, MemoryStore, Store};

use crate::twin::{Fault, all_hosts, faults, guard, record, set_guard, twins};

faults! {
    /// A host's row is written whole, its version included: an administrator's write fails for a report.
    ReportsRaiseTheRevision {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let hosts: Vec<_> = reports.iter().map(|report| report.contact.host_id).collect();
            let appended = store.append(reports).await?;
            raise(store, &hosts).await?;
            Ok(appended)
        }
    }

    /// The same by a sweep.
    SweepsRaiseTheRevision {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let swept = store.sweep(sweep).await?;
            let hosts: Vec<_> = swept.events.iter().filter_map(|event| event.event.host_id).collect();
            raise(store, &hosts).await?;
            Ok(swept)
        }
    }

    /// A host that is absent stops the others.
    AbsentHostsStopATouch {
        async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
            for contact in &contacts {
                if record(store, contact.host_id).await.is_none() && contacts.len() > 1 {
                    return Err(StoreErrorKind::Invalid.into());
                }
            }
            store.touch(contacts).await
        }
    }

    /// An upsert: whoever reports is made.
    ReportsMakeTheirHost {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let mut appended = store.append(reports).await?;
            for outcome in &mut appended.outcomes {
                if matches!(outcome, AppendOutcome::HostAbsent) {
                    *outcome = AppendOutcome::Accepted;
                }
            }
            Ok(appended)
        }
    }

    /// `NOT NULL DEFAULT ''`: what a report does not say replaces what is known.
    UnknownFactsAreEmpty {
        async fn append(&self, store: &MemoryStore, mut reports: Vec<Append>) -> Result<Appended, StoreError> {
            for append in &mut reports {
                if let Some(facts) = &mut append.report.host.facts {
                    facts.os.get_or_insert_default();
                }
            }
            store.append(reports).await
        }
    }

    /// Facts are taken from the enrolment alone.
    ReportedFactsAreLost {
        async fn append(&self, store: &MemoryStore, mut reports: Vec<Append>) -> Result<Appended, StoreError> {
            for append in &mut reports {
                append.report.host.facts = None::<HostFacts>;
            }
            store.append(reports).await
        }
    }
}

async fn raise(store: &MemoryStore, hosts: &[HostId]) -> Result<(), StoreError> {
    for id in hosts {
        if let Some(record) = record(store, *id).await {
            let write = HostWrite::new(Expected::Revision(record.revision), record.host);
            store.commit(Commit::of(write, Vec::new())).await?;
        }
    }
    Ok(())
}

/// What counts for an archived host as for any other.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    /// Reports, and the caller is told so.
    Reports,
    /// Reports, and the caller is told otherwise.
    RefusedReports,
    Touches,
}

/// Contacts are kept beside, in a store for which no host is ever archived.
struct ArchivedHostsAreHeard {
    taken: Taken,
    contacts: MemoryStore,
}

impl ArchivedHostsAreHeard {
    fn taking(taken: Taken) -> Self {
        Self { taken, contacts: MemoryStore::new() }
    }

    async fn is_archived(&self, store: &MemoryStore, id: HostId) -> bool {
        record(store, id).await.is_some_and(|record| record.host.is_archived())
    }
}

#[async_trait]
impl Fault for ArchivedHostsAreHeard {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let written = store.commit(commit.clone()).await?;
        for write in commit.writes {
            let Write::Host(write) = write else { continue };
            if !write.host.is_archived() {
                let mut write = HostWrite::new(Expected::Absent, write.host).into();
                if let (_, Some(revision)) = guard(&self.contacts, &write).await {
                    set_guard(&mut write, Expected::Revision(revision));
                }
                let _ = self.contacts.commit(Commit::of(write, Vec::new())).await;
            }
        }
        Ok(written)
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let beside = self.contacts.append(reports.clone()).await?;
        let mut appended = store.append(reports).await?;
        for (outcome, beside) in appended.outcomes.iter_mut().zip(beside.outcomes) {
            if self.taken == Taken::Reports && matches!(outcome, AppendOutcome::HostArchived) {
                *outcome = beside;
            }
        }
        Ok(appended)
    }
    async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        self.contacts.touch(contacts.clone()).await?;
        store.touch(contacts).await
    }
    async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let mut found = store.find_host(lookup).await?;
        if let (Some(found), Taken::Touches) = (&mut found, self.taken)
            && found.host.is_archived()
            && let Some(heard) = record(&self.contacts, found.host.id).await
        {
            found.presence.presence = heard.presence.presence;
        }
        Ok(found)
    }
    async fn list_containers(
        &self,
        store: &MemoryStore,
        query: &ContainerQuery,
    ) -> Result<Page<ContainerRecord>, StoreError> {
        let is_kept = self.taken == Taken::RefusedReports && self.is_archived(store, query.host_id).await;
        if is_kept { self.contacts.list_containers(query).await } else { store.list_containers(query).await }
    }
}

/// What the version of a host's containers follows instead of their rows.
#[derive(Clone, Copy, PartialEq)]
enum Follows {
    /// The version stands still.
    Nothing,
    /// The version rises with every report.
    EveryReport,
}

struct ContainersVersion(Follows, Mutex<HashMap<HostId, u64>>);

impl ContainersVersion {
    fn following(follows: Follows) -> Self {
        Self(follows, Mutex::default())
    }
}

#[async_trait]
impl Fault for ContainersVersion {
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        for append in &reports {
            *self.1.lock().unwrap().entry(append.contact.host_id).or_default() += 1;
        }
        store.append(reports).await
    }
    async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let mut found = store.find_host(lookup).await?;
        if let Some(found) = &mut found {
            let reports = self.1.lock().unwrap().get(&found.host.id).copied().unwrap_or(0);
            let version = &mut found.presence.containers_version;
            match self.0 {
                Follows::Nothing => *version = (*version).min(1),
                Follows::EveryReport => *version += reports,
            }
        }
        Ok(found)
    }
}

/// A handle takes the container rows to be as it left them, and does not write what it has written already.
#[derive(Default)]
struct HandlesWriteContainersByMemory(Mutex<HashMap<HostId, Vec<Container>>>);

#[async_trait]
impl Fault for HandlesWriteContainersByMemory {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn append(&self, store: &MemoryStore, mut reports: Vec<Append>) -> Result<Appended, StoreError> {
        for Append { contact, report } in &mut reports {
            let mut written = self.0.lock().unwrap();
            let before = written.insert(contact.host_id, report.containers.clone());
            if before.is_some_and(|before| before == report.containers) {
                report.containers.clear();
                report.containers_complete = false;
            }
        }
        store.append(reports).await
    }
}

/// A handle remembers the rows of containers that it has read, until it takes a report itself.
#[derive(Default)]
struct HandlesRememberContainers(Mutex<HashMap<HostId, Page<ContainerRecord>>>);

#[async_trait]
impl Fault for HandlesRememberContainers {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        self.0.lock().unwrap().clear();
        store.append(reports).await
    }
    async fn list_containers(
        &self,
        store: &MemoryStore,
        query: &ContainerQuery,
    ) -> Result<Page<ContainerRecord>, StoreError> {
        // Only the query that nearly everybody asks.
        if query.after.is_some() || !query.removed {
            return store.list_containers(query).await;
        }
        if let Some(known) = self.0.lock().unwrap().get(&query.host_id) {
            return Ok(known.clone());
        }
        let found = store.list_containers(query).await?;
        self.0.lock().unwrap().insert(query.host_id, found.clone());
        Ok(found)
    }
}

/// A handle remembers hosts as it saw them last, until it writes.
#[derive(Default)]
struct HandlesRememberHosts(Mutex<HashMap<HostId, HostRecord>>);

#[async_trait]
impl Fault for HandlesRememberHosts {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let written = store.commit(commit).await;
        let seen = all_hosts(store).await;
        *self.0.lock().unwrap() = seen.into_iter().map(|record| (record.host.id, record)).collect();
        written
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let archived = |id: HostId| self.0.lock().unwrap().get(&id).is_some_and(|known| known.host.is_archived());
        let known: Vec<_> = reports.iter().map(|report| archived(report.contact.host_id)).collect();
        let mut appended = store.append(reports).await?;
        for (outcome, known) in appended.outcomes.iter_mut().zip(known) {
            if matches!(outcome, AppendOutcome::HostArchived) && !known {
                *outcome = AppendOutcome::Accepted;
            }
        }
        Ok(appended)
    }
}

twins! {
    reports_raise_the_revision: ReportsRaiseTheRevision => [
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
        "contact::a_contact_never_raises_the_revision",
        "contact::a_host_archived_through_another_handle_takes_no_report",
        "contact::an_archived_host_takes_no_report",
        "deletion::a_deleted_host_takes_no_report",
        "deletion::what_a_deleted_host_reported_is_not_read_out",
        "query::every_read_sees_what_another_handle_wrote",
    ],
    sweeps_raise_the_revision: SweepsRaiseTheRevision => [
        "silence::a_sweep_never_raises_the_revision",
        "window::another_window_counts_from_its_commit_on",
    ],
    absent_hosts_stop_a_touch: AbsentHostsStopATouch => [
        "contact::a_touch_passes_over_absent_and_archived_hosts",
    ],
    reports_make_their_host: ReportsMakeTheirHost => [
        "contact::an_absent_host_takes_no_report",
        "contact::each_report_of_a_call_gets_its_own_answer_in_order",
        "deletion::a_deleted_host_takes_no_report",
    ],
    unknown_facts_are_empty: UnknownFactsAreEmpty => [
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
        "contact::newer_facts_replace_only_what_they_know",
        "prune::a_host_outlives_its_reports",
    ],
    reported_facts_are_lost: ReportedFactsAreLost => [
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
        "contact::newer_facts_replace_only_what_they_know",
        "prune::a_host_outlives_its_reports",
        "round_trip::a_report_with_every_field_at_its_extremes",
    ],
    archived_hosts_take_reports: ArchivedHostsAreHeard::taking(Taken::Reports) => [
        "contact::a_host_archived_through_another_handle_takes_no_report",
        "contact::an_archived_host_takes_no_report",
        "contact::each_report_of_a_call_gets_its_own_answer_in_order",
    ],
    reports_of_archived_hosts_are_refused_and_kept: ArchivedHostsAreHeard::taking(Taken::RefusedReports) => [
        "contact::an_archived_host_takes_no_report",
    ],
    archived_hosts_are_touched: ArchivedHostsAreHeard::taking(Taken::Touches) => [
        "contact::a_touch_passes_over_absent_and_archived_hosts",
        "contact::an_archived_host_takes_no_report",
        "silence::only_who_is_online_falls_silent",
    ],
    handles_check_the_archive_by_memory: HandlesRememberHosts::default() => [
        "contact::a_host_archived_through_another_handle_takes_no_report",
    ],
    the_containers_version_stands_still: ContainersVersion::following(Follows::Nothing) => [
        "contact::unchanged_containers_do_not_raise_the_version",
        "prune::containers_go_some_time_after_they_were_removed",
    ],
    the_containers_version_rises_with_every_report: ContainersVersion::following(Follows::EveryReport) => [
        "contact::a_repeated_report_is_a_duplicate_and_writes_nothing",
        "contact::an_archived_host_takes_no_report",
        "contact::an_older_report_adds_its_snapshot_and_nothing_else",
        "contact::unchanged_containers_do_not_raise_the_version",
        "query::every_read_sees_what_another_handle_wrote",
    ],
    handles_write_containers_by_memory: HandlesWriteContainersByMemory::default() => [
        "contact::a_complete_report_removes_the_containers_that_it_lacks",
        "contact::a_dropped_append_is_whole_or_absent",
        "contact::a_repeated_report_is_a_duplicate_and_writes_nothing",
        "contact::two_handles_agree_on_the_containers",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "telemetry::telemetry_is_read_by_range_in_pages",
    ],
    handles_remember_containers: HandlesRememberContainers::default() => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "query::every_read_sees_what_another_handle_wrote",
    ],
}
