//! When agent tokens were last used: contact's part of their rows.

use std::time::Duration;

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState};
use crate::clock::Timestamp;
use crate::host::{Host, Presence};
use crate::store::{AgentTokenQuery, Append, Contact, HostLookup, HostWrite, LAST_USE_GRAIN, Revision, Store};
use crate::telemetry::Report;

/// How far a store may lag behind.
pub(super) const GRAIN: Duration = LAST_USE_GRAIN;

/// A host with Active tokens, each of a lineage of its own.
async fn with_tokens(store: &impl Store, count: usize) -> (Host, Vec<AgentToken>) {
    let host = sample::host(&sample::hash().to_hex());
    let active = || AgentToken { state: AgentTokenState::Active { since: at(1) }, ..sample::agent_token(&host) };
    let tokens: Vec<_> = (0..count).map(|_| active()).collect();
    sample::create_with_tokens(store, &host, tokens.clone()).await;
    (host, tokens)
}

/// A contact of `host` that says to be proved by `token`.
fn contact(host: &Host, token: &AgentToken, seconds: i64) -> Contact {
    Contact { token_id: token.id, ..sample::contact(host, at(seconds)) }
}

async fn touch(store: &impl Store, contact: Contact) {
    store.touch(vec![contact]).await.expect("contacts are noted");
}

async fn append(store: &impl Store, contact: Contact, report: Report) {
    store.append(vec![Append { contact, report }]).await.expect("reports are answered");
}

/// The last use of each token of the host, in the order of their ids.
async fn last_uses(store: &impl Store, host: &Host) -> Vec<Option<Timestamp>> {
    let page = store.list_agent_tokens(&AgentTokenQuery::new(host.id, 100)).await.expect("tokens are listed");
    page.items.into_iter().map(|record| record.last_used_at).collect()
}

/// That each is what is expected, in seconds, or up to a minute before it.
#[track_caller]
fn assert_about(read: &[Option<Timestamp>], expected: &[Option<i64>]) {
    let about = |(read, expected): (&Option<Timestamp>, &Option<i64>)| match (*read, expected.map(at)) {
        (Some(read), Some(at)) => at.saturating_sub(GRAIN) <= read && read <= at,
        (read, expected) => read == expected,
    };
    let expected_times: Vec<_> = expected.iter().map(|seconds| seconds.map(at)).collect();
    let same = read.len() == expected.len() && read.iter().zip(expected).all(about);
    assert!(same, "last uses about {expected_times:?} were expected, not {read:?}");
}

/// By report or without one, through whichever handle. What comes late lowers nothing; also not by less than a minute,
/// where a store need not tell the times apart.
pub async fn a_tokens_last_use_can_be_read_and_never_goes_back(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let (host, tokens) = with_tokens(&here, 2).await;
    for store in [&here, &there] {
        assert_eq!(last_uses(store, &host).await, [None, None]);
    }
    let (mut latest, mut shown) = (0, None);
    for (seconds, reports) in [
        (600, false),
        (1_200, true),
        (900, false),
        (901, true),
        (1_230, false),
        (1_202, false),
        (1_800, false),
        (1_770, true),
        (2_400, true),
        (60, true),
        (61, false),
    ] {
        let contact = contact(&host, &tokens[0], seconds);
        if reports {
            append(&here, contact, sample::report(at(seconds))).await;
        } else {
            touch(&here, contact).await;
        }
        latest = latest.max(seconds);
        for store in [&here, &there] {
            let read = last_uses(store, &host).await;
            assert_about(&read, &[Some(latest), None]);
            assert!(shown <= read[0], "{:?} was shown before {:?}", shown, read[0]);
            shown = read[0];
        }
    }
    // The latest of one call counts, wherever it stands.
    let contacts = [3_000, 3_600, 3_300].map(|seconds| contact(&host, &tokens[1], seconds));
    here.touch(contacts.to_vec()).await.unwrap();
    assert_about(&last_uses(&there, &host).await, &[Some(latest), Some(3_600)]);
    // A handle that heard of none of them passes over one that comes early, and not the next for its sake.
    for seconds in [3_650, 3_700] {
        touch(&there, contact(&host, &tokens[1], seconds)).await;
        assert_about(&last_uses(&here, &host).await, &[Some(latest), Some(seconds)]);
    }
}

/// Whatever the agent's clock says, and whatever becomes of the report.
pub async fn every_report_is_a_use_by_the_servers_clock(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, tokens) = with_tokens(&store, 1).await;
    let mut another = sample::report(at(9_000));
    another.host.metrics.cpu_percent = None;
    for (arrived, report) in [
        // Of a clock that is ahead; then, late, of a backlog; then a duplicate, and a conflict.
        (600, sample::report(at(9_000))),
        (1_200, sample::report(at(300))),
        (1_800, sample::report(at(300))),
        (2_400, another),
    ] {
        append(&store, contact(&host, &tokens[0], arrived), report).await;
        assert_about(&last_uses(&store, &host).await, &[Some(arrived)]);
    }
}

/// The contact counts for its host all the same: a token may have gone while it was under way.
pub async fn a_use_of_another_hosts_token_is_passed_over(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, own) = with_tokens(&store, 1).await;
    let (other, foreign) = with_tokens(&store, 1).await;
    touch(&store, contact(&other, &foreign[0], 600)).await;
    let contacts =
        vec![contact(&other, &foreign[0], 1_200), contact(&host, &own[0], 1_800), contact(&host, &foreign[0], 9_000)];
    store.touch(contacts.clone()).await.unwrap();
    let reports = contacts.into_iter().map(|contact| Append { report: sample::report(contact.at), contact });
    store.append(reports.collect()).await.unwrap();
    assert_about(&last_uses(&store, &host).await, &[Some(1_800)]);
    assert_about(&last_uses(&store, &other).await, &[Some(1_200)]);
    let heard = store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists").presence.presence;
    assert_eq!(heard, Presence::Online { last_seen_at: at(9_000) });
}

/// It proves nothing any more.
pub async fn an_archived_host_uses_no_token(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, tokens) = with_tokens(&store, 2).await;
    touch(&store, contact(&host, &tokens[0], 600)).await;
    sample::commit(&store, sample::write(Revision::FIRST, &host.clone().archive(at(700)))).await;
    for token in &tokens {
        touch(&store, contact(&host, token, 1_200)).await;
        append(&store, contact(&host, token, 1_800), sample::report(at(1_800))).await;
    }
    assert_about(&last_uses(&store, &host).await, &[Some(600), None]);
}

/// Who administers a token knows nothing of its use, and a new one was not used yet.
pub async fn a_commit_leaves_the_last_use_as_it_is(fixture: &impl Fixture) {
    let (here, there) = (fixture.handle().await, fixture.handle().await);
    let (host, tokens) = with_tokens(&here, 2).await;
    touch(&here, contact(&host, &tokens[0], 600)).await;
    touch(&here, contact(&host, &tokens[1], 1_200)).await;
    let before = last_uses(&there, &host).await;
    assert_about(&before, &[Some(600), Some(1_200)]);
    let changed = AgentToken { expires_at: Some(at(9_000)), ..tokens[0].clone() };
    let successor = AgentToken { lineage_id: tokens[1].lineage_id, ..sample::agent_token(&host) };
    let cordoned = Host { cordoned: true, ..host.clone() };
    let write = HostWrite { agent_tokens: vec![changed, successor], ..sample::write(Revision::FIRST, &cordoned) };
    sample::commit(&there, write).await;
    assert_eq!(last_uses(&here, &host).await, [before[0], before[1], None]);
}
