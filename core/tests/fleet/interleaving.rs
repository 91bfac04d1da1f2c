//! Every order in which exchanges, revocations and archives of a few install tokens of a tenant can meet in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use enlist_core::conformance::sample;
use enlist_core::event::{Event, EventBody, Position};
use enlist_core::fleet::{AdminError, EnrolError, TokenFilter};
use enlist_core::host::{ExternalId, HostName};
use enlist_core::install_token::{InstallToken, InstallTokenStatus};
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Append, Appended, CandidateQuery, Candidates, Commit, Contact,
    ContainerQuery, ContainerRecord, EventQuery, HostLookup, HostQuery, HostRecord, InstallTokenQuery, Key, Known,
    Page, Prune, Pruned, StoreError, Subscription, Sweep, Swept, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::wire::{MintedInstallToken, ProposedHost};
use enlist_core::{AgentTokenId, HostId, InstallTokenId, MemoryStore, Store, TokenHash};
use futures_util::FutureExt;
use proptest::prelude::*;

use crate::world::{World, exchange};

/// `MemoryStore` that lets others go first before each call.
struct Stepping(MemoryStore);

async fn step() {
    let mut stepped = false;
    poll_fn(|_| if std::mem::replace(&mut stepped, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

macro_rules! stepping {
    ($($verb:ident($($arg:ident: $ty:ty)?) -> $out:ty;)*) => {
        #[async_trait]
        impl Store for Stepping {
            $(
                async fn $verb(&self $(, $arg: $ty)?) -> Result<$out, StoreError> {
                    step().await;
                    self.0.$verb($($arg)?).await
                }
            )*
        }
    };
}

stepping! {
    load(key: &Key) -> Option<Aggregate>;
    commit(commit: Commit) -> Vec<Event>;
    authenticate(hash: &TokenHash) -> Option<Known>;
    find_host(lookup: &HostLookup) -> Option<HostRecord>;
    list_hosts(query: &HostQuery) -> Page<HostRecord>;
    list_candidates(query: &CandidateQuery) -> Candidates;
    list_install_tokens(query: &InstallTokenQuery) -> Page<InstallToken>;
    list_agent_tokens(query: &AgentTokenQuery) -> Page<AgentTokenRecord>;
    list_events(query: &EventQuery) -> Page<Event>;
    last_position() -> Position;
    append(reports: Vec<Append>) -> Appended;
    touch(contacts: Vec<Contact>) -> Vec<Event>;
    sweep(sweep: Sweep) -> Swept;
    subscribe() -> Option<Box<dyn Subscription>>;
    prune(prune: &Prune) -> Pruned;
    list_containers(query: &ContainerQuery) -> Page<ContainerRecord>;
    list_telemetry(query: &TelemetryQuery) -> Page<HostSnapshot>;
    check() -> ();
}

const TOKENS: usize = 2;

#[derive(Debug, Clone)]
enum Act {
    Exchange {
        token: usize,
        claim: usize,
        name: Option<usize>,
        external_id: Option<usize>,
    },
    Revoke(usize),
    /// Archives the first host that there is.
    Archive,
    /// Cuts off every credential of the first host that there is.
    CutOff,
}

#[derive(Debug)]
enum Outcome {
    Exchanged(usize, usize, Result<(HostId, AgentTokenId), EnrolError>),
    Revoked(usize, Result<(), AdminError>),
    Other,
}

fn act() -> impl Strategy<Value = Act> {
    let exchange = (0..TOKENS, 0..3_usize, prop::option::of(0..2_usize), prop::option::of(0..2_usize));
    prop_oneof![
        6 => exchange
            .prop_map(|(token, claim, name, external_id)| Act::Exchange { token, claim, name, external_id }),
        1 => (0..TOKENS).prop_map(Act::Revoke),
        1 => Just(Act::Archive),
        1 => Just(Act::CutOff),
    ]
}

async fn first_host(world: &World) -> Option<HostId> {
    let hosts = world.fleet.admin(&world.root).list_hosts(Default::default()).await.unwrap().items;
    hosts.first().map(|host| host.id)
}

async fn run(world: &World, tokens: &[MintedInstallToken], claims: &[TokenHash], act: Act) -> Outcome {
    let admin = world.fleet.admin(&world.root);
    match act {
        Act::Exchange { token, claim, name, external_id } => {
            let host = ProposedHost {
                name: name.and_then(|n| HostName::new(format!("m{n}")).ok()),
                external_id: external_id.and_then(|n| ExternalId::new(format!("i-{n}")).ok()),
            };
            let mut request = exchange(tokens[token].token.expose(), Some(claims[claim]));
            request.host = Some(host);
            let result = world.fleet.enrol(request, None).await;
            Outcome::Exchanged(token, claim, result.map(|reply| (reply.host_id, reply.agent_token.id)))
        }
        Act::Revoke(token) => Outcome::Revoked(token, admin.revoke_install_token(tokens[token].id).await),
        Act::Archive => {
            if let Some(host_id) = first_host(world).await {
                admin.archive_host(host_id).await.unwrap();
            }
            Outcome::Other
        }
        Act::CutOff => {
            if let Some(host_id) = first_host(world).await {
                admin.revoke_agent_tokens(host_id).await.unwrap();
            }
            Outcome::Other
        }
    }
}

/// Runs them all, one step of one of them at a time: which one, `schedule` says.
fn interleave<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>, schedule: &[usize]) -> Vec<T> {
    let mut waiting = futures;
    let mut done = Vec::new();
    let mut turns = schedule.iter().copied();
    while !waiting.is_empty() {
        let turn = turns.next().unwrap_or(0) % waiting.len();
        if let Poll::Ready(outcome) = waiting[turn].as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            done.push(outcome);
            drop(waiting.remove(turn));
        }
    }
    done
}

/// A future that only waits for its steps.
fn alone<T>(future: impl Future<Output = T>) -> T {
    interleave(vec![future.boxed_local()], &[]).pop().expect("it has run")
}

/// What the events say of each install token and each host.
#[derive(Default)]
struct History {
    made: BTreeMap<InstallTokenId, BTreeSet<HostId>>,
    bought: BTreeMap<InstallTokenId, Vec<AgentTokenId>>,
}

fn history(world: &World) -> Result<History, TestCaseError> {
    let mut history = History::default();
    let mut holds: BTreeMap<HostId, AgentTokenId> = BTreeMap::new();
    let mut archived = BTreeSet::new();
    for event in alone(world.events()) {
        let host_id = event.host_id;
        match event.body {
            EventBody::HostCreated { install_token_id: Some(token), .. } => {
                history.made.entry(token).or_default().extend(host_id);
            }
            EventBody::HostEnrolled { install_token_id, agent_token_id } => {
                let host_id = host_id.expect("it is about a host");
                prop_assert!(!archived.contains(&host_id), "an archived host was enrolled");
                let taken = holds.insert(host_id, agent_token_id);
                prop_assert!(taken.is_none(), "a host was taken over while it held a credential");
                history.bought.entry(install_token_id).or_default().push(agent_token_id);
            }
            EventBody::AgentTokenRevoked { .. } => {
                holds.remove(&host_id.expect("it is about a host"));
            }
            EventBody::HostArchived { .. } => {
                holds.remove(&host_id.expect("it is about a host"));
                archived.extend(host_id);
            }
            _ => {}
        }
    }
    Ok(history)
}

/// Both have looked for the external id before either has made its host: whoever comes second is told of that, not of the
/// name, as it would have been a moment later.
#[test]
fn of_two_that_are_the_same_machine_the_later_one_is_told_of_the_external_id() {
    for schedule in [[0, 1].repeat(16), [1, 0].repeat(16)] {
        let world = World::with(Stepping(MemoryStore::new()), |builder| builder);
        let admin = world.fleet.admin(&world.root);
        let mint = || alone(admin.mint_tenant_install_token(sample::tenant("acme"), Default::default())).unwrap();
        let (tokens, claims) = ([mint(), mint()], [sample::hash(), sample::hash()]);
        let same = |n| Act::Exchange { token: n, claim: n, name: Some(0), external_id: Some(0) };
        let futures = (0..2).map(|n| run(&world, &tokens, &claims, same(n)).boxed_local()).collect();
        let [first, second] = interleave(futures, &schedule).try_into().expect("two");
        assert!(matches!(first, Outcome::Exchanged(_, _, Ok(_))), "{first:?}");
        assert!(matches!(second, Outcome::Exchanged(_, _, Err(EnrolError::ExternalIdTaken))), "{second:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tenants_install_token_is_consumed_once_makes_one_host_and_takes_none_over(
        acts in prop::collection::vec(act(), 2..8),
        schedule in prop::collection::vec(0..64_usize, 0..96),
    ) {
        let world = World::with(Stepping(MemoryStore::new()), |builder| builder);
        let admin = world.fleet.admin(&world.root);
        let tokens: Vec<_> = (0..TOKENS)
            .map(|_| alone(admin.mint_tenant_install_token(sample::tenant("acme"), Default::default())).unwrap())
            .collect();
        let claims: Vec<_> = (0..3).map(|_| sample::hash()).collect();
        let futures = acts.into_iter().map(|act| run(&world, &tokens, &claims, act).boxed_local()).collect();
        let outcomes = interleave(futures, &schedule);

        let history = history(&world)?;
        let listed = alone(admin.list_tenant_install_tokens(sample::tenant("acme"), TokenFilter::default())).unwrap();
        for (n, token) in tokens.iter().enumerate() {
            let bought = history.bought.get(&token.id).cloned().unwrap_or_default();
            prop_assert!(bought.len() <= 1, "{} was consumed {} times", n, bought.len());
            prop_assert!(history.made.get(&token.id).is_none_or(|hosts| hosts.len() == 1));
            let status = listed.items.iter().find(|row| row.id == token.id).expect("it is listed").status;
            prop_assert_eq!(status == InstallTokenStatus::Consumed, !bought.is_empty());
            let mut won = BTreeSet::new();
            for outcome in &outcomes {
                match outcome {
                    Outcome::Exchanged(token, claim, result) if *token == n => match result {
                        Ok((host_id, agent_token_id)) => {
                            won.insert((*claim, *host_id));
                            prop_assert_eq!(&bought, &[*agent_token_id], "told what was not bought");
                        }
                        Err(
                            EnrolError::InvalidToken
                            | EnrolError::AlreadyUsed
                            | EnrolError::ClaimInUse
                            | EnrolError::NameTaken
                            | EnrolError::ExternalIdTaken
                            | EnrolError::Refused(..),
                        ) => {}
                        Err(error) => prop_assert!(false, "not in the table: {error:?}"),
                    },
                    Outcome::Revoked(token, result) if *token == n => match result {
                        Ok(()) => prop_assert_eq!(status, InstallTokenStatus::Revoked),
                        Err(AdminError::InstallTokenUsed) => prop_assert_eq!(status, InstallTokenStatus::Consumed),
                        Err(error) => prop_assert!(false, "{error:?}"),
                    },
                    _ => {}
                }
            }
            prop_assert!(won.len() <= 1, "two claims, or two hosts, of one token");
        }
        // Every host came about so, and none stands for nothing.
        let hosts: BTreeSet<_> = alone(world.fleet.admin(&world.root).list_hosts(Default::default()))
            .unwrap()
            .items
            .into_iter()
            .map(|host| host.id)
            .collect();
        prop_assert_eq!(history.made.into_values().flatten().collect::<BTreeSet<_>>(), hosts);
    }
}
