//! What is too old goes by itself.

use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::event::NewEvent;
use enlist_core::policy::Scope;
use enlist_core::store::{Commit, EventQuery, Store};
use enlist_core::{MemoryStore, Timestamp};

use crate::world::World;

const HOUR: Duration = Duration::from_secs(60 * 60);

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
