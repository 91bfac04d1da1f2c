//! A holder: a disk, a process that can die at any moment, and one request under way at a time.
//!
//! The rotation is the agent's own [`Keyring`]; the enrolment and the token delivered by hand are written down here, as
//! the rules have them.

use std::collections::BTreeSet;
use std::fmt;

use enlist_agent_sdk::keyring::{Answer, Durable, Keyring, Step};
use enlist_core::agent_token::Refusal;

use crate::config::Config;
use crate::message::{Call, Reply, Secret};
use crate::mutation::Mutation;

/// One holder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    /// What survives.
    pub disk: Disk,
    /// What does not.
    pub memory: Memory,
    /// The request under way.
    pub awaited: Option<Awaited>,
    /// How many secrets it has drawn.
    pub drawn: u8,
}

/// The document that is replaced as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Disk {
    /// The secret, or the key, of an enrolment under way.
    pub enrolment: Option<Secret>,
    /// The credential.
    pub credential: Option<Durable<Secret>>,
    /// Tokens delivered by hand that were neither accepted nor refused.
    pub hand: BTreeSet<Secret>,
    /// Whether the server has shown the successor, where it makes the secrets.
    pub shown: bool,
}

/// What a process knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Memory {
    /// As on disk.
    pub enrolment: Option<Secret>,
    /// The credential.
    pub keyring: Option<Keyring<Secret>>,
    /// As on disk.
    pub hand: BTreeSet<Secret>,
    /// As on disk.
    pub shown: bool,
    /// Whether the last proposal was not answered; kept only for [`Mutation::PresentUnanswered`].
    pub unanswered: bool,
}

/// A request under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Awaited {
    /// What for.
    pub purpose: Purpose,
    /// How many steps ago it was sent.
    pub age: u8,
    /// Answers that may come; one does, or none.
    pub replies: Vec<Reply>,
}

/// What a request is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To enrol.
    Exchange,
    /// To work with the current token.
    Work,
    /// To have the successor accepted.
    Propose,
    /// To see whether the successor is accepted.
    Present,
    /// To see whether this token, delivered by hand, is accepted.
    Hand(Secret),
}

impl Memory {
    /// What a start finds.
    pub fn load(disk: &Disk) -> Self {
        let Disk { enrolment, credential, hand, shown } = disk.clone();
        Self { enrolment, keyring: credential.map(Keyring::new), hand, shown, unanswered: false }
    }

    fn to_disk(&self) -> Disk {
        let credential = self.keyring.as_ref().map(|keyring| keyring.durable().clone());
        Disk { enrolment: self.enrolment, credential, hand: self.hand.clone(), shown: self.shown }
    }
}

impl Holder {
    /// A machine with this disk.
    pub fn with(disk: Disk) -> Self {
        Self { memory: Memory::load(&disk), disk, awaited: None, drawn: 0 }
    }

    /// A machine with this credential.
    pub fn enrolled(secret: Secret) -> Self {
        let credential = Some(Keyring::of(secret).durable().clone());
        Self { drawn: 1, ..Self::with(Disk { credential, ..Disk::default() }) }
    }

    /// Whether there is something to save before the next request.
    pub fn has_to_save(&self, config: &Config) -> bool {
        let mut disk = self.memory.to_disk();
        if config.lacks(Mutation::HandKept) {
            disk.hand.clone_from(&self.disk.hand);
        }
        if let (Some(credential), Some(saved)) = (&mut disk.credential, &self.disk.credential) {
            match (&mut credential.successor, &saved.successor) {
                (Some(successor), Some(saved)) if config.lacks(Mutation::MarkKept) => successor.refused = saved.refused,
                (successor, None) if config.lacks(Mutation::ProposeUnsaved) => *successor = None,
                _ => {}
            }
        }
        disk != self.disk
    }

    /// Makes what the process knows durable.
    pub fn save(&mut self, config: &Config) {
        let hand = if config.lacks(Mutation::HandKept) { &self.disk.hand } else { &self.memory.hand };
        self.disk = Disk { hand: hand.clone(), ..self.memory.to_disk() };
    }

    /// A token is delivered by hand. It stands beside those that were delivered before and not answered: one of them may
    /// have been accepted.
    pub fn deliver(&mut self, token: Secret, config: &Config) {
        for hand in [&mut self.disk.hand, &mut self.memory.hand] {
            if config.lacks(Mutation::HandReplaced) {
                hand.clear();
            }
            hand.insert(token);
        }
    }

    /// Whether the next thing is to draw a secret.
    pub fn has_to_draw(&self) -> bool {
        match &self.memory.keyring {
            None => self.memory.enrolment.is_none(),
            Some(keyring) => matches!(keyring.step(), Step::Draw),
        }
    }

    /// Draws one.
    pub fn draw(&mut self, holder: usize) {
        self.drawn += 1;
        let secret = Secret::of_holder(holder, self.drawn);
        match &mut self.memory.keyring {
            None => self.memory.enrolment = Some(secret),
            Some(keyring) => {
                keyring.draw(secret);
                self.memory.shown = false;
            }
        }
        self.memory.unanswered = false;
    }

    /// Whether a rotation that is wanted now would change what it does.
    pub fn can_want_rotation(&self) -> bool {
        let Some(keyring) = &self.memory.keyring else { return false };
        let mut wanted = keyring.clone();
        wanted.rotate();
        wanted.step() != keyring.step()
    }

    /// A rotation is wanted.
    pub fn want_rotation(&mut self) {
        if let Some(keyring) = &mut self.memory.keyring {
            keyring.rotate();
        }
    }

    /// What it may send now. Nothing while a request is under way or something has to be saved.
    pub fn requests(&self, config: &Config) -> Vec<Purpose> {
        if self.awaited.is_some() || self.has_to_save(config) {
            return Vec::new();
        }
        let Some(keyring) = &self.memory.keyring else {
            return self.memory.enrolment.map(|_| Purpose::Exchange).into_iter().collect();
        };
        let mut requests: Vec<_> = self.memory.hand.iter().copied().map(Purpose::Hand).collect();
        let is_shown = self.memory.shown || !config.cast.is_server_made();
        match keyring.step() {
            Step::Draw => {}
            Step::Work(_) => requests.push(Purpose::Work),
            Step::Propose { .. } => {
                requests.push(Purpose::Propose);
                if config.lacks(Mutation::WorkBesideSuccessor) {
                    requests.push(Purpose::Work);
                }
                if config.lacks(Mutation::PresentUnanswered) && self.memory.unanswered {
                    requests.push(Purpose::Present);
                }
            }
            Step::Present(_) if is_shown => requests.push(Purpose::Present),
            // It does not have the secret yet: the repeated proposal brings it.
            Step::Present(_) => requests.push(Purpose::Propose),
        }
        requests
    }

    /// The call for this purpose.
    pub fn call(&self, purpose: Purpose, config: &Config) -> Option<Call> {
        if let (Purpose::Exchange, Some(secret)) = (purpose, self.memory.enrolment) {
            let by_key = config.cast.is_server_made();
            return Some(if by_key { Call::ExchangeByKey(secret) } else { Call::Exchange(secret) });
        }
        let Durable { current, successor } = self.memory.keyring.as_ref()?.durable();
        let successor = successor.as_ref().map(|successor| successor.token);
        match purpose {
            Purpose::Exchange => None,
            Purpose::Work => Some(Call::Serve(*current)),
            Purpose::Hand(token) => Some(Call::Serve(token)),
            Purpose::Propose => Some(Call::Propose(*current, successor?)),
            Purpose::Present => Some(Call::Serve(successor?)),
        }
    }

    /// An answer comes.
    pub fn receive(&mut self, purpose: Purpose, reply: Reply, config: &Config) {
        match (purpose, reply) {
            (Purpose::Exchange, Reply::Bought(secret)) => {
                let Some(token) = secret.or(self.memory.enrolment) else { return };
                self.memory.enrolment = None;
                self.memory.keyring = Some(Keyring::of(token));
            }
            (Purpose::Exchange, Reply::ClaimInUse) => self.memory.enrolment = None,
            (_, Reply::To(answer)) => self.answered(purpose, answer, config),
            _ => {}
        }
    }

    /// No answer comes.
    pub fn give_up(&mut self, config: &Config) {
        if let Some(Awaited { purpose, .. }) = self.awaited.take() {
            self.answered(purpose, Answer::Unanswered, config);
        }
    }

    /// The process dies and starts again.
    pub fn crash(&mut self) {
        self.memory = Memory::load(&self.disk);
        self.awaited = None;
    }

    fn answered(&mut self, purpose: Purpose, answer: Answer, config: &Config) {
        let Memory { keyring: Some(keyring), hand, shown, unanswered, .. } = &mut self.memory else { return };
        *unanswered = false;
        match purpose {
            Purpose::Exchange => {}
            Purpose::Work => keyring.worked(answer),
            Purpose::Propose => {
                keyring.proposed(answer);
                *shown = config.cast.is_server_made() && (*shown || answer == Answer::Accepted);
                *unanswered = config.lacks(Mutation::PresentUnanswered) && answer == Answer::Unanswered;
                if config.lacks(Mutation::DropEarly) && matches!(answer, Answer::Accepted | Answer::Unanswered) {
                    keyring.presented(Answer::Accepted);
                }
            }
            Purpose::Present => {
                keyring.presented(answer);
                *shown &= keyring.durable().successor.is_some();
            }
            // It takes the place of everything once it is accepted, and is dropped when it is refused; both are noted in
            // the same save.
            Purpose::Hand(token) => match answer {
                Answer::Unanswered | Answer::Refused(Refusal::HostArchived) => {}
                Answer::Accepted | Answer::Refused(_) | Answer::Unknown => {
                    if answer == Answer::Accepted {
                        *keyring = Keyring::of(token);
                        *shown = false;
                    }
                    hand.remove(&token);
                }
            },
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(secret) = self.enrolment {
            write!(f, "enrolling with {secret}")?;
        }
        if let Some(credential) = &self.credential {
            write!(f, "{}", credential.current)?;
            if let Some(successor) = &credential.successor {
                write!(f, ", then {}{}", successor.token, if successor.refused { " (refused)" } else { "" })?;
            }
        }
        for token in &self.hand {
            write!(f, ", by hand {token}")?;
        }
        Ok(())
    }
}
