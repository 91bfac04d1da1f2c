//! The course of numbers: stored reports, folded in the order of time into buckets of one length.
//!
//! - A bucket begins at a multiple of its [`Step`] since 1970-01-01T00:00:00Z, whatever range is asked for, and holds what was
//!   measured from there to before the next. Those in which nothing was measured are left out.
//! - A gauge becomes the least, the mean, the greatest and the last of its values ([`Summary`]).
//! - A counter becomes a rate per second, of each report and the one before it that has the counter. The whole increase
//!   between the two belongs to the bucket of the *later* one: it is known only then, a bucket of one report has a rate, and
//!   nothing has to be taken back when it comes. The mean of a bucket is weighted by time: it is the increase over the seconds
//!   between its reports, also those before its beginning.
//! - No rate spans a *reset* (the counter is smaller than before, or the machine has started since) or a *gap* (the two are
//!   further apart than the caller takes for one silence): what happened between is unknown, and counted neither as
//!   increase nor as time. So no rate is negative.
//!
//! One bucket is open at a time, so that memory is bounded by the buckets and not by the reports.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::telemetry::validate::MAX_CUSTOM;

/// Buckets of one series.
pub const MAX_BUCKETS: u64 = 1_000;

/// The length of a bucket: whole seconds, a day at most. As text it is `60` or `60s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(u32);

/// A text that is no [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1 to 86400 whole seconds, as in 60 or 60s")]
pub struct InvalidStep;

/// Why there is no series of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeriesError {
    /// The step is too small for the range.
    #[error("step: the range has more than {MAX_BUCKETS} buckets of this length; take {} s or more", .least.as_secs())]
    TooManyBuckets {
        /// The smallest step that will do.
        least: Step,
    },
    /// No step is long enough for the range.
    #[error("from: the range has more than {MAX_BUCKETS} buckets of a day, and none is longer; ask for less of it")]
    TooLong,
    /// More reports were measured within one bucket than a request reads.
    #[error(
        "step: too many reports were measured within one bucket; take a smaller step, or read the reports themselves"
    )]
    TooDense,
}

impl Step {
    /// The longest: a day.
    pub const MAX: Self = Self(24 * 60 * 60);

    /// So many seconds, if they are a step.
    pub const fn from_secs(seconds: u32) -> Option<Self> {
        if seconds >= 1 && seconds <= Self::MAX.0 { Some(Self(seconds)) } else { None }
    }

    /// Its length.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// Its length.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }

    /// The beginning of the bucket that `at` belongs to.
    pub fn bucket_of(self, at: Timestamp) -> Timestamp {
        let since = Duration::from_micros(at.unix_micros().rem_euclid(self.micros()).unsigned_abs());
        at.saturating_sub(since)
    }

    /// Whether a range has few enough buckets, those at its ends that it holds only a part of included.
    ///
    /// # Errors
    /// When there are more than [`MAX_BUCKETS`]; it says which step would do.
    pub fn check_range(self, from: Timestamp, to: Timestamp) -> Result<(), SeriesError> {
        if self.buckets(from, to) <= MAX_BUCKETS {
            return Ok(());
        }
        // Where the range begins within its first bucket decides about the last of them: from the quotient on it is a few
        // steps at most.
        let seconds = to.saturating_since(from).as_secs() / MAX_BUCKETS;
        let mut longer =
            (u32::try_from(seconds).unwrap_or(u32::MAX)..).map_while(|seconds| Self::from_secs(seconds.max(1)));
        match longer.find(|step| step.buckets(from, to) <= MAX_BUCKETS) {
            Some(least) => Err(SeriesError::TooManyBuckets { least }),
            None => Err(SeriesError::TooLong),
        }
    }

    fn buckets(self, from: Timestamp, to: Timestamp) -> u64 {
        if from >= to {
            return 0;
        }
        let nth = |micros: i64| micros.div_euclid(self.micros());
        (nth(to.unix_micros() - 1) - nth(from.unix_micros())).unsigned_abs() + 1
    }

    const fn micros(self) -> i64 {
        self.0 as i64 * 1_000_000
    }
}

impl FromStr for Step {
    type Err = InvalidStep;

    fn from_str(text: &str) -> Result<Self, InvalidStep> {
        let digits = text.strip_suffix('s').unwrap_or(text);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidStep);
        }
        digits.parse().ok().and_then(Self::from_secs).ok_or(InvalidStep)
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What became of a number in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// The mean: of a rate weighted by time, of any other number by reports.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
    /// How many values there were.
    pub count: u64,
}

/// What became of a counter in a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Of the rates, per second.
    pub per_second: Summary,
    /// By how much the counter rose, in all.
    pub increase: u128,
    /// In how long.
    pub elapsed: Duration,
}

/// A report's numbers, as a [`Series`] takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a, const GAUGES: usize, const COUNTERS: usize> {
    /// When they were measured.
    pub at: Timestamp,
    /// For how long the machine had run: when it starts, counters start anew.
    pub uptime_seconds: Option<u64>,
    /// Numbers that stand for themselves. What is not finite is passed over.
    pub gauges: [Option<f64>; GAUGES],
    /// Numbers that only rise.
    pub counters: [Option<u64>; COUNTERS],
    /// More gauges, by name.
    pub custom: Option<&'a BTreeMap<String, f64>>,
}

/// What was measured within one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket<const GAUGES: usize, const COUNTERS: usize> {
    /// Its beginning.
    pub start: Timestamp,
    /// How many reports it is made of.
    pub reports: u64,
    /// Of each gauge, if a report had it.
    pub gauges: [Option<Summary>; GAUGES],
    /// Of each counter, if there is a rate.
    pub rates: [Option<Rate>; COUNTERS],
    /// Of gauges by name: of the first [`MAX_CUSTOM`] names that the bucket's reports bring.
    pub custom: BTreeMap<String, Summary>,
}

/// Folds samples into buckets.
#[derive(Debug)]
pub struct Series<const GAUGES: usize, const COUNTERS: usize> {
    from: Timestamp,
    step: Step,
    longest_gap: Duration,
    newest: Option<Timestamp>,
    counters: [Option<Counted>; COUNTERS],
    open: Option<Open<GAUGES, COUNTERS>>,
    closed: Vec<Bucket<GAUGES, COUNTERS>>,
}

impl<const GAUGES: usize, const COUNTERS: usize> Series<GAUGES, COUNTERS> {
    /// A series that begins at `from`. What is older is only what its first rates begin with, and of no use when it is older
    /// than `longest_gap` before.
    pub fn new(from: Timestamp, step: Step, longest_gap: Duration) -> Self {
        Self { from, step, longest_gap, newest: None, counters: [None; COUNTERS], open: None, closed: Vec::new() }
    }

    /// Takes the next sample. One that is not later than the one before it is passed over.
    pub fn add(&mut self, sample: &Sample<'_, GAUGES, COUNTERS>) {
        if self.newest.is_some_and(|newest| sample.at <= newest) {
            return;
        }
        self.newest = Some(sample.at);
        let mut risen = [None; COUNTERS];
        for ((risen, counted), count) in risen.iter_mut().zip(&mut self.counters).zip(sample.counters) {
            let Some(count) = count else { continue };
            let now = Counted { count, at: sample.at, uptime_seconds: sample.uptime_seconds };
            *risen = counted.replace(now).and_then(|before| now.since(before, self.longest_gap));
        }
        if sample.at < self.from {
            return;
        }
        let start = self.step.bucket_of(sample.at);
        if let Some(open) = self.open.take_if(|open| open.start != start) {
            self.closed.push(open.close());
        }
        self.open.get_or_insert_with(|| Open::new(start)).add(sample, risen);
    }

    /// All buckets.
    pub fn finish(mut self) -> Vec<Bucket<GAUGES, COUNTERS>> {
        self.closed.extend(self.open.map(Open::close));
        self.closed
    }

    /// The buckets that are whole, when there is no other sample up to `read` and more may follow later; and where a series
    /// has to begin to go on behind them: with the bucket that `read` belongs to. Reports without a sample get it on, too: of a
    /// container that was long not there.
    ///
    /// # Errors
    /// When that is where this one begins: it got nowhere.
    pub fn interrupt(mut self, read: Timestamp) -> Result<(Vec<Bucket<GAUGES, COUNTERS>>, Timestamp), SeriesError> {
        let next = self.step.bucket_of(read);
        if next <= self.from {
            return Err(SeriesError::TooDense);
        }
        self.closed.extend(self.open.filter(|open| open.start < next).map(Open::close));
        Ok((self.closed, next))
    }
}

/// A counter, when it was last seen.
#[derive(Debug, Clone, Copy)]
struct Counted {
    count: u64,
    at: Timestamp,
    uptime_seconds: Option<u64>,
}

impl Counted {
    /// By how much it rose since `before`, and in how long, if that can be told.
    fn since(self, before: Self, longest_gap: Duration) -> Option<(u64, Duration)> {
        let elapsed = self.at.saturating_since(before.at);
        let increase = self.count.checked_sub(before.count)?;
        (elapsed <= longest_gap && !self.has_restarted_since(before, elapsed)).then_some((increase, elapsed))
    }

    /// Whether the machine has started since: its uptime fell, or is less than the time that has passed.
    fn has_restarted_since(self, before: Self, elapsed: Duration) -> bool {
        let fell = before.uptime_seconds.zip(self.uptime_seconds).is_some_and(|(before, now)| now < before);
        // Whole seconds, cut off: of the time that has passed the same.
        fell || self.uptime_seconds.is_some_and(|now| now < elapsed.as_secs())
    }
}

/// A bucket that more may fall into.
#[derive(Debug)]
struct Open<const GAUGES: usize, const COUNTERS: usize> {
    start: Timestamp,
    reports: u64,
    gauges: [Option<Values>; GAUGES],
    rates: [Option<Rates>; COUNTERS],
    custom: BTreeMap<String, Values>,
}

impl<const GAUGES: usize, const COUNTERS: usize> Open<GAUGES, COUNTERS> {
    fn new(start: Timestamp) -> Self {
        Self { start, reports: 0, gauges: [None; GAUGES], rates: [None; COUNTERS], custom: BTreeMap::new() }
    }

    fn add(&mut self, sample: &Sample<'_, GAUGES, COUNTERS>, risen: [Option<(u64, Duration)>; COUNTERS]) {
        self.reports += 1;
        for (values, value) in self.gauges.iter_mut().zip(sample.gauges) {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                Values::add(values, value);
            }
        }
        for (rates, risen) in self.rates.iter_mut().zip(risen) {
            if let Some((increase, elapsed)) = risen {
                Rates::add(rates, increase, elapsed);
            }
        }
        for (name, value) in sample.custom.into_iter().flatten().filter(|(_, value)| value.is_finite()) {
            if let Some(values) = self.custom.get_mut(name) {
                values.take(*value);
            } else if self.custom.len() < MAX_CUSTOM {
                self.custom.insert(name.clone(), Values::new(*value));
            }
        }
    }

    fn close(self) -> Bucket<GAUGES, COUNTERS> {
        Bucket {
            start: self.start,
            reports: self.reports,
            gauges: self.gauges.map(|values| values.map(Values::summary)),
            rates: self.rates.map(|rates| rates.map(Rates::rate)),
            custom: self.custom.into_iter().map(|(name, values)| (name, values.summary())).collect(),
        }
    }
}

/// The values of a number so far.
#[derive(Debug, Clone, Copy)]
struct Values {
    min: f64,
    max: f64,
    last: f64,
    /// Scaled down, so that the sum of the largest numbers is finite.
    sum: f64,
    count: u64,
}

impl Values {
    /// A power of two: scaling costs no digit.
    const SCALE: f64 = 1.0 / 4_294_967_296.0;

    fn new(value: f64) -> Self {
        Self { min: value, max: value, last: value, sum: value * Self::SCALE, count: 1 }
    }

    fn add(values: &mut Option<Self>, value: f64) {
        match values {
            Some(values) => values.take(value),
            None => *values = Some(Self::new(value)),
        }
    }

    fn take(&mut self, value: f64) {
        *self = Self {
            min: self.min.min(value),
            max: self.max.max(value),
            last: value,
            sum: self.sum + value * Self::SCALE,
            count: self.count + 1,
        };
    }

    fn summary(self) -> Summary {
        self.summary_with(self.sum / self.count as f64 / Self::SCALE)
    }

    fn summary_with(self, mean: f64) -> Summary {
        let Self { min, max, last, count, .. } = self;
        // Rounding may carry it past the numbers that it is the mean of.
        Summary { min, mean: mean.clamp(min, max), max, last, count }
    }
}

/// The rates of a counter so far.
#[derive(Debug, Clone, Copy)]
struct Rates {
    values: Values,
    increase: u128,
    elapsed: Duration,
}

impl Rates {
    fn add(rates: &mut Option<Self>, increase: u64, elapsed: Duration) {
        let value = increase as f64 / elapsed.as_secs_f64();
        let increase = u128::from(increase);
        match rates {
            Some(rates) => {
                rates.values.take(value);
                rates.increase += increase;
                rates.elapsed += elapsed;
            }
            None => *rates = Some(Self { values: Values::new(value), increase, elapsed }),
        }
    }

    fn rate(self) -> Rate {
        let Self { values, increase, elapsed } = self;
        Rate { per_second: values.summary_with(increase as f64 / elapsed.as_secs_f64()), increase, elapsed }
    }
}
