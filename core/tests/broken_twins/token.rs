//! Tokens that do not stay what they are.

use std::collections::HashSet;

use async_trait::async_trait;
use enlist_core::agent_token::AgentToken;
use enlist_core::event::Event;
use enlist_core::install_token::InstallToken;
use enlist_core::store::{Aggregate, Commit, Key, Presented, StoreError, StoreErrorKind, Write};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, accept, agent_tokens, faults, tokens_of, twins};

/// The install tokens that a commit writes.
fn install_tokens(commit: &Commit) -> impl Iterator<Item = &InstallToken> {
    commit.writes.iter().flat_map(|write| match write {
        Write::Host(write) => &write.install_tokens[..],
        Write::TenantInstallToken { token, .. } => std::slice::from_ref(token),
        Write::HostDeletion { .. } => &[],
    })
}

/// Whether a token that a commit writes is stored in another form, as `differs` says.
async fn differs_agent(
    store: &MemoryStore,
    commit: &Commit,
    differs: fn(&AgentToken, &AgentToken) -> bool,
) -> Result<bool, StoreError> {
    for token in agent_tokens(commit) {
        if let Some(Aggregate::Host(found)) = store.load(&Key::AgentTokenId(token.id)).await?
            && let Presented::AgentToken(stored) = found.presented
            && differs(&stored, token)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The same of an install token.
async fn differs_install(
    store: &MemoryStore,
    commit: &Commit,
    differs: fn(&InstallToken, &InstallToken) -> bool,
) -> Result<bool, StoreError> {
    for token in install_tokens(commit) {
        let stored = match store.load(&Key::InstallTokenId(token.id)).await? {
            Some(Aggregate::TenantInstallToken(found)) => found.token,
            Some(Aggregate::Host(found)) => match found.presented {
                Presented::InstallToken(stored) => stored,
                _ => continue,
            },
            None => continue,
        };
        if differs(&stored, token) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An agent token that is stored otherwise can be overwritten.
struct AgentTokensChange(fn(&AgentToken, &AgentToken) -> bool);

#[async_trait]
impl Fault for AgentTokensChange {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        if differs_agent(store, &commit, self.0).await? {
            return accept(store, commit, StoreErrorKind::Invalid).await;
        }
        store.commit(commit).await
    }
}

/// An install token that is stored otherwise can be overwritten.
struct InstallTokensChange(fn(&InstallToken, &InstallToken) -> bool);

#[async_trait]
impl Fault for InstallTokensChange {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        if differs_install(store, &commit, self.0).await? {
            return accept(store, commit, StoreErrorKind::Invalid).await;
        }
        store.commit(commit).await
    }
}

/// An agent token that is stored keeps a part of what it was, whatever is written over it.
struct AgentTokensKeep(fn(&mut AgentToken, AgentToken));

#[async_trait]
impl Fault for AgentTokensKeep {
    async fn commit(&self, store: &MemoryStore, mut commit: Commit) -> Result<Vec<Event>, StoreError> {
        for write in &mut commit.writes {
            let Write::Host(write) = write else { continue };
            for stored in tokens_of(store, write.host.id).await {
                let written = write.agent_tokens.iter_mut().filter(|token| token.id == stored.id);
                written.for_each(|token| (self.0)(token, stored.clone()));
            }
        }
        store.commit(commit).await
    }
}

faults! {
    /// A token is compared with those that are stored, and not with those of the same commit.
    TwoHostsShareANewToken {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let mut ids = HashSet::new();
            if agent_tokens(&commit).all(|token| ids.insert(token.id)) {
                return store.commit(commit).await;
            }
            accept(store, commit, StoreErrorKind::Invalid).await
        }
    }
}

twins! {
    agent_tokens_move_to_another_host: AgentTokensChange(|stored, token| stored.host_id != token.host_id) => [
        "token::a_token_stays_with_its_aggregate",
    ],
    install_tokens_move_to_another_host: InstallTokensChange(|stored, token| stored.binding != token.binding) => [
        "token::a_token_stays_with_its_aggregate",
    ],
    two_hosts_share_a_new_token: TwoHostsShareANewToken => [
        "token::a_token_stays_with_its_aggregate",
    ],
    agent_tokens_change_their_hash: AgentTokensChange(|stored, token| {
        stored.host_id == token.host_id && stored.hash != token.hash
    }) => [
        "token::a_token_keeps_its_hash",
    ],
    agent_tokens_keep_their_expiry: AgentTokensKeep(|token, stored| token.expires_at = stored.expires_at) => [
        "token::a_token_is_overwritten_whole",
        "token::a_token_takes_anothers_place_in_one_commit",
    ],
    agent_tokens_keep_an_expiry_that_is_not_replaced: AgentTokensKeep(|token, stored| {
        token.expires_at = token.expires_at.or(stored.expires_at);
    }) => [
        "token::a_token_is_overwritten_whole",
    ],
    agent_tokens_keep_their_name: AgentTokensKeep(|token, stored| token.name = stored.name) => [
        "token::a_token_is_overwritten_whole",
    ],
    agent_tokens_keep_their_kind: AgentTokensKeep(|token, stored| token.kind = stored.kind) => [
        "token::a_token_is_overwritten_whole",
    ],
    agent_tokens_keep_their_origin: AgentTokensKeep(|token, stored| token.origin = stored.origin) => [
        "token::a_token_is_overwritten_whole",
    ],
    agent_tokens_keep_their_lineage: AgentTokensKeep(|token, stored| token.lineage_id = stored.lineage_id) => [
        "token::a_token_is_overwritten_whole",
    ],
    agent_tokens_keep_their_age: AgentTokensKeep(|token, stored| token.created_at = stored.created_at) => [
        "token::a_token_is_overwritten_whole",
    ],
    install_tokens_change_their_hash: InstallTokensChange(|stored, token| {
        stored.binding == token.binding && stored.hash != token.hash
    }) => [
        "token::a_token_keeps_its_hash",
    ],
}
