//! Every property that a store has to pass: directly, and through a PgBouncer that pools by the transaction.

mod common;

use std::future::Future;

use common::Server;
use enlist_core::conformance::Fixture;
use enlist_storage_postgres::PgStore;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(future)
}

/// Every handle with a pool of its own, as if it were another process.
struct Direct(Server);

impl Fixture for Direct {
    type Store = PgStore;

    async fn fresh() -> Self {
        Self(Server::migrated().await)
    }

    async fn handle(&self) -> PgStore {
        self.0.open()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        block_on(future)
    }
}

/// The same through a pooler, with subscriptions past it.
struct ThroughPooler(Server);

impl Fixture for ThroughPooler {
    type Store = PgStore;

    async fn fresh() -> Self {
        Self(Server::migrated().await)
    }

    async fn handle(&self) -> PgStore {
        self.0.open_through_pooler()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        block_on(future)
    }
}

mod direct {
    use super::*;
    enlist_core::store_conformance!(Direct);
}

mod through_pooler {
    use super::*;
    enlist_core::store_conformance!(ThroughPooler);
}
