//! Every property that a store has to pass, on a file and in memory.

use std::future::Future;

use enlist_core::conformance::Fixture;
use enlist_storage_sqlite::SqliteStore;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("a runtime starts").block_on(future)
}

/// A file in a directory that goes with the fixture.
struct File(tempfile::TempDir);

impl Fixture for File {
    type Store = SqliteStore;

    async fn fresh() -> Self {
        let fixture = Self(tempfile::tempdir().expect("a directory for the test"));
        fixture.handle().await.migrate().await.expect("a fresh file can be migrated");
        fixture
    }

    async fn handle(&self) -> SqliteStore {
        let path = self.0.path().join("enlist.db");
        SqliteStore::open(path.to_str().expect("a path of the test's own is text")).await.expect("the file opens")
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        block_on(future)
    }
}

/// One connection, shared by all handles.
struct Memory(SqliteStore);

impl Fixture for Memory {
    type Store = SqliteStore;

    async fn fresh() -> Self {
        let store = SqliteStore::open("sqlite::memory:").await.expect("memory opens");
        store.migrate().await.expect("a fresh database can be migrated");
        Self(store)
    }

    async fn handle(&self) -> SqliteStore {
        self.0.clone()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        block_on(future)
    }
}

mod file {
    use super::*;
    enlist_core::store_conformance!(File);
}

mod memory {
    use super::*;
    enlist_core::store_conformance!(Memory);
}
