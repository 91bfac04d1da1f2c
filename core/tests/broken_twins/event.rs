//! Events that are lost, out of order or shown to the wrong reader.

use async_trait::async_trait;
use enlist_core::event::{Event, EventBody, Position};
use enlist_core::policy::{Kinds, Scope};
use enlist_core::store::{Append, Appended, Contact, EventQuery, Page, StoreError, Sweep, Swept};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, faults, page, twins};

async fn all_matching(store: &MemoryStore, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
    Ok(store.list_events(&EventQuery { limit: usize::MAX, ..query.clone() }).await?.items)
}

faults! {
    /// A contact's event is told to the caller, and not kept.
    OnlineEventsAreNotKept {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let events = all_matching(store, query).await?.into_iter();
            let is_kept = |event: &Event| !matches!(event.event.body, EventBody::HostOnline { .. });
            Ok(page(events.filter(is_kept), query.limit))
        }
    }

    /// A silence is told to the caller, and not kept.
    SilencesAreNotKept {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let events = all_matching(store, query).await?.into_iter();
            let is_kept = |event: &Event| !matches!(event.event.body, EventBody::HostUnreachable { .. });
            Ok(page(events.filter(is_kept), query.limit))
        }
    }

    /// The event is written, and nobody is told of it.
    AppendReturnsNoEvents {
        async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
            Ok(Appended { events: Vec::new(), ..store.append(reports).await? })
        }
    }

    /// The event is written, and nobody is told of it.
    TouchReturnsNoEvents {
        async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
            store.touch(contacts).await?;
            Ok(Vec::new())
        }
    }

    /// The event is written, and nobody is told of it.
    SweepsReturnNoEvents {
        async fn sweep(&self, store: &MemoryStore, sweep: Sweep) -> Result<Swept, StoreError> {
            Ok(Swept { events: Vec::new(), ..store.sweep(sweep).await? })
        }
    }

    /// `ORDER BY at`.
    EventsAreOrderedByTime {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let mut events = all_matching(store, query).await?;
            events.sort_by_key(|event| event.event.at);
            Ok(page(events, query.limit))
        }
    }

    /// A policy that nobody asks.
    EventsOfEveryScopeAreListed {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            store.list_events(&EventQuery { scope: Scope::All, ..query.clone() }).await
        }
    }

    /// The scope is taken for its tenants.
    EventsOfEveryKindAreListed {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let scope = match query.scope.clone() {
                Scope::All => Scope::All,
                Scope::Tenants(tenants) => {
                    Scope::Tenants(tenants.into_keys().map(|tenant| (tenant, Kinds::Both)).collect())
                }
            };
            store.list_events(&EventQuery { scope, ..query.clone() }).await
        }
    }

    /// `NULL` is of no kind: what concerns no host is hidden from whoever sees one kind only.
    EventsOfNoHostAreHidden {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let events = all_matching(store, query).await?.into_iter();
            let is_shown = |event: &Event| query.scope == Scope::All || event.event.host_kind.is_some();
            Ok(page(events.filter(is_shown), query.limit))
        }
    }

    /// A type is found by its beginning.
    TypesAreFoundByTheirBeginning {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let prefix = query.r#type.clone().unwrap_or_default();
            let events = all_matching(store, &EventQuery { r#type: None, ..query.clone() }).await?.into_iter();
            let is_like = |event: &Event| event.event.body.clone().into_parts().0.starts_with(&prefix);
            Ok(page(events.filter(is_like), query.limit))
        }
    }

    /// The kind is not looked at.
    EventsAreNotFilteredByKind {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            store.list_events(&EventQuery { kind: None, ..query.clone() }).await
        }
    }

    /// The sequence's own value, which is ahead of what was committed.
    TheLastPositionIsAhead {
        async fn last_position(&self, store: &MemoryStore) -> Result<Position, StoreError> {
            Ok(Position::new(store.last_position().await?.get() + 1))
        }
    }

    /// With a type given, the host is not looked at.
    ATypeReplacesTheHost {
        async fn list_events(&self, store: &MemoryStore, query: &EventQuery) -> Result<Page<Event>, StoreError> {
            let host_id = query.host_id.filter(|_| query.r#type.is_none());
            store.list_events(&EventQuery { host_id, ..query.clone() }).await
        }
    }
}

twins! {
    online_events_are_not_kept: OnlineEventsAreNotKept => [
        "contact::a_report_makes_a_pending_host_online_with_one_event",
        "contact::a_touch_makes_a_host_online_with_one_event",
        "deletion::what_a_deleted_host_reported_is_not_read_out",
        "event::positions_rise_in_the_order_of_commits",
        "query::every_read_sees_what_another_handle_wrote",
        "round_trip::every_event_body",
        "silence::a_contact_brings_an_unreachable_host_back",
        "silence::a_storm_is_held_back_and_then_told",
        "silence::only_who_is_online_falls_silent",
        "silence::silence_beyond_the_window_is_one_event",
    ],
    silences_are_not_kept: SilencesAreNotKept => [
        "round_trip::every_event_body",
        "silence::a_contact_brings_an_unreachable_host_back",
        "silence::a_storm_is_held_back_and_then_told",
        "silence::silence_beyond_the_window_is_one_event",
    ],
    append_returns_no_events: AppendReturnsNoEvents => [
        "contact::a_report_makes_a_pending_host_online_with_one_event",
        "contact::each_report_of_a_call_gets_its_own_answer_in_order",
    ],
    touch_returns_no_events: TouchReturnsNoEvents => [
        "contact::a_touch_makes_a_host_online_with_one_event",
        "contact::a_touch_passes_over_absent_and_archived_hosts",
        "event::positions_rise_in_the_order_of_commits",
    ],
    sweeps_return_no_events: SweepsReturnNoEvents => [
        "candidate::only_hosts_that_may_take_work_are_candidates",
        "silence::a_contact_through_another_handle_counts_to_the_microsecond",
        "silence::a_storm_gathers_over_a_window",
        "silence::a_storm_is_held_back_and_then_told",
        "silence::a_storm_is_told_by_last_contacts",
        "silence::a_storm_is_told_by_unarchived_hosts_that_were_online",
        "silence::a_sweep_is_bounded_and_begins_with_the_longest_silent",
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
    events_are_ordered_by_time: EventsAreOrderedByTime => [
        "deletion::what_a_deleted_host_reported_is_not_read_out",
        "event::positions_rise_in_the_order_of_commits",
        "round_trip::every_event_body",
    ],
    events_of_every_scope_are_listed: EventsOfEveryScopeAreListed => [
        "event::a_scope_hides_events_of_other_tenants_and_kinds",
        "event::events_are_filtered_by_kind",
    ],
    events_of_every_kind_are_listed: EventsOfEveryKindAreListed => [
        "event::a_scope_hides_events_of_other_tenants_and_kinds",
        "event::events_are_filtered_by_kind",
    ],
    events_of_no_host_are_hidden: EventsOfNoHostAreHidden => [
        "event::a_scope_hides_events_of_other_tenants_and_kinds",
    ],
    types_are_found_by_their_beginning: TypesAreFoundByTheirBeginning => [
        "event::events_are_filtered_by_host_tenant_and_type",
    ],
    events_are_not_filtered_by_kind: EventsAreNotFilteredByKind => [
        "event::events_are_filtered_by_kind",
    ],
    the_last_position_is_ahead: TheLastPositionIsAhead => [
        "event::the_last_position_is_that_of_the_newest_event",
    ],
    a_type_replaces_the_host: ATypeReplacesTheHost => [
        "event::events_are_filtered_by_host_tenant_and_type",
    ],
}
