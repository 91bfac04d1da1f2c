//! The fold of reports into buckets: what holds of every course, and the edges of each rule.

use std::collections::BTreeMap;
use std::time::Duration;

use enlist_core::Timestamp;
use enlist_core::telemetry::{Bucket, MAX_BUCKETS, MAX_CUSTOM, Rate, Sample, Series, SeriesError, Step, Summary};
use proptest::prelude::*;

/// A gauge and a counter.
type Row = Sample<'static, 1, 1>;

const GAP: Duration = Duration::from_secs(90);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_micros(millis * 1_000).expect("a small number")
}

fn step(seconds: u32) -> Step {
    Step::from_secs(seconds).expect("a step")
}

fn row(seconds: i64, gauge: Option<f64>, counter: Option<u64>) -> Row {
    Sample { at: at(seconds * 1_000), uptime_seconds: None, gauges: [gauge], counters: [counter], custom: None }
}

fn counted(seconds: i64, count: u64) -> Row {
    row(seconds, None, Some(count))
}

fn fold(from: Timestamp, step: Step, gap: Duration, rows: &[Row]) -> Vec<Bucket<1, 1>> {
    let mut series = Series::new(from, step, gap);
    rows.iter().for_each(|row| series.add(row));
    series.finish()
}

/// The mean rate of each bucket of a minute.
fn rates(rows: &[Row]) -> Vec<Option<f64>> {
    let buckets = fold(Timestamp::MIN, step(60), GAP, rows);
    buckets.iter().map(|bucket| bucket.rates[0].map(|rate| rate.per_second.mean)).collect()
}

#[test]
fn a_gauge_is_summed_up_and_what_is_unknown_is_not_zero() {
    let rows = [row(60, Some(10.0), None), row(75, Some(40.0), None), row(90, None, None), row(119, Some(20.0), None)];
    let rows = [&rows[..], &[row(120, None, None)]].concat();
    let buckets = fold(Timestamp::MIN, step(60), GAP, &rows);
    let starts: Vec<_> = buckets.iter().map(|bucket| (bucket.start, bucket.reports)).collect();
    assert_eq!(starts, [(at(60_000), 4), (at(120_000), 1)]);
    let summary = Summary { min: 10.0, mean: 70.0 / 3.0, max: 40.0, last: 20.0, count: 3 };
    assert_eq!(buckets[0].gauges, [Some(summary)]);
    assert_eq!(buckets[1].gauges, [None]);
}

#[test]
fn an_increase_belongs_to_the_bucket_of_the_later_report() {
    // 600 from 50 to 70: all of it in the second minute, over the 20 s that it took.
    assert_eq!(rates(&[counted(50, 0), counted(70, 600), counted(110, 1_000)]), [None, Some(1_000.0 / 60.0)]);
    let buckets = fold(Timestamp::MIN, step(60), GAP, &[counted(50, 0), counted(70, 600), counted(110, 1_000)]);
    let per_second = Summary { min: 10.0, mean: 1_000.0 / 60.0, max: 30.0, last: 10.0, count: 2 };
    let rate = Rate { per_second, increase: 1_000, elapsed: Duration::from_secs(60) };
    assert_eq!(buckets[1].rates, [Some(rate)]);
}

#[test]
fn a_series_that_begins_in_the_middle_knows_what_came_before() {
    let rows = [row(40, Some(1.0), Some(0)), row(70, Some(2.0), Some(300))];
    let buckets = fold(at(60_000), step(60), GAP, &rows);
    assert_eq!(buckets.len(), 1);
    assert_eq!(buckets[0].gauges[0].map(|gauge| (gauge.count, gauge.last)), Some((1, 2.0)));
    assert_eq!(buckets[0].rates[0].map(|rate| rate.per_second.last), Some(10.0));
    // It begins where it was told to, also within a bucket.
    assert_eq!(fold(at(70_001), step(60), GAP, &rows), []);
    assert_eq!(fold(at(70_000), step(60), GAP, &rows).len(), 1);
}

#[test]
fn a_reset_is_no_increase_and_no_time() {
    assert_eq!(rates(&[counted(0, 100), counted(30, 400), counted(40, 7), counted(50, 107)]), [Some(10.0)]);
    assert_eq!(rates(&[counted(0, 100), counted(30, 50)]), [None]);
}

#[test]
fn a_machine_that_started_anew_has_counted_from_zero_also_when_it_has_overtaken_itself() {
    let up = |seconds, uptime, count| Row { uptime_seconds: Some(uptime), ..counted(seconds, count) };
    let fell = [up(0, 500, 1_000), up(30, 20, 5_000), up(40, 30, 5_100)];
    assert_eq!(rates(&fell), [Some(10.0)], "the uptime fell");
    let shorter = [up(0, 3, 1_000), up(50, 20, 5_000), up(55, 25, 5_100)];
    assert_eq!(rates(&shorter), [Some(20.0)], "it has been up for less than has passed");
    // Whole seconds, cut off: neither says that it has.
    let up_millis = |millis, uptime, count| Row { at: at(millis), ..up(0, uptime, count) };
    assert_eq!(rates(&[up_millis(900, 0, 0), up_millis(2_800, 1, 19)]), [Some(10.0)]);
}

#[test]
fn there_is_no_rate_over_a_gap() {
    assert_eq!(rates(&[counted(0, 0), counted(90, 900)]), [None, Some(10.0)], "as long as is allowed");
    assert_eq!(rates(&[counted(0, 0), Row { at: at(90_001), ..counted(0, 900) }]), [None, None]);
}

#[test]
fn neighbours_are_those_that_have_the_counter() {
    assert_eq!(rates(&[counted(0, 0), row(10, Some(1.0), None), counted(20, 200)]), [Some(10.0)]);
}

#[test]
fn a_repeat_and_what_is_out_of_order_are_passed_over() {
    let rows = [counted(10, 100), counted(10, 900), counted(5, 0), counted(20, 200)];
    let buckets = fold(Timestamp::MIN, step(60), GAP, &rows);
    assert_eq!((buckets[0].reports, buckets[0].rates[0].map(|rate| rate.increase)), (2, Some(100)));
}

#[test]
fn numbers_at_their_extremes_stay_numbers() {
    let rows: Vec<_> = (0..50).map(|n| row(n, Some(f64::MAX), Some(if n == 0 { 0 } else { u64::MAX }))).collect();
    let buckets = fold(Timestamp::MIN, step(60), GAP, &rows);
    assert_eq!(buckets[0].gauges[0].map(|gauge| gauge.mean), Some(f64::MAX));
    assert_eq!(buckets[0].rates[0].map(|rate| rate.increase), Some(u128::from(u64::MAX)));
    // More increase than a counter can hold, by way of a reset.
    let resets: Vec<_> = (0..50).map(|n| counted(n, if n % 2 == 0 { 0 } else { u64::MAX })).collect();
    let rate = fold(Timestamp::MIN, step(60), GAP, &resets)[0].rates[0].expect("every other second");
    assert_eq!(rate.increase, 25 * u128::from(u64::MAX));
    for not_finite in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let buckets = fold(Timestamp::MIN, step(60), GAP, &[row(0, Some(not_finite), None), row(1, Some(1.0), None)]);
        assert_eq!(buckets[0].gauges[0].map(|gauge| gauge.count), Some(1));
    }
}

#[test]
fn time_ends_within_a_bucket() {
    let last = Row { at: Timestamp::MAX, ..row(0, Some(1.0), None) };
    let buckets = fold(Timestamp::MIN, Step::MAX, GAP, &[row(0, Some(1.0), None), last]);
    let starts: Vec<_> = buckets.iter().map(|bucket| bucket.start.to_string()).collect();
    assert_eq!(starts, ["1970-01-01T00:00:00Z", "9999-12-31T00:00:00Z"]);
}

#[test]
fn custom_numbers_are_gauges_and_not_more_than_a_report_may_have() {
    let names = |from: usize, to: usize| -> BTreeMap<String, f64> {
        (from..to).map(|n| (format!("n{n:03}"), n as f64)).collect()
    };
    let (first, second) = (names(0, MAX_CUSTOM - 1), names(1, MAX_CUSTOM + 9));
    let mut series = Series::<1, 1>::new(Timestamp::MIN, step(60), GAP);
    for (seconds, custom) in [(0, &first), (1, &second)] {
        series.add(&Sample { custom: Some(custom), ..row(seconds, None, None) });
    }
    let custom = &series.finish()[0].custom;
    assert_eq!(custom.len(), MAX_CUSTOM);
    assert_eq!(custom["n000"].count, 1);
    assert_eq!(custom["n001"], Summary { min: 1.0, mean: 1.0, max: 1.0, last: 1.0, count: 2 });
    assert_eq!(custom.keys().next_back(), Some(&format!("n{:03}", MAX_CUSTOM - 1)), "the first new one found room");
}

#[test]
fn a_series_that_cannot_get_on_says_so() {
    let mut series = Series::new(at(60_000), step(60), GAP);
    series.add(&counted(61, 0));
    series.add(&counted(119, 0));
    assert_eq!(series.interrupt(at(119_000)), Err(SeriesError::TooDense));
    let mut none = Series::new(at(60_000), step(60), GAP);
    none.add(&counted(59, 0));
    assert_eq!(none.interrupt(at(59_000)), Err(SeriesError::TooDense));
    let mut later = Series::new(at(60_000), step(60), GAP);
    later.add(&counted(125, 0));
    assert_eq!(later.interrupt(at(125_000)), Ok((Vec::new(), at(120_000))), "the empty bucket is done with");
}

#[test]
fn a_step_is_whole_seconds_up_to_a_day() {
    for (text, seconds) in [("1", 1), ("60", 60), ("60s", 60), ("86400s", 86_400), ("0060", 60)] {
        assert_eq!(text.parse(), Ok(step(seconds)), "{text}");
    }
    for text in ["", "s", "0", "0s", "86401", "-1", "+1", "1.5", "60m", "60ss", " 60", "60 s", "1e3", "99999999999"] {
        assert!(text.parse::<Step>().is_err(), "{text:?}");
    }
}

#[test]
fn a_range_that_is_too_long_for_its_step_is_told_which_would_do() {
    let hour = (at(0), at(3_600_000));
    assert_eq!(step(4).check_range(hour.0, hour.1), Ok(()));
    assert_eq!(step(3).check_range(hour.0, hour.1), Err(SeriesError::TooManyBuckets { least: step(4) }));
    // Exactly a thousand, and one more of which only a moment is meant.
    assert_eq!(step(1).check_range(at(0), at(1_000_000)), Ok(()));
    assert_eq!(step(1).check_range(at(1), at(1_000_000)), Ok(()));
    assert_eq!(step(1).check_range(at(0), at(1_000_001)), Err(SeriesError::TooManyBuckets { least: step(2) }));
    assert_eq!(step(1).check_range(at(1), at(1_000_001)), Err(SeriesError::TooManyBuckets { least: step(2) }));
    // Empty ones have no buckets.
    assert_eq!(step(1).check_range(Timestamp::MAX, Timestamp::MIN), Ok(()));
    assert_eq!(step(1).check_range(Timestamp::MAX, Timestamp::MAX), Ok(()));
    for any in [step(1), Step::MAX] {
        assert_eq!(any.check_range(Timestamp::MIN, Timestamp::MAX), Err(SeriesError::TooLong));
    }
    let message = SeriesError::TooManyBuckets { least: step(4) }.to_string();
    assert!(message.starts_with("step: ") && message.contains("take 4 s or more"), "{message}");
}

/// Rows in the order of time, with silences, resets and holes in them.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let one = (
        prop_oneof![9 => 1..40_000_i64, 1 => 1..400_000_i64],
        prop::option::weighted(0.9, -1e9..1e9_f64),
        prop::option::weighted(0.9, prop_oneof![9 => (0..10_000_u64).prop_map(Ok), 1 => (0..5_000_u64).prop_map(Err)]),
        prop::option::weighted(0.5, prop::bool::weighted(0.95)),
    );
    prop::collection::vec(one, 0..120).prop_map(|steps| {
        let (mut millis, mut count, mut booted) = (0, 0_u64, -1_000_i64);
        let mut made = Vec::new();
        for (later, gauge, risen, up) in steps {
            millis += later;
            match risen {
                Some(Ok(more)) => count += more,
                Some(Err(anew)) => count = anew,
                None => {}
            }
            if up == Some(false) {
                booted = millis - later / 2;
            }
            let uptime_seconds = up.map(|_| ((millis - booted) / 1_000).unsigned_abs());
            let counters = [risen.map(|_| count)];
            made.push(Sample { at: at(millis), uptime_seconds, gauges: [gauge], counters, custom: None });
        }
        made
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![1..200_u32, Just(86_400)].prop_map(step)
}

proptest! {
    #[test]
    fn every_report_of_the_range_is_in_one_bucket_of_its_time(rows in rows(), step in steps(), from in 0..900_000_i64) {
        let buckets = fold(at(from), step, GAP, &rows);
        prop_assert!(buckets.windows(2).all(|pair| pair[0].start < pair[1].start));
        for bucket in &buckets {
            prop_assert_eq!(bucket.start.unix_micros() % (i64::from(step.as_secs()) * 1_000_000), 0);
            let end = bucket.start.saturating_add(step.duration());
            let within = rows.iter().filter(|row| row.at >= at(from) && (bucket.start..end).contains(&row.at));
            prop_assert!(bucket.reports > 0 && within.count() as u64 == bucket.reports);
        }
        let reports: u64 = buckets.iter().map(|bucket| bucket.reports).sum();
        prop_assert_eq!(reports, rows.iter().filter(|row| row.at >= at(from)).count() as u64);
    }

    #[test]
    fn a_mean_and_a_last_lie_between_the_least_and_the_greatest(rows in rows(), step in steps()) {
        for bucket in fold(Timestamp::MIN, step, GAP, &rows) {
            let rate = bucket.rates[0].map(|rate| rate.per_second);
            for summary in bucket.gauges[0].into_iter().chain(rate) {
                let range = summary.min..=summary.max;
                prop_assert!(range.contains(&summary.mean) && range.contains(&summary.last), "{:?}", summary);
                prop_assert!((1..=bucket.reports).contains(&summary.count));
            }
            prop_assert!(rate.is_none_or(|rate| rate.min >= 0.0));
        }
    }

    /// Looked at pair by pair, without buckets.
    #[test]
    fn rates_sum_to_the_increase(rows in rows(), step in steps()) {
        let (mut increase, mut elapsed) = (0, Duration::ZERO);
        let with: Vec<_> = rows.iter().filter(|row| row.counters[0].is_some()).collect();
        for pair in with.windows(2) {
            let passed = pair[1].at.saturating_since(pair[0].at);
            let restarted = match (pair[0].uptime_seconds, pair[1].uptime_seconds) {
                (Some(before), Some(now)) => now < before || now < passed.as_secs(),
                (None, Some(now)) => now < passed.as_secs(),
                _ => false,
            };
            if pair[1].counters >= pair[0].counters && passed <= GAP && !restarted {
                increase += u128::from(pair[1].counters[0].unwrap() - pair[0].counters[0].unwrap());
                elapsed += passed;
            }
        }
        let rates: Vec<Rate> =
            fold(Timestamp::MIN, step, GAP, &rows).iter().filter_map(|bucket| bucket.rates[0]).collect();
        prop_assert_eq!(rates.iter().map(|rate| rate.increase).sum::<u128>(), increase);
        prop_assert_eq!(rates.iter().map(|rate| rate.elapsed).sum::<Duration>(), elapsed);
        let summed: f64 = rates.iter().map(|rate| rate.per_second.mean * rate.elapsed.as_secs_f64()).sum();
        prop_assert!((summed - increase as f64).abs() <= 1e-6 * (1.0 + increase as f64), "{summed} of {increase}");
    }

    /// Interrupted after every few rows, and begun again a gap before where it got to. Some rows are of reports that do not
    /// have what the series is of.
    #[test]
    fn parts_put_together_are_the_whole(
        rows in rows(),
        step in steps(),
        patience in 1..30_usize,
        there in 1..5_usize,
    ) {
        let is_there = |row: &Row| row.at.unix_micros() / 7_000_000 % 5 < there as i64;
        let measured: Vec<_> = rows.iter().filter(|row| is_there(row)).cloned().collect();
        let whole = fold(Timestamp::MIN, step, GAP, &measured);
        let (mut parts, mut from, mut patience) = (Vec::new(), Timestamp::MIN, patience);
        loop {
            let lead = from.saturating_sub(GAP);
            let mut rest = rows.iter().filter(|row| row.at >= lead);
            let mut series = Series::new(from, step, GAP);
            let read: Vec<_> = rest.by_ref().take(patience).collect();
            read.iter().filter(|row| is_there(row)).for_each(|row| series.add(row));
            if rest.next().is_none() {
                parts.extend(series.finish());
                break;
            }
            match series.interrupt(read[read.len() - 1].at) {
                Ok((buckets, next)) => {
                    prop_assert!(next > from);
                    parts.extend(buckets);
                    from = next;
                }
                Err(_) => patience += 1,
            }
        }
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn the_step_that_is_named_is_the_least_that_will_do(from in 0..5_000_000_i64, long in 0..80_000_000_000_i64) {
        let (from, to) = (at(from), at(from + long));
        let buckets = |step: Step| {
            let first = step.bucket_of(from);
            let last = step.bucket_of(Timestamp::from_unix_micros(to.unix_micros() - 1).unwrap_or(from));
            last.saturating_since(first).as_secs() / u64::from(step.as_secs()) + 1
        };
        if let Err(SeriesError::TooManyBuckets { least }) = step(1).check_range(from, to) {
            prop_assert!(buckets(least) <= MAX_BUCKETS);
            prop_assert_eq!(least.check_range(from, to), Ok(()));
            prop_assert!(buckets(step(least.as_secs() - 1)) > MAX_BUCKETS);
        }
    }
}
