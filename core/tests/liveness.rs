//! The monitor's promises, over random histories of `MemoryStore`: replicas, restarts, clocks that jump, hosts that come
//! and go.

use std::time::Duration;

use enlist_core::conformance::sample::{self, at};
use enlist_core::event::EventBody;
use enlist_core::host::{Host, Presence};
use enlist_core::liveness::{
    LivenessWindow, Monitor, Pace, Rule, SILENT_AT_FIRST, STORM_HOSTS, STORM_WINDOWS, Seen, Verdict,
};
use enlist_core::store::{HostLookup, Sweep, Swept};
use enlist_core::{MemoryStore, Store, Timestamp};
use futures_util::FutureExt;
use proptest::prelude::*;

const PACE: Pace = Pace { window: Duration::from_secs(90), tick: Duration::from_secs(10) };

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// This much time passes while nobody looks.
    Pass(u64),
    /// The clock is set back.
    SetBack(u64),
    /// One of the replicas, whose clock is this much ahead of or behind the others', sweeps.
    Sweep { skew: i64, limit: usize },
    /// So many ticks pass as they should.
    Run(u64),
    /// These hosts are heard.
    Hear(u16),
}

/// Windows of hosts' own: none, shorter than a tick, longer than the fleet's.
fn windows() -> impl Strategy<Value = Vec<Option<LivenessWindow>>> {
    let seconds = prop::sample::select(vec![None, Some(3), Some(30), Some(600)]);
    let window = seconds.prop_map(|seconds| seconds.and_then(|seconds| LivenessWindow::from_secs(seconds).ok()));
    prop::collection::vec(window, 1..14)
}

fn window(own: Option<LivenessWindow>) -> Duration {
    own.map_or(PACE.window, LivenessWindow::duration)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop_oneof![0..=30u64, Just(95), Just(3_600)].prop_map(Step::Pass),
        1 => prop_oneof![Just(30u64), Just(600)].prop_map(Step::SetBack),
        4 => (-5..=5i64, 1..12usize).prop_map(|(skew, limit)| Step::Sweep { skew, limit }),
        4 => (1..60u64).prop_map(Step::Run),
        4 => any::<u16>().prop_map(Step::Hear),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    store: MemoryStore,
    hosts: Vec<Host>,
    now: Timestamp,
    /// The end of the last gap over two ticks between two sweeps, or the first sweep.
    gap_ended: Timestamp,
    last_sweep: Option<Timestamp>,
    /// A last sweep that lay far ahead of a clock, and since when by that clock.
    behind: Option<(Timestamp, Timestamp)>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory never waits")
}

impl World {
    fn new(windows: &[Option<LivenessWindow>]) -> Self {
        let store = MemoryStore::new();
        let hosts = windows.iter().enumerate();
        let hosts: Vec<_> =
            hosts.map(|(n, window)| Host { liveness_window: *window, ..sample::host(&format!("host {n}")) }).collect();
        for host in &hosts {
            now(sample::create(&store, host));
        }
        let now = at(10_000);
        Self { store, hosts, now, gap_ended: now, last_sweep: None, behind: None }
    }

    fn presence(&self, host: &Host) -> Presence {
        now(self.store.find_host(&HostLookup::Id(host.id))).unwrap().unwrap().presence.presence
    }

    fn is_silent(&self, host: &Host) -> bool {
        matches!(self.presence(host).silence(self.now, window(host.liveness_window)), Presence::Unreachable { since, .. } if since == self.now)
            && matches!(self.presence(host), Presence::Online { .. })
    }

    fn hear(&self, which: u16) {
        let heard = self.hosts.iter().enumerate().filter(|(n, _)| which & (1 << n) != 0);
        let contacts = heard.map(|(_, host)| sample::contact(host, self.now)).collect();
        now(self.store.touch(contacts)).unwrap();
    }

    /// Sweeps, and looks at everything that every sweep promises.
    fn sweep(&mut self, at: Timestamp, limit: usize) -> Swept {
        let behind = self.last_sweep.filter(|last| last.saturating_since(at) > PACE.window);
        // A clock that was set back is believed once nobody has swept by another for two ticks.
        let set_back = match (behind, &mut self.behind) {
            (Some(last), Some((seen, since))) if *seen == last => {
                *since = at.min(*since);
                at.saturating_since(*since) > PACE.tick * 2
            }
            (Some(last), noted) => {
                *noted = Some((last, at));
                false
            }
            (None, _) => false,
        };
        let gap = set_back || self.last_sweep.is_none_or(|last| at.saturating_since(last) > PACE.tick * 2);
        if gap {
            self.gap_ended = at;
        }
        self.last_sweep = Some(if set_back { at } else { self.last_sweep.map_or(at, |last| last.max(at)) });
        let before: Vec<_> = self.hosts.iter().map(|host| self.presence(host)).collect();
        let sweep = Sweep { pace: PACE, ..sample::sweep(at, PACE.window) };
        let sweep = Sweep { event_ids: sweep.event_ids[..limit].to_vec(), ..sweep };
        let swept = now(self.store.sweep(sweep)).unwrap();
        let mut fell = 0;
        for (host, before) in self.hosts.iter().zip(before) {
            let after = self.presence(host);
            let events = swept.events.iter().filter(|event| event.event.host_id == Some(host.id)).count();
            if before == after {
                assert_eq!(events, 0, "nothing is told twice");
                continue;
            }
            fell += 1;
            assert_eq!(events, 1, "what changes is told once");
            let own = window(host.liveness_window);
            assert_eq!(after, before.silence(at, own), "only silence changes anything");
            // By the clock that is furthest ahead.
            let latest = self.last_sweep.unwrap_or(at);
            let listened = latest.saturating_since(self.gap_ended);
            assert!(listened >= own.max(PACE.window), "a window to be heard after a gap");
        }
        assert!(fell <= limit);
        if let Verdict::Holding { since, until } = swept.verdict {
            assert_eq!(until.saturating_since(since), PACE.window * STORM_WINDOWS);
            assert!(at < until);
        }
        for event in &swept.events {
            let EventBody::HostUnreachable { storm, .. } = event.event.body else { panic!("{event:?}") };
            assert_eq!(Verdict::Sweep { storm }, swept.verdict);
        }
        swept
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Pass(seconds) => self.now = self.now.saturating_add(Duration::from_secs(seconds)),
            Step::SetBack(seconds) => self.now = self.now.saturating_sub(Duration::from_secs(seconds)),
            Step::Sweep { skew, limit } => {
                let seconds = Duration::from_secs(skew.unsigned_abs());
                let at = if skew < 0 { self.now.saturating_sub(seconds) } else { self.now.saturating_add(seconds) };
                self.sweep(at, limit);
            }
            Step::Run(ticks) => self.run(ticks),
            Step::Hear(which) => self.hear(which),
        }
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now = self.now.saturating_add(PACE.tick);
            while self.sweep(self.now, 3).more {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever went before: once replicas sweep as they should, whoever stays silent is unreachable within a window's
    /// suspension, a storm and a tick or two more, though others come and go.
    #[test]
    fn no_history_hides_an_outage_for_ever(
        windows in windows(),
        history in steps(),
        later in prop::collection::vec(any::<u16>(), 160),
        silent in 0..14usize,
    ) {
        let hosts = windows.len();
        let mut world = World::new(&windows);
        for step in &history {
            world.take(step);
        }
        // A clock that was set back has to catch up with what was heard before.
        let newest = world.hosts.iter().filter_map(|host| world.presence(host).last_seen_at()).max();
        world.now = world.now.max(newest.unwrap_or(world.now));
        let silent = world.hosts[silent % hosts].clone();
        let bit = 1 << world.hosts.iter().position(|host| host.id == silent.id).unwrap();
        let own = window(silent.liveness_window);
        let limit = PACE.window * (1 + STORM_WINDOWS) + own.max(PACE.window) + PACE.tick * 6;
        let begin = world.now;
        for heard in later {
            if world.now.saturating_since(begin) > limit {
                break;
            }
            world.run(1);
            world.hear(heard & !bit);
        }
        let presence = world.presence(&silent);
        prop_assert!(!matches!(presence, Presence::Online { .. }), "{presence:?}");
    }

    /// A few hosts, or fewer than half, are never held back: what is silent is unreachable at the next sweep.
    #[test]
    fn only_many_at_once_are_a_storm(hosts in 1..14usize, silent in 0..14u16, history in steps()) {
        let mut world = World::new(&vec![None; hosts]);
        for step in &history {
            world.take(step);
        }
        let newest = world.hosts.iter().filter_map(|host| world.presence(host).last_seen_at()).max();
        world.now = world.now.max(newest.unwrap_or(world.now));
        // Everybody is well for as long as anything is remembered.
        for _ in 0..20 {
            world.run(1);
            world.hear(u16::MAX);
        }
        let count = silent.min(u16::try_from(hosts).unwrap());
        for _ in 0..9 {
            world.run(1);
            world.hear(u16::MAX << count);
        }
        world.now = world.now.saturating_add(PACE.tick);
        world.hear(u16::MAX << count);
        let verdict = world.sweep(world.now, 20).verdict;
        let is_storm = u64::from(count) >= STORM_HOSTS && usize::from(count) * 2 >= hosts;
        if is_storm {
            prop_assert!(matches!(verdict, Verdict::Holding { .. }), "{:?}", verdict);
        } else {
            prop_assert_eq!(verdict, Verdict::Sweep { storm: false });
            prop_assert!(!world.hosts.iter().any(|host| world.is_silent(host)));
        }
    }

    /// Fewer than a storm has: each falls at the first sweep beyond its own window.
    #[test]
    fn each_host_falls_by_its_own_window(windows in windows(), history in steps(), heard in 0..10u64) {
        let windows = &windows[..windows.len().min(4)];
        let mut world = World::new(windows);
        for step in &history {
            world.take(step);
        }
        let newest = world.hosts.iter().filter_map(|host| world.presence(host).last_seen_at()).max();
        world.now = world.now.max(newest.unwrap_or(world.now));
        // The longest window after whatever happened.
        world.run(80);
        let last = world.now.saturating_add(Duration::from_secs(heard));
        world.now = last;
        world.hear(u16::MAX);
        for _ in 0..70 {
            world.now = world.now.saturating_add(PACE.tick);
            world.sweep(world.now, 20);
            for host in &world.hosts {
                let is_silent = world.now.saturating_since(last) > window(host.liveness_window);
                prop_assert_eq!(matches!(world.presence(host), Presence::Unreachable { .. }), is_silent);
            }
        }
    }

    /// What stores choose rows by is what they judge by.
    #[test]
    fn the_bounds_of_a_rule_are_its_verdicts(
        at_second in 0..2_000i64, listening in 0..2_000i64, seen in 0..2_000i64, micros in -1..=1i64, own in windows(),
    ) {
        let moved = |seconds: i64, micros: i64| Timestamp::from_unix_micros(at(seconds).unix_micros() + micros).unwrap();
        let rule = Rule { now: at(at_second), window: PACE.window, listening_since: moved(listening, micros) };
        for (own, micros) in own.into_iter().flat_map(|own| [(own, -1), (own, 0), (own, 1)]) {
            for last_seen_at in [moved(seen, micros), moved(at_second - i64::try_from(window(own).as_secs()).unwrap(), micros)] {
                let online = Presence::Online { last_seen_at };
                let falls = rule.judge(online, own) != online;
                let silence = rule.now.saturating_since(last_seen_at);
                let listened = rule.now.saturating_since(rule.listening_since);
                prop_assert_eq!(falls, silence > window(own) && listened >= window(own));
                prop_assert_eq!(falls, last_seen_at < rule.silent_before(own));
                prop_assert_eq!(silence <= window(own), last_seen_at >= rule.heard_from(own));
            }
        }
    }

    /// What is remembered is bounded, and survives being written.
    #[test]
    fn a_monitor_stays_small_and_is_read_back(falls in prop::collection::vec((0..20u64, 1..1_000_000u64), 0..200)) {
        let (mut monitor, mut now) = (Monitor::default(), at(0));
        for (seconds, hosts) in falls {
            now = now.saturating_add(Duration::from_secs(seconds));
            (monitor, _) = monitor.tick(now, PACE, Seen { silent: hosts, heard: hosts });
            monitor = monitor.note_fallen(now, PACE, hosts);
            let text = serde_json::to_string(&monitor).unwrap();
            prop_assert!(text.len() < 2_000, "{} bytes", text.len());
            prop_assert_eq!(&serde_json::from_str::<Monitor>(&text).unwrap(), &monitor);
        }
    }
}

/// A monitor that a later version has kept too, and one that was never written.
#[test]
fn an_unknown_field_stays_whoever_sweeps_and_a_missing_one_is_new() {
    let stored = r#"{"last_sweep_at": null, "of_a_later_version": {"n": [1, 2]}}"#;
    let monitor: Monitor = serde_json::from_str(stored).unwrap();
    let (monitor, _) = monitor.tick(at(0), PACE, Seen { silent: 0, heard: 0 });
    let kept = serde_json::to_value(monitor.note_fallen(at(0), PACE, 3)).unwrap();
    assert_eq!(kept["of_a_later_version"], serde_json::json!({"n": [1, 2]}));
    assert_eq!(kept["last_sweep_at"], serde_json::json!(at(0).to_string()));
    assert_eq!(serde_json::from_str::<Monitor>("{}").unwrap(), Monitor::default());
}

/// Hosts that are silent and heard, counted as stores do it; and how many were counted.
fn counted(monitor: &Monitor, there: Seen, now: Timestamp) -> (Seen, u64) {
    let (mut limit, mut sum) = (SILENT_AT_FIRST, 0);
    loop {
        let silent = there.silent.min(limit);
        let heard = there.heard.min(monitor.heard_to_count(silent, now, PACE));
        sum += silent + heard;
        match monitor.silent_to_count(Seen { silent, heard }, limit, now, PACE) {
            Some(more) => limit = more,
            None => return (Seen { silent, heard }, sum),
        }
    }
}

proptest! {
    /// The smaller of the two numbers decides what it costs to count.
    #[test]
    fn what_is_counted_decides_as_all_would_and_is_little_where_either_is(
        fallen in prop_oneof![Just(0), 0..10_u64, 0..5_000_u64],
        silent in prop_oneof![0..10_u64, 900..1_100_u64, 0..100_000_u64],
        heard in prop_oneof![0..10_u64, 900..1_100_u64, 0..100_000_u64],
    ) {
        let monitor = (0..10).fold(Monitor::default(), |monitor, n| {
            monitor.tick(at(10 * n), PACE, Seen { silent: 0, heard: 0 }).0
        });
        let monitor = monitor.note_fallen(at(90), PACE, fallen);
        let (all, now) = (Seen { silent, heard }, at(100));
        let (some, sum) = counted(&monitor, all, now);
        let of_all = monitor.clone().tick(now, PACE, all).1;
        let is_judged = matches!(of_all, Verdict::Sweep { .. } | Verdict::Holding { .. });
        prop_assert!(is_judged, "{of_all:?}");
        prop_assert_eq!(monitor.tick(now, PACE, some).1, of_all);
        let smaller = silent.min(heard);
        prop_assert!(sum <= 8 * (SILENT_AT_FIRST + fallen + smaller), "{sum}");
    }
}

/// It would suspend the verdicts of all with each of its sweeps.
#[test]
fn a_replica_whose_clock_lags_holds_nobody_up_and_stands_in_when_it_is_alone() {
    let late = |now: Timestamp| now.saturating_sub(Duration::from_secs(600));
    let (mut monitor, mut now) = (Monitor::default(), at(10_000));
    let mut tick = |now: Timestamp| {
        let (after, verdict) = monitor.clone().tick(now, PACE, Seen { silent: 1, heard: 1 });
        monitor = after.note_fallen(now, PACE, 0);
        verdict
    };
    for n in 0..60 {
        let verdict = tick(now);
        assert_eq!(matches!(verdict, Verdict::Suspended { .. }), n < 9, "{n}: {verdict:?}");
        assert_eq!(tick(late(now)), Verdict::Behind);
        now = now.saturating_add(PACE.tick);
    }
    let alone: Vec<_> = (0..20).map(|n| tick(late(now.saturating_add(PACE.tick * n)))).collect();
    assert!(alone[..2].iter().all(|verdict| *verdict == Verdict::Behind), "{alone:?}");
    assert!(matches!(alone[2], Verdict::Suspended { absent_since: None, .. }), "{alone:?}");
    assert_eq!(alone[11], Verdict::Sweep { storm: false });
}
