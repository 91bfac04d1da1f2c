//! Enlist and the baseline alternately, so that a machine's moods meet both.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::count::{Rows, count};
use super::target::{Contestant, PostgresServer, Target, postgres_server};
use super::{Engine, Outcome, Plan, run};
use crate::Error;
use crate::report::CONTAINERS;
use crate::statistics::median;

/// How to compare.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// On what.
    pub engine: Engine,
    /// How often each has its turn.
    pub rounds: usize,
    /// Hosts that report.
    pub hosts: u32,
    /// How many report at a time.
    pub connections: usize,
    /// Load that is not measured.
    pub warm_up: Duration,
    /// Load that is.
    pub duration: Duration,
}

/// Compares, and tells on `output`.
///
/// # Errors
/// When a server does not start, or when rows are missing or there twice: then no figure is worth anything.
pub async fn compare(comparison: Comparison, output: &mut impl Write) -> Result<(), Error> {
    let postgres = match comparison.engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(postgres_server().await?),
    };
    let mut baseline = Vec::new();
    let mut enlist = Vec::new();
    for round in 0..comparison.rounds {
        let mut turns = [Contestant::Baseline, Contestant::Enlist];
        // Neither always comes after the other.
        if round % 2 == 1 {
            turns.reverse();
        }
        for contestant in turns {
            let outcome = turn(comparison, contestant, postgres.as_ref(), round, output).await?;
            match contestant {
                Contestant::Baseline => baseline.push(outcome),
                Contestant::Enlist => enlist.push(outcome),
            }
        }
    }
    let middle = |outcomes: &[Outcome]| median(&outcomes.iter().map(Outcome::rate).collect::<Vec<_>>());
    let (ours, theirs) = (middle(&enlist), middle(&baseline));
    if theirs == 0.0 {
        return Err("the baseline took no report".into());
    }
    writeln!(
        output,
        "medians of {} rounds: enlist-server {ours:.0} reports/s, baseline {theirs:.0} reports/s, ratio {:.1}",
        comparison.rounds,
        ours / theirs
    )?;
    Ok(())
}

async fn turn(
    comparison: Comparison,
    contestant: Contestant,
    postgres: Option<&PostgresServer>,
    round: usize,
    output: &mut impl Write,
) -> Result<Outcome, Error> {
    let mut target = Target::start(contestant, postgres, comparison.hosts).await?;
    let plan = Plan {
        address: target.address,
        tokens: target.tokens.clone(),
        connections: comparison.connections,
        warm_up: comparison.warm_up,
        duration: comparison.duration,
        server_pid: Some(target.pid),
    };
    let outcome = run(&plan).await?;
    target.kill().await?;
    let rows = count(&target).await?;
    let name = contestant.name();
    judge(&outcome, rows).map_err(|wrong| format!("{name}: {wrong}"))?;
    writeln!(output, "round {}, {name}: {outcome}", round + 1)?;
    write!(
        output,
        "    {} acknowledged, {} rows and {} of containers",
        outcome.acknowledged, rows.reports, rows.containers
    )?;
    if postgres.is_none() && rows.reports > 0 {
        // The log of SQLite was taken in and removed by whoever counted and closed last.
        write!(output, ", {} bytes on disk a report", bytes_in(target.directory())? / rows.reports)?;
    }
    writeln!(output)?;
    output.flush()?;
    Ok(outcome)
}

/// All that was acknowledged is there, none twice, and nothing else but what got no answer.
fn judge(outcome: &Outcome, rows: Rows) -> Result<(), String> {
    let Rows { reports, distinct, containers } = rows;
    let acknowledged = outcome.acknowledged;
    if distinct != reports {
        return Err(format!("{reports} rows of reports, but {distinct} reports"));
    }
    if !(acknowledged..=acknowledged + outcome.unknown).contains(&reports) {
        return Err(format!("{acknowledged} acknowledged and {} unknown, but {reports} stored", outcome.unknown));
    }
    if containers != reports * CONTAINERS as u64 {
        return Err(format!("{containers} rows of containers of {reports} reports"));
    }
    Ok(())
}

fn bytes_in(directory: &Path) -> io::Result<u64> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_missing_a_made_up_and_a_double_row_are_found() {
        let outcome = |unknown| Outcome {
            acknowledged: 5,
            unknown,
            latencies: Vec::new(),
            window: Duration::from_secs(1),
            errors: BTreeMap::new(),
            server_cpu: None,
        };
        let rows = |reports, distinct, containers| Rows { reports, distinct, containers };
        assert_eq!(judge(&outcome(0), rows(5, 5, 50)), Ok(()));
        assert_eq!(judge(&outcome(1), rows(6, 6, 60)), Ok(()));
        for wrong in [rows(4, 4, 40), rows(6, 6, 60), rows(5, 4, 50), rows(5, 5, 49)] {
            assert!(judge(&outcome(0), wrong).is_err(), "{wrong:?}");
        }
    }
}
