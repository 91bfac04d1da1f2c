//! What a report costs by numbers of hosts and of rows, and beside retention.

#![allow(clippy::print_stdout, reason = "a program prints what it measured")]

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use enlist_benches::Error;
use enlist_benches::compare::{self, Engine, Scale};
use enlist_benches::document;

/// Measures Enlist at several sizes, counts the rows, and says by how much a report's cost rises. What is named is
/// measured; without --hosts, --rows and --retention, all three are, as large as the targets are for.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// On what engine.
    #[arg(long, value_enum, default_value = "sqlite")]
    engine: Engine,
    /// Numbers of hosts, rising, as in 100,1000,10000,100000.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    hosts: Vec<u32>,
    /// Rows of snapshots that are there before, in millions, rising, as in 1,10,50.
    #[arg(long, value_delimiter = ',', value_parser = millions)]
    rows: Vec<f64>,
    /// Reports with and without as much being deleted at the same time.
    #[arg(long)]
    retention: bool,
    /// Reports that are there before, for --hosts and --retention.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    before: u32,
    /// Reports that are timed in the store contract at each turn.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    reports: u32,
    /// How many report at a time, end to end.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Seconds that are measured, end to end.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of load before.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// How often each size has its turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Write the tables to a page in this folder besides.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

fn millions(text: &str) -> Result<f64, String> {
    let millions = text.parse().ok().filter(|millions| (0.001..=100.0).contains(millions));
    millions.ok_or_else(|| "millions of rows, 100 at most".to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let all = args.hosts.is_empty() && args.rows.is_empty() && !args.retention;
    let scale = Scale {
        engine: args.engine,
        hosts: if all { vec![100, 1_000, 10_000, 100_000] } else { args.hosts },
        rows: if all { vec![1.0, 10.0, 50.0] } else { args.rows },
        retention: all || args.retention,
        usual_hosts: 1_000,
        before: args.before,
        reports: args.reports,
        connections: args.connections as usize,
        warm_up: Duration::from_secs(args.warm_up),
        duration: Duration::from_secs(args.seconds),
        rounds: args.rounds as usize,
    };
    compare::build()?;
    let mut output = std::io::stdout();
    let scaled = compare::scale(&scale, &mut output).await?;
    writeln!(output, "{}", scaled.tables)?;
    if let Some(folder) = args.report {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        writeln!(output, "the report: {}", document::write_scale(&folder, &scale, &scaled, &arguments)?.display())?;
    }
    Ok(())
}
