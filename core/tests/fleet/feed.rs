//! Following events as they are committed.

use enlist_core::conformance::sample;
use enlist_core::event::{Event, NewEvent, Position};
use enlist_core::fleet::{AdminError, EventFeed, FeedFilter, FeedItem, Limits, TokioTimer};
use enlist_core::host::{Host, HostKind};
use enlist_core::policy::{Actor, Role, Scope};
use enlist_core::store::{Commit, EventQuery, Store};
use enlist_core::wire::{EventReply, Problem};
use enlist_core::{ActorId, Fleet, MemoryStore};

use crate::world::World;

async fn commit(store: &dyn Store, events: Vec<NewEvent>) -> Vec<Event> {
    store.commit(Commit { writes: Vec::new(), events }).await.unwrap()
}

/// Everything, from behind a position.
fn behind(position: u64) -> FeedFilter {
    FeedFilter { cursor: Some(position.to_string()), ..FeedFilter::default() }
}

async fn follow(world: &World, filter: FeedFilter) -> EventFeed {
    world.fleet.admin(&world.root).follow_events(filter).await.unwrap()
}

/// The next event, however long the feed is quiet.
async fn event(feed: &mut EventFeed) -> EventReply {
    loop {
        if let FeedItem::Event(event) = feed.next().await.unwrap().expect("it goes on") {
            return *event;
        }
    }
}

/// The positions that the feed tells before it is quiet, and where it is then.
async fn until_quiet(feed: &mut EventFeed) -> (Vec<u64>, Position) {
    let mut told = Vec::new();
    loop {
        match feed.next().await.unwrap().expect("it goes on") {
            FeedItem::Event(event) => told.push(event.position.get()),
            FeedItem::Quiet(position) => return (told, position),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_told_twice_while_others_write_and_from_wherever_a_reader_comes_back() {
    const WRITERS: usize = 8;
    let world = World::new().running().await;
    let host = sample::host("a");
    commit(&*world.store, (0..250).map(|_| sample::event(&host)).collect()).await;
    let mut feed = follow(&world, behind(0)).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (store, host) = (world.store.clone(), host.clone());
        writers.push(tokio::spawn(async move {
            for n in 0..40 {
                commit(&*store, (0..=(n + writer) % 3).map(|_| sample::event(&host)).collect()).await;
                if n % 7 == writer % 7 {
                    tokio::time::sleep(std::time::Duration::from_millis(90)).await;
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut told = Vec::new();
    while writers.iter().any(|writer| !writer.is_finished()) {
        told.extend(until_quiet(&mut feed).await.0);
    }
    told.extend(until_quiet(&mut feed).await.0);
    let all = world.store.list_events(&EventQuery::new(Scope::All, 10_000)).await.unwrap().items;
    let all: Vec<_> = all.iter().map(|event| event.position.get()).collect();
    assert!(all.len() > 500);
    assert_eq!(told, all);
    for from in (0..all.len()).step_by(37) {
        let (told, at) = until_quiet(&mut follow(&world, behind(all[from])).await).await;
        assert_eq!((told.as_slice(), at.get()), (&all[from + 1..], all[all.len() - 1]), "behind {from}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_without_a_position_tells_what_happens_from_now_on() {
    let world = World::new().running().await;
    let host = sample::host("a");
    let before = commit(&*world.store, vec![sample::event(&host)]).await;
    let mut feed = follow(&world, FeedFilter::default()).await;
    assert_eq!(feed.position(), before[0].position);
    let after = commit(&*world.store, vec![sample::event(&host)]).await;
    assert_eq!(event(&mut feed).await, EventReply::from(after[0].clone()));
    assert_eq!(feed.position(), after[0].position);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_is_rare_does_not_look_through_the_rest_again() {
    let world = World::new().running().await;
    let (host, rare) = (sample::host("a"), sample::host("rare"));
    let mut feed = follow(&world, FeedFilter { host_id: Some(rare.id), ..behind(0) }).await;
    let others = commit(&*world.store, (0..300).map(|_| sample::event(&host)).collect()).await;
    assert_eq!(until_quiet(&mut feed).await, (vec![], others[299].position));
    let one = commit(&*world.store, vec![sample::event(&host), sample::event(&rare), sample::event(&host)]).await;
    assert_eq!(event(&mut feed).await.position, one[1].position);
    assert_eq!(until_quiet(&mut feed).await, (vec![], one[2].position));
}

#[tokio::test(start_paused = true)]
async fn a_feed_tells_what_its_filter_and_its_actor_allow() {
    let world = World::new().running().await;
    let byoc = sample::host("a");
    let managed = Host { kind: HostKind::Managed, ..sample::host("b") };
    let other = Host { tenant_id: sample::tenant("other"), ..sample::host("c") };
    let written = commit(&*world.store, [&byoc, &managed, &other].map(sample::event).to_vec()).await;
    let positions: Vec<_> = written.iter().map(|event| event.position.get()).collect();
    let kind = FeedFilter { kind: Some(HostKind::Managed), ..behind(0) };
    assert_eq!(until_quiet(&mut follow(&world, kind).await).await.0, positions[1..2]);
    let tenant = FeedFilter { tenant_id: Some(other.tenant_id.clone()), ..behind(0) };
    assert_eq!(until_quiet(&mut follow(&world, tenant).await).await.0, positions[2..]);
    let none = FeedFilter { r#type: Some("host.archived".to_owned()), ..behind(0) };
    assert_eq!(until_quiet(&mut follow(&world, none).await).await.0, Vec::<u64>::new());
    let member = Actor::member(sample::actor(), byoc.tenant_id.clone(), Role::Member);
    let mut feed = world.fleet.admin(&member).follow_events(behind(0)).await.unwrap();
    assert_eq!(until_quiet(&mut feed).await.0, positions[..2]);
}

/// Also what was read before, and not told yet.
#[tokio::test(start_paused = true)]
async fn an_actor_who_may_see_less_is_told_less_at_once() {
    let world = World::new().running().await;
    let (host, other) = (sample::host("a"), Host { tenant_id: sample::tenant("other"), ..sample::host("c") });
    let written = commit(&*world.store, [&host, &host, &other].map(sample::event).to_vec()).await;
    let mut feed = follow(&world, behind(0)).await;
    assert_eq!(event(&mut feed).await.position, written[0].position);
    feed.reauthorise(&Actor::member(sample::actor(), other.tenant_id.clone(), Role::Member));
    assert_eq!(event(&mut feed).await.position, written[2].position);
    let later = commit(&*world.store, [&host, &other].map(sample::event).to_vec()).await;
    assert_eq!(event(&mut feed).await.position, later[1].position);
}

#[tokio::test(start_paused = true)]
async fn feeds_are_bounded_for_an_actor_and_for_all() {
    let mut limits = Limits::default();
    (limits.event_feeds, limits.event_feeds_per_actor) = (3, 2);
    let world = World::with(MemoryStore::new(), |builder| builder.limits(limits)).running().await;
    let somebody = |name: &str| Actor::operator(ActorId::new(name).unwrap());
    let open = async |name: &str| world.fleet.admin(&somebody(name)).follow_events(FeedFilter::default()).await;
    let (first, _second) = (open("a").await.unwrap(), open("a").await.unwrap());
    let refused = open("a").await.unwrap_err();
    assert!(matches!(refused, AdminError::TooManyFeeds));
    let problem = Problem::from(refused);
    assert_eq!((problem.status, problem.code.as_str()), (503, "too_many_streams"));
    assert!(problem.headers().into_iter().any(|(name, _)| name == "retry-after"));
    let _third = open("b").await.unwrap();
    assert!(matches!(open("b").await, Err(AdminError::TooManyFeeds)));
    drop(first);
    open("b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_feed_is_heard_of_while_only_others_are_told_something() {
    let world = World::new().running().await;
    let (host, other) = (sample::host("a"), sample::host("b"));
    let mut feed = follow(&world, FeedFilter { host_id: Some(host.id), ..FeedFilter::default() }).await;
    let store = world.store.clone();
    let writer = tokio::spawn(async move {
        loop {
            commit(&*store, vec![sample::event(&other)]).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        assert!(matches!(feed.next().await.unwrap(), Some(FeedItem::Quiet(_))));
    }
    // By a clock that stands still but for who sleeps.
    assert!(began.elapsed() < std::time::Duration::from_secs(21));
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_position_of_another_database_is_refused_and_one_that_became_so_ends() {
    let world = World::new().running().await;
    let host = sample::host("a");
    // Nothing is there, as when all was deleted by age.
    let mut feed = follow(&world, behind(500)).await;
    assert_eq!(until_quiet(&mut feed).await, (vec![], Position::new(500)));
    commit(&*world.store, vec![sample::event(&host)]).await;
    assert_eq!(feed.next().await.unwrap(), None);
    let refused = world.fleet.admin(&world.root).follow_events(behind(500)).await.unwrap_err();
    assert_eq!(Problem::from(refused).code.as_str(), "invalid_request");
    assert_eq!(until_quiet(&mut follow(&world, behind(1)).await).await, (vec![], Position::new(1)));
    for far in [u64::MAX, 1 << 63] {
        let refused = world.fleet.admin(&world.root).follow_events(behind(far)).await.unwrap_err();
        assert!(matches!(refused, AdminError::InvalidQuery(text) if text.starts_with("cursor")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_far_behind_ends_at_once() {
    let world = World::new().running().await;
    let host = sample::host("a");
    commit(&*world.store, (0..250).map(|_| sample::event(&host)).collect()).await;
    let mut feed = follow(&world, behind(0)).await;
    assert_eq!(event(&mut feed).await.position.get(), 1);
    world.fleet.close_feeds();
    assert_eq!(feed.next().await.unwrap(), None);
    assert_eq!(feed.position().get(), 1, "from where it goes on elsewhere");
}

#[tokio::test(start_paused = true)]
async fn feeds_end_when_they_are_closed_and_with_the_drivers() {
    let closed = |fleet: &Fleet| {
        let (fleet, root) = (fleet.clone(), Actor::operator(sample::actor()));
        async move { matches!(fleet.admin(&root).follow_events(FeedFilter::default()).await, Err(AdminError::Store(_))) }
    };
    let mut world = World::new();
    assert!(closed(&world.fleet).await, "nobody would ring");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let drivers = world.drivers.take().unwrap();
    let running = tokio::spawn(drivers.run(TokioTimer, async { drop(stopped.await) }));
    while !world.fleet.accepts_reports() {
        tokio::task::yield_now().await;
    }
    let mut feed = follow(&world, FeedFilter::default()).await;
    until_quiet(&mut feed).await;
    drop(stop);
    running.await.unwrap();
    assert_eq!(feed.next().await.unwrap(), None);
    assert!(closed(&world.fleet).await);

    let world = World::new().running().await;
    let mut feed = follow(&world, FeedFilter::default()).await;
    let waiting = tokio::spawn(async move { while feed.next().await.unwrap().is_some() {} });
    tokio::task::yield_now().await;
    world.fleet.close_feeds();
    waiting.await.unwrap();
    assert!(closed(&world.fleet).await);
    assert!(world.fleet.accepts_reports(), "reports go on");
}
