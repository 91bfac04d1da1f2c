//! The reference server: `enlist-server serve`.

#![allow(clippy::print_stdout, reason = "a program says where it listens")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::{Parser, Subcommand};
use enlist_examples::logging;
use enlist_examples::server::{ServeArgs, Server, make_signing_key, terminated};
use tokio::runtime::{Builder, Runtime};

/// What a report allocates on one thread is freed on another, thousands of times a second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A fleet's server: hosts enrol, report and are watched.
#[derive(Debug, Parser)]
#[command(name = "enlist-server", version)]
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

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    logging::init("info");
    let result = match command {
        Command::Serve(args) => runtime(&args).map_err(Into::into).and_then(|runtime| runtime.block_on(serve(&args))),
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

fn runtime(args: &ServeArgs) -> io::Result<Runtime> {
    let beside_the_engine = || thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1));
    let threads = args.worker_threads.map_or_else(beside_the_engine, usize::from);
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

fn make(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("made key {} in {}", make_signing_key(path)?, path.display());
    Ok(())
}

async fn serve(args: &ServeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::bind(args).await?;
    if let Some(token) = server.new_admin_token() {
        let mut output = io::stdout();
        writeln!(output, "administrator's token, shown this once: {token}")?;
        output.flush()?;
    }
    server.keep_admin_token()?;
    println!("listening on http://{}", server.address());
    Ok(server.run(terminated()).await?)
}
