//! What a report costs by how many hosts there are, by how much is stored, and beside retention.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use super::contract::{Appended, Appending};
use super::grow::Grown;
use super::postgres::{PostgresServer, postgres_server};
use super::table::{Target, number};
use super::target::Contestant;
use super::{Engine, ServerLoad, Turn, alternate, append_to_copy};
use crate::history::{HALF_A_MINUTE, History};
use crate::report::CONTAINERS;
use crate::statistics::median;
use crate::{Error, clock};

/// The largest cost of a report over that at the smallest size.
const GROWTH: Target = Target::AtMost(1.5);
/// How much slower retention may make it.
const RETENTION: Target = Target::AtMost(0.2);
/// How many reports a day has that retention deletes.
const A_DAY: u64 = 10_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Scale {
    /// On what.
    pub engine: Engine,
    /// Numbers of hosts, rising.
    pub hosts: Vec<u32>,
    /// Numbers of rows that are there before, in millions, rising.
    pub rows: Vec<f64>,
    /// Whether to measure beside retention.
    pub retention: bool,
    /// Hosts, where their number is not what changes.
    pub usual_hosts: u32,
    /// Reports that are there before, where that is not what changes.
    pub before: u32,
    /// Reports that are timed in the store contract.
    pub reports: u32,
    /// How many report at a time, end to end.
    pub connections: usize,
    /// Load that is not measured.
    pub warm_up: Duration,
    /// Load that is.
    pub duration: Duration,
    /// How often each has its turn.
    pub rounds: usize,
}

/// What a report costs at one size.
#[derive(Debug, Clone, Default)]
struct Costs {
    rates: Vec<f64>,
    /// CPU of the process and of PostgreSQL.
    micros: Vec<f64>,
    /// Of servers only, as what follows.
    p99_ms: Vec<f64>,
    memory_mib: Vec<f64>,
    bytes: Vec<f64>,
}

impl Costs {
    fn add(&mut self, rate: f64, micros: f64, postgres_micros: Option<f64>) {
        self.rates.push(rate);
        self.micros.push(micros + postgres_micros.unwrap_or(0.0));
    }

    fn add_appended(&mut self, appended: Appended) {
        self.add(appended.rate, appended.micros, appended.postgres_micros);
    }

    fn add_turn(&mut self, turn: &Turn) -> Result<(), Error> {
        let outcome = &turn.outcome;
        let micros = outcome.server_micros().ok_or("no report was acknowledged")?;
        self.add(outcome.rate(), micros, outcome.postgres_micros());
        self.p99_ms.extend(outcome.latency_ms(990));
        self.memory_mib.extend(outcome.server_memory.map(|bytes| bytes as f64 / f64::from(1 << 20)));
        self.bytes.push(turn.bytes_overall);
        Ok(())
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn cpu(&self) -> f64 {
        median(&self.micros)
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Scaled {
    /// The tables, in Markdown.
    pub tables: String,
    /// The version of PostgreSQL, if that was it.
    pub postgres_version: Option<String>,
}

/// Measures, and tells on `output` how it goes.
///
/// # Errors
/// When a program fails, or rows are missing or there twice.
pub async fn scale(scale: &Scale, output: &mut dyn Write) -> Result<Scaled, Error> {
    let postgres = match scale.engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(postgres_server().await?),
    };
    let server = postgres.as_ref();
    let mut tables = String::new();
    if !scale.hosts.is_empty() {
        let sizes = scale.hosts.iter().map(|hosts| {
            let size = format!("{} hosts", number(f64::from(*hosts), 0));
            (size, *hosts, scale.before.max(*hosts))
        });
        tables += &by_size(scale, server, sizes.collect(), true, output).await?;
    }
    if !scale.rows.is_empty() {
        let sizes = scale.rows.iter().map(|millions| {
            let reports = millions * 1e6 / (CONTAINERS + 1) as f64;
            let digits = if millions.fract() == 0.0 { 0 } else { 1 };
            (format!("{millions:.digits$} million rows"), scale.usual_hosts, reports as u32)
        });
        tables += &by_size(scale, server, sizes.collect(), false, output).await?;
    }
    if scale.retention {
        tables += &beside_retention(scale, server, output).await?;
    }
    Ok(Scaled { tables, postgres_version: server.map(|server| server.version().to_owned()) })
}

/// One database for each size, then turns of all of them alternately.
async fn by_size(
    scale: &Scale,
    postgres: Option<&PostgresServer>,
    sizes: Vec<(String, u32, u32)>,
    end_to_end: bool,
    output: &mut dyn Write,
) -> Result<String, Error> {
    let mut grown = Vec::new();
    for (size, hosts, before) in &sizes {
        writeln!(output, "{size}: growing {} reports; the clock does not run yet", number(f64::from(*before), 0))?;
        output.flush()?;
        let room = u64::from(*before) + 2 * u64::from(scale.reports) + 2 * u64::from(*hosts);
        let history = History::before(clock::unix_micros(), *hosts, room, HALF_A_MINUTE);
        let database = Grown::new(Contestant::Enlist, postgres, history, *before).await?;
        grown.push((history, database));
    }
    let mut contract = vec![Costs::default(); sizes.len()];
    let mut server = vec![Costs::default(); sizes.len()];
    for round in 0..scale.rounds {
        for place in alternate((0..sizes.len()).collect(), round) {
            let (history, database) = &grown[place];
            let appended = append_to_copy(database, postgres, appending(scale, *history, database, postgres)?).await?;
            contract[place].add_appended(appended);
            write!(output, "round {}, {}: store contract {:.0} reports/s", round + 1, sizes[place].0, appended.rate)?;
            if end_to_end {
                let Scale { connections, warm_up, duration, .. } = *scale;
                // A host stays with one connection.
                let connections = connections.min(sizes[place].1 as usize);
                let load = ServerLoad { connections, warm_up, duration, history: *history };
                let (turn, said) = load.turn(Contestant::Enlist, database, postgres).await?;
                server[place].add_turn(&turn)?;
                write!(output, "; {said}")?;
            }
            writeln!(output)?;
            output.flush()?;
        }
    }
    let names: Vec<&str> = sizes.iter().map(|(name, _, _)| name.as_str()).collect();
    let mut table = table("Store contract", &names, &contract);
    if end_to_end {
        table += &self::table("End to end", &names, &server);
    }
    Ok(table)
}

fn appending(
    scale: &Scale,
    history: History,
    database: &Grown,
    postgres: Option<&PostgresServer>,
) -> Result<Appending, Error> {
    Ok(Appending {
        history,
        there: database.rows.reports,
        // Each host at least once, as in the server's turns.
        warm_up: (scale.reports / 10).max(history.hosts),
        reports: scale.reports,
        retention: false,
        postmaster: postgres.map(PostgresServer::postmaster).transpose()?.flatten(),
    })
}

/// The same appends with and without old days that go meanwhile.
async fn beside_retention(
    scale: &Scale,
    postgres: Option<&PostgresServer>,
    output: &mut dyn Write,
) -> Result<String, Error> {
    let hosts = scale.usual_hosts;
    // Whole days, and the days of what is appended behind the past.
    let room = u64::from(scale.before) + 2 * u64::from(scale.reports) + 2 * A_DAY.max(u64::from(hosts));
    let history = History::by_day(clock::unix_micros(), hosts, room, A_DAY);
    if u64::from(scale.reports).div_ceil(history.reports_a_day()) * history.reports_a_day() > u64::from(scale.before) {
        return Err("retention deletes as much as is appended: so much has to be there, give a larger --before".into());
    }
    writeln!(output, "retention: growing {} reports", number(f64::from(scale.before), 0))?;
    output.flush()?;
    let database = Grown::new(Contestant::Enlist, postgres, history, scale.before).await?;
    let mut costs = [Costs::default(), Costs::default()];
    for round in 0..scale.rounds {
        for retention in alternate(vec![false, true], round) {
            let appending = Appending { retention, ..appending(scale, history, &database, postgres)? };
            let appended = append_to_copy(&database, postgres, appending).await?;
            costs[usize::from(retention)].add_appended(appended);
            let with = if retention { "with" } else { "without" };
            writeln!(output, "round {}, {with} retention: {:.0} reports/s", round + 1, appended.rate)?;
            output.flush()?;
        }
    }
    let [without, with] = &costs;
    let share = 1.0 - with.rate() / without.rate();
    Ok(format!(
        "\n| Store contract | reports/s | CPU a report, µs |\n|---|---:|---:|\n\
         | nothing is deleted | {} | {} |\n| as much is deleted as comes in | {} | {} |\n\n\
         Retention costs {:.0} % of the rate; at most 20 % is the target: {}.\n",
        number(without.rate(), 0),
        number(without.cpu(), 0),
        number(with.rate(), 0),
        number(with.cpu(), 0),
        share * 100.0,
        verdict(RETENTION, share),
    ))
}

fn table(title: &str, names: &[&str], costs: &[Costs]) -> String {
    let mut text = format!("\n| {title} | reports/s | CPU a report, µs |");
    let of_servers = costs.iter().all(|costs| !costs.p99_ms.is_empty());
    text += if of_servers {
        " p99, ms | MiB of memory | bytes a report |\n|---|---:|---:|---:|---:|---:|\n"
    } else {
        "\n|---|---:|---:|\n"
    };
    for (name, costs) in names.iter().zip(costs) {
        // Writing to a String does not fail.
        let _ = write!(text, "| {name} | {} | {} |", number(costs.rate(), 0), number(costs.cpu(), 0));
        if of_servers {
            for (figures, digits) in [(&costs.p99_ms, 1), (&costs.memory_mib, 0), (&costs.bytes, 0)] {
                let _ = write!(text, " {} |", number(median(figures), digits));
            }
        }
        text.push('\n');
    }
    if let [smallest, .., largest] = costs {
        let time = smallest.rate() / largest.rate();
        let cpu = largest.cpu() / smallest.cpu();
        let _ = writeln!(
            text,
            "\nFrom the smallest to the largest, a report takes {time:.2} times as long ({}) and {cpu:.2} times the CPU \
             ({}); 1.5 at most is the target.",
            verdict(GROWTH, time),
            verdict(GROWTH, cpu)
        );
    }
    text
}

fn verdict(target: Target, figure: f64) -> &'static str {
    if target.is_met(figure) { "met" } else { "**missed**" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_from_the_smallest_to_the_largest() {
        let costs = |rate, micros| Costs { rates: vec![rate], micros: vec![micros], ..Costs::default() };
        let sizes = [costs(3_000.0, 100.0), costs(1.0, 1_000.0), costs(2_000.0, 160.0)];
        let text = table("Store contract", &["1", "2", "3"], &sizes);
        assert!(text.contains("| 3 | 2,000 | 160 |"), "{text}");
        assert!(text.contains("1.50 times as long (met) and 1.60 times the CPU (**missed**)"), "{text}");
        assert!(!table("x", &["1"], &sizes[..1]).contains("target"));
        assert!(!text.contains("p99"), "{text}");
        let server = Costs { p99_ms: vec![9.5], memory_mib: vec![40.0], bytes: vec![800.0], ..costs(5.0, 6.0) };
        assert!(table("x", &["1"], &[server]).contains("| 1 | 5 | 6 | 9.5 | 40 | 800 |"));
    }

    #[test]
    fn postgres_is_part_of_what_a_report_costs() {
        let mut costs = Costs::default();
        costs.add(10.0, 50.0, Some(70.0));
        assert_eq!((costs.rate(), costs.cpu()), (10.0, 120.0));
    }
}
