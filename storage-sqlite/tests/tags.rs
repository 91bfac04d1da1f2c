//! What stands beside a host's tags is what is so of the host, whoever writes it.

mod common;

use std::time::Duration;

use common::{File, Hand};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{Host, Tag};
use enlist_core::store::{AppendOutcome, Revision, Store};
use enlist_storage_sqlite::SqliteStore;

/// A host with tag `a` that was heard at 0.
async fn online() -> (File, SqliteStore, Host) {
    let file = File::migrated().await;
    let store = file.open().await;
    sample::watch(&store).await;
    let host = Host { tags: [Tag::new("a").unwrap()].into(), ..sample::host("a") };
    sample::create(&store, &host).await;
    store.touch(vec![sample::contact(&host, at(0))]).await.unwrap();
    (file, store, host)
}

fn beside_tags(hand: &mut Hand) -> Vec<String> {
    let cordoned = "CASE cordoned WHEN 1 THEN ', cordoned' ELSE '' END";
    let rows = hand.column(&format!("SELECT tag || ': ' || status || {cordoned} AS value FROM host_tags ORDER BY tag"));
    rows.into_iter().flatten().collect()
}

#[tokio::test]
async fn it_follows_whoever_writes() {
    let (file, ..) = online().await;
    let mut hand = file.by_hand();
    for (sql, expected) in [
        ("INSERT INTO host_tags (host_id, tag) SELECT id, 'b' FROM hosts", ["a: online", "b: online"]),
        // It says otherwise, and is not asked.
        (
            "DELETE FROM host_tags WHERE tag = 'b';
             INSERT INTO host_tags (host_id, tag, status, cordoned) SELECT id, 'b', 'archived', 1 FROM hosts",
            ["a: online", "b: online"],
        ),
        ("UPDATE hosts SET cordoned = 1", ["a: online, cordoned", "b: online, cordoned"]),
        (
            "DELETE FROM host_tags WHERE tag = 'b'; INSERT INTO host_tags (host_id, tag) SELECT id, 'b' FROM hosts",
            ["a: online, cordoned", "b: online, cordoned"],
        ),
        ("UPDATE hosts SET cordoned = 0, archived_at = 1", ["a: archived", "b: archived"]),
        ("UPDATE host_presence SET presence = 'unreachable', unreachable_since = 1", ["a: archived", "b: archived"]),
        ("UPDATE hosts SET archived_at = NULL", ["a: unreachable", "b: unreachable"]),
        // A presence that comes after its host's tags, and of an archived host at that.
        (
            "UPDATE hosts SET archived_at = 1;
             CREATE TEMP TABLE kept AS SELECT * FROM host_presence;
             UPDATE temp.kept SET presence = 'online', unreachable_since = NULL, archived = 0;
             DELETE FROM host_presence;
             UPDATE host_tags SET status = 'pending';
             INSERT INTO host_presence SELECT * FROM temp.kept",
            ["a: archived", "b: archived"],
        ),
        ("UPDATE hosts SET archived_at = NULL", ["a: online", "b: online"]),
    ] {
        hand.run(sql);
        assert_eq!(beside_tags(&mut hand), expected, "{sql}");
    }
    assert!(hand.refusal("UPDATE host_tags SET status = 'gone'").contains("CHECK"));
    assert!(hand.refusal("INSERT INTO host_tags (host_id, tag) VALUES (randomblob(16), 'a')").contains("FOREIGN KEY"));
}

/// What is a transition does.
#[tokio::test]
async fn contact_of_a_host_that_is_online_writes_nothing_there() {
    let (file, store, host) = online().await;
    file.by_hand().run(
        "CREATE TRIGGER trap BEFORE UPDATE ON host_tags BEGIN SELECT RAISE(ABORT, 'this was not to be written'); END",
    );
    for seconds in 1..4 {
        let report = sample::report(at(seconds));
        let appended = store.append(vec![sample::append(&host, report)]).await.unwrap();
        assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]), "{appended:?}");
    }
    store.touch(vec![sample::contact(&host, at(4))]).await.unwrap();
    sample::commit(&store, sample::write(Revision::FIRST, &host)).await;
    assert!(store.sweep(sample::sweep(at(100), Duration::from_secs(90))).await.is_err());
}
