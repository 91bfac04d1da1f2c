//! The verbs: each asks the store, lets the pure state machines decide, and commits what they decided.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::super::sample;
use super::world::World;
use super::{Agreement, Disagreement, agree};
use crate::agent_token::{AgentToken, AgentTokenState, Origin, Request, RevokeReason, Siblings, Verdict};
use crate::clock::Timestamp;
use crate::event::{EventBody, NewEvent};
use crate::host::{ExternalId, Host, Tag};
use crate::id::{HostId, LineageId};
use crate::install_token::{Claim, Exchange, InstallToken};
use crate::liveness::{self, LivenessWindow, Rule};
use crate::secret::TokenHash;
use crate::store::{
    Aggregate, Append, AppendOutcome, Commit, Contact, Expected, HostWrite, Key, Presented, Prune, Revision, Silence,
    Store, Swept, Write,
};
use crate::telemetry::{HostFacts, HostReport, Report};

/// A step of a sequence. Numbers point at what was made before, modulo how much there is, so that a sequence from which
/// steps were taken away still means something.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Create { name: usize, external_id: Option<usize> },
    Mint { host: usize, stale: bool },
    Exchange { install_token: usize, claim: usize },
    FirstUse { agent_token: usize },
    Propose { agent_token: usize, claim: usize },
    Rotate { agent_token: usize, overlap: bool },
    Revoke { agent_token: usize, stale: bool },
    Edit { host: usize, is_tagged: bool, cordoned: bool },
    Archive { host: usize },
    Delete { host: usize, stale: bool },
    Report { reports: Vec<Said> },
    Touch { host: usize, seconds_ago: u64 },
    Silence { window: u64 },
    Prune { what: Old, seconds: u64 },
    Pass { seconds: u64 },
}

/// A report: whose, how late, and which of a few contents.
#[derive(Debug, Clone)]
pub(super) struct Said {
    host: usize,
    seconds_ago: u64,
    containers: u8,
    complete: bool,
    variant: u8,
}

/// What a step prunes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Old {
    Snapshots,
    Events,
    Containers,
    Tombstones,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..=60)
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = || prop_oneof![Just(1), Just(31), Just(91), Just(3_600), Just(86_400), Just(8 * 86_400)];
    let said = (0..6usize, 0..4u64, 0..8u8, any::<bool>(), 0..3u8).prop_map(
        |(host, seconds_ago, containers, complete, variant)| Said { host, seconds_ago, containers, complete, variant },
    );
    prop_oneof![
        6 => (0..5usize, prop::option::weighted(0.3, 0..3usize))
            .prop_map(|(name, external_id)| Step::Create { name, external_id }),
        6 => (0..6usize, prop::bool::weighted(0.1)).prop_map(|(host, stale)| Step::Mint { host, stale }),
        8 => (0..6usize, 0..12usize).prop_map(|(install_token, claim)| Step::Exchange { install_token, claim }),
        6 => (0..8usize).prop_map(|agent_token| Step::FirstUse { agent_token }),
        6 => (0..8usize, 0..12usize).prop_map(|(agent_token, claim)| Step::Propose { agent_token, claim }),
        2 => (0..8usize, any::<bool>()).prop_map(|(agent_token, overlap)| Step::Rotate { agent_token, overlap }),
        2 => (0..8usize, prop::bool::weighted(0.3)).prop_map(|(agent_token, stale)| Step::Revoke { agent_token, stale }),
        3 => (0..6usize, prop::bool::weighted(0.7), prop::bool::weighted(0.3))
            .prop_map(|(host, is_tagged, cordoned)| Step::Edit { host, is_tagged, cordoned }),
        1 => (0..6usize).prop_map(|host| Step::Archive { host }),
        1 => (0..6usize, prop::bool::weighted(0.3)).prop_map(|(host, stale)| Step::Delete { host, stale }),
        10 => prop::collection::vec(said, 1..4).prop_map(|reports| Step::Report { reports }),
        3 => (0..6usize, 0..200u64).prop_map(|(host, seconds_ago)| Step::Touch { host, seconds_ago }),
        3 => prop_oneof![Just(30), Just(90)].prop_map(|window| Step::Silence { window }),
        2 => (prop_oneof![Just(Old::Snapshots), Just(Old::Events), Just(Old::Containers), Just(Old::Tombstones)], seconds())
            .prop_map(|(what, seconds)| Step::Prune { what, seconds }),
        5 => seconds().prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// What a number points at.
fn pick<T: Clone>(all: &[T], n: usize) -> Option<T> {
    all.get(n.checked_rem(all.len())?).cloned()
}

/// Of some hosts, by their names: shorter and longer than what sweeps go by.
fn own_window(name: usize) -> Option<LivenessWindow> {
    let seconds = [None, None, Some(10), Some(60), Some(3_600)][name];
    seconds.map(|seconds| LivenessWindow::from_secs(seconds).expect("it is within bounds"))
}

/// A revision that has gone by, or that never was.
fn stale(revision: Revision) -> Revision {
    if revision == Revision::FIRST { revision.next() } else { Revision::new(revision.get() - 1) }
}

impl World {
    pub(super) async fn take(&mut self, store: &impl Store, step: &Step) -> Agreement {
        match *step {
            Step::Create { name, external_id } => self.create(store, name, external_id).await,
            Step::Mint { host, stale } => self.mint(store, host, stale).await,
            Step::Exchange { install_token, claim } => self.exchange(store, install_token, claim).await,
            Step::FirstUse { agent_token } => self.first_use(store, agent_token).await,
            Step::Propose { agent_token, claim } => self.propose(store, agent_token, claim).await,
            Step::Rotate { agent_token, overlap } => self.rotate(store, agent_token, overlap).await,
            Step::Revoke { agent_token, stale } => self.revoke(store, agent_token, stale).await,
            Step::Edit { host, is_tagged, cordoned } => self.edit(store, host, is_tagged, cordoned).await,
            Step::Archive { host } => self.archive(store, host).await,
            Step::Delete { host, stale } => self.delete(store, host, stale).await,
            Step::Report { ref reports } => self.report(store, reports).await,
            Step::Touch { host, seconds_ago } => self.touch(store, host, seconds_ago).await,
            Step::Silence { window } => self.silence(store, Duration::from_secs(window)).await,
            Step::Prune { what, seconds } => self.prune(store, what, Duration::from_secs(seconds)).await,
            Step::Pass { seconds } => {
                self.now = self.now.saturating_add(Duration::from_secs(seconds));
                Ok(())
            }
        }
    }

    fn event(&self, host: &Host, verb: &str) -> NewEvent {
        let body = EventBody::Other { r#type: format!("model.{verb}"), data: serde_json::Value::Null };
        NewEvent { at: self.now, body, ..sample::event(host) }
    }

    /// Commits a write of a host, with an event, and looks at the host afterwards.
    async fn write(&mut self, store: &impl Store, verb: &str, write: HostWrite) -> Agreement<bool> {
        let (host_id, event) = (write.host.id, self.event(&write.host, verb));
        let tokens = write.agent_tokens.clone();
        let accepted = self.commit(store, Commit::of(write, vec![event])).await?;
        self.host_agrees(store, host_id).await?;
        for token in tokens {
            self.hash_agrees(store, &token.hash).await?;
            if accepted && !self.all_agent_tokens.iter().any(|known| known.id == token.id) {
                self.all_agent_tokens.push(token);
            }
        }
        Ok(accepted)
    }

    /// The host as the model knows it, ready to be written.
    fn at_revision(&self, host_id: HostId, is_stale: bool) -> Option<HostWrite> {
        let entry = self.hosts.get(&host_id)?;
        let revision = if is_stale { stale(entry.revision) } else { entry.revision };
        Some(HostWrite::new(Expected::Revision(revision), entry.host.clone()))
    }

    async fn create(&mut self, store: &impl Store, name: usize, external_id: Option<usize>) -> Agreement {
        let external_id = external_id.map(|n| ExternalId::new(format!("machine {n}")).expect("it is short"));
        let host = Host {
            tenant_id: self.tenant.clone(),
            external_id,
            tags: self.tags(name.is_multiple_of(2)),
            liveness_window: own_window(name),
            created_at: self.now,
            updated_at: self.now,
            ..sample::host(&format!("host {name}"))
        };
        let write = HostWrite::new(Expected::Absent, host.clone());
        if self.write(store, "create", write).await? {
            self.all_hosts.push(host);
        }
        Ok(())
    }

    fn tags(&self, is_tagged: bool) -> BTreeSet<Tag> {
        is_tagged.then(|| self.tag.clone()).into_iter().collect()
    }

    async fn edit(&mut self, store: &impl Store, host: usize, is_tagged: bool, cordoned: bool) -> Agreement {
        let Some(host) = pick(&self.all_hosts, host) else { return Ok(()) };
        let Some(mut write) = self.at_revision(host.id, false) else { return Ok(()) };
        if write.host.is_archived() {
            return Ok(());
        }
        (write.host.tags, write.host.cordoned) = (self.tags(is_tagged), cordoned);
        self.write(store, "edit", write).await.map(drop)
    }

    async fn mint(&mut self, store: &impl Store, host: usize, is_stale: bool) -> Agreement {
        let Some(host) = pick(&self.all_hosts, host) else { return Ok(()) };
        let Some(mut write) = self.at_revision(host.id, is_stale) else { return Ok(()) };
        if write.host.is_archived() {
            return Ok(());
        }
        let earlier = self.hosts[&host.id].issued().cloned();
        write.install_tokens.extend(earlier.and_then(|token| token.revoke(self.now).ok()));
        let expires_at = self.now.saturating_add(Duration::from_secs(900));
        let token = InstallToken { created_at: self.now, expires_at, ..sample::install_token(&write.host) };
        write.install_tokens.push(token.clone());
        if self.write(store, "mint", write).await? {
            self.all_install_tokens.push(token);
        }
        Ok(())
    }

    async fn exchange(&mut self, store: &impl Store, install_token: usize, claim: usize) -> Agreement {
        let Some(presented) = pick(&self.all_install_tokens, install_token) else { return Ok(()) };
        let hash = self.claims[claim];
        let holder = self.hosts.values().find(|entry| entry.install_tokens.contains_key(&presented.id));
        let expected = holder.map(|entry| {
            let token = entry.install_tokens[&presented.id].clone();
            Aggregate::Host(Box::new(entry.aggregate(Presented::InstallToken(token))))
        });
        agree("an install token", store.load(&Key::InstallToken(presented.hash)).await?, expected)?;
        let Some(entry) = holder else { return Ok(()) };
        let install_token = entry.install_tokens[&presented.id].clone();
        if install_token.exchange(&Claim::Client(hash), None, self.now) != Exchange::Grant {
            return Ok(());
        }
        let host_id = entry.host.id;
        let token = AgentToken {
            hash,
            origin: Origin::Exchange(install_token.id),
            created_at: self.now,
            ..sample::agent_token(&entry.host)
        };
        let consumed = install_token.consume(Claim::Client(hash), token.id, self.now);
        let Some(mut write) = self.at_revision(host_id, false) else { return Ok(()) };
        write.host = write.host.enrol(self.now).map_err(|error| Disagreement(error.to_string()))?;
        write.install_tokens.push(consumed.map_err(|error| Disagreement(error.to_string()))?);
        write.agent_tokens.push(token);
        write.facts = Some(HostFacts { cpu_count: u32::try_from(claim).ok(), ..HostFacts::default() });
        self.write(store, "exchange", write).await.map(drop)
    }

    /// The token as it stands, if its host is there; and what the store says of it by its hash.
    async fn presented(&self, store: &impl Store, n: usize) -> Agreement<Option<(Host, AgentToken)>> {
        let Some(token) = pick(&self.all_agent_tokens, n) else { return Ok(None) };
        // By its hash: once a tombstone is forgotten, another token may have it.
        let found = self
            .hosts
            .values()
            .find_map(|entry| Some((entry, entry.agent_tokens.values().find(|known| known.hash == token.hash)?)));
        let expected = found
            .map(|(entry, token)| Aggregate::Host(Box::new(entry.aggregate(Presented::AgentToken(token.clone())))));
        agree("an agent token", store.load(&Key::AgentToken(token.hash)).await?, expected)?;
        self.hash_agrees(store, &token.hash).await?;
        Ok(found.map(|(entry, token)| (entry.host.clone(), token.clone())))
    }

    fn siblings(&self, token: &AgentToken) -> (Option<AgentToken>, Option<AgentToken>) {
        let Some(entry) = self.hosts.get(&token.host_id) else { return (None, None) };
        let lineage = |other: &&AgentToken| other.lineage_id == token.lineage_id;
        let pending = entry.live_tokens().filter(lineage).find(|other| other.state == AgentTokenState::Pending);
        let successor = match token.state {
            AgentTokenState::Retired { successor, .. } => entry.agent_tokens.get(&successor),
            _ => None,
        };
        (pending.cloned(), successor.cloned())
    }

    /// The first use: Pending becomes Active, and what it succeeds is retired, in one commit.
    async fn first_use(&mut self, store: &impl Store, n: usize) -> Agreement {
        let Some((host, token)) = self.presented(store, n).await? else { return Ok(()) };
        let verdict = token.judge(host.is_archived(), Request::Serve, Siblings::default(), self.now);
        if verdict == Verdict::PromoteFirst { self.promote(store, token).await } else { Ok(()) }
    }

    async fn promote(&mut self, store: &impl Store, token: AgentToken) -> Agreement {
        let Some(mut write) = self.at_revision(token.host_id, false) else { return Ok(()) };
        let promoted = token.promote(None, self.now).map_err(|error| Disagreement(error.to_string()))?;
        let active = self.hosts[&promoted.host_id]
            .live_tokens()
            .find(|other| other.lineage_id == promoted.lineage_id && other.id != promoted.id)
            .cloned();
        // In this order the new one takes a place that is not free yet: the store has to sort that out.
        write.agent_tokens.push(promoted.clone());
        write.agent_tokens.extend(active.and_then(|token| token.retire(&promoted, self.now).ok()));
        self.write(store, "first_use", write).await.map(drop)
    }

    async fn propose(&mut self, store: &impl Store, n: usize, claim: usize) -> Agreement {
        let Some((host, token)) = self.presented(store, n).await? else { return Ok(()) };
        let hash = self.claims[claim];
        let (pending, successor) = self.siblings(&token);
        let siblings = Siblings { pending: pending.as_ref(), successor: successor.as_ref() };
        // Whether it was seen elsewhere is for the store to say: the commit below has to be refused then.
        let request = Request::Propose { hash, seen_elsewhere: false };
        match token.judge(host.is_archived(), request, siblings, self.now) {
            Verdict::PromoteFirst => self.promote(store, token).await,
            Verdict::Accept { displaces } => {
                let Some(write) = self.at_revision(host.id, false) else { return Ok(()) };
                let origin = Origin::Proposed { predecessor: token.id };
                let next = self.successor(&host, &token, hash, origin);
                let yields = pending.filter(|pending| Some(pending.id) == displaces);
                let displaced = yields.and_then(|pending| pending.displace(next.id, self.now).ok());
                let agent_tokens = displaced.into_iter().chain([next]).collect();
                self.write(store, "propose", HostWrite { agent_tokens, ..write }).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn successor(&self, host: &Host, token: &AgentToken, hash: TokenHash, origin: Origin) -> AgentToken {
        let lineage_id: LineageId = token.lineage_id;
        AgentToken { lineage_id, hash, origin, created_at: self.now, ..sample::agent_token(host) }
    }

    /// An administrator's rotation: beside the active one until it is first used, or in place of all others now.
    async fn rotate(&mut self, store: &impl Store, n: usize, overlap: bool) -> Agreement {
        let Some((host, token)) = self.presented(store, n).await? else { return Ok(()) };
        let (pending, _) = self.siblings(&token);
        if host.is_archived() || !token.is_live() || (overlap && pending.is_some()) {
            return Ok(());
        }
        let Some(mut write) = self.at_revision(host.id, false) else { return Ok(()) };
        let origin = Origin::Rotated { predecessor: token.id, by: sample::actor() };
        let next = self.successor(&host, &token, sample::hash(), origin);
        if !overlap {
            let lineage = self.hosts[&host.id].live_tokens().filter(|other| other.lineage_id == token.lineage_id);
            write.agent_tokens =
                lineage.cloned().filter_map(|other| other.revoke(RevokeReason::CutOff, self.now).ok()).collect();
            write.host = write.host.next_generation(self.now);
        }
        write.agent_tokens.push(next);
        self.write(store, "rotate", write).await.map(drop)
    }

    async fn revoke(&mut self, store: &impl Store, n: usize, is_stale: bool) -> Agreement {
        let Some((host, token)) = self.presented(store, n).await? else { return Ok(()) };
        let Ok(revoked) = token.revoke(RevokeReason::Administrator, self.now) else { return Ok(()) };
        let Some(write) = self.at_revision(host.id, is_stale) else { return Ok(()) };
        let host = write.host.clone().next_generation(self.now);
        self.write(store, "revoke", HostWrite { host, agent_tokens: vec![revoked], ..write }).await.map(drop)
    }

    async fn archive(&mut self, store: &impl Store, host: usize) -> Agreement {
        let Some(host) = pick(&self.all_hosts, host) else { return Ok(()) };
        let Some(write) = self.at_revision(host.id, false) else { return Ok(()) };
        let entry = &self.hosts[&host.id];
        let (issued, live) = (entry.issued().cloned(), entry.live_tokens().cloned());
        let write = HostWrite {
            host: write.host.archive(self.now),
            install_tokens: issued.into_iter().filter_map(|token| token.revoke(self.now).ok()).collect(),
            agent_tokens: live.filter_map(|token| token.revoke(RevokeReason::HostArchived, self.now).ok()).collect(),
            ..write
        };
        self.write(store, "archive", write).await.map(drop)
    }

    async fn delete(&mut self, store: &impl Store, host: usize, is_stale: bool) -> Agreement {
        let Some(host) = pick(&self.all_hosts, host) else { return Ok(()) };
        // One that has gone already cannot be deleted again.
        let revision = self.hosts.get(&host.id).map_or(Revision::FIRST, |entry| entry.revision);
        let expected = if is_stale { stale(revision) } else { revision };
        let write = Write::HostDeletion { expected, host_id: host.id, at: self.now };
        let event = self.event(&host, "delete");
        self.commit(store, Commit::of(write, vec![event])).await?;
        self.host_agrees(store, host.id).await
    }

    /// A contact with one of the host's tokens, and now and then with anybody's. `n` is a number that the step has for
    /// something else: one more in each step would make other sequences of the seeds that are kept.
    fn contact(&self, host: &Host, at: Timestamp, n: usize) -> Contact {
        let own = self.all_agent_tokens.iter().filter(|token| n % 8 == 7 || token.host_id == host.id);
        let token = pick(&own.collect::<Vec<_>>(), n);
        let unknown = sample::contact(host, at);
        Contact { token_id: token.map_or(unknown.token_id, |token| token.id), ..unknown }
    }

    async fn report(&mut self, store: &impl Store, said: &[Said]) -> Agreement {
        let mut appends = Vec::new();
        let (mut foreseen, mut events) = (Vec::new(), Vec::new());
        for said in said {
            let Some(host) = pick(&self.all_hosts, said.host) else { return Ok(()) };
            let recorded_at = self.now.saturating_sub(Duration::from_secs(said.seconds_ago));
            let report = report(said, recorded_at);
            let contact = self.contact(&host, self.now, said.containers.into());
            events.extend(self.hosts.get_mut(&host.id).and_then(|entry| entry.hear(&contact)));
            foreseen.push(match self.hosts.get_mut(&host.id) {
                None => "absent",
                Some(entry) if entry.host.is_archived() => "archived",
                Some(entry) => match entry.snapshots.get(&recorded_at) {
                    Some(stored) if stored.repeats(&report) => "duplicate",
                    Some(_) => "conflict",
                    None => {
                        entry.take_report(&report, contact.at);
                        "accepted"
                    }
                },
            });
            appends.push(Append { contact, report });
        }
        let hosts: BTreeSet<_> = appends.iter().map(|append| append.contact.host_id).collect();
        let appended = store.append(appends).await?;
        agree("the answers to reports", appended.outcomes.iter().map(outcome).collect(), foreseen)?;
        self.tell_unordered(&appended.events, events)?;
        for host_id in hosts {
            self.host_agrees(store, host_id).await?;
            self.tokens_agree(store, host_id).await?;
        }
        Ok(())
    }

    /// Events of several hosts in one transaction come in whichever order the store met them.
    fn tell_unordered(&mut self, written: &[crate::event::Event], mut expected: Vec<NewEvent>) -> Agreement {
        let place = |event: &NewEvent| written.iter().position(|written| written.event.id == event.id);
        expected.sort_by_key(place);
        self.tell(written, expected)
    }

    async fn touch(&mut self, store: &impl Store, host: usize, seconds_ago: u64) -> Agreement {
        let Some(host) = pick(&self.all_hosts, host) else { return Ok(()) };
        let at = self.now.saturating_sub(Duration::from_secs(seconds_ago));
        let contact = self.contact(&host, at, usize::try_from(seconds_ago).unwrap_or_default());
        let event = self.hosts.get_mut(&host.id).and_then(|entry| entry.hear(&contact));
        let written = store.touch(vec![contact]).await?;
        self.tell(&written, event.into_iter().collect())?;
        self.host_agrees(store, host.id).await?;
        self.tokens_agree(store, host.id).await
    }

    /// Sweeps until the store's monitor lets it, since other sequences have hosts there too; then until nobody is left.
    async fn silence(&mut self, store: &impl Store, window: Duration) -> Agreement {
        loop {
            let sweep = sample::sweep(self.now, window);
            let pace = sweep.pace;
            let swept = store.sweep(sweep).await?;
            let rule = swept.monitor.rule(self.now, pace);
            match swept.verdict {
                liveness::Verdict::Sweep { storm } => {
                    self.fall(&swept, rule, storm)?;
                    if !swept.more {
                        return self.nobody_is_silent(rule);
                    }
                }
                liveness::Verdict::Suspended { until, .. } | liveness::Verdict::Holding { until, .. } => {
                    if until <= self.now {
                        return Err(Disagreement(format!("held back until {until}, which is not to come")));
                    }
                    self.now = until;
                }
                // Others were there with a clock of their own, and are gone.
                liveness::Verdict::Behind => self.now = self.now.saturating_add(pace.window),
            }
        }
    }

    /// Whom a sweep told of has to have been silent.
    fn fall(&mut self, swept: &Swept, rule: Rule, storm: bool) -> Agreement {
        let own = swept.events.iter().filter(|event| event.event.tenant_id == self.tenant);
        let written: Vec<_> = own.cloned().collect();
        let mut events = Vec::new();
        for event in &written {
            let Some(host_id) = event.event.host_id else { continue };
            let silence = Silence { host_id, rule, storm, event_id: event.event.id };
            events.extend(self.hosts.get_mut(&host_id).and_then(|entry| entry.judge(&silence)));
        }
        self.tell(&written, events)
    }

    /// Nobody may be left whom it should have told of. Archived hosts fall without a word.
    fn nobody_is_silent(&mut self, rule: Rule) -> Agreement {
        for (host_id, entry) in &mut self.hosts {
            let silence = Silence { host_id: *host_id, rule, storm: false, event_id: sample::event_id() };
            if entry.judge(&silence).is_some() {
                return Err(Disagreement(format!("host {host_id} is silent, and no sweep said so")));
            }
        }
        Ok(())
    }

    async fn prune(&mut self, store: &impl Store, what: Old, age: Duration) -> Agreement {
        let before = self.now.saturating_sub(age);
        let cut = |kind| if kind == what { before } else { Timestamp::MIN };
        let prune = Prune {
            now: self.now,
            snapshots_before: cut(Old::Snapshots),
            events_before: cut(Old::Events),
            containers_removed_before: cut(Old::Containers),
            tombstones_before: cut(Old::Tombstones),
            install_tokens_before: Timestamp::MIN,
            limit: 100,
        };
        while store.prune(&prune).await?.more {}
        match what {
            Old::Events => self.events.retain(|event| event.at >= before),
            Old::Containers => self.hosts.values_mut().for_each(|entry| entry.prune_containers(before)),
            Old::Tombstones => self.tombstones.retain(|_, tombstone| tombstone.deleted_at >= before),
            Old::Snapshots => self.prune_snapshots(store, before).await?,
        }
        Ok(())
    }

    /// Snapshots may stay for up to a day longer: what is between, the store decides.
    async fn prune_snapshots(&mut self, store: &impl Store, before: Timestamp) -> Agreement {
        const DAY: Duration = Duration::from_secs(86_400);
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        for host_id in ids {
            let left = self.telemetry(store, host_id).await?;
            if left.iter().any(|snapshot| snapshot.recorded_at < before.saturating_sub(DAY)) {
                return Err(Disagreement("a snapshot stayed that was to go".to_owned()));
            }
            let Some(entry) = self.hosts.get_mut(&host_id) else { continue };
            entry.snapshots.retain(|at, snapshot| *at >= before || left.contains(snapshot));
            agree("the snapshots left", left, entry.snapshots.values().cloned().collect())?;
        }
        Ok(())
    }
}

fn report(said: &Said, recorded_at: Timestamp) -> Report {
    let containers = ["a", "b", "c"].into_iter().enumerate().filter(|(bit, _)| said.containers & (1 << bit) != 0);
    let image = format!("registry.example/app{}", said.variant / 2);
    let plain = sample::report(recorded_at);
    let facts = HostFacts { kernel: Some(format!("6.{}", said.variant)), ..HostFacts::default() };
    let host = HostReport { facts: (said.variant > 0).then_some(facts), ..plain.host };
    let containers = containers
        .map(|(_, id)| crate::container::Container { image: image.clone(), ..sample::container(id) })
        .collect();
    Report { host, containers, containers_complete: said.complete, ..plain }
}

fn outcome(outcome: &AppendOutcome) -> &'static str {
    match outcome {
        AppendOutcome::Accepted => "accepted",
        AppendOutcome::Duplicate => "duplicate",
        AppendOutcome::Conflict => "conflict",
        AppendOutcome::HostArchived => "archived",
        AppendOutcome::HostAbsent => "absent",
        AppendOutcome::Failed(_) => "failed",
    }
}
