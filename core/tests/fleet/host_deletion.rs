//! Deleting hosts: what stands in the way, what goes, and what its agent is told.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use enlist_core::conformance::sample::{at, sweep};
use enlist_core::event::EventBody;
use enlist_core::fleet::{AdminError, ContainerFilter};
use enlist_core::wire::{AgentAction, Problem};
use enlist_core::{AgentIdentity, HostId};
use serde_json::{Value, json};

use crate::watched::Watched;
use crate::world::World;

fn container(id: &str, state: &str) -> Value {
    json!({"container_id": id, "name": format!("name of {id}"), "image": "nginx", "image_tag": "1.29", "state": state})
}

async fn report(world: &World, identity: &AgentIdentity, seconds: i64, containers: &[Value], complete: bool) {
    let body = json!({"recorded_at": at(seconds), "host": {"metrics": {}}, "containers": containers,
                      "containers_complete": complete});
    world.fleet.agent(identity).live().unwrap().report_json(body.to_string().as_bytes()).await.unwrap();
}

async fn listed(world: &World, host_id: HostId) -> (Vec<String>, u64) {
    let preview = world.fleet.admin(&world.root).delete_preview(host_id).await.unwrap();
    (preview.containers.into_iter().map(|container| container.container_id).collect(), preview.total)
}

#[tokio::test]
async fn running_containers_keep_their_host_unless_it_is_deleted_by_force() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    let host_id = identity.host_id();
    let admin = world.fleet.admin(&world.root);
    let mix = [container("up", "running"), container("gone", "exited"), container("waits", "created")];
    report(&world, &identity, 0, &[container("removed", "running")], true).await;
    report(&world, &identity, 1, &mix, true).await;
    assert_eq!(listed(&world, host_id).await, (vec!["up".to_owned()], 1));
    let before = (admin.host(host_id).await.unwrap(), world.events().await.len());

    let problem = Problem::from(admin.delete_host(host_id, false).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str(), problem.total), (409, "host_has_containers", Some(1)));
    let preview = admin.delete_preview(host_id).await.unwrap();
    assert_eq!(problem.containers, preview.containers);
    assert_eq!(
        (&*preview.containers[0].name, preview.containers[0].image_tag.as_deref()),
        ("name of up", Some("1.29"))
    );
    assert_eq!((admin.host(host_id).await.unwrap(), world.events().await.len()), before);

    admin.delete_host(host_id, true).await.unwrap();
    assert!(matches!(admin.host(host_id).await, Err(AdminError::NotFound)));
}

#[tokio::test]
async fn a_host_whose_containers_have_stopped_is_deleted() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    report(&world, &identity, 0, &[container("c", "running")], true).await;
    report(&world, &identity, 1, &[container("c", "exited")], true).await;
    assert_eq!(listed(&world, identity.host_id()).await, (vec![], 0));
    world.fleet.admin(&world.root).delete_host(identity.host_id(), false).await.unwrap();
}

/// Nothing is known of them: they read as missing, and stand in nobody's way.
#[tokio::test]
async fn containers_of_a_host_that_is_not_online_are_missing_and_keep_it_from_nothing() {
    let world = World::new().running().await;
    let (silent, archived) = (world.identity("silent").await, world.identity("archived").await);
    let admin = world.fleet.admin(&world.root);
    for identity in [&silent, &archived] {
        report(&world, identity, 0, &[container("c", "running")], true).await;
        assert_eq!(listed(&world, identity.host_id()).await.1, 1);
    }
    admin.archive_host(archived.host_id()).await.unwrap();
    let mut events = Vec::new();
    // Whoever looks for the first time judges nobody.
    for seconds in [300, 600] {
        events.extend(world.store.sweep(sweep(at(seconds), Duration::from_secs(90))).await.unwrap().events);
    }
    assert_eq!(events.len(), 1);
    for host_id in [silent.host_id(), archived.host_id()] {
        let containers = admin.list_containers(host_id, ContainerFilter::default()).await.unwrap().items;
        assert!(containers.iter().all(|container| container.missing) && containers.len() == 1);
        assert_eq!(listed(&world, host_id).await, (vec![], 0));
    }
    // Derived, never stored: it is there again with the next contact.
    world.clock.advance(Duration::from_secs(700));
    report(&world, &silent, 700, &[], false).await;
    let containers = admin.list_containers(silent.host_id(), ContainerFilter::default()).await.unwrap().items;
    assert!(!containers[0].missing);
    assert_eq!(listed(&world, silent.host_id()).await.1, 1);
    admin.delete_host(archived.host_id(), false).await.unwrap();
}

#[tokio::test]
async fn of_many_running_containers_the_first_are_listed_and_all_are_counted() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    // More than are read at once, and nothing that runs among the first of them.
    let named = |range: std::ops::Range<usize>, state: &str| -> Vec<Value> {
        range.map(|n| container(&format!("c{n:04}"), state)).collect()
    };
    report(&world, &identity, 0, &named(0..500, "exited"), false).await;
    report(&world, &identity, 1, &named(500..1000, "running"), false).await;
    report(&world, &identity, 2, &named(1000..1020, "running"), false).await;
    let (listed, total) = listed(&world, identity.host_id()).await;
    assert_eq!((listed.len(), &*listed[0], &*listed[49], total), (50, "c0500", "c0549", 520));
    let admin = world.fleet.admin(&world.root);
    let problem = Problem::from(admin.delete_host(identity.host_id(), false).await.unwrap_err());
    assert_eq!((problem.containers.len(), problem.total), (50, Some(520)));
}

#[tokio::test]
async fn a_deleted_host_is_not_found_and_its_agent_is_told_that_it_is_gone() {
    let world = World::new().running().await;
    let (host_id, token) = world.in_use("a").await;
    assert_eq!(world.serve(&token).await, "ok", "and is in the cache");
    let admin = world.fleet.admin(&world.root);
    admin.delete_host(host_id, false).await.unwrap();

    let problem = Problem::from(world.fleet.authenticate(token.expose()).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str(), problem.host_id), (410, "host_deleted", Some(host_id)));
    assert_eq!(problem.action, Some(AgentAction::Stop));
    for refused in [
        admin.delete_host(host_id, false).await.unwrap_err(),
        admin.delete_host(host_id, true).await.unwrap_err(),
        admin.delete_preview(host_id).await.map(|_| ()).unwrap_err(),
        admin.archive_host(host_id).await.map(|_| ()).unwrap_err(),
        admin.tag_host(host_id, "t".parse().unwrap()).await.unwrap_err(),
    ] {
        assert_eq!(Problem::from(refused).status, 404);
    }
    assert_eq!(world.count("host.deleted").await, 1);
    let last = world.events().await.pop().unwrap();
    assert_eq!((last.host_id, last.actor), (Some(host_id), Some(world.root.id.clone())));
    assert!(matches!(last.body, EventBody::HostDeleted { name } if name.as_str() == "a"));
    world.create("a").await;
}

#[tokio::test]
async fn a_deletion_tries_again_when_somebody_was_quicker_but_not_for_ever() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let (host_id, _) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    store.conflicts.store(usize::MAX, SeqCst);
    let problem = Problem::from(admin.delete_host(host_id, false).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str()), (409, "conflict"));
    store.conflicts.store(3, SeqCst);
    admin.delete_host(host_id, false).await.unwrap();
    assert_eq!(world.count("host.deleted").await, 1);
}
