//! The SDK's agent, as a process that can be killed: what it had in memory is lost, what it has saved is not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use enlist_agent_sdk::{
    AgentToken, Client, ClientError, Credential, CredentialError, CredentialStore, EnrolError, Enrolment, InstallToken,
    SecretBytes, Session, SessionError, Worked,
};
use enlist_core::wire::Code;
use enlist_core::{ManualClock, PlainToken};

use crate::faults::Faults;
use crate::server::Server;

/// What an agent has saved. It survives the agent, and can be copied.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Option<SecretBytes>>>);

impl Disk {
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SecretBytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk as one process has it open.
struct Drive {
    disk: Disk,
    faults: Faults,
}

impl Drive {
    fn alive(&self) -> Result<(), CredentialError> {
        if self.faults.agent_is_dead() { Err(CredentialError::Store("the agent was killed".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl CredentialStore for Drive {
    async fn load(&self) -> Result<Option<SecretBytes>, CredentialError> {
        self.alive()?;
        Ok(self.disk.lock().clone())
    }

    async fn save(&self, document: &SecretBytes) -> Result<(), CredentialError> {
        self.alive()?;
        self.faults.agent("agent killed before it saves");
        self.alive()?;
        *self.disk.lock() = Some(document.clone());
        self.faults.agent("agent killed after it has saved");
        self.alive()
    }

    async fn erase(&self) -> Result<(), CredentialError> {
        self.alive()?;
        *self.disk.lock() = None;
        Ok(())
    }
}

pub(crate) struct Agent {
    pub(crate) disk: Disk,
    client: Client,
    faults: Faults,
    clock: Arc<ManualClock>,
    install_token: Option<InstallToken>,
    delivered: Option<PlainToken>,
    session: Option<Session>,
    /// The server has refused all that the agent holds.
    is_lost: bool,
    /// The code of the last refusal.
    pub(crate) refused: Option<Code>,
}

impl Agent {
    pub(crate) fn new(server: &Server, install_token: &PlainToken) -> Self {
        let token = InstallToken::new(install_token.expose()).expect("one of ours");
        Self { install_token: Some(token), ..Self::over(server, Disk::default()) }
    }

    /// An agent that finds this on its disk.
    pub(crate) fn over(server: &Server, disk: Disk) -> Self {
        Self {
            disk,
            client: Client::new(&server.url).expect("a client"),
            faults: server.faults.clone(),
            clock: Arc::clone(&server.clock),
            install_token: None,
            delivered: None,
            session: None,
            is_lost: false,
            refused: None,
        }
    }

    /// The agent is started anew with another install token.
    pub(crate) fn reinstall(&mut self, install_token: &PlainToken) {
        self.install_token = Some(InstallToken::new(install_token.expose()).expect("one of ours"));
        self.session = None;
    }

    /// The agent is started anew with a token that an administrator has delivered.
    pub(crate) fn deliver(&mut self, token: PlainToken) {
        self.delivered = Some(token);
        self.session = None;
    }

    /// Ends the process, and starts it anew.
    pub(crate) fn restart(&mut self) {
        self.session = None;
    }

    pub(crate) fn rotate(&self) {
        if let Some(session) = &self.session {
            session.rotate();
        }
    }

    /// Works until a heartbeat was accepted, and says in how many turns; gives up after `most`.
    pub(crate) async fn work(&mut self, most: usize) -> Option<usize> {
        for turn in 1..=most {
            if self.turn().await {
                return Some(turn);
            }
        }
        None
    }

    /// One attempt to do what is due and to work: whether the server has accepted it. Waits as long as it is told to.
    pub(crate) async fn turn(&mut self) -> bool {
        let outcome = self.attempt().await;
        if self.faults.agent_is_dead() {
            self.session = None;
            self.faults.agent_lives_again();
            return false;
        }
        match outcome {
            Ok(()) => true,
            Err(wait) => {
                self.clock.advance(wait);
                false
            }
        }
    }

    async fn attempt(&mut self) -> Result<(), Duration> {
        let session = match &self.session {
            Some(session) => session.clone(),
            None => self.start().await?,
        };
        let permit = session.permit().await.map_err(|error| self.note(&error))?;
        let result = self.client.heartbeat(&permit).await;
        match permit.worked(&result).await.map_err(|error| self.note(&error))? {
            Worked::Again => return Err(Duration::ZERO),
            Worked::Done => {}
        }
        match result {
            Ok(reply) => {
                if reply.rotate {
                    session.asked_to_rotate();
                }
                Ok(())
            }
            Err(ClientError::Refused(problem)) => {
                self.refused = Some(problem.code);
                Err(Duration::from_secs(1))
            }
            Err(_) => Err(Duration::from_secs(1)),
        }
    }

    /// What the program does when it starts: enrol unless that is done, and open the credential.
    async fn start(&mut self) -> Result<Session, Duration> {
        let failed = Duration::from_secs(1);
        let store: Arc<dyn CredentialStore> = Arc::new(Drive { disk: self.disk.clone(), faults: self.faults.clone() });
        let installed = Credential::load(&*store).await.map_err(|_| failed)?;
        let is_other =
            |token: &&InstallToken| installed.as_ref().is_none_or(|it| self.is_lost && !it.was_bought_with(token));
        if let Some(install_token) = self.install_token.as_ref().filter(is_other) {
            let enrolment = Enrolment::new(self.client.clone(), Arc::clone(&store));
            if let Err(error) = enrolment.attempt_anew(install_token).await {
                if let EnrolError::Refused(problem) = error {
                    self.refused = Some(problem.code);
                }
                return Err(failed);
            }
        }
        let mut builder = Session::builder(self.client.clone(), store).clock(Arc::clone(&self.clock) as _);
        if let Some(token) = &self.delivered {
            builder = builder.agent_token(AgentToken::new(token.expose()).expect("one of ours"));
        }
        let (session, _) = builder.open().await.map_err(|_| failed)?;
        self.is_lost = false;
        self.session = Some(session.clone());
        Ok(session)
    }

    fn note(&mut self, error: &SessionError) -> Duration {
        if let SessionError::Refused { problem, for_good, .. } = error {
            self.refused = Some(problem.code.clone());
            if *for_good {
                // As the SDK's own loop does: it enrols anew, if it was given another install token.
                self.is_lost = true;
                self.session = None;
            }
        }
        error.retry_after().unwrap_or(Duration::from_secs(1))
    }
}
