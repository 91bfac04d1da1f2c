//! What others cut off is told. A store that cannot tell says so by giving no subscription; fleets then trust what
//! they remember for a second only, and nothing is left to prove here.

use futures_util::FutureExt;

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState, Origin, RevokeReason};
use crate::host::Host;
use crate::secret::TokenHash;
use crate::store::{Change, Commit, HostWrite, Revision, Store, Subscription, Write};

/// Everything that can be read without waiting. Nothing was missed here, so a gap would be a false alarm.
async fn told(subscription: &mut Box<dyn Subscription>) -> Vec<TokenHash> {
    subscription.sync().await.expect("the store is there");
    let mut hashes = Vec::new();
    while let Some(change) = subscription.next().now_or_never() {
        match change {
            Change::AgentTokens(some) => hashes.extend(some),
            Change::Gap => panic!("nothing was missed"),
        }
    }
    hashes
}

async fn with_active_token(store: &impl Store) -> (Host, AgentToken) {
    let host = sample::host(&sample::hash().to_hex());
    let token = AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    sample::create_with_tokens(store, &host, vec![token.clone()]).await;
    (host, token)
}

async fn write_tokens(store: &impl Store, host: &Host, tokens: Vec<AgentToken>) {
    let revision = sample::load(store, host.id).await.revision;
    sample::commit(store, HostWrite { agent_tokens: tokens, ..sample::write(revision, host) }).await;
}

/// To every subscription, through whichever handle it was begun.
pub async fn a_revocation_is_told(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let (host, token) = with_active_token(&here).await;
    let Some(mut near) = here.subscribe().await.unwrap() else { return };
    let mut far = there.subscribe().await.unwrap().expect("a store that can tell can always tell");
    let hash = token.hash;
    write_tokens(&here, &host, vec![token.revoke(RevokeReason::Administrator, at(2)).unwrap()]).await;
    for subscription in [&mut near, &mut far] {
        assert!(told(subscription).await.contains(&hash));
        assert!(told(subscription).await.is_empty(), "once is enough");
    }
}

/// A retired token, a displaced one, many revoked at once, and those that go with their host.
pub async fn every_way_to_be_cut_off_is_told(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let Some(mut subscription) = there.subscribe().await.unwrap() else { return };

    let (host, active) = with_active_token(&here).await;
    let origin = Origin::Proposed { predecessor: active.id };
    let next = AgentToken { lineage_id: active.lineage_id, origin, ..sample::agent_token(&host) };
    let promoted = next.promote(None, at(2)).unwrap();
    let hash = active.hash;
    write_tokens(&here, &host, vec![active.retire(&promoted, at(2)).unwrap(), promoted]).await;
    assert!(told(&mut subscription).await.contains(&hash));

    let pending = sample::agent_token(&host);
    write_tokens(&here, &host, vec![pending.clone()]).await;
    let hash = pending.hash;
    write_tokens(&here, &host, vec![pending.displace(sample::agent_token(&host).id, at(3)).unwrap()]).await;
    assert!(told(&mut subscription).await.contains(&hash));

    let crowd: Vec<_> = (0..300).map(|_| sample::agent_token(&host)).collect();
    write_tokens(&here, &host, crowd.clone()).await;
    let hashes: Vec<_> = crowd.iter().map(|token| token.hash).collect();
    let revoked = crowd.into_iter().map(|token| token.revoke(RevokeReason::HostArchived, at(4)).unwrap()).collect();
    write_tokens(&here, &host.archive(at(4)), revoked).await;
    let heard = told(&mut subscription).await;
    assert!(hashes.iter().all(|hash| heard.contains(hash)));

    let (host, token) = with_active_token(&here).await;
    let deletion = Write::HostDeletion { expected: Revision::FIRST, host_id: host.id, at: at(5) };
    here.commit(Commit::of(deletion, Vec::new())).await.unwrap();
    assert!(told(&mut subscription).await.contains(&token.hash));
}

/// Waiting is what drivers give up all the time.
pub async fn a_dropped_wait_loses_no_change(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let Some(mut subscription) = there.subscribe().await.unwrap() else { return };
    let mut expected = Vec::new();
    let mut heard = Vec::new();
    for _ in 0..10 {
        let (host, token) = with_active_token(&here).await;
        expected.push(token.hash);
        write_tokens(&here, &host, vec![token.revoke(RevokeReason::Administrator, at(2)).unwrap()]).await;
        if let Some(Change::AgentTokens(some)) = subscription.next().now_or_never() {
            heard.extend(some);
        }
        drop(subscription.sync().now_or_never());
    }
    heard.extend(told(&mut subscription).await);
    assert!(expected.iter().all(|hash| heard.contains(hash)));
}

/// What was made has to be told, also when nobody waits for the answer any more.
pub async fn a_dropped_commit_that_was_made_is_told(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let Some(mut subscription) = there.subscribe().await.unwrap() else { return };
    for _ in 0..10 {
        let (host, token) = with_active_token(&here).await;
        let hash = token.hash;
        let revoked = token.revoke(RevokeReason::Administrator, at(2)).unwrap();
        let write = HostWrite { agent_tokens: vec![revoked], ..sample::write(Revision::FIRST, &host) };
        {
            let mut commit = here.commit(Commit::of(write, Vec::new()));
            let _ = futures_util::poll!(commit.as_mut());
        }
        // It may still be under way, and it may never have begun: later work is done meanwhile.
        let is_made = || async { !sample::credential(&here, &hash).await.token.is_live() };
        let mut tries = 0..50;
        while !is_made().await && tries.next().is_some() {
            with_active_token(&here).await;
        }
        if is_made().await {
            // It has not returned: a store may be about to tell when the change can be read already.
            let mut tries = 0..1_000;
            while !told(&mut subscription).await.contains(&hash) {
                assert!(tries.next().is_some(), "a revocation that was made is not told");
                is_made().await;
            }
        }
    }
}
