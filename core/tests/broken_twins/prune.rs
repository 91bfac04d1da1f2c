//! Retention that takes too much, too little, or too fast.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::conformance::sample;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::{InstallToken, InstallTokenState};
use enlist_core::policy::Scope;
use enlist_core::store::{
    Aggregate, Append, AppendOutcome, Appended, Commit, ContainerQuery, ContainerRecord, EventQuery, Expected,
    HostLookup, HostRecord, InstallTokenOwner, InstallTokenQuery, Key, Page, Prune, Pruned, StoreError, StoreErrorKind,
    TelemetryQuery, Write,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, MemoryStore, Store, Timestamp};

use crate::twin::{Fault, accept, all_hosts, faults, prune_nothing, twins};

/// Prunes with other bounds than those that were asked for.
struct Prunes(fn(Prune) -> Prune);

#[async_trait]
impl Fault for Prunes {
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        store.prune(&(self.0)(*prune)).await
    }
}

/// `<=` for `<`.
fn later(at: Timestamp) -> Timestamp {
    at.saturating_add(Duration::from_micros(1))
}

/// Splits off what is asked of one kind of row: the others, and that one alone.
type Split = fn(Prune, Prune) -> (Prune, Prune);

const SNAPSHOTS: Split = |prune, nothing| {
    let snapshots_before = prune.snapshots_before;
    (Prune { snapshots_before: Timestamp::MIN, ..prune }, Prune { snapshots_before, ..nothing })
};

const EVENTS: Split = |prune, nothing| {
    let events_before = prune.events_before;
    (Prune { events_before: Timestamp::MIN, ..prune }, Prune { events_before, ..nothing })
};

const CONTAINERS: Split = |prune, nothing| {
    let containers_removed_before = prune.containers_removed_before;
    (Prune { containers_removed_before: Timestamp::MIN, ..prune }, Prune { containers_removed_before, ..nothing })
};

const TOMBSTONES: Split = |prune, nothing| {
    let tombstones_before = prune.tombstones_before;
    (Prune { tombstones_before: Timestamp::MIN, ..prune }, Prune { tombstones_before, ..nothing })
};

const INSTALL_TOKENS: Split = |prune, nothing| {
    let install_tokens_before = prune.install_tokens_before;
    (Prune { install_tokens_before: Timestamp::MIN, ..prune }, Prune { install_tokens_before, ..nothing })
};

/// One kind of row goes all at once, the others within the limit.
struct IgnoresTheLimitOf(Split);

#[async_trait]
impl Fault for IgnoresTheLimitOf {
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        let (others, one) = (self.0)(*prune, prune_nothing(prune.now));
        let all = store.prune(&Prune { limit: usize::MAX, ..one }).await?;
        let some = store.prune(&others).await?;
        Ok(Pruned { rows: all.rows + some.rows, more: some.more })
    }
}

/// Of one kind of row it is not said that some are left.
struct ForgetsTheRestOf(Split);

#[async_trait]
impl Fault for ForgetsTheRestOf {
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        let (others, one) = (self.0)(*prune, prune_nothing(prune.now));
        let silent = store.prune(&Prune { limit: prune.limit, ..one }).await?;
        let said = store.prune(&others).await?;
        Ok(Pruned { rows: silent.rows + said.rows, more: said.more })
    }
}

faults! {
    /// The caller never comes again, and most of it stays.
    NothingIsEverLeft {
        async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
            Ok(Pruned { more: false, ..store.prune(prune).await? })
        }
    }

    /// The caller comes again, for ever.
    SomethingIsAlwaysLeft {
        async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
            Ok(Pruned { more: true, ..store.prune(prune).await? })
        }
    }

    /// What is derived from a host's reports goes with them.
    TheNewestReportIsForgotten {
        async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
            let mut found = store.find_host(lookup).await?;
            if let Some(record) = &mut found {
                let query = enlist_core::store::TelemetryQuery::new(record.host.id, Timestamp::MIN, Timestamp::MAX, 1);
                if store.list_telemetry(&query).await?.items.is_empty() {
                    record.presence.newest_report_at = None;
                }
            }
            Ok(found)
        }
    }

    /// No partition was made for it.
    OldReportsFindNoRoom {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            let is_far = |report: &Append| {
                let days = report.report.recorded_at.unix_micros() / 86_400_000_000;
                (days - 1_767_225_600 / 86_400).abs() > 100 && days > 10_000
            };
            let far: Vec<_> = reports.iter().map(is_far).collect();
            let near = reports.into_iter().filter(|report| !is_far(report)).collect();
            let Appended { outcomes, events } = store.append(near).await?;
            let mut outcomes = outcomes.into_iter();
            let failed = || AppendOutcome::Failed(StoreErrorKind::Invalid.into());
            let outcomes = far.into_iter().map(|far| if far { Some(failed()) } else { outcomes.next() });
            Ok(Appended { outcomes: outcomes.flatten().collect(), events })
        }
    }
}

/// The next position is one more than the highest that is there.
#[derive(Default)]
struct PositionsAreReused(Mutex<Offset>);

#[derive(Default, Clone, Copy)]
struct Offset {
    last: u64,
    forgotten: u64,
}

impl PositionsAreReused {
    fn show(&self, mut events: Vec<Event>) -> Vec<Event> {
        let forgotten = self.0.lock().unwrap().forgotten;
        for event in &mut events {
            event.position = Position::new(event.position.get() - forgotten);
        }
        events
    }
}

#[async_trait]
impl Fault for PositionsAreReused {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let events = store.commit(commit).await?;
        if let Some(event) = events.last() {
            self.0.lock().unwrap().last = event.position.get();
        }
        Ok(self.show(events))
    }
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        let pruned = store.prune(prune).await?;
        if store.list_events(&EventQuery::new(Scope::All, 1)).await?.items.is_empty() {
            let mut offset = self.0.lock().unwrap();
            offset.forgotten = offset.last;
        }
        Ok(pruned)
    }
    async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        let after = Position::new(query.after.get() + self.0.lock().unwrap().forgotten);
        let Page { items, more } = store.list_events(&EventQuery { after, ..query.clone() }).await?;
        Ok(Page { items: self.show(items), more })
    }
}

/// Containers go some time after they were last seen, there or not.
#[derive(Default)]
struct ContainersThatAreThereGo(Mutex<Option<Timestamp>>);

impl ContainersThatAreThereGo {
    fn note(&self, cut_off: Timestamp) {
        let mut latest = self.0.lock().unwrap();
        *latest = (*latest).max(Some(cut_off));
    }
}

#[async_trait]
impl Fault for ContainersThatAreThereGo {
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        self.note(prune.containers_removed_before);
        store.prune(prune).await
    }
    async fn list_containers(
        &self,
        store: &MemoryStore,
        query: &ContainerQuery,
    ) -> Result<Page<ContainerRecord>, StoreError> {
        let cut_off = *self.0.lock().unwrap();
        let Page { mut items, more } = store.list_containers(query).await?;
        items.retain(|row| cut_off.is_none_or(|cut_off| row.first_seen_at >= cut_off || row.removed_at.is_some()));
        Ok(Page { items, more })
    }
}

/// What a container is called is forgotten with something else that named it, though a report that measured it is left.
struct NamesGo {
    /// With its row, or with the first of its reports.
    with: Named,
    gone: Mutex<BTreeSet<(HostId, String)>>,
}

#[derive(Clone, Copy)]
enum Named {
    ByItsRow,
    ByAReport,
}

impl NamesGo {
    fn with(with: Named) -> Self {
        Self { with, gone: Mutex::default() }
    }

    /// The containers of all hosts that have a row, and those that a report names.
    async fn named(store: &MemoryStore) -> [BTreeSet<(HostId, String)>; 2] {
        let mut named = [BTreeSet::new(), BTreeSet::new()];
        for record in all_hosts(store).await {
            let host_id = record.host.id;
            let containers = ContainerQuery { host_id, removed: true, after: None, limit: usize::MAX };
            let rows = store.list_containers(&containers).await.expect("memory answers").items;
            named[0].extend(rows.into_iter().map(|row| (host_id, row.container.container_id)));
            let reports = everything(host_id);
            let reports = store.list_telemetry(&reports).await.expect("memory answers").items;
            let measured = reports.into_iter().flat_map(|snapshot| {
                let at = snapshot.recorded_at;
                snapshot.containers.into_iter().map(move |container| format!("{} {at}", container.container_id))
            });
            named[1].extend(measured.map(|name| (host_id, name)));
        }
        named
    }
}

fn everything(host_id: HostId) -> TelemetryQuery {
    TelemetryQuery::new(host_id, Timestamp::MIN, Timestamp::MAX, usize::MAX)
}

#[async_trait]
impl Fault for NamesGo {
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        let before = Self::named(store).await;
        let pruned = store.prune(prune).await?;
        let [rows, reports] = Self::named(store).await;
        let went: Vec<_> = match self.with {
            Named::ByItsRow => before[0].difference(&rows).cloned().collect(),
            Named::ByAReport => {
                let went = before[1].difference(&reports);
                let ids = went.map(|(host_id, name)| (*host_id, name.split(' ').next().unwrap_or_default().to_owned()));
                ids.filter(|container| !rows.contains(container)).collect()
            }
        };
        self.gone.lock().unwrap().extend(went);
        Ok(pruned)
    }
    async fn list_telemetry(
        &self,
        store: &MemoryStore,
        query: &TelemetryQuery,
    ) -> Result<Page<HostSnapshot>, StoreError> {
        let mut page = store.list_telemetry(query).await?;
        let gone = self.gone.lock().unwrap();
        for snapshot in &mut page.items {
            snapshot.containers.retain(|of| !gone.contains(&(query.host_id, of.container_id.clone())));
        }
        Ok(page)
    }
}

/// What goes wrong with install tokens that were pruned.
#[derive(Clone, Copy, PartialEq)]
enum Gone {
    /// Those go as well whose agent token may still act.
    WhileWhatTheyBoughtActs,
    /// A hash of theirs can be had again.
    WithTheirHashes,
    /// A commit that had loaded one before is refused.
    Untouchable,
}

struct InstallTokensGo(Gone, Mutex<Vec<InstallToken>>);

impl InstallTokensGo {
    fn so(how: Gone) -> Self {
        Self(how, Mutex::default())
    }

    fn gone(&self, is: impl Fn(&InstallToken) -> bool) -> bool {
        self.1.lock().unwrap().iter().any(is)
    }

    async fn all(store: &MemoryStore) -> Vec<InstallToken> {
        let hosts = all_hosts(store).await.into_iter().map(|record| InstallTokenOwner::Host(record.host.id));
        let mut all = Vec::new();
        for owner in hosts.chain([InstallTokenOwner::Tenant(sample::tenant("acme"))]) {
            let query = InstallTokenQuery { owner, after: None, limit: usize::MAX };
            all.extend(store.list_install_tokens(&query).await.expect("memory answers").items);
        }
        all
    }
}

#[async_trait]
impl Fault for InstallTokensGo {
    async fn prune(&self, store: &MemoryStore, prune: &Prune) -> Result<Pruned, StoreError> {
        let before = Self::all(store).await;
        let pruned = store.prune(prune).await?;
        let after = Self::all(store).await;
        let goes = |token: &InstallToken| match self.0 {
            Gone::WhileWhatTheyBoughtActs => {
                matches!(token.state, InstallTokenState::Consumed { at, .. } if at < prune.install_tokens_before)
            }
            _ => !after.contains(token),
        };
        self.1.lock().unwrap().extend(before.into_iter().filter(goes));
        Ok(pruned)
    }
    async fn list_install_tokens(
        &self,
        store: &MemoryStore,
        query: &InstallTokenQuery,
    ) -> Result<Page<InstallToken>, StoreError> {
        let mut page = store.list_install_tokens(query).await?;
        if self.0 == Gone::WhileWhatTheyBoughtActs {
            page.items.retain(|token| !self.gone(|gone| gone.id == token.id));
        }
        Ok(page)
    }
    async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        let is_gone =
            |gone: &InstallToken| *key == Key::InstallToken(gone.hash) || *key == Key::InstallTokenId(gone.id);
        if self.0 == Gone::WhileWhatTheyBoughtActs && self.gone(is_gone) {
            return Ok(None);
        }
        store.load(key).await
    }
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let tokens = commit.writes.iter().flat_map(|write| match write {
            Write::Host(write) => &write.install_tokens[..],
            Write::TenantInstallToken { expected: Expected::Absent, token } => std::slice::from_ref(token),
            _ => &[],
        });
        let (mut again, mut anew) = (false, false);
        for token in tokens {
            again |= self.gone(|gone| gone.id == token.id);
            anew |= self.gone(|gone| gone.hash == token.hash && gone.id != token.id);
        }
        match self.0 {
            Gone::Untouchable if again => Err(StoreErrorKind::HashSeen.into()),
            Gone::WithTheirHashes if anew => accept(store, commit, StoreErrorKind::HashSeen).await,
            _ => store.commit(commit).await,
        }
    }
}

twins! {
    names_go_with_their_rows: NamesGo::with(Named::ByItsRow) => [
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::reports_stay_whole_when_their_containers_go",
    ],
    names_go_with_a_report: NamesGo::with(Named::ByAReport) => [
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
    ],
    snapshots_as_old_as_asked_go:
        Prunes(|prune| Prune { snapshots_before: later(prune.snapshots_before), ..prune }) => [
        "prune::old_snapshots_go_and_younger_ones_stay",
    ],
    events_as_old_as_asked_go: Prunes(|prune| Prune { events_before: later(prune.events_before), ..prune }) => [
        "prune::old_events_go_and_younger_ones_stay",
    ],
    containers_as_old_as_asked_go: Prunes(|prune| Prune {
        containers_removed_before: later(prune.containers_removed_before),
        ..prune
    }) => [
        "prune::containers_go_some_time_after_they_were_removed",
    ],
    tombstones_as_old_as_asked_go:
        Prunes(|prune| Prune { tombstones_before: later(prune.tombstones_before), ..prune }) => [
        "prune::old_tombstones_go_and_younger_ones_stay",
    ],
    snapshots_never_go: Prunes(|prune| Prune { snapshots_before: Timestamp::MIN, ..prune }) => [
        "candidate::candidates_come_with_their_newest_numbers",
        "prune::a_host_outlives_its_reports",
        "prune::a_report_of_any_day_finds_room",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::old_snapshots_go_and_younger_ones_stay",
    ],
    events_never_go: Prunes(|prune| Prune { events_before: Timestamp::MIN, ..prune }) => [
        "prune::a_position_is_never_given_again",
        "prune::a_step_is_bounded_and_says_what_is_left",
        "prune::old_events_go_and_younger_ones_stay",
    ],
    containers_never_go: Prunes(|prune| Prune { containers_removed_before: Timestamp::MIN, ..prune }) => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::containers_go_some_time_after_they_were_removed",
        "prune::reports_stay_whole_when_their_containers_go",
    ],
    tombstones_never_go: Prunes(|prune| Prune { tombstones_before: Timestamp::MIN, ..prune }) => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::old_tombstones_go_and_younger_ones_stay",
    ],
    install_tokens_as_old_as_asked_go:
        Prunes(|prune| Prune { install_tokens_before: later(prune.install_tokens_before), ..prune }) => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::spent_install_tokens_go_and_younger_ones_stay",
    ],
    install_tokens_never_go: Prunes(|prune| Prune { install_tokens_before: Timestamp::MIN, ..prune }) => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::a_step_is_bounded_for_install_tokens",
        "prune::spent_install_tokens_go_and_younger_ones_stay",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
    ],
    all_install_tokens_go_at_once: IgnoresTheLimitOf(INSTALL_TOKENS) => [
        "prune::a_step_is_bounded_for_install_tokens",
    ],
    install_tokens_that_are_left_are_forgotten: ForgetsTheRestOf(INSTALL_TOKENS) => [
        "prune::a_step_is_bounded_for_install_tokens",
    ],
    install_tokens_go_while_what_they_bought_acts: InstallTokensGo::so(Gone::WhileWhatTheyBoughtActs) => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
    ],
    install_tokens_go_with_their_hashes: InstallTokensGo::so(Gone::WithTheirHashes) => [
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
    ],
    pruned_install_tokens_are_untouchable: InstallTokensGo::so(Gone::Untouchable) => [
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
    ],
    all_events_go_at_once: IgnoresTheLimitOf(EVENTS) => [
        "prune::a_step_is_bounded_and_says_what_is_left",
    ],
    all_containers_go_at_once: IgnoresTheLimitOf(CONTAINERS) => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
    ],
    all_tombstones_go_at_once: IgnoresTheLimitOf(TOMBSTONES) => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
    ],
    snapshots_that_are_left_are_forgotten: ForgetsTheRestOf(SNAPSHOTS) => [
        "prune::old_snapshots_go_and_younger_ones_stay",
    ],
    events_that_are_left_are_forgotten: ForgetsTheRestOf(EVENTS) => [
        "prune::a_step_is_bounded_and_says_what_is_left",
    ],
    containers_that_are_left_are_forgotten: ForgetsTheRestOf(CONTAINERS) => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
    ],
    tombstones_that_are_left_are_forgotten: ForgetsTheRestOf(TOMBSTONES) => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
    ],
    nothing_is_ever_left: NothingIsEverLeft => [
        "prune::a_step_is_bounded_and_says_what_is_left",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::a_step_is_bounded_for_install_tokens",
        "prune::old_snapshots_go_and_younger_ones_stay",
    ],
    something_is_always_left: SomethingIsAlwaysLeft => [
        "candidate::candidates_come_with_their_newest_numbers",
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::a_host_outlives_its_reports",
        "prune::a_position_is_never_given_again",
        "prune::a_report_of_any_day_finds_room",
        "prune::a_step_is_bounded_and_says_what_is_left",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::a_step_is_bounded_for_install_tokens",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::containers_go_some_time_after_they_were_removed",
        "prune::old_events_go_and_younger_ones_stay",
        "prune::old_snapshots_go_and_younger_ones_stay",
        "prune::old_tombstones_go_and_younger_ones_stay",
        "prune::reports_stay_whole_when_their_containers_go",
        "prune::spent_install_tokens_go_and_younger_ones_stay",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
    ],
    the_newest_report_is_forgotten: TheNewestReportIsForgotten => [
        "prune::a_host_outlives_its_reports",
    ],
    old_reports_find_no_room: OldReportsFindNoRoom => [
        "prune::a_report_of_any_day_finds_room",
    ],
    positions_are_reused: PositionsAreReused::default() => [
        "prune::a_position_is_never_given_again",
    ],
    containers_that_are_there_go: ContainersThatAreThereGo::default() => [
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::containers_go_some_time_after_they_were_removed",
        "prune::reports_stay_whole_when_their_containers_go",
    ],
}
