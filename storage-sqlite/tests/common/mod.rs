//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use diesel::connection::SimpleConnection;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query, sql_types};
use enlist_core::Timestamp;
use enlist_core::store::Prune;
use enlist_storage_sqlite::SqliteStore;

/// Everything is young enough to stay; what deleted hosts left goes all the same.
pub(crate) fn prune_nothing() -> Prune {
    Prune {
        now: Timestamp::MIN,
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: 1_000,
    }
}

/// A migrated file that goes with the test.
pub(crate) struct File {
    directory: tempfile::TempDir,
}

impl File {
    /// A file that nobody migrated.
    pub(crate) fn unmigrated() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory for the test") }
    }

    /// A file that is ready.
    pub(crate) async fn migrated() -> Self {
        let file = Self::unmigrated();
        file.open().await.migrate().await.expect("a fresh file can be migrated");
        file
    }

    /// Another handle, as another process would open it.
    pub(crate) async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path()).await.expect("the file opens")
    }

    pub(crate) fn path(&self) -> String {
        self.directory.path().join("enlist.db").to_str().expect("the path is text").to_owned()
    }

    /// A hand at the prompt: SQL past the store.
    pub(crate) fn by_hand(&self) -> Hand {
        let mut connection = SqliteConnection::establish(&self.path()).expect("the file opens");
        connection
            .batch_execute("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON;")
            .expect("the pragmas are known");
        Hand(connection)
    }
}

/// A connection past the store.
pub(crate) struct Hand(pub(crate) SqliteConnection);

impl Hand {
    pub(crate) fn run(&mut self, sql: &str) {
        self.0.batch_execute(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    /// Why the engine refuses it; leaves nothing behind when it does not.
    pub(crate) fn refusal(&mut self, sql: &str) -> String {
        self.run("SAVEPOINT attempt");
        let refused = self.0.batch_execute(sql);
        self.run("ROLLBACK TO attempt; RELEASE attempt;");
        match refused {
            Ok(()) => panic!("this was accepted: {sql}"),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) fn count(&mut self, table: &str) -> usize {
        let count = self.column(&format!("SELECT count(*) AS value FROM {table}"));
        count.into_iter().flatten().next().and_then(|count| count.parse().ok()).expect("a count is a number")
    }

    /// The first column of each row, as text.
    pub(crate) fn column(&mut self, sql: &str) -> Vec<Option<String>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = sql_types::Nullable<sql_types::Text>)]
            value: Option<String>,
        }
        let rows = sql_query(format!("SELECT CAST(value AS TEXT) AS value FROM ({sql})")).load::<Row>(&mut self.0);
        rows.unwrap_or_else(|error| panic!("{error}: {sql}")).into_iter().map(|row| row.value).collect()
    }
}
