//! A fleet of the size that is measured, built through the store contract.

use std::sync::Arc;
use std::time::Duration;

use enlist_benches::compare::{Place, PostgresServer};
use enlist_benches::history::HALF_A_MINUTE;
use enlist_benches::report::Report;
use enlist_benches::{Error, clock};
use enlist_core::event::{EventBody, NewEvent};
use enlist_core::fleet::{ContainerFilter, Fleet, HostFilter};
use enlist_core::host::{Host, HostName, Lifecycle, Status};
use enlist_core::policy::Actor;
use enlist_core::secret::Prefix;
use enlist_core::store::{Append, Commit, Expected, HostWrite, Revision, Store};
use enlist_core::{ActorId, EventId, HostId, ManualClock, PlainToken, SystemEntropy, TenantId, Timestamp};
use tokio::task::JoinSet;

use super::silence::Watch;
use super::traits::{Fate, Traits};
use crate::enrol::{Reporter, token_of};
use crate::opened::Opened;
use crate::reports::{Arrival, Maker, check};

/// Hosts of one commit.
const COMMIT: usize = 500;
/// Reports of one call.
const CALL: usize = 400;
/// Calls at a time: PostgreSQL has several connections.
const AT_A_TIME: usize = 4;
/// How long ago the fleet was made: all that is measured happens between then and now.
const AGO: Duration = Duration::from_secs(48 * 3_600);
/// When, after that, reported last who is silent now.
const FELL: Duration = Duration::from_secs(3_600);
/// And who is not.
const HEARD: Duration = Duration::from_secs(24 * 3_600);

/// A fleet, and what is known of it.
pub(super) struct Built {
    pub(super) hosts: u32,
    pub(super) store: Arc<dyn Store>,
    pub(super) fleet: Fleet,
    pub(super) operator: Actor,
    /// By the hosts' numbers, in which their ids rise.
    pub(super) reporters: Vec<Reporter>,
    pub(super) watch: Watch,
    opened: Opened,
    // Goes last, when nobody has it open.
    _place: Place,
}

impl Built {
    pub(super) async fn new(postgres: Option<&PostgresServer>, hosts: u32) -> Result<Self, Error> {
        let place = Place::empty(postgres, "administration").await?;
        let opened = Opened::open(&place.url()).await?;
        let store = opened.store();
        let now = Timestamp::from_unix_micros(clock::unix_micros()).ok_or("the clock stands before 1970")?;
        let made_at = now.saturating_sub(AGO);
        let traits: Vec<Traits> = (0..hosts).map(|number| Traits::of(number, hosts)).collect();

        let (fell, last_heard) = (made_at.saturating_add(FELL), made_at.saturating_add(HEARD));
        let online: Vec<_> = (0..hosts).filter(|number| traits[*number as usize].fate == Fate::Online).collect();
        let restless = &online[..Watch::restless_of(online.len())];
        let last_reports = traits.iter().zip(0..).map(|(traits, number)| {
            let is_heard = traits.fate != Fate::Unreachable && restless.binary_search(&number).is_err();
            let end = if is_heard { last_heard } else { fell };
            // Over half a minute, all before that.
            end.unix_micros() - HALF_A_MINUTE * i64::from(hosts - number) / i64::from(hosts)
        });

        let reporters = make(&store, &traits, made_at).await?;
        report(&store, &reporters, last_reports.collect()).await?;
        archive(&*store, &traits, &reporters, now).await?;
        let restless = restless.iter().map(|number| reporters[*number as usize]).collect();
        let watch = Watch::begin(&*store, restless, fell, last_heard).await?;
        place.settle().await?;

        // However long it all takes, all who are online have just been heard.
        let clock = ManualClock::new(fell);
        let (fleet, _) = Fleet::builder_of(Arc::clone(&store)).clock(clock).build()?;
        let operator = Actor::operator(ActorId::new("bench")?);
        let built = Self { hosts, store, fleet, operator, reporters, watch, opened, _place: place };
        built.verify(&traits).await?;
        Ok(built)
    }

    pub(super) async fn close(self) {
        self.opened.close().await;
    }

    /// A host in no order: the same one for the same call.
    pub(super) fn any(&self, call: usize) -> HostId {
        let place = (call as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % u64::from(self.hosts);
        self.reporters[place as usize].host_id
    }

    /// Counts by status, as an administrator reads it, and the containers of some.
    async fn verify(&self, traits: &[Traits]) -> Result<(), Error> {
        let admin = self.fleet.admin(&self.operator);
        let (mut found, mut cursor) = ([0; 3], None);
        loop {
            let filter = HostFilter { limit: Some(500), cursor, ..HostFilter::default() };
            let page = admin.list_hosts(filter).await?;
            for host in &page.items {
                match host.status {
                    Status::Online => found[0] += 1,
                    Status::Unreachable => found[1] += 1,
                    Status::Archived => found[2] += 1,
                    Status::Pending => return Err("a host was never heard".into()),
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let wanted = [Fate::Online, Fate::Unreachable, Fate::Archived]
            .map(|fate| traits.iter().filter(|traits| traits.fate == fate).count());
        if found != wanted {
            return Err(format!("hosts online, unreachable, archived: {found:?} instead of {wanted:?}").into());
        }
        for call in 0..100 {
            let page = admin
                .list_containers(self.any(call), ContainerFilter { removed: true, ..ContainerFilter::default() })
                .await?;
            if page.items.len() != enlist_benches::report::CONTAINERS {
                return Err(format!("a host has {} containers", page.items.len()).into());
            }
        }
        Ok(())
    }
}

/// Runs several at a time, to their ends.
async fn all(
    mut calls: impl Iterator<Item = impl Future<Output = Result<(), Error>> + Send + 'static>,
) -> Result<(), Error> {
    let mut running = JoinSet::new();
    for call in calls.by_ref().take(AT_A_TIME) {
        running.spawn(call);
    }
    while let Some(done) = running.join_next().await {
        done??;
        if let Some(call) = calls.next() {
            running.spawn(call);
        }
    }
    Ok(())
}

/// Makes the hosts, each with a token, a millisecond after one another.
async fn make(store: &Arc<dyn Store>, traits: &[Traits], made_at: Timestamp) -> Result<Vec<Reporter>, Error> {
    let mut reporters = Vec::with_capacity(traits.len());
    let mut commits = Vec::new();
    for (place, some) in traits.chunks(COMMIT).enumerate() {
        let mut commit = Commit::default();
        for (nth, traits) in some.iter().enumerate() {
            let at = made_at.saturating_add(Duration::from_millis((place * COMMIT + nth) as u64));
            let host = host(*traits, at)?;
            let token = token_of(host.id, at, &PlainToken::generate(Prefix::AGENT, &SystemEntropy))?;
            reporters.push(Reporter { host_id: host.id, token_id: token.id });
            let body = EventBody::HostCreated { name: host.name.clone(), kind: host.kind, install_token_id: None };
            commit.events.push(event_of(&host, at, body)?);
            let write = HostWrite { agent_tokens: vec![token], ..HostWrite::new(Expected::Absent, host) };
            commit.writes.push(write.into());
        }
        commits.push(commit);
    }
    let calls = commits.into_iter().map(|commit| {
        let store = Arc::clone(store);
        async move {
            store.commit(commit).await?;
            Ok(())
        }
    });
    all(calls).await?;
    Ok(reporters)
}

/// A report of each host, at its time.
async fn report(store: &Arc<dyn Store>, reporters: &[Reporter], times: Vec<i64>) -> Result<(), Error> {
    let reporters: Arc<[Reporter]> = reporters.into();
    let times: Arc<[i64]> = times.into();
    let calls = (0..times.len()).step_by(CALL).map(|first| {
        let (store, reporters, times) = (Arc::clone(store), Arc::clone(&reporters), Arc::clone(&times));
        async move {
            let mut maker = Maker::new(reporters.to_vec(), Arrival::AtOnce);
            let some = first..times.len().min(first + CALL);
            let reports = some.map(|number| maker.make(&Report::new(number as u32, 1, times[number])));
            let reports: Vec<Append> = reports.collect::<Result<_, _>>()?;
            check(&store.append(reports).await?)
        }
    });
    all(calls).await
}

/// Takes out of service who is to be: with what they had reported.
async fn archive(store: &dyn Store, traits: &[Traits], reporters: &[Reporter], at: Timestamp) -> Result<(), Error> {
    let archived: Vec<_> = traits.iter().zip(reporters).filter(|(traits, _)| traits.fate == Fate::Archived).collect();
    for some in archived.chunks(COMMIT) {
        let mut commit = Commit::default();
        for (traits, reporter) in some {
            let host = Host { id: reporter.host_id, ..host(**traits, at)? }.archive(at);
            commit.events.push(event_of(&host, at, EventBody::HostArchived { revoked: Vec::new() })?);
            commit.writes.push(HostWrite::new(Expected::Revision(Revision::FIRST), host).into());
        }
        store.commit(commit).await?;
    }
    Ok(())
}

fn host(traits: Traits, at: Timestamp) -> Result<Host, Error> {
    Ok(Host {
        id: HostId::generate(at, &SystemEntropy),
        tenant_id: TenantId::new(traits.tenant())?,
        kind: traits.kind(),
        name: HostName::new(traits.name())?,
        external_id: None,
        provider: None,
        availability_zone: None,
        address: None,
        tags: traits.tags().map(str::parse).collect::<Result<_, _>>()?,
        labels: Default::default(),
        cordoned: traits.is_cordoned(),
        lifecycle: Lifecycle::Live,
        generation: 0,
        enrolled_at: Some(at),
        made_with: None,
        liveness_window: None,
        created_at: at,
        updated_at: at,
    })
}

fn event_of(host: &Host, at: Timestamp, body: EventBody) -> Result<NewEvent, Error> {
    Ok(NewEvent {
        id: EventId::generate(at, &SystemEntropy),
        at,
        tenant_id: host.tenant_id.clone(),
        host_id: Some(host.id),
        host_kind: Some(host.kind),
        actor: Some(ActorId::new("bench")?),
        body,
    })
}
