//! One turn of a session: whatever is due, one request after the other, each change durable before the next request.
//!
//! Every step works on a copy of the ring and takes it over once it is kept. So a save that fails, a future that is dropped
//! and a reply that is lost come to the same: the step is done again.

use std::sync::Arc;
use std::time::Duration;

use enlist_core::agent_token::{CredentialKind, Refusal};
use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::wire::{AgentSelf, Code, Problem, ProposedState};
use tokio::sync::OwnedMutexGuard;

use super::Shared;
use super::answer::{answer_of, asks_for_refresh, does_not_rotate};
use super::state::{Access, Kept, Plan, Presented, Ring, State};
use crate::agent_token::AgentToken;
use crate::backoff::refused_pause;
use crate::client::Client;
use crate::credential::Record;
use crate::enrolment::MOST_DRAWS;
use crate::error::{ClientError, SessionError};
use crate::event::Event;
use crate::keyring::{Answer, Step};

/// After this long the server is asked again how long the token in use lives.
const CONFIRM_AGAIN: Duration = Duration::from_secs(10 * 60);
/// When the token in use has been superseded for so long, only an administrator can help.
const SUPERSEDED_FOR_GOOD: Duration = Duration::from_secs(5 * 60);
/// After this long a rotation is begun again whose successor could not be kept.
const DRAW_AGAIN: Duration = Duration::from_secs(60);

/// The credential, for one caller at a time.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) shared: Arc<Shared>,
    pub(super) state: OwnedMutexGuard<State>,
}

impl Turn {
    /// Does what is due, and gives the secret to present for work.
    pub(super) async fn ready(&mut self) -> Result<Presented, SessionError> {
        self.reread().await?;
        if let Some(problem) = &self.state.deleted {
            return Err(SessionError::HostDeleted(problem.clone()));
        }
        match self.settle().await {
            // The token that a rotation waits for is not the one that is presented for work.
            Err(waiting @ SessionError::Waiting { .. }) => self.state.usable_access(self.monotonic()).ok_or(waiting),
            settled => settled,
        }
    }

    async fn settle(&mut self) -> Result<Presented, SessionError> {
        let until_open = self.state.gate.saturating_sub(self.monotonic());
        if !until_open.is_zero() {
            return Err(SessionError::Waiting { retry_after: until_open, error: None });
        }
        self.try_delivered().await?;
        let mut draws = 0;
        loop {
            match self.state.plan(self.monotonic(), self.shared.clock.now()) {
                Plan::Work(presented) => return Ok(presented),
                Plan::NotEnrolled => return Err(SessionError::NotEnrolled),
                Plan::Wait(retry_after) => return Err(SessionError::Waiting { retry_after, error: None }),
                Plan::Draw(_) if draws == MOST_DRAWS => {
                    let detail = "none of the successors that were drawn was accepted";
                    return Err(self.refused(Box::new(Problem::new(Code::ClaimInUse, detail))));
                }
                Plan::Draw(ring) => {
                    draws += 1;
                    self.draw(ring).await?;
                }
                Plan::Propose { ring, current, successor } => self.propose(ring, &current, &successor).await?,
                Plan::Present { ring, successor } => self.present(ring, &successor).await?,
                Plan::Confirm { ring, current } => self.confirm(ring, &current).await?,
                Plan::Buy { current } => {
                    if let Some(access) = self.buy(&current).await? {
                        return Ok(access);
                    }
                }
            }
        }
    }

    /// A successor, durable before anybody hears of it.
    async fn draw(&mut self, mut ring: Ring) -> Result<(), SessionError> {
        let prefix = match ring.facts.kind {
            CredentialKind::Refresh => Prefix::REFRESH,
            CredentialKind::Bearer => Prefix::AGENT,
        };
        let token = PlainToken::generate(prefix, &*self.shared.entropy);
        ring.keyring.draw(Arc::new(token.into()));
        if let Err(error) = self.keep_ring(ring).await {
            // Nothing was proposed: the token in use goes on working meanwhile.
            self.state.rotation_after = self.monotonic().saturating_add(DRAW_AGAIN);
            return Err(self.not_in_the_way(error));
        }
        self.state.drawn();
        Ok(())
    }

    async fn propose(
        &mut self,
        mut ring: Ring,
        current: &AgentToken,
        successor: &AgentToken,
    ) -> Result<(), SessionError> {
        let result = self.shared.client.propose(current, successor.hash()).await;
        let mut answer = answer_of(&result);
        let was_held_up = ring.keyring.is_held_up();
        let problem = match result {
            Ok(reply) => {
                ring.keyring.proposed(Answer::Accepted);
                self.keep_ring(ring).await?;
                self.state.successor_id = Some(reply.id);
                self.state.used = reply.state == ProposedState::Used;
                self.state.lost = None;
                return Ok(());
            }
            Err(error) => {
                self.unless_of_host(&error).await?;
                match error {
                    ClientError::Refused(problem) if answer != Answer::Unanswered => problem,
                    // A server of an earlier version. The successor was never presented (one that is held up never is: the
                    // mark goes before that), so the token in use still serves.
                    ClientError::Refused(problem)
                        if (self.state.drawn_here || was_held_up) && does_not_rotate(&problem) =>
                    {
                        answer = Answer::Refused(Refusal::RotationPending);
                        problem
                    }
                    error => return Err(self.pause(error)),
                }
            }
        };
        self.state.backoff.reset();
        ring.keyring.proposed(answer);
        let successor_helps = matches!(ring.keyring.step(), Step::Present(_));
        self.keep_ring(ring).await?;
        match answer {
            Answer::Refused(Refusal::ClaimInUse) => Ok(()),
            Answer::Refused(Refusal::RotationPending | Refusal::RotationConflict) => {
                let now = self.monotonic();
                let entropy = Arc::clone(&self.shared.entropy);
                self.state.hold_up(now, &*entropy);
                if !was_held_up {
                    self.shared.events.send(Event::RotationRefused { problem });
                }
                Ok(())
            }
            answer => {
                self.note_loss(answer, &problem);
                if answer == Answer::Refused(Refusal::Expired) {
                    // Even for a proposal.
                    self.state.lost = Some(problem.clone());
                }
                if successor_helps {
                    return Ok(());
                }
                self.state.successor_lost |= self.state.lost.is_some();
                Err(self.refused(problem))
            }
        }
    }

    async fn present(&mut self, mut ring: Ring, successor: &AgentToken) -> Result<(), SessionError> {
        self.state.drawn_here = false;
        let result = introduce(&self.shared.client, successor).await;
        let answer = answer_of(&result);
        let problem = match result {
            Ok(who) if who.host_id != ring.facts.host_id => {
                return Err(self.pause(ClientError::Unexpected { status: 200 }));
            }
            Ok(who) => {
                ring.keyring.presented(Answer::Accepted);
                ring.learn(who, self.shared.clock.now());
                return self.shift(ring).await;
            }
            Err(error) => {
                self.unless_of_host(&error).await?;
                match error {
                    ClientError::Refused(problem) if answer != Answer::Unanswered => problem,
                    error => return Err(self.pause(error)),
                }
            }
        };
        self.state.backoff.reset();
        ring.keyring.presented(answer);
        match answer {
            Answer::Refused(Refusal::Expired) => {
                let known = self.state.successor_id.or(problem.token_id);
                ring.facts.token_id = known.unwrap_or(ring.facts.token_id);
                ring.facts.obtained_at = None;
                ring.facts.expires_at = None;
                self.shift(ring).await
            }
            Answer::Refused(Refusal::Displaced) => self.keep_ring(ring).await,
            _ => {
                self.keep_ring(ring).await?;
                self.state.successor_lost = true;
                Err(self.refused(self.state.lost.clone().unwrap_or(problem)))
            }
        }
    }

    /// The successor is in use from now on.
    async fn shift(&mut self, ring: Ring) -> Result<(), SessionError> {
        let (host_id, token_id) = (ring.facts.host_id, ring.facts.token_id);
        self.keep_ring(ring).await?;
        let (now, entropy) = (self.monotonic(), Arc::clone(&self.shared.entropy));
        self.state.shifted(now, &*entropy);
        self.shared.events.send(Event::CredentialChanged { host_id, token_id });
        Ok(())
    }

    /// Learns how long the token in use lives. Work does not wait for it.
    async fn confirm(&mut self, mut ring: Ring, current: &AgentToken) -> Result<(), SessionError> {
        let result = introduce(&self.shared.client, current).await;
        let now = self.monotonic();
        match result {
            Ok(who) if who.host_id == ring.facts.host_id => {
                ring.learn(who, self.shared.clock.now());
                self.state.confirm_after = now.saturating_add(CONFIRM_AGAIN);
                self.keep_ring(ring).await.map_err(|error| self.not_in_the_way(error))
            }
            Ok(_) => {
                self.state.confirm_after = now.saturating_add(CONFIRM_AGAIN);
                Ok(())
            }
            Err(error) => {
                self.unless_of_host(&error).await?;
                tracing::debug!(%error, "the server did not say how long the credential lives");
                self.state.confirm_after = now.saturating_add(CONFIRM_AGAIN);
                Ok(())
            }
        }
    }

    /// Buys an access token. `None` when something else is to be done first.
    async fn buy(&mut self, current: &AgentToken) -> Result<Option<Presented>, SessionError> {
        let (sent, now) = (self.monotonic(), self.shared.clock.now());
        let result = self.shared.client.refresh(current, None).await;
        let answer = answer_of(&result);
        match result {
            Ok(token) => {
                if token.asks_for_rotation() {
                    self.state.server_asks(sent);
                }
                self.state.access = Some(Access::new(token, now, sent));
                self.state.backoff.reset();
                let access = self.state.usable_access(sent);
                Ok(access)
            }
            Err(ClientError::Refused(problem)) if problem.code == Code::NotFound && problem.status == 404 => {
                self.state.no_keys = true;
                self.state.access = None;
                Ok(None)
            }
            Err(error) => {
                self.unless_of_host(&error).await?;
                match error {
                    ClientError::Refused(problem) if answer != Answer::Unanswered => {
                        self.current_refused(answer, problem)?;
                        Ok(None)
                    }
                    error => {
                        let waiting = self.pause(error);
                        self.state.buy_after = self.state.gate;
                        Err(waiting)
                    }
                }
            }
        }
    }

    /// The server refuses the token in use. Ok when something can be done about it at once.
    pub(super) fn current_refused(&mut self, answer: Answer, problem: Box<Problem>) -> Result<(), SessionError> {
        self.note_loss(answer, &problem);
        let helps = match &mut self.state.kept.ring {
            Some(ring) => {
                ring.keyring.worked(answer);
                !matches!(ring.keyring.step(), Step::Work(_))
            }
            None => false,
        };
        if helps && !std::mem::replace(&mut self.state.healed, true) { Ok(()) } else { Err(self.refused(problem)) }
    }

    /// An expired token can still propose. One that is superseded comes back as a rule, but not after a while: its successor
    /// is not here.
    fn note_loss(&mut self, answer: Answer, problem: &Problem) {
        let is_lost = match answer {
            Answer::Unknown | Answer::Refused(Refusal::Revoked | Refusal::ReuseDetected) => true,
            Answer::Refused(Refusal::Superseded) => {
                let now = self.monotonic();
                let since = *self.state.superseded_since.get_or_insert(now);
                now.saturating_sub(since) >= SUPERSEDED_FOR_GOOD
            }
            _ => false,
        };
        if is_lost {
            self.state.lost = Some(Box::new(problem.clone()));
        }
    }

    /// What concerns the host, whichever of its tokens was presented.
    pub(super) async fn unless_of_host(&mut self, error: &ClientError) -> Result<(), SessionError> {
        let ClientError::Refused(problem) = error else { return Ok(()) };
        if error.is_host_deleted() {
            // An enrolment that is under way may be another host's.
            let left = Record { enrolment: self.state.kept.enrolment.clone(), ..Record::default() };
            match left.enrolment {
                Some(_) => left.save(&*self.shared.store).await?,
                None => self.shared.store.erase().await?,
            }
            if let Some(ring) = self.state.kept.ring.take() {
                let host_id = ring.facts.host_id;
                self.shared.events.send(Event::HostDeleted { host_id, problem: problem.clone() });
            }
            self.state.delivered = None;
            self.adopt(left);
            self.state.deleted = Some(problem.clone());
            return Err(SessionError::HostDeleted(problem.clone()));
        }
        if answer_of::<()>(&Err(ClientError::Refused(problem.clone()))) == Answer::Refused(Refusal::HostArchived) {
            self.shared.events.send(Event::HostArchived { problem: problem.clone() });
            self.state.gate = self.monotonic().saturating_add(refused_pause(problem, &*self.shared.entropy));
            return Err(SessionError::HostArchived(problem.clone()));
        }
        Ok(())
    }

    /// No answer that counts: nothing is asked for a while.
    pub(super) fn pause(&mut self, error: ClientError) -> SessionError {
        let entropy = Arc::clone(&self.shared.entropy);
        let retry_after = self.state.backoff.delay_after(&error, &*entropy);
        self.state.gate = self.monotonic().saturating_add(retry_after);
        SessionError::Waiting { retry_after, error: Some(error) }
    }

    /// A refusal that nothing here can do anything about.
    pub(super) fn refused(&mut self, problem: Box<Problem>) -> SessionError {
        let retry_after = refused_pause(&problem, &*self.shared.entropy);
        self.state.gate = self.monotonic().saturating_add(retry_after);
        self.shared.events.send(Event::Refused { problem: problem.clone() });
        SessionError::Refused { problem, retry_after, for_good: self.state.is_lost() }
    }

    /// A change that work need not wait for was not kept.
    pub(super) fn not_in_the_way(&mut self, error: SessionError) -> SessionError {
        match error {
            SessionError::NotKept { error, .. } => {
                self.state.gate = Duration::ZERO;
                SessionError::NotKept { error, retry_after: Duration::ZERO }
            }
            error => error,
        }
    }

    async fn keep_ring(&mut self, ring: Ring) -> Result<(), SessionError> {
        let kept = Kept { ring: Some(ring), ..self.state.kept.clone() };
        self.keep(kept).await
    }

    /// Makes a change durable, and only then takes it over.
    pub(super) async fn keep(&mut self, kept: Kept) -> Result<(), SessionError> {
        let document = kept.record().to_json();
        let hash = document.hash();
        if self.state.saved != Some(hash) {
            // Until it is known what came of it.
            self.state.saved = None;
            if let Err(error) = self.shared.store.save(&document).await {
                let entropy = Arc::clone(&self.shared.entropy);
                let retry_after = self.state.backoff.next_delay(&*entropy);
                self.state.gate = self.monotonic().saturating_add(retry_after);
                return Err(SessionError::NotKept { error, retry_after });
            }
            self.state.saved = Some(hash);
        }
        self.shared.set_host(kept.ring.as_ref().map(|ring| ring.facts.host_id));
        self.state.kept = kept;
        Ok(())
    }

    /// Reads what is stored again, if somebody else may have changed it.
    async fn reread(&mut self) -> Result<(), SessionError> {
        if self.state.stale {
            let record = Record::load(&*self.shared.store).await?;
            self.adopt(record);
        }
        Ok(())
    }

    /// Begins with what is stored now.
    pub(super) fn adopt(&mut self, record: Record) {
        let (now, entropy) = (self.monotonic(), Arc::clone(&self.shared.entropy));
        self.shared.set_host(record.installed.as_ref().map(|credential| credential.host_id()));
        self.state.begin(record, now, &*entropy);
    }

    pub(super) fn monotonic(&self) -> Duration {
        self.shared.clock.monotonic()
    }
}

/// Presents an agent token, and nothing else. A server that takes no refresh token there sells an access token for it,
/// which proves as much.
pub(super) async fn introduce(client: &Client, token: &AgentToken) -> Result<AgentSelf, ClientError> {
    match client.who_am_i(token).await {
        Err(error) if asks_for_refresh(&error) => {
            let access = client.refresh(token, None).await?;
            let who = client.who_am_i(&access).await.map_err(|error| match error {
                // Of the access token, not of the agent token.
                ClientError::Refused(problem) if problem.status == 401 => {
                    ClientError::Unexpected { status: problem.status }
                }
                error => error,
            })?;
            // The life of the access token is not the agent token's.
            let expires_at = who.expires_at.filter(|at| *at > access.expires_at());
            Ok(AgentSelf { expires_at, ..who })
        }
        result => result,
    }
}
