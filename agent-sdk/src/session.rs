//! The credential in use: rotated, refreshed, and never lost on the way.

mod answer;
mod delivered;
mod state;
mod turn;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enlist_core::{Clock, Entropy, HostId, SystemClock, SystemEntropy};

use crate::agent_token::{AgentToken, BearerToken, sealed};
use crate::client::Client;
use crate::credential::{Credential, CredentialStore, Record};
use crate::enrolment::Enrolment;
use crate::error::{ClientError, CredentialError, EnrolError, SessionError};
use crate::event::{self, EventSender, Events, SessionEvents};
use crate::install_token::InstallToken;
use crate::keyring::Answer;
use answer::{answer_of, asks_for_refresh};
use state::{Presented, State};
use turn::Turn;

/// A host's credential in use. It gives the secret to present, and does before that whatever is due: it rotates the agent
/// token, buys access tokens for one of kind `refresh`, and tries a token that was delivered by hand.
///
/// Needs an installed credential (see [`Enrolment`]) or a delivered one. [`Agent`](crate::Agent) has a session of its own,
/// [`Agent::session`](crate::Agent::session). Cheap to clone; clones are the same session. One session at a time uses a
/// store.
///
/// ```no_run
/// use std::sync::Arc;
/// use enlist_agent_sdk::{Client, FileCredentialStore, Session, Worked};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new("https://fleet.example.com")?;
/// let store = Arc::new(FileCredentialStore::new("/var/lib/my-agent"));
/// let (session, _events) = Session::builder(client.clone(), store).open().await?;
/// let reply = loop {
///     let permit = session.permit().await?;
///     let result = client.heartbeat(&permit).await;
///     if permit.worked(&result).await? == Worked::Done {
///         break result?;
///     }
/// };
/// if reply.rotate {
///     session.asked_to_rotate();
/// }
/// # Ok(()) }
/// ```
///
/// # When it rotates
/// The server asks for it, two thirds of the token's life are over (up to a twentieth of the life earlier, so that a fleet
/// spreads), the token was refused as expired, or [`Session::rotate`] was called. A proposal that the server refuses for
/// the time being is repeated every quarter of an hour.
///
/// # What holds
/// The successor is durable before the server hears of it; the token in use is dropped only once the server has accepted
/// its successor. One request at a time is made with the credential: whoever holds a [`Permit`] has the turn. Time-outs,
/// 5xx, and answers that are not in the server's own form change nothing. Dropping any future here, a save that fails, and a
/// crash at any point have the effect of a lost reply: the step is done again. Only 410 `host_deleted`, in the server's own
/// form, erases the credential.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    state: Arc<tokio::sync::Mutex<State>>,
}

/// What the turns of a session have in common.
struct Shared {
    client: Client,
    store: Arc<dyn CredentialStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    events: SessionEvents,
    host_id: Mutex<Option<HostId>>,
    /// The caller wants a rotation.
    wished: AtomicBool,
    /// The server wants one.
    asked: AtomicBool,
}

impl Shared {
    fn set_host(&self, host_id: Option<HostId>) {
        *self.host_id.lock().unwrap_or_else(PoisonError::into_inner) = host_id;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("client", &self.client).field("host_id", &self.host_id).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a session that calls the server with this client and keeps the credential in this store.
    pub fn builder(client: Client, store: Arc<dyn CredentialStore>) -> SessionBuilder {
        SessionBuilder {
            client,
            store,
            delivered: None,
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
        }
    }

    /// Who this machine is, if it is enrolled.
    pub fn host_id(&self) -> Option<HostId> {
        *self.shared.host_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn, and with it the secret to present: waits for whoever has it, and does what is due. That is no request at
    /// all as a rule, and a few in a rotation, each bounded by [`REQUEST_TIMEOUT`](crate::REQUEST_TIMEOUT).
    ///
    /// Dropping the future loses nothing: what was begun is done again.
    ///
    /// # Errors
    /// See [`SessionError`]; [`SessionError::retry_after`] says when to ask again.
    pub async fn permit(&self) -> Result<Permit, SessionError> {
        let mut turn = self.turn().await;
        let presented = Box::pin(turn.ready()).await?;
        Ok(Permit { turn, presented })
    }

    /// Asks for a rotation at the next turn. One that the server has refused for the time being is repeated then, without
    /// waiting for its quarter of an hour.
    pub fn rotate(&self) {
        self.shared.wished.store(true, Ordering::Relaxed);
    }

    /// The server asks for a rotation: a reply said `rotate`. It takes place at the next turn, unless the server has
    /// refused one lately, or has had one within the last minute.
    pub fn asked_to_rotate(&self) {
        self.shared.asked.store(true, Ordering::Relaxed);
    }

    async fn turn(&self) -> Turn {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        if self.shared.wished.swap(false, Ordering::Relaxed) {
            state.wished = true;
            state.rotation_after = Duration::ZERO;
        }
        if self.shared.asked.swap(false, Ordering::Relaxed) {
            state.server_asks(self.shared.clock.monotonic());
        }
        Turn { shared: Arc::clone(&self.shared), state }
    }

    /// Enrols with the store of this session, anew if that is said. What the session knows is read again afterwards, also
    /// if the future is dropped.
    pub(crate) async fn enrol(
        &self,
        enrolment: &Enrolment,
        install_token: &InstallToken,
        anew: bool,
    ) -> Result<Credential, EnrolError> {
        let mut turn = self.turn().await;
        turn.state.stale = true;
        let outcome =
            if anew { enrolment.attempt_anew(install_token).await } else { enrolment.attempt(install_token).await };
        let gate = turn.state.gate;
        turn.adopt(Record::load(&*self.shared.store).await?);
        if outcome.is_err() {
            turn.state.gate = gate;
        }
        outcome
    }

    /// Whether this install token is another than those that have enrolled this machine.
    pub(crate) async fn was_not_bought_with(&self, install_token: &InstallToken) -> bool {
        let state = self.state.lock().await;
        let facts = state.kept.ring.as_ref().map(|ring| &ring.facts);
        facts.is_some_and(|facts| !facts.spent.contains(&install_token.hash()))
    }

    /// Whether a delivered token waits for the server's word.
    pub(crate) async fn waits_for_delivered(&self) -> bool {
        let state = self.state.lock().await;
        state.delivered.is_some() || state.kept.trying.is_some()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("host_id", &self.host_id()).finish_non_exhaustive()
    }
}

/// What a [`Session`] is made of.
#[must_use]
pub struct SessionBuilder {
    client: Client,
    store: Arc<dyn CredentialStore>,
    delivered: Option<AgentToken>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl SessionBuilder {
    /// An agent token that a person delivered. It is tried beside what is installed, with `GET /v1/agent/self`: accepted,
    /// it takes the place of the installed token and its successor; refused, it is dropped, and not tried again after a
    /// restart either, so that it may stay in a unit file. Until the server has said which, what is installed works on.
    pub fn agent_token(self, token: AgentToken) -> Self {
        Self { delivered: Some(token), ..self }
    }

    /// Another clock.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Another source of randomness, fit for cryptography.
    pub fn entropy(self, entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, ..self }
    }

    /// Reads the credential. Nothing is sent. Reading the events is optional.
    ///
    /// # Errors
    /// When the credential cannot be read or is damaged. That there is none is not an error yet:
    /// [`SessionError::NotEnrolled`] says so later.
    pub async fn open(self) -> Result<(Session, Events), CredentialError> {
        let (sender, events) = event::channel();
        Ok((self.open_with(SessionEvents::own(sender)).await?, events))
    }

    /// The same as a part of an agent, whose events are the session's.
    pub(crate) async fn open_for(self, events: &Arc<EventSender>) -> Result<Session, CredentialError> {
        self.open_with(SessionEvents::of_agent(events)).await
    }

    async fn open_with(self, events: SessionEvents) -> Result<Session, CredentialError> {
        let record = Record::load(&*self.store).await?;
        let host_id = record.installed.as_ref().map(Credential::host_id);
        let mut state = State::new(record, self.clock.monotonic(), &*self.entropy);
        if let Some(token) = self.delivered {
            let hash = token.hash();
            let current = state.kept.ring.as_ref().map(|ring| ring.keyring.durable().current.hash());
            if current == Some(hash) {
                // Kept with the next change: once it was replaced, it must not be tried again.
                state.kept.delivered = Some(hash);
            } else if state.kept.delivered != Some(hash) {
                state.delivered = Some(Arc::new(token));
            }
        }
        let shared = Shared {
            client: self.client,
            store: self.store,
            clock: self.clock,
            entropy: self.entropy,
            events,
            host_id: Mutex::new(host_id),
            wished: AtomicBool::new(false),
            asked: AtomicBool::new(false),
        };
        Ok(Session { shared: Arc::new(shared), state: Arc::new(tokio::sync::Mutex::new(state)) })
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("client", &self.client)
            .field("agent_token", &self.delivered)
            .finish_non_exhaustive()
    }
}

/// The turn, and the secret to present in it: for one request, which the caller makes at once and bounds by
/// [`REQUEST_TIMEOUT`](crate::REQUEST_TIMEOUT), as every call of [`Client`] is. Nobody else has the turn until it is
/// dropped.
///
/// A request that was answered has to be told of, with [`Permit::worked`]: that is how the session learns that the credential
/// is refused, or when it expires. Whoever calls the server with another HTTP client makes the result of
/// [`ClientError::of_reply`]. A request that was abandoned needs no word: drop the permit.
#[derive(Debug)]
#[must_use = "it holds the turn until it is dropped"]
pub struct Permit {
    turn: Turn,
    presented: Presented,
}

/// What comes of a request, beyond its own reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Worked {
    /// The credential had no part in it: the reply, or the error, is the caller's.
    Done,
    /// The credential was refused, and something can be done about that: make the same request again with another
    /// [`Permit`], at once.
    Again,
}

impl Permit {
    /// The secret, for an HTTP client of the caller's own. It is the agent token, or an access token.
    pub fn expose(&self) -> &str {
        match &self.presented {
            Presented::Agent(token) => token.expose(),
            Presented::Access(token) => token.expose(),
        }
    }

    /// Whose credential it is.
    pub fn host_id(&self) -> HostId {
        let ring = self.turn.state.kept.ring.as_ref();
        ring.expect("nothing is presented without a credential").facts.host_id
    }

    /// Gives the turn back, with what became of the request.
    ///
    /// Dropping the future is fine, save that an erasure after `host_deleted` may be left to the next request.
    ///
    /// # Errors
    /// When the server refuses the credential and there is nothing to be done at once: see [`SessionError`].
    pub async fn worked<T>(mut self, result: &Result<T, ClientError>) -> Result<Worked, SessionError> {
        let Err(error) = result else {
            self.accepted();
            return Ok(Worked::Done);
        };
        self.turn.unless_of_host(error).await?;
        let ClientError::Refused(problem) = error else { return Ok(Worked::Done) };
        let answer = answer_of(result);
        let wants_refresh = asks_for_refresh(error);
        match (&self.presented, answer) {
            // Whatever is wrong with it, the answer to buying another one says what it is.
            (Presented::Access(_), answer) if wants_refresh || answer != Answer::Unanswered => {
                self.turn.state.access = None;
                self.again_once(problem.clone())
            }
            // The server signs access tokens by now.
            (Presented::Agent(_), _) if wants_refresh && self.turn.state.no_keys => {
                self.turn.state.no_keys = false;
                self.again_once(problem.clone())
            }
            (_, Answer::Unanswered) => {
                if matches!(problem.status, 400 | 413 | 415 | 422) {
                    // The request was at fault; who made it was not.
                    self.accepted();
                }
                Ok(Worked::Done)
            }
            (_, answer) => self.turn.current_refused(answer, problem.clone()).map(|()| Worked::Again),
        }
    }

    fn accepted(&mut self) {
        let state = &mut self.turn.state;
        state.accepted = true;
        state.healed = false;
        state.lost = None;
        state.superseded_since = None;
    }

    fn again_once(&mut self, problem: Box<enlist_core::wire::Problem>) -> Result<Worked, SessionError> {
        if std::mem::replace(&mut self.turn.state.healed, true) {
            return Err(self.turn.refused(problem));
        }
        Ok(Worked::Again)
    }
}

impl sealed::Sealed for Permit {}
impl BearerToken for Permit {
    fn bearer(&self) -> &str {
        self.expose()
    }
}
