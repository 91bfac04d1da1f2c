//! A fleet with everything in reach.

use std::sync::Arc;

use enlist_core::conformance::sample;
use enlist_core::event::EventBody;
use enlist_core::fleet::{AuthenticateError, EventFilter, FleetBuilder, TokioTimer};
use enlist_core::host::{HostKind, HostName};
use enlist_core::policy::Actor;
use enlist_core::secret::Prefix;
use enlist_core::wire::{
    CreateHost, EventReply, ExchangeReply, ExchangeRequest, Problem, ProposeAgentToken, ProposedAgentToken,
    ProposedState,
};
use enlist_core::{
    AgentIdentity, Drivers, Fleet, HostId, ManualClock, MemoryStore, PlainToken, Store, SystemEntropy, TokenHash,
};

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) drivers: Option<Drivers>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) root: Actor,
    /// What the fleet is kept in.
    pub(crate) store: Arc<dyn Store>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(MemoryStore::new(), |builder| builder)
    }

    pub(crate) fn with(store: impl Store, configure: impl FnOnce(FleetBuilder) -> FleetBuilder) -> Self {
        let clock = Arc::new(ManualClock::new(sample::at(0)));
        let store: Arc<dyn Store> = Arc::new(store);
        let builder =
            Fleet::builder_of(Arc::clone(&store)).clock(Arc::clone(&clock)).default_tenant(sample::tenant("acme"));
        let (fleet, drivers) = configure(builder).build().expect("the limits are valid");
        Self { fleet, drivers: Some(drivers), clock, root: Actor::operator(sample::actor()), store }
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

    /// A host whose client-made credential is in use.
    pub(crate) async fn in_use(&self, name: &str) -> (HostId, PlainToken) {
        let (host_id, token) = self.enrolled(name).await;
        self.fleet.authenticate(token.expose()).await.unwrap();
        (host_id, token)
    }

    /// Proposes a client-made successor.
    pub(crate) async fn propose(
        &self,
        token: &PlainToken,
        successor: &PlainToken,
    ) -> Result<ProposedAgentToken, AuthenticateError> {
        let request = ProposeAgentToken { claim: Some(successor.hash()) };
        self.fleet.propose_agent_token(token.expose(), &request, None).await
    }

    /// Rotates to a new token, all the way.
    pub(crate) async fn rotated(&self, token: &PlainToken) -> PlainToken {
        let successor = agent_token();
        self.propose(token, &successor).await.unwrap();
        self.fleet.authenticate(successor.expose()).await.unwrap();
        successor
    }

    /// What the token is answered with when it is presented for work: `ok`, or a code.
    pub(crate) async fn serve(&self, token: &PlainToken) -> String {
        match self.fleet.authenticate(token.expose()).await {
            Ok(_) => "ok".to_owned(),
            Err(error) => Problem::from(error).code.to_string(),
        }
    }

    /// What a proposal is answered with: `pending` or `used`, or a code.
    pub(crate) async fn offer(&self, token: &PlainToken, successor: &PlainToken) -> String {
        match self.propose(token, successor).await {
            Ok(reply) => match reply.state {
                ProposedState::Pending => "pending".to_owned(),
                _ => "used".to_owned(),
            },
            Err(error) => Problem::from(error).code.to_string(),
        }
    }

    /// How many events of this type there are.
    pub(crate) async fn count(&self, event_type: &str) -> usize {
        self.event_types().await.iter().filter(|name| *name == event_type).count()
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
    ExchangeRequest { install_token: install_token.to_owned(), claim, facts: None, host: None, idempotency_key: None }
}

pub(crate) fn agent_token() -> PlainToken {
    PlainToken::generate(Prefix::AGENT, &SystemEntropy)
}
