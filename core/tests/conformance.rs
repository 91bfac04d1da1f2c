//! `MemoryStore` passes the suite.

use enlist_core::conformance::Fixture;
use enlist_core::store::MemoryStore;

struct Memory(MemoryStore);

impl Fixture for Memory {
    type Store = MemoryStore;

    async fn fresh() -> Self {
        Self(MemoryStore::new())
    }

    async fn handle(&self) -> MemoryStore {
        self.0.clone()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime of one thread can be built")
            .block_on(future)
    }
}

enlist_core::store_conformance!(Memory);
