//! What an agent does: enrol, measure, report, and take the server's answers for what they are.

use std::sync::Arc;
use std::time::Duration;

use enlist_core::telemetry::{AgentReport, HostReport, Report};
use enlist_core::wire::{Code, Problem, ProposedHost, ReportStatus};
use enlist_core::{Clock, Entropy, Timestamp};

use super::Outcome;
use super::pace::Pace;
use crate::backoff::{Backoff, LONGEST_RETRY_AFTER, full_jitter};
use crate::client::Client;
use crate::collector::{Collected, Collector};
use crate::credential::{Credential, CredentialStore};
use crate::enrolment::Enrolment;
use crate::error::{ClientError, EnrolError, RunError};
use crate::event::{Event, EventSender};
use crate::install_token::InstallToken;
use crate::lease::LeaseHolder;
use crate::stamp::Stamps;
use crate::timer::Timer;

/// How often a report whose fate is unknown is sent, the first time included, before a fresh one takes its place.
const MOST_SENDINGS: u32 = 3;
/// After a refusal that a person has to resolve, the agent tries again after this long, and up to as much again.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// All that a running agent holds.
pub(super) struct Work {
    pub(super) client: Client,
    pub(super) store: Arc<dyn CredentialStore>,
    pub(super) version: String,
    pub(super) proposed_host: Option<ProposedHost>,
    pub(super) collectors: Vec<Box<dyn Collector>>,
    pub(super) collect_timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) timer: Arc<dyn Timer>,
    pub(super) events: EventSender,
    pub(super) lease_holder: LeaseHolder,
    pub(super) pace: Pace,
    pub(super) backoff: Backoff,
    pub(super) stamps: Stamps,
    pub(super) dropped_total: u64,
    /// Whether the last contact failed.
    pub(super) lost: bool,
}

/// What follows a contact.
enum Next {
    Wait(Duration),
    Stop(Outcome),
}

impl Work {
    /// Attempts until there is an answer that counts.
    pub(super) async fn enrol(&mut self, install_token: &InstallToken) -> Result<Credential, EnrolError> {
        let collected = self.collect().await;
        let mut enrolment = Enrolment::new(self.client.clone(), Arc::clone(&self.store))
            .entropy(Arc::clone(&self.entropy))
            .facts(collected.facts);
        if let Some(host) = self.proposed_host.take() {
            enrolment = enrolment.host(host);
        }
        let mut backoff = Backoff::enrolment();
        loop {
            match enrolment.attempt(install_token).await {
                Ok(credential) => {
                    self.reached();
                    let (host_id, token_id) = (credential.host_id(), credential.token_id());
                    self.events.send(Event::Enrolled { host_id, tenant_id: credential.tenant_id().clone() });
                    self.events.send(Event::CredentialChanged { host_id, token_id });
                    return Ok(credential);
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

    /// Reports and waits, by turns.
    pub(super) async fn report_until_the_end(&mut self, credential: &Credential) -> Result<Outcome, RunError> {
        self.pace.set_host(credential.host_id());
        loop {
            match self.report(credential).await? {
                Next::Wait(delay) => self.timer.sleep(delay).await,
                Next::Stop(outcome) => return Ok(outcome),
            }
        }
    }

    /// Measures, and sends the same report until it is known what became of it, or given up.
    async fn report(&mut self, credential: &Credential) -> Result<Next, RunError> {
        let report = self.measure().await;
        let mut sendings = 0;
        loop {
            let sent = self.clock.monotonic();
            match self.client.report(credential.token(), &report).await {
                Ok(reply) => {
                    self.stamps.stored(report.recorded_at, reply.server_time, self.clock.now());
                    let next = self.acknowledged(sent, reply.lease_ms, reply.next_report_in_ms);
                    if reply.status == ReportStatus::Conflict {
                        self.given_up(report.recorded_at);
                    }
                    self.events.send(Event::Reported {
                        status: reply.status,
                        at: report.recorded_at,
                        server_time: reply.server_time,
                        report: Box::new(report),
                    });
                    return Ok(next);
                }
                Err(ClientError::Refused(problem)) if problem.status < 500 => {
                    self.given_up(report.recorded_at);
                    return self.report_refused(credential, report.recorded_at, problem).await;
                }
                Err(error) => {
                    let delay = self.backoff.delay_after(&error, &*self.entropy);
                    self.unanswered(error);
                    sendings += 1;
                    if sendings == MOST_SENDINGS {
                        self.given_up(report.recorded_at);
                        return Ok(Next::Wait(delay));
                    }
                    self.timer.sleep(delay).await;
                }
            }
        }
    }

    async fn report_refused(
        &mut self,
        credential: &Credential,
        recorded_at: Timestamp,
        problem: Box<Problem>,
    ) -> Result<Next, RunError> {
        if !matches!(problem.status, 400 | 413 | 415 | 422) {
            return self.refused(credential, problem).await;
        }
        // The report was at fault, not the host: the heartbeat renews the lease that the report would have renewed.
        self.reached();
        if problem.code == Code::ClockSkew {
            let server_time = problem.server_time;
            if let Some(server_time) = server_time {
                self.stamps.implausible(server_time, self.clock.now());
            }
            self.events.send(Event::ClockSkew { recorded_at, server_time });
        } else {
            self.events.send(Event::Refused { problem });
        }
        self.heartbeat(credential).await
    }

    async fn heartbeat(&mut self, credential: &Credential) -> Result<Next, RunError> {
        let sent = self.clock.monotonic();
        match self.client.heartbeat(credential.token()).await {
            Ok(reply) => Ok(self.acknowledged(sent, reply.lease_ms, reply.next_report_in_ms)),
            Err(ClientError::Refused(problem)) if problem.status < 500 => self.refused(credential, problem).await,
            Err(error) => {
                let delay = self.backoff.delay_after(&error, &*self.entropy);
                self.unanswered(error);
                Ok(Next::Wait(delay))
            }
        }
    }

    /// The server, in its own form, refuses this host or its credential.
    async fn refused(&mut self, credential: &Credential, problem: Box<Problem>) -> Result<Next, RunError> {
        self.reached();
        match (&problem.code, problem.status) {
            (Code::HostDeleted, 410) => {
                self.lease_holder.end();
                self.store.erase().await?;
                let host_id = credential.host_id();
                self.events.send(Event::HostDeleted { host_id, problem: problem.clone() });
                Ok(Next::Stop(Outcome::HostDeleted(problem)))
            }
            (Code::HostArchived, _) => {
                self.lease_holder.end();
                self.events.send(Event::HostArchived { problem: problem.clone() });
                Ok(Next::Stop(Outcome::HostArchived(problem)))
            }
            _ => {
                let pause = pause_after(&problem);
                self.events.send(Event::Refused { problem });
                Ok(Next::Wait(pause + full_jitter(REFUSED_PAUSE, &*self.entropy)))
            }
        }
    }

    fn acknowledged(&mut self, sent: Duration, lease_ms: u64, next_report_in_ms: u64) -> Next {
        self.reached();
        self.backoff.reset();
        self.lease_holder.renew(sent, lease_ms);
        let since_sent = self.clock.monotonic().saturating_sub(sent);
        Next::Wait(self.pace.after(Duration::from_millis(next_report_in_ms), since_sent))
    }

    fn reached(&mut self) {
        if std::mem::take(&mut self.lost) {
            // Whatever kept this host from its server kept others from it too: spread again.
            self.pace.align();
            self.events.send(Event::ConnectivityRestored);
        }
    }

    fn unanswered(&mut self, error: ClientError) {
        tracing::debug!(%error, "a contact failed");
        if !std::mem::replace(&mut self.lost, true) {
            self.events.send(Event::ConnectivityLost { error });
        }
    }

    fn given_up(&mut self, recorded_at: Timestamp) {
        self.dropped_total += 1;
        self.events.send(Event::ReportDropped { recorded_at, dropped_total: self.dropped_total });
    }

    async fn measure(&mut self) -> Report {
        let Collected { facts, metrics, custom, containers } = self.collect().await;
        let containers = containers.unwrap_or_default();
        Report {
            recorded_at: self.stamps.next(self.clock.now()),
            host: HostReport { facts: Some(facts), metrics, custom },
            containers: containers.list,
            containers_complete: containers.complete,
            agent: Some(AgentReport {
                version: Some(self.version.clone()),
                spooled: None,
                dropped_total: Some(self.dropped_total),
            }),
        }
    }

    /// Asks every collector; one that takes too long is left out this time.
    async fn collect(&mut self) -> Collected {
        let mut all = Collected::default();
        let mut stalled = false;
        for collector in &mut self.collectors {
            match tokio::time::timeout(self.collect_timeout, collector.collect()).await {
                Ok(collected) => all.merge(collected),
                Err(_) => {
                    stalled = true;
                    self.events.send(Event::CollectorStalled);
                }
            }
        }
        if let Some(containers) = &mut all.containers {
            // Those of the engine that was left out are not gone.
            containers.complete &= !stalled;
        }
        all.keep_finite();
        let version = &mut all.facts.agent_version;
        version.get_or_insert_with(|| self.version.clone());
        all
    }
}

/// How long a refused host waits at least: as the server asks, within reason.
fn pause_after(problem: &Problem) -> Duration {
    problem.retry_after.unwrap_or_default().clamp(REFUSED_PAUSE, LONGEST_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_retry_after_neither_panics_nor_silences_a_host_for_good() {
        let after = |retry_after| pause_after(&Problem { retry_after, ..Problem::new(Code::TokenRevoked, "why") });
        assert_eq!(after(None), REFUSED_PAUSE);
        assert_eq!(after(Some(Duration::from_secs(120))), Duration::from_secs(120));
        assert_eq!(after(Some(Duration::MAX)), LONGEST_RETRY_AFTER);
    }
}
