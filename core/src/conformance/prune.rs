//! What is old goes, what is not stays, and nothing that was given comes back.

use std::time::Duration;

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState, RevokeReason};
use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent};
use crate::host::{Host, Presence};
use crate::install_token::{Binding, Claim, InstallToken, InstallTokenState};
use crate::policy::Scope;
use crate::store::{
    AppendOutcome, Commit, ContainerQuery, EventQuery, Expected, HostLookup, HostWrite, InstallTokenOwner,
    InstallTokenQuery, Key, Known, Prune, Revision, Store, StoreErrorKind, TelemetryQuery, Write,
};
use crate::telemetry::{HostFacts, HostReport, HostSnapshot, Report};

const DAY: i64 = 24 * 60 * 60;

/// Keeps everything.
pub(super) fn nothing() -> Prune {
    Prune {
        now: at(0),
        snapshots_before: Timestamp::MIN,
        events_before: Timestamp::MIN,
        containers_removed_before: Timestamp::MIN,
        tombstones_before: Timestamp::MIN,
        install_tokens_before: Timestamp::MIN,
        limit: 1_000,
    }
}

/// Until nothing is left to go.
pub(super) async fn prune(store: &impl Store, prune: Prune) {
    for _ in 0..1_000 {
        if !store.prune(&prune).await.unwrap().more {
            return;
        }
    }
    panic!("a thousand steps were not enough");
}

async fn new_host(store: &impl Store) -> Host {
    let host = sample::host(&sample::hash().to_hex());
    sample::create(store, &host).await;
    host
}

async fn append(store: &impl Store, host: &Host, report: Report) {
    let appended = store.append(vec![sample::append(host, report)]).await.unwrap();
    assert!(matches!(appended.outcomes[..], [AppendOutcome::Accepted]), "{:?}", appended.outcomes);
}

async fn telemetry(store: &impl Store, host: &Host) -> Vec<HostSnapshot> {
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 500);
    store.list_telemetry(&query).await.unwrap().items
}

async fn stored(store: &impl Store, host: &Host) -> Vec<Timestamp> {
    telemetry(store, host).await.into_iter().map(|snapshot| snapshot.recorded_at).collect()
}

fn with_containers(recorded_at: Timestamp, ids: &[&str]) -> Report {
    let containers = ids.iter().map(|id| sample::container(id)).collect();
    Report { containers, containers_complete: true, ..sample::report(recorded_at) }
}

/// Up to a day longer they may stay, never a moment less; and nobody comes again once nothing is said to be left.
pub async fn old_snapshots_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (a, b) = (new_host(&store).await, new_host(&store).await);
    for host in [&a, &b] {
        for seconds in [-3 * DAY, -2 * DAY - 1, -DAY, -1, 0, DAY] {
            append(&store, host, with_containers(at(seconds), &["c"])).await;
        }
    }
    prune(&store, nothing()).await;
    assert_eq!(stored(&store, &a).await.len(), 6);
    prune(&store, Prune { snapshots_before: at(0), limit: 1, ..nothing() }).await;
    for host in [&a, &b] {
        let left = stored(&store, host).await;
        assert!(left.ends_with(&[at(0), at(DAY)]), "{left:?}");
        assert!(left[0] >= at(-DAY), "{left:?}");
    }
}

/// Facts, presence, containers and the time of the newest report are the host's, not the report's.
pub async fn a_host_outlives_its_reports(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let facts = HostFacts { cpu_count: Some(8), ..HostFacts::default() };
    let report = with_containers(at(0), &["c"]);
    append(&store, &host, Report { host: HostReport { facts: Some(facts.clone()), ..report.host.clone() }, ..report })
        .await;
    prune(&store, Prune { snapshots_before: at(30 * DAY), now: at(30 * DAY), ..nothing() }).await;
    assert!(stored(&store, &host).await.is_empty());
    let record = store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap();
    assert_eq!(record.presence.presence, Presence::Online { last_seen_at: at(0) });
    assert_eq!((record.presence.facts, record.presence.newest_report_at), (facts, Some(at(0))));
    let query = ContainerQuery { host_id: host.id, removed: false, after: None, limit: 10 };
    let rows = store.list_containers(&query).await.unwrap().items;
    assert_eq!((rows.len(), rows[0].container.metrics), (1, None), "its numbers have gone with the report");
    // An older report still changes nothing but its own snapshot.
    append(&store, &host, with_containers(at(-1), &[])).await;
    assert_eq!(store.list_containers(&query).await.unwrap().items.len(), 1);
}

/// What is there is not old, however long ago it was first seen.
pub async fn containers_go_some_time_after_they_were_removed(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    append(&store, &host, with_containers(at(1), &["a", "b", "c"])).await;
    append(&store, &host, with_containers(at(2), &["b", "c"])).await;
    append(&store, &host, with_containers(at(3), &["c"])).await;
    let version =
        || async { store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap().presence.containers_version };
    let before = version().await;
    prune(&store, Prune { containers_removed_before: at(3), ..nothing() }).await;
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let rows = store.list_containers(&query).await.unwrap().items;
    assert_eq!(rows.iter().map(|row| row.container.container_id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(version().await > before, "who caches the rows has to notice");
    // It begins anew when it comes back.
    append(&store, &host, with_containers(at(4), &["a", "c"])).await;
    let rows = store.list_containers(&query).await.unwrap().items;
    assert_eq!((rows[0].first_seen_at, rows[0].removed_at), (at(4), None));
}

fn whole(report: &Report) -> HostSnapshot {
    HostSnapshot::of(report, report.recorded_at)
}

/// A container that went is listed no more; what it used then is part of what its host did then.
pub async fn reports_stay_whole_when_their_containers_go(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let mut reports = vec![with_containers(at(1), &["a", "b"]), with_containers(at(2), &["b"])];
    for report in &reports {
        append(&store, &host, report.clone()).await;
    }
    prune(&store, Prune { containers_removed_before: at(9), ..nothing() }).await;
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let ids = || async {
        let rows = store.list_containers(&query).await.unwrap().items;
        rows.into_iter().map(|row| (row.container.container_id, row.first_seen_at)).collect::<Vec<_>>()
    };
    let b = ("b".to_owned(), at(1));
    assert_eq!(ids().await, std::slice::from_ref(&b));
    assert_eq!(telemetry(&store, &host).await, reports.iter().map(whole).collect::<Vec<_>>());
    let again = store.append(vec![sample::append(&host, reports[0].clone())]).await.unwrap();
    assert!(matches!(again.outcomes[..], [AppendOutcome::Duplicate]), "{:?}", again.outcomes);
    // Neither a late report nor its return turns the old numbers into another's.
    reports.insert(0, with_containers(at(0), &["a", "c"]));
    append(&store, &host, reports[0].clone()).await;
    assert_eq!(ids().await, std::slice::from_ref(&b));
    reports.push(with_containers(at(4), &["a", "b"]));
    append(&store, &host, reports[3].clone()).await;
    assert_eq!(ids().await, [("a".to_owned(), at(4)), b]);
    assert_eq!(telemetry(&store, &host).await, reports.iter().map(whole).collect::<Vec<_>>());
}

/// However late it came, and whatever has gone before.
pub async fn containers_are_named_for_as_long_as_a_report_measured_them(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let mut sent = Vec::new();
    // "gone" was removed on day 1; "late" was never seen but in reports that came late.
    for (seconds, ids) in [(0, &["stays", "gone"][..]), (DAY, &["stays"]), (5 * DAY, &["stays"]), (3 * DAY, &["gone"])]
    {
        sent.push(with_containers(at(seconds), ids));
        append(&store, &host, sent[sent.len() - 1].clone()).await;
    }
    let late = [1, 3 * DAY + 1].map(|seconds| with_containers(at(seconds), &["late"]));
    store.append(late.clone().map(|report| sample::append(&host, report)).to_vec()).await.unwrap();
    sent.extend(late);
    let is_whole = async |sent: &[Report]| {
        let left = telemetry(&store, &host).await;
        for snapshot in &left {
            assert!(sent.iter().any(|report| whole(report) == *snapshot), "{snapshot:?}");
        }
        left.len()
    };
    prune(&store, Prune { containers_removed_before: at(6 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 6);
    prune(&store, Prune { snapshots_before: at(2 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 3);
    sent.push(with_containers(at(4 * DAY + 2), &["gone", "late"]));
    append(&store, &host, sent[sent.len() - 1].clone()).await;
    prune(&store, Prune { snapshots_before: at(4 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 2);
    prune(&store, Prune { snapshots_before: at(20 * DAY), ..nothing() }).await;
    assert_eq!(is_whole(&sent).await, 0);
    // Nothing is known of them any more: they begin anew.
    sent.push(with_containers(at(21 * DAY), &["gone", "late", "stays"]));
    append(&store, &host, sent[sent.len() - 1].clone()).await;
    assert_eq!(is_whole(&sent).await, 1);
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let rows = store.list_containers(&query).await.unwrap().items;
    let first_seen: Vec<_> = rows.iter().map(|row| row.first_seen_at).collect();
    assert_eq!(first_seen, [at(21 * DAY), at(21 * DAY), at(0)]);
}

/// By their time; those that stay keep their positions.
pub async fn old_events_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let events = [1, 5, 3, 7].map(|seconds| NewEvent { at: at(seconds), ..sample::event(&host) }).to_vec();
    let written = store.commit(Commit { writes: Vec::new(), events }).await.unwrap();
    prune(&store, Prune { events_before: at(5), ..nothing() }).await;
    let left = store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items;
    assert_eq!(left, [written[1].clone(), written[3].clone()]);
    let behind = EventQuery { after: written[2].position, ..EventQuery::new(Scope::All, 10) };
    assert_eq!(store.list_events(&behind).await.unwrap().items, written[3..]);
}

/// A cursor from before would otherwise skip what takes its place.
pub async fn a_position_is_never_given_again(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let commit = || async {
        let events = vec![sample::event(&host), sample::event(&host)];
        store.commit(Commit { writes: Vec::new(), events }).await.unwrap()
    };
    let before = commit().await;
    prune(&store, Prune { events_before: Timestamp::MAX, ..nothing() }).await;
    assert!(store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items.is_empty());
    let after = commit().await;
    assert!(after[0].position > before[1].position);
    let query = EventQuery { after: before[1].position, ..EventQuery::new(Scope::All, 10) };
    assert_eq!(store.list_events(&query).await.unwrap().items, after);
}

/// Then the token is unknown like any other.
pub async fn old_tombstones_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let mut hashes = Vec::new();
    for seconds in [4, 5] {
        let host = sample::host(&format!("deleted at {seconds}"));
        let token = sample::agent_token(&host);
        sample::create_with_tokens(&store, &host, vec![token.clone()]).await;
        let write = Write::HostDeletion { expected: Revision::FIRST, host_id: host.id, at: at(seconds) };
        store.commit(Commit::of(write, Vec::new())).await.unwrap();
        hashes.push(token.hash);
    }
    prune(&store, Prune { tombstones_before: at(5), ..nothing() }).await;
    assert_eq!(store.authenticate(&hashes[0]).await.unwrap(), None);
    assert!(matches!(store.authenticate(&hashes[1]).await.unwrap(), Some(Known::Tombstone(_))));
}

/// A step is bounded, and says whether another is needed.
pub async fn a_step_is_bounded_and_says_what_is_left(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let events =
        (0..7).map(|_| NewEvent { body: EventBody::HostDeleted { name: host.name.clone() }, ..sample::event(&host) });
    store.commit(Commit { writes: Vec::new(), events: events.collect() }).await.unwrap();
    let step = Prune { events_before: Timestamp::MAX, limit: 3, ..nothing() };
    for (left, more) in [(4, true), (1, true), (0, false)] {
        let pruned = store.prune(&step).await.unwrap();
        let events = store.list_events(&EventQuery::new(Scope::All, 10)).await.unwrap().items;
        assert_eq!((events.len(), pruned.more), (left, more));
    }
    assert!(!store.prune(&step).await.unwrap().more);
}

/// Of each kind for itself: no other kind takes its share, none goes all at once, and none is forgotten when the other
/// has gone.
pub async fn a_step_is_bounded_for_containers_and_tombstones(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for (containers, tombstones) in [(5_usize, 2_usize), (2, 5)] {
        let host = new_host(&store).await;
        append(&store, &host, with_containers(at(1), &["a", "b", "c", "d", "e"][..containers])).await;
        append(&store, &host, with_containers(at(2), &[])).await;
        let deleted = sample::host("deleted");
        let tokens: Vec<_> = (0..tombstones).map(|_| sample::agent_token(&deleted)).collect();
        sample::create_with_tokens(&store, &deleted, tokens.clone()).await;
        let write = Write::HostDeletion { expected: Revision::FIRST, host_id: deleted.id, at: at(3) };
        store.commit(Commit::of(write, Vec::new())).await.unwrap();
        let step = Prune { containers_removed_before: at(9), tombstones_before: at(9), limit: 2, ..nothing() };
        // What the deleted host reported may need steps of its own, and here it reported nothing.
        for (gone, more) in [(2, true), (4, true), (6, false)] {
            let pruned = store.prune(&step).await.unwrap();
            let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
            let rows = store.list_containers(&query).await.unwrap().items;
            let mut known = 0;
            for token in &tokens {
                known += usize::from(store.authenticate(&token.hash).await.unwrap().is_some());
            }
            let left = (containers.saturating_sub(gone), tombstones.saturating_sub(gone));
            assert_eq!((rows.len(), known, pruned.more), (left.0, left.1, more));
        }
    }
}

/// An install token of this host, or of its tenant.
fn install_token(host: &Host, binding: Binding, state: InstallTokenState, expires_at: Timestamp) -> InstallToken {
    InstallToken { binding, state, expires_at, ..sample::install_token(host) }
}

/// Keeps an install token: with its host, which has just been made, or by itself.
async fn keep(store: &impl Store, host: &Host, token: &InstallToken) {
    let write = match token.binding {
        Binding::Host(_) => {
            let write = sample::write(Revision::FIRST, host);
            Write::from(HostWrite { install_tokens: vec![token.clone()], ..write })
        }
        Binding::Tenant => Write::TenantInstallToken { expected: Expected::Absent, token: token.clone() },
    };
    store.commit(Commit::of(write, Vec::new())).await.unwrap();
}

async fn is_kept(store: &impl Store, token: &InstallToken) -> bool {
    let owner = match token.binding {
        Binding::Host(host_id) => InstallTokenOwner::Host(host_id),
        Binding::Tenant => InstallTokenOwner::Tenant(token.tenant_id.clone()),
    };
    let query = InstallTokenQuery { owner, after: None, limit: 500 };
    let is_listed = store.list_install_tokens(&query).await.unwrap().items.contains(token);
    for key in [Key::InstallTokenId(token.id), Key::InstallToken(token.hash)] {
        assert_eq!(store.load(&key).await.unwrap().is_some(), is_listed);
    }
    is_listed
}

/// Expired or revoked; of those that were exchanged, see below.
pub async fn spent_install_tokens_go_and_younger_ones_stay(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let revoked = |seconds| InstallTokenState::Revoked { at: at(seconds) };
    let mut tokens = Vec::new();
    for (state, expires_at, goes) in [
        (revoked(4), at(99), true),
        (revoked(5), at(1), false),
        (InstallTokenState::Issued, at(4), true),
        (InstallTokenState::Issued, at(5), false),
    ] {
        let host = new_host(&store).await;
        for binding in [Binding::Host(host.id), Binding::Tenant] {
            let token = install_token(&host, binding, state, expires_at);
            keep(&store, &host, &token).await;
            tokens.push((token, goes));
        }
    }
    prune(&store, nothing()).await;
    for (token, _) in &tokens {
        assert!(is_kept(&store, token).await, "{token:?}");
    }
    prune(&store, Prune { install_tokens_before: at(5), ..nothing() }).await;
    for (token, goes) in &tokens {
        assert_eq!(is_kept(&store, token).await, !goes, "{token:?}");
    }
}

/// The same claim is answered the same until then.
pub async fn a_consumed_install_token_stays_while_what_it_bought_may_act(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let asked = Prune { install_tokens_before: at(5), ..nothing() };
    for (of_host, seconds) in [(true, 4), (true, 5), (false, 4), (false, 5)] {
        let host = sample::host(&sample::hash().to_hex());
        let bought = sample::agent_token(&host);
        let claim = Claim::Client(bought.hash);
        let binding = if of_host { Binding::Host(host.id) } else { Binding::Tenant };
        let state = InstallTokenState::Consumed { claim, at: at(seconds), agent_token: bought.id };
        let token = install_token(&host, binding, state, at(1));
        let mut write =
            HostWrite { agent_tokens: vec![bought.clone()], ..HostWrite::new(Expected::Absent, host.clone()) };
        let mut writes = Vec::new();
        if of_host {
            write.install_tokens = vec![token.clone()];
        } else {
            writes.push(Write::TenantInstallToken { expected: Expected::Absent, token: token.clone() });
        }
        writes.push(Write::from(write));
        store.commit(Commit { writes, events: Vec::new() }).await.unwrap();
        let set = async |revision: Revision, state| {
            let bought = AgentToken { state, ..bought.clone() };
            sample::commit(&store, HostWrite { agent_tokens: vec![bought], ..sample::write(revision, &host) }).await;
        };
        prune(&store, asked).await;
        assert!(is_kept(&store, &token).await, "it is pending");
        set(Revision::FIRST, AgentTokenState::Active { since: at(2) }).await;
        prune(&store, asked).await;
        assert!(is_kept(&store, &token).await, "it is active");
        set(Revision::new(2), AgentTokenState::Revoked { at: at(3), reason: RevokeReason::Administrator }).await;
        prune(&store, asked).await;
        assert_eq!(is_kept(&store, &token).await, seconds == 5);
    }
    // With its host, what a tenant's token bought is gone too.
    let host = sample::host("deleted");
    let bought = sample::agent_token(&host);
    let claim = Claim::Server { idempotency_key_hash: None };
    let state = InstallTokenState::Consumed { claim, at: at(4), agent_token: bought.id };
    let token = install_token(&host, Binding::Tenant, state, at(1));
    keep(&store, &host, &token).await;
    sample::create_with_tokens(&store, &host, vec![bought]).await;
    let write = Write::HostDeletion { expected: Revision::FIRST, host_id: host.id, at: at(9) };
    store.commit(Commit::of(write, Vec::new())).await.unwrap();
    assert!(is_kept(&store, &token).await);
    prune(&store, asked).await;
    assert!(!is_kept(&store, &token).await);
}

/// For ever: whoever finds the secret years later makes no host with it. A commit that had loaded the token before is no clash.
pub async fn the_hash_of_a_pruned_install_token_stays_seen(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (host, heir) = (new_host(&store).await, new_host(&store).await);
    let of_host = install_token(&host, Binding::Host(host.id), InstallTokenState::Issued, at(4));
    let of_tenant = install_token(&host, Binding::Tenant, InstallTokenState::Issued, at(4));
    for token in [&of_host, &of_tenant] {
        keep(&store, &host, token).await;
    }
    prune(&store, Prune { install_tokens_before: at(5), ..nothing() }).await;
    for token in [&of_host, &of_tenant] {
        assert!(!is_kept(&store, token).await);
        let again = InstallToken { hash: token.hash, ..sample::install_token(&heir) };
        let write = HostWrite { install_tokens: vec![again.clone()], ..sample::write(Revision::FIRST, &heir) };
        let refused = sample::refused(&store, Commit::of(write, Vec::new())).await;
        assert_eq!(refused, StoreErrorKind::HashSeen);
        let write = Write::TenantInstallToken {
            expected: Expected::Absent,
            token: InstallToken { binding: Binding::Tenant, ..again },
        };
        let refused = sample::refused(&store, Commit::of(write, Vec::new())).await;
        assert_eq!(refused, StoreErrorKind::HashSeen);
    }
    let revoked = InstallToken { state: InstallTokenState::Revoked { at: at(9) }, ..of_host };
    let minted = sample::install_token(&host);
    let tokens = vec![revoked.clone(), minted.clone()];
    sample::commit(&store, HostWrite { install_tokens: tokens, ..sample::write(Revision::new(2), &host) }).await;
    assert!(is_kept(&store, &revoked).await && is_kept(&store, &minted).await);
    let update = Write::TenantInstallToken {
        expected: Expected::Revision(Revision::FIRST),
        token: InstallToken { state: InstallTokenState::Revoked { at: at(9) }, ..of_tenant },
    };
    let refused = sample::refused(&store, Commit::of(update, Vec::new())).await;
    assert_eq!(refused, StoreErrorKind::Conflict);
}

/// Those that stay take no share of it.
pub async fn a_step_is_bounded_for_install_tokens(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let mut tokens = Vec::new();
    for seconds in [1, 9, 1, 1, 9, 1, 1] {
        let state = InstallTokenState::Revoked { at: at(seconds) };
        let token = install_token(&host, Binding::Tenant, state, at(1));
        keep(&store, &host, &token).await;
        tokens.push(token);
    }
    let step = Prune { install_tokens_before: at(5), limit: 2, ..nothing() };
    for (left, more) in [(5, true), (3, true), (2, false), (2, false)] {
        let pruned = store.prune(&step).await.unwrap();
        let mut kept = 0;
        for token in &tokens {
            kept += usize::from(is_kept(&store, token).await);
        }
        assert_eq!((kept, pruned.more), (left, more));
    }
}

/// Before any pruning, after it, and far from its days: a report never finds no room.
pub async fn a_report_of_any_day_finds_room(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = new_host(&store).await;
    let days = [-400, -40, -1, 0, 1, 2, 3, 400];
    for day in days {
        append(&store, &host, sample::report(at(day * DAY))).await;
    }
    prune(&store, Prune { now: at(0), snapshots_before: at(-30 * DAY), ..nothing() }).await;
    for day in days {
        // Where one was pruned, another takes its place; where one stayed, its neighbour is stored beside it.
        append(&store, &host, sample::report(at(day * DAY).saturating_add(Duration::from_secs(1)))).await;
    }
    let left = stored(&store, &host).await;
    assert_eq!(left.len(), 6 + 8, "{left:?}");
}
