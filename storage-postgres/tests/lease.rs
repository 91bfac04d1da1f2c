//! The connection that reports follow each other on.

mod common;

use std::time::Duration;

use common::watched::{Agent, Watched, accepted};
use common::{everything, full_report};
use enlist_core::store::{Store, StoreErrorKind};
use enlist_storage_postgres::PgStore;
use enlist_storage_postgres::sqlx::PgPool;
use enlist_storage_postgres::sqlx::postgres::PgPoolOptions;
use tokio::runtime::Builder;
use tokio::time::sleep;

/// A store on a pool of so many connections, and a host whose reports cost one statement.
async fn steady(connections: u32) -> (Watched, PgPool, Agent) {
    let mut watched = Watched::new().await;
    let options = watched.server.url().parse().expect("a URL of ours");
    let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(20));
    let pool = pool.connect_lazy_with(options);
    watched.store = PgStore::builder(pool.clone()).build().expect("the options are valid");
    let agent = watched.steady_hosts(1).await.remove(0);
    (watched, pool, agent)
}

/// Long enough for the pool to take a connection back, and not as long as one is kept.
const SHORTLY: Duration = Duration::from_millis(20);

#[tokio::test]
async fn it_is_kept_for_the_next_report_and_given_back_if_there_is_none() {
    let (watched, pool, agent) = steady(2).await;
    let mut kept = 0;
    for seconds in 2..12 {
        accepted(&watched.store, [agent.append(full_report(seconds))]).await;
        sleep(SHORTLY).await;
        kept += usize::from(pool.num_idle() < pool.size() as usize);
    }
    // A machine that has much to do may come back too late for some.
    assert!(kept > 0);
    while pool.num_idle() < pool.size() as usize {
        sleep(SHORTLY).await;
    }
    accepted(&watched.store, [agent.append(full_report(12))]).await;
    assert_eq!(watched.store.list_telemetry(&everything(&agent.host)).await.unwrap().items.len(), 12);
}

#[tokio::test]
async fn the_last_one_of_a_pool_is_not_kept() {
    let (watched, pool, agent) = steady(1).await;
    let mut there = 0;
    for seconds in 2..10 {
        // A new one each time.
        sleep(Duration::from_millis(150)).await;
        accepted(&watched.store, [agent.append(full_report(seconds))]).await;
        sleep(SHORTLY).await;
        there += usize::from(pool.try_acquire().is_some());
    }
    // A machine that has much to do may be too slow for some.
    assert!(there > 0);
}

#[tokio::test]
async fn one_that_the_server_has_ended_fails_one_report() {
    let (mut watched, _, agent) = steady(2).await;
    accepted(&watched.store, [agent.append(full_report(2))]).await;
    watched
        .hand
        .run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await;
    // It was given back before that if the machine was slow.
    if let Err(error) = watched.store.append(vec![agent.append(full_report(3))]).await {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }
    accepted(&watched.store, [agent.append(full_report(4))]).await;
}

#[tokio::test]
async fn a_pool_that_closes_has_it_back() {
    let (watched, pool, agent) = steady(2).await;
    accepted(&watched.store, [agent.append(full_report(2))]).await;
    pool.close().await;
    assert_eq!(pool.size(), 0);
    let closed = watched.store.append(vec![agent.append(full_report(3))]).await.unwrap_err();
    assert_eq!(closed.kind(), StoreErrorKind::Unavailable);
}

/// The pool takes a connection back within a runtime alone; a store may outlive its own.
#[test]
fn a_runtime_that_goes_leaves_none_behind() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder.enable_all().build().expect("threads can be had");
        let store = runtime.block_on(async {
            let (watched, _, agent) = steady(2).await;
            accepted(&watched.store, [agent.append(full_report(2))]).await;
            watched.store.clone()
        });
        drop(runtime);
        drop(store);
    }
}
