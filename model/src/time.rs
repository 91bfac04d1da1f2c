//! Time in the model: the present stands still and what happened grows older, so that two states that differ only by when
//! they are reached are one state.

use std::time::Duration;

use enlist_core::Timestamp;
use enlist_core::agent_token::{AgentToken, AgentTokenState, PENDING_YIELDS_AFTER, RETIRE_GRACE};

/// The present. Every time in a state is this, or as long before it as the thing is old.
pub const NOW: Timestamp = match Timestamp::from_unix_micros(1_800_000_000_000_000) {
    Some(now) => now,
    None => Timestamp::MAX,
};

/// How long one step of time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How many steps the retire grace is.
    pub steps_per_grace: u8,
}

impl Pace {
    /// One step.
    pub fn unit(self) -> Duration {
        RETIRE_GRACE / u32::from(self.steps_per_grace)
    }

    /// After how many steps a client gives up waiting: half the retire grace.
    pub const fn abort(self) -> u8 {
        self.steps_per_grace / 2
    }

    /// One step later. Ages beyond which nothing changes any more are not told apart. A pending token grows old only by
    /// [`Pace::day`], and over its last step: in between, nothing depends on its age.
    pub fn step(self, token: AgentToken) -> AgentToken {
        let beyond_grace = RETIRE_GRACE + self.unit();
        match token.state {
            AgentTokenState::Retired { at, successor, by } => {
                let at = before((age(at) + self.unit()).min(beyond_grace));
                AgentToken { state: AgentTokenState::Retired { at, successor, by }, ..token }
            }
            AgentTokenState::Pending if token.created_at < NOW => {
                let created_at = before((age(token.created_at) + self.unit()).min(PENDING_YIELDS_AFTER));
                AgentToken { created_at, ..token }
            }
            _ => token,
        }
    }

    /// A day later, but for one step: so that the next step, with whatever is under way by then, is the one that makes a
    /// pending token yield.
    pub fn day(self, token: AgentToken) -> AgentToken {
        match token.state {
            AgentTokenState::Retired { successor, by, .. } => {
                let at = before(RETIRE_GRACE + self.unit());
                AgentToken { state: AgentTokenState::Retired { at, successor, by }, ..token }
            }
            AgentTokenState::Pending => {
                let created_at = token.created_at.min(before(PENDING_YIELDS_AFTER - self.unit()));
                AgentToken { created_at, ..token }
            }
            _ => token,
        }
    }
}

/// Times that no row of the tables reads are forgotten: when a token became Active, was displaced or was revoked, and
/// when one that is not Pending any more was made.
pub fn forget(token: AgentToken) -> AgentToken {
    let created_at = if matches!(token.state, AgentTokenState::Pending) { token.created_at } else { NOW };
    AgentToken { created_at, ..token }
}

/// How long ago.
pub fn age(at: Timestamp) -> Duration {
    NOW.saturating_since(at)
}

fn before(age: Duration) -> Timestamp {
    NOW.saturating_sub(age)
}
