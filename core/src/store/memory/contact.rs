//! Reports and contacts.

use super::{HostEntry, State};
use crate::clock::Timestamp;
use crate::container::Container;
use crate::event::{Event, NewEvent};
use crate::host::Presence;
use crate::liveness::{Seen, Verdict};
use crate::store::{
    Append, AppendOutcome, Appended, Contact, ContainerRecord, Silence, Sweep, Swept, came_online, went_silent,
};
use crate::telemetry::{HostSnapshot, Report};

impl State {
    pub(super) fn append(&mut self, reports: Vec<Append>) -> Appended {
        let mut events = Vec::new();
        let mut outcomes = Vec::with_capacity(reports.len());
        for Append { contact, report } in reports {
            outcomes.push(match self.hosts.get_mut(&contact.host_id) {
                None => AppendOutcome::HostAbsent,
                Some(entry) if entry.host.is_archived() => AppendOutcome::HostArchived,
                Some(entry) => {
                    events.extend(entry.contact(&contact));
                    let outcome = entry.append(report, contact.at);
                    self.note_use(&contact);
                    outcome
                }
            });
        }
        Appended { outcomes, events: self.append_events(events) }
    }

    pub(super) fn touch(&mut self, contacts: Vec<Contact>) -> Vec<Event> {
        let mut events = Vec::new();
        for contact in contacts {
            let Some(entry) = self.hosts.get_mut(&contact.host_id) else { continue };
            if entry.host.is_archived() {
                continue;
            }
            events.extend(entry.contact(&contact));
            self.note_use(&contact);
        }
        self.append_events(events)
    }

    fn note_use(&mut self, contact: &Contact) {
        let token = self.agent_tokens.get_mut(&contact.token_id);
        if let Some(token) = token.filter(|entry| entry.token.host_id == contact.host_id) {
            token.last_used_at = token.last_used_at.max(Some(contact.at));
        }
    }

    pub(super) fn sweep(&mut self, sweep: &Sweep) -> Swept {
        let Sweep { now, pace, .. } = *sweep;
        let rule = self.monitor.rule(now, pace);
        let (mut silent, mut seen) = (Vec::new(), Seen { silent: 0, heard: 0 });
        for HostEntry { host, presence, .. } in self.hosts.values() {
            let Presence::Online { last_seen_at } = presence.presence else { continue };
            let counts = u64::from(!host.is_archived());
            if last_seen_at < rule.silent_before(host.liveness_window) {
                // By when their windows ended.
                silent.push((rule.heard_from(host.liveness_window).saturating_since(last_seen_at), host.id));
                seen.silent += counts;
            } else if last_seen_at >= rule.heard_from(host.liveness_window) {
                seen.heard += counts;
            }
        }
        let (monitor, verdict) = std::mem::take(&mut self.monitor).tick(now, pace, seen);
        silent.sort_by(|(a, _), (b, _)| b.cmp(a));
        let silences = match verdict {
            Verdict::Sweep { storm } => Silence::of_sweep(sweep, rule, storm, silent.iter().map(|(_, id)| *id)),
            Verdict::Suspended { .. } | Verdict::Holding { .. } | Verdict::Behind => Vec::new(),
        };
        let more = matches!(verdict, Verdict::Sweep { .. }) && silences.len() < silent.len();
        let events = self.mark_silent(&silences);
        self.monitor = monitor.note_fallen(now, pace, events.len() as u64);
        Swept { monitor: self.monitor.clone(), verdict, events, more }
    }

    fn mark_silent(&mut self, silences: &[Silence]) -> Vec<Event> {
        let mut events = Vec::new();
        for silence in silences {
            let Some(entry) = self.hosts.get_mut(&silence.host_id) else { continue };
            let before = entry.presence.presence;
            let after = silence.rule.judge(before, entry.host.liveness_window);
            entry.presence.presence = after;
            if !entry.host.is_archived() {
                events.extend(went_silent(silence, &entry.host.tenant_id, entry.host.kind, before, after));
            }
        }
        self.append_events(events)
    }
}

impl HostEntry {
    fn contact(&mut self, contact: &Contact) -> Option<NewEvent> {
        let before = self.presence.presence;
        self.presence.presence = before.contact(contact.at);
        came_online(contact, &self.host.tenant_id, self.host.kind, before, self.presence.presence)
    }

    fn append(&mut self, report: Report, received_at: Timestamp) -> AppendOutcome {
        if let Some(stored) = self.snapshots.get(&report.recorded_at) {
            return if stored.repeats(&report) { AppendOutcome::Duplicate } else { AppendOutcome::Conflict };
        }
        self.snapshots.insert(report.recorded_at, HostSnapshot::of(&report, received_at));
        if self.presence.newest_report_at < Some(report.recorded_at) {
            self.presence.newest_report_at = Some(report.recorded_at);
            if let Some(facts) = &report.host.facts {
                self.presence.facts.merge(facts);
            }
            self.take_containers(report, received_at);
        }
        AppendOutcome::Accepted
    }

    /// Brings the container rows to what the newest report says.
    fn take_containers(&mut self, report: Report, received_at: Timestamp) {
        let mut changed = false;
        if report.containers_complete {
            for (id, row) in &mut self.containers {
                let present = report.containers.iter().any(|container| container.container_id == *id);
                if !present && row.removed_at.is_none() {
                    // It was there at the last complete report, and its row does not say so yet.
                    row.last_seen_at = row.last_seen_at.max(self.last_complete_at.unwrap_or(row.last_seen_at));
                    row.removed_at = Some(received_at);
                    changed = true;
                }
            }
        }
        for container in report.containers {
            let container = Container { metrics: None, ..container };
            match self.containers.get_mut(&container.container_id) {
                Some(row) if row.removed_at.is_none() && row.container.describes_same(&container) => {}
                Some(row) => {
                    *row = ContainerRecord {
                        container,
                        first_seen_at: row.first_seen_at,
                        last_seen_at: received_at,
                        removed_at: None,
                    };
                    changed = true;
                }
                None => {
                    let row = ContainerRecord {
                        container: container.clone(),
                        first_seen_at: received_at,
                        last_seen_at: received_at,
                        removed_at: None,
                    };
                    self.containers.insert(container.container_id, row);
                    changed = true;
                }
            }
        }
        if report.containers_complete {
            self.last_complete_at = Some(received_at);
        }
        self.presence.containers_version += u64::from(changed);
    }

    /// A container row with what is derived: its numbers, and when it was last seen.
    pub(super) fn container_record(&self, row: &ContainerRecord) -> ContainerRecord {
        let newest = self.presence.newest_report_at.and_then(|at| self.snapshots.get(&at));
        let metrics = newest.and_then(|snapshot| {
            let found = snapshot.containers.iter().find(|c| c.container_id == row.container.container_id);
            found.map(|container| container.metrics)
        });
        let last_seen_at = match (row.removed_at, self.last_complete_at) {
            (None, Some(complete)) => row.last_seen_at.max(complete),
            _ => row.last_seen_at,
        };
        ContainerRecord { container: Container { metrics, ..row.container.clone() }, last_seen_at, ..row.clone() }
    }
}
