//! Two agents from one copied state directory: the copy is found, the one that rotates first goes on, and an
//! administrator brings the other back.

use std::time::Duration;

use enlist_core::agent_token::{CredentialKind, RETIRE_GRACE};
use enlist_core::fleet::{EventFilter, Limits};
use enlist_core::wire::Code;

use crate::agent::Agent;
use crate::faults::{Faults, Victims};
use crate::server::{Server, no_losses, sqlite};

async fn fleet_with_a_host() -> (crate::server::Kept, Server, enlist_core::HostId, Agent) {
    let kept = sqlite().await;
    let server = Server::start(&kept, Faults::new(Victims::Server), no_losses(), Limits::default()).await;
    let (host_id, install_token) = server.host(CredentialKind::Bearer).await;
    let mut agent = Agent::new(&server, &install_token);
    assert_eq!(agent.work(5).await, Some(1));
    (kept, server, host_id, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loser_of_a_rotation_is_found_when_it_speaks_after_the_grace() {
    let (_kept, server, host_id, mut first) = fleet_with_a_host().await;
    let mut second = Agent::over(&server, first.disk.copy());
    assert_eq!(second.work(5).await, Some(1), "as long as nobody rotates they look alike");
    first.rotate();
    assert_eq!(first.work(5).await, Some(1));
    server.clock.advance(RETIRE_GRACE + Duration::from_secs(1));
    assert_eq!(second.work(1).await, None);
    assert_eq!(second.refused, Some(Code::TokenReuseDetected));
    assert_eq!(server.alarms(host_id).await, ["agent_token.reuse_detected"]);
    assert!(first.work(5).await.is_some(), "whoever completed the rotation goes on");

    // The administrator looks, and gives the other machine a host of its own.
    let fleet = server.fleet();
    let filter = EventFilter { r#type: Some("agent_token.reuse_detected".into()), ..EventFilter::default() };
    let events = fleet.admin(&server.root).list_events(filter).await.expect("events").items;
    assert_eq!(events[0].host_id, Some(host_id), "the event says which host");
    let (own, install_token) = server.host(CredentialKind::Bearer).await;
    second.reinstall(&install_token);
    assert!(second.work(5).await.is_some(), "{:?}", second.refused);
    assert!(first.work(5).await.is_some());
    assert_ne!(own, host_id);
    assert_eq!(server.alarms(own).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_both_propose_are_found_at_once() {
    let (_kept, server, host_id, mut first) = fleet_with_a_host().await;
    let mut second = Agent::over(&server, first.disk.copy());
    assert_eq!(second.work(5).await, Some(1));
    // The first has proposed and is cut off before it presents its successor.
    server.faults.arm(4);
    first.rotate();
    let _ = first.turn().await;
    second.rotate();
    second.work(5).await.expect("the copy works on with what it has");
    let found = server.alarms(host_id).await;
    assert_eq!(found, ["rotation.conflict"], "{:?}", server.faults.outcome());
    assert!(first.work(5).await.is_some(), "the first completes its rotation");
    server.clock.advance(RETIRE_GRACE + Duration::from_secs(1));
    assert_eq!(second.work(3).await, None);
    assert!(first.work(5).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_was_set_back_comes_back_with_a_token_delivered_by_hand() {
    let (_kept, server, host_id, mut agent) = fleet_with_a_host().await;
    let old = agent.disk.copy();
    agent.rotate();
    assert_eq!(agent.work(5).await, Some(1));
    server.clock.advance(RETIRE_GRACE + Duration::from_secs(1));
    let mut agent = Agent::over(&server, old);
    assert_eq!(agent.work(3).await, None);
    let fleet = server.fleet();
    let issued = fleet.admin(&server.root).issue_agent_token(host_id, Default::default()).await.expect("a token");
    agent.deliver(issued.token);
    assert!(agent.work(5).await.is_some(), "{:?}", agent.refused);
    // It stays in the unit file, and is not tried again once it was rotated.
    agent.rotate();
    assert!(agent.work(5).await.is_some());
    server.clock.advance(RETIRE_GRACE + Duration::from_secs(1));
    let alarms = server.alarms(host_id).await.len();
    agent.restart();
    assert!(agent.work(5).await.is_some());
    assert_eq!(server.alarms(host_id).await.len(), alarms);
}
