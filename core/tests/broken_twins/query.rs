//! Reads that remember too long, show too much or find too little.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enlist_core::TokenHash;
use enlist_core::agent_token::AgentTokenState;
use enlist_core::event::Event;
use enlist_core::host::Status;
use enlist_core::install_token::InstallToken;
use enlist_core::policy::{Kinds, Scope};
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Commit, HostLookup, HostQuery, HostRecord, InstallTokenOwner,
    InstallTokenQuery, Key, Known, Page, Presented, StoreError, Write,
};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, agent_tokens, all_hosts, faults, page, twins};

/// What clears a cache of credentials.
#[derive(Clone, Copy)]
enum Clears {
    /// Only time would.
    Nothing,
    /// A write of the token itself.
    Token,
    /// That, and every write of its host.
    TokenAndHost,
}

/// A cache of credentials, shared by all handles, that not every change clears.
struct CachesCredentials(Clears, Mutex<HashMap<TokenHash, Known>>);

impl CachesCredentials {
    fn until(clears: Clears) -> Self {
        Self(clears, Mutex::default())
    }
}

#[async_trait]
impl Fault for CachesCredentials {
    async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        if let Some(known) = self.1.lock().unwrap().get(hash) {
            return Ok(Some(known.clone()));
        }
        let found = store.authenticate(hash).await?;
        if let Some(known) = &found {
            self.1.lock().unwrap().insert(*hash, known.clone());
        }
        Ok(found)
    }
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let tokens: Vec<_> = agent_tokens(&commit).map(|token| token.hash).collect();
        let hosts: Vec<_> = commit
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Host(write) => Some(write.host.id),
                _ => None,
            })
            .collect();
        let written = store.commit(commit).await?;
        self.1.lock().unwrap().retain(|hash, known| match (self.0, known) {
            (Clears::Nothing, _) => true,
            (Clears::Token, _) => !tokens.contains(hash),
            (Clears::TokenAndHost, Known::Credential(known)) => {
                !tokens.contains(hash) && !hosts.contains(&known.token.host_id)
            }
            (Clears::TokenAndHost, Known::Tombstone(_)) => true,
        });
        Ok(written)
    }
}

/// A handle remembers what it has loaded, until it commits something itself.
#[derive(Default)]
struct HandlesRememberAggregates(Mutex<Vec<(Key, Option<Aggregate>)>>);

#[async_trait]
impl Fault for HandlesRememberAggregates {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
        if let Some((_, known)) = self.0.lock().unwrap().iter().find(|(known, _)| known == key) {
            return Ok(known.clone());
        }
        let found = store.load(key).await?;
        self.0.lock().unwrap().push((*key, found.clone()));
        Ok(found)
    }
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        self.0.lock().unwrap().clear();
        store.commit(commit).await
    }
}

/// A hash that was unknown once stays unknown: what a cache of refusals does when nothing clears it.
#[derive(Default)]
struct RemembersUnknownHashes(Mutex<Vec<TokenHash>>);

#[async_trait]
impl Fault for RemembersUnknownHashes {
    async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
        if self.0.lock().unwrap().contains(hash) {
            return Ok(None);
        }
        let found = store.authenticate(hash).await?;
        if found.is_none() {
            self.0.lock().unwrap().push(*hash);
        }
        Ok(found)
    }
}

/// Changes the host of what was loaded.
fn host_aggregate(
    found: Option<Aggregate>,
    change: impl Fn(&mut enlist_core::store::HostAggregate),
) -> Option<Aggregate> {
    found.map(|mut aggregate| {
        if let Aggregate::Host(host) = &mut aggregate {
            change(host);
        }
        aggregate
    })
}

/// Lists hosts by another predicate than the store's.
async fn filtered(
    store: &MemoryStore,
    query: &HostQuery,
    without: HostQuery,
    shows: impl Fn(&HostRecord) -> bool + Send,
) -> Result<Page<HostRecord>, StoreError> {
    let rows = store.list_hosts(&HostQuery { limit: usize::MAX, ..without }).await?.items;
    Ok(page(rows.into_iter().filter(shows), query.limit))
}

faults! {
    /// The join forgets who was asked for.
    NothingIsPresented {
        async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
            Ok(host_aggregate(store.load(key).await?, |host| host.presented = Presented::Nothing))
        }
    }

    /// The public id of an install token finds nothing.
    NoInstallTokenIsFoundById {
        async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
            if matches!(key, Key::InstallTokenId(_)) { Ok(None) } else { store.load(key).await }
        }
    }

    /// A token that may expire is not counted among the live ones.
    ExpiringTokensAreNotLoaded {
        async fn load(&self, store: &MemoryStore, key: &Key) -> Result<Option<Aggregate>, StoreError> {
            let found = store.load(key).await?;
            Ok(host_aggregate(found, |host| host.agent_tokens.retain(|token| token.expires_at.is_none())))
        }
    }

    /// Only tokens that may act now are known.
    OnlyLiveTokensAreKnown {
        async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
            let found = store.authenticate(hash).await?;
            Ok(found.filter(|known| !matches!(known, Known::Credential(known) if !known.token.is_live())))
        }
    }

    /// A Pending token is no credential yet.
    PendingTokensAreUnknown {
        async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
            let found = store.authenticate(hash).await?;
            Ok(found.filter(|known| match known {
                Known::Credential(known) => !matches!(known.token.state, AgentTokenState::Pending),
                Known::Tombstone(_) => true,
            }))
        }
    }

    /// What is not there is a failure.
    UnknownHashesAreAnError {
        async fn authenticate(&self, store: &MemoryStore, hash: &TokenHash) -> Result<Option<Known>, StoreError> {
            let found = store.authenticate(hash).await?;
            if found.is_none() { Err(enlist_core::store::StoreErrorKind::Unavailable.into()) } else { Ok(found) }
        }
    }

    /// Whatever has the tenant's id counts as bound to the tenant.
    TenantsListTheTokensOfTheirHosts {
        async fn list_install_tokens(
            &self,
            store: &MemoryStore,
            query: &InstallTokenQuery,
        ) -> Result<Page<InstallToken>, StoreError> {
            let all = |owner| InstallTokenQuery { owner, after: None, limit: usize::MAX };
            let mut tokens = store.list_install_tokens(&all(query.owner.clone())).await?.items;
            if let InstallTokenOwner::Tenant(tenant_id) = &query.owner {
                for record in all_hosts(store).await.into_iter().filter(|record| record.host.tenant_id == *tenant_id) {
                    tokens.extend(store.list_install_tokens(&all(record.host.id.into())).await?.items);
                }
            }
            tokens.sort_by_key(|token| token.id);
            Ok(page(tokens.into_iter().filter(|token| query.after.is_none_or(|after| token.id > after)), query.limit))
        }
    }

    /// A filter that nobody applies.
    LineagesAreIgnored {
        async fn list_agent_tokens(
            &self,
            store: &MemoryStore,
            query: &AgentTokenQuery,
        ) -> Result<Page<AgentTokenRecord>, StoreError> {
            store.list_agent_tokens(&AgentTokenQuery { lineage_id: None, ..query.clone() }).await
        }
    }

    /// A page is read first, and then filtered.
    LineagesAreFilteredWithinThePage {
        async fn list_agent_tokens(
            &self,
            store: &MemoryStore,
            query: &AgentTokenQuery,
        ) -> Result<Page<AgentTokenRecord>, StoreError> {
            let mut page = store.list_agent_tokens(&AgentTokenQuery { lineage_id: None, ..query.clone() }).await?;
            page.items.retain(|row| query.lineage_id.is_none_or(|lineage| lineage == row.token.lineage_id));
            Ok(page)
        }
    }

    /// Whoever knows a lineage needs no host.
    LineagesAreFoundInEveryHost {
        async fn list_agent_tokens(
            &self,
            store: &MemoryStore,
            query: &AgentTokenQuery,
        ) -> Result<Page<AgentTokenRecord>, StoreError> {
            for HostRecord { host, .. } in all_hosts(store).await {
                let elsewhere = AgentTokenQuery { host_id: host.id, ..query.clone() };
                let found = store.list_agent_tokens(&elsewhere).await?;
                if query.lineage_id.is_some() && !found.items.is_empty() {
                    return Ok(found);
                }
            }
            store.list_agent_tokens(query).await
        }
    }

    /// Names and external ids are looked up in every tenant.
    LookupsIgnoreTheTenant {
        async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
            let found = store.find_host(lookup).await?;
            let HostLookup::Name(_, name) = lookup else { return Ok(found) };
            let others = all_hosts(store).await.into_iter();
            Ok(found.or(others.into_iter().find(|other| other.host.name == *name && !other.host.is_archived())))
        }
    }

    /// A name finds whoever had it last.
    ArchivedHostsAreFoundByName {
        async fn find_host(&self, store: &MemoryStore, lookup: &HostLookup) -> Result<Option<HostRecord>, StoreError> {
            let found = store.find_host(lookup).await?;
            let HostLookup::Name(tenant, name) = lookup else { return Ok(found) };
            let archived = all_hosts(store).await.into_iter().find(|HostRecord { host, .. }| {
                host.is_archived() && host.tenant_id == *tenant && host.name == *name
            });
            Ok(found.or(archived))
        }
    }

    /// A policy that nobody asks.
    HostsOfEveryScopeAreListed {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            store.list_hosts(&HostQuery { scope: Scope::All, ..query.clone() }).await
        }
    }

    /// The scope is taken for its tenants.
    HostsOfEveryKindAreListed {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let scope = match query.scope.clone() {
                Scope::All => Scope::All,
                Scope::Tenants(tenants) => {
                    Scope::Tenants(tenants.into_keys().map(|tenant| (tenant, Kinds::Both)).collect())
                }
            };
            store.list_hosts(&HostQuery { scope, ..query.clone() }).await
        }
    }

    /// An asked-for tenant stands in for the scope.
    AFilterWidensTheScope {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let scope = if query.tenant_id.is_some() { Scope::All } else { query.scope.clone() };
            store.list_hosts(&HostQuery { scope, ..query.clone() }).await
        }
    }

    /// An archived host is filtered by the presence that it had.
    ArchivedHostsKeepTheirStatus {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let without = HostQuery { status: None, ..query.clone() };
            let status = query.status;
            filtered(store, query, without, |row| {
                status.is_none_or(|status| match status {
                    Status::Archived => row.host.is_archived(),
                    other => row.presence.presence.status() == other,
                })
            })
            .await
        }
    }

    /// `LIKE`, as it comes.
    PrefixesIgnoreCase {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let without = HostQuery { name_prefix: None, ..query.clone() };
            let prefix = query.name_prefix.clone().unwrap_or_default().to_lowercase();
            filtered(store, query, without, |row| row.host.name.as_str().to_lowercase().starts_with(&prefix)).await
        }
    }

    /// Tags are found by a part of them.
    TagsAreFoundByTheirBeginning {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let without = HostQuery { tag: None, ..query.clone() };
            let tag = query.tag.as_ref().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
            filtered(store, query, without, |row| {
                tag.is_empty() || row.host.tags.iter().any(|other| other.as_str().starts_with(&tag))
            })
            .await
        }
    }
}

twins! {
    revoked_tokens_are_authenticated_from_a_cache: CachesCredentials::until(Clears::Nothing) => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "query::a_revocation_is_seen_by_the_next_authentication",
        "query::an_archived_host_is_seen_by_the_next_authentication",
    ],
    archived_hosts_are_authenticated_from_a_cache: CachesCredentials::until(Clears::Token) => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "query::an_archived_host_is_seen_by_the_next_authentication",
    ],
    deleted_tokens_are_authenticated_from_a_cache: CachesCredentials::until(Clears::TokenAndHost) => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
        "prune::a_step_is_bounded_for_containers_and_tombstones",
    ],
    handles_remember_aggregates: HandlesRememberAggregates::default() => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::a_step_is_bounded_for_install_tokens",
        "prune::spent_install_tokens_go_and_younger_ones_stay",
        "query::every_read_sees_what_another_handle_wrote",
    ],
    unknown_hashes_are_remembered: RemembersUnknownHashes::default() => [
        "query::a_new_token_is_seen_by_the_next_authentication",
    ],
    nothing_is_presented: NothingIsPresented => [
        "query::an_aggregate_is_loaded_by_every_key",
        "round_trip::every_origin_of_an_agent_token",
        "round_trip::every_state_of_an_agent_token",
        "round_trip::every_state_of_an_install_token",
        "token::a_token_is_overwritten_whole",
    ],
    no_install_token_is_found_by_id: NoInstallTokenIsFoundById => [
        "prune::a_consumed_install_token_stays_while_what_it_bought_may_act",
        "prune::a_step_is_bounded_for_install_tokens",
        "prune::spent_install_tokens_go_and_younger_ones_stay",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
        "query::an_aggregate_is_loaded_by_every_key",
        "round_trip::a_tenant_bound_install_token_is_an_aggregate_of_its_own",
    ],
    expiring_tokens_are_not_loaded: ExpiringTokensAreNotLoaded => [
        "query::an_aggregate_holds_every_live_token_and_no_other",
        "token::a_token_takes_anothers_place_in_one_commit",
    ],
    only_live_tokens_are_known: OnlyLiveTokensAreKnown => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
        "query::a_revocation_is_seen_by_the_next_authentication",
        "query::a_token_is_authenticated_in_every_state",
        "subscription::a_dropped_commit_that_was_made_is_told",
    ],
    pending_tokens_are_unknown: PendingTokensAreUnknown => [
        "deletion::a_deletion_leaves_a_tombstone_of_every_agent_token",
        "deletion::a_stale_deletion_conflicts_and_changes_nothing",
        "query::a_new_token_is_seen_by_the_next_authentication",
        "query::a_token_is_authenticated_in_every_state",
        "query::an_archived_host_is_seen_by_the_next_authentication",
    ],
    unknown_hashes_are_an_error: UnknownHashesAreAnError => [
        "prune::a_step_is_bounded_for_containers_and_tombstones",
        "prune::old_tombstones_go_and_younger_ones_stay",
        "query::a_new_token_is_seen_by_the_next_authentication",
        "query::absent_keys_load_nothing",
    ],
    tenants_list_the_tokens_of_their_hosts: TenantsListTheTokensOfTheirHosts => [
        "query::a_tenants_install_tokens_are_listed_apart",
    ],
    lineages_are_ignored: LineagesAreIgnored => [
        "query::agent_tokens_are_listed_by_lineage",
    ],
    lineages_are_filtered_within_the_page: LineagesAreFilteredWithinThePage => [
        "query::agent_tokens_are_listed_by_lineage",
    ],
    lineages_are_found_in_every_host: LineagesAreFoundInEveryHost => [
        "query::agent_tokens_are_listed_by_lineage",
    ],
    lookups_ignore_the_tenant: LookupsIgnoreTheTenant => [
        "query::a_host_is_found_by_id_external_id_and_name",
    ],
    archived_hosts_are_found_by_name: ArchivedHostsAreFoundByName => [
        "query::an_archived_host_is_not_found_by_name",
    ],
    hosts_of_every_scope_are_listed: HostsOfEveryScopeAreListed => [
        "query::a_scope_hides_other_tenants_and_kinds",
    ],
    hosts_of_every_kind_are_listed: HostsOfEveryKindAreListed => [
        "query::a_scope_hides_other_tenants_and_kinds",
    ],
    a_filter_widens_the_scope: AFilterWidensTheScope => [
        "query::a_scope_hides_other_tenants_and_kinds",
    ],
    archived_hosts_keep_their_status: ArchivedHostsKeepTheirStatus => [
        "candidate::a_tag_finds_a_host_by_what_is_so_now",
        "candidate::a_tag_finds_many_that_change_at_once",
        "query::hosts_are_filtered_by_status",
    ],
    prefixes_ignore_case: PrefixesIgnoreCase => [
        "query::a_name_prefix_is_taken_to_the_byte",
    ],
    tags_are_found_by_their_beginning: TagsAreFoundByTheirBeginning => [
        "query::hosts_are_filtered_by_tag_kind_and_tenant",
    ],
}
