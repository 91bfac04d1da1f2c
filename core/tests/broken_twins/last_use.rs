//! Last uses that go back, go astray or go by another clock.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, AppendOutcome, Appended, Commit, Contact, Key, Page,
    Presented, StoreError,
};
use enlist_core::{AgentTokenId, MemoryStore, Store, Timestamp};

use crate::twin::{Fault, agent_tokens, record, twins};

/// A contact that may be a use of a token.
struct Heard {
    at: Timestamp,
    /// By the agent's clock, when it came with a report.
    recorded_at: Option<Timestamp>,
    /// Its report was neither a duplicate nor a conflict.
    was_new: bool,
    /// The token is that of the host which made contact.
    is_own: bool,
    is_archived: bool,
}

impl Heard {
    /// The last use as it should be; `known` is the one until then.
    fn noted(&self, known: Option<Timestamp>) -> Option<Timestamp> {
        if self.is_own && !self.is_archived { known.max(Some(self.at)) } else { known }
    }
}

/// Last uses are kept beside, by a rule.
struct LastUses(fn(&Heard, Option<Timestamp>) -> Option<Timestamp>, Mutex<HashMap<AgentTokenId, Timestamp>>);

impl LastUses {
    fn by(rule: fn(&Heard, Option<Timestamp>) -> Option<Timestamp>) -> Self {
        Self(rule, Mutex::default())
    }

    async fn hear(
        &self,
        store: &MemoryStore,
        contact: &Contact,
        report: Option<(Timestamp, bool)>,
    ) -> Result<(), StoreError> {
        let found = store.load(&Key::AgentTokenId(contact.token_id)).await?;
        let Some(Aggregate::Host(found)) = found else { return Ok(()) };
        let Presented::AgentToken(token) = found.presented else { return Ok(()) };
        let heard = Heard {
            at: contact.at,
            recorded_at: report.map(|(recorded_at, _)| recorded_at),
            was_new: report.is_none_or(|(_, was_new)| was_new),
            is_own: token.host_id == contact.host_id,
            is_archived: record(store, contact.host_id).await.is_some_and(|host| host.host.is_archived()),
        };
        let mut uses = self.1.lock().unwrap();
        let known = uses.get(&token.id).copied();
        uses.extend((self.0)(&heard, known).map(|at| (token.id, at)));
        Ok(())
    }
}

#[async_trait]
impl Fault for LastUses {
    async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        for contact in &contacts {
            self.hear(store, contact, None).await?;
        }
        store.touch(contacts).await
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        let appended = store.append(reports.clone()).await?;
        for (Append { contact, report }, outcome) in reports.iter().zip(&appended.outcomes) {
            let was_new = matches!(outcome, AppendOutcome::Accepted);
            self.hear(store, contact, Some((report.recorded_at, was_new))).await?;
        }
        Ok(appended)
    }
    async fn list_agent_tokens(
        &self,
        store: &MemoryStore,
        query: &AgentTokenQuery,
    ) -> Result<Page<AgentTokenRecord>, StoreError> {
        let page = store.list_agent_tokens(query).await?;
        let uses = self.1.lock().unwrap();
        Ok(page.map(|row| AgentTokenRecord { last_used_at: uses.get(&row.token.id).copied(), ..row }))
    }
}

/// A commit writes the whole row, the last use with it: unknown.
#[derive(Default)]
struct CommitsForgetTheUse(Mutex<HashSet<AgentTokenId>>);

#[async_trait]
impl Fault for CommitsForgetTheUse {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let tokens: Vec<_> = agent_tokens(&commit).map(|token| token.id).collect();
        let written = store.commit(commit).await?;
        self.0.lock().unwrap().extend(tokens);
        Ok(written)
    }
    async fn touch(&self, store: &MemoryStore, contacts: Vec<Contact>) -> Result<Vec<Event>, StoreError> {
        self.0.lock().unwrap().retain(|id| contacts.iter().all(|contact| contact.token_id != *id));
        store.touch(contacts).await
    }
    async fn append(&self, store: &MemoryStore, reports: Vec<Append>) -> Result<Appended, StoreError> {
        self.0.lock().unwrap().retain(|id| reports.iter().all(|report| report.contact.token_id != *id));
        store.append(reports).await
    }
    async fn list_agent_tokens(
        &self,
        store: &MemoryStore,
        query: &AgentTokenQuery,
    ) -> Result<Page<AgentTokenRecord>, StoreError> {
        let page = store.list_agent_tokens(query).await?;
        let forgotten = self.0.lock().unwrap();
        let shown = |row: &AgentTokenRecord| row.last_used_at.filter(|_| !forgotten.contains(&row.token.id));
        Ok(page.map(|row| AgentTokenRecord { last_used_at: shown(&row), ..row }))
    }
}

/// A new token is given the last use of the one before it.
struct SuccessorsInheritTheUse;

#[async_trait]
impl Fault for SuccessorsInheritTheUse {
    async fn list_agent_tokens(
        &self,
        store: &MemoryStore,
        query: &AgentTokenQuery,
    ) -> Result<Page<AgentTokenRecord>, StoreError> {
        let mut last = HashMap::new();
        Ok(store.list_agent_tokens(query).await?.map(|row| {
            let before = last.get(&row.token.lineage_id).copied();
            let last_used_at = row.last_used_at.or(before);
            last.extend(last_used_at.map(|at| (row.token.lineage_id, at)));
            AgentTokenRecord { last_used_at, ..row }
        }))
    }
}

/// A handle remembers the tokens that it has read, until it commits something itself.
#[derive(Default)]
struct HandlesRememberTokens(Mutex<Vec<(AgentTokenQuery, Page<AgentTokenRecord>)>>);

#[async_trait]
impl Fault for HandlesRememberTokens {
    fn of_another_handle(&self) -> Option<Arc<dyn Fault>> {
        Some(Arc::new(Self::default()))
    }
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        self.0.lock().unwrap().clear();
        store.commit(commit).await
    }
    async fn list_agent_tokens(
        &self,
        store: &MemoryStore,
        query: &AgentTokenQuery,
    ) -> Result<Page<AgentTokenRecord>, StoreError> {
        if let Some((_, known)) = self.0.lock().unwrap().iter().find(|(known, _)| known == query) {
            return Ok(known.clone());
        }
        let found = store.list_agent_tokens(query).await?;
        self.0.lock().unwrap().push((query.clone(), found.clone()));
        Ok(found)
    }
}

/// The beginning of the minutes in which it was.
fn cut_to(minutes: i64, at: Timestamp) -> Timestamp {
    let micros = minutes * 60_000_000;
    Timestamp::from_unix_micros(at.unix_micros().div_euclid(micros) * micros).unwrap_or(at)
}

/// The rule is sound, and the suite asks for no more than the contract says.
#[test]
fn last_uses_may_be_as_coarse_as_a_minute() {
    let rules: [crate::twin::MakeFault; 3] = [
        || Arc::new(LastUses::by(Heard::noted)),
        || Arc::new(LastUses::by(|heard, known| heard.noted(known).map(|at| cut_to(1, at)))),
        // Written only where the known one is older than a minute.
        || {
            Arc::new(LastUses::by(|heard, known| {
                let minute_ago = heard.at.saturating_sub(Duration::from_secs(60));
                if known.is_some_and(|known| known >= minute_ago) { known } else { heard.noted(known) }
            }))
        },
    ];
    for rule in rules {
        assert_eq!(crate::failing(rule), BTreeSet::new());
    }
}

twins! {
    last_uses_are_not_noted: LastUses::by(|_, _| None) => [
        "last_use::a_commit_leaves_the_last_use_as_it_is",
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
        "last_use::a_use_of_another_hosts_token_is_passed_over",
        "last_use::an_archived_host_uses_no_token",
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    only_the_first_use_is_noted: LastUses::by(|heard, known| known.or(heard.noted(None))) => [
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
        "last_use::a_use_of_another_hosts_token_is_passed_over",
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    last_uses_go_back: LastUses::by(|heard, known| if heard.noted(None).is_some() { Some(heard.at) } else { known }) => [
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
    ],
    // Within the minute that need not be told apart.
    last_uses_go_back_by_seconds: LastUses::by(|heard, known| {
        let within = known.is_some_and(|known| heard.at >= known.saturating_sub(Duration::from_secs(60)));
        if within { heard.noted(None).or(known) } else { heard.noted(known) }
    }) => [
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
    ],
    last_uses_are_cut_to_the_hour: LastUses::by(|heard, known| heard.noted(known).map(|at| cut_to(60, at))) => [
        "last_use::a_commit_leaves_the_last_use_as_it_is",
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
        "last_use::a_use_of_another_hosts_token_is_passed_over",
        "last_use::an_archived_host_uses_no_token",
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    touches_are_not_uses: LastUses::by(|heard, known| {
        if heard.recorded_at.is_none() { known } else { heard.noted(known) }
    }) => [
        "last_use::a_commit_leaves_the_last_use_as_it_is",
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
        "last_use::an_archived_host_uses_no_token",
    ],
    reports_are_not_uses: LastUses::by(|heard, known| {
        if heard.recorded_at.is_some() { known } else { heard.noted(known) }
    }) => [
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    repeated_reports_are_not_uses: LastUses::by(|heard, known| {
        if heard.was_new { heard.noted(known) } else { known }
    }) => [
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    last_uses_go_by_the_agents_clock: LastUses::by(|heard, known| {
        Heard { at: heard.recorded_at.unwrap_or(heard.at), ..*heard }.noted(known)
    }) => [
        "last_use::every_report_is_a_use_by_the_servers_clock",
    ],
    other_hosts_use_a_token: LastUses::by(|heard, known| Heard { is_own: true, ..*heard }.noted(known)) => [
        "last_use::a_use_of_another_hosts_token_is_passed_over",
    ],
    archived_hosts_use_their_tokens: LastUses::by(|heard, known| Heard { is_archived: false, ..*heard }.noted(known)) => [
        "last_use::an_archived_host_uses_no_token",
    ],
    commits_forget_the_use: CommitsForgetTheUse::default() => [
        "last_use::a_commit_leaves_the_last_use_as_it_is",
    ],
    successors_inherit_the_use: SuccessorsInheritTheUse => [
        "last_use::a_commit_leaves_the_last_use_as_it_is",
    ],
    handles_remember_tokens: HandlesRememberTokens::default() => [
        "last_use::a_tokens_last_use_can_be_read_and_never_goes_back",
        "last_use::every_report_is_a_use_by_the_servers_clock",
        "query::every_read_sees_what_another_handle_wrote",
    ],
}
