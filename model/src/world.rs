//! The states of the model and what leads from one to the next.

use std::collections::BTreeSet;
use std::fmt;

use enlist_agent_sdk::keyring::Answer;
use enlist_core::agent_token::AgentTokenState;
use enlist_core::lineage::Overlap;
use stateright::{Model, Property};

use crate::config::{Cast, Config};
use crate::holder::{Awaited, Disk, Holder, Purpose};
use crate::message::{Call, Message, Reply, Secret};
use crate::mutation::Mutation;
use crate::property;
use crate::server::Server;

/// The protocol, searched as a configuration says.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// What is searched.
    pub config: Config,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The server.
    pub server: Server,
    /// The holder, and the one with its copy.
    pub holders: Vec<Holder>,
    /// Requests under way, in order and each once: it makes no difference how often one is under way.
    pub network: Vec<Message>,
    /// Tokens that an administrator has made and nobody has delivered yet.
    pub undelivered: Vec<Secret>,
    /// How often the administrator has acted.
    pub acts: u8,
    /// The secrets that were copied with the disk.
    pub shared: BTreeSet<Secret>,
    /// Who completed a rotation first, with a secret that the other does not have.
    pub winner: Option<usize>,
    /// Whether the other one was served after that.
    pub loser_served: bool,
    /// The claim, or the key, that bought the credential.
    pub bought: Option<Secret>,
    /// Whether another one did, too.
    pub bought_twice: bool,
    /// Whether the server has shown a secret that was in use.
    pub shown_in_use: bool,
}

/// What can happen. Holders are named by their number, requests under way by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A holder draws a secret.
    Draw(usize),
    /// A holder's disk takes what its process knows.
    Save(usize),
    /// A holder wants a rotation.
    WantRotation(usize),
    /// A holder sends a request.
    Send(usize, Purpose),
    /// A holder receives an answer.
    Receive(usize, Reply),
    /// A holder waits no longer, or its connection breaks.
    GiveUp(usize),
    /// A holder's process dies and starts again.
    Crash(usize),
    /// A request arrives. It stays under way: it may arrive again.
    Arrive(Message),
    /// A request arrives, and the server dies between its first commit and the second.
    ArriveHalfway(Message),
    /// A request is lost. The server dying before its first commit comes to the same.
    Lose(Message),
    /// Time passes.
    Step,
    /// A day passes, but for a step.
    Day,
    /// An administrator rotates.
    Rotate(Overlap),
    /// A token is delivered by hand.
    Deliver(Secret),
    /// A token's time is over.
    Expire(Secret),
    /// Somebody copies the disk.
    Copy,
}

impl World {
    /// How it begins.
    pub fn new(config: &Config) -> Self {
        let mut server = Server::new();
        let holder = match config.cast {
            Cast::Holder | Cast::CopiedEarly | Cast::ServerMade | Cast::ServerMadeCopied => {
                Holder::with(Disk::default())
            }
            Cast::Administrator | Cast::Copied => {
                let secret = Secret::of_holder(0, 1);
                server.answer(Call::Exchange(secret), false, config);
                Holder::enrolled(secret)
            }
        };
        Self {
            server,
            holders: vec![holder],
            network: Vec::new(),
            undelivered: Vec::new(),
            acts: 0,
            shared: BTreeSet::new(),
            winner: None,
            loser_served: false,
            bought: None,
            bought_twice: false,
            shown_in_use: false,
        }
    }

    /// Whether nothing is under way. Properties of what comes next are asked here only: requests can be lost and given
    /// up in every state, so that each state has one like this that differs in nothing else.
    pub fn is_quiet(&self) -> bool {
        self.network.is_empty() && self.holders.iter().all(|holder| holder.awaited.is_none())
    }

    /// The server acts on a call of this holder.
    pub fn act(&mut self, from: usize, call: Call, halfway: bool, config: &Config) -> Option<Reply> {
        let (reply, effect) = self.server.answer(call, halfway, config);
        if let (Call::Exchange(claim) | Call::ExchangeByKey(claim), Some(Reply::Bought(shown))) = (call, reply) {
            self.bought_twice |= *self.bought.get_or_insert(claim) != claim;
            let token = shown.and_then(|secret| self.server.token(secret));
            self.shown_in_use |= token.is_some_and(|token| !matches!(token.state, AgentTokenState::Pending));
        }
        let is_copied = self.holders.len() > 1;
        if self.winner.is_some_and(|winner| winner != from) {
            let is_served = matches!(call, Call::Serve(_)) && reply == Some(Reply::To(Answer::Accepted));
            self.loser_served |= is_served || effect.accepted;
        }
        if let Some(completed) = effect.completed
            && is_copied
            && completed.is_of(from)
            && !self.shared.contains(&completed)
        {
            self.winner.get_or_insert(from);
        }
        reply
    }

    fn arrive(&mut self, message: &Message, halfway: bool, config: &Config) {
        let Some(reply) = self.act(message.from, message.call, halfway, config) else { return };
        if let (true, Some(awaited)) = (message.awaited, &mut self.holders[message.from].awaited)
            && !awaited.replies.contains(&reply)
        {
            awaited.replies.push(reply);
            awaited.replies.sort_by_key(|reply| format!("{reply:?}"));
        }
    }

    fn send(&mut self, from: usize, purpose: Purpose, config: &Config) -> Option<()> {
        let call = self.holders[from].call(purpose, config)?;
        self.holders[from].awaited = Some(Awaited { purpose, age: 0, replies: Vec::new() });
        self.network.push(Message { from, call, age: 0, awaited: true });
        self.tidy();
        Some(())
    }

    /// Nobody waits for what this holder has sent.
    fn forsake(&mut self, from: usize) {
        for message in self.network.iter_mut().filter(|message| message.from == from) {
            message.awaited = false;
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        self.network.sort_unstable();
        self.network.dedup();
    }

    fn step(&mut self, config: &Config) {
        self.server.step(config.pace);
        let last = config.pace.steps_per_grace + 1;
        for message in &mut self.network {
            message.age = (message.age + 1).min(last);
        }
        if !config.lacks(Mutation::LateMessages) {
            self.network.retain(|message| message.age <= config.latest);
        }
        self.tidy();
        for awaited in self.holders.iter_mut().filter_map(|holder| holder.awaited.as_mut()) {
            awaited.age += 1;
        }
    }

    fn copy(&mut self) {
        let disk = self.holders[0].disk.clone();
        self.shared.extend(disk.enrolment);
        if let Some(credential) = &disk.credential {
            self.shared.insert(credential.current);
            self.shared.extend(credential.successor.as_ref().map(|successor| successor.token));
        }
        self.holders.push(Holder { drawn: u8::from(disk.credential.is_some()), ..Holder::with(disk) });
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.config)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let config = &self.config;
        for (i, holder) in world.holders.iter().enumerate() {
            let is_idle = holder.awaited.is_none();
            let can_draw = holder.drawn < config.secrets;
            if is_idle && holder.has_to_save(config) {
                actions.push(Action::Save(i));
            } else if is_idle && holder.has_to_draw() && can_draw {
                actions.push(Action::Draw(i));
            }
            let draws = holder.memory.keyring.as_ref().is_some_and(|keyring| keyring.durable().successor.is_none());
            if is_idle && holder.can_want_rotation() && (!draws || can_draw) {
                actions.push(Action::WantRotation(i));
            }
            if world.network.len() < config.in_flight {
                actions.extend(holder.requests(config).into_iter().map(|purpose| Action::Send(i, purpose)));
            }
            if let Some(awaited) = &holder.awaited {
                actions.extend(awaited.replies.iter().map(|reply| Action::Receive(i, *reply)));
                actions.push(Action::GiveUp(i));
            }
            actions.push(Action::Crash(i));
        }
        for message in &world.network {
            actions.push(Action::Arrive(*message));
            actions.push(Action::Lose(*message));
            if let Call::Propose(token, _) = message.call
                && world.server.token(token).is_some_and(|token| matches!(token.state, AgentTokenState::Pending))
            {
                actions.push(Action::ArriveHalfway(*message));
            }
        }
        let abort = config.pace.abort();
        if world.holders.iter().all(|holder| holder.awaited.as_ref().is_none_or(|awaited| awaited.age < abort)) {
            actions.push(Action::Step);
        }
        if world.is_quiet() {
            actions.push(Action::Day);
        }
        if world.acts < config.acts {
            actions.push(Action::Rotate(Overlap::UntilFirstUse));
            if config.cuts_off {
                actions.push(Action::Rotate(Overlap::None));
            }
        }
        actions.extend(world.undelivered.iter().copied().map(Action::Deliver));
        if config.expires {
            actions.extend(world.server.expiring().map(Action::Expire));
        }
        if config.cast.is_copied() && world.holders.len() == 1 {
            actions.push(Action::Copy);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let config = &self.config;
        let mut world = last.clone();
        match action {
            Action::Draw(i) => world.holders[i].draw(i),
            Action::Save(i) => world.holders[i].save(config),
            Action::WantRotation(i) => world.holders[i].want_rotation(),
            Action::Send(i, purpose) => world.send(i, purpose, config)?,
            Action::Receive(i, reply) => {
                let awaited = world.holders[i].awaited.take()?;
                world.holders[i].receive(awaited.purpose, reply, config);
                world.forsake(i);
            }
            Action::GiveUp(i) => {
                world.holders[i].give_up(config);
                world.forsake(i);
            }
            Action::Crash(i) => {
                world.holders[i].crash();
                world.forsake(i);
            }
            Action::Arrive(message) => world.arrive(&message, false, config),
            Action::ArriveHalfway(message) => world.arrive(&message, true, config),
            Action::Lose(message) => world.network.retain(|other| *other != message),
            Action::Step => world.step(config),
            Action::Day => world.server.day(config.pace),
            Action::Rotate(overlap) => {
                world.acts += 1;
                let secret = Secret::of_administrator(world.acts);
                world.server.rotate(secret, overlap)?;
                world.undelivered.push(secret);
            }
            Action::Deliver(secret) => {
                world.undelivered.retain(|other| *other != secret);
                world.holders[0].deliver(secret, config);
            }
            Action::Expire(secret) => world.server.expire(secret),
            Action::Copy => world.copy(),
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        property::of(&self.config)
    }

    fn format_action(&self, action: &Action) -> String {
        action.to_string()
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |holder: &usize| if *holder == 0 { "the holder" } else { "the copy" };
        match self {
            Self::Draw(i) => write!(f, "{} draws a secret", name(i)),
            Self::Save(i) => write!(f, "{} saves", name(i)),
            Self::WantRotation(i) => write!(f, "{} wants a rotation", name(i)),
            Self::Send(i, Purpose::Hand(token)) => write!(f, "{} sends: tries {token}, delivered by hand", name(i)),
            Self::Send(i, purpose) => write!(f, "{} sends: {purpose:?}", name(i)),
            Self::Receive(i, Reply::Bought(Some(secret))) => write!(f, "{} receives: Bought({secret})", name(i)),
            Self::Receive(i, reply) => write!(f, "{} receives: {reply:?}", name(i)),
            Self::GiveUp(i) => write!(f, "{} waits no longer", name(i)),
            Self::Crash(i) => write!(f, "{} crashes and starts again", name(i)),
            Self::Arrive(message) => write!(f, "the server acts on {message}"),
            Self::ArriveHalfway(message) => write!(f, "the server dies in the middle of {message}"),
            Self::Lose(message) => write!(f, "lost: {message}"),
            Self::Step => write!(f, "a step of time passes"),
            Self::Day => write!(f, "a day passes, but for a step"),
            Self::Rotate(Overlap::UntilFirstUse) => write!(f, "the administrator rotates, with an overlap"),
            Self::Rotate(Overlap::None) => write!(f, "the administrator rotates and cuts off"),
            Self::Deliver(token) => write!(f, "{token} is delivered by hand"),
            Self::Expire(token) => write!(f, "{token} expires"),
            Self::Copy => write!(f, "the disk is copied"),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.from == 0 { "the holder's" } else { "the copy's" };
        let late = if self.awaited { "" } else { ", given up" };
        write!(f, "{whose} {} (age {}{late})", self.call, self.age)
    }
}
