//! What stands beside a host's tags is what is so of the host, whoever writes it, and whoever else writes meanwhile.

mod common;

use std::time::Duration;

use common::{Hand, SOMEBODY_WAITS, Server, full_report};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{Host, Tag};
use enlist_core::store::{AppendOutcome, Revision, Store, Sweep, Swept};
use enlist_storage_postgres::PgStore;
use tokio::task::JoinHandle;

fn tagged(host: &Host, names: &[&str]) -> Host {
    Host { tags: names.iter().map(|name| Tag::new(*name).unwrap()).collect(), ..host.clone() }
}

/// A host with tag `a` that was heard at 0, and a sweep that finds it silent.
async fn online() -> (Server, PgStore, Host, Sweep) {
    let server = Server::migrated().await;
    let store = server.open();
    sample::watch(&store).await;
    let host = tagged(&sample::host("a"), &["a"]);
    sample::create(&store, &host).await;
    store.touch(vec![sample::contact(&host, at(0))]).await.unwrap();
    (server, store, host, sample::sweep(at(100), Duration::from_secs(90)))
}

async fn beside_tags(hand: &mut Hand) -> Vec<String> {
    let cordoned = "CASE WHEN cordoned THEN ', cordoned' ELSE '' END";
    let rows = hand.column(&format!("SELECT tag || ': ' || status || {cordoned} FROM host_tags ORDER BY tag")).await;
    rows.into_iter().flatten().collect()
}

const REFUSE_TO_RESTATE: &str = "CREATE OR REPLACE FUNCTION restate_status() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''this was not to run''; END'";

#[tokio::test]
async fn it_follows_whoever_writes() {
    let (server, ..) = online().await;
    let mut hand = server.by_hand().await;
    for (sql, expected) in [
        ("INSERT INTO host_tags (host_id, tag) SELECT id, 'b' FROM hosts", ["a: online", "b: online"]),
        // It says otherwise, and is not asked.
        (
            "DELETE FROM host_tags WHERE tag = 'b';
             INSERT INTO host_tags (host_id, tag, status, cordoned) SELECT id, 'b', 'archived', true FROM hosts",
            ["a: online", "b: online"],
        ),
        ("UPDATE hosts SET cordoned = true", ["a: online, cordoned", "b: online, cordoned"]),
        (
            "DELETE FROM host_tags WHERE tag = 'b'; INSERT INTO host_tags (host_id, tag) SELECT id, 'b' FROM hosts",
            ["a: online, cordoned", "b: online, cordoned"],
        ),
        ("UPDATE hosts SET cordoned = false, archived_at = now()", ["a: archived", "b: archived"]),
        (
            "UPDATE host_presence SET presence = 'unreachable', unreachable_since = now()",
            ["a: archived", "b: archived"],
        ),
        ("UPDATE hosts SET archived_at = NULL", ["a: unreachable", "b: unreachable"]),
        // A presence that comes after its host's tags.
        (
            "CREATE TEMP TABLE kept AS SELECT * FROM host_presence;
             DELETE FROM host_presence;
             UPDATE kept SET presence = 'online', unreachable_since = NULL;
             INSERT INTO host_presence SELECT * FROM kept",
            ["a: online", "b: online"],
        ),
    ] {
        hand.run(sql).await;
        assert_eq!(beside_tags(&mut hand).await, expected, "{sql}");
    }
    assert!(hand.refusal("UPDATE host_tags SET status = 'gone'").await.contains("status_check"));
    let unknown = "INSERT INTO host_tags (host_id, tag) VALUES (gen_random_uuid(), 'a')";
    assert_eq!(hand.refusal(unknown).await, "host_tags_host_id_fkey");
    // Whoever has another search path runs the same.
    hand.run("SET search_path = pg_catalog; UPDATE enlist.hosts SET cordoned = true; SET search_path = enlist").await;
    assert_eq!(beside_tags(&mut hand).await, ["a: online, cordoned", "b: online, cordoned"]);
}

/// Each in the order of what is read from it, behind what is asked for.
#[tokio::test]
async fn tags_have_the_documented_indexes() {
    let server = Server::migrated().await;
    let mut hand = server.by_hand().await;
    let indexes = hand.column(
        "SELECT regexp_replace(indexdef, '^.* USING btree ', CASE WHEN indexdef LIKE '%UNIQUE%' THEN '!' ELSE '' END)
         FROM pg_indexes WHERE schemaname = 'enlist' AND tablename = 'host_tags' ORDER BY 1",
    );
    let expected = [
        "!(host_id, tag)",
        "(tag, host_id)",
        "(tag, status, host_id)",
        "(tag, substr(uuid_send(host_id), 9), host_id) WHERE ((status = 'online'::text) AND (NOT cordoned))",
    ];
    assert_eq!(indexes.await.into_iter().flatten().collect::<Vec<_>>(), expected);
}

/// Neither by the one statement nor by the transaction; what is a transition does.
#[tokio::test]
async fn contact_of_a_host_that_is_online_writes_nothing_there() {
    let (server, store, host, sweep) = online().await;
    let mut hand = server.by_hand().await;
    let named = "SELECT event_object_column FROM information_schema.triggered_update_columns
                 WHERE event_object_schema = 'enlist' AND event_object_table = 'host_presence' ORDER BY 1";
    assert_eq!(hand.column(named).await, ["archived", "presence"].map(|name| Some(name.to_owned())));
    hand.run(REFUSE_TO_RESTATE).await;
    for seconds in 1..4 {
        let appended = store.append(vec![sample::append(&host, full_report(seconds))]).await.unwrap();
        assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]), "{appended:?}");
    }
    store.touch(vec![sample::contact(&host, at(4))]).await.unwrap();
    sample::commit(&store, sample::write(Revision::FIRST, &host)).await;
    assert!(store.sweep(sweep).await.is_err());
}

/// By one statement, and no run of the trigger for each. Whoever writes after it, in the same transaction too, is followed
/// by the trigger again.
#[tokio::test]
async fn it_follows_many_at_once() {
    let (server, store, host, _sweep) = online().await;
    let mut hosts = vec![host];
    for n in 0..40 {
        hosts.push(tagged(&sample::host(&n.to_string()), &["a", "b"]));
        sample::create(&store, &hosts[n + 1]).await;
    }
    let mut hand = server.by_hand().await;
    let counted = async |hand: &mut Hand, status: &str| {
        let counts = "SELECT tag || ': ' || count(*) || ' ' || status FROM host_tags GROUP BY tag, status ORDER BY 1";
        let expected = [format!("a: 41 {status}"), format!("b: 40 {status}")].map(Some);
        assert_eq!(hand.column(counts).await, expected);
    };
    let restate_status = hand.column("SELECT pg_get_functiondef('restate_status'::regproc)").await.remove(0).unwrap();
    hand.run(REFUSE_TO_RESTATE).await;
    store.touch(hosts.iter().map(|host| sample::contact(host, at(1))).collect()).await.unwrap();
    counted(&mut hand, "online").await;
    hand.run(&restate_status).await;
    hand.run("UPDATE host_presence SET presence = 'unreachable', unreachable_since = now()").await;
    counted(&mut hand, "unreachable").await;
    hand.run(
        "BEGIN;
         SELECT set_config('enlist.statuses_follow', 'on', true);
         SELECT restate_statuses('{}');
         UPDATE host_presence SET presence = 'online', unreachable_since = NULL;
         COMMIT",
    )
    .await;
    counted(&mut hand, "online").await;
}

/// Whoever writes such rows stands still when it has done everything but to commit, until [`release`].
async fn hold(server: &Server, rows: &str) -> Hand {
    let mut gate = server.by_hand().await;
    gate.run(&format!(
        "CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER stand_still AFTER INSERT ON {rows} DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION stand_still();
         SELECT pg_advisory_lock(4711)"
    ))
    .await;
    gate
}

async fn release(mut gate: Hand) {
    gate.run("SELECT pg_advisory_unlock(4711)").await;
}

fn waiting(sessions: usize) -> String {
    SOMEBODY_WAITS.replace("EXISTS (SELECT FROM", &format!("(SELECT count(*) = {sessions} FROM"))
}

fn sweeping(server: &Server, sweep: Sweep) -> JoinHandle<Swept> {
    let store = server.open();
    tokio::spawn(async move { store.sweep(sweep).await.unwrap() })
}

fn tagging(server: &Server, host: &Host) -> JoinHandle<()> {
    let (store, host) = (server.open(), tagged(host, &["a", "b"]));
    tokio::spawn(async move { sample::commit(&store, sample::write(Revision::FIRST, &host)).await })
}

const ADD: &str = "INSERT INTO host_tags (host_id, tag) SELECT id, 'b' FROM hosts";

fn running(mut hand: Hand, sql: &'static str) -> JoinHandle<()> {
    tokio::spawn(async move { hand.run(sql).await })
}

#[tokio::test]
async fn a_tag_that_is_added_while_its_host_falls_silent_has_fallen_silent() {
    for by_hand in [false, true] {
        let (server, _store, host, sweep) = online().await;
        let mut watcher = server.by_hand().await;
        let gate = hold(&server, "events").await;
        let swept = sweeping(&server, sweep);
        watcher.until(&waiting(1)).await;
        let added = if by_hand { running(server.by_hand().await, ADD) } else { tagging(&server, &host) };
        watcher.until(&waiting(2)).await;
        release(gate).await;
        assert_eq!(swept.await.unwrap().events.len(), 1);
        added.await.unwrap();
        assert_eq!(beside_tags(&mut watcher).await, ["a: unreachable", "b: unreachable"]);
    }
}

/// Its presence is locked meanwhile, and the sweep that comes by passes over it.
#[tokio::test]
async fn a_host_falls_silent_with_a_tag_that_was_being_added() {
    for by_hand in [false, true] {
        let (server, store, host, sweep) = online().await;
        let mut watcher = server.by_hand().await;
        let gate = hold(&server, "host_tags").await;
        let added = if by_hand { running(server.by_hand().await, ADD) } else { tagging(&server, &host) };
        watcher.until(&waiting(1)).await;
        assert!(store.sweep(sweep.clone()).await.unwrap().events.is_empty());
        release(gate).await;
        added.await.unwrap();
        assert_eq!(store.sweep(sweep).await.unwrap().events.len(), 1);
        assert_eq!(beside_tags(&mut watcher).await, ["a: unreachable", "b: unreachable"]);
    }
}

#[tokio::test]
async fn a_tag_that_is_added_beside_a_cordon_is_of_a_host_that_is_cordoned() {
    const CORDON: &str = "UPDATE hosts SET cordoned = true";
    for (first, second) in [(CORDON, ADD), (ADD, CORDON)] {
        let (server, ..) = online().await;
        let (mut open, mut watcher) = (server.by_hand().await, server.by_hand().await);
        open.run(&format!("BEGIN; {first}")).await;
        let other = running(server.by_hand().await, second);
        watcher.until(SOMEBODY_WAITS).await;
        open.run("COMMIT").await;
        other.await.unwrap();
        assert_eq!(beside_tags(&mut watcher).await, ["a: online, cordoned", "b: online, cordoned"], "{first}");
    }
}
