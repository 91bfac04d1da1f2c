//! What administrators, placement and sweeps wait for, by the size of the fleet.

mod built;
mod question;
mod silence;
mod table;
mod traits;

use std::io::Write;

use enlist_benches::compare::{Engine, PostgresServer, postgres_server};
use enlist_benches::{Error, clock};

use built::Built;
use question::{Case, Question, cases};
use table::{Line, Times};

/// Calls of a case in one fleet, before the other fleets have their turn.
const TURN: usize = 20;
/// Of how many calls one is made where each is a sweep that writes.
const SWEEPS: usize = 4;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Administration {
    /// On what.
    pub engine: Engine,
    /// Numbers of hosts, rising.
    pub hosts: Vec<u32>,
    /// How often each question is asked.
    pub calls: usize,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The table and what it says, in Markdown.
    pub text: String,
    /// How many medians of the largest fleet are above their targets, and how many have grown too fast.
    pub missed: [usize; 2],
    /// The version of PostgreSQL, if that was it.
    pub postgres_version: Option<String>,
}

/// Builds the fleets, measures them alternately, and tells on `output` how it goes.
///
/// # Errors
/// When the fleet is not as it was built, or an answer not as it should be: then no figure is worth anything.
pub async fn measure(plan: &Administration, output: &mut dyn Write) -> Result<Measured, Error> {
    if plan.hosts.is_empty() || !plan.hosts.is_sorted() {
        return Err("numbers of hosts rise, and there is at least one".into());
    }
    let postgres = match plan.engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(postgres_server().await?),
    };
    let mut fleets = Vec::new();
    for hosts in &plan.hosts {
        let started = clock::instant();
        let built = Built::new(postgres.as_ref(), *hosts).await?;
        writeln!(output, "{hosts} hosts are there, counted, after {:.0} s", started.elapsed().as_secs_f64())?;
        output.flush()?;
        fleets.push(built);
    }
    let lines = measure_all(&mut fleets, plan.calls, output).await?;
    for fleet in fleets {
        fleet.close().await;
    }
    let text = format!(
        "Fleets were built through the store contract, with 10 containers and one report of each host, 5 % of the hosts \
         unreachable and 1 % archived, and looked through by pages before anything was measured. Each question was asked {} \
         times of each fleet, alternately, {TURN} at a time; sweeps that find somebody, a quarter as often. Questions go \
         through `Admin`, as a service asks them; sweeps through the store, as the drivers do.\n\n{}",
        plan.calls,
        table::markdown(&plan.hosts, &lines),
    );
    let postgres_version = postgres.as_ref().map(|server: &PostgresServer| server.version().to_owned());
    Ok(Measured { text, missed: table::missed(&plan.hosts, &lines), postgres_version })
}

async fn measure_all(fleets: &mut [Built], calls: usize, output: &mut dyn Write) -> Result<Vec<Line>, Error> {
    let common = fleets.iter().map(|fleet| fleet.watch.restless()).min().unwrap_or(0);
    let restless = fleets.iter().map(|fleet| fleet.watch.restless()).max().unwrap_or(0);
    // Schedulers remember: each fleet has its own.
    let of_each = fleets.iter().map(|_| cases(common, restless)).collect::<Result<Vec<_>, _>>()?;
    let mut of_each: Vec<_> = of_each.into_iter().map(Vec::into_iter).collect();
    let mut lines = Vec::new();
    loop {
        let case: Vec<Case> = of_each.iter_mut().filter_map(Iterator::next).collect();
        let Some(Case { what, target_ms, .. }) = case.first() else { break };
        let (what, target_ms) = (what.clone(), *target_ms);
        let times = measure_case(fleets, &case, calls).await.map_err(|error| format!("{what}: {error}"))?;
        let line = Line { what, target_ms, times };
        writeln!(output, "{}", table::short(&line))?;
        output.flush()?;
        lines.push(line);
    }
    Ok(lines)
}

/// By the fleets.
async fn measure_case(fleets: &mut [Built], case: &[Case], calls: usize) -> Result<Vec<Times>, Error> {
    let mut times = vec![Times::default(); fleets.len()];
    let mut turns: Vec<_> = fleets.iter_mut().zip(case).zip(&mut times).collect();
    for ((built, case), _) in &mut turns {
        if let Question::Sweep(silence) = case.question {
            built.prepare(silence).await?;
        } else {
            // What is asked for the first time is not what it usually takes.
            case.question.ask(built, calls).await?;
        }
    }
    for turn in 0..calls.div_ceil(TURN) {
        for ((built, case), times) in &mut turns {
            let of_turn = turn * TURN..calls.min((turn + 1) * TURN);
            match &case.question {
                Question::Sweep(silence) => {
                    for _ in of_turn.step_by(if silence.writes() { SWEEPS } else { 1 }) {
                        if let Some((took, judged)) = built.sweep(*silence).await? {
                            times.add(took, judged);
                        }
                    }
                }
                question => {
                    for call in of_turn {
                        let started = clock::instant();
                        let rows = question.ask(built, call).await?;
                        times.add(started.elapsed(), rows);
                    }
                }
            }
        }
    }
    Ok(times)
}
