//! Load from outside, in a process of its own.

#![allow(clippy::print_stdout, reason = "a program prints what it measured")]

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use enlist_benches::Error;
use enlist_benches::compare::{self, Comparison, Engine};
use enlist_benches::document;
use enlist_benches::load::{self, Plan, Protocol};
use enlist_benches::report::baseline_token;

/// Sends reports over kept connections and prints what became of them.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The server's address, as in http://127.0.0.1:7070.
    #[arg(long, required_unless_present = "compare", conflicts_with = "compare")]
    url: Option<String>,
    /// Instead, have enlist-server, the baseline, the engine's floor and the store contract take turns, each on a copy of a
    /// database with a past, and print the figures beside their targets.
    #[arg(long)]
    compare: bool,
    /// How many report at a time, each on a connection of its own.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many hosts report; each stays with a connection.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    hosts: u32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds of load before.
    #[arg(long, default_value_t = 3)]
    warm_up: u64,
    /// With --compare: how often each has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// With --compare: on what engine.
    #[arg(long, value_enum, default_value = "sqlite")]
    engine: Engine,
    /// With --compare: reports that are there before; 200,000 are 2.2 million rows.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    before: u32,
    /// With --compare: reports that the floor and the store contract are timed with.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    reports: u32,
    /// With --compare: VictoriaMetrics has turns, too.
    #[arg(long)]
    with_victoria: bool,
    /// With --compare: where the report with its pictures goes; docs/benchmarks, when cargo runs this.
    #[arg(long, value_name = "DIR", requires = "compare")]
    report: Option<PathBuf>,
    /// With --compare: write no report.
    #[arg(long, conflicts_with = "report")]
    no_report: bool,
    /// With --url: the server's process, to tell what it uses for a report.
    #[arg(long, conflicts_with = "compare")]
    server_pid: Option<u32>,
    /// With --url: a file with an agent token a line, one of each host; those of the baseline otherwise.
    #[arg(long, conflicts_with = "compare")]
    tokens: Option<PathBuf>,
    /// With --url: enrol the hosts at that Enlist server first, as the administrator whose token this is.
    #[arg(long, env = "ENLIST_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
}

// One thread, so that the generator leaves the cores to the server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let (warm_up, duration) = (Duration::from_secs(args.warm_up), Duration::from_secs(args.seconds));
    if args.connections == 0 || args.connections > args.hosts as usize {
        return Err("as many hosts as connections are needed, and one connection at least".into());
    }
    let Some(url) = args.url else {
        let comparison = Comparison {
            engine: args.engine,
            rounds: args.rounds as usize,
            hosts: args.hosts,
            connections: args.connections,
            warm_up,
            duration,
            // A host that never reported has no containers yet: the turns would begin with making them.
            before: args.before.max(args.hosts),
            straight: args.reports,
            with_victoria: args.with_victoria,
        };
        let folder = args.report.or_else(benchmarks).filter(|_| !args.no_report);
        return compare_all(comparison, folder.as_deref()).await;
    };
    let address = address_of(&url)?;
    let tokens: Arc<[String]> = match (&args.tokens, &args.admin_token) {
        (Some(path), _) => read_tokens(path)?.into(),
        (None, Some(admin_token)) => load::enrol(address, admin_token, args.hosts).await?,
        (None, None) => (0..args.hosts).map(baseline_token).collect(),
    };
    let server_pid = args.server_pid;
    let plan = Plan {
        address,
        protocol: Protocol::Enlist,
        tokens,
        connections: args.connections,
        first_sequence: 1,
        warm_up,
        duration,
        server_pid,
        postmaster_pid: None,
    };
    println!("{}", load::run(&plan).await?);
    Ok(())
}

fn address_of(url: &str) -> Result<SocketAddr, Error> {
    let address = url.strip_prefix("http://").ok_or("http:// is all that this speaks")?;
    Ok(address.trim_end_matches('/').parse().map_err(|_| "an address and a port, as in http://127.0.0.1:7070")?)
}

fn read_tokens(path: &Path) -> Result<Vec<String>, Error> {
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    Ok(file.lines().collect::<Result<_, _>>()?)
}

async fn compare_all(comparison: Comparison, folder: Option<&Path>) -> Result<(), Error> {
    compare::build()?;
    let results = compare::compare(comparison, &mut std::io::stdout()).await?;
    println!("\nmedians of {} rounds\n\n{}", comparison.rounds, compare::markdown(&compare::lines(&results)));
    if let Some(folder) = folder {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        println!("the report: {}", document::write(folder, &results, &arguments)?.display());
    }
    Ok(())
}

/// The folder for reports of the workspace that cargo runs this in.
fn benchmarks() -> Option<PathBuf> {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    Some(package.parent()?.join("docs/benchmarks"))
}
