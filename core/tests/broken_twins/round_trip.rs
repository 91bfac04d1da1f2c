//! What is not read back as it was written.

use async_trait::async_trait;
use enlist_core::Timestamp;
use enlist_core::agent_token::AgentToken;
use enlist_core::event::Event;
use enlist_core::install_token::InstallTokenState;
use enlist_core::store::{Append, Appended, Commit, HostWrite, StoreError, Write};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, record, twins};

/// Changes each host write before it is stored.
struct HostsAre(fn(&mut HostWrite));

#[async_trait]
impl Fault for HostsAre {
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        for write in &mut commit.writes {
            if let Write::Host(write) = write {
                (self.0)(write);
            }
        }
        store.commit(commit).await
    }
}

/// Changes each event before it is stored.
struct EventsAre(fn(&mut enlist_core::event::NewEvent));

#[async_trait]
impl Fault for EventsAre {
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        commit.events.iter_mut().for_each(self.0);
        store.commit(commit).await
    }
}

/// Changes each report before it is stored.
struct ReportsAre(fn(&mut Append));

#[async_trait]
impl Fault for ReportsAre {
    async fn append(&self, store: &MemoryStore, mut reports: Vec<Append>) -> Result<Appended, StoreError> {
        reports.iter_mut().for_each(self.0);
        store.append(reports).await
    }
}

/// Tags are inserted, and never deleted.
struct TagsOnlyCome;

#[async_trait]
impl Fault for TagsOnlyCome {
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        for write in &mut commit.writes {
            if let Write::Host(write) = write
                && let Some(stored) = record(store, write.host.id).await
            {
                write.host.tags.extend(stored.host.tags);
            }
        }
        store.commit(commit).await
    }
}

/// A tenant's install token forgets what it bought.
struct SpentTenantTokensAreRevoked;

#[async_trait]
impl Fault for SpentTenantTokensAreRevoked {
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        for write in &mut commit.writes {
            if let Write::TenantInstallToken { token, .. } = write
                && let InstallTokenState::Consumed { at, .. } = token.state
            {
                token.state = InstallTokenState::Revoked { at };
            }
        }
        store.commit(commit).await
    }
}

fn each_token(write: &mut HostWrite, change: impl Fn(&mut AgentToken)) {
    write.agent_tokens.iter_mut().for_each(change);
}

fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_micros(at.unix_micros().div_euclid(1_000_000) * 1_000_000).unwrap_or(at)
}

twins! {
    hosts_are_cut_to_the_second: HostsAre(|write| write.host.updated_at = to_the_second(write.host.updated_at)) => [
        "round_trip::a_host_with_every_field_at_its_extremes",
    ],
    hosts_forget_what_made_them: HostsAre(|write| write.host.made_with = None) => [
        "round_trip::a_host_with_every_field_at_its_extremes",
    ],
    placement_is_made_up: HostsAre(|write| {
        let provider = enlist_core::host::Placement::new("unknown").expect("it is valid");
        write.host.provider.get_or_insert(provider);
    }) => [
        "deletion::a_deletion_frees_the_name_and_the_external_id",
        "query::a_host_is_found_by_id_external_id_and_name",
        "query::an_aggregate_is_loaded_by_every_key",
        "round_trip::a_host_with_nothing_optional",
        "round_trip::tags_and_labels_are_replaced_whole",
    ],
    tags_only_come: TagsOnlyCome => [
        "candidate::a_tag_finds_a_host_by_what_is_so_now",
        "round_trip::tags_and_labels_are_replaced_whole",
    ],
    agent_tokens_lose_their_expiry: HostsAre(|write| each_token(write, |token| token.expires_at = None)) => [
        "query::an_aggregate_holds_every_live_token_and_no_other",
        "round_trip::every_origin_of_an_agent_token",
        "token::a_token_is_overwritten_whole",
        "token::a_token_takes_anothers_place_in_one_commit",
    ],
    agent_tokens_forget_who_issued_them: HostsAre(|write| {
        each_token(write, |token| {
            token.origin = enlist_core::agent_token::Origin::Issued(enlist_core::conformance::sample::actor());
        });
    }) => [
        "round_trip::every_origin_of_an_agent_token",
        "token::a_lineage_begins_anew_in_one_commit",
        "token::a_pending_token_yields_to_another_in_one_commit",
        "token::a_token_is_overwritten_whole",
        "token::a_token_takes_anothers_place_in_one_commit",
    ],
    displaced_tokens_are_revoked: HostsAre(|write| {
        use enlist_core::agent_token::{AgentTokenState, RevokeReason};
        each_token(write, |token| {
            if let AgentTokenState::Displaced { at, .. } = token.state {
                token.state = AgentTokenState::Revoked { at, reason: RevokeReason::CutOff };
            }
        });
    }) => [
        "query::a_token_is_authenticated_in_every_state",
        "round_trip::every_state_of_an_agent_token",
        "token::a_pending_token_yields_to_another_in_one_commit",
    ],
    spent_install_tokens_are_revoked: HostsAre(|write| {
        for token in &mut write.install_tokens {
            if let InstallTokenState::Consumed { at, .. } = token.state {
                token.state = InstallTokenState::Revoked { at };
            }
        }
    }) => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "round_trip::every_state_of_an_install_token",
    ],
    spent_tenant_tokens_are_revoked: SpentTenantTokensAreRevoked => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "round_trip::a_tenant_bound_install_token_is_an_aggregate_of_its_own",
    ],
    events_lose_their_actor: EventsAre(|event| event.actor = None) => [
        "round_trip::every_event_body",
    ],
    unknown_numbers_are_zero: ReportsAre(|append| {
        append.report.host.metrics.uptime_seconds.get_or_insert_default();
    }) => [
        "contact::a_dropped_append_is_whole_or_absent",
        "contact::an_older_report_adds_its_snapshot_and_nothing_else",
        "prune::containers_are_named_for_as_long_as_a_report_measured_them",
        "prune::reports_stay_whole_when_their_containers_go",
        "round_trip::a_report_with_nothing_optional",
        "telemetry::an_older_report_is_read_with_containers_that_only_it_names",
        "telemetry::numbers_of_removed_containers_are_read_with_their_reports",
    ],
    reports_lose_the_agent: ReportsAre(|append| append.report.agent = None) => [
        "round_trip::a_report_with_every_field_at_its_extremes",
        "round_trip::a_report_with_nothing_optional",
    ],
    numbers_lose_a_bit: ReportsAre(|append| {
        for number in append.report.host.custom.values_mut() {
            *number = f64::from_bits(number.to_bits() & !1);
        }
    }) => [
        "round_trip::a_report_with_every_field_at_its_extremes",
    ],
    containers_lose_their_exit_code: ReportsAre(|append| {
        append.report.containers.iter_mut().for_each(|container| container.exit_code = None);
    }) => [
        "round_trip::a_container_with_every_field_at_its_extremes",
    ],
}
