//! Editing, tagging and cordoning hosts, and lists while rows change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use enlist_core::HostId;
use enlist_core::conformance::sample::at;
use enlist_core::event::EventBody;
use enlist_core::fleet::{AdminError, HostFilter};
use enlist_core::host::{HostField, HostKind, HostName, Status};
use enlist_core::store::Revision;
use enlist_core::wire::{CreateHost, HostBody, PatchHost, Problem};
use futures_util::FutureExt;
use proptest::prelude::*;

use crate::watched::Watched;
use crate::world::World;

fn renamed(name: &str) -> PatchHost {
    PatchHost { name: Some(HostName::new(name).unwrap()), ..PatchHost::default() }
}

fn code(error: AdminError) -> (u16, String) {
    let problem = Problem::from(error);
    (problem.status, problem.code.to_string())
}

#[tokio::test]
async fn an_edit_is_one_commit_with_an_event_that_names_the_fields() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    world.clock.advance(Duration::from_secs(60));
    let patch = PatchHost { address: Some("10.0.0.8".parse().ok()), ..renamed("b") };
    let edited = admin.edit_host(host_id, Revision::FIRST, patch).await.unwrap();
    assert_eq!((edited.name.as_str(), edited.revision, edited.updated_at), ("b", 2, at(60)));
    assert_eq!(edited, admin.host(host_id).await.unwrap());
    let last = world.events().await.pop().unwrap();
    let fields = BTreeSet::from([HostField::Name, HostField::Address]);
    assert_eq!((last.body, last.actor), (EventBody::HostUpdated { fields }, Some(world.root.id.clone())));
}

#[tokio::test]
async fn of_two_edits_that_read_the_same_revision_one_wins() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    admin.edit_host(host_id, Revision::FIRST, renamed("b")).await.unwrap();
    for patch in [renamed("c"), PatchHost::default()] {
        let error = admin.edit_host(host_id, Revision::FIRST, patch).await.unwrap_err();
        assert_eq!(code(error), (412, "precondition_failed".into()));
    }
    assert_eq!(admin.host(host_id).await.unwrap().name.as_str(), "b");
    assert_eq!(world.count("host.updated").await, 1);
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    let before = (admin.host(host_id).await.unwrap(), world.events().await.len());
    world.clock.advance(Duration::from_secs(60));
    admin.edit_host(host_id, Revision::FIRST, renamed("a")).await.unwrap();
    admin.untag_host(host_id, "t".parse().unwrap()).await.unwrap();
    admin.uncordon_host(host_id).await.unwrap();
    assert_eq!((admin.host(host_id).await.unwrap(), world.events().await.len()), before);
    admin.tag_host(host_id, "t".parse().unwrap()).await.unwrap();
    admin.cordon_host(host_id).await.unwrap();
    let once = (admin.host(host_id).await.unwrap(), world.events().await.len());
    assert_eq!((once.0.cordoned, once.1), (true, before.1 + 2));
    admin.tag_host(host_id, "t".parse().unwrap()).await.unwrap();
    admin.cordon_host(host_id).await.unwrap();
    assert_eq!((admin.host(host_id).await.unwrap(), world.events().await.len()), once);
    assert_eq!(admin.host_tags(host_id).await.unwrap().items, ["t".parse().unwrap()]);
    admin.uncordon_host(host_id).await.unwrap();
    assert_eq!(world.event_types().await[2..], ["host.updated", "host.cordoned", "host.uncordoned"]);
}

#[tokio::test]
async fn an_edit_that_clashes_names_the_host_in_the_way_and_changes_nothing() {
    let world = World::new();
    let admin = world.fleet.admin(&world.root);
    let external_id = Some("i-1".parse().unwrap());
    let other = CreateHost {
        external_id: external_id.clone(),
        ..CreateHost::new(HostName::new("other").unwrap(), HostKind::Byoc)
    };
    let other = admin.create_host(other).await.unwrap().host.id;
    let (host_id, _) = world.create("a").await;
    let before = admin.host(host_id).await.unwrap();
    let patch = PatchHost { external_id: Some(external_id), ..PatchHost::default() };
    for (patch, taken) in [(renamed("other"), "name_taken"), (patch, "external_id_taken")] {
        let problem = Problem::from(admin.edit_host(host_id, Revision::FIRST, patch).await.unwrap_err());
        assert_eq!((problem.status, problem.code.as_str(), problem.host_id), (409, taken, Some(other)));
    }
    assert_eq!(admin.host(host_id).await.unwrap(), before);
    assert_eq!(world.count("host.updated").await, 0);
    admin.archive_host(other).await.unwrap();
    admin.edit_host(host_id, Revision::FIRST, renamed("other")).await.expect("the name is free again");
}

#[tokio::test]
async fn an_archived_host_is_neither_edited_nor_tagged_nor_cordoned() {
    let world = World::new();
    let (host_id, _) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    let archived = admin.archive_host(host_id).await.unwrap();
    let read = Revision::new(archived.revision);
    for refused in [
        admin.edit_host(host_id, read, PatchHost::default()).await.map(|_| ()).unwrap_err(),
        admin.tag_host(host_id, "t".parse().unwrap()).await.unwrap_err(),
        admin.untag_host(host_id, "t".parse().unwrap()).await.unwrap_err(),
        admin.cordon_host(host_id).await.map(|_| ()).unwrap_err(),
        admin.uncordon_host(host_id).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(code(refused), (409, "host_archived".into()));
    }
    assert_eq!(admin.host(host_id).await.unwrap(), archived);
}

#[tokio::test]
async fn a_verb_tries_again_when_somebody_was_quicker_but_not_for_ever() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let (host_id, _) = world.create("a").await;
    let admin = world.fleet.admin(&world.root);
    store.conflicts.store(3, SeqCst);
    admin.tag_host(host_id, "t".parse().unwrap()).await.unwrap();
    store.conflicts.store(3, SeqCst);
    admin.edit_host(host_id, Revision::new(2), renamed("b")).await.unwrap();
    store.conflicts.store(3, SeqCst);
    admin.cordon_host(host_id).await.unwrap();
    store.conflicts.store(usize::MAX, SeqCst);
    assert_eq!(code(admin.uncordon_host(host_id).await.unwrap_err()), (409, "conflict".into()));
    assert_eq!(world.event_types().await[2..], ["host.updated", "host.updated", "host.cordoned"]);
}

/// Of those who load one revision only one can write; all others lose every time, if they are many.
#[tokio::test]
async fn forty_who_tag_one_host_at_a_time_all_do() {
    let store = Watched::default();
    let world = World::with(store.clone(), |builder| builder);
    let (host_id, _) = world.create("a").await;
    store.polite.store(true, SeqCst);
    let admin = world.fleet.admin(&world.root);
    let tags = (0..40).map(|n| admin.tag_host(host_id, format!("t{n}").parse().unwrap()));
    futures_util::future::try_join_all(tags).await.unwrap();
    assert_eq!(admin.host(host_id).await.unwrap().tags.len(), 40);
}

/// What is done between two pages of a list.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Archive(usize),
    Delete(usize),
    Tag(usize),
    Untag(usize),
    Cordon(usize),
    Rename(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let any = 0..64usize;
    prop_oneof![
        2 => Just(Step::Create),
        1 => any.clone().prop_map(Step::Archive),
        1 => any.clone().prop_map(Step::Delete),
        1 => any.clone().prop_map(Step::Tag),
        1 => any.clone().prop_map(Step::Untag),
        1 => any.clone().prop_map(Step::Cordon),
        1 => any.prop_map(Step::Rename),
    ]
}

fn filter() -> impl Strategy<Value = HostFilter> {
    let status = prop_oneof![3 => Just(None), 1 => Just(Some(Status::Pending)), 1 => Just(Some(Status::Archived))];
    let tag = prop_oneof![Just(None), Just("t".parse().ok())];
    let kind = prop_oneof![3 => Just(None), 1 => Just(Some(HostKind::Byoc)), 1 => Just(Some(HostKind::Managed))];
    let q = prop_oneof![2 => Just(None), 1 => Just(Some("web-".to_owned())), 1 => Just(Some("db-".to_owned()))];
    (status, tag, kind, q, 1..6usize).prop_map(|(status, tag, kind, q, limit)| HostFilter {
        status,
        tag,
        kind,
        q,
        limit: Some(limit),
        ..HostFilter::default()
    })
}

fn is_meant(filter: &HostFilter, host: &HostBody) -> bool {
    let HostFilter { status, tag, kind, tenant_id, q, cursor: _, limit: _ } = filter;
    status.is_none_or(|status| status == host.status)
        && tag.as_ref().is_none_or(|tag| host.tags.contains(tag))
        && kind.is_none_or(|kind| kind == host.kind)
        && tenant_id.as_ref().is_none_or(|tenant_id| *tenant_id == host.tenant_id)
        && q.as_ref().is_none_or(|q| host.name.as_str().starts_with(q.as_str()))
}

/// The fleet of one run, as its verbs tell it.
struct Run {
    world: World,
    made: Vec<HostId>,
}

impl Run {
    async fn new(hosts: usize) -> Self {
        let mut run = Self { world: World::new(), made: Vec::new() };
        for _ in 0..hosts {
            run.take(Step::Create).await;
        }
        run
    }

    async fn take(&mut self, step: Step) {
        let admin = self.world.fleet.admin(&self.world.root);
        let n = self.made.len();
        let pick = |index: usize| self.made[index % n];
        match step {
            Step::Create => {
                let name = HostName::new(format!("{}-{n}", ["web", "db"][n % 2])).unwrap();
                let kind = if n.is_multiple_of(3) { HostKind::Managed } else { HostKind::Byoc };
                let tags = if n.is_multiple_of(5) { BTreeSet::new() } else { ["t".parse().unwrap()].into() };
                let request = CreateHost { tags, mint_install_token: false, ..CreateHost::new(name, kind) };
                self.made.push(admin.create_host(request).await.unwrap().host.id);
            }
            // What is archived, or gone, refuses; that is not what this is about.
            Step::Archive(index) => drop(admin.archive_host(pick(index)).await),
            Step::Delete(index) => drop(admin.delete_host(pick(index), false).await),
            Step::Tag(index) => drop(admin.tag_host(pick(index), "t".parse().unwrap()).await),
            Step::Untag(index) => drop(admin.untag_host(pick(index), "t".parse().unwrap()).await),
            Step::Cordon(index) => drop(admin.cordon_host(pick(index)).await),
            Step::Rename(index) => {
                if let Ok(host) = admin.host(pick(index)).await {
                    let read = Revision::new(host.revision);
                    drop(admin.edit_host(host.id, read, renamed(&format!("web-{}-renamed", host.id))).await);
                }
            }
        }
    }

    /// Which hosts a list would have to show just now.
    async fn meant(&self, filter: &HostFilter) -> BTreeSet<HostId> {
        let admin = self.world.fleet.admin(&self.world.root);
        let mut meant = BTreeSet::new();
        for id in &self.made {
            if let Ok(host) = admin.host(*id).await
                && is_meant(filter, &host)
            {
                meant.insert(*id);
            }
        }
        meant
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A host that a list means all the while is shown once, whatever happens to the others, the one that the cursor names
    /// included; no host is shown twice, and none that is not meant at that moment.
    #[test]
    fn pages_of_hosts_hold_still_while_rows_change(
        hosts in 1..12usize,
        filter in filter(),
        between in prop::collection::vec(prop::collection::vec(step(), 0..4), 1..8),
    ) {
        let walk = async {
            let mut run = Run::new(hosts).await;
            let mut steady = run.meant(&filter).await;
            let mut shown: BTreeMap<HostId, usize> = BTreeMap::new();
            let (mut cursor, mut last) = (None, None);
            let mut between = between.into_iter();
            loop {
                let asked = HostFilter { cursor, ..filter.clone() };
                let page = run.world.fleet.admin(&run.world.root).list_hosts(asked).await.unwrap();
                prop_assert!(page.items.len() <= filter.limit.unwrap());
                for host in page.items {
                    prop_assert!(is_meant(&filter, &host));
                    prop_assert!(last < Some(host.id), "in the order of their ids");
                    last = Some(host.id);
                    *shown.entry(host.id).or_default() += 1;
                }
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
                for step in between.next().into_iter().flatten() {
                    run.take(step).await;
                    let meant = run.meant(&filter).await;
                    steady.retain(|id| meant.contains(id));
                }
            }
            prop_assert!(steady.iter().all(|id| shown.get(id) == Some(&1)), "none is missed");
            prop_assert!(shown.values().all(|times| *times == 1), "none is repeated");
            Ok(())
        };
        walk.now_or_never().expect("memory never waits")?;
    }
}
