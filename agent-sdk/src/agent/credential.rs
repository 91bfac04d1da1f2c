//! What an agent does when there is no credential to work with.

use std::sync::Arc;

use super::Outcome;
use super::work::{Next, Work};
use crate::backoff::Backoff;
use crate::credential::Credential;
use crate::enrolment::Enrolment;
use crate::error::{EnrolError, RunError, SessionError};
use crate::event::Event;
use crate::install_token::InstallToken;

impl Work {
    /// The session gives no permit, or its credential was refused.
    pub(super) async fn held_up(&mut self, error: SessionError) -> Result<Next, RunError> {
        match error {
            SessionError::NotEnrolled => {
                let install_token = self.install_token.take().ok_or(RunError::NotEnrolled)?;
                let enrolled = self.enrol(&install_token).await;
                self.install_token = Some(install_token);
                enrolled.map(|()| Next::Again).map_err(RunError::from)
            }
            SessionError::Waiting { retry_after, error } => {
                if let Some(error) = error {
                    self.unanswered(error);
                }
                Ok(Next::Wait(retry_after))
            }
            SessionError::Refused { retry_after, for_good, .. } => {
                self.reached();
                match self.install_token.take() {
                    Some(token) if for_good && self.session.was_not_bought_with(&token).await => {
                        let (next, token) = self.enrol_anew(token, retry_after).await?;
                        self.install_token = token;
                        Ok(next)
                    }
                    kept => {
                        self.install_token = kept;
                        Ok(Next::Wait(retry_after))
                    }
                }
            }
            SessionError::NotKept { error, retry_after } => {
                self.events.send(Event::CredentialNotKept { error });
                Ok(if retry_after.is_zero() { Next::Again } else { Next::Wait(retry_after) })
            }
            SessionError::HostArchived(problem) => {
                self.reached();
                self.lease_holder.end();
                Ok(Next::Stop(Outcome::HostArchived(problem)))
            }
            SessionError::HostDeleted(problem) => {
                self.reached();
                self.lease_holder.end();
                Ok(Next::Stop(Outcome::HostDeleted(problem)))
            }
            SessionError::Credential(error) => {
                self.lease_holder.end();
                Err(error.into())
            }
        }
    }

    /// Attempts until there is an answer that counts.
    async fn enrol(&mut self, install_token: &InstallToken) -> Result<(), EnrolError> {
        let enrolment = self.enrolment().await;
        let mut backoff = Backoff::enrolment();
        loop {
            match self.session.enrol(&enrolment, install_token, false).await {
                Ok(credential) => {
                    self.enrolled(&credential);
                    return Ok(());
                }
                Err(EnrolError::Unanswered(error)) => {
                    let delay = backoff.delay_after(&error, &*self.entropy);
                    self.unanswered(error);
                    self.timer.sleep(delay).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The server has refused the installed credential for good, and the install token is another than the one that
    /// bought it: one attempt. Gives the token back unless the server refuses it as well.
    async fn enrol_anew(
        &mut self,
        install_token: InstallToken,
        retry_after: std::time::Duration,
    ) -> Result<(Next, Option<InstallToken>), RunError> {
        let enrolment = self.enrolment().await;
        match self.session.enrol(&enrolment, &install_token, true).await {
            Ok(credential) => {
                self.enrolled(&credential);
                Ok((Next::Again, Some(install_token)))
            }
            Err(EnrolError::Unanswered(error)) => {
                self.unanswered(error);
                Ok((Next::Wait(retry_after), Some(install_token)))
            }
            Err(EnrolError::Refused(problem)) => {
                self.events.send(Event::Refused { problem });
                Ok((Next::Wait(retry_after), None))
            }
            Err(EnrolError::Credential(error)) => {
                self.events.send(Event::CredentialNotKept { error });
                Ok((Next::Wait(retry_after), Some(install_token)))
            }
        }
    }

    async fn enrolment(&mut self) -> Enrolment {
        let facts = self.collect().await.facts;
        let enrolment = Enrolment::new(self.client.clone(), Arc::clone(&self.store))
            .entropy(Arc::clone(&self.entropy))
            .facts(facts);
        match &self.proposed_host {
            Some(host) => enrolment.host(host.clone()),
            None => enrolment,
        }
    }

    fn enrolled(&mut self, credential: &Credential) {
        self.reached();
        let (host_id, token_id) = (credential.host_id(), credential.token_id());
        self.events.send(Event::Enrolled { host_id, tenant_id: credential.tenant_id().clone() });
        self.events.send(Event::CredentialChanged { host_id, token_id });
    }
}
