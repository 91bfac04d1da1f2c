//! Load from outside, in a process of its own.

#![allow(clippy::print_stdout, reason = "a program prints what it measured")]

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use enlist_benches::Error;
use enlist_benches::load::{self, Comparison, Engine, Plan};
use enlist_benches::report::baseline_token;

/// Sends reports over kept connections and prints what became of them.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The server's address, as in http://127.0.0.1:7070.
    #[arg(long, required_unless_present = "compare", conflicts_with = "compare")]
    url: Option<String>,
    /// Start enlist-server and the baseline alternately on fresh databases instead, and print the ratio.
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
        build()?;
        let comparison = Comparison {
            engine: args.engine,
            rounds: args.rounds as usize,
            hosts: args.hosts,
            connections: args.connections,
            warm_up,
            duration,
        };
        return load::compare(comparison, &mut std::io::stdout()).await;
    };
    let address = address_of(&url)?;
    let tokens: Arc<[String]> = match (&args.tokens, &args.admin_token) {
        (Some(path), _) => read_tokens(path)?.into(),
        (None, Some(admin_token)) => load::enrol(address, admin_token, args.hosts).await?,
        (None, None) => (0..args.hosts).map(baseline_token).collect(),
    };
    let server_pid = args.server_pid;
    let plan = Plan { address, tokens, connections: args.connections, warm_up, duration, server_pid };
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

/// `cargo run` builds this program alone: the servers beside it would be missing, or old.
fn build() -> Result<(), Error> {
    let (Some(cargo), Some(folder)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(());
    };
    // One after the other: together they would be built with each other's features.
    for package in [&["-p", "enlist-benches", "--bins"][..], &["-p", "enlist-examples", "--bin", "enlist-server"]] {
        let mut command = Command::new(&cargo);
        command.current_dir(&folder).args(["build", "--locked"]).args(package);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        if !command.status()?.success() {
            return Err("the servers could not be built".into());
        }
    }
    Ok(())
}
