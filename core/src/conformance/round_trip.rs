//! What is written is read back, to the last bit.

use std::collections::{BTreeMap, BTreeSet};

use super::Fixture;
use super::sample::{self, at};
use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin, RetiredBy, RevokeReason, TokenName};
use crate::clock::Timestamp;
use crate::container::{Container, ContainerMetrics, Port};
use crate::event::{EventBody, NewEvent};
use crate::host::{
    ExternalId, Host, HostField, HostKind, HostName, LabelKey, LabelValue, Lifecycle, Placement, Status, Tag,
};
use crate::id::{ActorId, AgentTokenId, InstallTokenId, TenantId};
use crate::install_token::{Binding, Claim, InstallToken, InstallTokenState};
use crate::liveness::LivenessWindow;
use crate::policy::Scope;
use crate::store::{
    Aggregate, Commit, ContainerQuery, EventQuery, Expected, HostLookup, HostWrite, InstallTokenQuery, Key, Presented,
    Revision, Store, TelemetryQuery, TenantInstallToken, Write,
};
use crate::telemetry::{AgentReport, HostFacts, HostMetrics, HostReport, HostSnapshot, MAX_COUNTER, Report};

/// Scripts, an emoji beyond the basic plane, a combining mark, quotes and wildcards.
const AWKWARD: &str = "Ünïcode 主机 🦀 e\u{301} '\"\\%_*?[";

/// `text`, and as much filling as makes it `bytes` long.
fn stretched(text: &str, bytes: usize) -> String {
    format!("{text}{}", "x".repeat(bytes - text.len()))
}

fn extreme_host() -> Host {
    let placement = || Some(Placement::new(stretched(AWKWARD, 255)).unwrap());
    Host {
        tenant_id: TenantId::new(stretched(AWKWARD, 128)).unwrap(),
        kind: HostKind::Managed,
        name: HostName::new(stretched(AWKWARD, 128)).unwrap(),
        external_id: Some(ExternalId::new(stretched(AWKWARD, 128)).unwrap()),
        provider: placement(),
        availability_zone: placement(),
        address: placement(),
        tags: (0..64).map(|n| Tag::new(stretched(&format!("a.b_c:d/e=f-{n:02}"), 64)).unwrap()).collect(),
        labels: (0..64)
            .map(|n| {
                let key = LabelKey::new(stretched(&format!("k{n:02}"), 128)).unwrap();
                (key, LabelValue::new(stretched(AWKWARD, 512)).unwrap())
            })
            .collect(),
        liveness_window: Some(LivenessWindow::LONGEST),
        cordoned: true,
        lifecycle: Lifecycle::Archived { at: Timestamp::MAX },
        generation: i64::MAX as u64,
        enrolled_at: Some(Timestamp::MIN),
        made_with: Some(InstallTokenId::from_uuid(uuid::Uuid::max())),
        created_at: Timestamp::MIN,
        updated_at: Timestamp::MAX,
        ..sample::host("a")
    }
}

async fn host_round_trip(store: &impl Store, host: Host) {
    sample::create(store, &host).await;
    assert_eq!(sample::load(store, host.id).await.host, host);
    let record = store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists");
    assert_eq!((record.revision, record.host), (Revision::FIRST, host));
    assert_eq!(record.presence, Default::default());
}

/// Names of every script, all the tags and labels there may be, the years 1970 and 9999.
pub async fn a_host_with_every_field_at_its_extremes(fixture: &impl Fixture) {
    host_round_trip(&fixture.handle().await, extreme_host()).await;
}

/// Absent stays absent.
pub async fn a_host_with_nothing_optional(fixture: &impl Fixture) {
    host_round_trip(&fixture.handle().await, sample::host("a")).await;
}

/// A write says how the host shall be, not what is added.
pub async fn tags_and_labels_are_replaced_whole(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let tags = |names: &[&str]| names.iter().map(|name| Tag::new(*name).unwrap()).collect::<BTreeSet<_>>();
    let labels = BTreeMap::from([(LabelKey::new("k").unwrap(), LabelValue::new("").unwrap())]);
    let host = Host { tags: tags(&["a", "b"]), labels, ..sample::host("a") };
    sample::create(&store, &host).await;
    let changed = Host { tags: tags(&["b", "c"]), labels: BTreeMap::new(), ..host };
    sample::commit(&store, sample::write(Revision::FIRST, &changed)).await;
    assert_eq!(sample::load(&store, changed.id).await.host, changed);
}

async fn token_round_trip(store: &impl Store, host: &Host, tokens: Vec<AgentToken>) {
    sample::create_with_tokens(store, host, tokens.clone()).await;
    assert_eq!(sample::agent_tokens(store, host.id).await, tokens);
    for token in tokens {
        match store.load(&Key::AgentTokenId(token.id)).await.unwrap() {
            Some(Aggregate::Host(aggregate)) => assert_eq!(aggregate.presented, Presented::AgentToken(token)),
            other => panic!("a host was expected, not {other:?}"),
        }
    }
}

/// With every fact that a state carries.
pub async fn every_state_of_an_agent_token(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let other = sample::agent_token(&host).id;
    let mut states = vec![
        AgentTokenState::Pending,
        AgentTokenState::Active { since: Timestamp::MAX },
        AgentTokenState::Displaced { at: Timestamp::MIN, by: other },
    ];
    states.extend([RetiredBy::Agent, RetiredBy::Administrator].map(|by| AgentTokenState::Retired {
        at: at(1),
        successor: other,
        by,
    }));
    states.extend(
        [
            RevokeReason::Administrator,
            RevokeReason::CutOff,
            RevokeReason::HostArchived,
            RevokeReason::Reenrolled,
            RevokeReason::ReuseDetected,
        ]
        .map(|reason| AgentTokenState::Revoked { at: at(2), reason }),
    );
    let tokens = states.into_iter().map(|state| AgentToken { state, ..sample::agent_token(&host) }).collect();
    token_round_trip(&store, &host, tokens).await;
}

/// And both kinds, names at their bounds, expiry in 1970 and 9999.
pub async fn every_origin_of_an_agent_token(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let install_token = sample::install_token(&host).id;
    let predecessor = sample::agent_token(&host).id;
    let by = ActorId::new(stretched(AWKWARD, 128)).unwrap();
    let origins = [
        Origin::Exchange(install_token),
        Origin::Issued(by.clone()),
        Origin::Proposed { predecessor },
        Origin::Rotated { predecessor, by },
    ];
    let tokens = origins
        .into_iter()
        .zip([None, Some(Timestamp::MIN), Some(Timestamp::MAX), Some(at(5))])
        .map(|(origin, expires_at)| AgentToken {
            origin,
            expires_at,
            kind: CredentialKind::Refresh,
            name: expires_at.map(|_| TokenName::new(stretched(AWKWARD, 128)).unwrap()),
            ..sample::agent_token(&host)
        })
        .collect();
    token_round_trip(&store, &host, tokens).await;
}

fn install_token_states(agent_token: AgentTokenId) -> Vec<InstallTokenState> {
    let consumed = |claim| InstallTokenState::Consumed { claim, at: Timestamp::MAX, agent_token };
    vec![
        InstallTokenState::Issued,
        consumed(Claim::Client(sample::hash())),
        consumed(Claim::Server { idempotency_key_hash: None }),
        consumed(Claim::Server { idempotency_key_hash: Some(sample::hash()) }),
        InstallTokenState::Revoked { at: Timestamp::MIN },
    ]
}

/// With every fact that a state carries.
pub async fn every_state_of_an_install_token(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let agent_token = sample::agent_token(&host);
    let tokens: Vec<_> = install_token_states(agent_token.id)
        .into_iter()
        .map(|state| InstallToken { state, credential_kind: CredentialKind::Refresh, ..sample::install_token(&host) })
        .collect();
    let write = HostWrite {
        install_tokens: tokens.clone(),
        agent_tokens: vec![agent_token],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    sample::commit(&store, write).await;
    let query = InstallTokenQuery { owner: host.id.into(), after: None, limit: 100 };
    assert_eq!(store.list_install_tokens(&query).await.unwrap().items, tokens);
    for token in tokens {
        match store.load(&Key::InstallToken(token.hash)).await.unwrap() {
            Some(Aggregate::Host(aggregate)) => assert_eq!(aggregate.presented, Presented::InstallToken(token)),
            other => panic!("a host was expected, not {other:?}"),
        }
    }
}

/// With its own revision, in every state.
pub async fn a_tenant_bound_install_token_is_an_aggregate_of_its_own(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    let agent_token = sample::agent_token(&host);
    sample::create_with_tokens(&store, &host, vec![agent_token.clone()]).await;
    for state in install_token_states(agent_token.id) {
        let issued = InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) };
        let put = |expected, token| Commit::of(Write::TenantInstallToken { expected, token }, Vec::new());
        store.commit(put(Expected::Absent, issued.clone())).await.unwrap();
        let token = InstallToken { state, ..issued };
        store.commit(put(Expected::Revision(Revision::FIRST), token.clone())).await.unwrap();
        let stale = store.commit(put(Expected::Revision(Revision::FIRST), token.clone())).await;
        assert_eq!(stale.unwrap_err().kind(), crate::store::StoreErrorKind::Conflict);
        let expected = TenantInstallToken { revision: Revision::new(2), token: token.clone() };
        for key in [Key::InstallToken(token.hash), Key::InstallTokenId(token.id)] {
            let loaded = store.load(&key).await.unwrap();
            assert_eq!(loaded, Some(Aggregate::TenantInstallToken(Box::new(expected.clone()))));
        }
    }
}

/// Of this version, and of a later one.
pub async fn every_event_body(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = extreme_host();
    let (install_token, agent_token) = (sample::install_token(&host), sample::agent_token(&host));
    let bodies = vec![
        EventBody::HostCreated { name: host.name.clone(), kind: host.kind, install_token_id: None },
        EventBody::HostCreated { name: host.name.clone(), kind: host.kind, install_token_id: Some(install_token.id) },
        EventBody::HostUpdated { fields: [HostField::ExternalId, HostField::Labels].into() },
        EventBody::HostCordoned {},
        EventBody::HostUncordoned {},
        EventBody::HostArchived { revoked: vec![agent_token.id, sample::agent_token(&host).id] },
        EventBody::HostEnrolled { install_token_id: install_token.id, agent_token_id: agent_token.id },
        EventBody::HostOnline { was: Status::Unreachable },
        EventBody::HostUnreachable { last_seen_at: Timestamp::MAX, storm: false },
        EventBody::HostUnreachable { last_seen_at: Timestamp::MIN, storm: true },
        EventBody::HostDeleted { name: host.name.clone() },
        EventBody::InstallTokenMinted {
            install_token_id: install_token.id,
            credential_kind: CredentialKind::Bearer,
            expires_at: Timestamp::MAX,
        },
        EventBody::InstallTokenRevoked { install_token_id: install_token.id },
        EventBody::EnrolmentContested { install_token_id: install_token.id, attempts: MAX_COUNTER },
        EventBody::AgentTokenIssued {
            agent_token_id: agent_token.id,
            lineage_id: agent_token.lineage_id,
            name: Some(TokenName::new(AWKWARD).unwrap()),
        },
        EventBody::AgentTokenPromoted { agent_token_id: agent_token.id, retired: None },
        EventBody::AgentTokenRevoked { agent_token_id: agent_token.id, reason: RevokeReason::CutOff },
        EventBody::Other { r#type: "from.the_future".into(), data: serde_json::json!({"deep": [1, null, AWKWARD]}) },
    ];
    let events: Vec<_> = bodies.into_iter().map(|body| NewEvent { body, ..sample::event(&host) }).collect();
    let bare = NewEvent { host_id: None, host_kind: None, actor: None, at: Timestamp::MIN, ..sample::event(&host) };
    let events: Vec<_> = events.into_iter().chain([bare]).collect();
    let commit = Commit::of(HostWrite::new(Expected::Absent, host), events.clone());
    let written = store.commit(commit).await.unwrap();
    let listed = store.list_events(&EventQuery::new(Scope::All, 100)).await.unwrap().items;
    assert_eq!(listed, written);
    assert_eq!(listed.into_iter().map(|event| event.event).collect::<Vec<_>>(), events);
}

async fn read_back(store: &impl Store, host: &Host) -> Vec<HostSnapshot> {
    let query = TelemetryQuery::new(host.id, Timestamp::MIN, Timestamp::MAX, 100);
    store.list_telemetry(&query).await.unwrap().items
}

/// Counters of 2⁶³−1, numbers that binary fractions only approach, facts and custom numbers at their bounds.
pub async fn a_report_with_every_field_at_its_extremes(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let text = || Some(stretched(AWKWARD, 255));
    let facts = HostFacts {
        cpu_count: Some(u32::MAX),
        memory_total_bytes: Some(MAX_COUNTER),
        disk_total_bytes: Some(MAX_COUNTER),
        os: text(),
        kernel: text(),
        arch: text(),
        docker_version: text(),
        agent_version: text(),
        boot_id: Some(String::new()),
    };
    let most = Some(MAX_COUNTER);
    let metrics = HostMetrics {
        cpu_percent: Some(0.1 + 0.2),
        load_1m: Some(f64::MAX),
        load_5m: Some(f64::MIN_POSITIVE),
        load_15m: Some(0.0),
        memory_used_bytes: most,
        memory_total_bytes: most,
        swap_used_bytes: Some(0),
        swap_total_bytes: Some(1),
        disk_used_bytes: most,
        disk_total_bytes: most,
        network_rx_bytes: most,
        network_tx_bytes: most,
        uptime_seconds: most,
    };
    // The first one is lost by one bit in many a JSON parser.
    let custom = (0..32)
        .map(|n| {
            (stretched(&format!("c_{n:02}_"), 64), if n == 0 { 96.362_799_473_474_71 } else { -f64::from(n) / 3.0 })
        })
        .collect();
    let container_metrics = ContainerMetrics {
        cpu_cores: Some(1.0 / 3.0),
        memory_used_bytes: most,
        memory_limit_bytes: most,
        network_rx_bytes: most,
        network_tx_bytes: most,
        block_read_bytes: most,
        block_write_bytes: most,
        pids: most,
    };
    let measured = Container { metrics: Some(container_metrics), ..sample::container(&stretched(AWKWARD, 128)) };
    let unknown = Container { metrics: Some(ContainerMetrics::default()), ..sample::container("unknown") };
    let report = Report {
        recorded_at: Timestamp::from_unix_micros(at(7).unix_micros() + 1).unwrap(),
        host: HostReport { facts: Some(facts.clone()), metrics, custom },
        containers: vec![measured, unknown, Container { metrics: None, ..sample::container("unmeasured") }],
        containers_complete: true,
        agent: Some(AgentReport { version: Some(stretched("", 64)), spooled: most, dropped_total: most }),
    };
    let appended = store.append(vec![sample::append(&host, report.clone())]).await.unwrap();
    assert_eq!(appended.outcomes.len(), 1);
    assert_eq!(read_back(&store, &host).await, [HostSnapshot::of(&report, report.recorded_at)]);
    let record = store.find_host(&HostLookup::Id(host.id)).await.unwrap().expect("it exists");
    assert_eq!(record.presence.facts, facts);
    assert_eq!(record.presence.newest_report_at, Some(report.recorded_at));
}

/// Unknown stays unknown: no made-up zero.
pub async fn a_report_with_nothing_optional(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let report = Report { host: HostReport::default(), agent: Some(AgentReport::default()), ..sample::report(at(7)) };
    let without_agent = Report { agent: None, recorded_at: at(8), ..report.clone() };
    for report in [&report, &without_agent] {
        store.append(vec![sample::append(&host, report.clone())]).await.unwrap();
    }
    let expected = [&report, &without_agent].map(|report| HostSnapshot::of(report, report.recorded_at));
    assert_eq!(read_back(&store, &host).await, expected);
}

/// What the agent says of it, beside its numbers.
pub async fn a_container_with_every_field_at_its_extremes(fixture: &impl Fixture) {
    let store = fixture.handle().await;
    let host = sample::host("a");
    sample::create(&store, &host).await;
    let port = |container_port| Port {
        container_port,
        host_port: Some(u16::MAX),
        host_ip: Some(stretched("::", 64)),
        protocol: Some(stretched("tcp", 16)),
    };
    let full = Container {
        container_id: "full".into(),
        name: stretched(AWKWARD, 255),
        image: stretched(AWKWARD, 512),
        image_tag: Some(stretched(AWKWARD, 128)),
        state: stretched("state", 32),
        health: Some(stretched("health", 32)),
        restarts: Some(MAX_COUNTER),
        exit_code: Some(i64::MIN),
        oom_killed: Some(true),
        ports: (0..64).map(port).collect(),
        labels: (0..64).map(|n| (stretched(&format!("{n:02}{AWKWARD}"), 128), stretched(AWKWARD, 1024))).collect(),
        started_at: Some(Timestamp::MIN),
        finished_at: Some(Timestamp::MAX),
        error: Some(stretched(AWKWARD, 1024)),
        metrics: Some(ContainerMetrics { cpu_cores: Some(0.1), ..ContainerMetrics::default() }),
    };
    let bare = Container { metrics: None, ..sample::container("bare") };
    let odd = Container {
        ports: vec![Port::default()],
        oom_killed: Some(false),
        image_tag: Some(String::new()),
        ..sample::container("odd")
    };
    let report = Report { containers: vec![full.clone(), bare.clone(), odd.clone()], ..sample::report(at(7)) };
    store.append(vec![sample::append(&host, report)]).await.unwrap();
    let query = ContainerQuery { host_id: host.id, removed: true, after: None, limit: 10 };
    let records = store.list_containers(&query).await.unwrap().items;
    assert!(records.iter().all(|record| (record.first_seen_at, record.removed_at) == (at(7), None)));
    let containers: Vec<_> = records.into_iter().map(|record| record.container).collect();
    assert_eq!(containers, [bare, full, odd]);
}
