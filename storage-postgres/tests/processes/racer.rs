//! A child: it does as it is told, and says what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use enlist_core::agent_token::{AgentToken, AgentTokenState, Origin, RevokeReason};
use enlist_core::conformance::sample::{self, at};
use enlist_core::fleet::{AuthenticateError, EnrolError, Limits, TokioTimer};
use enlist_core::policy::Actor;
use enlist_core::secret::Prefix;
use enlist_core::store::{Aggregate, Commit, Contact, HostAggregate, HostWrite, Key, Store, StoreErrorKind};
use enlist_core::wire::ExchangeRequest;
use enlist_core::{AgentTokenId, Clock, Entropy, Fleet, HostId, PlainToken, SystemClock, SystemEntropy, TokenHash};
use enlist_storage_postgres::PgStore;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a parent can ask for.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Order {
    /// Exchange each install token so many times at once, with a claim of its own each time.
    Exchange { install_tokens: Vec<String>, times: usize },
    /// So many random verbs on the tokens of these hosts.
    Rotate { hosts: Vec<HostId>, steps: usize },
    /// Heartbeats of these hosts, so many rounds.
    Beat { hosts: Vec<HostId>, rounds: i64 },
    /// Sweeps, so many rounds.
    Sweep { rounds: i64 },
    /// Authenticate until refused.
    Watch { agent_token: String },
    /// Revoke.
    Revoke { host_id: HostId, token_id: AgentTokenId },
}

pub(crate) fn main(url: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(serve(url));
}

async fn serve(url: &str) {
    let store = PgStore::builder(crate::common::pool(url)).listen_url(url).build().expect("the options are valid");
    let mut limits = Limits::default();
    limits.refused_exchanges_per_minute = None;
    let (fleet, drivers) = Fleet::builder(store.clone()).limits(limits).build().expect("the limits are valid");
    tokio::spawn(drivers.run(TokioTimer, std::future::pending()));
    while !fleet.accepts_reports() {
        tokio::task::yield_now().await;
    }
    say(&json!("ready"));
    let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            drop(sender.send(line));
        }
    });
    while let Some(line) = orders.recv().await {
        let answer = match serde_json::from_str(&line).expect("the parent speaks JSON") {
            Order::Exchange { install_tokens, times } => exchange(&fleet, install_tokens, times).await,
            Order::Rotate { hosts, steps } => rotate(&store, &hosts, steps).await,
            Order::Beat { hosts, rounds } => beat(&store, &hosts, rounds).await,
            Order::Sweep { rounds } => sweep(&store, rounds).await,
            Order::Watch { agent_token } => watch(&fleet, &agent_token).await,
            Order::Revoke { host_id, token_id } => {
                let admin = Actor::operator(sample::actor());
                fleet.admin(&admin).revoke_agent_token(host_id, token_id).await.expect("it can be revoked");
                json!(SystemClock::default().now().unix_micros())
            }
        };
        say(&answer);
    }
}

fn say(answer: &Value) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{answer}").and_then(|()| output.flush()).expect("the parent listens");
}

/// For each install token, the agent tokens that were bought with it.
async fn exchange(fleet: &Fleet, install_tokens: Vec<String>, times: usize) -> Value {
    let mut bought = Vec::new();
    for install_token in install_tokens {
        let attempts = (0..times).map(|_| {
            let claim = PlainToken::generate(Prefix::AGENT, &SystemEntropy).hash();
            let install_token = install_token.clone();
            let request =
                ExchangeRequest { install_token, claim: Some(claim), facts: None, host: None, idempotency_key: None };
            let fleet = fleet.clone();
            tokio::spawn(async move { fleet.enrol(request, None).await })
        });
        let mut won = Vec::new();
        for attempt in futures_util::future::join_all(attempts).await {
            match attempt.expect("no exchange panics") {
                Ok(reply) => won.push(reply.agent_token.id),
                Err(EnrolError::AlreadyUsed) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        bought.push(won);
    }
    json!(bought)
}

fn random(below: usize) -> usize {
    let mut bytes = [0; 8];
    SystemEntropy.fill(&mut bytes);
    (u64::from_le_bytes(bytes) % below as u64) as usize
}

/// How many commits were acknowledged, by host; each raised the revision by one, or a write was lost.
async fn rotate(store: &PgStore, hosts: &[HostId], steps: usize) -> Value {
    let mut acknowledged: BTreeMap<HostId, u64> = BTreeMap::new();
    for _ in 0..steps {
        let host_id = hosts[random(hosts.len())];
        let Some(Aggregate::Host(aggregate)) = store.load(&Key::Host(host_id)).await.expect("it loads") else {
            panic!("a host is gone")
        };
        let Some(write) = verb(*aggregate) else { continue };
        let (hashes, event) = (refused(&write), sample::event(&write.host));
        match store.commit(Commit::of(write, vec![event])).await {
            Ok(_) => *acknowledged.entry(host_id).or_default() += 1,
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error:?}");
                continue;
            }
        }
        // What was cut off stays so, whatever the others do meanwhile.
        for hash in hashes {
            assert!(!sample::credential(store, &hash).await.token.is_live());
        }
    }
    json!(acknowledged)
}

fn refused(write: &HostWrite) -> Vec<TokenHash> {
    write.agent_tokens.iter().filter(|token| !token.is_live()).map(|token| token.hash).collect()
}

/// One of: propose, first use, revoke, begin anew.
fn verb(aggregate: HostAggregate) -> Option<HostWrite> {
    let HostAggregate { revision, host, agent_tokens, .. } = aggregate;
    let active = agent_tokens.iter().find(|token| matches!(token.state, AgentTokenState::Active { .. })).cloned();
    let pending = agent_tokens.iter().find(|token| token.state == AgentTokenState::Pending).cloned();
    let tokens = match (active, pending, random(8)) {
        (Some(active), _, 0) => vec![active.revoke(RevokeReason::Administrator, at(9)).ok()?],
        (active, Some(pending), _) => {
            let promoted = pending.promote(None, at(3)).ok()?;
            active.and_then(|active| active.retire(&promoted, at(3)).ok()).into_iter().chain([promoted]).collect()
        }
        (Some(active), None, _) => {
            let origin = Origin::Proposed { predecessor: active.id };
            vec![AgentToken { lineage_id: active.lineage_id, origin, ..sample::agent_token(&host) }]
        }
        (None, None, _) => vec![sample::agent_token(&host)],
    };
    Some(HostWrite { agent_tokens: tokens, ..sample::write(revision, &host) })
}

/// Contacts at odd seconds; how many events came of them.
async fn beat(store: &PgStore, hosts: &[HostId], rounds: i64) -> Value {
    let mut told = 0;
    for round in 0..rounds {
        let contact = |host_id: &HostId| Contact {
            host_id: *host_id,
            token_id: AgentTokenId::from_uuid(*host_id.as_uuid()),
            at: at(200 * round + 100),
            event_id: sample::event_id(),
        };
        told += store.touch(hosts.iter().map(contact).collect()).await.expect("it is written").len();
    }
    json!(told)
}

/// Sweeps as of a little after each heartbeat's window; how many events came of them.
async fn sweep(store: &PgStore, rounds: i64) -> Value {
    let mut told = 0;
    for round in 0..rounds {
        let sweep = sample::sweep(at(200 * round + 200), Duration::from_secs(90));
        told += store.sweep(sweep).await.expect("it is written").events.len();
    }
    json!(told)
}

/// Says that it watches, then when it was first refused, by the wall clock that all processes share.
async fn watch(fleet: &Fleet, agent_token: &str) -> Value {
    // Served twice, so that it stands in the cache.
    for _ in 0..2 {
        fleet.authenticate(agent_token).await.expect("it is served");
    }
    say(&json!("watching"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    loop {
        match fleet.authenticate(agent_token).await {
            Ok(_) => tokio::time::sleep(Duration::from_micros(500)).await,
            Err(AuthenticateError::Refused(..)) => return json!(clock.now().unix_micros()),
            Err(error) => panic!("{error:?}"),
        }
    }
}
