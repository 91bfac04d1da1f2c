//! Many at once: exactly one wins, and nobody is told something that is not so.
//!
//! Whatever can be shown by a stale revision stands in [`commit`](super::commit), where it fails every time. These
//! look for what only happens between tasks.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Fixture;
use super::sample::{self, at};
use crate::event::{EventBody, Position};
use crate::fleet::{EnrolError, Limits};
use crate::host::{ExternalId, HostKind, HostName};
use crate::policy::{Actor, Scope};
use crate::secret::{PlainToken, Prefix};
use crate::store::{AppendOutcome, Commit, EventQuery, HostQuery, Revision, Store, StoreErrorKind, TelemetryQuery};
use crate::wire::{CreateHost, ExchangeRequest, ProposedHost};
use crate::{Clock, Fleet, HostId, ManualClock, SystemEntropy};

fn fleet(store: impl Store) -> Fleet {
    let clock: Arc<ManualClock> = Arc::new(ManualClock::new(at(0)));
    let limits = Limits { refused_exchanges_per_minute: NonZeroU32::new(10_000), ..Limits::default() };
    let (fleet, _drivers) =
        Fleet::builder(store).clock(clock as Arc<dyn Clock>).limits(limits).build().expect("the limits are valid");
    fleet
}

async fn create_host(fleet: &Fleet) -> (HostId, PlainToken) {
    let request = CreateHost {
        tenant_id: Some(sample::tenant("acme")),
        ..CreateHost::new(HostName::new(sample::hash().to_hex()).expect("valid"), HostKind::Byoc)
    };
    let created = fleet.admin(&Actor::operator(sample::actor())).create_host(request).await.unwrap();
    (created.host.id, created.install_token.expect("one was asked for").token)
}

fn exchange(install_token: &PlainToken, claim: crate::TokenHash) -> ExchangeRequest {
    let install_token = install_token.expose().to_owned();
    ExchangeRequest { install_token, claim: Some(claim), facts: None, host: None, idempotency_key: None }
}

/// The rest is told so, and the store holds what the winner wrote.
pub async fn one_of_many_commits_at_one_revision_wins(fixture: &impl Fixture) {
    let handles = [fixture.handle().await, fixture.handle().await];
    let host = sample::host("a");
    sample::create(&handles[0], &host).await;
    for round in 1..=10 {
        let attempts = (0..16).map(|n| {
            let token = sample::agent_token(&host);
            let write =
                crate::store::HostWrite { agent_tokens: vec![token], ..sample::write(Revision::new(round), &host) };
            handles[n % 2].commit(Commit::of(write, vec![sample::event(&host)]))
        });
        let results = join_all(attempts).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1, "round {round}");
        assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| e.kind() == StoreErrorKind::Conflict));
        let aggregate = sample::load(&handles[1], host.id).await;
        assert_eq!(aggregate.agent_tokens.len() as u64, round);
        assert_eq!(aggregate.revision, Revision::new(round + 1));
    }
}

/// 64 hosts with one install token between them: one credential, 63 clear refusals.
pub async fn one_of_sixty_four_claims_wins_an_install_token(fixture: &impl Fixture) {
    let fleets = [fleet(fixture.handle().await), fleet(fixture.handle().await)];
    let (host_id, token) = create_host(&fleets[0]).await;
    let attempts = (0..64).map(|n| fleets[n % 2].enrol(exchange(&token, sample::hash()), None));
    let results = join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = results.iter().filter(|result| matches!(result, Err(EnrolError::AlreadyUsed))).count();
    assert_eq!(refused, 63);
    let store = fixture.handle().await;
    assert_eq!(sample::agent_tokens(&store, host_id).await.len(), 1);
}

/// One host that repeats itself: 64 successes, one credential.
pub async fn one_claim_sent_sixty_four_times_buys_one_credential(fixture: &impl Fixture) {
    let fleets = [fleet(fixture.handle().await), fleet(fixture.handle().await)];
    let (host_id, token) = create_host(&fleets[0]).await;
    let claim = sample::hash();
    let results = join_all((0..64).map(|n| fleets[n % 2].enrol(exchange(&token, claim), None))).await;
    let ids: Vec<_> = results.into_iter().map(|result| result.expect("it is the same claim").agent_token.id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let store = fixture.handle().await;
    let tokens = sample::agent_tokens(&store, host_id).await;
    assert_eq!(tokens.iter().map(|token| (token.id, token.hash)).collect::<Vec<_>>(), [(ids[0], claim)]);
}

async fn tenant_token(fleet: &Fleet) -> PlainToken {
    let root = Actor::operator(sample::actor());
    fleet.admin(&root).mint_tenant_install_token(sample::tenant("acme"), Default::default()).await.unwrap().token
}

fn making(install_token: &PlainToken, name: &str, external_id: &str) -> ExchangeRequest {
    let host = ProposedHost { name: HostName::new(name).ok(), external_id: ExternalId::new(external_id).ok() };
    let mut request = exchange(install_token, sample::hash());
    request.host = Some(host);
    request
}

/// 32 machines with one install token of their tenant between them: one host, 31 clear refusals.
pub async fn one_of_many_exchanges_of_a_tenants_install_token_makes_one_host(fixture: &impl Fixture) {
    let fleets = [fleet(fixture.handle().await), fleet(fixture.handle().await)];
    let token = tenant_token(&fleets[0]).await;
    let attempts = (0..32).map(|n| fleets[n % 2].enrol(making(&token, &format!("m{n}"), &format!("i-{n}")), None));
    let results = join_all(attempts).await;
    let won: Vec<_> = results.iter().flatten().map(|reply| reply.host_id).collect();
    let refused = results.iter().filter(|result| matches!(result, Err(EnrolError::AlreadyUsed))).count();
    assert_eq!((won.len(), refused), (1, 31));
    let store = fixture.handle().await;
    let hosts = store.list_hosts(&HostQuery::new(Scope::All, 10)).await.unwrap().items;
    assert_eq!(hosts.iter().map(|record| record.host.id).collect::<Vec<_>>(), won);
    assert_eq!(sample::agent_tokens(&store, won[0]).await.len(), 1);
}

/// 16 clones of one machine, each with an install token of its own: one is the host, the others are told so and can use
/// theirs for another. The same once what the host held is revoked: one enrols it anew.
pub async fn one_of_many_install_tokens_of_a_tenant_gets_an_external_id(fixture: &impl Fixture) {
    let fleets = [fleet(fixture.handle().await), fleet(fixture.handle().await)];
    let (root, store) = (Actor::operator(sample::actor()), fixture.handle().await);
    let mut hosts = Vec::new();
    for round in 1..=2 {
        let tokens = join_all((0..16).map(|n| tenant_token(&fleets[n % 2]))).await;
        let attempts = tokens.iter().enumerate();
        let attempts = attempts.map(|(n, token)| fleets[n % 2].enrol(making(token, "clone", "i-1"), None));
        let results = join_all(attempts).await;
        let clash = |result: &Result<_, EnrolError>| matches!(result, Err(EnrolError::ExternalIdTaken));
        assert_eq!(results.iter().filter(|result| clash(result)).count(), 15, "round {round}");
        let won: Vec<_> = results.iter().flatten().map(|reply| (reply.host_id, reply.agent_token.id)).collect();
        assert_eq!(won.len(), 1, "round {round}");
        let (host_id, token_id) = won[0];
        assert_eq!(sample::load(&store, host_id).await.agent_tokens.len(), 1);
        fleets[0].admin(&root).revoke_agent_token(host_id, token_id).await.unwrap();
        hosts.push(host_id);
        let lost = results.iter().position(clash).expect("all but one");
        fleets[0].enrol(making(&tokens[lost], &format!("other-{round}"), &format!("j-{round}")), None).await.unwrap();
    }
    assert_eq!(hosts[0], hosts[1]);
    assert_eq!(store.list_hosts(&HostQuery::new(Scope::All, 10)).await.unwrap().items.len(), 3);
}

/// A client that repeats itself before it was answered.
pub async fn one_report_sent_many_times_at_once_is_stored_once(fixture: &impl Fixture) {
    let handles = [fixture.handle().await, fixture.handle().await];
    let host = sample::host("a");
    sample::create(&handles[0], &host).await;
    let report = sample::report(at(1));
    let attempts = (0..16).map(|n| handles[n % 2].append(vec![sample::append(&host, report.clone())]));
    let outcomes: Vec<_> =
        join_all(attempts).await.into_iter().flat_map(|appended| appended.unwrap().outcomes).collect();
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, AppendOutcome::Accepted)).count();
    let duplicates = outcomes.iter().filter(|outcome| matches!(outcome, AppendOutcome::Duplicate)).count();
    assert_eq!((accepted, duplicates), (1, 15));
    let query = TelemetryQuery::new(host.id, at(0), at(9), 10);
    assert_eq!(handles[0].list_telemetry(&query).await.unwrap().items.len(), 1);
}

/// All are served; the promotion is one commit with one event.
pub async fn a_first_use_in_many_requests_promotes_once(fixture: &impl Fixture) {
    let fleets = [fleet(fixture.handle().await), fleet(fixture.handle().await)];
    let (_, install_token) = create_host(&fleets[0]).await;
    let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    fleets[0].enrol(exchange(&install_token, token.hash()), None).await.unwrap();
    let results = join_all((0..32).map(|n| fleets[n % 2].authenticate(token.expose()))).await;
    assert!(results.iter().all(Result::is_ok));
    let store = fixture.handle().await;
    let query = EventQuery { r#type: Some("agent_token.promoted".into()), ..EventQuery::new(Scope::All, 10) };
    let events = store.list_events(&query).await.unwrap().items;
    assert!(matches!(
        events.iter().map(|event| &event.event.body).collect::<Vec<_>>()[..],
        [EventBody::AgentTokenPromoted { retired: None, .. }]
    ));
}

/// Whoever sweeps: the first to find a host silent says so, and the others find it said.
pub async fn many_sweeps_at_once_tell_of_each_host_once(fixture: &impl Fixture) {
    let handles = [fixture.handle().await, fixture.handle().await];
    sample::watch(&handles[0]).await;
    let hosts: Vec<_> = (0..4).map(|n| sample::host(&format!("host {n}"))).collect();
    for host in &hosts {
        sample::create(&handles[0], host).await;
    }
    for round in 0..10 {
        for host in &hosts {
            handles[0].touch(vec![sample::contact(host, at(1_000 * round))]).await.unwrap();
        }
        let sweep = || sample::sweep(at(1_000 * round + 100), std::time::Duration::from_secs(90));
        let swept = join_all((0..16).map(|n| handles[n % 2].sweep(sweep()))).await;
        let told = swept.into_iter().flat_map(|swept| swept.unwrap().events);
        let mut told: Vec<_> = told.filter_map(|event| event.event.host_id).collect();
        told.sort_unstable();
        let mut expected: Vec<_> = hosts.iter().map(|host| host.id).collect();
        expected.sort_unstable();
        assert_eq!(told, expected, "round {round}");
    }
}

/// A reader that follows the events sees each of them, however commits and reads fall.
pub async fn a_cursor_over_events_skips_none_while_commits_race(fixture: &impl Fixture) {
    let handles = [fixture.handle().await, fixture.handle().await];
    let reader = fixture.handle().await;
    let host = sample::host("a");
    let commits = (0..40).map(|n| {
        let events = vec![sample::event(&host), sample::event(&host)];
        handles[n % 2].commit(Commit { writes: Vec::new(), events })
    });
    let follow = async {
        let mut seen: Vec<crate::event::Event> = Vec::new();
        // Bounded: a store that loses an event fails instead of hanging.
        for _ in 0..100_000 {
            let after = seen.last().map_or(Position::START, |event| event.position);
            let page = reader.list_events(&EventQuery { after, ..EventQuery::new(Scope::All, 7) }).await.unwrap();
            seen.extend(page.items);
            if seen.len() >= 80 {
                break;
            }
            futures_util::pending!();
        }
        seen
    };
    let wake = async {
        // `pending!` needs somebody to poll again: a future that is always woken.
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            std::task::Poll::<()>::Pending
        })
        .await;
    };
    let follow = async {
        match futures_util::future::select(Box::pin(follow), Box::pin(wake)).await {
            futures_util::future::Either::Left((seen, _)) => seen,
            futures_util::future::Either::Right(_) => unreachable!("it never ends"),
        }
    };
    let (written, seen) = futures_util::future::join(join_all(commits), follow).await;
    let mut written: Vec<_> = written.into_iter().flat_map(|events| events.unwrap()).collect();
    written.sort_unstable_by_key(|event| event.position);
    assert_eq!(seen, written);
}
