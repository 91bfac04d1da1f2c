//! Databases of one test each, and the template that they come from.

mod common;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{connect, execute, number};
use enlist_testing::{Cluster, Database, Durability, Error, server_url};
use sqlx::Connection;
use tokio::task::LocalSet;

const COUNT_OURS: &str = "SELECT count(*) FROM pg_database WHERE datname LIKE 'enlist%'";

async fn migrate(url: &str) -> Result<(), Error> {
    let mut connection = connect(url).await;
    execute(&mut connection, "CREATE TABLE t (n bigint); INSERT INTO t VALUES (1)").await;
    Ok(())
}

#[tokio::test]
async fn two_databases_of_a_template_do_not_see_each_others_rows() {
    let one = Database::from_template("isolation", "isolation-1", migrate).await.expect("a database");
    let two = Database::from_template("isolation", "isolation-1", migrate).await.expect("a database");
    assert_ne!(one.name(), two.name());

    let mut in_one = connect(one.url()).await;
    let mut in_two = connect(two.url()).await;
    execute(&mut in_one, "INSERT INTO t VALUES (2)").await;
    assert_eq!(number(&mut in_one, "SELECT count(*) FROM t").await, 2);
    assert_eq!(number(&mut in_two, "SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn a_dropped_database_is_gone_whoever_is_connected() {
    let database = Database::empty("gone").await.expect("a database");
    let name = database.name().to_owned();
    let mut connection = connect(database.url()).await;
    drop(database);
    assert!(connection.ping().await.is_err());

    let mut server = connect(&server_url().expect("a server")).await;
    let query = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let count: i64 = sqlx::query_scalar(query).bind(name).fetch_one(&mut server).await.expect("a count");
    assert_eq!(count, 0);
}

#[test]
fn many_at_once_make_the_template_once() {
    let cluster = Cluster::start(Durability::Off).expect("a server");
    let url = cluster.url();
    let migrations = AtomicUsize::new(0);
    let copy = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let database = Database::from_template_at(&url, "many", "many", async |url: &str| {
                migrations.fetch_add(1, Ordering::Relaxed);
                // Long enough for all of them to find that there is none yet.
                tokio::time::sleep(Duration::from_millis(300)).await;
                migrate(url).await
            });
            let database = database.await.expect("a database");
            let mut connection = connect(database.url()).await;
            assert_eq!(number(&mut connection, "SELECT count(*) FROM t").await, 1);
        });
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(copy);
        }
    });
    assert_eq!(migrations.into_inner(), 1);
}

#[tokio::test]
async fn a_template_is_marked_and_a_failed_one_leaves_nothing() {
    let cluster = Cluster::start(Durability::Off).expect("a server");
    let url = cluster.url();
    let mut server = connect(&url).await;

    let failed = Database::from_template_at(&url, "half", "half", async |url: &str| {
        let mut connection = connect(url).await;
        execute(&mut connection, "CREATE TABLE t (n bigint)").await;
        Err(io::Error::other("the second statement is wrong"))
    });
    let error = failed.await.expect_err("a failed migration");
    assert!(matches!(&error, Error::Migration(_)), "{error}");
    assert!(error.to_string().contains("the second statement is wrong"), "{error}");
    assert_eq!(number(&mut server, COUNT_OURS).await, 0);

    // The lock is free again, and the name too. A connection that was left open does not matter.
    let mut left_open = None;
    let database = Database::from_template_at(&url, "half", "half", async |url: &str| {
        left_open = Some(connect(url).await);
        migrate(url).await
    });
    let database = database.await.expect("a database");
    let marked = "SELECT count(*) FROM pg_database WHERE datname = 'enlist_template_half' AND datistemplate \
                  AND NOT datallowconn";
    assert_eq!(number(&mut server, marked).await, 1);
    drop(database);
    assert_eq!(number(&mut server, COUNT_OURS).await, 1);
}

#[tokio::test]
async fn a_panic_or_a_kill_in_a_migration_leaves_no_template() {
    let cluster = Cluster::start(Durability::Off).expect("a server");
    let mut server = connect(&cluster.url()).await;

    let url = cluster.url();
    let tasks = LocalSet::new();
    let task = tasks.spawn_local(async move {
        let migration = async |_: &str| -> Result<(), Error> { panic!("on purpose") };
        Database::from_template_at(&url, "panic", "panic", migration).await
    });
    let panicked = tasks.run_until(task).await;
    assert!(panicked.is_err_and(|error| error.is_panic()));
    assert_eq!(number(&mut server, COUNT_OURS).await, 0);

    // What a killed process would have left.
    execute(&mut server, "CREATE DATABASE enlist_making_panic").await;
    let database = Database::from_template_at(&cluster.url(), "panic", "panic", migrate).await.expect("a database");
    let mut connection = connect(database.url()).await;
    assert_eq!(number(&mut connection, "SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn a_fingerprint_that_is_no_part_of_a_name_is_refused() {
    for fingerprint in ["", "a\"b", "a b", &"a".repeat(41)] {
        let error = Database::from_template("name", fingerprint, migrate).await.expect_err("a bad fingerprint");
        assert!(matches!(error, Error::Fingerprint(_)), "{error}");
    }
}
