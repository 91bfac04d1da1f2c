//! Sweeps that overrule a contact, or tell too much.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::conformance::sample;
use enlist_core::event::{Event, EventBody};
use enlist_core::host::Presence;
use enlist_core::liveness::{Monitor, SILENT_AT_FIRST, Seen, Verdict};
use enlist_core::store::{
    Append, Appended, Commit, Contact, EventQuery, HostLookup, HostRecord, Page, Silence, StoreError, Sweep, Swept,
    went_silent,
};
use enlist_core::{HostId, MemoryStore, Store, Timestamp};

use crate::twin::{Fault, all_hosts, faults, record, twins};

/// A handle judges by the contacts that it saw itself, whatever was written meanwhile.
#[derive(Default)]
struct SweepsJudgeByMemory(Mutex<HashMap<HostId, Timestamp>>);

#[async_trait]
impl Fault for SweepsJudgeByMemory {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        for contact in &contacts {
            self.0.lock().unwrap().insert(contact.host_id, contact.at);
        }
        store.touch(contacts).await
    }
    async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
        let silent_before = sweep.now.saturating_sub(sweep.pace.window);
        let mut missed = Vec::new();
        for host in online(store).await {
            let heard = self.0.lock().unwrap().get(&host.host.id).copied();
            if heard.is_some_and(|heard| heard < silent_before) {
                missed.push(host);
            }
        }
        let mut swept = store.sweep(sweep.clone()).await?;
        for host in missed.into_iter().filter(|host| !host.host.is_archived()) {
            let is_told = swept.events.iter().any(|event| event.event.host_id == Some(host.host.id));
            if !is_told && matches!(swept.verdict, Verdict::Sweep { .. }) {
                swept.events.extend(tell(store, &sweep, host).await?);
            }
        }
        Ok(swept)
    }
}

/// A handle has a monitor of its own.
#[derive(Default)]
struct EachHandleHasItsMonitor(Mutex<Monitor>);

#[async_trait]
impl Fault for EachHandleHasItsMonitor {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
        let (monitor, verdict) = self.0.lock().unwrap().clone().tick(sweep.now, sweep.pace, NOBODY);
        *self.0.lock().unwrap() = monitor.clone();
        if matches!(verdict, Verdict::Suspended { .. }) {
            return Ok(Swept { monitor, verdict, events: Vec::new(), more: false });
        }
        store.sweep(sweep).await
    }
}

const NOBODY: Seen = Seen { silent: 0, heard: 0 };

async fn online(store: &MemoryStore) -> Vec<HostRecord> {
    let hosts = all_hosts(store).await.into_iter();
    hosts.filter(|host| matches!(host.presence.presence, Presence::Online { .. })).collect()
}

/// Who is online, of those that are archived or of those that are not.
async fn seen(store: &MemoryStore, sweep: &Sweep, archived: bool) -> Seen {
    let silent_before = sweep.now.saturating_sub(sweep.pace.window);
    let hosts = online(store).await.into_iter().filter(|host| host.host.is_archived() == archived);
    let (silent, heard): (Vec<_>, Vec<_>) =
        hosts.partition(|host| host.presence.presence.last_seen_at() < Some(silent_before));
    Seen { silent: silent.len() as u64, heard: heard.len() as u64 }
}

/// Writes the event of a verdict that does not hold.
async fn tell(store: &MemoryStore, sweep: &Sweep, of: HostRecord) -> Result<Vec<Event>, StoreError> {
    let last_seen_at = of.presence.presence.last_seen_at().unwrap_or(sweep.now);
    let silence =
        Silence::of_sweep(sweep, Monitor::default().rule(sweep.now, sweep.pace), false, [of.host.id]).remove(0);
    let (before, after) = (Presence::Online { last_seen_at }, Presence::Unreachable { last_seen_at, since: sweep.now });
    let event = went_silent(&silence, &of.host.tenant_id, of.host.kind, before, after);
    store.commit(Commit { writes: Vec::new(), events: event.into_iter().collect() }).await
}

faults! {
    /// Who is unreachable already is told of again.
    SweepsTellTwice {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let before = all_hosts(store).await;
            let mut swept = store.sweep(sweep.clone()).await?;
            for host in before.into_iter().filter(|host| !host.host.is_archived()) {
                if let Presence::Unreachable { .. } = host.presence.presence {
                    swept.events.extend(tell(store, &sweep, host).await?);
                }
            }
            Ok(swept)
        }
    }

    /// Up to the first limit, and no further.
    SilentHostsAreCountedOnce {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let seen = seen(store, &sweep, false).await;
            let swept = store.sweep(sweep).await?;
            let verdict = if seen.silent.min(SILENT_AT_FIRST) < seen.heard && seen.silent > SILENT_AT_FIRST {
                Verdict::Sweep { storm: false }
            } else {
                swept.verdict
            };
            Ok(Swept { verdict, ..swept })
        }
    }

    /// Out of service, and missed all the same.
    ArchivedHostsFallSilent {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let before = online(store).await;
            let mut swept = store.sweep(sweep.clone()).await?;
            for host in before.into_iter().filter(|host| host.host.is_archived()) {
                let after = record(store, host.host.id).await.expect("it was there").presence.presence;
                if matches!(after, Presence::Unreachable { .. }) {
                    swept.events.extend(tell(store, &sweep, host).await?);
                }
            }
            Ok(swept)
        }
    }

    /// A host that was never heard falls silent.
    PendingHostsFallSilent {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let mut swept = store.sweep(sweep.clone()).await?;
            for host in all_hosts(store).await {
                if swept.events.len() == 1 && host.presence.presence == Presence::Pending {
                    swept.events.extend(tell(store, &sweep, host).await?);
                }
            }
            Ok(swept)
        }
    }

    /// `>=` for `>`.
    ExactlyTheWindowIsTooLong {
        async fn sweep(&self, store: &MemoryStore, mut sweep: Sweep) -> Result<Swept, StoreError> {
            let silent_before = sweep.now.saturating_sub(sweep.pace.window);
            if online(store).await.iter().any(|host| host.presence.presence.last_seen_at() == Some(silent_before)) {
                sweep.pace.window = sweep.pace.window.saturating_sub(Duration::from_micros(1));
            }
            store.sweep(sweep).await
        }
    }

    /// Whole seconds are compared.
    TheWindowIsCountedInSeconds {
        async fn sweep(&self, store: &MemoryStore, mut sweep: Sweep) -> Result<Swept, StoreError> {
            let whole = sweep.now.unix_micros().div_euclid(1_000_000) * 1_000_000;
            sweep.now = Timestamp::from_unix_micros(whole).unwrap_or(sweep.now);
            store.sweep(sweep).await
        }
    }

    /// Whoever is silent is judged, however many they are.
    SweepsAreUnbounded {
        async fn sweep(&self, store: &MemoryStore, mut sweep: Sweep) -> Result<Swept, StoreError> {
            sweep.event_ids.extend((0..100).map(|_| sample::event_id()));
            store.sweep(sweep).await
        }
    }

    /// A call that found as many as it had ids for says that there are more.
    AFullSweepSaysMore {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let limit = sweep.event_ids.len();
            let swept = store.sweep(sweep).await?;
            Ok(Swept { more: swept.more || swept.events.len() == limit, ..swept })
        }
    }

    /// Absences are not noticed.
    AbsencesAreNotNoticed {
        async fn sweep(&self, store: &MemoryStore, mut sweep: Sweep) -> Result<Swept, StoreError> {
            sweep.pace.tick = Duration::MAX;
            store.sweep(sweep).await
        }
    }

    /// An event does not say that there was a storm.
    StormsAreNotTold {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let mut page = store.list_events(query).await?;
            for event in &mut page.items {
                if let EventBody::HostUnreachable { storm, last_seen_at } = &mut event.event.body {
                    *storm = *last_seen_at == Timestamp::MIN;
                }
            }
            Ok(page)
        }
    }

    /// Archived hosts that are silent count as fallen.
    ArchivedHostsCountAsFallen {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let (ours, archived) = (seen(store, &sweep, false).await, seen(store, &sweep, true).await);
            let is_storm = ours.silent + archived.silent >= ours.heard.max(5);
            let verdict = Verdict::Holding { since: sweep.now, until: sweep.now };
            let swept = store.sweep(sweep).await?;
            let is_made = swept.verdict == Verdict::Sweep { storm: false } && archived.silent > 0;
            Ok(if is_made && is_storm { Swept { verdict, ..swept } } else { swept })
        }
    }

    /// Archived hosts that were heard of late count as left.
    ArchivedHostsCountAsLeft {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let (ours, archived) = (seen(store, &sweep, false).await, seen(store, &sweep, true).await);
            let swept = store.sweep(sweep).await?;
            let is_held = matches!(swept.verdict, Verdict::Holding { .. });
            let is_storm = ours.silent >= ours.heard + archived.heard;
            let verdict = if is_held && !is_storm { Verdict::Sweep { storm: false } } else { swept.verdict };
            Ok(Swept { verdict, ..swept })
        }
    }

    /// Who fell in an earlier sweep does not count.
    FallsAreForgotten {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let ours = seen(store, &sweep, false).await;
            let swept = store.sweep(sweep).await?;
            let is_held = matches!(swept.verdict, Verdict::Holding { .. });
            let verdict = if is_held && ours.silent < 5 { Verdict::Sweep { storm: false } } else { swept.verdict };
            Ok(Swept { verdict, ..swept })
        }
    }
}

/// Presence as it is shown, instead of as it is kept.
#[derive(Clone, Copy)]
enum Shown {
    /// The last contact to arrive counts, however old it is.
    LastContact,
    /// A host that fell silent does not come back by a heartbeat.
    SilenceOutlivesTouches,
    /// Nor by a report.
    SilenceOutlivesReports,
    /// A contact from before the silence brings the host back.
    AnyContactEndsSilence,
}

struct ShowsPresence(Shown, Mutex<HashMap<HostId, Presence>>);

impl ShowsPresence {
    fn of(shown: Shown) -> Self {
        Self(shown, Mutex::default())
    }

    async fn note(&self, store: &MemoryStore, contact: &Contact, by_report: bool) {
        let Some(host) = record(store, contact.host_id).await else { return };
        if host.host.is_archived() {
            return;
        }
        let before = host.presence.presence;
        let mut shown = self.1.lock().unwrap();
        match (self.0, before) {
            (Shown::LastContact, Presence::Pending | Presence::Online { .. }) => {
                shown.insert(contact.host_id, Presence::Online { last_seen_at: contact.at });
            }
            (Shown::AnyContactEndsSilence, Presence::Unreachable { last_seen_at, .. }) => {
                shown.insert(contact.host_id, Presence::Online { last_seen_at });
            }
            (Shown::SilenceOutlivesTouches, Presence::Unreachable { .. }) if !by_report => {
                shown.insert(contact.host_id, before);
            }
            (Shown::SilenceOutlivesReports, Presence::Unreachable { .. }) if by_report => {
                shown.insert(contact.host_id, before);
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Fault for ShowsPresence {
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        for report in &reports {
            self.note(store, &report.contact, true).await;
        }
        store.append(reports).await
    }
    async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        for contact in &contacts {
            self.note(store, contact, false).await;
        }
        store.touch(contacts).await
    }
    async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
        let swept = store.sweep(sweep).await?;
        for event in &swept.events {
            self.1.lock().unwrap().retain(|id, _| event.event.host_id != Some(*id));
        }
        Ok(swept)
    }
    async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
        let mut found = store.find_host(lookup).await?;
        if let Some(record) = &mut found
            && let Some(shown) = self.1.lock().unwrap().get(&record.host.id)
        {
            record.presence.presence = *shown;
        }
        Ok(found)
    }
}

twins! {
    sweeps_judge_by_memory: SweepsJudgeByMemory::default() => [
        "silence::a_contact_through_another_handle_counts_to_the_microsecond",
        "silence::a_sweep_is_bounded_and_begins_with_the_longest_silent",
        "window::a_host_falls_silent_by_its_own_window",
        "window::a_storm_is_told_by_each_hosts_own_window",
        "window::another_window_counts_from_its_commit_on",
        "window::contacts_count_within_a_hosts_own_window",
        "window::windows_that_ended_first_are_judged_first",
    ],
    each_handle_has_its_monitor: EachHandleHasItsMonitor::default() => [
        "candidate::a_tag_finds_a_host_by_what_is_so_now",
        "candidate::a_tag_finds_many_that_change_at_once",
        "candidate::only_hosts_that_may_take_work_are_candidates",
        "silence::a_contact_brings_an_unreachable_host_back",
        "silence::a_contact_through_another_handle_counts_to_the_microsecond",
        "silence::a_storm_gathers_over_a_window",
        "silence::a_storm_is_held_back_and_then_told",
        "silence::a_storm_is_told_by_last_contacts",
        "silence::a_storm_is_told_by_unarchived_hosts_that_were_online",
        "silence::a_storm_of_many_is_counted_as_far_as_it_takes",
        "silence::a_sweep_is_bounded_and_begins_with_the_longest_silent",
        "silence::a_sweep_never_raises_the_revision",
        "silence::an_absence_of_every_handle_suspends_verdicts",
        "silence::only_who_is_online_falls_silent",
        "silence::silence_beyond_the_window_is_one_event",
        "window::a_host_falls_silent_by_its_own_window",
        "window::a_storm_is_told_by_each_hosts_own_window",
        "window::an_absence_does_not_count_towards_any_window",
        "window::another_window_counts_from_its_commit_on",
        "window::contacts_count_within_a_hosts_own_window",
        "window::windows_that_ended_first_are_judged_first",
    ],
    sweeps_tell_twice: SweepsTellTwice => [
        "silence::a_contact_through_another_handle_counts_to_the_microsecond",
        "silence::a_storm_gathers_over_a_window",
        "silence::a_storm_is_told_by_last_contacts",
        "silence::a_sweep_is_bounded_and_begins_with_the_longest_silent",
        "silence::an_absence_of_every_handle_suspends_verdicts",
        "silence::silence_beyond_the_window_is_one_event",
        "window::a_host_falls_silent_by_its_own_window",
        "window::a_storm_is_told_by_each_hosts_own_window",
        "window::an_absence_does_not_count_towards_any_window",
        "window::contacts_count_within_a_hosts_own_window",
        "window::windows_that_ended_first_are_judged_first",
    ],
    archived_hosts_fall_silent: ArchivedHostsFallSilent => [
        "silence::a_storm_is_told_by_last_contacts",
        "silence::a_storm_is_told_by_unarchived_hosts_that_were_online",
        "silence::only_who_is_online_falls_silent",
    ],
    pending_hosts_fall_silent: PendingHostsFallSilent => [
        "candidate::only_hosts_that_may_take_work_are_candidates",
        "silence::only_who_is_online_falls_silent",
    ],
    exactly_the_window_is_too_long: ExactlyTheWindowIsTooLong => [
        "silence::a_contact_through_another_handle_counts_to_the_microsecond",
        "silence::a_storm_is_told_by_last_contacts",
        "window::a_host_falls_silent_by_its_own_window",
    ],
    the_window_is_counted_in_seconds: TheWindowIsCountedInSeconds => [
        "silence::a_contact_through_another_handle_counts_to_the_microsecond",
        "window::a_host_falls_silent_by_its_own_window",
        "window::contacts_count_within_a_hosts_own_window",
    ],
    sweeps_are_unbounded: SweepsAreUnbounded => [
        "silence::a_sweep_is_bounded_and_begins_with_the_longest_silent",
        "window::windows_that_ended_first_are_judged_first",
    ],
    a_full_sweep_says_more: AFullSweepSaysMore => [
        "silence::a_sweep_is_bounded_and_begins_with_the_longest_silent",
        "window::windows_that_ended_first_are_judged_first",
    ],
    absences_are_not_noticed: AbsencesAreNotNoticed => [
        "silence::an_absence_of_every_handle_suspends_verdicts",
        "window::an_absence_does_not_count_towards_any_window",
    ],
    storms_are_not_told: StormsAreNotTold => [
        "silence::a_storm_is_held_back_and_then_told",
    ],
    archived_hosts_count_as_fallen: ArchivedHostsCountAsFallen => [
        "silence::a_storm_is_told_by_last_contacts",
        "silence::a_storm_is_told_by_unarchived_hosts_that_were_online",
    ],
    archived_hosts_count_as_left: ArchivedHostsCountAsLeft => [
        "silence::a_storm_is_told_by_unarchived_hosts_that_were_online",
        "window::a_storm_is_told_by_each_hosts_own_window",
    ],
    silent_hosts_are_counted_once: SilentHostsAreCountedOnce => [
        "silence::a_storm_of_many_is_counted_as_far_as_it_takes",
    ],
    falls_are_forgotten: FallsAreForgotten => [
        "silence::a_storm_gathers_over_a_window",
        "window::a_storm_is_told_by_each_hosts_own_window",
    ],
    last_seen_goes_back: ShowsPresence::of(Shown::LastContact) => [
        "contact::last_seen_never_goes_back",
        "silence::only_who_is_online_falls_silent",
    ],
    silence_outlives_touches: ShowsPresence::of(Shown::SilenceOutlivesTouches) => [
        "silence::a_contact_brings_an_unreachable_host_back",
    ],
    silence_outlives_reports: ShowsPresence::of(Shown::SilenceOutlivesReports) => [
        "silence::a_contact_brings_an_unreachable_host_back",
    ],
    any_contact_ends_silence: ShowsPresence::of(Shown::AnyContactEndsSilence) => [
        "silence::a_contact_brings_an_unreachable_host_back",
    ],
}
