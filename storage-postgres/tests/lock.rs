//! What others do at the same time: locks, deadlocks, connections that are lost, commits that come late.

mod common;

use std::time::Duration;

use common::{Hand, SOMEBODY_WAITS, Server, everything, full_report, with_host};
use enlist_core::HostId;
use enlist_core::conformance::sample::{self, at};
use enlist_core::event::EventBody;
use enlist_core::host::{Host, Presence};
use enlist_core::install_token::{Binding, InstallToken};
use enlist_core::liveness::Verdict;
use enlist_core::policy::Scope;
use enlist_core::store::{
    AppendOutcome, Commit, EventQuery, Expected, HostLookup, HostWrite, Revision, Store, StoreErrorKind, Sweep, Swept,
    Write,
};
use enlist_storage_postgres::PgStore;
use futures_util::poll;

/// Whoever waits is told so; the next call has a connection again, and what was lost can be repeated.
#[tokio::test]
async fn a_connection_that_is_lost_in_the_middle_is_unavailable_once() {
    let (server, store, host) = with_host().await;
    let (mut locker, mut killer) = (server.by_hand().await, server.by_hand().await);
    locker.run("BEGIN; SELECT FROM host_presence FOR UPDATE").await;
    let report = sample::append(&host, full_report(1));
    let append = tokio::spawn({
        let (store, report) = (store.clone(), report.clone());
        async move { store.append(vec![report]).await }
    });
    killer.until(SOMEBODY_WAITS).await;
    killer
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .await;
    let refused = append.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    locker.run("COMMIT").await;
    let appended = store.append(vec![report]).await.unwrap();
    assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]), "nothing of the first is there");
    // Those that wait in the pool are lost too.
    killer
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    store.check().await.unwrap();
    assert_eq!(store.list_telemetry(&everything(&host)).await.unwrap().items.len(), 1);
}

/// A store's own pool does not ask a connection that was used just now whether it still works.
#[tokio::test]
async fn a_connection_that_was_lost_at_rest_costs_one_call_at_most() {
    let (server, _, host) = with_host().await;
    let store = PgStore::connect(server.url()).await.unwrap();
    store.check().await.unwrap();
    let mut killer = server.by_hand().await;
    killer
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    let report = sample::append(&host, full_report(1));
    if let Err(error) = store.append(vec![report.clone()]).await {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }
    let appended = store.append(vec![report]).await.unwrap();
    assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted | AppendOutcome::Duplicate]));
    store.close().await;
}

/// Somebody else takes locks in another order; the engine ends our transaction, and we make it again.
#[tokio::test]
async fn a_deadlock_is_made_again() {
    let (server, store, first) = with_host().await;
    let second = sample::host("b");
    sample::create(&store, &second).await;
    let (mut other, mut watcher) = (server.by_hand().await, server.by_hand().await);
    // So that it is ours that finds the deadlock.
    other.run("SET deadlock_timeout = '60s'; BEGIN").await;
    other.run(&format!("SELECT FROM host_presence WHERE host_id = '{}' FOR UPDATE", second.id)).await;
    let writes = [&first, &second].map(|host| sample::write(Revision::FIRST, host).into()).to_vec();
    let commit = tokio::spawn({
        let store = store.clone();
        async move { store.commit(Commit { writes, events: Vec::new() }).await }
    });
    watcher.until(SOMEBODY_WAITS).await;
    // Waits for ours, until that is ended.
    other.run(&format!("UPDATE hosts SET cordoned = cordoned WHERE id = '{}'", first.id)).await;
    other.run("COMMIT").await;
    commit.await.unwrap().unwrap();
    for host in [&first, &second] {
        assert_eq!(sample::load(&store, host.id).await.revision, Revision::new(2));
    }
}

/// The other one's is not committed yet when the guard looks for it.
#[tokio::test]
async fn two_who_make_one_install_token_are_told_of_a_conflict() {
    let (server, store, host) = with_host().await;
    let (mut first, mut watcher) = (server.by_hand().await, server.by_hand().await);
    let token = InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) };
    first
        .run(&format!(
            "BEGIN;
             INSERT INTO token_hashes VALUES (decode(repeat('0a', 32), 'hex'), '{id}');
             INSERT INTO install_tokens (id, revision, tenant_id, hash, credential_kind, state, created_by, created_at,
                                         expires_at)
             VALUES ('{id}', 1, 't', decode(repeat('0a', 32), 'hex'), 'bearer', 'issued', 'a', now(), now())",
            id = token.id
        ))
        .await;
    let second = tokio::spawn({
        let store = store.clone();
        let write = Write::TenantInstallToken { expected: Expected::Absent, token };
        async move { store.commit(Commit::of(write, Vec::new())).await }
    });
    watcher.until(SOMEBODY_WAITS).await;
    first.run("COMMIT").await;
    assert_eq!(second.await.unwrap().unwrap_err().kind(), StoreErrorKind::Conflict);
}

/// The append had begun before, and had to wait for the commit.
#[tokio::test]
async fn an_archive_that_commits_while_a_report_waits_comes_first() {
    let (server, store, host) = with_host().await;
    let (mut archiver, mut watcher) = (server.by_hand().await, server.by_hand().await);
    archiver.run("BEGIN; SELECT FROM hosts FOR UPDATE; SELECT FROM host_presence FOR UPDATE").await;
    let append = tokio::spawn({
        let (store, report) = (store.clone(), sample::append(&host, full_report(1)));
        async move { store.append(vec![report]).await }
    });
    watcher.until(SOMEBODY_WAITS).await;
    archiver.run("UPDATE hosts SET archived_at = now(); COMMIT").await;
    let appended = append.await.unwrap().unwrap();
    assert!(matches!(appended.outcomes[..], [AppendOutcome::HostArchived]), "{:?}", appended.outcomes);
    assert_eq!(watcher.value("SELECT count(*) FROM host_metric_snapshots").await, "0");
    let record = store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap();
    assert_eq!(record.presence.presence, Presence::Pending);
}

/// Hosts that were heard at these seconds, by a store whose sweeps have begun.
async fn heard(seconds: &[i64]) -> (Server, PgStore, Vec<Host>) {
    let server = Server::migrated().await;
    let store = server.open();
    sample::watch(&store).await;
    let mut hosts = Vec::new();
    for (n, seconds) in seconds.iter().enumerate() {
        let host = sample::host(&n.to_string());
        sample::create(&store, &host).await;
        store.touch(vec![sample::contact(&host, at(*seconds))]).await.unwrap();
        hosts.push(host);
    }
    (server, store, hosts)
}

async fn hold(server: &Server, hosts: &[&Host]) -> Hand {
    let mut holder = server.by_hand().await;
    holder.run("BEGIN").await;
    for host in hosts {
        holder.run(&format!("SELECT FROM host_presence WHERE host_id = '{}' FOR UPDATE", host.id)).await;
    }
    holder
}

/// One that may judge so many.
fn sweep(seconds: i64, limit: usize) -> Sweep {
    let sweep = sample::sweep(at(seconds), Duration::from_secs(90));
    Sweep { event_ids: sweep.event_ids[..limit].to_vec(), ..sweep }
}

fn fallen(swept: &Swept) -> Vec<HostId> {
    let mut fallen: Vec<_> = swept.events.iter().filter_map(|event| event.event.host_id).collect();
    fallen.sort_unstable();
    fallen
}

/// A sweep that waited for it would be given up. The next one comes by what has become of it: it is silent, or was heard.
#[tokio::test]
async fn a_sweep_passes_over_a_host_that_somebody_holds() {
    const HEARD: &str =
        "UPDATE host_presence SET last_seen_at = at, sweep_from = sweep_from(sweep_from, at, liveness_window)
                         FROM (SELECT timestamptz '2026-01-01 00:01:40Z') AS v (at) WHERE host_id = ";
    for is_heard in [false, true] {
        let (server, store, hosts) = heard(&[0, 10, 20]).await;
        let mut holder = hold(&server, &[&hosts[1]]).await;
        if is_heard {
            holder.run(&format!("{HEARD} '{}'", hosts[1].id)).await;
        }
        let swept = store.sweep(sweep(120, 100)).await.unwrap();
        assert_eq!((swept.verdict, swept.more), (Verdict::Sweep { storm: false }, false));
        assert_eq!(fallen(&swept), [hosts[0].id, hosts[2].id]);
        assert!(store.sweep(sweep(121, 100)).await.unwrap().events.is_empty(), "once, and it is held still");
        holder.run("COMMIT").await;
        let swept = store.sweep(sweep(122, 100)).await.unwrap();
        assert_eq!(fallen(&swept), if is_heard { vec![] } else { vec![hosts[1].id] });
        assert!(store.sweep(sweep(123, 100)).await.unwrap().events.is_empty());
    }
}

/// Not for the sake of those alone that are held: the next one would find the same, and the one behind it, as long as they are.
#[tokio::test]
async fn a_sweep_goes_on_at_once_where_it_came_by_a_host_that_nobody_holds() {
    let (server, store, hosts) = heard(&[0, 100, 200, 300]).await;
    let mut holders = [hold(&server, &[&hosts[0]]).await, hold(&server, &[&hosts[1]]).await];
    let swept = store.sweep(sweep(1_000, 2)).await.unwrap();
    assert_eq!((fallen(&swept), swept.more), (vec![], false));
    holders[1].run("COMMIT").await;
    for (host, more) in [(1, true), (2, true), (3, false)] {
        let swept = store.sweep(sweep(1_001, 2)).await.unwrap();
        assert_eq!((fallen(&swept), swept.more), (vec![hosts[host].id], more));
    }
    holders[0].run("COMMIT").await;
    let swept = store.sweep(sweep(1_002, 2)).await.unwrap();
    assert_eq!((fallen(&swept), swept.more), (vec![hosts[0].id], false));
}

/// As silent before it falls, as fallen after that.
#[tokio::test]
async fn a_host_that_is_passed_over_counts_once_for_a_storm() {
    let (server, store, hosts) = heard(&[0, 0, 0, 0, 0, 1_000, 1_000, 1_000, 1_000, 1_000]).await;
    let mut holder = hold(&server, &[&hosts[0]]).await;
    let swept = store.sweep(sweep(91, 100)).await.unwrap();
    assert_eq!(swept.verdict, Verdict::Holding { since: at(91), until: at(541) });
    let swept = store.sweep(sweep(541, 100)).await.unwrap();
    assert_eq!((swept.verdict, swept.events.len()), (Verdict::Sweep { storm: true }, 4));
    holder.run("COMMIT").await;
    let swept = store.sweep(sweep(542, 100)).await.unwrap();
    assert_eq!((swept.verdict, fallen(&swept)), (Verdict::Sweep { storm: true }, vec![hosts[0].id]));
    assert_eq!(swept.events[0].event.body, EventBody::HostUnreachable { last_seen_at: at(0), storm: true });
    // One more that is heard, and five of eleven are less than half.
    let well = sample::host("well");
    sample::create(&store, &well).await;
    store.touch(vec![sample::contact(&well, at(1_000))]).await.unwrap();
    assert_eq!(store.sweep(sweep(543, 100)).await.unwrap().verdict, Verdict::Sweep { storm: false });
}

/// While one commit is open that has its position, no later one can be read out.
#[tokio::test]
async fn an_event_whose_commit_comes_late_is_not_skipped() {
    let (server, store, host) = with_host().await;
    let (mut gate, mut watcher) = (server.by_hand().await, server.by_hand().await);
    // The first commit stands still when it has done everything but to commit.
    gate.run(
        "CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER stand_still AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.type = 'host.created') EXECUTE FUNCTION stand_still();
         SELECT pg_advisory_lock(4711)",
    )
    .await;
    let late = sample::event(&host);
    let first = tokio::spawn({
        let (store, events) = (store.clone(), vec![late.clone()]);
        async move { store.commit(Commit { writes: Vec::new(), events }).await }
    });
    let waiting = |number| {
        format!(
            "SELECT count(*) = {number} FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database =
                 (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    };
    watcher.until(&waiting(1)).await;
    let second = tokio::spawn({
        let (store, contact) = (server.open(), sample::contact(&host, at(9)));
        async move { store.touch(vec![contact]).await }
    });
    // It waits for its turn, behind the first one.
    watcher.until(&waiting(2)).await;
    assert!(!second.is_finished());
    assert!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.is_empty());
    gate.run("SELECT pg_advisory_unlock(4711)").await;
    let events = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()].concat();
    assert_eq!(events[0].event, late);
    assert!(events[0].position < events[1].position);
    assert_eq!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items, events);
}

/// Polled once while somebody else holds the lock, then dropped: each is there whole or not at all, and none leaves a
/// transaction open.
#[tokio::test]
async fn futures_dropped_while_they_wait_for_a_lock_leave_nothing_open() {
    let (server, store, host) = with_host().await;
    let (mut other, mut watcher) = (server.by_hand().await, server.by_hand().await);
    other.run("BEGIN; SELECT FROM host_presence FOR UPDATE; LOCK TABLE hosts IN SHARE MODE").await;
    let made: Vec<_> = (0..3).map(|n| sample::host(&format!("dropped-{n}"))).collect();
    for (n, new) in (0..).zip(&made) {
        let write =
            HostWrite { agent_tokens: vec![sample::agent_token(new)], ..HostWrite::new(Expected::Absent, new.clone()) };
        let mut commit = store.commit(Commit::of(write, vec![sample::event(new)]));
        let mut append = store.append(vec![sample::append(&host, full_report(n))]);
        assert!(poll!(commit.as_mut()).is_pending());
        assert!(poll!(append.as_mut()).is_pending());
    }
    watcher.until(&SOMEBODY_WAITS.replace("EXISTS (SELECT FROM", "(SELECT count(*) = 6 FROM")).await;
    other.run("COMMIT").await;
    watcher
        .until(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()
               AND pid <> pg_backend_pid() AND state <> 'idle'",
        )
        .await;
    for new in &made {
        // They were begun: a task of their own finishes them.
        assert_eq!(sample::load(&store, new.id).await.agent_tokens.len(), 1);
        let events = EventQuery { host_id: Some(new.id), ..EventQuery::new(Scope::All, 10) };
        assert_eq!(store.list_events(&events).await.unwrap().items.len(), 1);
    }
    let snapshots = store.list_telemetry(&everything(&host)).await.unwrap().items;
    assert_eq!(snapshots.iter().map(|snapshot| snapshot.containers.len()).collect::<Vec<_>>(), [3, 3, 3]);
}
