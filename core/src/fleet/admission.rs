//! Leave to send: what a host is held to before anything of its request is read.

use crate::clock::Timestamp;
use crate::fleet::authenticate::Held;
use crate::fleet::catch_up::CatchUp;
use crate::fleet::error::{RateLimited, ReportError};
use crate::fleet::gauge::{Claim, Lane};
use crate::fleet::telemetry::Live;
use crate::fleet::{Agent, Inner};

impl<'a> Agent<'a> {
    /// Leave for one live report or heartbeat. Ask for it before the body is read.
    ///
    /// # Errors
    /// When the token has sent its share for now. That is no contact, and nothing was written.
    pub fn live(self) -> Result<Live<'a>, RateLimited> {
        self.fleet.agents.live.count(&self.identity.token_id())?;
        Ok(Live { agent: self })
    }

    /// Leave for one batch. Ask for it before the body is read.
    ///
    /// # Errors
    /// As [`Agent::live`], by a share of its own: catching up costs no live report, and the reverse.
    pub fn catch_up(self) -> Result<CatchUp<'a>, RateLimited> {
        self.fleet.agents.batches.count(&self.identity.token_id())?;
        Ok(CatchUp { agent: self })
    }

    /// Notes that the host has proved its credential.
    pub(super) fn contact(self) {
        self.fleet.contacts.note(self.identity.host_id(), self.identity.token_id(), self.fleet.now());
    }

    pub(super) fn body_room(self, lane: Lane) -> BodyRoom {
        BodyRoom(self.fleet.bodies.claim(lane))
    }
}

impl Inner {
    /// Counts a proposal or refresh. Those of a credential that is refused whatever it asks for do not count: whoever holds
    /// a copy of a dead one must not keep the host's agent from rotating.
    pub(super) fn admit_rotation(&self, Held { host, token, .. }: &Held, now: Timestamp) -> Result<(), RateLimited> {
        match !host.is_archived() && token.is_live() && !token.is_expired_for_good(now) {
            true => self.agents.rotations.count(&host.id),
            false => Ok(()),
        }
    }
}

/// Room for a body in memory: within a bound over all bodies that can become large, which are those of batches and those
/// that inflate. Given back when it is dropped.
///
/// For HTTP adapters: grow it before each piece is kept, and drop it with the body.
#[derive(Debug)]
pub struct BodyRoom(Claim);

impl BodyRoom {
    /// Takes room for `bytes` more.
    ///
    /// # Errors
    /// [`ReportError::Overloaded`] when too much is held already.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ReportError> {
        if self.0.grow(bytes) { Ok(()) } else { Err(ReportError::Overloaded) }
    }
}
