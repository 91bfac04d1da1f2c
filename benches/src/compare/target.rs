//! The servers that are compared, each as a process of its own on a database of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::grow::Grown;
use super::place::Place;
use super::program::program;
use crate::Error;

/// Nobody else can reach the server of a bench: it listens on the loopback, for as long as the bench runs.
const ADMIN_TOKEN: &str = "administrator-of-a-bench-0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    Baseline,
    Enlist,
}

impl Contestant {
    /// Its name, and that of its program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Enlist => "enlist-server",
        }
    }
}

/// A server under test.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) tokens: Arc<[String]>,
    child: Child,
    _log: TempDir,
}

impl Target {
    /// Starts a server on a copy of what was grown.
    pub(crate) async fn start(contestant: Contestant, place: &Place, grown: &Grown) -> Result<Self, Error> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        let mut command = Command::new(program(contestant.name())?);
        match contestant {
            Contestant::Baseline => command.arg("--existing").env("BASELINE_DATABASE", place.url()),
            Contestant::Enlist => command
                .args(["serve", "--listen", "127.0.0.1:0"])
                .env("ENLIST_DATABASE", place.url())
                .env("ENLIST_ADMIN_TOKEN", ADMIN_TOKEN)
                // A variable and not a flag: a server that has no such limit yet takes no notice.
                .env("ENLIST_LIVE_PER_MINUTE", "0")
                .env("RUST_LOG", "warn"),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the server has no output")?;
        let listening = tokio::time::timeout(PATIENCE, address_in(BufReader::new(output))).await;
        let Ok(Some(address)) = listening else {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("{} did not start: {log}", contestant.name()).into());
        };
        let pid = child.id().ok_or("the server has ended")?;
        Ok(Self { address, pid, tokens: Arc::clone(&grown.tokens), child, _log: directory })
    }

    /// Ends it with SIGKILL: what it acknowledged has to be there all the same.
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        Ok(self.child.kill().await?)
    }
}

/// The address that a server says it listens on. Its output is read on, so that it is never stuck.
async fn address_in(output: BufReader<tokio::process::ChildStdout>) -> Option<SocketAddr> {
    let mut lines = output.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, address)) = line.split_once("listening on http://") {
            let address = address.trim().parse().ok();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return address;
        }
    }
    None
}
