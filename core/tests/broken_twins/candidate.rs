//! Candidates that may not take work, and walks that miss some.

use async_trait::async_trait;
use enlist_core::host::Status;
use enlist_core::placement::is_eligible;
use enlist_core::store::{Candidate, CandidateQuery, Candidates, HostQuery, HostRecord, Page, StoreError};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, all_hosts, faults, twins};

faults! {
    /// Who is cordoned is a candidate too.
    CordonsAreForgotten {
        async fn list_candidates(&self, store: &MemoryStore, query: &CandidateQuery) -> Result<Candidates, StoreError> {
            let mut found = store.list_candidates(query).await?;
            for mut record in all_hosts(store).await.into_iter().filter(|record| record.host.cordoned) {
                record.host.cordoned = false;
                if query.is_ahead(record.host.id) && is_eligible(&record, query) && found.items.len() < query.limit {
                    found.items.push(Candidate { record, metrics: None });
                }
            }
            Ok(found)
        }
    }

    /// One of the tags is enough.
    OneTagIsEnough {
        async fn list_candidates(&self, store: &MemoryStore, query: &CandidateQuery) -> Result<Candidates, StoreError> {
            let tags = query.tags.iter().next_back().cloned().into_iter().collect();
            store.list_candidates(&CandidateQuery { tags, ..query.clone() }).await
        }
    }

    /// A kind asked for goes before the one that the scope shows.
    ScopesAreForgotten {
        async fn list_candidates(&self, store: &MemoryStore, query: &CandidateQuery) -> Result<Candidates, StoreError> {
            store.list_candidates(&CandidateQuery { scope: enlist_core::policy::Scope::All, ..query.clone() }).await
        }
    }

    /// A window in which nobody may take work is taken for the end.
    EmptyWindowsEnd {
        async fn list_candidates(&self, store: &MemoryStore, query: &CandidateQuery) -> Result<Candidates, StoreError> {
            let found = store.list_candidates(query).await?;
            let next = found.next.filter(|_| !found.items.is_empty());
            Ok(Candidates { next, ..found })
        }
    }

    /// In the order of creation, which would put work on the oldest.
    OrderedByAge {
        async fn list_candidates(&self, store: &MemoryStore, query: &CandidateQuery) -> Result<Candidates, StoreError> {
            let mut found = store.list_candidates(query).await?;
            found.items.sort_by_key(|candidate| candidate.record.host.id);
            Ok(found)
        }
    }

    /// What a tag knows of its hosts is from before they fell silent.
    SilenceIsNotKnownByTags {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            match (&query.tag, query.status) {
                (Some(_), Some(Status::Unreachable)) => Ok(Page { items: Vec::new(), more: false }),
                _ => store.list_hosts(query).await,
            }
        }
    }

    /// What a tag knows of its hosts follows those that fall alone, or with a few others.
    ManyFallUnnoticedByTags {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let page = store.list_hosts(query).await?;
            match (&query.tag, query.status) {
                (Some(_), Some(Status::Unreachable)) if page.items.len() > 10 => {
                    Ok(Page { items: Vec::new(), more: false })
                }
                _ => Ok(page),
            }
        }
    }

    /// Numbers of a report that is gone are made up.
    NumbersOutliveTheirReport {
        async fn list_candidates(&self, store: &MemoryStore, query: &CandidateQuery) -> Result<Candidates, StoreError> {
            let mut found = store.list_candidates(query).await?;
            for Candidate { record, metrics } in &mut found.items {
                if record.presence.newest_report_at.is_some() {
                    *metrics = Some(metrics.unwrap_or_default());
                }
            }
            Ok(found)
        }
    }
}

twins! {
    cordons_are_forgotten: CordonsAreForgotten => [
        "candidate::a_tag_finds_a_host_by_what_is_so_now",
        "candidate::only_hosts_that_may_take_work_are_candidates",
    ],
    silence_is_not_known_by_tags: SilenceIsNotKnownByTags => [
        "candidate::a_tag_finds_a_host_by_what_is_so_now",
        "candidate::a_tag_finds_many_that_change_at_once",
    ],
    many_fall_unnoticed_by_tags: ManyFallUnnoticedByTags => ["candidate::a_tag_finds_many_that_change_at_once"],
    one_tag_is_enough: OneTagIsEnough => ["candidate::candidates_are_narrowed_by_scope_tenant_kind_and_tags"],
    scopes_are_forgotten: ScopesAreForgotten => ["candidate::candidates_are_narrowed_by_scope_tenant_kind_and_tags"],
    empty_windows_end: EmptyWindowsEnd => ["candidate::a_walk_over_candidates_sees_each_once"],
    ordered_by_age: OrderedByAge => ["candidate::a_walk_over_candidates_sees_each_once"],
    numbers_outlive_their_report: NumbersOutliveTheirReport => ["candidate::candidates_come_with_their_newest_numbers"],
}
