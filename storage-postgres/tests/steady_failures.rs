//! The one statement that takes reports of hosts that go on as they did, when it fails: what is stored then, and what is
//! acknowledged.

mod common;

use common::link::{Link, Then};
use common::watched::{Watched, accepted, nothing, spawn, stopped};
use common::{Hand, full_report};
use enlist_core::conformance::sample::{self, at};
use enlist_core::store::{AppendOutcome, Store, StoreErrorKind};
use enlist_storage_postgres::PgStore;
use enlist_storage_postgres::sqlx::postgres::PgPoolOptions;

#[tokio::test]
async fn a_connection_that_is_lost_while_it_waits_is_not_acknowledged() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(1).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let lost = watched.while_it_waits(vec![agents[0].append(full_report(2))], kill).await.unwrap_err();
    assert_eq!(lost.kind(), StoreErrorKind::Unavailable);
    assert_eq!(watched.ways().await, Vec::<String>::new());
    accepted(&watched.store, [agents[0].append(full_report(2))]).await;
}

/// Rows are told before the commit: its end is what counts. It is not tried another way either, since nobody knows.
#[tokio::test]
async fn what_is_lost_in_the_commit_is_not_acknowledged() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(2).await;
    watched
        .hand
        .run(
            "CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_terminate_backend(pg_backend_pid());
                 RETURN NULL;
             END $$;
             CREATE CONSTRAINT TRIGGER end_it AFTER INSERT ON host_metric_snapshots DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION end_it()",
        )
        .await;
    for number in [1, 2] {
        let store = watched.server.open();
        // Of a store that is new, what has no containers may be taken: it knows the day.
        store.prune(&nothing(at(0))).await.unwrap();
        let group = agents[..number].iter().map(|agent| agent.append(sample::report(at(2)))).collect();
        let lost = store.append(group).await.unwrap_err();
        assert_eq!(lost.kind(), StoreErrorKind::Unavailable);
    }
    assert_eq!(watched.tries().await, "3 2");
    assert_eq!(watched.ways().await, Vec::<String>::new());
}

/// It was committed, and nobody heard of it. Takes as long as a call may take: half a minute.
#[tokio::test]
async fn what_is_not_answered_is_not_acknowledged_and_can_be_repeated() {
    let mut watched = Watched::new().await;
    let agent = watched.steady_hosts(1).await.remove(0);
    let link = Link::to(&watched.server, "cut_here", Then::Silence).await;
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy(link.url()).unwrap();
    let store = PgStore::builder(pool).build().unwrap();
    accepted(&store, [agent.append(stopped(2))]).await;
    accepted(&store, [agent.append(stopped(3))]).await;
    let mut report = stopped(4);
    report.host.custom = [("cut_here".to_owned(), 1.0)].into();
    let lost = spawn(&store, vec![agent.append(report.clone())]);
    link.reached().await;
    watched.hand.until("SELECT count(*) = 3 FROM ways").await;
    assert_eq!(watched.ways().await, ["2 transaction", "3 statement", "4 statement"]);
    assert!(!lost.is_finished());
    assert_eq!(lost.await.unwrap().unwrap_err().kind(), StoreErrorKind::Unavailable);
    let outcomes = watched.store.append(vec![agent.append(report)]).await.unwrap().outcomes;
    assert!(matches!(outcomes[..], [AppendOutcome::Duplicate]), "{outcomes:?}");
}

/// What the database says of flushing counts, but for `off`; nothing stays on the connection.
#[tokio::test]
async fn the_statement_is_durable_and_waits_for_ten_seconds() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(2).await;
    let database = watched.hand.database().await;
    for (default, seen) in [("off", "local 10s 0"), ("on", "on 10s 0"), ("remote_apply", "remote_apply 10s 0")] {
        watched.hand.run(&format!("ALTER DATABASE {database} SET synchronous_commit = {default}")).await;
        let pool = PgPoolOptions::new().max_connections(1).connect(watched.server.url()).await.unwrap();
        let store = PgStore::builder(pool.clone()).build().unwrap();
        store.prune(&nothing(at(0))).await.unwrap();
        watched.hand.run("DELETE FROM ways").await;
        let seconds = watched
            .hand
            .value("SELECT 2 + extract(epoch FROM max(newest_report_at))::bigint - 1767225600 FROM host_presence")
            .await;
        let seconds: i64 = seconds.parse().unwrap();
        accepted(&store, [agents[0].append(sample::report(at(seconds)))]).await;
        accepted(&store, agents.iter().map(|agent| agent.append(sample::report(at(seconds + 1))))).await;
        let settings = watched.hand.column("SELECT settings FROM ways ORDER BY place").await;
        assert_eq!(settings, vec![Some(seen.to_owned()); 3]);
        assert_eq!(watched.ways().await.iter().filter(|way| way.ends_with("statement")).count(), 3);
        let mut left = Hand(pool.acquire().await.unwrap().detach());
        let left =
            left.value("SELECT concat_ws(' ', current_setting('synchronous_commit'), current_setting('lock_timeout'))");
        assert_eq!(left.await, format!("{default} 0"));
    }
}

async fn refuse(hand: &mut Hand, seconds: i64, code: &str) {
    hand.run(&format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION ''refused'' USING ERRCODE = ''{code}''; END';
         CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON host_metric_snapshots FOR EACH ROW
            WHEN (extract(epoch FROM NEW.recorded_at) = {}) EXECUTE FUNCTION refuse()",
        at(seconds).unix_micros() / 1_000_000
    ))
    .await;
}

/// The statement fails whole; one by one, its neighbours are stored.
#[tokio::test]
async fn a_report_that_fails_the_statement_fails_alone() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(3).await;
    refuse(&mut watched.hand, 3, "P0001").await;
    let group = agents.iter().zip([2, 3, 4]).map(|(agent, seconds)| agent.append(full_report(seconds)));
    let outcomes = watched.store.append(group.collect()).await.unwrap().outcomes;
    let [AppendOutcome::Accepted, AppendOutcome::Failed(error), AppendOutcome::Accepted] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert_eq!(watched.ways().await, ["2 transaction", "4 transaction"]);
    // One that is stored already, past the store.
    watched
        .hand
        .run(&format!(
            "INSERT INTO host_metric_snapshots (host_id, recorded_at, received_at) VALUES ('{}', '{}', now())",
            agents[0].host.id,
            at(9)
        ))
        .await;
    let group = agents.iter().map(|agent| agent.append(full_report(9)));
    let outcomes = watched.store.append(group.collect()).await.unwrap().outcomes;
    assert!(matches!(outcomes[..], [AppendOutcome::Conflict, AppendOutcome::Accepted, AppendOutcome::Accepted]));
}

/// A statement waits for the locks of its tables without an end: what one call leaves behind, the next ones do not.
#[tokio::test]
async fn after_a_failure_of_the_engine_the_transaction_is_tried_first() {
    let mut watched = Watched::new().await;
    let agent = watched.steady_hosts(1).await.remove(0);
    refuse(&mut watched.hand, 2, "53100").await;
    for tries in ["1 1", "1 2"] {
        let refused = watched.store.append(vec![agent.append(full_report(2))]).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
        assert_eq!(watched.tries().await, tries);
    }
    accepted(&watched.store, [agent.append(full_report(3))]).await;
    accepted(&watched.store, [agent.append(full_report(4))]).await;
    assert_eq!(watched.ways().await, ["3 transaction", "4 statement"]);
}

/// The statement has stored the others by then.
#[tokio::test]
async fn when_the_engine_fails_behind_the_statement_what_it_stored_is_acknowledged() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(5).await;
    refuse(&mut watched.hand, 3, "53100").await;
    let call = agents.iter().map(|agent| agent.append(full_report(2)));
    let outcomes =
        watched.store.append(call.chain([agents[0].append(full_report(3))]).collect()).await.unwrap().outcomes;
    let (last, stored) = outcomes.split_last().unwrap();
    assert!(stored.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
    assert!(matches!(last, AppendOutcome::Failed(error) if error.kind() == StoreErrorKind::Unavailable), "{last:?}");
    assert_eq!(watched.ways().await, ["2 statement"; 5]);
}
