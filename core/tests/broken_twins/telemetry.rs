//! Reports that are counted twice, overwrite what is known, or are taken from whom they should not be.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::store::{
    Append, AppendOutcome, Appended, Commit, ContainerQuery, ContainerRecord, HostLookup, HostRecord, Page, Prune,
    Pruned, SnapshotContainers, StoreError, StoreErrorKind, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, MemoryStore, Store, Timestamp};

use crate::twin::{Fault, faults, page, record, twins};

async fn appended_with(
    store: &MemoryStore,
    reports: Vec<Append>,
    change: impl Fn(&mut Append) + Send,
) -> Result<Appended, StoreError> {
    let mut reports = reports;
    reports.iter_mut().for_each(change);
    store.append(reports).await
}

faults! {
    /// `INSERT OR IGNORE`, and nobody looks at what it did.
    RepeatsAreAccepted {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let mut appended = store.append(reports).await?;
            for outcome in &mut appended.outcomes {
                if matches!(outcome, AppendOutcome::Duplicate) {
                    *outcome = AppendOutcome::Accepted;
                }
            }
            Ok(appended)
        }
    }

    /// The key is compared, the content is not.
    ConflictsAreDuplicates {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let mut appended = store.append(reports).await?;
            for outcome in &mut appended.outcomes {
                if matches!(outcome, AppendOutcome::Conflict) {
                    *outcome = AppendOutcome::Duplicate;
                }
            }
            Ok(appended)
        }
    }

    /// A report that is refused takes the whole call with it.
    OneRefusedReportFailsItsNeighbours {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            for report in &reports {
                let host = record(store, report.contact.host_id).await;
                if reports.len() > 1 && host.is_none_or(|record| record.host.is_archived()) {
                    let failed = |_| AppendOutcome::Failed(StoreErrorKind::Invalid.into());
                    return Ok(Appended { outcomes: reports.iter().map(failed).collect(), events: Vec::new() });
                }
            }
            store.append(reports).await
        }
    }

    /// Answers come by host, as they were grouped for the transaction.
    AnswersAreOutOfOrder {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let mut appended = store.append(reports).await?;
            appended.outcomes.sort_by_key(|outcome| matches!(outcome, AppendOutcome::HostArchived));
            Ok(appended)
        }
    }

    /// Nothing to store is nothing to answer, and a mistake of the caller.
    EmptyCallsAreRefused {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            if reports.is_empty() { Err(StoreErrorKind::Invalid.into()) } else { store.append(reports).await }
        }
    }

    /// Facts and containers of a repeat are not looked at, and neither is who sent it.
    DuplicatesAreNoContact {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let mut all = Appended { outcomes: Vec::new(), events: Vec::new() };
            for mut report in reports {
                let seen = record(store, report.contact.host_id).await;
                let seen = seen.and_then(|record| record.presence.presence.last_seen_at());
                if is_stored(store, &report).await {
                    report.contact.at = seen.unwrap_or(report.contact.at);
                }
                let one = store.append(vec![report]).await?;
                all.outcomes.extend(one.outcomes);
                all.events.extend(one.events);
            }
            Ok(all)
        }
    }

    /// What is not in a report is taken to be gone, whatever the report says of itself.
    IncompleteReportsRemoveContainers {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            appended_with(store, reports, |append| append.report.containers_complete = true).await
        }
    }

    /// Containers only ever come.
    NothingIsRemoved {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            appended_with(store, reports, |append| append.report.containers_complete = false).await
        }
    }

    /// Removed containers are deleted at once.
    RemovedContainersAreDeleted {
        async fn list_containers(
            &self,
            store: &MemoryStore,
            query: &ContainerQuery,
        ) -> Result<Page<ContainerRecord>, StoreError> {
            store.list_containers(&ContainerQuery { removed: false, ..query.clone() }).await
        }
    }

    /// Whoever does not ask for removed containers sees them all the same.
    RemovedContainersAreShown {
        async fn list_containers(
            &self,
            store: &MemoryStore,
            query: &ContainerQuery,
        ) -> Result<Page<ContainerRecord>, StoreError> {
            store.list_containers(&ContainerQuery { removed: true, ..query.clone() }).await
        }
    }

    /// `BETWEEN`.
    TheEndOfARangeIsIncluded {
        async fn list_telemetry(
            &self,
            store: &MemoryStore,
            query: &TelemetryQuery,
        ) -> Result<Page<HostSnapshot>, StoreError> {
            let to = query.to.saturating_add(std::time::Duration::from_micros(1));
            store.list_telemetry(&TelemetryQuery { to, ..query.clone() }).await
        }
    }

    /// One bound for the beginning: `from`, or where the last page ended.
    TheCursorReplacesTheBeginning {
        async fn list_telemetry(
            &self,
            store: &MemoryStore,
            query: &TelemetryQuery,
        ) -> Result<Page<HostSnapshot>, StoreError> {
            let from = if query.after.is_some() { Timestamp::MIN } else { query.from };
            store.list_telemetry(&TelemetryQuery { from, ..query.clone() }).await
        }
    }

    /// `BETWEEN SYMMETRIC`.
    ReversedRangesAreTurnedAround {
        async fn list_telemetry(
            &self,
            store: &MemoryStore,
            query: &TelemetryQuery,
        ) -> Result<Page<HostSnapshot>, StoreError> {
            let (from, to) = (query.from.min(query.to), query.from.max(query.to));
            store.list_telemetry(&TelemetryQuery { from, to, ..query.clone() }).await
        }
    }

    /// Every container of every report is read, whatever is wanted of them.
    AllContainersCome {
        async fn list_telemetry(
            &self,
            store: &MemoryStore,
            query: &TelemetryQuery,
        ) -> Result<Page<HostSnapshot>, StoreError> {
            store.list_telemetry(&TelemetryQuery { containers: SnapshotContainers::All, ..query.clone() }).await
        }
    }

    /// A join from the container's numbers to their report.
    ReportsWithoutTheContainerAreLeftOut {
        async fn list_telemetry(
            &self,
            store: &MemoryStore,
            query: &TelemetryQuery,
        ) -> Result<Page<HostSnapshot>, StoreError> {
            let all = TelemetryQuery { limit: usize::MAX, ..query.clone() };
            let one = matches!(query.containers, SnapshotContainers::One(_));
            let rows = store.list_telemetry(&all).await?.items;
            Ok(page(rows.into_iter().filter(|row| !one || !row.containers.is_empty()), query.limit))
        }
    }

    /// Each report is a transaction of its own: a caller that goes away leaves the first of them.
    ReportsOfACallAreStoredOneByOne {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let mut all = Appended { outcomes: Vec::new(), events: Vec::new() };
            for report in reports {
                let one = store.append(vec![report]).await?;
                all.outcomes.extend(one.outcomes);
                all.events.extend(one.events);
                tokio::task::yield_now().await;
            }
            Ok(all)
        }
    }

    /// The contact is a transaction of its own, before that of the report.
    ContactsPrecedeTheirReport {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let events = store.touch(reports.iter().map(|report| report.contact.clone()).collect()).await?;
            tokio::task::yield_now().await;
            Ok(Appended { events, ..store.append(reports).await? })
        }
    }
}

/// Numbers are joined to the containers that a list shows: those that are there, or those that ever were.
struct NumbersAreJoinedToTheListed {
    removed: bool,
}

#[async_trait]
impl Fault for NumbersAreJoinedToTheListed {
    async fn list_telemetry(
        &self,
        store: &MemoryStore,
        query: &TelemetryQuery,
    ) -> Result<Page<HostSnapshot>, StoreError> {
        let Self { removed } = *self;
        let containers = ContainerQuery { host_id: query.host_id, removed, after: None, limit: usize::MAX };
        let listed = store.list_containers(&containers).await?.items;
        let mut page = store.list_telemetry(query).await?;
        for snapshot in &mut page.items {
            let is_listed = |id: &str| listed.iter().any(|row| row.container.container_id == id);
            snapshot.containers.retain(|container| is_listed(&container.container_id));
        }
        Ok(page)
    }
}

async fn is_stored(store: &MemoryStore, Append { contact, report }: &Append) -> bool {
    snapshot(store, contact.host_id, report.recorded_at).await.is_some()
}

async fn snapshot(store: &MemoryStore, host_id: HostId, at: Timestamp) -> Option<HostSnapshot> {
    let query = TelemetryQuery::new(host_id, at, Timestamp::MAX, 1);
    let found = store.list_telemetry(&query).await.expect("memory answers").items.pop();
    found.filter(|snapshot| snapshot.recorded_at == at)
}

/// What becomes of a report whose time is taken.
#[derive(Clone, Copy, PartialEq)]
enum Repeated {
    /// It stands beside the first.
    Duplicates,
    /// It takes its place.
    Conflicts,
}

/// Snapshots are shown otherwise than they came first.
struct ShowsRepeats(Repeated, Mutex<HashMap<(HostId, Timestamp), HostSnapshot>>);

impl ShowsRepeats {
    fn of(repeated: Repeated) -> Self {
        Self(repeated, Mutex::default())
    }
}

#[async_trait]
impl Fault for ShowsRepeats {
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let snapshots: Vec<_> = reports
            .iter()
            .map(|append| {
                let snapshot = HostSnapshot::of(&append.report, append.contact.at);
                ((append.contact.host_id, snapshot.recorded_at), snapshot)
            })
            .collect();
        let appended = store.append(reports).await?;
        for ((key, snapshot), outcome) in snapshots.into_iter().zip(&appended.outcomes) {
            let shown = match outcome {
                AppendOutcome::Duplicate => self.0 == Repeated::Duplicates,
                AppendOutcome::Conflict => self.0 == Repeated::Conflicts,
                _ => false,
            };
            if shown {
                self.1.lock().unwrap().insert(key, snapshot);
            }
        }
        Ok(appended)
    }
    async fn list_telemetry(
        &self,
        store: &MemoryStore,
        query: &TelemetryQuery,
    ) -> Result<Page<HostSnapshot>, StoreError> {
        let first = store.list_telemetry(&TelemetryQuery { limit: usize::MAX, ..query.clone() }).await?.items;
        let repeats = self.1.lock().unwrap();
        let rows = first.into_iter().flat_map(|snapshot| {
            let repeat = repeats.get(&(query.host_id, snapshot.recorded_at)).cloned();
            match (repeat, self.0) {
                (None, _) => vec![snapshot],
                (Some(repeat), Repeated::Duplicates) => vec![snapshot, repeat],
                (Some(repeat), Repeated::Conflicts) => vec![repeat],
            }
        });
        Ok(page(rows, query.limit))
    }
}

/// What the newest report to *arrive* decides.
#[derive(Clone, Copy, PartialEq)]
enum LastToArrive {
    Facts,
    Containers,
}

/// A report counts by when it arrives, not by when it was measured: kept beside, in a store for which each report is
/// the newest one.
struct OlderReportsOverwrite(LastToArrive, MemoryStore, Mutex<HashMap<HostId, Timestamp>>);

impl OlderReportsOverwrite {
    fn of(part: LastToArrive) -> Self {
        Self(part, MemoryStore::new(), Mutex::default())
    }
}

#[async_trait]
impl Fault for OlderReportsOverwrite {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let _ = self.1.commit(commit.clone()).await;
        store.commit(commit).await
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let copies = reports.clone();
        let appended = store.append(reports).await?;
        for (mut append, outcome) in copies.into_iter().zip(&appended.outcomes) {
            if matches!(outcome, AppendOutcome::Accepted) {
                {
                    let mut newest = self.2.lock().unwrap();
                    let newest = newest.entry(append.contact.host_id).or_insert(Timestamp::MIN);
                    if append.report.recorded_at <= *newest {
                        append.report.recorded_at = newest.saturating_add(std::time::Duration::from_micros(1));
                    }
                    *newest = append.report.recorded_at;
                }
                self.1.append(vec![append]).await?;
            }
        }
        Ok(appended)
    }
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        self.1.prune(prune).await?;
        store.prune(prune).await
    }
    async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let mut found = store.find_host(lookup).await?;
        if let (Some(found), LastToArrive::Facts) = (&mut found, self.0)
            && let Some(other) = record(&self.1, found.host.id).await
        {
            found.presence.facts = other.presence.facts;
        }
        Ok(found)
    }
    async fn list_containers(
        &self,
        store: &MemoryStore,
        query: &ContainerQuery,
    ) -> Result<Page<ContainerRecord>, StoreError> {
        let store = if self.0 == LastToArrive::Containers { &self.1 } else { store };
        store.list_containers(query).await
    }
}

twins! {
    repeats_are_accepted: RepeatsAreAccepted => [
        "contact::a_duplicate_is_a_contact",
        "contact::a_repeated_report_is_a_duplicate_and_writes_nothing",
        "contact::each_report_of_a_call_gets_its_own_answer_in_order",
        "contact::repeats_within_one_call_are_duplicates",
        "prune::reports_stay_whole_when_their_containers_go",
        "telemetry::an_older_report_is_read_with_containers_that_only_it_names",
        "telemetry::numbers_of_removed_containers_are_read_with_their_reports",
    ],
    conflicts_are_duplicates: ConflictsAreDuplicates => [
        "contact::a_duplicate_is_a_contact",
        "contact::another_report_of_the_same_time_is_a_conflict_and_the_first_stays",
        "contact::repeats_within_one_call_are_duplicates",
        "telemetry::numbers_of_removed_containers_are_read_with_their_reports",
    ],
    one_refused_report_fails_its_neighbours: OneRefusedReportFailsItsNeighbours => [
        "candidate::a_tag_finds_many_that_change_at_once",
        "contact::each_report_of_a_call_gets_its_own_answer_in_order",
    ],
    answers_are_out_of_order: AnswersAreOutOfOrder => [
        "contact::each_report_of_a_call_gets_its_own_answer_in_order",
    ],
    empty_calls_are_refused: EmptyCallsAreRefused => [
        "contact::an_empty_call_is_answered",
    ],
    duplicates_are_no_contact: DuplicatesAreNoContact => [
        "contact::a_duplicate_is_a_contact",
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    incomplete_reports_remove_containers: IncompleteReportsRemoveContainers => [
        "contact::an_incomplete_report_removes_nothing",
    ],
    nothing_is_removed: NothingIsRemoved => [
        "contact::a_complete_report_removes_the_containers_that_it_lacks",
        "contact::a_removed_container_comes_back",
        "contact::unchanged_containers_do_not_raise_the_version",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::containers_go_some_time_after_they_were_removed",
        "prune::reports_stay_whole_when_their_containers_go",
    ],
    removed_containers_are_deleted: RemovedContainersAreDeleted => [
        "contact::a_complete_report_removes_the_containers_that_it_lacks",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::containers_go_some_time_after_they_were_removed",
        "telemetry::numbers_of_removed_containers_are_read_with_their_reports",
    ],
    removed_containers_are_shown: RemovedContainersAreShown => [
        "contact::a_complete_report_removes_the_containers_that_it_lacks",
    ],
    the_cursor_replaces_the_beginning: TheCursorReplacesTheBeginning => [
        "telemetry::a_cursor_widens_no_range",
    ],
    reversed_ranges_are_turned_around: ReversedRangesAreTurnedAround => [
        "telemetry::a_cursor_widens_no_range",
    ],
    the_end_of_a_range_is_included: TheEndOfARangeIsIncluded => [
        "telemetry::a_cursor_widens_no_range",
        "telemetry::telemetry_is_read_by_range_in_pages",
    ],
    all_containers_come: AllContainersCome => [
        "telemetry::reports_come_with_the_containers_that_were_asked_for",
    ],
    reports_without_the_container_are_left_out: ReportsWithoutTheContainerAreLeftOut => [
        "telemetry::reports_come_with_the_containers_that_were_asked_for",
    ],
    reports_of_a_call_are_stored_one_by_one: ReportsOfACallAreStoredOneByOne => [
        "contact::a_dropped_append_is_whole_or_absent",
    ],
    contacts_precede_their_report: ContactsPrecedeTheirReport => [
        "contact::a_dropped_append_is_whole_or_absent",
    ],
    duplicates_are_counted_twice: ShowsRepeats::of(Repeated::Duplicates) => [
        "contact::a_dropped_append_is_whole_or_absent",
        "contact::a_repeated_report_is_a_duplicate_and_writes_nothing",
        "contact::repeats_within_one_call_are_duplicates",
        "prune::reports_stay_whole_when_their_containers_go",
        "telemetry::an_older_report_is_read_with_containers_that_only_it_names",
    ],
    conflicts_overwrite_the_first: ShowsRepeats::of(Repeated::Conflicts) => [
        "contact::another_report_of_the_same_time_is_a_conflict_and_the_first_stays",
    ],
    numbers_are_joined_to_containers_that_are_there: NumbersAreJoinedToTheListed { removed: false } => [
        "contact::an_older_report_adds_its_snapshot_and_nothing_else",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::reports_stay_whole_when_their_containers_go",
        "telemetry::an_older_report_is_read_with_containers_that_only_it_names",
        "telemetry::numbers_of_removed_containers_are_read_with_their_reports",
        "telemetry::reports_come_with_the_containers_that_were_asked_for",
    ],
    numbers_are_joined_to_containers_that_are_listed: NumbersAreJoinedToTheListed { removed: true } => [
        "contact::an_older_report_adds_its_snapshot_and_nothing_else",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::reports_stay_whole_when_their_containers_go",
        "telemetry::an_older_report_is_read_with_containers_that_only_it_names",
    ],
    older_reports_overwrite_facts: OlderReportsOverwrite::of(LastToArrive::Facts) => [
        "contact::an_older_report_adds_its_snapshot_and_nothing_else",
    ],
    older_reports_overwrite_containers: OlderReportsOverwrite::of(LastToArrive::Containers) => [
        "contact::an_older_report_adds_its_snapshot_and_nothing_else",
        "prune::a_host_outlives_its_reports",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::reports_stay_whole_when_their_containers_go",
        "telemetry::an_older_report_is_read_with_containers_that_only_it_names",
    ],
}
