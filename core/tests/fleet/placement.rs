//! Placement over a store: what is never picked, and that what fits is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;

use enlist_core::conformance::sample::{self, at};
use enlist_core::fleet::PlaceError;
use enlist_core::host::{Host, HostKind, Presence, Tag};
use enlist_core::placement::{Demand, LeastLoaded, Misfit, PlaceRequest, RoundRobin, Scheduler, Shares, Sizing};
use enlist_core::policy::{Actor, Role};
use enlist_core::store::{Append, Candidate, HostLookup, HostPresence, HostRecord, Revision, Store};
use enlist_core::telemetry::{HostFacts, HostMetrics};
use enlist_core::{Entropy, Fleet, HostId, ManualClock, MemoryStore, Timestamp};
use futures_util::FutureExt;
use proptest::prelude::*;

use crate::watched::Watched;
use crate::world::World;

/// Numbers that come from a seed: what fails, fails again.
struct Seeded(Mutex<u64>);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in bytes {
            // SplitMix64.
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            *byte = (mixed ^ (mixed >> 31)).to_be_bytes()[7];
        }
    }
}

fn fleet(store: &(impl Store + Clone), seed: u64, now: Timestamp) -> Fleet {
    let clock = ManualClock::new(now);
    Fleet::builder(store.clone()).clock(clock).entropy(Seeded(Mutex::new(seed))).build().unwrap().0
}

const GIB: u64 = 1 << 30;

/// A report of a machine with 4 cores, 8 GiB and 100 GiB, of which this share is in use.
fn report(host: &Host, percent: u64) -> Append {
    let mut report = sample::report(at(100));
    report.host.facts = Some(HostFacts { cpu_count: Some(4), ..HostFacts::default() });
    let metrics = &mut report.host.metrics;
    metrics.cpu_percent = Some(f64::from(u32::try_from(percent).unwrap()));
    (metrics.memory_total_bytes, metrics.memory_used_bytes) = (Some(8 * GIB), Some(8 * GIB / 100 * percent));
    (metrics.disk_total_bytes, metrics.disk_used_bytes) = (Some(100 * GIB), Some(GIB * percent));
    sample::append(host, report)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Online,
    Pending,
    Unreachable,
    Cordoned,
    Archived,
}

#[derive(Debug, Clone)]
struct Given {
    state: State,
    tenant: &'static str,
    kind: HostKind,
    tagged: bool,
    percent: Option<u64>,
}

fn given() -> impl Strategy<Value = Given> {
    use State::{Archived, Cordoned, Online, Pending, Unreachable};
    let state = prop_oneof![4 => Just(Online), 1 => Just(Pending), 1 => Just(Unreachable), 1 => Just(Cordoned), 1 => Just(Archived)];
    let kind = prop_oneof![Just(HostKind::Byoc), Just(HostKind::Managed)];
    let tenant = prop_oneof![Just("acme"), Just("other")];
    (state, tenant, kind, any::<bool>(), proptest::option::of(0..=100_u64))
        .prop_map(|(state, tenant, kind, tagged, percent)| Given { state, tenant, kind, tagged, percent })
}

fn tag() -> Tag {
    Tag::new("gpu").unwrap()
}

async fn make(store: &MemoryStore, given: &Given) -> Host {
    let mut host = sample::host(&sample::hash().to_hex());
    (host.tenant_id, host.kind) = (sample::tenant(given.tenant), given.kind);
    host.cordoned = given.state == State::Cordoned;
    host.tags = given.tagged.then(tag).into_iter().collect();
    sample::create(store, &host).await;
    match (given.state, given.percent) {
        (State::Pending, _) => {}
        (_, Some(percent)) => drop(store.append(vec![report(&host, percent)]).await.unwrap()),
        (_, None) => drop(store.touch(vec![sample::contact(&host, at(100))]).await.unwrap()),
    }
    if given.state == State::Archived {
        sample::commit(store, sample::write(Revision::FIRST, &host.clone().archive(at(101)))).await;
    }
    host
}

/// Makes those unreachable that shall be: all are heard again but them.
async fn silence(store: &MemoryStore, hosts: &[(Given, Host)]) {
    sample::watch(store).await;
    let window = std::time::Duration::from_secs(90);
    // The second time a storm is over.
    for now in [at(1_000), at(1_500)] {
        let again = hosts.iter().filter(|(given, _)| !matches!(given.state, State::Unreachable | State::Pending));
        store.touch(again.map(|(_, host)| sample::contact(host, now)).collect()).await.unwrap();
        store.sweep(sample::sweep(now, window)).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// And what fits is found, wherever on the ring it stands.
    #[test]
    fn work_goes_only_where_it_may_and_fits(
        hosts in proptest::collection::vec(given(), 0..40),
        seed in any::<u64>(),
        (operator, tenant, kind, tagged) in (any::<bool>(), proptest::option::of(Just("acme")),
            proptest::option::of(Just(HostKind::Byoc)), any::<bool>()),
        needed in 0..8_u64,
        round_robin in any::<bool>(),
    ) {
        async {
            let store = MemoryStore::new();
            let mut made = Vec::new();
            for given in &hosts {
                made.push((given.clone(), make(&store, given).await));
            }
            silence(&store, &made).await;
            let actor = match operator {
                true => Actor::operator(sample::actor()),
                false => Actor::member(sample::actor(), sample::tenant("acme"), Role::Admin),
            };
            let request = PlaceRequest {
                tenant_id: tenant.map(sample::tenant),
                kind,
                tags: tagged.then(tag).into_iter().collect(),
                demand: Demand { memory_bytes: needed * GIB, ..Demand::default() },
            };
            let sizing = Sizing::new(Shares::all(1.0), Shares::all(0.0)).unwrap();
            let may = |given: &Given| {
                given.state == State::Online
                    && (operator || (given.tenant == "acme" && given.kind == HostKind::Byoc))
                    && tenant.is_none_or(|tenant| tenant == given.tenant)
                    && kind.is_none_or(|kind| kind == given.kind)
                    && (!tagged || given.tagged)
            };
            let fits = |given: &Given| {
                needed == 0 || given.percent.is_some_and(|percent| 8 * GIB / 100 * percent + needed * GIB <= 8 * GIB)
            };
            let eligible = made.iter().filter(|(given, _)| may(given)).count();
            let fitting: BTreeSet<_> =
                made.iter().filter(|(given, _)| may(given) && fits(given)).map(|(_, host)| host.id).collect();
            let fleet = fleet(&store, seed, at(1_520));
            for _ in 0..3 {
                // Each for itself: what one has placed, it counts.
                let scheduler: Box<dyn Scheduler> = match round_robin {
                    true => Box::new(RoundRobin::new(sizing)),
                    false => Box::new(LeastLoaded::new(sizing, 4)),
                };
                match fleet.admin(&actor).place(&request, &*scheduler).await {
                    Ok(host) => assert!(fitting.contains(&host.id), "{host:?}"),
                    Err(PlaceError::NoEligibleHost { all }) => assert_eq!((eligible, all), (0, true)),
                    Err(PlaceError::NoFit { misfits, all }) => {
                        assert!(fitting.is_empty());
                        assert_eq!((misfits.total(), all), (eligible, true));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        .now_or_never()
        .expect("memory never waits");
    }
}

async fn placed(fleet: &Fleet, scheduler: &dyn Scheduler, times: usize) -> Vec<HostId> {
    let root = Actor::operator(sample::actor());
    let mut placed = Vec::new();
    for _ in 0..times {
        placed.push(fleet.admin(&root).place(&PlaceRequest::default(), scheduler).await.unwrap().id);
    }
    placed
}

fn online(percent: u64) -> Given {
    Given { state: State::Online, tenant: "acme", kind: HostKind::Byoc, tagged: false, percent: Some(percent) }
}

#[tokio::test]
async fn round_robin_comes_to_each_host_once_before_any_again() {
    let store = MemoryStore::new();
    for _ in 0..25 {
        make(&store, &online(10)).await;
    }
    let (fleet, scheduler) = (fleet(&store, 1, at(120)), RoundRobin::default());
    let first = placed(&fleet, &scheduler, 25).await;
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 25);
    assert_eq!(placed(&fleet, &scheduler, 25).await, first, "and then anew, in the same order");
}

/// Whoever asks in between, and however many ask at once.
#[tokio::test]
async fn round_robin_goes_on_for_each_sort_of_request_by_itself() {
    let store = MemoryStore::new();
    for n in 0..12 {
        make(&store, &Given { tenant: if n % 3 == 0 { "other" } else { "acme" }, ..online(10) }).await;
    }
    let (fleet, scheduler, root) = (fleet(&store, 3, at(120)), RoundRobin::default(), Actor::operator(sample::actor()));
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..8 {
        for (seen, tenant) in seen.iter_mut().zip(["acme", "other"]) {
            let request = PlaceRequest { tenant_id: Some(sample::tenant(tenant)), ..PlaceRequest::default() };
            seen.insert(fleet.admin(&root).place(&request, &scheduler).await.unwrap().id);
        }
    }
    assert_eq!(seen.map(|seen| seen.len()), [8, 4]);

    let candidates: Vec<_> = (0..5).map(|_| candidate(10.0, 10, 10)).collect();
    let scheduler = RoundRobin::default();
    let mut draw = || 0;
    let mut pick = || scheduler.pick(&PlaceRequest::default(), &candidates, &mut draw).unwrap();
    assert_eq!(
        [pick(), pick(), pick(), pick(), pick(), pick()],
        [0, 1, 2, 3, 4, 0],
        "they had looked at the same time"
    );
}

/// Two placements between two reports do not see the same.
#[tokio::test]
async fn least_loaded_counts_what_it_has_placed_since_the_report() {
    let store = MemoryStore::new();
    let mut hosts = Vec::new();
    for percent in [10, 30, 50] {
        hosts.push(make(&store, &online(percent)).await);
    }
    let (fleet, scheduler, root) =
        (fleet(&store, 4, at(120)), LeastLoaded::default(), Actor::operator(sample::actor()));
    // A tenth of a host each.
    let demand = Demand { cpu_cores: 0.4, memory_bytes: 8 * GIB / 10, disk_bytes: 10 * GIB };
    let request = PlaceRequest { demand, ..PlaceRequest::default() };
    let mut given = BTreeMap::<_, usize>::new();
    let place = async |given: &mut BTreeMap<_, usize>| {
        let host = fleet.admin(&root).place(&request, &scheduler).await?;
        *given.entry(host.id).or_default() += 1;
        Ok::<_, PlaceError>(host.id)
    };
    assert_eq!(place(&mut given).await.unwrap(), hosts[0].id);
    for _ in 0..17 {
        place(&mut given).await.unwrap();
    }
    assert!(matches!(place(&mut given).await, Err(PlaceError::NoFit { .. })));
    // A twentieth stays free.
    assert_eq!(hosts.iter().map(|host| given[&host.id]).collect::<Vec<_>>(), [8, 6, 4]);
    let mut full = report(&hosts[0], 10);
    full.report.recorded_at = at(110);
    store.append(vec![full]).await.unwrap();
    assert_eq!(place(&mut given).await.unwrap(), hosts[0].id, "its report says what is in use now");
}

/// Whatever the monitor says: a verdict may be withheld for minutes.
#[tokio::test]
async fn work_goes_to_no_host_that_has_been_silent_for_its_window() {
    let store = MemoryStore::new();
    let host = make(&store, &online(10)).await;
    let root = Actor::operator(sample::actor());
    for (now, found) in [(at(190), Some(host.id)), (at(191), None)] {
        let placed = fleet(&store, 5, now).admin(&root).place(&PlaceRequest::default(), &RoundRobin::default()).await;
        assert_eq!(placed.ok().map(|host| host.id), found);
    }
}

#[tokio::test]
async fn a_placement_looks_at_so_much_and_says_that_it_was_not_all() {
    let store = Watched::default();
    for _ in 0..400 {
        sample::create(&store, &sample::host(&sample::hash().to_hex())).await;
    }
    let root = Actor::operator(sample::actor());
    let place = async |store: &Watched| {
        fleet(store, 6, at(120)).admin(&root).place(&PlaceRequest::default(), &RoundRobin::default()).await
    };
    let refused = place(&store).await.unwrap_err();
    assert!(matches!(refused, PlaceError::NoEligibleHost { all: true }));
    assert_eq!(enlist_core::wire::Problem::from(refused).code.as_str(), "no_eligible_host");
    store.endless.store(true, SeqCst);
    store.looks.store(0, SeqCst);
    assert!(matches!(place(&store).await.unwrap_err(), PlaceError::NoEligibleHost { all: false }));
    assert_eq!(store.looks.load(SeqCst), 64);
}

#[tokio::test]
async fn least_loaded_spreads_over_equal_hosts_and_prefers_the_emptier() {
    let store = MemoryStore::new();
    for _ in 0..50 {
        make(&store, &online(10)).await;
    }
    let fleet = fleet(&store, 2, at(120));
    let mut shares = BTreeMap::<_, usize>::new();
    for host_id in placed(&fleet, &LeastLoaded::default(), 2_000).await {
        *shares.entry(host_id).or_default() += 1;
    }
    assert!(shares.values().all(|share| *share <= 3 * 2_000 / 50), "{shares:?}");
    assert!(shares.len() > 45, "{shares:?}");
    // All of them are in the sample now.
    let emptier = make(&store, &online(5)).await;
    let all = LeastLoaded::new(Sizing::default(), 200);
    assert_eq!(placed(&fleet, &all, 20).await, vec![emptier.id; 20]);
}

#[tokio::test]
async fn a_member_places_nothing_and_a_demand_is_checked() {
    let store = MemoryStore::new();
    let world = World::with(store.clone(), |builder| builder);
    let host = sample::host("a");
    sample::create(&store, &host).await;
    store.touch(vec![sample::contact(&host, at(1))]).await.unwrap();
    let member = Actor::member(sample::actor(), sample::tenant("acme"), Role::Member);
    let place = async |actor: &Actor, cpu_cores| {
        let request = PlaceRequest { demand: Demand { cpu_cores, ..Demand::default() }, ..PlaceRequest::default() };
        world.fleet.admin(actor).place(&request, &LeastLoaded::default()).await.map(|host| host.id)
    };
    assert!(matches!(place(&member, 0.0).await, Err(PlaceError::NoEligibleHost { .. })));
    assert_eq!(place(&world.root, 0.0).await.unwrap(), host.id);
    assert!(matches!(place(&world.root, 1.0).await, Err(PlaceError::NoFit { misfits, .. }) if misfits.unknown == 1));
    for cpu_cores in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(place(&world.root, cpu_cores).await, Err(PlaceError::Invalid(_))));
    }
    let found = store.find_host(&HostLookup::Id(host.id)).await.unwrap().unwrap();
    assert_eq!(found.presence.presence, Presence::Online { last_seen_at: at(1) }, "nothing is written");
    assert_eq!(found.revision, Revision::FIRST);
}

/// A host with 4 cores, 100 GiB of memory and of disk, of which these percents are in use.
fn candidate(cpu: f64, memory: u64, disk: u64) -> Candidate {
    let metrics = HostMetrics {
        cpu_percent: Some(cpu),
        memory_total_bytes: Some(100 * GIB),
        memory_used_bytes: Some(memory * GIB),
        disk_total_bytes: Some(100 * GIB),
        disk_used_bytes: Some(disk * GIB),
        ..HostMetrics::default()
    };
    let facts = HostFacts { cpu_count: Some(4), ..HostFacts::default() };
    let presence = HostPresence { facts, ..HostPresence::default() };
    let record = HostRecord { revision: Revision::FIRST, host: sample::host("a"), presence };
    Candidate { record, metrics: Some(metrics) }
}

#[test]
fn the_tightest_of_cpu_memory_and_disk_decides() {
    let plain = Sizing::new(Shares::all(1.0), Shares::all(0.0)).unwrap();
    let room = |sizing: &Sizing, candidate: &Candidate, demand: Demand| sizing.headroom(candidate, &demand);
    let nothing = Demand::default();
    for (candidate, tightest) in
        [(candidate(75.0, 10, 10), 0.25), (candidate(10.0, 75, 10), 0.25), (candidate(10.0, 10, 75), 0.25)]
    {
        assert_eq!(room(&plain, &candidate, nothing), Ok(tightest));
    }
    let half = candidate(50.0, 50, 50);
    let (cores, memory, disk) = (
        |cpu_cores| Demand { cpu_cores, ..nothing },
        |gib| Demand { memory_bytes: gib * GIB, ..nothing },
        |gib| Demand { disk_bytes: gib * GIB, ..nothing },
    );
    assert_eq!(room(&plain, &half, cores(2.0)), Ok(0.0));
    assert_eq!(room(&plain, &half, cores(2.5)), Err(Misfit::Cpu));
    assert_eq!(room(&plain, &half, memory(51)), Err(Misfit::Memory));
    assert_eq!(room(&plain, &half, disk(51)), Err(Misfit::Disk));
    // Of each its own.
    let twice =
        Sizing::new(Shares { cpu: 2.0, ..Shares::all(1.0) }, Shares { disk: 0.25, ..Shares::all(0.0) }).unwrap();
    assert_eq!(room(&twice, &half, cores(6.0)), Ok(0.0));
    assert_eq!(room(&twice, &half, memory(51)), Err(Misfit::Memory));
    assert_eq!(room(&twice, &half, disk(26)), Err(Misfit::Disk));
    assert_eq!(room(&twice, &half, disk(25)), Ok(0.0));
    // Work that needs nothing of what is short may still go there, after all others.
    assert_eq!(room(&plain, &candidate(100.0, 10, 10), memory(1)), Ok(0.0));
    let silent = Candidate { metrics: None, ..candidate(0.0, 0, 0) };
    assert_eq!(room(&plain, &silent, nothing), Ok(0.0));
    assert_eq!(room(&plain, &silent, cores(0.5)), Err(Misfit::Unknown));
    for wrong in [0.0, -1.0, f64::NAN] {
        assert!(Sizing::new(Shares::all(wrong), Shares::all(0.0)).is_err());
    }
    for wrong in [1.5, -0.5, f64::NAN] {
        assert!(Sizing::new(Shares::all(1.0), Shares::all(wrong)).is_err());
    }
}
