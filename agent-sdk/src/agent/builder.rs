//! What an agent is made of.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enlist_core::wire::ProposedHost;
use enlist_core::{Clock, Entropy, SystemClock, SystemEntropy};

use super::Agent;
use super::pace::Pace;
use super::work::Work;
use crate::agent_token::AgentToken;
use crate::backoff::Backoff;
use crate::client::{Client, ClientBuilder};
use crate::collector::{Collector, SystemCollector};
use crate::credential::{CredentialStore, FileCredentialStore};
use crate::error::OpenError;
use crate::event::{self, Events};
use crate::install_token::InstallToken;
use crate::lease::lease;
use crate::session::Session;
use crate::stamp::Stamps;
use crate::timer::{Timer, TokioTimer};

/// How long a collector may take.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest version of an agent, in bytes.
const MAX_VERSION: usize = 64;

/// What an [`Agent`] is made of. Needed are a place for the credential and, unless it holds one, an install token or an
/// agent token.
#[must_use]
pub struct AgentBuilder {
    client: ClientBuilder,
    store: Option<Arc<dyn CredentialStore>>,
    install_token: Option<InstallToken>,
    agent_token: Option<AgentToken>,
    proposed_host: Option<ProposedHost>,
    collectors: Vec<Box<dyn Collector>>,
    collect_timeout: Duration,
    interval: Option<Duration>,
    version: String,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    timer: Arc<dyn Timer>,
}

impl AgentBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            client: Client::builder(url),
            store: None,
            install_token: None,
            agent_token: None,
            proposed_host: None,
            collectors: Vec::new(),
            collect_timeout: COLLECT_TIMEOUT,
            interval: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
            timer: Arc::new(TokioTimer),
        }
    }

    /// The directory that keeps the credential, of this agent's own; see [`FileCredentialStore`].
    pub fn state_dir(self, directory: impl Into<PathBuf>) -> Self {
        self.credential_store(FileCredentialStore::new(directory))
    }

    /// Another place for the credential.
    pub fn credential_store(self, store: impl CredentialStore) -> Self {
        Self { store: Some(Arc::new(store)), ..self }
    }

    /// What the host enrols with, if it is not enrolled. An installed credential wins over it for as long as it works, so
    /// that the token may stay in a unit file. Once the server has refused the credential for good, another install token
    /// than the one that bought it enrols the host anew.
    pub fn install_token(self, token: InstallToken) -> Self {
        Self { install_token: Some(token), ..self }
    }

    /// An agent token that a person delivered: it is tried beside what is installed, and replaces that once the server has
    /// accepted it. Refused, it is dropped and never tried again, so that it may stay in a unit file too. Without a
    /// credential it comes before an install token.
    ///
    /// ```no_run
    /// use enlist_agent_sdk::{Agent, AgentToken};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut builder = Agent::builder("https://fleet.example.com").state_dir("/var/lib/my-agent");
    /// if let Ok(token) = std::env::var("AGENT_TOKEN") {
    ///     builder = builder.agent_token(AgentToken::new(token)?);
    /// }
    /// let (agent, _events) = builder.open().await?;
    /// # Ok(()) }
    /// ```
    pub fn agent_token(self, token: AgentToken) -> Self {
        Self { agent_token: Some(token), ..self }
    }

    /// For tenant-bound install tokens: the host to find or make; see also [`this_machine`](crate::this_machine).
    pub fn host(self, host: ProposedHost) -> Self {
        Self { proposed_host: Some(host), ..self }
    }

    /// A source of facts and numbers, besides those given before; where two know the same, the later wins. Without any,
    /// it is the machine ([`SystemCollector`]).
    pub fn collector(mut self, collector: impl Collector) -> Self {
        self.collectors.push(Box::new(collector));
        self
    }

    /// How long one collector may take before the report goes without it: 10 s by default.
    pub fn collect_timeout(self, timeout: Duration) -> Self {
        Self { collect_timeout: timeout, ..self }
    }

    /// Reports at least this often. The server's `next_report_in_ms` still holds if it is shorter; one second is the
    /// shortest.
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval: Some(interval), ..self }
    }

    /// The version of the agent that this library is built into: 64 bytes at most, the rest is cut off.
    pub fn agent_version(self, version: impl Into<String>) -> Self {
        let mut version = version.into();
        version.truncate(version.floor_char_boundary(MAX_VERSION));
        Self { version, ..self }
    }

    /// The caller's own HTTP client; see [`ClientBuilder::http_client`].
    pub fn http_client(self, http: reqwest::Client) -> Self {
        Self { client: self.client.http_client(http), ..self }
    }

    /// A shorter request time-out; see [`ClientBuilder::timeout`].
    pub fn request_timeout(self, timeout: Duration) -> Self {
        Self { client: self.client.timeout(timeout), ..self }
    }

    /// Another clock.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Another source of randomness, fit for cryptography.
    pub fn entropy(self, entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, ..self }
    }

    /// Another way to wait between contacts.
    pub fn timer(self, timer: Arc<dyn Timer>) -> Self {
        Self { timer, ..self }
    }

    /// Reads the credential and prepares everything. Nothing is sent: enrolment is part of [`Agent::run`], so that a server
    /// that is away is an event, not an error. Dropping the future does nothing.
    ///
    /// # Errors
    /// When something needed was not given, the URL or HTTP client is unfit, the stored credential is damaged, or this
    /// machine cannot be measured.
    pub async fn open(self) -> Result<(Agent, Events), OpenError> {
        let client = self.client.build()?;
        let store = self.store.ok_or(OpenError::NoCredentialStore)?;
        let (sender, receiver) = event::channel();
        let events = Arc::new(sender);
        let mut session = Session::builder(client.clone(), Arc::clone(&store))
            .clock(Arc::clone(&self.clock))
            .entropy(Arc::clone(&self.entropy));
        if let Some(token) = self.agent_token {
            session = session.agent_token(token);
        }
        let session = session.open_for(&events).await?;
        match (session.host_id(), &self.install_token) {
            (Some(host_id), Some(token)) if session.was_not_bought_with(token).await => {
                tracing::warn!(%host_id, "already enrolled: the other install token is not used while the credential works");
            }
            (None, None) if !session.waits_for_delivered().await => return Err(OpenError::NotEnrolled),
            _ => {}
        }
        let mut collectors = self.collectors;
        if collectors.is_empty() {
            collectors.push(Box::new(SystemCollector::new()?));
        }
        let (lease_holder, lease) = lease(Arc::clone(&self.clock), Arc::clone(&self.timer));
        let work = Work {
            client,
            store,
            session,
            install_token: self.install_token,
            version: self.version,
            proposed_host: self.proposed_host,
            collectors,
            collect_timeout: self.collect_timeout,
            clock: self.clock,
            entropy: self.entropy,
            timer: self.timer,
            events,
            lease_holder,
            pace: Pace::new(self.interval),
            backoff: Backoff::contact(),
            stamps: Stamps::default(),
            dropped_total: 0,
            lost: false,
        };
        Ok((Agent { work, lease }, receiver))
    }
}

impl fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentBuilder")
            .field("client", &self.client)
            .field("install_token", &self.install_token)
            .field("agent_token", &self.agent_token)
            .field("host", &self.proposed_host)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}
