//! The reports that are sent are such as Enlist takes, and the same in every run.

use std::collections::{BTreeSet, HashSet};

use enlist_benches::report::{CONTAINERS, Report, Scattered, baseline_token};
use enlist_core::clock::Timestamp;
use enlist_core::telemetry::{judge_recorded_at, parse_report};

const NOW: i64 = 1_800_000_000_123_456;

fn json(host: u32, sequence: u32, recorded_at: i64) -> String {
    let mut json = String::new();
    Report::new(host, sequence, recorded_at).write_json(&mut json);
    json
}

#[test]
fn core_takes_every_report_and_reads_what_was_meant() {
    let now = Timestamp::from_unix_micros(NOW).expect("a time of this century");
    for (host, sequence) in [(0, 0), (1, 1), (999, 7), (99_999, 1_000_000), (u32::MAX, u32::MAX)] {
        let made = Report::new(host, sequence, NOW);
        let report = parse_report(json(host, sequence, NOW).as_bytes()).expect("within the bounds");
        judge_recorded_at(report.recorded_at, now).expect("live");
        assert_eq!(report.recorded_at, now);
        assert_eq!(report.containers.len(), CONTAINERS);
        assert!(report.containers_complete);
        assert_eq!(report.host.metrics.cpu_percent, Some(made.floats[0]));
        assert_eq!(report.host.metrics.uptime_seconds, Some(made.integers[8] as u64));
        for (container, measured) in report.containers.iter().zip(made.containers) {
            let metrics = container.metrics.expect("measured");
            assert_eq!(metrics.cpu_cores, Some(measured.cpu_cores));
            assert_eq!(metrics.pids, Some(measured.integers[6] as u64));
        }
    }
}

#[test]
fn a_report_is_of_the_size_that_the_figures_are_for() {
    for sequence in [0, 1_000, 1_000_000] {
        let length = json(500, sequence, NOW).len();
        assert!((3_300..=3_800).contains(&length), "{length} bytes");
    }
}

#[test]
fn values_follow_from_host_and_sequence_alone_and_change_with_both() {
    assert_eq!(json(3, 4, NOW), json(3, 4, NOW));
    let distinct: HashSet<String> = (0..10).flat_map(|host| (0..10).map(move |next| json(host, next, NOW))).collect();
    assert_eq!(distinct.len(), 100);
    let (earlier, later) = (Report::new(3, 4, NOW), Report::new(3, 5, NOW));
    assert!(later.integers[6] > earlier.integers[6], "counters rise");
    assert!(later.containers[0].integers[2] > earlier.containers[0].integers[2], "counters rise");
}

#[test]
fn hosts_are_scattered_and_each_has_its_turn() {
    let mut order = Scattered::new((0..100).collect(), 1);
    let mut pass = || (0..100).map(|_| order.next_host()).collect::<Vec<_>>();
    let (first, second) = (pass(), pass());
    assert_ne!(first, second);
    for pass in [first, second] {
        let neighbours = pass.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(neighbours < 10, "{neighbours} hosts follow their neighbour");
        assert_eq!(pass.into_iter().collect::<BTreeSet<_>>().len(), 100);
    }
}

#[test]
fn tokens_of_the_baseline_differ() {
    assert_eq!((0..1_000).map(baseline_token).collect::<HashSet<_>>().len(), 1_000);
}
