//! How long administrators, placement and sweeps wait, by the size of the fleet.

#![allow(clippy::print_stdout, reason = "a program prints what it measured")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use enlist_benches::compare::Engine;
use enlist_benches::{Error, document};
use enlist_benches_contract::administration::{Administration, measure};

/// Builds fleets of these sizes, asks them what administrators ask, and says how long it took beside what it may take.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// On what engine.
    #[arg(long, value_enum, default_value = "sqlite")]
    engine: Engine,
    /// Numbers of hosts, rising.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    hosts: Vec<u32>,
    /// How often each question is asked of each fleet.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=300))]
    calls: u64,
    /// Write the table to a page in this folder besides.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// End with 1 when a target is missed.
    #[arg(long)]
    judge: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let args = Args::parse();
    let plan = Administration { engine: args.engine, hosts: args.hosts, calls: args.calls as usize };
    let mut output = std::io::stdout();
    let measured = measure(&plan, &mut output).await?;
    writeln!(output, "\n{}", measured.text)?;
    if let Some(folder) = args.report {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let version = measured.postgres_version.as_deref();
        let page = document::write_administration(&folder, plan.engine, version, &measured.text, &arguments)?;
        writeln!(output, "the report: {}", page.display())?;
    }
    let is_missed = measured.missed.iter().any(|missed| *missed > 0);
    Ok(if args.judge && is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
