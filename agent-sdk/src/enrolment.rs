//! Enrolment: an install token becomes a credential, whatever gets lost on the way.
//!
//! The agent draws the secret itself, keeps it durably together with the hash of the install token that it is meant
//! for, and sends only the secret's hash, its claim. A lost reply, a time-out or a restart changes nothing: the same
//! claim is sent again and answered again. The secret is used only after the reply, whose host id is kept with it.

use std::fmt;
use std::sync::Arc;

use enlist_core::host::{ExternalId, HostName};
use enlist_core::secret::Prefix;
use enlist_core::telemetry::HostFacts;
use enlist_core::wire::{AgentAction, Code, ExchangeReply, Problem, ProposedHost};
use enlist_core::{Entropy, PlainToken, SystemEntropy};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::credential::{Credential, CredentialStore, Facts, PendingEnrolment, Record};
use crate::error::{ClientError, EnrolError};
use crate::install_token::InstallToken;
use crate::keyring::Durable;
use crate::timer::{Timer, TokioTimer};

/// How many secrets are drawn before `claim_in_use` is believed. A collision of 256 bits does not happen; a restored
/// disk image that claims with an old secret does, once.
pub(crate) const MOST_DRAWS: u32 = 5;

/// Gets a host its credential and keeps it.
///
/// Dropping a future of it loses nothing: the next attempt, in this process or another, repeats the same claim. One
/// process at a time enrols with a store.
///
/// ```no_run
/// use std::sync::Arc;
/// use enlist_agent_sdk::{Client, Enrolment, FileCredentialStore, InstallToken};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new("https://fleet.example.com")?;
/// let store = Arc::new(FileCredentialStore::new("/var/lib/my-agent"));
/// let token = InstallToken::new(std::env::var("INSTALL_TOKEN")?)?;
/// let credential = Enrolment::new(client, store).run(&token).await?;
/// println!("this machine is host {}", credential.host_id());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Enrolment {
    client: Client,
    store: Arc<dyn CredentialStore>,
    facts: Option<HostFacts>,
    host: Option<ProposedHost>,
    entropy: Arc<dyn Entropy>,
    timer: Arc<dyn Timer>,
}

impl Enrolment {
    /// Enrols at this server and keeps the credential in this store.
    pub fn new(client: Client, store: Arc<dyn CredentialStore>) -> Self {
        Self { client, store, facts: None, host: None, entropy: Arc::new(SystemEntropy), timer: Arc::new(TokioTimer) }
    }

    /// What to tell the server of the machine.
    pub fn facts(self, facts: HostFacts) -> Self {
        Self { facts: Some(facts), ..self }
    }

    /// For tenant-bound install tokens: the host to find or make; see also [`this_machine`](crate::this_machine). With one of
    /// a host the server does not look at it.
    pub fn host(self, host: ProposedHost) -> Self {
        Self { host: Some(host), ..self }
    }

    /// For tenant-bound install tokens: what the host is called, if it is made.
    pub fn host_name(self, name: HostName) -> Self {
        let host = self.host.unwrap_or_default();
        Self { host: Some(ProposedHost { name: Some(name), ..host }), ..self }
    }

    /// For tenant-bound install tokens: what the host is found by once it has lost its credential. Unique in the tenant, and
    /// this machine's alone: clones with one external id between them are refused, but for the first.
    pub fn external_id(self, external_id: ExternalId) -> Self {
        let host = self.host.unwrap_or_default();
        Self { host: Some(ProposedHost { external_id: Some(external_id), ..host }), ..self }
    }

    /// Another source of randomness, fit for cryptography.
    pub fn entropy(self, entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, ..self }
    }

    /// Another way to wait between attempts.
    pub fn timer(self, timer: Arc<dyn Timer>) -> Self {
        Self { timer, ..self }
    }

    /// Attempts until there is an answer that counts, with [`Backoff::enrolment`] between attempts and `Retry-After`
    /// obeyed. Bound it from outside if it must end.
    ///
    /// # Errors
    /// As [`Enrolment::attempt`], save [`EnrolError::Unanswered`].
    pub async fn run(&self, install_token: &InstallToken) -> Result<Credential, EnrolError> {
        let mut backoff = Backoff::enrolment();
        let mut told = false;
        loop {
            match self.attempt(install_token).await {
                Err(EnrolError::Unanswered(error)) => {
                    let delay = backoff.delay_after(&error, &*self.entropy);
                    if !std::mem::replace(&mut told, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "the exchange was not answered; it is repeated until it is");
                    }
                    self.timer.sleep(delay).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Exchanges the install token once, or gives the credential that is installed already: that one wins over any
    /// install token, so that a token left in a unit file does no harm. To enrol anew, see [`Enrolment::attempt_anew`].
    ///
    /// # Errors
    /// [`EnrolError::Unanswered`] when the attempt can be repeated; everything else is final until a person has acted.
    pub async fn attempt(&self, install_token: &InstallToken) -> Result<Credential, EnrolError> {
        let record = Record::load(&*self.store).await?;
        if let Some(installed) = record.installed {
            if !installed.was_bought_with(install_token) {
                tracing::info!(host_id = %installed.host_id(), "already enrolled: the other install token is not used");
            }
            return Ok(installed);
        }
        self.exchange(record, install_token).await
    }

    /// Exchanges the install token once for a credential that replaces the installed one, if there is one: for when the
    /// server has refused that for good. It stays in the store until the exchange has succeeded.
    ///
    /// A session or agent that has the store open does not see the new one: [`Agent`](crate::Agent) does this by itself.
    ///
    /// # Errors
    /// As [`Enrolment::attempt`].
    pub async fn attempt_anew(&self, install_token: &InstallToken) -> Result<Credential, EnrolError> {
        let record = Record::load(&*self.store).await?;
        self.exchange(record, install_token).await
    }

    async fn exchange(&self, mut record: Record, install_token: &InstallToken) -> Result<Credential, EnrolError> {
        let mut pending = match &record.enrolment {
            Some(pending) if pending.install_token == install_token.hash() => pending.clone(),
            _ => self.draw(&mut record, install_token).await?,
        };
        let mut draws = 1;
        loop {
            let claim = pending.token.hash();
            let reply = self.client.exchange(install_token, claim, self.facts.as_ref(), self.host.as_ref()).await;
            match reply {
                Ok(reply) => return self.install(record, pending, reply).await,
                Err(ClientError::Refused(problem)) if problem.code == Code::ClaimInUse && draws < MOST_DRAWS => {
                    pending = self.draw(&mut record, install_token).await?;
                    draws += 1;
                }
                Err(ClientError::Refused(problem)) if is_final(&problem) => return Err(EnrolError::Refused(problem)),
                Err(error) => return Err(EnrolError::Unanswered(error)),
            }
        }
    }

    /// A new secret, durable before anybody hears of it.
    async fn draw(&self, record: &mut Record, install_token: &InstallToken) -> Result<PendingEnrolment, EnrolError> {
        let pending = PendingEnrolment {
            token: Arc::new(PlainToken::generate(Prefix::AGENT, &*self.entropy).into()),
            install_token: install_token.hash(),
        };
        record.enrolment = Some(pending.clone());
        record.save(&*self.store).await?;
        Ok(pending)
    }

    /// The host id is pinned, durably, before the credential is used.
    async fn install(
        &self,
        mut record: Record,
        pending: PendingEnrolment,
        reply: ExchangeReply,
    ) -> Result<Credential, EnrolError> {
        let mut spent = record.installed.take().map(|credential| credential.facts.spent).unwrap_or_default();
        spent.push(pending.install_token);
        let credential = Credential {
            tokens: Durable { current: pending.token, successor: None },
            facts: Facts {
                host_id: reply.host_id,
                tenant_id: reply.tenant_id,
                token_id: reply.agent_token.id,
                kind: reply.agent_token.kind,
                expires_at: reply.agent_token.expires_at,
                // Its life begins with its first use.
                obtained_at: None,
                spent,
            },
        };
        record.installed = Some(credential.clone());
        record.enrolment = None;
        record.save(&*self.store).await?;
        Ok(credential)
    }
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment")
            .field("client", &self.client)
            .field("facts", &self.facts)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// A refusal in our form ends an enrolment, unless the server is at fault, or says that a repeat can help.
fn is_final(problem: &Problem) -> bool {
    let again = problem.status >= 500
        || matches!(problem.code, Code::RateLimited | Code::Conflict)
        || problem.action == Some(AgentAction::Retry);
    !again
}
