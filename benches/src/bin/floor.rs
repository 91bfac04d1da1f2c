//! The same rows straight into the engine, without HTTP.

#![allow(clippy::print_stdout, reason = "a program prints what it measured")]

use clap::{Parser, ValueEnum};
use enlist_benches::Error;
use enlist_benches::compare::postgres_server;
use enlist_benches::floor::{self, Layout, Outcome, Plan};
use enlist_benches::report::CONTAINERS;
use enlist_testing::Database;

/// Stores reports as fast as the engine takes them, 100 a commit, counts the rows, and then prints the rate.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// Into which engine.
    #[arg(long, value_enum, default_value = "sqlite")]
    engine: Engine,
    /// How many hosts report, in scattered order.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    hosts: u32,
    /// Reports that are there before the clock starts: 200,000 are 2.2 million rows.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    before: u32,
    /// Reports that are timed.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    reports: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    /// The bundled SQLite, on a file in the temporary directory.
    Sqlite,
    /// The server of ENLIST_TEST_POSTGRES_URL, or one of its own that flushes.
    Postgres,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Args { engine, hosts, before, reports } = Args::parse();
    let plan = Plan { hosts, there: 0, before, reports };
    match engine {
        Engine::Sqlite => {
            let directory = tempfile::tempdir()?;
            print(
                "sqlite, container rows keyed (report, container)",
                plan,
                floor::sqlite(&directory.path().join("floor.db"), plan)?,
            )
        }
        Engine::Postgres => {
            let server = postgres_server().await?;
            for (name, layout) in [
                ("postgres, UNNEST on the usual layout", Layout::Usual),
                ("postgres, one row a report with arrays", Layout::Arrays),
            ] {
                let database = Database::empty_at(server.url(), "floor").await?;
                print(name, plan, floor::postgres(database.url(), layout, plan).await?)?;
            }
            Ok(())
        }
    }
}

fn print(name: &str, plan: Plan, outcome: Outcome) -> Result<(), Error> {
    let Outcome { reports, took, host_rows, container_rows } = outcome;
    let expected = plan.total();
    // Rows that are not there were not stored fast.
    if host_rows != expected || container_rows != expected * CONTAINERS as u64 {
        return Err(format!("{name}: {host_rows} and {container_rows} rows of {expected} reports").into());
    }
    println!(
        "{name}: {host_rows} + {container_rows} rows are there; {:.0} reports/s ({reports} in {:.2} s)",
        f64::from(reports) / took.as_secs_f64(),
        took.as_secs_f64()
    );
    Ok(())
}
