//! A private server: there when it is asked for, gone afterwards.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{connect, is_running, number, server_process};
use enlist_testing::{Cluster, Durability};

#[tokio::test]
async fn it_answers_and_is_gone_after_a_drop() {
    let cluster = Cluster::start(Durability::Off).expect("a server");
    let directory = cluster.directory().to_owned();
    let process = server_process(&directory);
    assert_eq!(fs::metadata(&directory).expect("a directory").permissions().mode() & 0o777, 0o700);

    // Still connected at the end: nobody is waited for.
    let mut connection = connect(&cluster.url()).await;
    assert_eq!(number(&mut connection, "SELECT 1::bigint").await, 1);
    assert!(is_running(process));

    drop(cluster);
    assert!(!is_running(process), "the server outlived its owner");
    assert!(!directory.exists(), "the directory outlived its owner");
}

#[tokio::test]
async fn commits_are_worth_what_was_asked_for() {
    for (durability, expected) in [(Durability::Off, "off"), (Durability::On, "on")] {
        let cluster = Cluster::start(durability).expect("a server");
        let mut connection = connect(&cluster.url()).await;
        let query = "SELECT setting FROM pg_settings \
                     WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes') ORDER BY name";
        let settings: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut connection).await.expect("settings");
        assert_eq!(settings, [expected; 3], "{durability:?}");
    }
}

#[tokio::test]
async fn it_speaks_utf8_lives_in_utc_and_listens_to_no_port() {
    let cluster = Cluster::start(Durability::Off).expect("a server");
    let mut connection = connect(&cluster.url()).await;
    let query = "SELECT reset_val FROM pg_settings \
                 WHERE name IN ('server_encoding', 'log_timezone', 'listen_addresses', 'max_connections') ORDER BY name";
    let settings: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut connection).await.expect("settings");
    assert_eq!(settings, ["", "UTC", "400", "UTF8"]);
}
