//! Callers that go away and links that fall silent: nothing is left open, nobody waits for ever.

mod common;

use common::link::{Link, Then};
use common::{Server, with_host};
use enlist_core::conformance::sample;
use enlist_core::store::{Commit, Key, Store, StoreErrorKind};
use enlist_storage_postgres::PgStore;
use enlist_storage_postgres::sqlx::PgPool;
use enlist_storage_postgres::sqlx::postgres::PgPoolOptions;

/// A pool of one connection: what one call leaves on it, the next one finds.
fn pool_of_one(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(1).connect_lazy(url).unwrap()
}

/// Every other session has ended its transaction and does nothing.
const ALL_ENDED: &str = "
    SELECT count(*) = 1 AND bool_and(state = 'idle' AND query = 'ROLLBACK') FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// A stale transaction would show every later call the past, a revoked token as a good one.
#[tokio::test]
async fn a_load_that_is_dropped_while_it_begins_leaves_no_transaction_in_the_pool() {
    let server = Server::migrated().await;
    let link = Link::to(&server, "REPEATABLE READ", Then::Hold).await;
    let store = PgStore::builder(pool_of_one(link.url())).build().unwrap();
    store.check().await.unwrap();
    let key = Key::Host(sample::host("a").id);
    tokio::select! {
        _ = store.load(&key) => panic!("its first message is held"),
        () = link.reached() => {}
    }
    link.let_go();
    server.by_hand().await.until(ALL_ENDED).await;
    assert!(store.authenticate(&sample::hash()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_read_behind_a_pooler_that_is_dropped_while_it_begins_leaves_no_transaction_in_the_pool() {
    let server = Server::migrated().await;
    let link = Link::to(&server, "READ COMMITTED READ ONLY", Then::Hold).await;
    let store = PgStore::builder(pool_of_one(link.url())).through_pooler(true).build().unwrap();
    store.check().await.unwrap();
    let hash = sample::hash();
    tokio::select! {
        _ = store.authenticate(&hash) => panic!("its first message is held"),
        () = link.reached() => {}
    }
    link.let_go();
    server.by_hand().await.until(ALL_ENDED).await;
    assert!(store.authenticate(&hash).await.unwrap().is_none());
}

/// Its link is cut without a word, in the middle of a transaction that holds the lock of all events. Takes as long as a
/// call may take: half a minute.
#[tokio::test]
async fn a_replica_that_vanished_stops_no_other_and_its_own_caller_is_told() {
    let (server, here, host) = with_host().await;
    let link = Link::to(&server, "INSERT INTO \"enlist\".events", Then::Silence).await;
    let there = PgStore::builder(pool_of_one(link.url())).build().unwrap();
    let commit = || Commit { writes: Vec::new(), events: vec![sample::event(&host)] };
    let lost = tokio::spawn({
        let (there, commit) = (there.clone(), commit());
        async move { there.commit(commit).await }
    });
    link.reached().await;
    server.by_hand().await.until("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')").await;
    here.commit(commit()).await.unwrap();
    assert!(!lost.is_finished());
    assert_eq!(lost.await.unwrap().unwrap_err().kind(), StoreErrorKind::Unavailable);
}
