//! The reference server: `enlist-server serve`.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use enlist_examples::logging;
use enlist_examples::server::{ServeArgs, Server, make_signing_key, terminated};

/// What a report allocates on one thread is freed on another, thousands of times a second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    Serve(Box<ServeArgs>),
    /// Make a key that signs access tokens, in a new file.
    MakeSigningKey {
        /// The file.
        path: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { command } = Args::parse();
    logging::init("info");
    let result = match command {
        Command::Serve(args) => serve(&args).await,
        Command::MakeSigningKey { path } => make(&path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error, "enlist-server failed");
            ExitCode::FAILURE
        }
    }
}

fn make(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("made key {} in {}", make_signing_key(path)?, path.display());
    Ok(())
}

async fn serve(args: &ServeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::bind(args).await?;
    if let Some(token) = server.new_admin_token() {
        let mut output = std::io::stdout();
        writeln!(output, "administrator's token, shown this once: {token}")?;
        output.flush()?;
    }
    server.keep_admin_token()?;
    println!("listening on http://{}", server.address());
    Ok(server.run(terminated()).await?)
}
