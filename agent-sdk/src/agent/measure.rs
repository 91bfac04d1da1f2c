//! What a report says: everything that the collectors know.

use enlist_core::telemetry::{AgentReport, HostReport, Report};

use super::work::Work;
use crate::collector::Collected;
use crate::event::Event;

impl Work {
    pub(super) async fn measure(&mut self) -> Report {
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
    pub(super) async fn collect(&mut self) -> Collected {
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
