//! Alarms: events that say that somebody else may hold a secret. At most once an hour a token, with a count of what they
//! stand for, so that neither a thief nor a broken script can fill the store.
//!
//! The hour is counted in this process: a fleet of several servers may raise an alarm in each of them.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::agent_token::{AgentToken, RevokeReason};
use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent};
use crate::fleet::Inner;
use crate::fleet::authenticate::{CutOff, Held};
use crate::fleet::error::AuthenticateError;
use crate::id::{AgentTokenId, InstallTokenId};
use crate::lineage::Lineage;
use crate::store::{Commit, Expected, HostWrite, StoreErrorKind};

/// What happens to a lineage of which a retired token is presented again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReusePolicy {
    /// The token is refused and an event says so. Whoever completed the rotation goes on: a copied disk image does not stop
    /// the host that it was copied from.
    #[default]
    Report,
    /// Besides, every live token of the lineage is revoked: whichever of the two is the thief, neither is served until the
    /// host enrols anew.
    RevokeLineage,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A consumed install token was presented with another claim.
    Contested(InstallTokenId),
    /// A second successor of this token was proposed.
    Conflict(AgentTokenId),
    /// This token was presented after its agent had retired it.
    Reuse(AgentTokenId),
}

impl Inner {
    /// Raises an alarm in an event of its own. The refusal that it belongs to stands whether or not this can be written.
    pub(super) async fn raise(&self, subject: Subject, now: Timestamp, event: impl FnOnce(u64) -> NewEvent) {
        let Some(alarm) = self.alarms.raise(subject, now) else { return };
        let events = vec![event(alarm.attempts)];
        match self.store.commit(Commit { writes: Vec::new(), events }).await {
            Ok(_) => alarm.written(),
            Err(error) => tracing::warn!(error = &error as &dyn Error, ?subject, "an alarm was not written yet"),
        }
    }

    /// A token that its own agent had retired was presented after the grace. The refusal stands whatever comes of this.
    ///
    /// When the alarm is not due, it was written within the hour, and what the policy asks for with it: a lineage that was
    /// revoked stays so.
    pub(super) async fn reuse_detected(&self, token: &AgentToken, now: Timestamp) {
        let Some(alarm) = self.alarms.raise(Subject::Reuse(token.id), now) else { return };
        match self.answer_reuse(token, alarm.attempts, now).await {
            Ok(()) => alarm.written(),
            Err(error) => {
                let token_id = token.id;
                tracing::error!(error = &error as &dyn Error, %token_id, "reuse of a credential not answered yet");
            }
        }
    }

    /// The event, and what the policy asks for, in one commit.
    async fn answer_reuse(&self, token: &AgentToken, attempts: u64, now: Timestamp) -> Result<(), AuthenticateError> {
        for _ in 0..Self::ATTEMPTS {
            let Held { revision, host, agent_tokens, .. } = self.held(&token.hash).await?;
            let reason = RevokeReason::ReuseDetected;
            let revoked = match self.reuse_policy {
                ReusePolicy::Report => Vec::new(),
                ReusePolicy::RevokeLineage => Lineage::among(agent_tokens, token.lineage_id).revoke(reason, now),
            };
            let alarm =
                EventBody::AgentTokenReuseDetected { agent_token_id: token.id, lineage_id: token.lineage_id, attempts };
            let revocations =
                revoked.iter().map(|token| EventBody::AgentTokenRevoked { agent_token_id: token.id, reason });
            let bodies = [alarm].into_iter().chain(revocations);
            let events = bodies.map(|body| self.host_event(&host, None, now, body)).collect();
            let _cut_off = CutOff::of(self, &revoked);
            let commit = if revoked.is_empty() {
                Commit { writes: Vec::new(), events }
            } else {
                let host = host.next_generation(now);
                let write = HostWrite { agent_tokens: revoked, ..HostWrite::new(Expected::Revision(revision), host) };
                Commit::of(write, events)
            };
            match self.store.commit(commit).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AuthenticateError::Store(StoreErrorKind::Unavailable.into()))
    }
}

/// Lets an alarm through once an hour, and counts those in between.
#[derive(Default)]
pub(super) struct Alarms {
    raised: Mutex<HashMap<Subject, Raised>>,
}

struct Raised {
    /// When one was last written, or is being.
    at: Timestamp,
    since: u64,
}

/// An alarm that is to be written. Dropped without [`Alarm::written`], it is raised again a minute later, at the next
/// occurrence: somebody who hangs up early can neither silence it nor, since it may have been written, multiply it.
pub(super) struct Alarm<'a> {
    alarms: &'a Alarms,
    subject: Subject,
    /// How many occurrences it stands for.
    attempts: u64,
    raised_at: Timestamp,
    written: bool,
}

impl Alarm<'_> {
    /// It is in the store.
    fn written(mut self) {
        self.written = true;
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(raised) = self.alarms.lock().get_mut(&self.subject).filter(|_| !self.written) {
            let at = self.raised_at.saturating_add(Alarms::AGAIN).saturating_sub(Alarms::EVERY);
            *raised = Raised { at, since: raised.since + self.attempts };
        }
    }
}

impl Alarms {
    const EVERY: Duration = Duration::from_secs(60 * 60);
    /// After how long one is raised again of which it is not known whether it was written.
    const AGAIN: Duration = Duration::from_secs(60);
    /// Beyond this many tokens the quiet ones are forgotten.
    const REMEMBERED: usize = 10_000;

    /// Counts an occurrence; an alarm to be written, unless one was within the hour.
    fn raise(&self, subject: Subject, now: Timestamp) -> Option<Alarm<'_>> {
        let mut raised = self.lock();
        if raised.len() >= Self::REMEMBERED {
            raised.retain(|_, raised| now.saturating_since(raised.at) < Self::EVERY);
        }
        let known = raised.entry(subject).or_insert(Raised { at: Timestamp::MIN, since: 0 });
        if known.at > Timestamp::MIN && now.saturating_since(known.at) < Self::EVERY {
            known.since += 1;
            return None;
        }
        let attempts = known.since + 1;
        *known = Raised { at: now, since: 0 };
        Some(Alarm { alarms: self, subject, attempts, raised_at: now, written: false })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Raised>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemEntropy;

    #[test]
    fn an_alarm_that_could_not_be_written_is_raised_again_with_what_it_stood_for() {
        let at = |seconds: i64| Timestamp::from_unix_micros(seconds * 1_000_000).expect("it is a time");
        let subject = Subject::Contested(InstallTokenId::generate(at(1), &SystemEntropy));
        let alarms = Alarms::default();
        drop(alarms.raise(subject, at(100_000)).expect("the first one is raised"));
        assert!(alarms.raise(subject, at(100_059)).is_none(), "it may have been written all the same");
        let again = alarms.raise(subject, at(100_060)).expect("it is not known to be written");
        assert_eq!(again.attempts, 3);
        again.written();
        assert!(alarms.raise(subject, at(100_061)).is_none());
        assert!(alarms.raise(subject, at(103_660)).is_some());
    }
}
