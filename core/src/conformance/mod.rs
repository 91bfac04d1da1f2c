//! The properties that every store has to pass, ours and anybody's.
//!
//! A store runs the suite by implementing [`Fixture`] and naming it once; each property becomes a test of its own:
//!
//! ```
//! use enlist_core::conformance::Fixture;
//! use enlist_core::store::MemoryStore;
//!
//! struct Memory(MemoryStore);
//!
//! impl Fixture for Memory {
//!     type Store = MemoryStore;
//!
//!     async fn fresh() -> Self {
//!         Self(MemoryStore::new())
//!     }
//!
//!     async fn handle(&self) -> MemoryStore {
//!         self.0.clone()
//!     }
//!
//!     fn block_on<T>(future: impl Future<Output = T>) -> T {
//!         futures_util::FutureExt::now_or_never(future).expect("memory never waits")
//!     }
//! }
//!
//! enlist_core::store_conformance!(Memory);
//! ```
//!
//! A property is an `async fn` over the fixture that panics when it does not hold. They work on the contract itself,
//! with entities in states that services would need many steps to reach.

pub mod candidate;
pub mod commit;
pub mod contact;
pub mod deletion;
pub mod event;
pub mod last_use;
pub mod model;
pub mod prune;
pub mod query;
pub mod race;
pub mod round_trip;
pub mod sample;
pub mod silence;
pub mod subscription;
pub mod telemetry;
pub mod token;
pub mod window;

use std::future::Future;

use crate::store::Store;

/// A store to be tested, empty and migrated; dropping it removes its data.
pub trait Fixture: Sized + Send + Sync {
    /// The store under test.
    type Store: Store;

    /// A store that nobody else uses, empty and migrated.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// A handle on its data. Each call opens it anew, as another process would, where the store can do that.
    fn handle(&self) -> impl Future<Output = Self::Store> + Send;

    /// Runs a future to its end, on whatever runtime the store needs. Called for several futures over the life of a
    /// fixture, which may each get a runtime of their own: handles are opened within the future that uses them.
    fn block_on<T>(future: impl Future<Output = T>) -> T;
}

/// Declares [`store_conformance!`](crate::store_conformance) and
/// [`store_conformance_properties!`](crate::store_conformance_properties) from the one list of properties.
macro_rules! properties {
    (($d:tt) $($module:ident { $($property:ident,)* })*) => {
        /// Expands into one named `#[test]` for each property that a store has to pass, by module.
        #[macro_export]
        macro_rules! store_conformance {
            ($d fixture:ty) => {
                $(
                    mod $module {
                        #[allow(unused_imports)]
                        use super::*;
                        $(
                            #[test]
                            fn $property() {
                                <$d fixture as $crate::conformance::Fixture>::block_on(async {
                                    let fixture = <$d fixture as $crate::conformance::Fixture>::fresh().await;
                                    $crate::conformance::$module::$property(&fixture).await;
                                });
                            }
                        )*
                    }
                )*
                mod model {
                    #[allow(unused_imports)]
                    use super::*;
                    #[test]
                    fn random_sequences_agree_with_the_state_machines() {
                        $crate::conformance::model::random_sequences_agree_with_the_state_machines::<$d fixture>(
                            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.proptest-regressions"),
                        );
                    }
                }
            };
        }

        /// Expands into an array of every property: its module, its name, and a `fn()` that runs it on a fresh fixture.
        /// For whoever asks which properties a store fails, as the broken twins of `MemoryStore` do.
        #[macro_export]
        macro_rules! store_conformance_properties {
            ($d fixture:ty) => {
                [$($((
                    stringify!($module),
                    stringify!($property),
                    (|| {
                        <$d fixture as $crate::conformance::Fixture>::block_on(async {
                            let fixture = <$d fixture as $crate::conformance::Fixture>::fresh().await;
                            $crate::conformance::$module::$property(&fixture).await;
                        });
                    }) as fn(),
                ),)*)*]
            };
        }
    };
}

properties! {
    ($)
    commit {
        revision_rises_by_one_with_each_write,
        a_stale_write_conflicts_and_changes_nothing,
        a_stale_write_through_another_handle_conflicts,
        creating_a_host_that_exists_conflicts,
        creating_a_tenant_bound_install_token_that_exists_conflicts,
        writing_a_host_that_does_not_exist_conflicts,
        a_commit_whose_last_write_fails_leaves_nothing,
        events_of_a_commit_that_failed_do_not_exist,
        a_name_is_unique_among_the_unarchived_hosts_of_a_tenant,
        archiving_a_host_frees_its_name,
        a_change_frees_the_old_name_and_the_old_external_id,
        writes_of_one_commit_are_made_in_their_order,
        an_external_id_is_unique_in_its_tenant_archived_or_not,
        a_conflict_is_reported_before_a_clash,
        of_several_clashes_the_first_is_reported,
        a_commit_writes_several_aggregates_or_none,
        facts_of_an_enrolment_count_only_until_the_first_report,
        a_dropped_commit_is_whole_or_absent,
    }
    token {
        a_hash_is_accepted_once_over_all_hosts_and_for_ever,
        an_install_tokens_hash_is_accepted_once,
        two_active_tokens_of_a_lineage_are_refused,
        two_pending_tokens_of_a_lineage_are_refused,
        two_issued_install_tokens_of_a_host_are_refused,
        a_token_of_another_aggregate_is_refused,
        a_token_stays_with_its_aggregate,
        a_token_keeps_its_hash,
        a_token_takes_anothers_place_in_one_commit,
        a_pending_token_yields_to_another_in_one_commit,
        a_lineage_begins_anew_in_one_commit,
        a_token_is_overwritten_whole,
    }
    round_trip {
        a_host_with_every_field_at_its_extremes,
        a_host_with_nothing_optional,
        tags_and_labels_are_replaced_whole,
        every_state_of_an_agent_token,
        every_origin_of_an_agent_token,
        every_state_of_an_install_token,
        a_tenant_bound_install_token_is_an_aggregate_of_its_own,
        every_event_body,
        a_report_with_every_field_at_its_extremes,
        a_report_with_nothing_optional,
        a_container_with_every_field_at_its_extremes,
    }
    query {
        an_aggregate_is_loaded_by_every_key,
        an_aggregate_holds_every_live_token_and_no_other,
        absent_keys_load_nothing,
        a_token_is_authenticated_in_every_state,
        a_revocation_is_seen_by_the_next_authentication,
        an_archived_host_is_seen_by_the_next_authentication,
        a_new_token_is_seen_by_the_next_authentication,
        every_read_sees_what_another_handle_wrote,
        a_host_is_found_by_id_external_id_and_name,
        an_archived_host_is_not_found_by_name,
        pages_of_hosts_miss_and_repeat_nothing_while_hosts_are_added,
        pages_of_hosts_hold_still_while_hosts_change_and_go,
        a_scope_hides_other_tenants_and_kinds,
        hosts_are_filtered_by_status,
        hosts_are_filtered_by_tag_kind_and_tenant,
        a_name_prefix_is_taken_to_the_byte,
        pages_of_tokens_miss_and_repeat_nothing,
        a_tenants_install_tokens_are_listed_apart,
        agent_tokens_are_listed_by_lineage,
    }
    candidate {
        only_hosts_that_may_take_work_are_candidates,
        candidates_are_narrowed_by_scope_tenant_kind_and_tags,
        a_walk_over_candidates_sees_each_once,
        a_tag_finds_a_host_by_what_is_so_now,
        a_tag_finds_many_that_change_at_once,
        candidates_come_with_their_newest_numbers,
    }
    event {
        positions_rise_in_the_order_of_commits,
        pages_of_events_miss_and_repeat_nothing,
        events_are_filtered_by_host_tenant_and_type,
        events_are_filtered_by_kind,
        a_scope_hides_events_of_other_tenants_and_kinds,
        the_last_position_is_that_of_the_newest_event,
    }
    contact {
        a_report_makes_a_pending_host_online_with_one_event,
        last_seen_never_goes_back,
        a_contact_never_raises_the_revision,
        a_repeated_report_is_a_duplicate_and_writes_nothing,
        another_report_of_the_same_time_is_a_conflict_and_the_first_stays,
        repeats_within_one_call_are_duplicates,
        a_duplicate_is_a_contact,
        an_older_report_adds_its_snapshot_and_nothing_else,
        newer_facts_replace_only_what_they_know,
        a_complete_report_removes_the_containers_that_it_lacks,
        an_incomplete_report_removes_nothing,
        a_removed_container_comes_back,
        unchanged_containers_do_not_raise_the_version,
        two_handles_agree_on_the_containers,
        an_archived_host_takes_no_report,
        an_absent_host_takes_no_report,
        a_host_archived_through_another_handle_takes_no_report,
        each_report_of_a_call_gets_its_own_answer_in_order,
        an_empty_call_is_answered,
        a_touch_makes_a_host_online_with_one_event,
        a_touch_passes_over_absent_and_archived_hosts,
        a_dropped_append_is_whole_or_absent,
    }
    last_use {
        a_tokens_last_use_can_be_read_and_never_goes_back,
        every_report_is_a_use_by_the_servers_clock,
        a_use_of_another_hosts_token_is_passed_over,
        an_archived_host_uses_no_token,
        a_commit_leaves_the_last_use_as_it_is,
    }
    telemetry {
        telemetry_is_read_by_range_in_pages,
        a_cursor_widens_no_range,
        reports_come_with_the_containers_that_were_asked_for,
        containers_are_read_in_pages,
        an_older_report_is_read_with_containers_that_only_it_names,
        numbers_of_removed_containers_are_read_with_their_reports,
    }
    deletion {
        a_deleted_host_is_gone_with_its_tokens,
        a_deletion_leaves_a_tombstone_of_every_agent_token,
        the_hash_of_a_deleted_hosts_token_stays_seen,
        the_hash_of_a_deleted_hosts_install_token_stays_seen,
        a_deletion_frees_the_name_and_the_external_id,
        a_stale_deletion_conflicts_and_changes_nothing,
        a_deleted_host_is_written_no_more,
        a_deleted_host_takes_no_report,
        what_a_deleted_host_reported_is_not_read_out,
    }
    silence {
        silence_beyond_the_window_is_one_event,
        a_contact_through_another_handle_counts_to_the_microsecond,
        only_who_is_online_falls_silent,
        a_contact_brings_an_unreachable_host_back,
        a_sweep_never_raises_the_revision,
        a_sweep_is_bounded_and_begins_with_the_longest_silent,
        an_absence_of_every_handle_suspends_verdicts,
        a_storm_is_held_back_and_then_told,
        a_storm_is_told_by_unarchived_hosts_that_were_online,
        a_storm_is_told_by_last_contacts,
        a_storm_gathers_over_a_window,
        a_storm_of_many_is_counted_as_far_as_it_takes,
    }
    window {
        a_host_falls_silent_by_its_own_window,
        contacts_count_within_a_hosts_own_window,
        another_window_counts_from_its_commit_on,
        an_absence_does_not_count_towards_any_window,
        a_storm_is_told_by_each_hosts_own_window,
        windows_that_ended_first_are_judged_first,
    }
    subscription {
        a_revocation_is_told,
        every_way_to_be_cut_off_is_told,
        a_dropped_wait_loses_no_change,
        a_dropped_commit_that_was_made_is_told,
    }
    prune {
        old_snapshots_go_and_younger_ones_stay,
        a_host_outlives_its_reports,
        containers_go_some_time_after_they_were_removed,
        reports_stay_whole_when_their_containers_go,
        containers_are_named_for_as_long_as_a_report_measured_them,
        old_events_go_and_younger_ones_stay,
        a_position_is_never_given_again,
        old_tombstones_go_and_younger_ones_stay,
        a_step_is_bounded_and_says_what_is_left,
        a_step_is_bounded_for_containers_and_tombstones,
        spent_install_tokens_go_and_younger_ones_stay,
        a_consumed_install_token_stays_while_what_it_bought_may_act,
        the_hash_of_a_pruned_install_token_stays_seen,
        a_step_is_bounded_for_install_tokens,
        a_report_of_any_day_finds_room,
    }
    race {
        one_of_many_commits_at_one_revision_wins,
        one_of_sixty_four_claims_wins_an_install_token,
        one_claim_sent_sixty_four_times_buys_one_credential,
        one_of_many_exchanges_of_a_tenants_install_token_makes_one_host,
        one_of_many_install_tokens_of_a_tenant_gets_an_external_id,
        one_report_sent_many_times_at_once_is_stored_once,
        a_first_use_in_many_requests_promotes_once,
        many_sweeps_at_once_tell_of_each_host_once,
        a_cursor_over_events_skips_none_while_commits_race,
    }
}
