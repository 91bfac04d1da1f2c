//! Cut-offs told to others, and the connection that tells of them.

mod common;

use std::time::Duration;

use common::{Server, cut_off, pool, with_host};
use enlist_core::agent_token::RevokeReason;
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::store::{Change, Commit, Expected, HostWrite, Revision, Store, StoreErrorKind, Subscription};
use enlist_storage_postgres::PgStore;
use futures_util::poll;

async fn next(subscription: &mut Box<dyn Subscription>) -> Change {
    let change = tokio::time::timeout(Duration::from_secs(20), subscription.next()).await;
    change.expect("a change is told")
}

const KILL_LISTENERS: &str = "
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')";

#[tokio::test]
async fn a_subscription_that_loses_its_connection_tells_of_a_gap_and_goes_on() {
    let (server, here, _) = with_host().await;
    let there = server.open_through_pooler();
    let mut subscription = there.subscribe().await.unwrap().expect("there is a direct way");
    // Told without being asked.
    let token = cut_off(&here, "b").await;
    assert_eq!(next(&mut subscription).await, Change::AgentTokens(vec![token.hash]));
    let mut hand = server.by_hand().await;
    hand.run(KILL_LISTENERS).await;
    assert_eq!(next(&mut subscription).await, Change::Gap);
    let token = cut_off(&here, "c").await;
    subscription.sync().await.unwrap();
    assert_eq!(next(&mut subscription).await, Change::AgentTokens(vec![token.hash]));
    // Also when it is found out only by asking.
    hand.run(KILL_LISTENERS).await;
    let token = cut_off(&here, "d").await;
    subscription.sync().await.unwrap();
    assert!([Change::Gap, Change::AgentTokens(vec![token.hash])].contains(&next(&mut subscription).await));
}

#[tokio::test]
async fn what_is_not_committed_is_not_told() {
    let (server, store, host) = with_host().await;
    let mut subscription = server.open().subscribe().await.unwrap().expect("there is a direct way");
    let token = sample::agent_token(&host).revoke(RevokeReason::Administrator, at(2)).unwrap();
    let twin = Host { name: host.name.clone(), ..sample::host("twin") };
    let mut write = sample::write(Revision::FIRST, &host);
    write.agent_tokens = vec![token];
    let writes = vec![write.into(), HostWrite::new(Expected::Absent, twin).into()];
    let refused = store.commit(Commit { writes, events: Vec::new() }).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::NameTaken);
    subscription.sync().await.unwrap();
    assert!(poll!(subscription.next()).is_pending());
}

#[tokio::test]
async fn a_listening_connection_ends_with_its_subscription() {
    let (server, store, _) = with_host().await;
    let subscription = store.subscribe().await.unwrap().expect("there is a direct way");
    let mut hand = server.by_hand().await;
    let listening =
        "SELECT count(*) = {} FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    hand.until(&listening.replace("{}", "1")).await;
    drop(subscription);
    hand.until(&listening.replace("{}", "0")).await;
}

/// It would listen in silence for ever, while revoked tokens go on.
#[tokio::test]
async fn a_way_that_leads_to_another_database_is_no_subscription() {
    let (server, elsewhere) = (Server::migrated().await, Server::migrated().await);
    let store = PgStore::builder(server.pool()).listen_url(elsewhere.url()).build().unwrap();
    let refused = store.subscribe().await.err().expect("it is deaf");
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn a_way_that_leads_through_a_pooler_is_no_subscription() {
    let server = Server::migrated().await;
    let url = enlist_testing::pooler_url(&server.by_hand().await.database().await).unwrap();
    // Whether what is told goes through the pooler as well or not.
    for (pool, through_pooler) in [(pool(&url), true), (server.pool(), false)] {
        let store = PgStore::builder(pool).through_pooler(through_pooler).listen_url(&url).build().unwrap();
        let refused = store.subscribe().await.err().expect("it is deaf");
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn the_greeting_of_another_subscription_is_no_change() {
    let (server, store, _) = with_host().await;
    let mut first = store.subscribe().await.unwrap().expect("there is a direct way");
    let _second = server.open().subscribe().await.unwrap().expect("there is a direct way");
    first.sync().await.unwrap();
    assert!(poll!(first.next()).is_pending());
}
