//! The reference server: `enlist-server serve`.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use enlist_examples::logging;
use enlist_examples::server::{ServeArgs, Server, ServerError, terminated};

/// A fleet's server: hosts enrol, report and are watched.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or SIGINT.
    Serve(ServeArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { command: Command::Serve(args) } = Args::parse();
    logging::init("info");
    match serve(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the server cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &ServeArgs) -> Result<(), ServerError> {
    let server = Server::bind(args).await?;
    if let Some(token) = server.new_admin_token() {
        println!("administrator's token, shown this once: {token}");
    }
    println!("listening on http://{}", server.address());
    server.run(terminated()).await
}
