//! Entities for the properties: valid, plain, and different wherever two must not be the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin};
use crate::clock::Timestamp;
use crate::container::{Container, ContainerMetrics};
use crate::event::{EventBody, NewEvent};
use crate::host::{Host, HostKind, HostName, Lifecycle};
use crate::id::{ActorId, AgentTokenId, EventId, HostId, InstallTokenId, LineageId, TenantId};
use crate::install_token::{Binding, InstallToken, InstallTokenState};
use crate::liveness::Pace;
use crate::secret::TokenHash;
use crate::store::{
    AgentTokenQuery, Aggregate, Append, Commit, Contact, Credential, Expected, HostAggregate, HostWrite, Key, Known,
    Page, Revision, Store, StoreErrorKind, Sweep,
};
use crate::telemetry::{HostMetrics, HostReport, Report};
use crate::{Entropy, SystemEntropy};

/// 2026-01-01T00:00:00Z, and `seconds` more.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros((1_767_225_600 + seconds) * 1_000_000)
        .expect("a sample lies within the years of Timestamp")
}

/// The tenant of most samples.
pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a sample name is valid")
}

/// Ids made within a process rise strictly, so that the order of creation is known.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An id whose order is the order in which it was made.
fn rising() -> uuid::Uuid {
    let mut bytes = [0; 16];
    // Above the version, which stands in the seventh byte and would overwrite a part of the number.
    bytes[..6].copy_from_slice(&unique().to_be_bytes()[2..]);
    SystemEntropy.fill(&mut bytes[6..]);
    uuid::Builder::from_bytes(bytes)
        .with_version(uuid::Version::SortRand)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
}

/// A hash that no other sample has.
pub fn hash() -> TokenHash {
    let mut bytes = [0; 32];
    SystemEntropy.fill(&mut bytes);
    TokenHash::from_bytes(bytes)
}

/// A live host of tenant `acme`, with nothing optional.
pub fn host(name: &str) -> Host {
    Host {
        id: HostId::from_uuid(rising()),
        tenant_id: tenant("acme"),
        kind: HostKind::Byoc,
        name: HostName::new(name).expect("a sample name is valid"),
        external_id: None,
        provider: None,
        availability_zone: None,
        address: None,
        tags: Default::default(),
        labels: Default::default(),
        liveness_window: None,
        cordoned: false,
        lifecycle: Lifecycle::Live,
        generation: 0,
        enrolled_at: None,
        made_with: None,
        created_at: at(0),
        updated_at: at(0),
    }
}

/// A Pending agent token, the head of a lineage of its own.
pub fn agent_token(host: &Host) -> AgentToken {
    AgentToken {
        id: AgentTokenId::from_uuid(rising()),
        host_id: host.id,
        lineage_id: LineageId::from_uuid(rising()),
        hash: hash(),
        kind: CredentialKind::Bearer,
        name: None,
        origin: Origin::Issued(actor()),
        state: AgentTokenState::Pending,
        created_at: at(1),
        expires_at: None,
    }
}

/// An Issued install token.
pub fn install_token(host: &Host) -> InstallToken {
    InstallToken {
        id: InstallTokenId::from_uuid(rising()),
        tenant_id: host.tenant_id.clone(),
        binding: Binding::Host(host.id),
        hash: hash(),
        credential_kind: CredentialKind::Bearer,
        state: InstallTokenState::Issued,
        created_by: actor(),
        created_at: at(1),
        expires_at: at(901),
    }
}

/// The administrator of the samples.
pub fn actor() -> ActorId {
    ActorId::new("root").expect("a sample name is valid")
}

/// An event about a host.
pub fn event(host: &Host) -> NewEvent {
    NewEvent {
        id: event_id(),
        at: at(2),
        tenant_id: host.tenant_id.clone(),
        host_id: Some(host.id),
        host_kind: Some(host.kind),
        actor: Some(actor()),
        body: EventBody::HostCreated { name: host.name.clone(), kind: host.kind, install_token_id: None },
    }
}

/// An id for an event.
pub fn event_id() -> EventId {
    EventId::from_uuid(rising())
}

/// A contact of a host.
pub fn contact(host: &Host, at: Timestamp) -> Contact {
    Contact { host_id: host.id, token_id: AgentTokenId::from_uuid(rising()), at, event_id: event_id() }
}

/// A report measured at `recorded_at`, with one number and no containers.
pub fn report(recorded_at: Timestamp) -> Report {
    let metrics = HostMetrics { cpu_percent: Some(12.5), ..HostMetrics::default() };
    Report {
        recorded_at,
        host: HostReport { facts: None, metrics, custom: Default::default() },
        containers: Vec::new(),
        containers_complete: false,
        agent: None,
    }
}

/// A running container with one number.
pub fn container(id: &str) -> Container {
    Container {
        container_id: id.to_owned(),
        name: format!("name of {id}"),
        image: "registry.example/app".to_owned(),
        state: "running".to_owned(),
        metrics: Some(ContainerMetrics { cpu_cores: Some(0.25), ..ContainerMetrics::default() }),
        ..Container::default()
    }
}

/// `report`, arriving at the moment at which it was measured.
pub fn append(host: &Host, report: Report) -> Append {
    Append { contact: contact(host, report.recorded_at), report }
}

/// A sweep that may judge up to a hundred hosts, and to which no time since the one before is too long.
pub fn sweep(now: Timestamp, window: Duration) -> Sweep {
    const AGES: Duration = Duration::from_secs(1_000 * 365 * 86_400);
    Sweep { now, pace: Pace { window, tick: AGES }, event_ids: (0..100).map(|_| event_id()).collect() }
}

/// Makes the first sweep, long ago: whatever comes after it is judged.
pub async fn watch(store: &impl Store) {
    store.sweep(sweep(Timestamp::MIN, Duration::from_secs(1))).await.expect("a sweep is written");
}

/// Creates a host.
pub async fn create(store: &impl Store, host: &Host) {
    commit(store, HostWrite::new(Expected::Absent, host.clone())).await;
}

/// Commits a write that must succeed.
pub async fn commit(store: &impl Store, write: HostWrite) {
    store.commit(Commit::of(write, Vec::new())).await.expect("the commit is valid");
}

/// Why a commit that must be refused is refused.
pub async fn refused(store: &impl Store, commit: Commit) -> StoreErrorKind {
    store.commit(commit).await.expect_err("the commit must be refused").kind()
}

/// The aggregate of a host that exists.
pub async fn load(store: &impl Store, id: HostId) -> HostAggregate {
    match store.load(&Key::Host(id)).await.expect("loading works") {
        Some(Aggregate::Host(aggregate)) => *aggregate,
        other => panic!("a host was expected, not {other:?}"),
    }
}

/// Every agent token of a host, whatever state it is in, in the order of their ids.
pub async fn agent_tokens(store: &impl Store, host_id: HostId) -> Vec<AgentToken> {
    let page = store.list_agent_tokens(&AgentTokenQuery::new(host_id, 500)).await.expect("tokens are listed");
    page.items.into_iter().map(|record| record.token).collect()
}

/// The credential behind a hash that is known.
pub async fn credential(store: &impl Store, hash: &TokenHash) -> Credential {
    match store.authenticate(hash).await.expect("authenticating works") {
        Some(Known::Credential(credential)) => *credential,
        other => panic!("a credential was expected, not {other:?}"),
    }
}

/// A write of a host that is at `revision`.
pub fn write(revision: Revision, host: &Host) -> HostWrite {
    HostWrite::new(Expected::Revision(revision), host.clone())
}

/// Creates a host along with agent tokens.
pub async fn create_with_tokens(store: &impl Store, host: &Host, tokens: Vec<AgentToken>) {
    commit(store, HostWrite { agent_tokens: tokens, ..HostWrite::new(Expected::Absent, host.clone()) }).await;
}

/// Everything in pages of `limit`: `next` reads the page behind a row.
pub async fn walk<T, F: Future<Output = Page<T>>>(mut next: impl FnMut(Option<&T>) -> F) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    // Bounded: a store whose cursor stands still fails instead of hanging.
    for _ in 0..1_000 {
        let page = next(all.last()).await;
        assert!(!page.items.is_empty() || !page.more, "a page that promises more holds something");
        let more = page.more;
        all.extend(page.items);
        if !more {
            return all;
        }
    }
    panic!("a walk over a few rows does not end");
}
