//! Tokens that many ask for at once.

mod common;

use std::time::Duration;

use common::watched::Watched;
use common::{SOMEBODY_WAITS, Server};
use enlist_core::TokenHash;
use enlist_core::conformance::sample;
use enlist_core::store::{Known, Store, StoreError, StoreErrorKind};
use enlist_storage_postgres::PgStore;
use enlist_storage_postgres::sqlx::PgPool;
use enlist_storage_postgres::sqlx::postgres::PgPoolOptions;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, spawn_blocking, yield_now};
use tokio::time::timeout;

type Answer = Result<Option<Known>, StoreError>;

/// A store on a pool that has a connection for everybody.
fn roomy(server: &Server) -> (PgStore, PgPool) {
    let options = server.url().parse().expect("a URL of ours");
    let pool = PgPoolOptions::new().max_connections(40).connect_lazy_with(options);
    (PgStore::builder(pool.clone()).build().expect("the options are valid"), pool)
}

fn ask(store: &PgStore, hash: TokenHash) -> JoinHandle<Answer> {
    let store = store.clone();
    tokio::spawn(async move { store.authenticate(&hash).await })
}

/// So many sessions wait for a lock.
fn waiting(sessions: usize) -> String {
    format!(
        "SELECT count(*) = {sessions} FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
}

const LOCK: &str = "BEGIN; LOCK TABLE agent_tokens";

#[tokio::test]
async fn they_share_a_few_statements_and_each_is_told_of_its_own() {
    let mut watched = Watched::new().await;
    let agents = watched.hosts(12).await;
    let gone = watched.hosts(1).await.remove(0);
    watched.hand.run(&format!("DELETE FROM hosts WHERE id = '{}'", gone.host.id)).await;
    let (store, pool) = roomy(&watched.server);
    store.check().await.unwrap();

    watched.hand.run(LOCK).await;
    let nobody = sample::hash();
    // Each twice, as an agent of two processes asks.
    let hashes = agents.iter().map(|agent| agent.token.hash).chain([gone.token.hash, nobody]);
    let asked: Vec<_> = hashes.flat_map(|hash| [hash, hash]).map(|hash| (hash, ask(&store, hash))).collect();
    watched.server.by_hand().await.until(SOMEBODY_WAITS).await;
    watched.hand.run("COMMIT").await;

    for (hash, answer) in asked {
        let known = answer.await.unwrap().unwrap();
        if hash == nobody {
            assert_eq!(known, None);
        } else if hash == gone.token.hash {
            let Some(Known::Tombstone(tombstone)) = known else { panic!("{known:?}") };
            assert_eq!(tombstone.host_id, gone.host.id);
        } else {
            let Some(Known::Credential(credential)) = known else { panic!("{known:?}") };
            assert_eq!(credential.token.hash, hash);
            assert!(
                agents.iter().any(|agent| agent.token == credential.token && agent.host.id == credential.token.host_id)
            );
        }
    }
    assert!(pool.size() <= 3, "{} connections for twenty-eight who ask", pool.size());
}

#[tokio::test]
async fn a_row_that_cannot_be_understood_fails_those_who_ask_for_it() {
    let mut watched = Watched::new().await;
    let agents = watched.hosts(8).await;
    let (store, _) = roomy(&watched.server);
    let broken = &agents[5];
    watched
        .hand
        .run(&format!(
            "DO $$ DECLARE name text; BEGIN
                 FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = 'hosts'::regclass AND contype = 'c' LOOP
                     EXECUTE format('ALTER TABLE hosts DROP CONSTRAINT %I', name);
                 END LOOP;
             END $$;
             UPDATE hosts SET tenant_id = '' WHERE id = '{}'",
            broken.host.id
        ))
        .await;
    watched.hand.run(LOCK).await;
    let asked: Vec<_> = agents.iter().map(|agent| (agent, ask(&store, agent.token.hash))).collect();
    watched.server.by_hand().await.until(SOMEBODY_WAITS).await;
    watched.hand.run("COMMIT").await;
    let mut failed = Vec::new();
    for (agent, answer) in asked {
        match answer.await.unwrap() {
            Ok(Some(Known::Credential(credential))) => assert_eq!(credential.token, agent.token),
            Err(error) => failed.push((agent.host.id, error.kind())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, [(broken.host.id, StoreErrorKind::Corrupt)]);
}

/// Those who answer go with their runtime: who waits for them elsewhere is told, and the next to ask is answered.
#[test]
fn a_runtime_that_goes_leaves_nobody_waiting() {
    let runtime = |builder: &mut Builder| builder.enable_all().build().expect("threads can be had");
    let first = runtime(&mut Builder::new_multi_thread());
    let second = runtime(&mut Builder::new_current_thread());
    let (mut watched, store, hash) = second.block_on(async {
        let watched = Watched::new().await;
        let hash = watched.hosts(1).await[0].token.hash;
        let (store, _) = roomy(&watched.server);
        (watched, store, hash)
    });
    second.block_on(watched.hand.run(LOCK));
    for sessions in 1..=3 {
        let inside = first.enter();
        drop(ask(&store, hash));
        drop(inside);
        second.block_on(async { watched.server.by_hand().await.until(&waiting(sessions)).await });
    }
    second.block_on(async {
        let stranded = ask(&store, hash);
        yield_now().await;
        // Waits until its tasks have ended.
        spawn_blocking(|| drop(first)).await.unwrap();
        let answer = timeout(Duration::from_secs(60), stranded).await.expect("somebody answers").unwrap();
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
        watched.hand.run("COMMIT").await;
        let answer = timeout(Duration::from_secs(60), store.authenticate(&hash)).await.expect("somebody answers");
        assert!(matches!(answer, Ok(Some(Known::Credential(_)))), "{answer:?}");
    });
}
