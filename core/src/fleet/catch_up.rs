//! Catching up: batches of reports that were kept back, each answered for by itself.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::fleet::Agent;
use crate::fleet::admission::BodyRoom;
use crate::fleet::error::ReportError;
use crate::fleet::gauge::Lane;
use crate::fleet::telemetry::weight;
use crate::store::{Append, AppendOutcome};
use crate::telemetry::{BatchItem, Report, Unfit, check_batch, judge_catch_up, parse_batch, validate};
use crate::wire::{BatchReply, BatchResult, Problem, ReportStatus};

/// Leave for one batch. Made by [`Agent::catch_up`].
#[derive(Debug)]
#[must_use = "it is leave for one request"]
pub struct CatchUp<'a> {
    pub(super) agent: Agent<'a>,
}

impl CatchUp<'_> {
    /// Takes a batch as JSON, `{"reports": […]}` with at most [`MAX_BATCH`](crate::telemetry::MAX_BATCH), and returns once all
    /// that was taken of it is durable. Each report is answered for, in the order of the request; one that cannot be taken
    /// fails alone. They are stored in the order of their times.
    ///
    /// Dropping the future takes nothing back that was queued; sent again, those are duplicates.
    ///
    /// # Errors
    /// When it is no batch; when the host was archived or deleted meanwhile; when the queue has no room for all of it; when
    /// the store or the drivers cannot take it. In none of these cases it was acknowledged, though a part may be stored: it
    /// can be sent again as it is.
    pub async fn batch_json(self, json: &[u8]) -> Result<BatchReply, ReportError> {
        let items = parse_batch(json).map_err(|error| self.agent.invalid(error))?;
        self.take(items).await
    }

    /// Takes a batch that was parsed elsewhere; otherwise as [`CatchUp::batch_json`].
    ///
    /// # Errors
    /// As [`CatchUp::batch_json`].
    pub async fn batch(self, reports: Vec<Report>) -> Result<BatchReply, ReportError> {
        check_batch(reports.len()).map_err(|error| self.agent.invalid(error))?;
        let item = |report: Report| match validate(&report) {
            Ok(()) => Ok(BatchItem { bytes: weight(&report), report }),
            Err(error) => Err(Unfit { recorded_at: Some(report.recorded_at), error }),
        };
        self.take(reports.into_iter().map(item).collect()).await
    }

    /// Notes that the host has proved its credential, for a request that an adapter has to refuse before it can call a
    /// verb, such as one whose body is too large. The verbs do it by themselves.
    pub fn contact(self) {
        self.agent.contact();
    }

    /// Room for the body.
    pub fn body_room(&self) -> BodyRoom {
        self.agent.body_room(Lane::CatchUp)
    }

    async fn take(self, items: Vec<Result<BatchItem, Unfit>>) -> Result<BatchReply, ReportError> {
        let Self { agent } = self;
        let now = agent.fleet.now();
        let retention = agent.fleet.limits.telemetry_retention;
        let mut results = Vec::with_capacity(items.len());
        let mut taken = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item.and_then(|item| in_time(item, now, retention)) {
                Ok(item) => taken.push((index, item)),
                Err(unfit) => results.push((index, rejected(index, unfit))),
            }
        }
        // Of one time the first in the request comes first: the sort is stable.
        taken.sort_by_key(|(_, item)| item.report.recorded_at);
        let times: Vec<_> = taken.iter().map(|(index, item)| (*index, item.report.recorded_at)).collect();
        let groups = agent.groups(taken.into_iter().map(|(_, item)| item), now);
        let outcomes = agent.append(Lane::CatchUp, groups).await?;
        for ((index, recorded_at), outcome) in times.into_iter().zip(outcomes) {
            let (status, code) = match outcome {
                // However often it is sent, it will not be stored.
                AppendOutcome::Failed(error) if !error.is_retryable() => {
                    (ReportStatus::Rejected, Some(Problem::from(error).code))
                }
                outcome => (agent.status_of(outcome)?, None),
            };
            results.push((index, BatchResult { recorded_at: Some(recorded_at), status, code, field: None }));
        }
        // What was stored was a contact.
        if results.iter().all(|(_, result)| result.status == ReportStatus::Rejected) {
            agent.contact();
        }
        results.sort_unstable_by_key(|(index, _)| *index);
        Ok(BatchReply {
            results: results.into_iter().map(|(_, result)| result).collect(),
            server_time: agent.fleet.now(),
            next_report_in_ms: agent.fleet.next_report_in_ms(agent.identity),
            rotate: agent.identity.is_old(agent.fleet.now()),
            lease_ms: agent.fleet.lease_ms(agent.identity),
        })
    }
}

impl Agent<'_> {
    /// The reports of a batch in groups of at most half of what one transaction takes, so that those of others find room in
    /// it beside them.
    fn groups(self, items: impl Iterator<Item = BatchItem>, now: Timestamp) -> Vec<(Vec<Append>, usize)> {
        let limits = &self.fleet.limits;
        let (most, most_bytes) = (limits.batch_reports.div_ceil(2), limits.batch_bytes.div_ceil(2));
        let mut groups: Vec<(Vec<Append>, usize)> = Vec::new();
        for BatchItem { report, bytes } in items {
            let append = Append { contact: self.contact_at(now), report };
            match groups.last_mut() {
                Some((group, size)) if group.len() < most && *size + bytes <= most_bytes => {
                    group.push(append);
                    *size += bytes;
                }
                _ => groups.push((vec![append], bytes)),
            }
        }
        groups
    }
}

/// The report, if it is of a time that is still of interest.
fn in_time(item: BatchItem, now: Timestamp, retention: Duration) -> Result<BatchItem, Unfit> {
    let recorded_at = item.report.recorded_at;
    match judge_catch_up(recorded_at, now, retention) {
        Ok(()) => Ok(item),
        Err(error) => Err(Unfit { recorded_at: Some(recorded_at), error }),
    }
}

/// A report that was refused by itself, as the `index`th of its batch.
fn rejected(index: usize, Unfit { recorded_at, error }: Unfit) -> BatchResult {
    let error = error.within(&format!("/reports/{index}"));
    BatchResult { recorded_at, status: ReportStatus::Rejected, code: Some(error.code), field: Some(error.field) }
}
