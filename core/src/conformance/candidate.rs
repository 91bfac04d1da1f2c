//! Candidates for placement.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Fixture;
use super::prune::{nothing, prune};
use super::sample::{self, at};
use crate::HostId;
use crate::host::{Host, HostKind, Status, Tag};
use crate::placement::is_eligible;
use crate::policy::{Kinds, Scope};
use crate::store::{
    AppendOutcome, Candidate, CandidateQuery, Candidates, Commit, Expected, HostQuery, HostWrite, Prune, Revision,
    Store, Write,
};
use crate::telemetry::HostMetrics;

/// All that a query finds, in windows of its limit.
pub(super) async fn walk(store: &impl Store, query: &CandidateQuery) -> Vec<Candidate> {
    let mut query = query.clone();
    let mut all = Vec::new();
    // Bounded: a store whose walk goes round fails instead of hanging.
    for _ in 0..1_000 {
        let Candidates { items, next } = store.list_candidates(&query).await.unwrap();
        assert!(items.len() <= query.limit, "a window holds at most its limit");
        all.extend(items);
        match next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
    panic!("a walk over a few hosts does not end");
}

fn ids(candidates: &[Candidate]) -> Vec<HostId> {
    candidates.iter().map(|candidate| candidate.record.host.id).collect()
}

async fn create(store: &impl Store, change: impl FnOnce(&mut Host)) -> Host {
    let mut host = sample::host(&sample::hash().to_hex());
    change(&mut host);
    sample::create(store, &host).await;
    host
}

async fn online(store: &impl Store, change: impl FnOnce(&mut Host)) -> Host {
    let host = create(store, change).await;
    store.touch(vec![sample::contact(&host, at(100))]).await.unwrap();
    host
}

fn tags(names: &[&str]) -> BTreeSet<Tag> {
    names.iter().map(|name| Tag::new(*name).expect("a sample name is valid")).collect()
}

/// Neither one that was never heard, nor one that fell silent, is cordoned, or out of service; they come, and go, with
/// what is true of them.
pub async fn only_hosts_that_may_take_work_are_candidates(fixture: &impl Fixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&store).await;
    let pending = create(&store, |_| {}).await;
    let silent = create(&store, |_| {}).await;
    store.touch(vec![sample::contact(&silent, at(1))]).await.unwrap();
    let swept = store.sweep(sample::sweep(at(100), Duration::from_secs(90))).await.unwrap();
    assert_eq!(swept.events.len(), 1);
    let archived = online(&store, |_| {}).await;
    sample::commit(&store, sample::write(Revision::FIRST, &archived.archive(at(101)))).await;
    let cordoned = online(&store, |host| host.cordoned = true).await;
    let host = online(&store, |_| {}).await;

    let query = CandidateQuery::new(Scope::All, 50);
    assert_eq!(ids(&walk(&other, &query).await), [host.id]);
    // Those come that are heard, and let.
    other.touch(vec![sample::contact(&pending, at(102)), sample::contact(&silent, at(102))]).await.unwrap();
    let uncordoned = Host { cordoned: false, ..cordoned };
    sample::commit(&other, sample::write(Revision::FIRST, &uncordoned)).await;
    let found: BTreeSet<_> = ids(&walk(&store, &query).await).into_iter().collect();
    assert_eq!(found, BTreeSet::from([pending.id, silent.id, uncordoned.id, host.id]));
}

/// Every narrowing, alone and with every other, as the one rule has it.
pub async fn candidates_are_narrowed_by_scope_tenant_kind_and_tags(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    for tenant in ["acme", "other"] {
        for kind in [HostKind::Managed, HostKind::Byoc] {
            for tagged in [&[][..], &["gpu"], &["eu", "gpu"]] {
                let change = |host: &mut Host| {
                    (host.tenant_id, host.kind, host.tags) = (sample::tenant(tenant), kind, tags(tagged));
                };
                online(&store, change).await;
            }
        }
    }
    let all = store.list_hosts(&HostQuery::new(Scope::All, 100)).await.unwrap().items;
    let of = |tenants: &[(&str, Kinds)]| {
        Scope::Tenants(tenants.iter().map(|(tenant, kinds)| (sample::tenant(tenant), *kinds)).collect())
    };
    let byoc = Kinds::Only(HostKind::Byoc);
    let scopes = [
        Scope::All,
        of(&[]),
        of(&[("acme", Kinds::Both)]),
        of(&[("acme", byoc)]),
        of(&[("acme", byoc), ("other", Kinds::Only(HostKind::Managed))]),
        of(&[("acme", Kinds::Both), ("nobody", Kinds::Both)]),
    ];
    for scope in scopes {
        for tenant_id in [None, Some("acme"), Some("nobody")] {
            for kind in [None, Some(HostKind::Managed), Some(HostKind::Byoc)] {
                for tagged in [&[][..], &["gpu"], &["eu", "gpu"], &["none"]] {
                    let query = CandidateQuery {
                        tenant_id: tenant_id.map(sample::tenant),
                        kind,
                        tags: tags(tagged),
                        ..CandidateQuery::new(scope.clone(), 50)
                    };
                    let expected: BTreeSet<_> =
                        all.iter().filter(|record| is_eligible(record, &query)).map(|record| record.host.id).collect();
                    let found = walk(&store, &query).await;
                    assert_eq!(ids(&found).into_iter().collect::<BTreeSet<_>>(), expected, "{query:?}");
                    assert_eq!(found.len(), expected.len(), "{query:?}");
                    for candidate in found {
                        let record = all.iter().find(|record| record.host.id == candidate.record.host.id);
                        assert_eq!(Some(&candidate.record), record);
                    }
                }
            }
        }
    }
}

/// In the order of the ring, whatever stands between them, from wherever the walk begins.
pub async fn a_walk_over_candidates_sees_each_once(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let mut expected = Vec::new();
    for n in 0..24 {
        let tagged = |host: &mut Host| host.tags = tags(&["all"]);
        if n % 2 == 0 {
            create(&store, tagged).await;
        } else {
            expected.push(online(&store, tagged).await.id);
        }
    }
    expected.sort_unstable_by_key(|id| (id.lot(), *id));
    let acme = Some(sample::tenant("acme"));
    for (tenant_id, tagged) in [(None, &[][..]), (acme.clone(), &[]), (None, &["all"]), (acme, &["all"])] {
        for limit in [1, 3, 50] {
            let query = CandidateQuery {
                tenant_id: tenant_id.clone(),
                tags: tags(tagged),
                ..CandidateQuery::new(Scope::All, limit)
            };
            assert_eq!(ids(&walk(&store, &query).await), expected, "{query:?}");
            let behind = CandidateQuery { after: Some(expected[2]), ..query.clone() };
            assert_eq!(ids(&walk(&store, &behind).await), expected[3..], "{behind:?}");
            // A place at which no host stands: just before one, by the rest of the id.
            let lot = expected[2].lot();
            let before = HostId::from_uuid(uuid::Uuid::from_u64_pair(0, lot));
            let at_place = CandidateQuery { after: Some(before), ..query };
            assert_eq!(ids(&walk(&store, &at_place).await), expected[2..], "{at_place:?}");
        }
    }
}

/// Through whatever its status and its cordon come to be so, in lists as in placement, by tags that it had before and by
/// those that it got since.
pub async fn a_tag_finds_a_host_by_what_is_so_now(fixture: &impl Fixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&store).await;
    // It is never anything else, and none of what comes is of it.
    let bystander = create(&store, |host| host.tags = tags(&["a", "b", "c"])).await;
    let mut host = create(&store, |host| host.tags = tags(&["a"])).await;
    let found_as = async |host: &Host, status: Option<Status>| {
        for tag in tags(&["a", "b", "c"]) {
            let is_of = |tag: &Tag| status.is_some() && host.tags.contains(tag);
            for asked in [Status::Pending, Status::Online, Status::Unreachable, Status::Archived] {
                let query = HostQuery { tag: Some(tag.clone()), status: Some(asked), ..HostQuery::new(Scope::All, 10) };
                let found = other.list_hosts(&query).await.unwrap().items.into_iter().map(|record| record.host.id);
                let bystander = (asked == Status::Pending).then_some(bystander.id);
                let expected = bystander.into_iter().chain((status == Some(asked) && is_of(&tag)).then_some(host.id));
                assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{query:?}, {status:?}");
            }
            let takes_work = status == Some(Status::Online) && !host.cordoned && is_of(&tag);
            let query = CandidateQuery { tags: [tag].into(), ..CandidateQuery::new(Scope::All, 10) };
            let expected: Vec<_> = takes_work.then_some(host.id).into_iter().collect();
            assert_eq!(ids(&walk(&other, &query).await), expected, "{query:?}, {status:?}");
        }
    };
    let revision = async |host: &Host| sample::load(&store, host.id).await.revision;
    let edit = async |host: &Host| sample::commit(&store, sample::write(revision(host).await, host)).await;
    let sweep = async |seconds| store.sweep(sample::sweep(at(seconds), Duration::from_secs(90))).await.unwrap();

    found_as(&host, Some(Status::Pending)).await;
    other.touch(vec![sample::contact(&host, at(1))]).await.unwrap();
    found_as(&host, Some(Status::Online)).await;
    host.cordoned = true;
    edit(&host).await;
    found_as(&host, Some(Status::Online)).await;
    host.tags = tags(&["a", "b"]);
    edit(&host).await;
    found_as(&host, Some(Status::Online)).await;
    host.cordoned = false;
    edit(&host).await;
    found_as(&host, Some(Status::Online)).await;
    sweep(100).await;
    found_as(&host, Some(Status::Unreachable)).await;
    host.tags = tags(&["b", "c"]);
    edit(&host).await;
    found_as(&host, Some(Status::Unreachable)).await;
    // Cordoned while nobody could have noticed.
    host.cordoned = true;
    edit(&host).await;
    other.append(vec![sample::append(&host, sample::report(at(101)))]).await.unwrap();
    found_as(&host, Some(Status::Online)).await;
    host.cordoned = false;
    edit(&host).await;
    host = host.archive(at(102));
    edit(&host).await;
    found_as(&host, Some(Status::Archived)).await;
    // Silent without a word.
    sweep(200).await;
    host.tags = tags(&["a", "c"]);
    edit(&host).await;
    found_as(&host, Some(Status::Archived)).await;
    let deletion = Write::HostDeletion { expected: revision(&host).await, host_id: host.id, at: at(201) };
    store.commit(Commit::of(deletion, Vec::new())).await.unwrap();
    found_as(&host, None).await;
}

/// A store that keeps something of them beside their tags may have a road of its own for many.
pub async fn a_tag_finds_many_that_change_at_once(fixture: &impl Fixture) {
    let (store, other) = (fixture.handle().await, fixture.handle().await);
    sample::watch(&store).await;
    let host = |n: usize, names: &[&str]| Host { tags: tags(names), ..sample::host(&format!("{n} of {names:?}")) };
    let mut falling: Vec<_> = (0..24).map(|n| host(n, if n % 2 == 0 { &["a"] } else { &["a", "b"] })).collect();
    let staying: Vec<_> = (0..30).map(|n| host(n, &["b", "c"])).collect();
    let writes = falling.iter().chain(&staying).map(|host| HostWrite::new(Expected::Absent, host.clone()).into());
    store.commit(Commit { writes: writes.collect(), events: Vec::new() }).await.unwrap();
    // Each is found by its tags and what it is now, and by nothing else.
    let found_as = async |falling: &[Host], status: Status| {
        for tag in tags(&["a", "b", "c"]) {
            let now = |host: &Host| if host.is_archived() { Status::Archived } else { status };
            let of_tag =
                |hosts: &[Host]| hosts.iter().filter(|host| host.tags.contains(&tag)).cloned().collect::<Vec<_>>();
            let (falling, staying) = (of_tag(falling), of_tag(&staying));
            for asked in [Status::Pending, Status::Online, Status::Unreachable, Status::Archived] {
                let query =
                    HostQuery { tag: Some(tag.clone()), status: Some(asked), ..HostQuery::new(Scope::All, 100) };
                let found = other.list_hosts(&query).await.unwrap().items.into_iter().map(|record| record.host.id);
                let expected = falling.iter().filter(|host| now(host) == asked).map(|host| host.id);
                let staying = staying.iter().filter(|_| asked == Status::Online).map(|host| host.id);
                let expected: BTreeSet<_> = expected.chain(staying).collect();
                assert_eq!(found.collect::<BTreeSet<_>>(), expected, "{query:?}, {status:?}");
            }
            let query = CandidateQuery { tags: [tag].into(), ..CandidateQuery::new(Scope::All, 100) };
            let takes_work = |host: &&Host| now(host) == Status::Online;
            let expected = falling.iter().filter(takes_work).chain(&staying).map(|host| host.id).collect();
            assert_eq!(ids(&walk(&other, &query).await).into_iter().collect::<BTreeSet<_>>(), expected, "{status:?}");
        }
    };
    let touch = async |hosts: &[Host], seconds| {
        let contacts = hosts.iter().map(|host| sample::contact(host, at(seconds))).collect();
        store.touch(contacts).await.unwrap();
    };

    touch(&staying, 50).await;
    found_as(&falling, Status::Pending).await;
    touch(&falling, 1).await;
    found_as(&falling, Status::Online).await;
    falling[1] = falling[1].clone().archive(at(2));
    sample::commit(&store, sample::write(Revision::FIRST, &falling[1])).await;
    store.sweep(sample::sweep(at(100), Duration::from_secs(90))).await.unwrap();
    found_as(&falling, Status::Unreachable).await;
    let reports = falling.iter().map(|host| sample::append(host, sample::report(at(101)))).collect();
    other.append(reports).await.unwrap();
    found_as(&falling, Status::Online).await;
}

/// Of the newest report by the agent's clock, and of none that is gone.
pub async fn candidates_come_with_their_newest_numbers(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let (silent, host) = (online(&store, |_| {}).await, online(&store, |_| {}).await);
    let day = 86_400;
    let report = |seconds, cpu_percent| {
        let mut report = sample::report(at(seconds));
        report.host.metrics = HostMetrics { cpu_percent: Some(cpu_percent), ..HostMetrics::default() };
        sample::append(&host, report)
    };
    let reports = vec![report(10 * day, 20.0), report(10 * day + 30, 30.0), report(9 * day, 10.0)];
    let outcomes = store.append(reports).await.unwrap().outcomes;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
    let numbers = async || {
        let found = walk(&store, &CandidateQuery::new(Scope::All, 50)).await;
        let of = |id| found.iter().find(|found| found.record.host.id == id).expect("it is a candidate").metrics;
        assert_eq!(of(silent.id), None, "it has never reported");
        of(host.id).map(|metrics| metrics.cpu_percent)
    };
    assert_eq!(numbers().await, Some(Some(30.0)));
    prune(&store, Prune { now: at(20 * day), snapshots_before: at(12 * day), ..nothing() }).await;
    assert_eq!(numbers().await, None, "its report is gone");
}
