//! A database that shows which way reports came, and agents that report to it.

use enlist_core::Timestamp;
use enlist_core::agent_token::{AgentToken, AgentTokenState};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::store::{
    AgentTokenQuery, Append, AppendOutcome, Appended, Contact, ContainerQuery, HostLookup, HostRecord, Prune, Store,
    StoreError,
};
use enlist_core::telemetry::{HostFacts, Report};
use enlist_storage_postgres::PgStore;
use tokio::task::JoinHandle;

use super::{Hand, SOMEBODY_WAITS, Server, full_report};

/// A database that notes which way each report came, with what settings.
pub(crate) struct Watched {
    pub(crate) server: Server,
    pub(crate) store: PgStore,
    pub(crate) hand: Hand,
}

impl Watched {
    pub(crate) async fn new() -> Self {
        let server = Server::migrated().await;
        let mut hand = server.by_hand().await;
        hand.run(
            "CREATE TABLE ways (way text, settings text, place bigint GENERATED ALWAYS AS IDENTITY);
             CREATE SEQUENCE statements MINVALUE 0 START 0;
             CREATE SEQUENCE transactions MINVALUE 0 START 0;
             SELECT nextval('statements'), nextval('transactions');
             CREATE FUNCTION note_way() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE by_statement boolean := current_query() LIKE 'WITH taken%';
             BEGIN
                 -- Counted also where it is undone.
                 PERFORM nextval(CASE WHEN by_statement THEN 'enlist.statements' ELSE 'enlist.transactions' END);
                 INSERT INTO enlist.ways (way, settings) VALUES (
                     (extract(epoch FROM NEW.recorded_at) - 1767225600)::int
                         || CASE WHEN by_statement THEN ' statement' ELSE ' transaction' END,
                     concat_ws(' ', current_setting('synchronous_commit'), current_setting('lock_timeout'),
                         current_setting('idle_in_transaction_session_timeout')));
                 RETURN NEW;
             END $$;
             CREATE TRIGGER note_way BEFORE INSERT ON host_metric_snapshots FOR EACH ROW EXECUTE FUNCTION note_way()",
        )
        .await;
        let store = server.open();
        Self { server, store, hand }
    }

    /// So many hosts with a token each, in the order of their ids.
    pub(crate) async fn hosts(&self, number: usize) -> Vec<Agent> {
        let mut agents = Vec::new();
        for _ in 0..number {
            let host = sample::host(&format!("host-{}", sample::event_id()));
            let token = AgentToken { state: AgentTokenState::Active { since: at(0) }, ..sample::agent_token(&host) };
            sample::create_with_tokens(&self.store, &host, vec![token.clone()]).await;
            agents.push(Agent { host, token });
        }
        agents
    }

    /// The same, after a first report each, at second 1.
    pub(crate) async fn steady_hosts(&mut self, number: usize) -> Vec<Agent> {
        let agents = self.hosts(number).await;
        accepted(&self.store, agents.iter().map(|agent| agent.append(full_report(1)))).await;
        assert_eq!(self.ways().await, vec!["1 transaction"; number]);
        agents
    }

    /// Which way the reports came that were stored since it was asked last, by their seconds.
    pub(crate) async fn ways(&mut self) -> Vec<String> {
        let ways = self.hand.column("SELECT way FROM ways ORDER BY place").await;
        self.hand.run("DELETE FROM ways").await;
        ways.into_iter().flatten().collect()
    }

    /// How many rows were tried by the statement and by the transaction, since it began.
    pub(crate) async fn tries(&mut self) -> String {
        self.hand
            .value("SELECT concat_ws(' ', s.last_value, t.last_value) FROM statements AS s, transactions AS t")
            .await
    }

    /// An append that waits for the rows of presence, while `hand` has them.
    pub(crate) async fn while_it_waits(
        &mut self,
        reports: Vec<Append>,
        meanwhile: &str,
    ) -> Result<Appended, StoreError> {
        self.hand.run("BEGIN; SELECT FROM hosts ORDER BY id FOR UPDATE; SELECT FROM host_presence FOR UPDATE").await;
        let append = spawn(&self.store, reports);
        self.server.by_hand().await.until(SOMEBODY_WAITS).await;
        self.hand.run(&format!("{meanwhile}; COMMIT")).await;
        append.await.unwrap()
    }
}

pub(crate) fn spawn(store: &PgStore, reports: Vec<Append>) -> JoinHandle<Result<Appended, StoreError>> {
    let store = store.clone();
    tokio::spawn(async move { store.append(reports).await })
}

pub(crate) struct Agent {
    pub(crate) host: Host,
    pub(crate) token: AgentToken,
}

impl Agent {
    pub(crate) fn append(&self, report: Report) -> Append {
        let contact = Contact { token_id: self.token.id, ..sample::contact(&self.host, report.recorded_at) };
        Append { contact, report }
    }

    pub(crate) async fn record(&self, store: &PgStore) -> HostRecord {
        store.find_host(&HostLookup::Id(self.host.id)).await.unwrap().unwrap()
    }

    /// The state of each container that is there.
    pub(crate) async fn states(&self, store: &PgStore) -> Vec<(String, String)> {
        let query = ContainerQuery { host_id: self.host.id, removed: false, after: None, limit: 10 };
        let containers = store.list_containers(&query).await.unwrap().items.into_iter();
        containers.map(|record| (record.container.container_id, record.container.state)).collect()
    }

    pub(crate) async fn last_use(&self, store: &PgStore) -> Option<Timestamp> {
        let page = store.list_agent_tokens(&AgentTokenQuery::new(self.host.id, 10)).await.unwrap();
        page.items[0].last_used_at
    }
}

pub(crate) async fn accepted(store: &PgStore, reports: impl IntoIterator<Item = Append>) {
    let outcomes = store.append(reports.into_iter().collect()).await.unwrap().outcomes;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
}

/// A report in which a container has stopped.
pub(crate) fn stopped(seconds: i64) -> Report {
    let mut report = full_report(seconds);
    report.containers[1].state = "exited".to_owned();
    report
}

pub(crate) fn with_facts(seconds: i64, facts: HostFacts) -> Report {
    let mut report = full_report(seconds);
    report.host.facts = Some(facts);
    report
}

pub(crate) fn machine() -> HostFacts {
    HostFacts { cpu_count: Some(8), os: Some("Debian GNU/Linux 12".to_owned()), ..HostFacts::default() }
}

pub(crate) fn nothing(now: Timestamp) -> Prune {
    Prune {
        now,
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: 1,
    }
}
