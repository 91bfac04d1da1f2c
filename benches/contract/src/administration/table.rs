//! The figures beside their targets. What misses one is said to miss it.

use std::fmt::Write as _;

use enlist_benches::compare::number;
use enlist_benches::statistics::{median, percentile};

/// What a question took in one fleet.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    micros: Vec<u32>,
    rows: Vec<f64>,
}

impl Times {
    pub(super) fn add(&mut self, took: std::time::Duration, rows: usize) {
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        self.rows.push(rows as f64);
    }

    fn at_ms(&self, per_mille: usize) -> Option<f64> {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        percentile(&sorted, per_mille).map(|micros| f64::from(micros) / 1e3)
    }

    fn median_ms(&self) -> Option<f64> {
        self.at_ms(500)
    }

    fn rows(&self) -> f64 {
        median(&self.rows)
    }
}

/// A row: a question, by the sizes of the fleets.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) what: String,
    pub(super) target_ms: f64,
    pub(super) times: Vec<Times>,
}

impl Line {
    /// How many times as long it takes in the largest fleet as in the smallest, and whether as much is answered there.
    fn growth(&self) -> Option<(f64, bool)> {
        let (smallest, largest) = (self.times.first()?, self.times.last()?);
        let growth = largest.median_ms()? / smallest.median_ms()?;
        (self.times.len() > 1).then_some((growth, largest.rows() == smallest.rows()))
    }

    fn misses(&self, log: f64) -> [bool; 2] {
        let late = self.times.last().and_then(Times::median_ms).is_none_or(|median| median > self.target_ms);
        [late, self.growth().is_some_and(|(growth, alike)| alike && growth > log)]
    }
}

/// By how much the logarithm of the fleet's size grows.
fn log_ratio(hosts: &[u32]) -> f64 {
    match hosts {
        [smallest, .., largest] => f64::from(*largest).ln() / f64::from(*smallest).ln(),
        _ => f64::INFINITY,
    }
}

/// How many targets are missed: of the time, and of its growth.
pub(super) fn missed(hosts: &[u32], lines: &[Line]) -> [usize; 2] {
    let log = log_ratio(hosts);
    lines.iter().fold([0; 2], |[late, grown], line| {
        let [is_late, has_grown] = line.misses(log);
        [late + usize::from(is_late), grown + usize::from(has_grown)]
    })
}

/// While it goes.
pub(super) fn short(line: &Line) -> String {
    let mut text = format!("{}:", line.what);
    for median in line.times.iter().map(Times::median_ms) {
        // Writing to a String does not fail.
        let _ = match median {
            Some(median) => write!(text, " {median:.2}"),
            None => write!(text, " –"),
        };
    }
    text + " ms"
}

/// The table, in Markdown.
pub(super) fn markdown(hosts: &[u32], lines: &[Line]) -> String {
    let log = log_ratio(hosts);
    let mut text = "| median and p95, ms |".to_owned();
    let mut rule = "|---|".to_owned();
    for hosts in hosts {
        // Writing to a String does not fail.
        let _ = write!(text, " {} hosts | p95 |", number(f64::from(*hosts), 0));
        rule += "---:|---:|";
    }
    text += " rows | target | | times as long | |\n";
    text = text + &rule + "---:|---:|---|---:|---|\n";
    for line in lines {
        let _ = write!(text, "| {} |", line.what);
        for times in &line.times {
            let said = |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), |figure| number(figure, 2));
            let _ = write!(text, " {} | {} |", said(times.median_ms()), said(times.at_ms(950)));
        }
        let verdict = |is_missed| if is_missed { "**missed**" } else { "met" };
        let [late, grown] = line.misses(log);
        let rows = line.times.last().map_or(0.0, Times::rows);
        let _ = write!(text, " {} | {} | {} |", number(rows, 0), number(line.target_ms, 0), verdict(late));
        let _ = match line.growth() {
            Some((growth, true)) => writeln!(text, " {} | {} |", number(growth, 2), verdict(grown)),
            Some((growth, false)) => writeln!(text, " {} | more rows |", number(growth, 2)),
            None => writeln!(text, " – | |"),
        };
    }
    let [late, grown] = missed(hosts, lines);
    let _ = write!(text, "\n{} of {} medians in the largest fleet miss their target", late, lines.len());
    if log.is_finite() {
        let _ = write!(
            text,
            "; {grown} grow faster than the logarithm of the fleet's size, which grows {log:.2} times. Growth is judged where \
             the answers have as many rows in the largest fleet as in the smallest"
        );
    }
    text + ".\n"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times(micros: &[u64], rows: usize) -> Times {
        let mut times = Times::default();
        micros.iter().for_each(|micros| times.add(Duration::from_micros(*micros), rows));
        times
    }

    fn line(small: Times, large: Times) -> Line {
        Line { what: "x".to_owned(), target_ms: 20.0, times: vec![small, large] }
    }

    #[test]
    fn a_target_that_is_missed_is_said_to_be_missed() {
        let hosts = [1_000, 100_000];
        let late = line(times(&[20_001], 50), times(&[20_001, 20_001, 90_000], 50));
        let in_time = line(times(&[19_000], 50), times(&[20_000], 50));
        let lines = [late, in_time];
        let text = markdown(&hosts, &lines);
        assert!(text.contains("| x | 20.00 | 20.00 | 20.00 | 90.00 | 50 | 20 | **missed** | 1.00 | met |"), "{text}");
        assert!(text.contains("| x | 19.00 | 19.00 | 20.00 | 20.00 | 50 | 20 | met | 1.05 | met |"), "{text}");
        assert_eq!(missed(&hosts, &lines), [1, 0]);
        assert!(text.contains("1 of 2 medians"), "{text}");
    }

    #[test]
    fn growth_is_held_to_the_logarithms_where_as_much_is_answered() {
        let hosts = [1_000, 100_000];
        let faster = line(times(&[100], 50), times(&[167], 50));
        let as_fast = line(times(&[100], 50), times(&[166], 50));
        let more = line(times(&[100], 9), times(&[300], 50));
        assert_eq!(missed(&hosts, &[faster, as_fast, more]), [0, 1]);
        let text = markdown(&hosts, &[line(times(&[100], 9), times(&[300], 50))]);
        assert!(text.contains("| 3.00 | more rows |") && text.contains("grows 1.67 times"), "{text}");
    }

    #[test]
    fn what_was_not_measured_in_the_largest_fleet_is_missed() {
        let unknown = line(times(&[1], 1), Times::default());
        assert_eq!(missed(&[10, 100], &[unknown]), [1, 0]);
        let alone = Line { what: "x".to_owned(), target_ms: 5.0, times: vec![times(&[1_000], 1)] };
        let text = markdown(&[300], &[alone]);
        assert!(text.contains("| x | 1.00 | 1.00 | 1 | 5 | met | – | |") && !text.contains("logarithm"), "{text}");
    }
}
