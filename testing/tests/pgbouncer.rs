//! The pooler: in transaction mode, and gone afterwards.

mod common;

use std::collections::HashSet;

use common::{connect, execute, number};
use enlist_testing::{Database, PgBouncer, pooler_url, server_url};
use sqlx::Connection;

const BACKEND: &str = "SELECT pg_backend_pid()::bigint";

#[tokio::test]
async fn clients_share_connections_between_transactions_but_not_within() {
    let database = Database::empty("pooled").await.expect("a database");
    let url = pooler_url(database.name()).expect("a pooler");
    let mut one = connect(&url).await;
    let mut two = connect(&url).await;
    let first = number(&mut one, BACKEND).await;
    assert_eq!(number(&mut two, BACKEND).await, first, "the second client got a connection of its own");

    execute(&mut one, "BEGIN").await;
    let held = number(&mut one, BACKEND).await;
    assert_ne!(number(&mut two, BACKEND).await, held, "the connection of an open transaction was shared");
    execute(&mut one, "COMMIT").await;

    // Many clients, few connections.
    let mut backends = HashSet::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connect(&url).await;
        backends.insert(number(&mut client, BACKEND).await);
        clients.push(client);
    }
    assert!(backends.len() <= 4, "{} connections", backends.len());
}

#[tokio::test]
async fn a_client_gets_the_database_that_it_asks_for() {
    let database = Database::empty("asked").await.expect("a database");
    let mut direct = connect(database.url()).await;
    execute(&mut direct, "CREATE TABLE t (n bigint); INSERT INTO t VALUES (7)").await;
    let mut pooled = connect(&pooler_url(database.name()).expect("a pooler")).await;
    assert_eq!(number(&mut pooled, "SELECT n FROM t").await, 7);
}

#[tokio::test]
async fn it_is_gone_after_a_drop() {
    let pooler = PgBouncer::start(&server_url().expect("a server")).expect("a pooler");
    let directory = pooler.directory().to_owned();
    let mut connection = connect(&pooler.url("postgres")).await;
    assert_eq!(number(&mut connection, "SELECT 1::bigint").await, 1);
    drop(pooler);
    assert!(connection.ping().await.is_err());
    assert!(!directory.exists(), "the directory outlived its owner");
}
