//! One client a host, for as long as it is there and where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use enlist_core::conformance::sample::{self, at};
use enlist_core::event::EventBody;
use enlist_core::fleet::{HostClientPool, PoolError};
use enlist_core::host::{HostField, Placement, Status};
use enlist_core::wire::{EventReply, HostBody};

use crate::world::World;

async fn host(name: &str) -> HostBody {
    let world = World::new();
    let (host_id, _) = world.in_use(name).await;
    let mut host = world.fleet.admin(&world.root).host(host_id).await.unwrap();
    host.status = Status::Online;
    host
}

fn event(host: &HostBody, body: EventBody) -> EventReply {
    EventReply {
        position: enlist_core::event::Position::new(1),
        id: sample::event_id(),
        at: at(1),
        tenant_id: host.tenant_id.clone(),
        host_id: Some(host.id),
        actor: None,
        body,
    }
}

#[tokio::test]
async fn many_callers_share_the_one_client() {
    let (pool, made, host) = (Arc::new(HostClientPool::new()), Arc::new(AtomicUsize::new(0)), host("a").await);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (pool, made, host) = (Arc::clone(&pool), Arc::clone(&made), host.clone());
            std::thread::spawn(move || *pool.client(&host, |_| Ok::<_, ()>(made.fetch_add(1, SeqCst))).unwrap())
        })
        .collect();
    assert!(callers.into_iter().all(|caller| caller.join().unwrap() == 0));
    assert_eq!(made.load(SeqCst), 1);
}

#[tokio::test]
async fn a_client_goes_with_its_host() {
    let (a, b) = (host("a").await, host("b").await);
    let archived = EventBody::HostArchived { revoked: Vec::new() };
    let deleted = EventBody::HostDeleted { name: a.name.clone() };
    let unreachable = EventBody::HostUnreachable { last_seen_at: at(1), storm: false };
    let updated = |field| EventBody::HostUpdated { fields: [field].into() };
    for (body, goes) in [
        (archived, true),
        (deleted, true),
        (unreachable, true),
        (updated(HostField::Address), true),
        (updated(HostField::Tags), false),
        (EventBody::HostCordoned {}, false),
    ] {
        let pool = HostClientPool::new();
        pool.client(&a, |_| Ok::<_, ()>(1)).unwrap();
        pool.client(&b, |_| Ok::<_, ()>(1)).unwrap();
        pool.observe(&event(&a, body.clone()));
        assert_eq!(*pool.client(&a, |_| Ok::<_, ()>(2)).unwrap(), if goes { 2 } else { 1 }, "{body:?}");
        assert_eq!(*pool.client(&b, |_| Ok::<_, ()>(2)).unwrap(), 1, "it is another's: {body:?}");
    }
}

#[tokio::test]
async fn another_address_has_another_client_and_who_is_not_online_none() {
    let (pool, host) = (HostClientPool::new(), host("a").await);
    assert_eq!(*pool.client(&host, |_| Ok::<_, ()>(1)).unwrap(), 1);
    let moved = HostBody { address: Some(Placement::new("10.0.0.8").unwrap()), ..host.clone() };
    assert_eq!(*pool.client(&moved, |_| Ok::<_, ()>(2)).unwrap(), 2);
    for status in [Status::Pending, Status::Unreachable, Status::Archived] {
        let silent = HostBody { status, ..moved.clone() };
        assert!(matches!(pool.client(&silent, |_| Ok::<_, ()>(3)), Err(PoolError::NotOnline(said)) if said == status));
        assert_eq!(*pool.client(&moved, |_| Ok::<_, ()>(4)).unwrap(), 4, "the one before was dropped");
        pool.clear();
        pool.client(&moved, |_| Ok::<_, ()>(5)).unwrap();
    }
}

#[tokio::test]
async fn a_client_that_could_not_be_made_is_not_kept() {
    let (pool, host) = (HostClientPool::<i32>::new(), host("a").await);
    assert!(matches!(pool.client(&host, |_| Err("no")), Err(PoolError::Make("no"))));
    assert_eq!(format!("{pool:?}"), "HostClientPool { hosts: 0 }");
    assert_eq!(*pool.client(&host, |_| Ok::<_, ()>(1)).unwrap(), 1);
}

/// A client that says goodbye through the pool it was in.
struct Leaving(Arc<HostClientPool<Leaving>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = format!("{:?}", self.0);
    }
}

#[tokio::test]
async fn a_client_that_goes_may_ask_the_pool() {
    let (pool, host) = (Arc::new(HostClientPool::new()), host("a").await);
    let make = |_: &HostBody| Ok::<_, ()>(Leaving(Arc::clone(&pool)));
    drop(pool.client(&host, make).unwrap());
    let moved = HostBody { address: Some(Placement::new("10.0.0.8").unwrap()), ..host.clone() };
    drop(pool.client(&moved, make).unwrap());
    pool.drop_client(host.id);
    drop(pool.client(&host, make).unwrap());
    pool.clear();
}
