//! Agents that were away for long, and come back by themselves.

use std::time::Duration;

use enlist_core::agent_token::CredentialKind;
use enlist_core::fleet::Limits;

use crate::agent::Agent;
use crate::faults::{Faults, Victims};
use crate::server::{Server, no_losses, sqlite};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Tokens that live for 30 days.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.agent_token_life = Some(30 * DAY);
    limits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_away_comes_back_by_itself() {
    let kept = sqlite().await;
    for kind in [CredentialKind::Bearer, CredentialKind::Refresh] {
        for (away, life) in [(25 * HOUR, Limits::default()), (30 * DAY, Limits::default()), (37 * DAY - HOUR, limits())]
        {
            for restarted in [false, true] {
                let server = Server::start(&kept, Faults::new(Victims::Server), no_losses(), life.clone()).await;
                let (host_id, install_token) = server.host(kind).await;
                let mut agent = Agent::new(&server, &install_token);
                assert_eq!(agent.work(5).await, Some(1));
                server.clock.advance(away);
                let mut agent = if restarted { Agent::over(&server, agent.disk) } else { agent };
                assert!(agent.work(5).await.is_some(), "{kind:?} away for {away:?}: {:?}", agent.refused);
                assert!(agent.work(5).await.is_some());
                assert_eq!(server.alarms(host_id).await, [""; 0]);
            }
        }
    }
}

/// In the middle of a rotation, at each of its points: the successor waits as long as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_goes_away_in_a_rotation_comes_back_by_itself() {
    let kept = sqlite().await;
    for away in [25 * HOUR, 30 * DAY, 400 * DAY] {
        for planned in 0.. {
            let faults = Faults::new(Victims::Both);
            let server = Server::start(&kept, faults.clone(), no_losses(), Limits::default()).await;
            let (host_id, install_token) = server.host(CredentialKind::Bearer).await;
            let mut agent = Agent::new(&server, &install_token);
            assert_eq!(agent.work(5).await, Some(1));
            agent.rotate();
            faults.arm(planned);
            let undisturbed = agent.turn().await;
            let Some((fault, _)) = faults.outcome() else {
                assert!(undisturbed && planned > 5);
                break;
            };
            server.clock.advance(away);
            let mut agent = Agent::over(&server, agent.disk);
            assert!(agent.work(5).await.is_some(), "{fault}, away for {away:?}: {:?}", agent.refused);
            assert_eq!(server.alarms(host_id).await, [""; 0], "{fault}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_seven_days_after_its_end_a_token_needs_an_administrator() {
    let kept = sqlite().await;
    let server = Server::start(&kept, Faults::new(Victims::Server), no_losses(), limits()).await;
    let (_, install_token) = server.host(CredentialKind::Bearer).await;
    let mut agent = Agent::new(&server, &install_token);
    assert_eq!(agent.work(5).await, Some(1));
    server.clock.advance(38 * DAY);
    assert_eq!(agent.work(5).await, None);
    assert_eq!(agent.refused.as_ref().map(|code| code.as_str()), Some("token_expired"));
}
