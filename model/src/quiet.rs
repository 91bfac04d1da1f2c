//! What comes next if the world is kind from now on: nothing is lost, nobody crashes, nobody else acts.

use enlist_agent_sdk::keyring::{Answer, Keyring};
use enlist_core::agent_token::Refusal;

use crate::config::Config;
use crate::holder::Purpose;
use crate::message::{Reply, Secret};
use crate::server::Alarms;
use crate::world::World;

/// After how many of its steps a holder has to be back in.
const MOST: usize = 16;

/// A quiet continuation of one holder.
#[derive(Debug, Clone)]
pub struct Quiet<'a> {
    world: World,
    holder: usize,
    config: &'a Config,
}

/// What a step of a holder comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Something on its own side.
    Prepared,
    /// A request and its answer.
    Asked(Purpose, Reply),
}

impl<'a> Quiet<'a> {
    /// From here on. Alarms that were raised before do not count. What an administrator has made is delivered first if
    /// there is no other way in.
    pub fn from(world: &World, holder: usize, config: &'a Config) -> Self {
        let mut world = world.clone();
        world.server.alarms = Alarms::default();
        if world.server.cut_off {
            for secret in std::mem::take(&mut world.undelivered) {
                world.holders[holder].deliver(secret, config);
            }
        }
        Self { world, holder, config }
    }

    /// The same, after the retire grace.
    #[must_use]
    pub fn after_grace(mut self) -> Self {
        for _ in 0..=self.config.pace.steps_per_grace {
            self.world.server.step(self.config.pace);
        }
        self
    }

    /// The alarms raised since.
    pub const fn alarms(&self) -> Alarms {
        self.world.server.alarms
    }

    /// One step of the holder.
    pub fn step(&mut self) -> Done {
        let config = self.config;
        let holder = &mut self.world.holders[self.holder];
        if holder.has_to_save(config) {
            holder.save(config);
            return Done::Prepared;
        }
        if holder.has_to_draw() && holder.memory.hand.is_empty() {
            holder.draw(self.holder);
            return Done::Prepared;
        }
        let Some(purpose) = holder.requests(config).first().copied() else { return Done::Prepared };
        let Some(call) = holder.call(purpose, config) else { return Done::Prepared };
        let reply = self.world.act(self.holder, call, false, config).unwrap_or(Reply::To(Answer::Unanswered));
        self.world.holders[self.holder].receive(purpose, reply, config);
        Done::Asked(purpose, reply)
    }

    /// Whether the holder's work is served before long.
    pub fn is_served(&mut self) -> bool {
        (0..MOST).any(|_| self.go() == Done::Asked(Purpose::Work, Reply::To(Answer::Accepted)))
    }

    /// A step, and a day after it where only that helps: the token in use has expired while an administrator's successor
    /// of it waits.
    fn go(&mut self) -> Done {
        let done = self.step();
        let expired = Reply::To(Answer::Refused(Refusal::Expired));
        if done == Done::Asked(Purpose::Work, expired) && self.is_held_up() {
            self.day();
        }
        done
    }

    fn day(&mut self) {
        self.world.server.day(self.config.pace);
        self.world.server.step(self.config.pace);
    }

    fn is_held_up(&self) -> bool {
        self.world.holders[self.holder].memory.keyring.as_ref().is_some_and(Keyring::is_held_up)
    }

    /// Whether the holder is served in the end with another token than now, of its own making. What holds it up may take
    /// a day.
    pub fn rotates(&mut self) -> bool {
        let before = self.current();
        for _ in 0..2 * MOST {
            if self.go() == Done::Asked(Purpose::Work, Reply::To(Answer::Accepted)) {
                let current = self.current();
                if current != before && current.is_some_and(|current| !current.is_of_administrator()) {
                    return true;
                }
                if self.is_held_up() {
                    self.day();
                }
                self.world.holders[self.holder].want_rotation();
            }
        }
        false
    }

    fn current(&self) -> Option<Secret> {
        let keyring = self.world.holders[self.holder].memory.keyring.as_ref()?;
        Some(keyring.durable().current)
    }

    /// Whether an alarm is raised before the holder has sent more requests than this.
    pub fn alarms_within(&mut self, most: usize) -> bool {
        let mut asked = 0;
        for _ in 0..MOST {
            if self.alarms().any() {
                return true;
            }
            if asked == most {
                return false;
            }
            asked += usize::from(matches!(self.step(), Done::Asked(..)));
        }
        false
    }
}
