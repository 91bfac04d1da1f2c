//! What is too old goes by itself.

use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::event::NewEvent;
use enlist_core::fleet::TokenFilter;
use enlist_core::policy::Scope;
use enlist_core::store::{Commit, EventQuery, Store};
use enlist_core::wire::{Code, Problem};
use enlist_core::{MemoryStore, Timestamp};

use crate::world::{World, agent_token};

const HOUR: Duration = Duration::from_secs(60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

async fn event_times(store: &MemoryStore) -> Vec<Timestamp> {
    let page = store.list_events(&EventQuery::new(Scope::All, 5_000)).await.unwrap();
    page.items.into_iter().map(|event| event.event.at).collect()
}

/// At the start, however much there is, and then every hour.
#[tokio::test(start_paused = true)]
async fn the_drivers_delete_what_is_too_old() {
    let store = MemoryStore::new();
    let host = sample::host("a");
    let old = (0..2_500).map(|_| NewEvent { at: at(0), ..sample::event(&host) });
    let young = NewEvent { at: at(3_600), ..sample::event(&host) };
    store.commit(Commit { writes: Vec::new(), events: old.chain([young]).collect() }).await.unwrap();
    let world = World::with(store.clone(), |builder| builder);
    world.clock.advance(365 * 24 * HOUR);
    let world = world.running().await;
    assert_eq!(event_times(&store).await.len(), 2_501, "exactly a year old is not too old");
    world.clock.advance(Duration::from_micros(1));
    tokio::time::sleep(HOUR + Duration::from_secs(1)).await;
    let left = event_times(&store).await;
    assert_eq!((left.len(), left[0]), (1, at(3_600)));
    world.clock.advance(2 * HOUR);
    tokio::time::sleep(HOUR).await;
    assert!(event_times(&store).await.is_empty());
}

/// A year after its host was deleted, an agent is not told of it any more.
#[tokio::test(start_paused = true)]
async fn the_drivers_forget_deleted_hosts_after_a_year() {
    let world = World::new();
    let (host_id, token) = world.in_use("a").await;
    world.fleet.admin(&world.root).delete_host(host_id, true).await.unwrap();
    world.clock.advance(YEAR);
    let world = world.running().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.serve(&token).await, "host_deleted", "exactly a year old is not too old");
    world.clock.advance(Duration::from_micros(1));
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.serve(&token).await, "invalid_token");
}

/// A year after it was spent; not while what it bought may still be asked for by the same claim.
#[tokio::test(start_paused = true)]
async fn the_drivers_delete_install_tokens_that_were_spent_a_year_ago() {
    let world = World::new();
    let (host_id, spent) = world.create("a").await;
    let token = agent_token();
    world.exchange(&spent, Some(token.hash())).await.unwrap();
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    world.clock.advance(YEAR + Duration::from_micros(1));
    let world = world.running().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.exchange(&spent, Some(token.hash())).await.expect("the same answer again");
    world.fleet.admin(&world.root).revoke_agent_token(host_id, identity.token_id()).await.unwrap();
    tokio::time::sleep(HOUR).await;
    let listed = world.fleet.admin(&world.root).list_install_tokens(host_id, TokenFilter::default()).await.unwrap();
    assert_eq!(listed.items.len(), 0);
    let refused = world.exchange(&spent, Some(token.hash())).await.unwrap_err();
    assert_eq!(Problem::from(refused).code, Code::InvalidInstallToken);
    // What was never exchanged counts from its expiry.
    let (other, _) = world.create("b").await;
    world.clock.advance(YEAR + Duration::from_secs(15 * 60));
    tokio::time::sleep(HOUR).await;
    let listed = async || {
        let admin = world.fleet.admin(&world.root);
        admin.list_install_tokens(other, TokenFilter::default()).await.unwrap().items.len()
    };
    assert_eq!(listed().await, 1);
    world.clock.advance(Duration::from_micros(1));
    tokio::time::sleep(HOUR).await;
    assert_eq!(listed().await, 0);
}
