//! An agent token that a person delivers: tried beside what is installed, and used only once the server has accepted it.

use std::sync::Arc;
use std::time::Duration;

use super::state::{Kept, Ring};
use super::turn::{Turn, introduce};
use crate::error::{ClientError, SessionError};
use crate::event::Event;

/// After this long the token is tried again whose acceptance or refusal could not be kept.
const DECIDE_AGAIN: Duration = Duration::from_secs(60);

impl Turn {
    /// Tries the delivered token, if there is one that was not decided upon. What is installed goes on meanwhile.
    pub(super) async fn try_delivered(&mut self) -> Result<(), SessionError> {
        // One that was tried before comes first: it may have been accepted, and have retired what is installed.
        let Some(token) = self.state.kept.trying.clone().or_else(|| self.state.delivered.clone()) else {
            return Ok(());
        };
        if self.monotonic() < self.state.delivery_after {
            return self.wait_for_delivered(None);
        }
        if self.state.kept.trying.is_none() {
            self.keep_deciding(Kept { trying: Some(Arc::clone(&token)), ..self.state.kept.clone() }).await?;
        }
        let decided = Kept { trying: None, delivered: Some(token.hash()), ..self.state.kept.clone() };
        match introduce(&self.shared.client, &token).await {
            Ok(who) => {
                let installed = decided.ring.as_ref().map(|ring| &ring.facts);
                if installed.is_some_and(|facts| facts.host_id != who.host_id) {
                    tracing::warn!(host_id = %who.host_id, "the agent token that was delivered is another host's");
                    self.decide(decided).await?;
                    self.shared.events.send(Event::AgentTokenOfAnotherHost { host_id: who.host_id });
                    return Ok(());
                }
                let (host_id, token_id) = (who.host_id, who.token_id);
                // What enrolled the host is spent, whatever it works with now.
                let spent = installed.map(|facts| facts.spent.clone()).unwrap_or_default();
                let ring = Ring::introduced(token, who, spent, self.shared.clock.now());
                self.decide(Kept { ring: Some(ring), ..decided }).await?;
                let (now, entropy) = (self.monotonic(), Arc::clone(&self.shared.entropy));
                self.state.shifted(now, &*entropy);
                self.state.access = None;
                self.shared.events.send(Event::CredentialChanged { host_id, token_id });
                Ok(())
            }
            // Also 410: it is this token that the server knows a deleted host by, not the one that is installed.
            Err(ClientError::Refused(problem)) if matches!(problem.status, 401 | 410) => {
                tracing::warn!(code = %problem.code, "the agent token that was delivered is refused");
                self.decide(decided).await?;
                self.shared.events.send(Event::AgentTokenRefused { problem });
                Ok(())
            }
            Err(error) => {
                let entropy = Arc::clone(&self.shared.entropy);
                let delay = self.state.delivery_backoff.delay_after(&error, &*entropy);
                self.state.delivery_after = self.monotonic().saturating_add(delay);
                self.wait_for_delivered(Some(error))
            }
        }
    }

    /// Without a credential there is nothing else to do.
    fn wait_for_delivered(&self, error: Option<ClientError>) -> Result<(), SessionError> {
        if self.state.kept.ring.is_some() {
            return Ok(());
        }
        let retry_after = self.state.delivery_after.saturating_sub(self.monotonic());
        Err(SessionError::Waiting { retry_after, error })
    }

    /// The token is not tried again, also not after a restart.
    async fn decide(&mut self, decided: Kept) -> Result<(), SessionError> {
        let hash = decided.delivered;
        self.keep_deciding(decided).await?;
        if self.state.delivered.as_ref().map(|token| token.hash()) == hash {
            self.state.delivered = None;
        }
        Ok(())
    }

    /// Keeps what has become of the token. What is installed need not wait when that fails.
    async fn keep_deciding(&mut self, kept: Kept) -> Result<(), SessionError> {
        let is_installed = self.state.kept.ring.is_some();
        let Err(error) = self.keep(kept).await else { return Ok(()) };
        if !is_installed {
            return Err(error);
        }
        // What is installed still works.
        self.state.delivery_after = self.monotonic().saturating_add(DECIDE_AGAIN);
        Err(self.not_in_the_way(error))
    }
}
