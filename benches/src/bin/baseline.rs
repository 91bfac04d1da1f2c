//! Ingest as it is usually written by hand, to be compared with.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;
use enlist_benches::Error;
use enlist_benches::baseline::{self, Database};
use tokio::net::TcpListener;

/// Serves `POST /v1/agent/telemetry` the usual way, with tokens that `ingest-load` knows.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// Where to listen; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// `sqlite://PATH` of a new file, or the URL of an empty PostgreSQL database.
    #[arg(long, env = "BASELINE_DATABASE", hide_env_values = true)]
    database: String,
    /// How many hosts have a token.
    #[arg(long, default_value_t = 1_000)]
    hosts: u32,
    /// The database is no empty one: it has the tables and the tokens of an earlier run.
    #[arg(long)]
    existing: bool,
    /// How many connections to PostgreSQL may be open at a time.
    #[arg(long, default_value_t = 16)]
    database_connections: u32,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let Args { listen, database, hosts, existing, database_connections } = Args::parse();
    let hosts = (!existing).then_some(hosts);
    let database = match database.strip_prefix("sqlite://") {
        Some(path) => Database::sqlite(Path::new(path), hosts).await?,
        None => Database::postgres(&database, hosts, database_connections).await?,
    };
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(baseline::serve(listener, database).await?)
}
