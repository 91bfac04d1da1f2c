//! Every property that a store has to pass.

use enlist_core::conformance::Fixture;
use enlist_example_custom_store::RedbStore;

struct File(RedbStore, #[expect(dead_code, reason = "goes with the fixture")] tempfile::TempDir);

impl Fixture for File {
    type Store = RedbStore;

    async fn fresh() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        Self(RedbStore::open(directory.path().join("fleet.redb")).await.expect("a new file opens"), directory)
    }

    async fn handle(&self) -> RedbStore {
        self.0.clone()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts").block_on(future)
    }
}

enlist_core::store_conformance!(File);
