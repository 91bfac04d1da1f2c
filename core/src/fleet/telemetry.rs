//! Telemetry: ingest for agents, reading back for administrators.

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::container::Container;
use crate::error::FieldError;
use crate::fleet::admission::BodyRoom;
use crate::fleet::error::{AdminError, AgentError, ReportError};
use crate::fleet::gauge::Lane;
use crate::fleet::queue::Refused;
use crate::fleet::{Admin, Agent, Inner, page_body, page_size, parse_cursor, query};
use crate::host::Status;
use crate::id::{EventId, HostId};
use crate::policy::Action;
use crate::store::{Append, AppendOutcome, Contact, ContainerQuery, StoreError, StoreErrorKind, TelemetryQuery};
use crate::telemetry::{CLOCK_AHEAD, CLOCK_BEHIND, Report, judge_recorded_at, parse_report, validate};
use crate::wire::{ContainerBody, HeartbeatReply, PageBody, ReportStatus, SnapshotBody, TelemetryReply};

/// Which stored reports to read: the query of `GET /v1/hosts/{host_id}/telemetry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryRange {
    /// Measured at this time or later; unless it is said, 65 minutes before `to`: whatever a live report may hold.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Measured before this time; as far ahead as a live report may be, unless it is said.
    #[serde(default)]
    pub to: Option<Timestamp>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How many; 50 unless it is said, at least 1, 500 at most.
    #[serde(default, deserialize_with = "query::limit")]
    pub limit: Option<usize>,
}

/// Which containers to list: the query of `GET /v1/hosts/{host_id}/containers`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerFilter {
    /// Also those that were removed.
    #[serde(default)]
    pub removed: bool,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How many; 50 unless it is said, at least 1, 500 at most.
    #[serde(default, deserialize_with = "query::limit")]
    pub limit: Option<usize>,
}

/// Leave for one live report or heartbeat. Made by [`Agent::live`].
#[derive(Debug)]
#[must_use = "it is leave for one request"]
pub struct Live<'a> {
    pub(super) agent: Agent<'a>,
}

impl Live<'_> {
    /// Takes a report as JSON, and returns once it is durable.
    ///
    /// Dropping the future once it was queued does not take the report back; sent again, it is a duplicate.
    ///
    /// # Errors
    /// When it breaks a bound or was measured at an implausible time; when the host was archived or deleted meanwhile;
    /// when the queue is full; when the store or the drivers cannot take it. In none of these cases it was acknowledged.
    pub async fn report_json(self, json: &[u8]) -> Result<TelemetryReply, ReportError> {
        let report = parse_report(json).map_err(|error| self.agent.invalid(error))?;
        self.agent.ingest(report, json.len()).await
    }

    /// Takes a report that was parsed elsewhere; otherwise as [`Live::report_json`].
    ///
    /// # Errors
    /// As [`Live::report_json`].
    pub async fn report(self, report: Report) -> Result<TelemetryReply, ReportError> {
        validate(&report).map_err(|error| self.agent.invalid(error))?;
        let bytes = weight(&report);
        self.agent.ingest(report, bytes).await
    }

    /// Says that the host is alive.
    ///
    /// # Errors
    /// When the drivers do not run: nobody would write it down.
    pub fn heartbeat(self) -> Result<HeartbeatReply, AgentError> {
        let Agent { fleet, identity } = self.agent;
        fleet.reports.check()?;
        self.agent.contact();
        Ok(HeartbeatReply {
            server_time: fleet.now(),
            next_report_in_ms: fleet.next_report_in_ms(identity),
            rotate: identity.is_old(fleet.now()),
            lease_ms: fleet.lease_ms(identity),
        })
    }

    /// Notes that the host has proved its credential, for a request that an adapter has to refuse before it can call a
    /// verb, such as one whose body is too large. The verbs do it by themselves.
    pub fn contact(self) {
        self.agent.contact();
    }

    /// Room for a body that inflates. One that is sent as it is needs none: it is as large as what was sent.
    pub fn body_room(&self) -> BodyRoom {
        self.agent.body_room(Lane::Live)
    }
}

impl Agent<'_> {
    async fn ingest(self, report: Report, bytes: usize) -> Result<TelemetryReply, ReportError> {
        let now = self.fleet.now();
        judge_recorded_at(report.recorded_at, now).map_err(|error| self.invalid(error))?;
        let append = Append { contact: self.contact_at(now), report };
        let mut outcomes = self.append(Lane::Live, vec![(vec![append], bytes)]).await?;
        let outcome = outcomes.pop().expect("the driver answers for each report of a job");
        Ok(TelemetryReply {
            status: self.status_of(outcome)?,
            server_time: self.fleet.now(),
            next_report_in_ms: self.fleet.next_report_in_ms(self.identity),
            rotate: self.identity.is_old(self.fleet.now()),
            lease_ms: self.fleet.lease_ms(self.identity),
        })
    }

    /// Queues groups of reports, all of them or none, and waits for what became of each, in their order.
    pub(super) async fn append(
        self,
        lane: Lane,
        groups: Vec<(Vec<Append>, usize)>,
    ) -> Result<Vec<AppendOutcome>, ReportError> {
        let answers = self.fleet.reports.send(lane, groups).map_err(|refused| {
            // The contact is as good as if the report had been taken.
            self.contact();
            match refused {
                Refused::Full => ReportError::Overloaded,
                Refused::Closed => {
                    ReportError::Store(self.fleet.reports.check().err().unwrap_or(StoreErrorKind::Unavailable.into()))
                }
            }
        })?;
        let mut outcomes = Vec::new();
        let mut failed: Option<StoreError> = None;
        for answer in answers {
            let answer = answer.await.unwrap_or_else(|_| {
                let reason = "the drivers stopped before the report was committed";
                Err(StoreError::with_source(StoreErrorKind::Unavailable, reason))
            });
            match answer {
                Ok(group) => outcomes.extend(group),
                // Of several, one that says "later": then all of it is sent again, and what was stored is a duplicate.
                Err(error) if failed.as_ref().is_none_or(|known| !known.is_retryable()) => failed = Some(error),
                Err(_) => {}
            }
        }
        match failed {
            None => Ok(outcomes),
            Some(error) => Err(ReportError::Store(error)),
        }
    }

    /// What an agent is told of a report.
    pub(super) fn status_of(self, outcome: AppendOutcome) -> Result<ReportStatus, ReportError> {
        match outcome {
            AppendOutcome::Accepted => Ok(ReportStatus::Accepted),
            AppendOutcome::Duplicate => Ok(ReportStatus::Duplicate),
            AppendOutcome::Conflict => Ok(ReportStatus::Conflict),
            AppendOutcome::HostArchived => Err(ReportError::HostArchived),
            // Deleted a moment ago, most likely: but only a tombstone may tell an agent so, since it then erases its
            // credential. The next request meets it, if it is there.
            AppendOutcome::HostAbsent => {
                self.fleet.forget_all();
                Err(ReportError::Store(StoreErrorKind::Unavailable.into()))
            }
            AppendOutcome::Failed(error) => Err(ReportError::Store(error)),
        }
    }

    /// A contact of this moment, to be written with a report.
    pub(super) fn contact_at(self, at: Timestamp) -> Contact {
        Contact {
            host_id: self.identity.host_id(),
            token_id: self.identity.token_id(),
            at,
            event_id: EventId::generate(at, &*self.fleet.entropy),
        }
    }

    /// A report that is refused is a contact all the same: what it says never changes presence.
    pub(super) fn invalid(self, error: FieldError) -> ReportError {
        self.contact();
        ReportError::Invalid { error, server_time: self.fleet.now() }
    }
}

impl Admin<'_> {
    /// A page of a host's containers, in the order of their ids.
    ///
    /// # Errors
    /// When the host is not found, or hidden.
    pub async fn list_containers(
        &self,
        host_id: HostId,
        filter: ContainerFilter,
    ) -> Result<PageBody<ContainerBody>, AdminError> {
        let record = self.find(Action::ReadHost, host_id).await?;
        let status = Status::of(record.host.lifecycle, record.presence.presence);
        let missing = status != Status::Online;
        let ContainerFilter { removed, cursor, limit } = filter;
        let query = ContainerQuery { host_id, removed, after: cursor, limit: page_size(limit) };
        let page = self.fleet.store.list_containers(&query).await?;
        Ok(page_body(
            page,
            |record| record.container.container_id.clone(),
            |record| ContainerBody {
                missing: missing && record.removed_at.is_none(),
                container: record.container,
                first_seen_at: record.first_seen_at,
                last_seen_at: record.last_seen_at,
                removed_at: record.removed_at,
            },
        ))
    }

    /// A page of a host's stored reports, oldest first.
    ///
    /// # Errors
    /// When the host is not found, or hidden; when the cursor is none of ours.
    pub async fn list_telemetry(
        &self,
        host_id: HostId,
        range: TelemetryRange,
    ) -> Result<PageBody<SnapshotBody>, AdminError> {
        self.find(Action::ReadHost, host_id).await?;
        let (from, to) = self.fleet.range(range.from, range.to);
        let query = TelemetryQuery {
            after: parse_cursor(range.cursor.as_deref())?,
            ..TelemetryQuery::new(host_id, from, to, page_size(range.limit))
        };
        let page = self.fleet.store.list_telemetry(&query).await?;
        Ok(page_body(page, |snapshot| snapshot.recorded_at.to_string(), SnapshotBody::from))
    }
}

impl Inner {
    /// The range of reports that is meant: whatever a live report may hold, as far as nothing else is said.
    pub(super) fn range(&self, from: Option<Timestamp>, to: Option<Timestamp>) -> (Timestamp, Timestamp) {
        let to = to.unwrap_or_else(|| self.now().saturating_add(CLOCK_AHEAD));
        (from.unwrap_or_else(|| to.saturating_sub(CLOCK_BEHIND + CLOCK_AHEAD)), to)
    }
}

/// About as many bytes as the report has as JSON: what it costs to hold it in the queue.
pub(super) fn weight(report: &Report) -> usize {
    let container = |container: &Container| {
        let Container { container_id, name, image, error, labels, ports, .. } = container;
        let texts = container_id.len() + name.len() + image.len() + error.as_ref().map_or(0, String::len);
        let labels: usize = labels.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
        384 + texts + labels + 64 * ports.len()
    };
    let custom: usize = report.host.custom.keys().map(|name| name.len() + 24).sum();
    2_048 + custom + report.containers.iter().map(container).sum::<usize>()
}
