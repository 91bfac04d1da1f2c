//! How things end in a file: who is told, what is left, what goes.

mod common;

use std::time::Duration;

use common::{File, Hand, prune_nothing};
use enlist_core::Timestamp;
use enlist_core::agent_token::{AgentToken, AgentTokenState, RevokeReason};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{Host, Presence};
use enlist_core::policy::Scope;
use enlist_core::store::{
    AppendOutcome, Change, Commit, ContainerQuery, ContainerRecord, EventQuery, Expected, HostLookup, HostQuery,
    HostWrite, Known, Prune, Pruned, Revision, Store, StoreErrorKind, Subscription, TelemetryQuery, Write,
};
use enlist_core::telemetry::{HostSnapshot, Report};
use enlist_storage_sqlite::SqliteStore;
use futures_util::{FutureExt, poll};

/// A host with one Active agent token.
async fn enrolled() -> (File, SqliteStore, Host, AgentToken) {
    let file = File::migrated().await;
    let store = file.open().await;
    let host = sample::host("a");
    let token = AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
    (file, store, host, token)
}

async fn revoke(store: &SqliteStore, host: &Host, token: &AgentToken) {
    let revoked = AgentTokenState::Revoked { at: at(9), reason: RevokeReason::Administrator };
    let revision = sample::load(store, host.id).await.revision;
    let mut write = sample::write(revision, host);
    write.agent_tokens = vec![AgentToken { state: revoked, ..token.clone() }];
    sample::commit(store, write).await;
}

async fn delete(store: &SqliteStore, host: &Host) {
    let expected = sample::load(store, host.id).await.revision;
    let deletion = Write::HostDeletion { expected, host_id: host.id, at: at(20) };
    store.commit(Commit::of(deletion, vec![sample::event(host)])).await.unwrap();
}

fn waiting(subscription: &mut dyn Subscription) -> Option<Change> {
    subscription.next().now_or_never()
}

fn telling(hand: &mut Hand, changes: usize) {
    hand.run(&format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {changes})
         INSERT INTO credential_changes (hash) SELECT randomblob(32) FROM n"
    ));
}

async fn telemetry(store: &SqliteStore, host: &Host) -> Vec<HostSnapshot> {
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 1_000);
    store.list_telemetry(&query).await.unwrap().items
}

async fn containers(store: &SqliteStore, host: &Host) -> Vec<ContainerRecord> {
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 1_000 };
    store.list_containers(&query).await.unwrap().items
}

async fn containers_version(store: &SqliteStore, host: &Host) -> u64 {
    store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap().presence.containers_version
}

fn complete(seconds: i64, containers: &[&str]) -> Report {
    let containers = containers.iter().map(|id| sample::container(id)).collect();
    Report { containers, containers_complete: true, ..sample::report(at(seconds)) }
}

async fn append(store: &SqliteStore, host: &Host, report: Report) -> AppendOutcome {
    store.append(vec![sample::append(host, report)]).await.unwrap().outcomes.remove(0)
}

#[tokio::test]
async fn a_revocation_and_a_deletion_are_told_in_another_process() {
    let (file, here, host, token) = enrolled().await;
    let there = file.open().await;
    let mut told = there.subscribe().await.unwrap().unwrap();
    let mut told_at_home = here.subscribe().await.unwrap().unwrap();
    told.sync().await.unwrap();
    assert_eq!(waiting(&mut *told), None);
    revoke(&here, &host, &token).await;
    for told in [&mut told, &mut told_at_home] {
        told.sync().await.unwrap();
        assert_eq!(waiting(&mut **told), Some(Change::AgentTokens(vec![token.hash])));
        told.sync().await.unwrap();
        assert_eq!(waiting(&mut **told), None);
    }
    // Who begins now is told of what comes.
    let mut late = there.subscribe().await.unwrap().unwrap();
    late.sync().await.unwrap();
    assert_eq!(waiting(&mut *late), None);
    delete(&here, &host).await;
    for told in [&mut told, &mut late] {
        told.sync().await.unwrap();
        assert_eq!(waiting(&mut **told), Some(Change::AgentTokens(vec![token.hash])));
    }
}

/// Each is polled once: its answer may be there by then, may be lost with it, or was never read.
#[tokio::test]
async fn a_sync_that_is_dropped_loses_nothing() {
    let (_file, store, _, _) = enrolled().await;
    let mut told = store.subscribe().await.unwrap().unwrap();
    let (mut ended, mut heard) = (Vec::new(), Vec::new());
    for n in 0..50 {
        let host = sample::host(&format!("dropped-{n}"));
        let token = sample::agent_token(&host);
        sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
        revoke(&store, &host, &token).await;
        ended.push(token.hash);
        let _ = poll!(told.sync());
    }
    told.sync().await.unwrap();
    while let Some(Change::AgentTokens(hashes)) = waiting(&mut *told) {
        heard.extend(hashes);
    }
    assert_eq!(heard, ended);
}

#[tokio::test]
async fn changes_that_were_trimmed_unread_are_a_gap() {
    let (file, store, host, token) = enrolled().await;
    let mut hand = file.by_hand();
    let mut told = store.subscribe().await.unwrap().unwrap();
    telling(&mut hand, 100_000);
    told.sync().await.unwrap();
    let Some(Change::AgentTokens(all)) = waiting(&mut *told) else { panic!("none of these was trimmed") };
    assert_eq!(all.len(), 100_000);
    telling(&mut hand, 100_001);
    told.sync().await.unwrap();
    assert_eq!(waiting(&mut *told), Some(Change::Gap));
    assert_eq!(waiting(&mut *told), None);
    assert_eq!(hand.count("credential_changes"), 100_000);
    // Behind the gap it goes on.
    revoke(&store, &host, &token).await;
    told.sync().await.unwrap();
    assert_eq!(waiting(&mut *told), Some(Change::AgentTokens(vec![token.hash])));
    // A hand that empties it is noticed, before and after more comes.
    hand.run("DELETE FROM credential_changes");
    told.sync().await.unwrap();
    assert_eq!(waiting(&mut *told), Some(Change::Gap));
    telling(&mut hand, 1);
    told.sync().await.unwrap();
    assert_eq!(waiting(&mut *told), Some(Change::Gap));
}

#[tokio::test]
async fn a_store_that_was_closed_cannot_promise_to_tell() {
    let (_file, store, _, _) = enrolled().await;
    let mut told = store.subscribe().await.unwrap().unwrap();
    store.close().await;
    assert_eq!(told.sync().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
}

/// Both in one process's eyes: the other's contact wins, also over a verdict that was thought of before it.
#[tokio::test]
async fn silence_is_judged_on_what_any_process_has_stored() {
    let (file, here, host, _) = enrolled().await;
    let there = file.open().await;
    let unheard = sample::host("unheard");
    sample::create(&here, &unheard).await;
    sample::watch(&here).await;
    let fallen =
        async |seconds| here.sweep(sample::sweep(at(seconds), Duration::from_secs(90))).await.unwrap().events.len();
    here.touch(vec![sample::contact(&host, at(10))]).await.unwrap();
    there.touch(vec![sample::contact(&host, at(50))]).await.unwrap();
    assert_eq!(fallen(110).await, 0);
    assert_eq!(fallen(150).await, 1);
    assert_eq!(fallen(151).await, 0);
    // Once, for whoever asks.
    let presence = there.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap().presence.presence;
    assert_eq!(presence, Presence::Unreachable { last_seen_at: at(50), since: at(150) });
    assert_eq!(there.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_deleted_host_shows_nothing_at_once_and_leaves_nothing_in_the_end() {
    let (file, store, host, token) = enrolled().await;
    let other = sample::host("other");
    sample::create(&store, &other).await;
    for seconds in 1..=5 {
        append(&store, &host, complete(seconds, &["x", "y"])).await;
        append(&store, &other, complete(seconds, &["x", "z"])).await;
    }
    let kept = (telemetry(&store, &other).await, containers(&store, &other).await);
    delete(&store, &host).await;
    assert!(telemetry(&store, &host).await.is_empty());
    assert!(containers(&store, &host).await.is_empty());
    assert!(matches!(append(&store, &host, complete(6, &["x"])).await, AppendOutcome::HostAbsent));
    let mut hand = file.by_hand();
    assert_eq!(hand.count("host_metric_snapshots"), 10);
    assert_eq!(hand.count("deleted_hosts"), 1);
    // Two of each kind in a call: 5 snapshots and 2 containers.
    let mut calls = Vec::new();
    loop {
        let Pruned { rows, more } = store.prune(&Prune { limit: 2, ..prune_nothing() }).await.unwrap();
        calls.push(rows);
        if !more {
            break;
        }
        assert_eq!(hand.count("deleted_hosts"), 1);
    }
    assert_eq!(calls, [4, 2, 1]);
    assert_eq!(hand.count("deleted_hosts"), 0);
    assert_eq!(hand.count("host_metric_snapshots"), 5);
    assert_eq!(hand.count("container_metric_snapshots"), 10);
    assert_eq!(hand.count("containers"), 2);
    assert_eq!((telemetry(&store, &other).await, containers(&store, &other).await), kept);
    // Its token says so for as long as it was asked to.
    let known = store.authenticate(&token.hash).await.unwrap();
    let Some(Known::Tombstone(tombstone)) = known else { panic!("{known:?}") };
    assert_eq!((tombstone.token_id, tombstone.host_id, tombstone.deleted_at), (token.id, host.id, at(20)));
}

#[tokio::test]
async fn a_hash_is_free_again_once_its_tombstone_is_pruned() {
    let (_file, store, host, token) = enrolled().await;
    delete(&store, &host).await;
    let again = sample::host("again");
    let same_hash = AgentToken { hash: token.hash, ..sample::agent_token(&again) };
    let write = HostWrite { agent_tokens: vec![same_hash], ..HostWrite::new(Expected::Absent, again.clone()) };
    let commit = Commit::of(write, Vec::new());
    for (before, refused) in [(at(20), Some(StoreErrorKind::HashSeen)), (at(21), None)] {
        store.prune(&Prune { tombstones_before: before, ..prune_nothing() }).await.unwrap();
        assert_eq!(store.commit(commit.clone()).await.err().map(|error| error.kind()), refused);
    }
    assert!(matches!(store.authenticate(&token.hash).await.unwrap(), Some(Known::Credential(_))));
}

#[tokio::test]
async fn the_guard_of_a_deletion_comes_before_any_clash() {
    let (_file, store, host, _) = enrolled().await;
    let deletion = |expected| Write::HostDeletion { expected, host_id: host.id, at: at(20) };
    let twin = |name: &str| {
        Write::from(HostWrite::new(Expected::Absent, Host { name: host.name.clone(), ..sample::host(name) }))
    };
    let refusal = async |writes| store.commit(Commit { writes, events: Vec::new() }).await.unwrap_err().kind();
    assert_eq!(refusal(vec![twin("b"), deletion(Revision::new(7))]).await, StoreErrorKind::Conflict);
    let twice = vec![deletion(Revision::FIRST), twin("b"), twin("c"), deletion(Revision::FIRST)];
    assert_eq!(refusal(twice).await, StoreErrorKind::Conflict);
    assert_eq!(refusal(vec![twin("b"), deletion(Revision::FIRST)]).await, StoreErrorKind::NameTaken);
    assert!(store.list_hosts(&HostQuery::new(Scope::All, 10)).await.unwrap().items.len() == 1);
    // In this order the name is free.
    store.commit(Commit { writes: vec![deletion(Revision::FIRST), twin("b")], events: Vec::new() }).await.unwrap();
}

#[tokio::test]
async fn a_position_is_never_given_twice_whatever_was_pruned() {
    let (file, store, host, _) = enrolled().await;
    let commit = |host: &Host| Commit { writes: Vec::new(), events: vec![sample::event(host), sample::event(host)] };
    let first = store.commit(commit(&host)).await.unwrap();
    let pruned = store.prune(&Prune { events_before: Timestamp::MAX, ..prune_nothing() }).await.unwrap();
    assert_eq!(pruned, Pruned { rows: 2, more: false });
    assert!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.is_empty());
    // Also by whoever opens the file next.
    store.close().await;
    let second = file.open().await.commit(commit(&host)).await.unwrap();
    assert!(second[0].position > first[1].position);
}

#[tokio::test]
async fn a_container_goes_and_the_snapshots_that_name_it_stay_whole() {
    let (file, store, host, _) = enrolled().await;
    let mut hand = file.by_hand();
    append(&store, &host, complete(10, &["gone", "stays"])).await;
    append(&store, &host, complete(20, &["stays"])).await;
    let (snapshots, version) = (telemetry(&store, &host).await, containers_version(&store, &host).await);
    let asked = Prune { containers_removed_before: at(20), snapshots_before: at(10), ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 0, more: false });
    assert_eq!(containers_version(&store, &host).await, version);
    let asked = Prune { containers_removed_before: at(21), ..asked };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 1, more: false });
    assert_eq!(containers_version(&store, &host).await, version + 1);
    let left = containers(&store, &host).await;
    assert_eq!(left.iter().map(|row| row.container.container_id.as_str()).collect::<Vec<_>>(), ["stays"]);
    assert_eq!(telemetry(&store, &host).await, snapshots);
    let again = append(&store, &host, complete(10, &["gone", "stays"])).await;
    assert!(matches!(again, AppendOutcome::Duplicate), "{again:?}");
    // Named again by a report of then, and no longer than until then.
    append(&store, &host, complete(30, &["stays"])).await;
    append(&store, &host, complete(25, &["gone", "older"])).await;
    let asked = Prune { snapshots_before: at(25), ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 2, more: false });
    assert_eq!(telemetry(&store, &host).await[0].containers.len(), 2);
    assert_eq!(hand.count("containers"), 3);
    let asked = Prune { snapshots_before: at(26), ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 1, more: false });
    assert_eq!(hand.count("containers"), 1);
    // It begins anew.
    append(&store, &host, complete(40, &["gone", "stays"])).await;
    assert_eq!(containers(&store, &host).await[0].first_seen_at, at(40));
}

#[tokio::test]
async fn a_key_stays_while_the_limit_leaves_a_snapshot_that_names_it() {
    let (file, store, host, _) = enrolled().await;
    append(&store, &host, complete(10, &["gone"])).await;
    append(&store, &host, complete(11, &["gone"])).await;
    append(&store, &host, complete(12, &[])).await;
    let asked = Prune { containers_removed_before: at(30), snapshots_before: at(30), limit: 1, ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 2, more: true });
    assert_eq!(telemetry(&store, &host).await[0].containers.len(), 1);
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 1, more: true });
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 1, more: false });
    assert_eq!(file.by_hand().count("containers"), 0);
}

/// SQLite gives the id of the last row again once that row is gone.
#[tokio::test]
async fn the_numbers_of_an_older_report_never_stand_for_those_of_the_newest() {
    let (_file, store, host, _) = enrolled().await;
    append(&store, &host, complete(20, &["x"])).await;
    assert!(containers(&store, &host).await[0].container.metrics.is_some());
    let pruned = store.prune(&Prune { snapshots_before: at(21), ..prune_nothing() }).await.unwrap();
    assert_eq!(pruned, Pruned { rows: 1, more: false });
    append(&store, &host, complete(10, &["x"])).await;
    let left = containers(&store, &host).await;
    assert_eq!(left.len(), 1);
    assert!(left[0].container.metrics.is_none());
    let presence = store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap().presence;
    assert_eq!(presence.newest_report_at, Some(at(20)));
    // The newest itself, sent once more.
    append(&store, &host, complete(20, &["x"])).await;
    assert!(containers(&store, &host).await[0].container.metrics.is_some());
}

/// Found by host, since there is no index by time: none is passed over.
#[tokio::test]
async fn snapshots_of_every_host_go_to_the_row() {
    let (_file, store, host, _) = enrolled().await;
    let hosts = [host, sample::host("b"), sample::host("c")];
    for host in &hosts[1..] {
        sample::create(&store, host).await;
    }
    for seconds in 1..=4 {
        for host in &hosts {
            append(&store, host, complete(seconds, &["x"])).await;
        }
    }
    let asked = Prune { snapshots_before: at(3), limit: 4, ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 4, more: true });
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 2, more: false });
    for host in &hosts {
        let times: Vec<_> = telemetry(&store, host).await.iter().map(|snapshot| snapshot.recorded_at).collect();
        assert_eq!(times, [at(3), at(4)]);
    }
}

/// From the beginning of the table on, and wherever else: behind one that is not old, and of an agent that caught up late.
#[tokio::test]
async fn old_snapshots_go_whatever_the_order_in_which_they_came() {
    for limit in [1, 2, 3, 100] {
        let (file, store, host, _) = enrolled().await;
        let other = sample::host("other");
        sample::create(&store, &other).await;
        for seconds in [1, 2, 10, 3, 4, 11, 5] {
            append(&store, &host, complete(seconds, &["x"])).await;
            append(&store, &other, complete(seconds + 1, &["y"])).await;
        }
        let asked = Prune { snapshots_before: at(5), limit, ..prune_nothing() };
        let mut rows = Vec::new();
        loop {
            let pruned = store.prune(&asked).await.unwrap();
            rows.push(pruned.rows);
            if !pruned.more {
                break;
            }
        }
        // 1 to 4 of the one, 2 to 4 of the other; as many in each call as it may.
        let full = 7 / limit;
        assert_eq!(rows[..full], vec![limit as u64; full]);
        assert_eq!(rows.iter().sum::<u64>(), 7);
        for (host, left) in [(&host, [5, 10, 11].as_slice()), (&other, &[5, 6, 11, 12])] {
            let times: Vec<_> = telemetry(&store, host).await.iter().map(|snapshot| snapshot.recorded_at).collect();
            assert_eq!(times, left.iter().map(|seconds| at(*seconds)).collect::<Vec<_>>());
        }
        assert_eq!(file.by_hand().count("report_containers"), 7);
    }
}

/// They lie anywhere in the file, unlike those that are old, and cost more.
#[tokio::test]
async fn the_reports_of_a_deleted_host_go_a_thousand_at_a_time() {
    let (file, store, host, _) = enrolled().await;
    let appends = (1..=1_100).map(|seconds| sample::append(&host, sample::report(at(seconds)))).collect();
    store.append(appends).await.unwrap();
    delete(&store, &host).await;
    let asked = Prune { limit: 4_000, ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 1_000, more: true });
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 100, more: false });
    assert_eq!(file.by_hand().count("host_metric_snapshots"), 0);
}

/// A call has the writer for no longer than about 20,000 rows take, however many containers reports have.
#[tokio::test]
async fn reports_of_many_containers_go_a_few_at_a_time() {
    let (file, store, host, _) = enrolled().await;
    let names: Vec<_> = (0..512).map(|number| format!("container {number:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let appends = (1..=45).map(|seconds| sample::append(&host, complete(seconds, &names))).collect();
    store.append(appends).await.unwrap();
    // Twelve of a report's stand in one row.
    let mut hand = file.by_hand();
    assert_eq!(hand.count("report_containers_more"), 45 * 500);
    let asked = Prune { snapshots_before: at(46), limit: 1_000, ..prune_nothing() };
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 40, more: true });
    assert_eq!(hand.count("report_containers_more"), 5 * 500);
    assert_eq!(store.prune(&asked).await.unwrap(), Pruned { rows: 5, more: false });
    assert_eq!(hand.count("report_containers_more"), 0);
}
