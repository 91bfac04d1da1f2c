//! The figures beside their targets. A target that is missed is said to be missed.

use std::fmt::Write as _;

use super::{Engine, Results, Turn};
use crate::floor::Layout;
use crate::statistics::median;

/// What a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
}

impl Target {
    /// Whether this figure reaches it.
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

/// A figure of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is, with its unit.
    pub what: String,
    /// Digits behind the point.
    pub digits: usize,
    /// The figure: a median, or a ratio of medians. `None` when it could not be measured.
    pub figure: Option<f64>,
    /// The same of each round.
    pub of_rounds: Vec<f64>,
    /// What it is to reach, if anything.
    pub target: Option<Target>,
}

/// The bounds of an engine, at one connection and at more.
struct Targets {
    ratio: f64,
    /// Not for one connection, which cannot share a commit.
    end_to_end: Option<f64>,
    server_micros: Option<f64>,
    postgres_micros: Option<f64>,
    bytes: f64,
}

const CONTRACT: f64 = 0.75;
const P99_MS: f64 = 25.0;
const MEMORY_MIB: f64 = 128.0;

impl Targets {
    fn of(engine: Engine, connections: usize) -> Self {
        let one = connections == 1;
        let of_many = |bound| (!one).then_some(bound);
        match engine {
            Engine::Sqlite => Self {
                ratio: if one { 6.0 } else { 25.0 },
                end_to_end: of_many(0.45),
                server_micros: of_many(80.0),
                postgres_micros: None,
                bytes: 850.0,
            },
            Engine::Postgres => Self {
                ratio: if one { 5.0 } else { 12.0 },
                end_to_end: of_many(0.6),
                server_micros: of_many(60.0),
                postgres_micros: of_many(90.0),
                bytes: 1_200.0,
            },
        }
    }
}

/// Of a floor's layout, as it is said behind "floor".
pub(crate) fn layout_name(layout: Option<Layout>) -> &'static str {
    match layout {
        None => "",
        Some(Layout::Usual) => ", batched UNNEST on the usual layout",
        Some(Layout::Arrays) => ", one row a report with arrays",
    }
}

/// All figures of a comparison.
pub fn lines(results: &Results) -> Vec<Line> {
    let Results { comparison, baseline, enlist, floors, contract, victoria, .. } = results;
    let targets = Targets::of(comparison.engine, comparison.connections);
    let at_least = |bound| Some(Target::AtLeast(bound));
    let at_most = |bound| Some(Target::AtMost(bound));
    let rates = |turns: &[Turn]| turns.iter().map(|turn| turn.outcome.rate()).collect::<Vec<_>>();
    let (ours, theirs) = (rates(enlist), rates(baseline));
    let mut lines = vec![
        Line::of("reports/s, baseline", 0, theirs.clone(), None),
        Line::of("reports/s, enlist-server", 0, ours.clone(), None),
        Line::of("reports/s, store contract without HTTP", 0, contract.clone(), None),
    ];
    for (layout, rates) in floors {
        lines.push(Line::of(format!("reports/s, engine floor{}", layout_name(*layout)), 0, rates.clone(), None));
    }
    if let Some((_, turns)) = victoria {
        lines.push(Line::of("reports/s, VictoriaMetrics (acknowledges before it is durable)", 0, rates(turns), None));
    }
    lines.push(Line::ratio("enlist-server over baseline", 1, &ours, &theirs, at_least(targets.ratio)));
    for (layout, floor) in floors {
        let what = format!("store contract, share of the floor{}", layout_name(*layout));
        lines.push(Line::ratio(what, 2, contract, floor, at_least(CONTRACT)));
    }
    for (layout, floor) in floors {
        let target = targets.end_to_end.filter(|_| *layout != Some(Layout::Arrays)).map(Target::AtLeast);
        let what = format!("end to end, share of the floor{}", layout_name(*layout));
        lines.push(Line::ratio(what, 2, &ours, floor, target));
    }
    let of = |what: &str, digits, target, turns: &[Turn], figure: fn(&Turn) -> Option<f64>| {
        // One that is not known in every round has no median.
        let figures: Option<Vec<f64>> = turns.iter().map(figure).collect();
        Line::of(what, digits, figures.unwrap_or_default(), target)
    };
    let server: fn(&Turn) -> _ = |turn| turn.outcome.server_micros();
    let postgres: fn(&Turn) -> _ = |turn| turn.outcome.postgres_micros();
    lines.push(of("server CPU a report, µs", 0, targets.server_micros.map(Target::AtMost), enlist, server));
    lines.push(of("server CPU a report, µs, baseline", 0, None, baseline, server));
    if let Some((_, turns)) = victoria {
        lines.push(of("server CPU a report, µs, VictoriaMetrics", 0, None, turns, server));
    }
    if comparison.engine == Engine::Postgres {
        let target = targets.postgres_micros.map(Target::AtMost);
        lines.push(of("CPU in PostgreSQL a report, µs", 0, target, enlist, postgres));
        lines.push(of("CPU in PostgreSQL a report, µs, baseline", 0, None, baseline, postgres));
    }
    let p50: fn(&Turn) -> _ = |turn| turn.outcome.latency_ms(500);
    let p99: fn(&Turn) -> _ = |turn| turn.outcome.latency_ms(990);
    lines.push(of("p50, ms", 1, None, enlist, p50));
    lines.push(of("p50, ms, baseline", 1, None, baseline, p50));
    lines.push(of("p99, ms", 1, at_most(P99_MS), enlist, p99));
    lines.push(of("p99, ms, baseline", 1, None, baseline, p99));
    let added: fn(&Turn) -> _ = |turn| Some(turn.bytes_added);
    let overall: fn(&Turn) -> _ = |turn| Some(turn.bytes_overall);
    lines.push(of("bytes on disk a report, added by the run", 0, at_most(targets.bytes), enlist, added));
    lines.push(of("bytes on disk a report, over all of them", 0, at_most(targets.bytes), enlist, overall));
    lines.push(of("bytes on disk a report, over all of them, baseline", 0, None, baseline, overall));
    let memory: fn(&Turn) -> _ = |turn| Some(turn.outcome.server_memory? as f64 / f64::from(1 << 20));
    lines.push(of("memory of the server at most, MiB", 0, at_most(MEMORY_MIB), enlist, memory));
    lines.push(of("memory of the server at most, MiB, baseline", 0, None, baseline, memory));
    lines
}

impl Line {
    fn of(what: impl Into<String>, digits: usize, of_rounds: Vec<f64>, target: Option<Target>) -> Self {
        let figure = (!of_rounds.is_empty()).then(|| median(&of_rounds));
        Self { what: what.into(), digits, figure, of_rounds, target }
    }

    /// One median by another. Two of the same round are compared as well: they saw the same machine.
    fn ratio(what: impl Into<String>, digits: usize, of: &[f64], by: &[f64], target: Option<Target>) -> Self {
        let figure = Some(median(of) / median(by)).filter(|figure| figure.is_finite());
        let of_rounds = of.iter().zip(by).map(|(of, by)| of / by).collect();
        Self { what: what.into(), digits, figure, of_rounds, target }
    }

    fn said(&self) -> String {
        let Self { what, digits, figure, of_rounds, target } = self;
        let figure_said = figure.map_or_else(|| "not known".to_owned(), |figure| number(figure, *digits));
        let sorted = {
            let mut sorted = of_rounds.clone();
            sorted.sort_by(f64::total_cmp);
            sorted
        };
        let range = match (sorted.first(), sorted.last()) {
            (Some(least), Some(most)) => format!("{}–{}", number(*least, *digits), number(*most, *digits)),
            _ => String::new(),
        };
        let (bound, verdict) = match target {
            None => (String::new(), ""),
            Some(target) => {
                let bound = match target {
                    Target::AtLeast(least) => format!("≥ {}", plain(*least)),
                    Target::AtMost(most) => format!("≤ {}", plain(*most)),
                };
                let verdict = match figure {
                    Some(figure) if target.is_met(*figure) => "met",
                    Some(_) => "**missed**",
                    None => "not known",
                };
                (bound, verdict)
            }
        };
        format!("| {what} | {figure_said} | {range} | {bound} | {verdict} |")
    }
}

/// The figures as a table in Markdown.
pub fn markdown(lines: &[Line]) -> String {
    let mut table = "| | median | range | target | |\n|---|---:|---:|---:|---|\n".to_owned();
    for line in lines {
        // Writing to a String does not fail.
        let _ = writeln!(table, "{}", line.said());
    }
    table
}

/// With commas between thousands.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut said = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !said.ends_with('-') {
            said.push(',');
        }
        said.push(digit);
    }
    if let Some(fraction) = fraction {
        let _ = write!(said, ".{fraction}");
    }
    said
}

/// A bound as it was set: without digits that it does not have.
fn plain(bound: f64) -> String {
    number(bound, if bound.fract() == 0.0 { 0 } else { 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_missed_is_said_to_be_missed() {
        let verdict = |figure, target| Line::of("x", 2, vec![figure], Some(target)).said();
        assert_eq!(verdict(0.75, Target::AtLeast(0.75)), "| x | 0.75 | 0.75–0.75 | ≥ 0.75 | met |");
        assert_eq!(verdict(0.7499, Target::AtLeast(0.75)), "| x | 0.75 | 0.75–0.75 | ≥ 0.75 | **missed** |");
        assert_eq!(verdict(25.0, Target::AtMost(25.0)), "| x | 25.00 | 25.00–25.00 | ≤ 25 | met |");
        assert!(verdict(25.01, Target::AtMost(25.0)).ends_with("**missed** |"));
        assert!(verdict(f64::NAN, Target::AtMost(25.0)).ends_with("**missed** |"));
        let unknown = Line::of("x", 0, Vec::new(), Some(Target::AtMost(1.0))).said();
        assert_eq!(unknown, "| x | not known |  | ≤ 1 | not known |");
    }

    #[test]
    fn a_ratio_is_one_of_medians_and_its_range_that_of_the_rounds() {
        let line = Line::ratio("x", 1, &[10.0, 30.0, 20.0], &[1.0, 2.0, 4.0], None);
        assert_eq!((line.figure, line.of_rounds), (Some(10.0), vec![10.0, 15.0, 5.0]));
        assert_eq!(Line::ratio("x", 1, &[1.0], &[0.0], None).figure, None);
    }

    #[test]
    fn one_connection_has_bounds_of_its_own() {
        let many = Targets::of(Engine::Sqlite, 64);
        let one = Targets::of(Engine::Sqlite, 1);
        assert_eq!((many.ratio, one.ratio), (25.0, 6.0));
        assert_eq!((many.end_to_end, one.end_to_end), (Some(0.45), None));
        let (many, one) = (Targets::of(Engine::Postgres, 64), Targets::of(Engine::Postgres, 1));
        assert_eq!((many.ratio, one.ratio), (12.0, 5.0));
        assert_eq!((many.server_micros, many.postgres_micros, many.bytes), (Some(60.0), Some(90.0), 1_200.0));
    }

    #[test]
    fn numbers_have_commas_between_thousands() {
        let said = [(7.25, 1), (999.4, 0), (1_000.0, 0), (1_234_567.0, 0), (-1_234.5, 1), (-123.0, 0)];
        let said = said.map(|(value, digits)| number(value, digits));
        assert_eq!(said, ["7.2", "999", "1,000", "1,234,567", "-1,234.5", "-123"]);
    }
}
