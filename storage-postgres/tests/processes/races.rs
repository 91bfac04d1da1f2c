//! The races, as the parent runs them.

use std::collections::BTreeMap;

use enlist_core::conformance::sample;
use enlist_core::event::{Event, EventBody};
use enlist_core::host::{HostKind, HostName, Presence};
use enlist_core::policy::{Actor, Scope};
use enlist_core::secret::Prefix;
use enlist_core::store::{EventQuery, HostLookup, HostQuery, Store};
use enlist_core::wire::{CreateHost, ExchangeRequest};
use enlist_core::{Fleet, HostId, PlainToken, SystemEntropy};
use enlist_storage_postgres::PgStore;
use serde_json::{Value, json};

use crate::common::Server;
use crate::{PROCESSES, Racer};

/// How many exchangers each process is.
const EXCHANGERS: usize = 32 / PROCESSES;

/// Everything that a race needs, in a runtime of its own.
fn race(run: impl AsyncFnOnce(&Server, &PgStore, &mut [Racer])) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let server = Server::migrated().await;
        let store = server.open();
        let mut racers = Racer::start_all(server.url());
        run(&server, &store, &mut racers).await;
    });
}

/// The same order for all of them, and what they answer.
fn all(racers: &mut [Racer], order: &Value) -> Vec<Value> {
    racers.iter_mut().for_each(|racer| racer.order(order));
    racers.iter_mut().map(Racer::answer).collect()
}

async fn create(fleet: &Fleet, name: String) -> (HostId, PlainToken) {
    let request = CreateHost::new(HostName::new(name).unwrap(), HostKind::Byoc);
    let admin = Actor::operator(sample::actor());
    let created = fleet.admin(&admin).create_host(request).await.unwrap();
    (created.host.id, created.install_token.unwrap().token)
}

fn fleet(store: &PgStore) -> Fleet {
    let (fleet, _drivers) = Fleet::builder(store.clone()).default_tenant(sample::tenant("acme")).build().unwrap();
    fleet
}

/// 200 install tokens, 32 exchangers each, all at once.
pub(crate) fn exchanges() {
    race(async |_, store, racers| {
        let fleet = fleet(store);
        let mut hosts = Vec::new();
        for n in 0..200 {
            hosts.push(create(&fleet, format!("host {n}")).await);
        }
        let install_tokens: Vec<_> = hosts.iter().map(|(_, token)| token.expose()).collect();
        let order = json!({"do": "exchange", "install_tokens": install_tokens, "times": EXCHANGERS});
        let answers = all(racers, &order);
        for (n, (host_id, _)) in hosts.iter().enumerate() {
            let won: Vec<_> = answers.iter().flat_map(|answer| answer[n].as_array().unwrap()).collect();
            let stored = sample::agent_tokens(store, *host_id).await;
            let stored: Vec<_> = stored.iter().map(|token| json!(token.id)).collect();
            assert_eq!(won.len(), 1, "install token {n} was exchanged by {won:?}");
            assert_eq!(stored, [won[0].clone()], "and what was bought is what is stored");
        }
    });
}

/// Whatever was acknowledged is there: each commit raised its host's revision by one, and wrote one event.
pub(crate) fn rotations() {
    race(async |_, store, racers| {
        let mut hosts = Vec::new();
        for n in 0..8 {
            let host = sample::host(&format!("host {n}"));
            sample::create_with_tokens(store, &host, vec![sample::agent_token(&host)]).await;
            hosts.push(host.id);
        }
        let answers = all(racers, &json!({"do": "rotate", "hosts": hosts, "steps": 300}));
        let mut acknowledged: BTreeMap<HostId, u64> = BTreeMap::new();
        for answer in answers {
            let of_one: BTreeMap<HostId, u64> = serde_json::from_value(answer).unwrap();
            of_one.into_iter().for_each(|(host_id, commits)| *acknowledged.entry(host_id).or_default() += commits);
        }
        for host_id in hosts {
            let commits = acknowledged.get(&host_id).copied().unwrap_or(0);
            assert!(commits > 0, "every host was written");
            let aggregate = sample::load(store, host_id).await;
            assert_eq!(aggregate.revision.get(), 1 + commits, "no acknowledged commit was lost");
            assert_eq!(events_of(store, host_id).await.len() as u64, commits);
        }
    });
}

async fn events_of(store: &PgStore, host_id: HostId) -> Vec<Event> {
    sample::walk(|last: Option<&Event>| {
        let after = last.map_or(enlist_core::event::Position::START, |event| event.position);
        let query = EventQuery { host_id: Some(host_id), after, ..EventQuery::new(Scope::All, 100) };
        async move { store.list_events(&query).await.unwrap() }
    })
    .await
}

/// A host's events say by turns that it came and that it fell silent, and every event was told to exactly one process.
pub(crate) fn sweeps() {
    race(async |_, store, racers| {
        let mut hosts = Vec::new();
        for n in 0..20 {
            let host = sample::host(&format!("host {n}"));
            sample::create(store, &host).await;
            hosts.push(host.id);
        }
        // So many more that are well that it is no storm.
        for n in 0..40 {
            let host = sample::host(&format!("well {n}"));
            sample::create(store, &host).await;
            store.touch(vec![sample::contact(&host, sample::at(1_000_000))]).await.unwrap();
        }
        sample::watch(store).await;
        let rounds = 100;
        for (n, racer) in racers.iter_mut().enumerate() {
            let verb = if n % 2 == 0 { "beat" } else { "sweep" };
            racer.order(&json!({"do": verb, "hosts": hosts, "rounds": rounds}));
        }
        let told: u64 = racers.iter_mut().map(|racer| racer.answer().as_u64().unwrap()).sum();
        let mut stored = 0;
        for host_id in hosts {
            let events = events_of(store, host_id).await;
            stored += events.len() as u64;
            let mut online = false;
            for event in &events {
                let now_online = matches!(event.event.body, EventBody::HostOnline { .. });
                assert_ne!(now_online, online, "by turns: {events:?}");
                online = now_online;
            }
            let presence = store.find_host(&HostLookup::Id(host_id)).await.unwrap().unwrap().presence.presence;
            assert_eq!(matches!(presence, Presence::Online { .. }), online, "the last event says how it is");
            let last = sample::at(200 * (rounds - 1) + 100);
            assert_eq!(presence.last_seen_at(), Some(last), "no heartbeat was overwritten");
        }
        assert_eq!(told, stored);
        assert_eq!(store.list_hosts(&HostQuery::new(Scope::All, 100)).await.unwrap().items.len(), 60);
    });
}

/// Measures how long the others go on serving a token after the revocation was acknowledged.
#[allow(clippy::print_stdout, reason = "the figures are what it is for")]
pub(crate) fn revocations() {
    race(async |_, store, racers| {
        let fleet = fleet(store);
        let (revoker, watchers) = racers.split_first_mut().expect("there are four");
        let mut delays = Vec::new();
        for n in 0..50 {
            let (host_id, install_token) = create(&fleet, format!("host {n}")).await;
            let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
            let install_token = install_token.expose().to_owned();
            let request = ExchangeRequest {
                install_token,
                claim: Some(token.hash()),
                facts: None,
                host: None,
                idempotency_key: None,
            };
            let token_id = fleet.enrol(request, None).await.unwrap().agent_token.id;
            let watch = json!({"do": "watch", "agent_token": token.expose()});
            for answer in all(watchers, &watch) {
                assert_eq!(answer, json!("watching"));
            }
            revoker.order(&json!({"do": "revoke", "host_id": host_id, "token_id": token_id}));
            let revoked_at = revoker.answer().as_i64().unwrap();
            let refused = watchers.iter_mut().map(|watcher| watcher.answer().as_i64().unwrap());
            delays.extend(refused.map(|refused_at| refused_at - revoked_at));
        }
        delays.sort_unstable();
        let millis = |micros: i64| micros as f64 / 1_000.0;
        println!(
            "a revocation was refused by {} other processes after {:.1} ms at the median, {:.1} ms at the worst ({} revocations)",
            PROCESSES - 1,
            millis(delays[delays.len() / 2]),
            millis(delays[delays.len() - 1]),
            delays.len() / (PROCESSES - 1),
        );
    });
}
