//! A thousand rotations over a bad line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use enlist_core::agent_token::CredentialKind;
use enlist_core::fleet::Limits;
use enlist_core::wire::AgentTokenStatus;

use crate::agent::Agent;
use crate::faults::{Faults, Victims};
use crate::server::{Losses, Server, sqlite};

const ROTATIONS: usize = 1_000;

/// Loses one reply in five, in the same order in every run.
fn one_in_five() -> (Losses, Arc<AtomicU64>) {
    let lost = Arc::new(AtomicU64::new(0));
    let state = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    let count = Arc::clone(&lost);
    let losses = move || {
        // SplitMix64: any sequence does, as long as it is always the same.
        let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let lose = (z ^ (z >> 31)).is_multiple_of(5);
        count.fetch_add(u64::from(lose), Ordering::SeqCst);
        lose
    };
    (Arc::new(losses), lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rotations_with_a_fifth_of_the_replies_lost() {
    let kept = sqlite().await;
    let (losses, lost) = one_in_five();
    let server = Server::start(&kept, Faults::new(Victims::Server), losses, Limits::default()).await;
    let (host_id, install_token) = server.host(CredentialKind::Bearer).await;
    let mut agent = Agent::new(&server, &install_token);
    assert!(agent.work(20).await.is_some());
    for rotation in 0..ROTATIONS {
        agent.rotate();
        assert!(agent.work(50).await.is_some(), "locked out at rotation {rotation}: {:?}", agent.refused);
    }
    assert!(agent.work(50).await.is_some());
    let lost = lost.load(Ordering::SeqCst);
    assert!(lost > ROTATIONS as u64 / 2, "replies were lost: {lost}");
    assert_eq!(server.alarms(host_id).await, [""; 0]);
    let tokens = server.tokens(host_id).await;
    let unused = tokens.iter().filter(|token| token.status == AgentTokenStatus::Displaced).count();
    assert_eq!((tokens.len(), unused), (ROTATIONS + 1, 0), "no token was made in vain");
}
