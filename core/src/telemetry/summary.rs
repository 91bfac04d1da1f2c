//! Which of the measured numbers are gauges and which are counters, and what they are called when they are summed up.

use serde::{Deserialize, Serialize};

use crate::container::ContainerMetrics;
use crate::telemetry::report::HostMetrics;
use crate::telemetry::series::{Bucket, Sample, Series, Summary};
use crate::telemetry::snapshot::HostSnapshot;

/// Declares what becomes of some metrics from one list, so that no number can take another's place.
macro_rules! summaries {
    (
        $(#[$doc:meta])* $summaries:ident of $metrics:ident,
        $(#[$series_doc:meta])* $series:ident, $sample:ident, $bucket:ident,
        gauges { $($(#[$gauge_doc:meta])* $gauge:ident,)* }
        counters { $($(#[$rate_doc:meta])* $counter:ident => $rate:ident,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
        pub struct $summaries {
            $(
                $(#[$gauge_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $gauge: Option<Summary>,
            )*
            $(
                $(#[$rate_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $rate: Option<Summary>,
            )*
        }

        $(#[$series_doc])*
        pub type $series = Series<{ [$(stringify!($gauge)),*].len() }, { [$(stringify!($counter)),*].len() }>;
        type $sample<'a> =
            Sample<'a, { [$(stringify!($gauge)),*].len() }, { [$(stringify!($counter)),*].len() }>;
        type $bucket = Bucket<{ [$(stringify!($gauge)),*].len() }, { [$(stringify!($counter)),*].len() }>;

        impl $summaries {
            fn sample<'a>(snapshot: &HostSnapshot, metrics: &$metrics) -> $sample<'a> {
                // Taken apart, so that a metric that is added cannot be forgotten here.
                let $metrics { $($gauge,)* $($counter,)* } = *metrics;
                Sample {
                    at: snapshot.recorded_at,
                    uptime_seconds: snapshot.metrics.uptime_seconds,
                    gauges: [$($gauge.map(Number::to_f64)),*],
                    counters: [$($counter),*],
                    custom: None,
                }
            }
        }

        impl From<&$bucket> for $summaries {
            fn from(bucket: &$bucket) -> Self {
                let [$($gauge),*] = bucket.gauges;
                let [$($rate),*] = bucket.rates.map(|rate| rate.map(|rate| rate.per_second));
                Self { $($gauge,)* $($rate,)* }
            }
        }
    };
}

summaries! {
    /// What became of a machine's numbers in a bucket; what is unknown is absent.
    HostSummaries of HostMetrics,
    /// Folds a machine's numbers.
    HostSeries, HostSample, HostBucket,
    gauges {
        /// 0–100 of the whole machine.
        cpu_percent,
        /// Load average over one minute.
        load_1m,
        /// Over five.
        load_5m,
        /// Over fifteen.
        load_15m,
        /// Without caches.
        memory_used_bytes,
        /// Installed.
        memory_total_bytes,
        /// In use.
        swap_used_bytes,
        /// Configured.
        swap_total_bytes,
        /// Over all local disks.
        disk_used_bytes,
        /// Over all local disks.
        disk_total_bytes,
        /// Since boot.
        uptime_seconds,
    }
    counters {
        /// Over all but the loopback interface.
        network_rx_bytes => network_rx_bytes_per_second,
        /// Over all but the loopback interface.
        network_tx_bytes => network_tx_bytes_per_second,
    }
}

summaries! {
    /// What became of a container's numbers in a bucket; what is unknown is absent.
    ContainerSummaries of ContainerMetrics,
    /// Folds a container's numbers.
    ContainerSeries, ContainerSample, ContainerBucket,
    gauges {
        /// Cores in use.
        cpu_cores,
        /// Without the page cache.
        memory_used_bytes,
        /// Its limit, if it has one.
        memory_limit_bytes,
        /// Processes and threads.
        pids,
    }
    counters {
        /// Received.
        network_rx_bytes => network_rx_bytes_per_second,
        /// Sent.
        network_tx_bytes => network_tx_bytes_per_second,
        /// Read from block devices.
        block_read_bytes => block_read_bytes_per_second,
        /// Written to block devices.
        block_write_bytes => block_write_bytes_per_second,
    }
}

impl HostSeries {
    /// Takes the machine's numbers of the next report, the embedding service's own included.
    pub fn add_snapshot(&mut self, snapshot: &HostSnapshot) {
        self.add(&Sample { custom: Some(&snapshot.custom), ..HostSummaries::sample(snapshot, &snapshot.metrics) });
    }
}

impl ContainerSeries {
    /// Takes a container's numbers of the next report, if it has any.
    pub fn add_snapshot(&mut self, snapshot: &HostSnapshot, container_id: &str) {
        if let Some(found) = snapshot.containers.iter().find(|container| container.container_id == container_id) {
            self.add(&ContainerSummaries::sample(snapshot, &found.metrics));
        }
    }
}

/// A gauge as it is summed up. Counts are exact up to 2⁵³.
trait Number {
    fn to_f64(self) -> f64;
}

impl Number for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

impl Number for u64 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}
