//! Sweeps that overrule a contact, or tell too much.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::host::Presence;
use enlist_core::store::{
    Append, Appended, Commit, Contact, HostLookup, HostRecord, Silence, StoreError, StoreErrorKind, went_silent,
};
use enlist_core::{HostId, MemoryStore, Store, Timestamp};

use crate::twin::{Fault, faults, record, twins};

/// A handle judges by the contacts that it saw itself, and then marks, whatever was written meanwhile.
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
    async fn mark_silent(&self, store: &MemoryStore, mut silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
        for silence in &mut silences {
            let heard = self.0.lock().unwrap().get(&silence.host_id).copied();
            if heard.is_some_and(|heard| silence.at.saturating_since(heard) > silence.window) {
                silence.window = Duration::ZERO;
            }
        }
        store.mark_silent(silences).await
    }
}

/// Writes the event of a verdict that does not hold.
async fn tell(
    store: &MemoryStore,
    silence: &Silence,
    of: HostRecord,
    before: Presence,
) -> Result<Vec<Event>, StoreError> {
    let after = Presence::Unreachable { last_seen_at: silence.at, since: silence.at };
    let event = went_silent(silence, &of.host.tenant_id, of.host.kind, before, after);
    store.commit(Commit { writes: Vec::new(), events: event.into_iter().collect() }).await
}

faults! {
    /// Who is unreachable already is told of again.
    SweepsTellTwice {
        async fn mark_silent(&self, store: &MemoryStore, silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
            let mut events = Vec::new();
            for silence in silences {
                let before = record(store, silence.host_id).await;
                events.extend(store.mark_silent(vec![silence.clone()]).await?);
                if let Some(host) = before
                    && let Presence::Unreachable { last_seen_at, .. } = host.presence.presence
                {
                    events.extend(tell(store, &silence, host, Presence::Online { last_seen_at }).await?);
                }
            }
            Ok(events)
        }
    }

    /// Out of service, and missed all the same.
    ArchivedHostsFallSilent {
        async fn mark_silent(&self, store: &MemoryStore, silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
            let mut events = store.mark_silent(silences.clone()).await?;
            for silence in silences {
                if let Some(host) = record(store, silence.host_id).await.filter(|record| record.host.is_archived()) {
                    let presence = host.presence.presence;
                    events.extend(tell(store, &silence, host, presence).await?);
                }
            }
            Ok(events)
        }
    }

    /// A host that was never heard falls silent.
    PendingHostsFallSilent {
        async fn mark_silent(&self, store: &MemoryStore, silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
            let mut events = store.mark_silent(silences.clone()).await?;
            for silence in silences {
                if let Some(host) = record(store, silence.host_id).await
                    && host.presence.presence == Presence::Pending
                {
                    events.extend(tell(store, &silence, host, Presence::Online { last_seen_at: silence.at }).await?);
                }
            }
            Ok(events)
        }
    }

    /// One that is absent is an error for all.
    AbsentHostsStopASweep {
        async fn mark_silent(&self, store: &MemoryStore, silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
            for silence in &silences {
                if record(store, silence.host_id).await.is_none() {
                    return Err(StoreErrorKind::Invalid.into());
                }
            }
            store.mark_silent(silences).await
        }
    }

    /// `>=` for `>`.
    ExactlyTheWindowIsTooLong {
        async fn mark_silent(&self, store: &MemoryStore, mut silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
            for silence in &mut silences {
                silence.window = silence.window.saturating_sub(Duration::from_micros(1));
            }
            store.mark_silent(silences).await
        }
    }

    /// Whole seconds are compared.
    TheWindowIsCountedInSeconds {
        async fn mark_silent(&self, store: &MemoryStore, mut silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
            for silence in &mut silences {
                let whole = silence.at.unix_micros().div_euclid(1_000_000) * 1_000_000;
                silence.at = Timestamp::from_unix_micros(whole).unwrap_or(silence.at);
            }
            store.mark_silent(silences).await
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
    async fn mark_silent(&self, store: &MemoryStore, silences: Vec<Silence>) -> Result<Vec<Event>, StoreError> {
        let events = store.mark_silent(silences).await?;
        for event in &events {
            self.1.lock().unwrap().retain(|id, _| event.event.host_id != Some(*id));
        }
        Ok(events)
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
        "silence::a_verdict_that_no_longer_holds_changes_nothing",
    ],
    sweeps_tell_twice: SweepsTellTwice => [
        "silence::silence_beyond_the_window_is_one_event",
    ],
    archived_hosts_fall_silent: ArchivedHostsFallSilent => [
        "silence::a_verdict_passes_over_who_cannot_fall_silent",
    ],
    pending_hosts_fall_silent: PendingHostsFallSilent => [
        "silence::a_verdict_passes_over_who_cannot_fall_silent",
    ],
    absent_hosts_stop_a_sweep: AbsentHostsStopASweep => [
        "deletion::a_deleted_host_takes_no_report",
        "silence::a_verdict_passes_over_who_cannot_fall_silent",
    ],
    exactly_the_window_is_too_long: ExactlyTheWindowIsTooLong => [
        "silence::a_verdict_that_no_longer_holds_changes_nothing",
    ],
    the_window_is_counted_in_seconds: TheWindowIsCountedInSeconds => [
        "silence::a_verdict_that_no_longer_holds_changes_nothing",
    ],
    last_seen_goes_back: ShowsPresence::of(Shown::LastContact) => [
        "contact::last_seen_never_goes_back",
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
