//! What an agent does: report, and take the server's answers for what they are.

use std::sync::Arc;
use std::time::Duration;

use enlist_core::wire::{Code, Problem, ProposedHost, ReportStatus};
use enlist_core::{Clock, Entropy, Timestamp};

use super::Outcome;
use super::pace::{self, Pace};
use crate::backoff::{Backoff, refused_pause};
use crate::client::Client;
use crate::collector::Collector;
use crate::credential::CredentialStore;
use crate::error::{ClientError, RunError, SessionError};
use crate::event::{Event, EventSender};
use crate::install_token::InstallToken;
use crate::lease::LeaseHolder;
use crate::session::{Permit, Session, Worked};
use crate::stamp::Stamps;
use crate::timer::Timer;

/// How often a report whose fate is unknown is sent, the first time included, before a fresh one takes its place.
const MOST_SENDINGS: u32 = 3;

/// All that a running agent holds.
pub(super) struct Work {
    pub(super) client: Client,
    pub(super) store: Arc<dyn CredentialStore>,
    pub(super) session: Session,
    /// What the host enrols with, until the server has refused it.
    pub(super) install_token: Option<InstallToken>,
    pub(super) version: String,
    pub(super) proposed_host: Option<ProposedHost>,
    pub(super) collectors: Vec<Box<dyn Collector>>,
    pub(super) collect_timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) timer: Arc<dyn Timer>,
    pub(super) events: Arc<EventSender>,
    pub(super) lease_holder: LeaseHolder,
    pub(super) pace: Pace,
    pub(super) backoff: Backoff,
    pub(super) stamps: Stamps,
    pub(super) dropped_total: u64,
    /// Whether the last contact failed.
    pub(super) lost: bool,
}

/// What follows a contact.
pub(super) enum Next {
    Again,
    Wait(Duration),
    Stop(Outcome),
}

impl Work {
    /// Reports and waits, by turns; enrols when there is nothing to report with.
    pub(super) async fn work_until_the_end(&mut self) -> Result<Outcome, RunError> {
        loop {
            let next = match self.session.permit().await {
                Ok(permit) => self.report(permit).await?,
                Err(error) => self.held_up(error).await?,
            };
            match next {
                Next::Again => {}
                Next::Wait(delay) => self.timer.sleep(delay).await,
                Next::Stop(outcome) => return Ok(outcome),
            }
        }
    }

    /// Measures, and sends the same report until it is known what became of it, or given up.
    async fn report(&mut self, permit: Permit) -> Result<Next, RunError> {
        self.pace.set_host(permit.host_id());
        let report = self.measure().await;
        let mut permit = Some(permit);
        let mut sendings = 0;
        loop {
            let permit = match permit.take() {
                Some(permit) => Ok(permit),
                None => self.session.permit().await,
            };
            let (error, delay) = match permit {
                Ok(permit) => {
                    let sent = self.clock.monotonic();
                    let result = self.client.report(&permit, &report).await;
                    self.heard(&result);
                    match permit.worked(&result).await {
                        Ok(Worked::Done) => {}
                        Ok(Worked::Again) => continue,
                        Err(error) => return self.report_held_up(report.recorded_at, error).await,
                    }
                    match result {
                        Ok(reply) => {
                            self.stamps.stored(report.recorded_at, reply.server_time, self.clock.now());
                            let next = self.acknowledged(sent, reply.lease_ms, reply.next_report_in_ms, reply.rotate);
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
                            return self.report_refused(report.recorded_at, problem).await;
                        }
                        Err(error) => {
                            let delay = self.backoff.delay_after(&error, &*self.entropy);
                            (Some(error), delay)
                        }
                    }
                }
                // The credential has to be seen to first, and there was no answer: as good as none to the report.
                Err(SessionError::Waiting { retry_after, error }) => (error, retry_after),
                Err(error) => return self.report_held_up(report.recorded_at, error).await,
            };
            if let Some(error) = error {
                self.unanswered(error);
            }
            sendings += 1;
            if sendings == MOST_SENDINGS {
                self.given_up(report.recorded_at);
                return Ok(Next::Wait(delay));
            }
            self.timer.sleep(delay).await;
        }
    }

    async fn report_held_up(&mut self, recorded_at: Timestamp, error: SessionError) -> Result<Next, RunError> {
        // The end of the host is the last that is said of it.
        if !matches!(error, SessionError::HostArchived(_) | SessionError::HostDeleted(_)) {
            self.given_up(recorded_at);
        }
        self.held_up(error).await
    }

    async fn report_refused(&mut self, recorded_at: Timestamp, problem: Box<Problem>) -> Result<Next, RunError> {
        if !matches!(problem.status, 400 | 413 | 415 | 422) {
            return Ok(self.refused(problem));
        }
        // The report was at fault, not the host: the heartbeat renews the lease that the report would have renewed.
        if problem.code == Code::ClockSkew {
            let server_time = problem.server_time;
            if let Some(server_time) = server_time {
                self.stamps.implausible(server_time, self.clock.now());
            }
            self.events.send(Event::ClockSkew { recorded_at, server_time });
        } else {
            self.events.send(Event::Refused { problem });
        }
        self.heartbeat().await
    }

    async fn heartbeat(&mut self) -> Result<Next, RunError> {
        loop {
            let permit = match self.session.permit().await {
                Ok(permit) => permit,
                Err(error) => return self.held_up(error).await,
            };
            let sent = self.clock.monotonic();
            let result = self.client.heartbeat(&permit).await;
            self.heard(&result);
            match permit.worked(&result).await {
                Ok(Worked::Done) => {}
                Ok(Worked::Again) => continue,
                Err(error) => return self.held_up(error).await,
            }
            return Ok(match result {
                Ok(reply) => self.acknowledged(sent, reply.lease_ms, reply.next_report_in_ms, reply.rotate),
                Err(ClientError::Refused(problem)) if problem.status < 500 => self.refused(problem),
                Err(error) => {
                    let delay = self.backoff.delay_after(&error, &*self.entropy);
                    self.unanswered(error);
                    Next::Wait(delay)
                }
            });
        }
    }

    /// The server, in its own form, refuses this host for a reason that is none of the credential's.
    fn refused(&mut self, problem: Box<Problem>) -> Next {
        let pause = refused_pause(&problem, &*self.entropy);
        self.events.send(Event::Refused { problem });
        Next::Wait(pause)
    }

    fn acknowledged(&mut self, sent: Duration, lease_ms: u64, next_report_in_ms: u64, rotate: bool) -> Next {
        if rotate {
            self.session.asked_to_rotate();
        }
        let asked = Duration::from_millis(next_report_in_ms);
        // A server that counts silence in seconds asks for reports as often, and waits no longer for those that failed.
        self.backoff = Backoff::contact().within(asked.max(pace::SHORTEST));
        self.lease_holder.renew(sent, lease_ms);
        let since_sent = self.clock.monotonic().saturating_sub(sent);
        Next::Wait(self.pace.after(asked, since_sent))
    }

    fn heard<T>(&mut self, result: &Result<T, ClientError>) {
        match result {
            Err(ClientError::Refused(problem)) if problem.status >= 500 => {}
            Ok(_) | Err(ClientError::Refused(_)) => self.reached(),
            Err(_) => {}
        }
    }

    pub(super) fn reached(&mut self) {
        if std::mem::take(&mut self.lost) {
            // Whatever kept this host from its server kept others from it too: spread again.
            self.pace.align();
            self.events.send(Event::ConnectivityRestored);
        }
    }

    pub(super) fn unanswered(&mut self, error: ClientError) {
        tracing::debug!(%error, "a contact failed");
        if !std::mem::replace(&mut self.lost, true) {
            self.events.send(Event::ConnectivityLost { error });
        }
    }

    fn given_up(&mut self, recorded_at: Timestamp) {
        self.dropped_total += 1;
        self.events.send(Event::ReportDropped { recorded_at, dropped_total: self.dropped_total });
    }
}
