//! Commits that are torn, and events that do not go with them.

use async_trait::async_trait;
use enlist_core::agent_token::AgentTokenState;
use enlist_core::event::Event;
use enlist_core::store::{Commit, StoreError, StoreErrorKind, Write};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, agent_tokens, all_hosts, faults, guards_hold, record, tokens_of, twins};

faults! {
    /// No transaction: what was written before the failure stays.
    FirstWritesStay {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let answer = store.commit(commit.clone()).await;
            if answer.is_err() && commit.writes.len() > 1 {
                for write in commit.writes {
                    if store.commit(Commit::of(write, Vec::new())).await.is_err() {
                        break;
                    }
                }
            }
            answer
        }
    }

    /// Events are written beside the transaction.
    EventsOfAFailedCommitStay {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let events = Commit { writes: Vec::new(), events: commit.events.clone() };
            let answer = store.commit(commit).await;
            if answer.is_err() {
                store.commit(events).await?;
            }
            answer
        }
    }

    /// One event a commit is enough.
    OnlyTheFirstEventIsKept {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            commit.events.truncate(1);
            store.commit(commit).await
        }
    }

    /// The last thing that happened comes first.
    EventsOfACommitAreReversed {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            commit.events.reverse();
            store.commit(commit).await
        }
    }

    /// Events go in a second transaction: a caller that goes away in between leaves a host without its event.
    EventsFollowInASecondTransaction {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            let events = std::mem::take(&mut commit.events);
            store.commit(commit).await?;
            tokio::task::yield_now().await;
            store.commit(Commit { writes: Vec::new(), events }).await
        }
    }

    /// What frees a name is written first, wherever it stands.
    EndsAreWrittenFirst {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            commit.writes.sort_by_key(|write| match write {
                Write::Host(write) => !write.host.is_archived(),
                Write::HostDeletion { .. } => false,
                Write::TenantInstallToken { .. } => true,
            });
            store.commit(commit).await
        }
    }

    /// Uniqueness is looked up before anything is written, and not once the writes before are made.
    NamesAreCheckedBeforeTheWrites {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            if guards_hold(store, &commit).await {
                let known = all_hosts(store).await;
                let taken = commit.writes.iter().any(|write| match write {
                    Write::Host(write) => known.iter().map(|record| &record.host).any(|other| {
                        let same = other.name == write.host.name && other.tenant_id == write.host.tenant_id;
                        same && other.id != write.host.id && !other.is_archived() && !write.host.is_archived()
                    }),
                    _ => false,
                });
                if taken {
                    return Err(StoreErrorKind::NameTaken.into());
                }
            }
            store.commit(commit).await
        }
    }

    /// The schema has no partial unique indexes and no foreign keys: what core never asks for is taken.
    NothingIsInvalid {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            match store.commit(commit).await {
                Err(error) if error.kind() == StoreErrorKind::Invalid => Ok(Vec::new()),
                answer => answer,
            }
        }
    }

    /// The index is on the lineage alone.
    ALineageHasOneLiveToken {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let mut lineages = std::collections::HashSet::new();
            if agent_tokens(&commit).any(|token| token.is_live() && !lineages.insert(token.lineage_id)) {
                return Err(StoreErrorKind::Invalid.into());
            }
            store.commit(commit).await
        }
    }

    /// What an enrolment says of the machine is thrown away.
    FactsOfAnEnrolmentAreLost {
        async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &mut commit.writes {
                if let Write::Host(write) = write {
                    write.facts = None;
                }
            }
            store.commit(commit).await
        }
    }

    /// A second enrolment says nothing new.
    FactsOfASecondEnrolmentAreRefused {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            for write in &commit.writes {
                if let Write::Host(write) = write
                    && write.facts.is_some()
                    && record(store, write.host.id).await.is_some_and(|host| host.presence.newest_report_at.is_some())
                {
                    return Err(StoreErrorKind::Invalid.into());
                }
            }
            store.commit(commit).await
        }
    }
}

/// Tokens are written in an order of their states: one that begins runs into one that is still to end.
struct TokensAreWrittenBy(fn(&AgentTokenState) -> u8);

#[async_trait]
impl Fault for TokensAreWrittenBy {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        for write in &commit.writes {
            let Write::Host(write) = write else { continue };
            let mut stored = tokens_of(store, write.host.id).await;
            let mut tokens: Vec<_> = write.agent_tokens.iter().collect();
            tokens.sort_by_key(|token| (self.0)(&token.state));
            for token in tokens {
                stored.retain(|other| other.id != token.id);
                let rival = stored.iter().any(|other| {
                    let state = std::mem::discriminant(&other.state) == std::mem::discriminant(&token.state);
                    state && token.is_live() && other.lineage_id == token.lineage_id
                });
                if rival {
                    return Err(StoreErrorKind::Invalid.into());
                }
                stored.push(token.clone());
            }
        }
        store.commit(commit).await
    }
}

twins! {
    first_writes_stay: FirstWritesStay => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "commit::a_commit_writes_several_aggregates_or_none",
        "commit::writes_of_one_commit_are_made_in_their_order",
        "token::a_token_stays_with_its_aggregate",
    ],
    events_of_a_failed_commit_stay: EventsOfAFailedCommitStay => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "commit::a_stale_write_conflicts_and_changes_nothing",
        "commit::events_of_a_commit_that_failed_do_not_exist",
        "deletion::a_stale_deletion_conflicts_and_changes_nothing",
        "event::the_last_position_is_that_of_the_newest_event",
    ],
    only_the_first_event_is_kept: OnlyTheFirstEventIsKept => [
        "commit::events_of_a_commit_that_failed_do_not_exist",
        "event::a_scope_hides_events_of_other_tenants_and_kinds",
        "event::events_are_filtered_by_host_tenant_and_type",
        "event::events_are_filtered_by_kind",
        "event::positions_rise_in_the_order_of_commits",
        "event::the_last_position_is_that_of_the_newest_event",
        "prune::a_position_is_never_given_again",
        "prune::a_step_is_bounded_and_says_what_is_left",
        "prune::old_events_go_and_younger_ones_stay",
        "round_trip::every_event_body",
    ],
    events_of_a_commit_are_reversed: EventsOfACommitAreReversed => [
        "event::a_scope_hides_events_of_other_tenants_and_kinds",
        "event::events_are_filtered_by_host_tenant_and_type",
        "event::events_are_filtered_by_kind",
        "prune::old_events_go_and_younger_ones_stay",
        "round_trip::every_event_body",
    ],
    events_follow_in_a_second_transaction: EventsFollowInASecondTransaction => [
        "commit::a_dropped_commit_is_whole_or_absent",
    ],
    ends_are_written_first: EndsAreWrittenFirst => [
        "commit::writes_of_one_commit_are_made_in_their_order",
        "deletion::a_deletion_frees_the_name_and_the_external_id",
    ],
    names_are_checked_before_the_writes: NamesAreCheckedBeforeTheWrites => [
        "commit::writes_of_one_commit_are_made_in_their_order",
        "deletion::a_deletion_frees_the_name_and_the_external_id",
    ],
    tokens_are_written_as_they_stand: TokensAreWrittenBy(|_| 0) => [
        "token::a_lineage_begins_anew_in_one_commit",
        "token::a_pending_token_yields_to_another_in_one_commit",
        "token::a_token_takes_anothers_place_in_one_commit",
    ],
    pending_tokens_are_written_first: TokensAreWrittenBy(|state| match state {
        AgentTokenState::Pending => 0,
        AgentTokenState::Active { .. } => 2,
        _ => 1,
    }) => [
        "token::a_lineage_begins_anew_in_one_commit",
        "token::a_pending_token_yields_to_another_in_one_commit",
    ],
    displaced_tokens_are_written_last: TokensAreWrittenBy(|state| match state {
        AgentTokenState::Displaced { .. } => 2,
        AgentTokenState::Pending | AgentTokenState::Active { .. } => 1,
        _ => 0,
    }) => [
        "token::a_pending_token_yields_to_another_in_one_commit",
    ],
    revoked_tokens_are_written_last: TokensAreWrittenBy(|state| match state {
        AgentTokenState::Revoked { .. } => 2,
        AgentTokenState::Pending | AgentTokenState::Active { .. } => 1,
        _ => 0,
    }) => [
        "token::a_lineage_begins_anew_in_one_commit",
    ],
    nothing_is_invalid: NothingIsInvalid => [
        "token::a_token_keeps_its_hash",
        "token::a_token_of_another_aggregate_is_refused",
        "token::a_token_stays_with_its_aggregate",
        "token::two_active_tokens_of_a_lineage_are_refused",
        "token::two_issued_install_tokens_of_a_host_are_refused",
        "token::two_pending_tokens_of_a_lineage_are_refused",
    ],
    a_lineage_has_one_live_token: ALineageHasOneLiveToken => [
        "commit::a_commit_whose_last_write_fails_leaves_nothing",
        "token::a_lineage_begins_anew_in_one_commit",
        "token::a_pending_token_yields_to_another_in_one_commit",
        "token::a_token_takes_anothers_place_in_one_commit",
    ],
    facts_of_an_enrolment_are_lost: FactsOfAnEnrolmentAreLost => [
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
    ],
    facts_of_a_second_enrolment_are_refused: FactsOfASecondEnrolmentAreRefused => [
        "commit::facts_of_an_enrolment_count_only_until_the_first_report",
    ],
}
