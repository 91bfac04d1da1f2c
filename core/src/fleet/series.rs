//! The course of a host's and a container's numbers, for administrators.

use std::time::Duration;

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::fleet::error::AdminError;
use crate::fleet::{Admin, millis, parse_cursor};
use crate::id::HostId;
use crate::policy::Action;
use crate::store::{SnapshotContainers, TelemetryQuery};
use crate::telemetry::{
    Bucket, ContainerSeries, ContainerSummaries, HostSeries, HostSnapshot, HostSummaries, Series, Step, is_container_id,
};
use crate::wire::{ContainerBucketBody, HostBucketBody, LatestTelemetry, SeriesBody, SnapshotBody};

/// Reports that are read for one answer. A week of one every 30 s.
const MAX_REPORTS: usize = 20_160;
/// Reports that are read at once, and are in memory together.
const PAGE: usize = 500;

/// Which course to read: the query of `GET /v1/hosts/{host_id}/telemetry?step` and of
/// `GET /v1/hosts/{host_id}/containers/{container_id}/telemetry`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesRange {
    /// Measured at this time or later; unless it is said, 65 minutes before `to`: whatever a live report may hold.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Measured before this time; as far ahead as a live report may be, unless it is said.
    #[serde(default)]
    pub to: Option<Timestamp>,
    /// How long a bucket is. The range has at most [`MAX_BUCKETS`](crate::telemetry::MAX_BUCKETS) of them.
    pub step: Step,
    /// `next_cursor` of the answer before.
    #[serde(default)]
    pub cursor: Option<String>,
}

impl SeriesRange {
    /// The course of about the last hour.
    pub const fn new(step: Step) -> Self {
        Self { from: None, to: None, step, cursor: None }
    }
}

impl Admin<'_> {
    /// The stored report of a host that was measured last, and its age.
    ///
    /// # Errors
    /// When the host is not found, or hidden.
    pub async fn latest_telemetry(&self, host_id: HostId) -> Result<LatestTelemetry, AdminError> {
        let record = self.find(Action::ReadHost, host_id).await?;
        let mut newest = None;
        // It may have been pruned.
        if let Some(at) = record.presence.newest_report_at {
            let query = TelemetryQuery::new(host_id, at, at.saturating_add(Duration::from_micros(1)), 1);
            newest = self.fleet.store.list_telemetry(&query).await?.items.pop();
        }
        let server_time = self.fleet.now();
        // Nothing is measured after it arrived, whatever its agent's clock says.
        let age = |report: &HostSnapshot| server_time.saturating_since(report.recorded_at.min(report.received_at));
        Ok(LatestTelemetry {
            server_time,
            age_ms: newest.as_ref().map(|report| millis(age(report))),
            snapshot: newest.map(SnapshotBody::from),
        })
    }

    /// The course of a machine's numbers, in buckets; [`Series`] says how they are made.
    ///
    /// At most 20,160 reports are read for one answer, which then ends with the last bucket that is whole and has a cursor.
    /// Reports of one step before `from`, or of one liveness window if that is longer, are among them: the first rates begin
    /// there. Between neighbours that are further apart there is no rate.
    ///
    /// # Errors
    /// When the host is not found, or hidden; when the range has too many buckets, or one has more reports than are read for
    /// one answer; when the cursor is none of ours.
    pub async fn telemetry_series(
        &self,
        host_id: HostId,
        range: SeriesRange,
    ) -> Result<SeriesBody<HostBucketBody>, AdminError> {
        let body = |bucket: Bucket<_, _>| HostBucketBody {
            start: bucket.start,
            reports: bucket.reports,
            metrics: HostSummaries::from(&bucket),
            custom: bucket.custom,
        };
        self.series(host_id, range, SnapshotContainers::None, HostSeries::add_snapshot, body).await
    }

    /// The course of a container's numbers; otherwise as [`Admin::telemetry_series`]. Of one that the host never had there are
    /// no buckets: the numbers of a container that is gone are kept longer than what else is known of it.
    ///
    /// # Errors
    /// As [`Admin::telemetry_series`]; not found is also what no container can be called.
    pub async fn container_series(
        &self,
        host_id: HostId,
        container_id: &str,
        range: SeriesRange,
    ) -> Result<SeriesBody<ContainerBucketBody>, AdminError> {
        if !is_container_id(container_id) {
            return Err(AdminError::NotFound);
        }
        let add = |series: &mut ContainerSeries, snapshot: &_| series.add_snapshot(snapshot, container_id);
        let body = |bucket: Bucket<_, _>| ContainerBucketBody {
            start: bucket.start,
            reports: bucket.reports,
            metrics: ContainerSummaries::from(&bucket),
        };
        self.series(host_id, range, SnapshotContainers::One(container_id.to_owned()), add, body).await
    }

    async fn series<const GAUGES: usize, const COUNTERS: usize, B>(
        &self,
        host_id: HostId,
        range: SeriesRange,
        containers: SnapshotContainers,
        add: impl Fn(&mut Series<GAUGES, COUNTERS>, &HostSnapshot) + Send + Sync,
        body: impl Fn(Bucket<GAUGES, COUNTERS>) -> B,
    ) -> Result<SeriesBody<B>, AdminError> {
        let record = self.find(Action::ReadHost, host_id).await?;
        let (from, to) = self.fleet.range(range.from, range.to);
        range.step.check_range(from, to)?;
        let cursor: Option<Timestamp> = parse_cursor(range.cursor.as_deref())?;
        let from = from.max(cursor.unwrap_or(from));
        // Shorter silences are none: of a host that keeps reporting within the window, and of a picture as coarse as the step.
        let longest_gap = self.fleet.limits.window_of(record.host.liveness_window).max(range.step.duration());
        let mut series = Series::new(from, range.step, longest_gap);
        let mut query =
            TelemetryQuery { containers, ..TelemetryQuery::new(host_id, from.saturating_sub(longest_gap), to, PAGE) };
        let mut left = MAX_REPORTS;
        // Of an empty range not even what came before is read.
        let mut more = from < to;
        while more && left > 0 {
            query.limit = PAGE.min(left);
            let page = self.fleet.store.list_telemetry(&query).await?;
            page.items.iter().for_each(|snapshot| add(&mut series, snapshot));
            left -= page.items.len();
            query.after = page.items.last().map(|last| last.recorded_at).or(query.after);
            more = page.more;
        }
        let (buckets, next) = if more {
            let (buckets, next) = series.interrupt(query.after.unwrap_or(from))?;
            (buckets, Some(next.to_string()))
        } else {
            (series.finish(), None)
        };
        Ok(SeriesBody {
            step_seconds: range.step.as_secs(),
            items: buckets.into_iter().map(body).collect(),
            next_cursor: next,
        })
    }
}
