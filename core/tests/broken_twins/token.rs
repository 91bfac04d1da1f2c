//! Tokens that do not stay what they are.

use std::collections::HashSet;

use async_trait::async_trait;
use enlist_core::agent_token::AgentToken;
use enlist_core::event::Event;
use enlist_core::install_token::InstallToken;
use enlist_core::store::{Aggregate, Commit, Key, Presented, StoreError, StoreErrorKind, Write};
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, accept, agent_tokens, faults, twins};

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
    install_tokens_change_their_hash: InstallTokensChange(|stored, token| {
        stored.binding == token.binding && stored.hash != token.hash
    }) => [
        "token::a_token_keeps_its_hash",
    ],
}
