//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod link;
pub(crate) mod watched;

use std::time::Duration;

use enlist_core::Timestamp;
use enlist_core::agent_token::{AgentToken, AgentTokenState, RevokeReason};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::store::{Revision, TelemetryQuery};
use enlist_core::telemetry::{HostMetrics, Report};
use enlist_storage_postgres::PgStore;
use enlist_storage_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use enlist_storage_postgres::sqlx::{AssertSqlSafe, Connection, Error, PgConnection, PgPool, Row, raw_sql};
use enlist_testing::{Database, pooler_url};

/// The migration as text: another text, another template.
const MIGRATION: &str = include_str!("../../migrations/2026-11-22-000000_first_light/up.sql");

/// A database that goes with the test.
pub(crate) struct Server {
    database: Database,
}

impl Server {
    /// A database that nobody migrated.
    pub(crate) async fn unmigrated() -> Self {
        let database = Database::empty("storage-postgres").await;
        Self { database: database.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// A database that is ready.
    pub(crate) async fn migrated() -> Self {
        let fingerprint = MIGRATION
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let migrate = async |url: &str| {
            let store = PgStore::connect(url).await?;
            store.migrate().await?;
            store.close().await;
            Ok::<_, enlist_core::store::StoreError>(())
        };
        let database = Database::from_template("storage-postgres", &format!("pg-{fingerprint:016x}"), migrate).await;
        Self { database: database.unwrap_or_else(|error| panic!("{error}")) }
    }

    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    /// A pool of a store of its own. A suite runs many tests at once, each with several of them.
    pub(crate) fn pool(&self) -> PgPool {
        pool(self.url())
    }

    /// Another handle, as another process would open it.
    pub(crate) fn open(&self) -> PgStore {
        PgStore::builder(self.pool()).listen_url(self.url()).build().expect("the options are valid")
    }

    /// A handle whose pool goes through PgBouncer.
    pub(crate) fn open_through_pooler(&self) -> PgStore {
        let url = pooler_url(self.database.name()).unwrap_or_else(|error| panic!("{error}"));
        let builder = PgStore::builder(pool(&url)).through_pooler(true).listen_url(self.url());
        builder.build().expect("the options are valid")
    }

    /// A hand at the prompt: SQL past the store, in the schema that the store uses by default.
    pub(crate) async fn by_hand(&self) -> Hand {
        let mut hand = Hand(PgConnection::connect(self.url()).await.expect("the database is there"));
        hand.run("SET search_path = enlist").await;
        hand
    }
}

/// A pool of a handle of its own.
pub(crate) fn pool(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().expect("a URL of ours");
    PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(20)).connect_lazy_with(options)
}

/// A connection past the store.
pub(crate) struct Hand(pub(crate) PgConnection);

impl Hand {
    pub(crate) async fn run(&mut self, sql: &str) {
        self.attempt(sql).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    pub(crate) async fn attempt(&mut self, sql: &str) -> Result<(), Error> {
        raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await.map(drop)
    }

    /// Why the engine refuses it, by the constraint's name if it has one; leaves nothing behind when it does not.
    pub(crate) async fn refusal(&mut self, sql: &str) -> String {
        self.run("BEGIN").await;
        let refused = self.attempt(sql).await;
        self.run("ROLLBACK").await;
        match refused {
            Ok(()) => panic!("this was accepted: {sql}"),
            Err(Error::Database(error)) => match error.constraint() {
                Some(constraint) => constraint.to_owned(),
                None => error.message().to_owned(),
            },
            Err(error) => panic!("{error}: {sql}"),
        }
    }

    /// The first column of each row, as text.
    pub(crate) async fn column(&mut self, sql: &str) -> Vec<Option<String>> {
        let text = format!("SELECT value::text FROM ({sql}) AS rows (value)");
        let rows = raw_sql(AssertSqlSafe(text)).fetch_all(&mut self.0).await;
        let rows = rows.unwrap_or_else(|error| panic!("{error}: {sql}"));
        rows.iter().map(|row| row.try_get(0).expect("a text")).collect()
    }

    /// The one value of the one row, which is not null.
    pub(crate) async fn value(&mut self, sql: &str) -> String {
        match self.column(sql).await.as_slice() {
            [Some(value)] => value.clone(),
            other => panic!("one value was expected, not {other:?}: {sql}"),
        }
    }

    /// The name of the database.
    pub(crate) async fn database(&mut self) -> String {
        self.value("SELECT current_database()").await
    }

    /// Waits until `sql` gives a true value: what other sessions do shows in the server's own views.
    pub(crate) async fn until(&mut self, sql: &str) {
        for _ in 0..1_000 {
            if self.value(sql).await == "true" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("this did not become true: {sql}");
    }
}

/// Somebody waits for a lock in this database.
pub(crate) const SOMEBODY_WAITS: &str = "
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";

pub(crate) fn everything(host: &Host) -> TelemetryQuery {
    TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 1_000)
}

/// A report of three containers, with numbers each.
pub(crate) fn full_report(seconds: i64) -> Report {
    let mut report = sample::report(at(seconds));
    // No two alike: one in the place of another shows.
    report.host.metrics = HostMetrics {
        cpu_percent: Some(1.5),
        load_1m: Some(2.5),
        load_5m: Some(3.5),
        load_15m: Some(4.5),
        memory_used_bytes: Some(5),
        memory_total_bytes: Some(6),
        swap_used_bytes: Some(7),
        swap_total_bytes: Some(8),
        disk_used_bytes: Some(9),
        disk_total_bytes: Some(10),
        network_rx_bytes: Some(11),
        network_tx_bytes: Some(12),
        uptime_seconds: Some(13),
    };
    report.host.custom.insert("queue_depth".to_owned(), 14.5);
    let containers = ["a", "b", "c"].map(sample::container).to_vec();
    Report { containers, containers_complete: true, ..report }
}

pub(crate) async fn with_host() -> (Server, PgStore, Host) {
    let server = Server::migrated().await;
    let store = server.open();
    let host = sample::host("a");
    sample::create(&store, &host).await;
    (server, store, host)
}

/// Makes a host with a token and revokes that.
pub(crate) async fn cut_off(store: &PgStore, name: &str) -> AgentToken {
    let host = sample::host(name);
    let token = AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    sample::create_with_tokens(store, &host, vec![token.clone()]).await;
    let revoked = token.revoke(RevokeReason::Administrator, at(2)).unwrap();
    let mut write = sample::write(Revision::FIRST, &host);
    write.agent_tokens = vec![revoked.clone()];
    sample::commit(store, write).await;
    revoked
}
