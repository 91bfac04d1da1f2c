//! A fleet with everything in reach.

use std::sync::Arc;

use enlist_core::conformance::sample;
use enlist_core::event::EventBody;
use enlist_core::fleet::{EventFilter, FleetBuilder, TokioTimer};
use enlist_core::host::{HostKind, HostName};
use enlist_core::policy::Actor;
use enlist_core::secret::Prefix;
use enlist_core::wire::{CreateHost, EventReply, ExchangeReply, ExchangeRequest};
use enlist_core::{
    AgentIdentity, Drivers, Fleet, HostId, ManualClock, MemoryStore, PlainToken, Store, SystemEntropy, TokenHash,
};

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) drivers: Option<Drivers>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) root: Actor,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(MemoryStore::new(), |builder| builder)
    }

    pub(crate) fn with(store: impl Store, configure: impl FnOnce(FleetBuilder) -> FleetBuilder) -> Self {
        let clock = Arc::new(ManualClock::new(sample::at(0)));
        let builder = Fleet::builder(store).clock(Arc::clone(&clock)).default_tenant(sample::tenant("acme"));
        let (fleet, drivers) = configure(builder).build().expect("the limits are valid");
        Self { fleet, drivers: Some(drivers), clock, root: Actor::operator(sample::actor()) }
    }

    /// Spawns the drivers and waits until they take reports.
    pub(crate) async fn running(mut self) -> Self {
        let drivers = self.drivers.take().expect("they were not spawned yet");
        tokio::spawn(drivers.run(TokioTimer, std::future::pending()));
        while !self.fleet.accepts_reports() {
            tokio::task::yield_now().await;
        }
        self
    }

    pub(crate) async fn create(&self, name: &str) -> (HostId, PlainToken) {
        let request = CreateHost::new(HostName::new(name).unwrap(), HostKind::Byoc);
        let created = self.fleet.admin(&self.root).create_host(request).await.unwrap();
        (created.host.id, created.install_token.expect("one was asked for").token)
    }

    pub(crate) async fn exchange(
        &self,
        install_token: &PlainToken,
        claim: Option<TokenHash>,
    ) -> Result<ExchangeReply, enlist_core::fleet::EnrolError> {
        self.fleet.enrol(exchange(install_token.expose(), claim), None).await
    }

    /// A host with a client-made credential that was not used yet.
    pub(crate) async fn enrolled(&self, name: &str) -> (HostId, PlainToken) {
        let (host_id, install_token) = self.create(name).await;
        let token = agent_token();
        self.exchange(&install_token, Some(token.hash())).await.unwrap();
        (host_id, token)
    }

    pub(crate) async fn identity(&self, name: &str) -> AgentIdentity {
        let (_, token) = self.enrolled(name).await;
        self.fleet.authenticate(token.expose()).await.unwrap()
    }

    pub(crate) async fn events(&self) -> Vec<EventReply> {
        let filter = EventFilter { limit: Some(500), ..EventFilter::default() };
        self.fleet.admin(&self.root).list_events(filter).await.unwrap().items
    }

    pub(crate) async fn event_types(&self) -> Vec<String> {
        self.events().await.into_iter().map(|event| EventBody::into_parts(event.body).0).collect()
    }
}

pub(crate) fn exchange(install_token: &str, claim: Option<TokenHash>) -> ExchangeRequest {
    ExchangeRequest { install_token: install_token.to_owned(), claim, facts: None, host: None }
}

pub(crate) fn agent_token() -> PlainToken {
    PlainToken::generate(Prefix::AGENT, &SystemEntropy)
}
