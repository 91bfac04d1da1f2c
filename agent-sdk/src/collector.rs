//! What is measured: the [`Collector`] trait, and the machine itself as the first of its kind.

mod system;

use std::collections::BTreeMap;

use async_trait::async_trait;
use enlist_core::container::Container;
use enlist_core::telemetry::{HostFacts, HostMetrics};

pub use system::SystemCollector;

/// A source of facts and numbers for reports. An agent asks each of its collectors before each report, one after the other.
///
/// What cannot be measured is absent, never a made-up zero; one part that fails leaves out that part only. The future is
/// dropped when it takes too long, at any `await`, and `collect` is called again later: work that blocks for more than a
/// few milliseconds belongs on a blocking thread.
///
/// ```
/// use enlist_agent_sdk::{Collected, Collector};
///
/// struct QueueDepth;
///
/// #[enlist_agent_sdk::async_trait]
/// impl Collector for QueueDepth {
///     async fn collect(&mut self) -> Collected {
///         Collected::default().with_custom("queue_depth", 17.0)
///     }
/// }
/// ```
#[async_trait]
pub trait Collector: Send + 'static {
    /// Measures now.
    async fn collect(&mut self) -> Collected;
}

/// What a collector found. Bounds are those of a report; see [`enlist_core::telemetry`].
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// What rarely changes.
    pub facts: HostFacts,
    /// The machine's numbers.
    pub metrics: HostMetrics,
    /// Numbers of one's own, named `[a-z0-9_]{1,64}`, 32 in a report at most.
    pub custom: BTreeMap<String, f64>,
    /// The containers, if this collector knows of any engine.
    pub containers: Option<Containers>,
}

/// The containers that a collector found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Containers {
    /// Each once.
    pub list: Vec<Container>,
    /// Whether these are all there are: then the server marks those that are missing as removed.
    pub complete: bool,
}

impl Collected {
    /// The same with a number of one's own.
    #[must_use]
    pub fn with_custom(mut self, name: impl Into<String>, value: f64) -> Self {
        self.custom.insert(name.into(), value);
        self
    }

    /// Takes over what `other` knows. Containers of several collectors are complete if all of theirs are.
    pub fn merge(&mut self, other: Self) {
        self.facts.merge(&other.facts);
        merge_metrics(&mut self.metrics, &other.metrics);
        self.custom.extend(other.custom);
        match (&mut self.containers, other.containers) {
            (Some(known), Some(more)) => {
                known.list.extend(more.list);
                known.complete &= more.complete;
            }
            (known @ None, more) => *known = more,
            (Some(_), None) => {}
        }
    }

    /// Leaves out what JSON cannot say: a number that is not finite is unknown.
    pub(crate) fn keep_finite(&mut self) {
        let HostMetrics { cpu_percent, load_1m, load_5m, load_15m, .. } = &mut self.metrics;
        for number in [cpu_percent, load_1m, load_5m, load_15m] {
            *number = number.filter(|number| number.is_finite());
        }
        self.custom.retain(|_, number| number.is_finite());
        for container in self.containers.iter_mut().flat_map(|containers| &mut containers.list) {
            if let Some(metrics) = &mut container.metrics {
                metrics.cpu_cores = metrics.cpu_cores.filter(|cores| cores.is_finite());
            }
        }
    }
}

fn merge_metrics(known: &mut HostMetrics, newer: &HostMetrics) {
    fn take<T: Copy>(known: &mut Option<T>, newer: Option<T>) {
        *known = newer.or(*known);
    }
    let HostMetrics {
        cpu_percent,
        load_1m,
        load_5m,
        load_15m,
        memory_used_bytes,
        memory_total_bytes,
        swap_used_bytes,
        swap_total_bytes,
        disk_used_bytes,
        disk_total_bytes,
        network_rx_bytes,
        network_tx_bytes,
        uptime_seconds,
    } = newer;
    take(&mut known.cpu_percent, *cpu_percent);
    take(&mut known.load_1m, *load_1m);
    take(&mut known.load_5m, *load_5m);
    take(&mut known.load_15m, *load_15m);
    take(&mut known.memory_used_bytes, *memory_used_bytes);
    take(&mut known.memory_total_bytes, *memory_total_bytes);
    take(&mut known.swap_used_bytes, *swap_used_bytes);
    take(&mut known.swap_total_bytes, *swap_total_bytes);
    take(&mut known.disk_used_bytes, *disk_used_bytes);
    take(&mut known.disk_total_bytes, *disk_total_bytes);
    take(&mut known.network_rx_bytes, *network_rx_bytes);
    take(&mut known.network_tx_bytes, *network_tx_bytes);
    take(&mut known.uptime_seconds, *uptime_seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containers(id: &str, complete: bool) -> Collected {
        let container = Container { container_id: id.into(), ..Container::default() };
        Collected { containers: Some(Containers { list: vec![container], complete }), ..Collected::default() }
    }

    #[test]
    fn containers_are_complete_only_if_every_engine_was_asked() {
        let merged = |parts: [Collected; 3]| {
            let mut all = Collected::default();
            parts.into_iter().for_each(|part| all.merge(part));
            all.containers
        };
        let all = merged([Collected::default(), containers("a", true), containers("b", true)]).expect("containers");
        assert_eq!((all.list.len(), all.complete), (2, true));
        let part = merged([containers("a", true), containers("b", false), Collected::default()]).expect("containers");
        assert_eq!((part.list.len(), part.complete), (2, false));
        assert_eq!(merged([Collected::default(), Collected::default(), Collected::default()]), None);
    }

    #[test]
    fn an_unknown_number_does_not_hide_a_known_one() {
        let mut all = Collected::default();
        all.metrics.load_1m = Some(1.0);
        all.metrics.uptime_seconds = Some(5);
        let mut more = Collected::default();
        more.metrics.load_1m = Some(2.0);
        all.merge(more);
        assert_eq!((all.metrics.load_1m, all.metrics.uptime_seconds), (Some(2.0), Some(5)));
    }

    #[test]
    fn what_is_not_finite_is_unknown() {
        let mut all = Collected::default().with_custom("nan", f64::NAN).with_custom("one", 1.0);
        all.metrics.cpu_percent = Some(f64::INFINITY);
        all.keep_finite();
        assert_eq!(all.metrics.cpu_percent, None);
        assert_eq!(all.custom.keys().collect::<Vec<_>>(), ["one"]);
    }
}
