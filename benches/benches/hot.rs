//! The functions that every report goes through, one by one.
//!
//! Clocks stand still, so that nothing that is remembered expires.

#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use enlist_benches::history::{HALF_A_MINUTE, History};
use enlist_benches::report::Report;
use enlist_core::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin, Request, Siblings};
use enlist_core::fleet::{Limits, TokioTimer};
use enlist_core::host::{HostKind, HostName};
use enlist_core::policy::Actor;
use enlist_core::secret::Prefix;
use enlist_core::store::{Append, AppendOutcome, Contact, Store};
use enlist_core::telemetry::parse_report;
use enlist_core::wire::{CreateHost, ExchangeRequest, TelemetryReply};
use enlist_core::{
    ActorId, AgentIdentity, AgentTokenId, Drivers, EventId, Fleet, HostId, LineageId, ManualClock, MemoryStore,
    PlainToken, SystemEntropy, TenantId, Timestamp,
};
use enlist_storage_sqlite::SqliteStore;
use tokio::runtime::Runtime;

const NOW: i64 = 1_800_000_000_000_000;
/// Of the appends.
const HOSTS: u32 = 100;

fn now() -> Timestamp {
    Timestamp::from_unix_micros(NOW).expect("a time of this century")
}

fn fleet_in(store: Arc<dyn Store>) -> (Fleet, Drivers) {
    // Its clock stands still: a minute never ends.
    let mut limits = Limits::default();
    limits.live_per_minute = None;
    let builder = Fleet::builder_of(store).clock(Arc::new(ManualClock::new(now()))).limits(limits);
    builder.default_tenant(TenantId::new("bench").expect("a name")).build().expect("the usual limits")
}

/// A host whose token is in use.
async fn enrolled(fleet: &Fleet, name: &str) -> (PlainToken, AgentIdentity) {
    let root = Actor::operator(ActorId::new("root").expect("a name"));
    let create = CreateHost::new(HostName::new(name).expect("a name"), HostKind::Managed);
    let created = fleet.admin(&root).create_host(create).await.expect("a host");
    let install_token = created.install_token.expect("it is minted with the host").token.expose().to_owned();
    let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    let claim = Some(token.hash());
    let request = ExchangeRequest { install_token, claim, facts: None, host: None, idempotency_key: None };
    fleet.enrol(request, None).await.expect("an exchange");
    let identity = fleet.authenticate(token.expose()).await.expect("a first use");
    (token, identity)
}

fn json_of(report: &Report) -> String {
    let mut json = String::new();
    report.write_json(&mut json);
    json
}

fn parse(criterion: &mut Criterion) {
    let json = json_of(&Report::new(7, 100, NOW));
    let mut group = criterion.benchmark_group("report");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("parse and validate", |bencher| {
        bencher.iter(|| parse_report(black_box(json.as_bytes())).expect("within the bounds"));
    });
    group.finish();
    let reply = r#"{"status":"accepted","server_time":"2027-01-15T08:00:00.123456Z","next_report_in_ms":30000,"lease_ms":60000}"#;
    let reply: TelemetryReply = serde_json::from_str(reply).expect("a reply");
    criterion.bench_function("report/encode the reply", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&reply)).expect("JSON"));
    });
}

fn agents(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (fleet, drivers) = fleet_in(Arc::new(MemoryStore::new()));
    // Within a runtime: they sleep.
    runtime.spawn(drivers.run(TokioTimer, std::future::pending()));
    let (token, identity) = runtime.block_on(async {
        while !fleet.accepts_reports() {
            tokio::task::yield_now().await;
        }
        enrolled(&fleet, "host").await
    });
    criterion.bench_function("token/hash", |bencher| bencher.iter(|| black_box(&token).hash()));
    criterion.bench_function("token/authenticate, known", |bencher| {
        bencher.iter(|| {
            // Nothing is waited for, since it is known: one poll, without a runtime.
            let mut asked = std::pin::pin!(fleet.authenticate(black_box(token.expose())));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(matches!(asked.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(_))));
        });
    });
    criterion.bench_function("heartbeat", |bencher| {
        bencher.iter(|| {
            fleet.agent(black_box(&identity)).live().expect("there is no limit").heartbeat().expect("the drivers run")
        });
    });
}

fn transitions(criterion: &mut Criterion) {
    let pending = AgentToken {
        id: AgentTokenId::generate(now(), &SystemEntropy),
        host_id: HostId::generate(now(), &SystemEntropy),
        lineage_id: LineageId::generate(now(), &SystemEntropy),
        hash: PlainToken::generate(Prefix::AGENT, &SystemEntropy).hash(),
        kind: CredentialKind::Bearer,
        name: None,
        origin: Origin::Issued(ActorId::new("root").expect("a name")),
        state: AgentTokenState::Pending,
        created_at: now(),
        expires_at: None,
    };
    let active = pending.clone().promote(None, now()).expect("it is Pending");
    criterion.bench_function("transition/judge", |bencher| {
        bencher.iter(|| black_box(&active).judge(false, Request::Serve, Siblings::default(), black_box(now())));
    });
    let life = Some(Duration::from_secs(86_400));
    criterion.bench_function("transition/promote", |bencher| {
        let promote = |token: AgentToken| token.promote(life, now()).expect("it is Pending");
        bencher.iter_batched(|| pending.clone(), promote, BatchSize::SmallInput);
    });
}

fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (store, identities) = runtime.block_on(async {
        let store = SqliteStore::open("sqlite::memory:").await.expect("memory");
        store.migrate().await.expect("an empty database");
        let (fleet, _drivers) = fleet_in(Arc::new(store.clone()));
        let mut identities = Vec::new();
        for host in 0..HOSTS {
            identities.push(enrolled(&fleet, &format!("host-{host}")).await.1);
        }
        (store, identities)
    });
    let mut reports = History { hosts: HOSTS, start: NOW, interval: HALF_A_MINUTE }.reports(0);
    let mut make = |count: usize| -> Vec<Append> {
        let append = |report: Report| {
            let identity = &identities[report.host as usize];
            let (host_id, token_id) = (identity.host_id(), identity.token_id());
            let event_id = EventId::generate(now(), &SystemEntropy);
            let contact = Contact { host_id, token_id, at: now(), event_id };
            Append { contact, report: parse_report(json_of(&report).as_bytes()).expect("within the bounds") }
        };
        reports.by_ref().take(count).map(append).collect()
    };
    let mut group = criterion.benchmark_group("append to SQLite in memory");
    for count in [1, 100] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} reports"), |bencher| {
            let store = |reports| {
                let appended = runtime.block_on(store.append(reports)).expect("memory does not fail");
                assert!(appended.outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)));
            };
            bencher.iter_batched(|| make(count), store, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(hot, parse, agents, transitions, append);
criterion_main!(hot);
