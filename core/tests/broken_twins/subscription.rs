//! Subscriptions that do not tell everything.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enlist_core::agent_token::AgentTokenState;
use enlist_core::event::Event;
use enlist_core::store::{Change, Commit, StoreError, Subscription, Write};
use enlist_core::{MemoryStore, Store, TokenHash};
use futures_util::FutureExt;

use crate::twin::{Fault, agent_tokens, faults, tokens_of, twins};

/// What is left out.
#[derive(Clone, Copy, PartialEq)]
enum Hides {
    Deletions,
    Retired,
    Displaced,
    Revoked,
    /// What was cut off through another handle.
    OtherHandles,
}

/// Some ways to be cut off are not told.
struct Silent(Hides, Arc<Mutex<HashSet<TokenHash>>>);

impl Silent {
    fn on(hides: Hides) -> Self {
        Self(hides, Arc::default())
    }
}

#[async_trait]
impl Fault for Silent {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        (self.0 == Hides::OtherHandles).then(|| Arc::new(Self::on(self.0)) as Arc<dyn Fault>)
    }
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let mut hashes: Vec<_> = agent_tokens(&commit)
            .filter(|token| match token.state {
                AgentTokenState::Retired { .. } => self.0 == Hides::Retired,
                AgentTokenState::Displaced { .. } => self.0 == Hides::Displaced,
                AgentTokenState::Revoked { .. } => self.0 == Hides::Revoked,
                _ => false,
            })
            .map(|token| token.hash)
            .collect();
        if self.0 == Hides::OtherHandles {
            // Here it is what this handle tells.
            hashes.extend(agent_tokens(&commit).map(|token| token.hash));
        }
        for write in &commit.writes {
            if let (Write::HostDeletion { host_id, .. }, Hides::Deletions | Hides::OtherHandles) = (write, self.0) {
                hashes.extend(tokens_of(store, *host_id).await.into_iter().map(|token| token.hash));
            }
        }
        self.1.lock().unwrap().extend(hashes);
        store.commit(commit).await
    }
    async fn subscribe(&self, store: &MemoryStore) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        let inner = store.subscribe().await?.expect("memory can tell");
        Ok(Some(Box::new(Filtered { inner, noted: self.1.clone(), tells_noted: self.0 == Hides::OtherHandles })))
    }
}

struct Filtered {
    inner: Box<dyn Subscription>,
    noted: Arc<Mutex<HashSet<TokenHash>>>,
    tells_noted: bool,
}

#[async_trait]
impl Subscription for Filtered {
    async fn next(&mut self) -> Change {
        loop {
            let Change::AgentTokens(mut hashes) = self.inner.next().await else { return Change::Gap };
            hashes.retain(|hash| self.noted.lock().unwrap().contains(hash) == self.tells_noted);
            if !hashes.is_empty() {
                return Change::AgentTokens(hashes);
            }
        }
    }
    async fn sync(&mut self) -> Result<(), StoreError> {
        self.inner.sync().await
    }
}

/// The caller tells, once it has its answer: not the one that went away.
#[derive(Default)]
struct TellsAfterwards(Arc<Mutex<HashSet<TokenHash>>>);

#[async_trait]
impl Fault for TellsAfterwards {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let cut_off = agent_tokens(&commit).filter(|token| !token.is_live());
        let mut hashes: Vec<_> = cut_off.map(|token| token.hash).collect();
        for write in &commit.writes {
            if let Write::HostDeletion { host_id, .. } = write {
                hashes.extend(tokens_of(store, *host_id).await.into_iter().map(|token| token.hash));
            }
        }
        let written = store.commit(commit).await?;
        // As an answer from another thread would come.
        tokio::task::yield_now().await;
        self.0.lock().unwrap().extend(hashes);
        Ok(written)
    }
    async fn subscribe(&self, store: &MemoryStore) -> Result<Option<Box<dyn Subscription>>, StoreError> {
        let inner = store.subscribe().await?.expect("memory can tell");
        Ok(Some(Box::new(Filtered { inner, noted: self.0.clone(), tells_noted: true })))
    }
}

/// A change is taken off the queue before it is certain that anybody waits for it; `sync` fetches what is there.
struct Forgetful {
    inner: Box<dyn Subscription>,
    fetched: VecDeque<Change>,
}

#[async_trait]
impl Subscription for Forgetful {
    async fn next(&mut self) -> Change {
        if let Some(change) = self.fetched.pop_front() {
            return change;
        }
        let change = self.inner.next().await;
        tokio::task::yield_now().await;
        change
    }
    async fn sync(&mut self) -> Result<(), StoreError> {
        while let Some(change) = self.inner.next().now_or_never() {
            self.fetched.push_back(change);
        }
        Ok(())
    }
}

/// Of many tokens that one commit cuts off, no more than fit into a message are told.
struct Curt(Box<dyn Subscription>);

#[async_trait]
impl Subscription for Curt {
    async fn next(&mut self) -> Change {
        match self.0.next().await {
            Change::AgentTokens(hashes) => Change::AgentTokens(hashes.into_iter().take(250).collect()),
            Change::Gap => Change::Gap,
        }
    }
    async fn sync(&mut self) -> Result<(), StoreError> {
        self.0.sync().await
    }
}

/// Everything is told over and over.
struct Repeating {
    inner: Box<dyn Subscription>,
    told: Vec<Change>,
    again: VecDeque<Change>,
}

#[async_trait]
impl Subscription for Repeating {
    async fn next(&mut self) -> Change {
        if let Some(change) = self.again.pop_front() {
            return change;
        }
        let change = self.inner.next().await;
        self.told.push(change.clone());
        change
    }
    async fn sync(&mut self) -> Result<(), StoreError> {
        self.again = self.told.iter().cloned().collect();
        self.inner.sync().await
    }
}

faults! {
    /// See `Forgetful`.
    DroppedWaitsLoseChanges {
        async fn subscribe(&self, store: &MemoryStore) -> Result<Option<Box<dyn Subscription>>, StoreError> {
            let inner = store.subscribe().await?.expect("memory can tell");
            Ok(Some(Box::new(Forgetful { inner, fetched: VecDeque::new() })))
        }
    }

    /// See `Curt`.
    LongChangesAreCutShort {
        async fn subscribe(&self, store: &MemoryStore) -> Result<Option<Box<dyn Subscription>>, StoreError> {
            let inner = store.subscribe().await?.expect("memory can tell");
            Ok(Some(Box::new(Curt(inner))))
        }
    }

    /// See `Repeating`.
    ChangesAreToldAgain {
        async fn subscribe(&self, store: &MemoryStore) -> Result<Option<Box<dyn Subscription>>, StoreError> {
            let inner = store.subscribe().await?.expect("memory can tell");
            Ok(Some(Box::new(Repeating { inner, told: Vec::new(), again: VecDeque::new() })))
        }
    }
}

twins! {
    deletions_are_not_told: Silent::on(Hides::Deletions) => [
        "subscription::every_way_to_be_cut_off_is_told",
    ],
    retired_tokens_are_not_told: Silent::on(Hides::Retired) => [
        "subscription::every_way_to_be_cut_off_is_told",
    ],
    displaced_tokens_are_not_told: Silent::on(Hides::Displaced) => [
        "subscription::every_way_to_be_cut_off_is_told",
    ],
    revoked_tokens_are_not_told: Silent::on(Hides::Revoked) => [
        "subscription::a_dropped_commit_that_was_made_is_told",
        "subscription::a_dropped_wait_loses_no_change",
        "subscription::a_revocation_is_told",
        "subscription::every_way_to_be_cut_off_is_told",
    ],
    other_handles_are_not_heard: Silent::on(Hides::OtherHandles) => [
        "subscription::a_dropped_commit_that_was_made_is_told",
        "subscription::a_dropped_wait_loses_no_change",
        "subscription::a_revocation_is_told",
        "subscription::every_way_to_be_cut_off_is_told",
    ],
    dropped_waits_lose_changes: DroppedWaitsLoseChanges => [
        "subscription::a_dropped_wait_loses_no_change",
    ],
    long_changes_are_cut_short: LongChangesAreCutShort => [
        "subscription::every_way_to_be_cut_off_is_told",
    ],
    dropped_commits_are_not_told: TellsAfterwards::default() => [
        "subscription::a_dropped_commit_that_was_made_is_told",
    ],
    changes_are_told_again: ChangesAreToldAgain => [
        "subscription::a_revocation_is_told",
    ],
}
