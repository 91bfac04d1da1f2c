//! What an agent reports, the bounds that it is held to, and what is kept of it.
//!
//! Units stand in the names: bytes, seconds, cores, percent (0–100 of the whole machine). Unknown is absent or `null`,
//! never a made-up zero. Counters only rise, from 0 to 2⁶³−1, and start again at zero with the machine or container.

mod batch;
mod report;
mod series;
mod snapshot;
mod summary;
mod validate;

#[cfg(feature = "server")]
pub(crate) use batch::check_batch;
pub use batch::{BatchItem, MAX_BATCH, Unfit, parse_batch};
pub use report::{AgentReport, HostFacts, HostMetrics, HostReport, Report};
pub use series::{Bucket, InvalidStep, MAX_BUCKETS, Rate, Sample, Series, SeriesError, Step, Summary};
pub use snapshot::{ContainerSnapshot, HostSnapshot};
pub use summary::{ContainerSeries, ContainerSummaries, HostSeries, HostSummaries};
pub use validate::{
    CLOCK_AHEAD, CLOCK_BEHIND, MAX_CONTAINERS, MAX_COUNTER, MAX_CUSTOM, judge_catch_up, judge_recorded_at,
    parse_report, validate,
};
#[cfg(feature = "server")]
pub(crate) use validate::{is_container_id, validate_facts};
