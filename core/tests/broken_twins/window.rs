//! Windows of hosts' own that are forgotten, mistaken or counted from the wrong moment.

use std::time::Duration;

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::host::Presence;
use enlist_core::liveness::{LivenessWindow, Verdict};
use enlist_core::store::{Commit, Known, StoreError, Sweep, Swept, Write};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, all_hosts, faults, record, twins};

/// Whether some host that is online has a window of its own for which this holds, and how long it has been silent.
async fn some(store: &MemoryStore, sweep: &Sweep, holds: impl Fn(LivenessWindow, Duration) -> bool) -> bool {
    all_hosts(store).await.into_iter().any(|host| match (host.presence.presence, host.host.liveness_window) {
        (Presence::Online { last_seen_at }, Some(own)) => holds(own, sweep.now.saturating_since(last_seen_at)),
        _ => false,
    })
}

faults! {
    /// Every host has the fleet's window.
    WindowsAreNotKept {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                if let Write::Host(write) = write {
                    write.host.liveness_window = None;
                }
            }
            store.commit(commit).await
        }
    }

    /// The window that a host was made with is its window for ever: what finds the silent ones was not told.
    WindowsDoNotChange {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                if let Write::Host(write) = write
                    && let Some(before) = record(store, write.host.id).await
                {
                    write.host.liveness_window = before.host.liveness_window;
                }
            }
            store.commit(commit).await
        }
    }

    /// `>=` for `>`.
    ExactlyItsOwnWindowIsTooLong {
        async fn sweep(&self, store: &MemoryStore, mut sweep: Sweep) -> Result<Swept, StoreError> {
            if some(store, &sweep, |own, silence| silence == own.duration()).await {
                sweep.now = sweep.now.saturating_add(Duration::from_micros(1));
            }
            store.sweep(sweep).await
        }
    }

    /// A window that is longer than the fleet's is looked at only once the fleet's has gone by again: those in between are
    /// not found.
    LongWindowsAreNotFound {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let fleets = sweep.pace.window;
            if some(store, &sweep, |own, silence| own.duration() > fleets && silence > own.duration()).await {
                let before = Sweep { now: sweep.now.saturating_sub(fleets), ..sweep };
                return store.sweep(before).await;
            }
            store.sweep(sweep).await
        }
    }

    /// The silence of an absence counts once the fleet's window has gone by.
    AbsencesCountTowardsLongWindows {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            let fleets = sweep.pace.window;
            let swept = store.sweep(sweep.clone()).await?;
            let is_missed = |own: LivenessWindow, silence| own.duration() > fleets && silence > own.duration();
            if swept.events.is_empty() && swept.verdict == (Verdict::Sweep { storm: false })
                && some(store, &sweep, is_missed).await
            {
                return Err(enlist_core::store::StoreErrorKind::Unavailable.into());
            }
            Ok(swept)
        }
    }

    /// Whoever authenticates is not told of it.
    CredentialsComeWithoutWindows {
        async fn authenticate(
            &self,
            store: &MemoryStore,
            hash: &enlist_core::TokenHash,
        ) -> Result<Option<Known>, StoreError> {
            let mut known = store.authenticate(hash).await?;
            if let Some(Known::Credential(credential)) = &mut known {
                credential.liveness_window = None;
            }
            Ok(known)
        }
    }
}

twins! {
    windows_are_not_kept: WindowsAreNotKept => [
        "query::a_token_is_authenticated_in_every_state",
        "round_trip::a_host_with_every_field_at_its_extremes",
        "window::a_host_falls_silent_by_its_own_window",
        "window::a_storm_is_told_by_each_hosts_own_window",
        "window::an_absence_does_not_count_towards_any_window",
        "window::another_window_counts_from_its_commit_on",
        "window::contacts_count_within_a_hosts_own_window",
        "window::windows_that_ended_first_are_judged_first",
    ],
    windows_do_not_change: WindowsDoNotChange => [
        "window::another_window_counts_from_its_commit_on",
    ],
    exactly_its_own_window_is_too_long: ExactlyItsOwnWindowIsTooLong => [
        "window::a_host_falls_silent_by_its_own_window",
        "window::another_window_counts_from_its_commit_on",
        "window::contacts_count_within_a_hosts_own_window",
    ],
    long_windows_are_not_found: LongWindowsAreNotFound => [
        "window::a_host_falls_silent_by_its_own_window",
        "window::contacts_count_within_a_hosts_own_window",
    ],
    absences_count_towards_long_windows: AbsencesCountTowardsLongWindows => [
        "window::an_absence_does_not_count_towards_any_window",
    ],
    credentials_come_without_windows: CredentialsComeWithoutWindows => [
        "query::a_token_is_authenticated_in_every_state",
    ],
}
