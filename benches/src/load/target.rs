//! The servers that are compared, each as a process of its own on a database of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use enlist_testing::{Cluster, Database, Durability, POSTGRES_URL};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::enrol::enrol;
use crate::Error;
use crate::report::baseline_token;

/// Nobody else can reach the server of a bench: it listens on the loopback, for as long as the bench runs.
const ADMIN_TOKEN: &str = "administrator-of-a-bench-0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(60);

/// On what engine to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The bundled SQLite, on a file in the temporary directory.
    Sqlite,
    /// The server of ENLIST_TEST_POSTGRES_URL, or one of its own that flushes.
    Postgres,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    Baseline,
    Enlist,
}

impl Contestant {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Enlist => "enlist-server",
        }
    }
}

/// A PostgreSQL whose commits are durable.
#[derive(Debug)]
pub struct PostgresServer {
    url: String,
    _cluster: Option<Cluster>,
}

impl PostgresServer {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The server of `ENLIST_TEST_POSTGRES_URL`, or a new one that ends with the value.
///
/// # Errors
/// When there is none, or when it does not flush: what it acknowledges would be worth nothing, and so would a figure.
pub async fn postgres_server() -> Result<PostgresServer, Error> {
    let given = std::env::var(POSTGRES_URL).ok().filter(|url| !url.is_empty());
    let server = match given {
        Some(url) => PostgresServer { url, _cluster: None },
        None => {
            let cluster = Cluster::start(Durability::On)?;
            PostgresServer { url: cluster.url(), _cluster: Some(cluster) }
        }
    };
    let mut connection = PgConnection::connect(server.url()).await?;
    for setting in ["SHOW fsync", "SHOW synchronous_commit", "SHOW full_page_writes"] {
        let value: String = sqlx::query_scalar(setting).fetch_one(&mut connection).await?;
        if value != "on" {
            return Err(format!(
                "{POSTGRES_URL} leads to a server that does not flush ({setting}: {value}); \
                 leave it unset and a durable one is started"
            )
            .into());
        }
    }
    connection.close().await?;
    Ok(server)
}

/// A server under test and what it keeps.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) contestant: Contestant,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    pub(super) tokens: Arc<[String]>,
    child: Child,
    pub(super) place: Place,
    directory: TempDir,
}

/// Where it keeps its rows.
#[derive(Debug)]
pub(super) enum Place {
    Sqlite(PathBuf),
    Postgres(Database),
}

impl Target {
    /// Starts a server on a fresh database with this many hosts.
    pub(super) async fn start(
        contestant: Contestant,
        postgres: Option<&PostgresServer>,
        hosts: u32,
    ) -> Result<Self, Error> {
        let directory = tempfile::tempdir()?;
        let place = match postgres {
            None => Place::Sqlite(directory.path().join("rows.db")),
            Some(server) => Place::Postgres(Database::empty_at(server.url(), contestant.name()).await?),
        };
        let database = match &place {
            Place::Sqlite(path) => format!("sqlite://{}", path.display()),
            Place::Postgres(database) => database.url().to_owned(),
        };
        let log = directory.path().join("log");
        let mut command = Command::new(program(contestant.name())?);
        match contestant {
            Contestant::Baseline => command.args(["--hosts", &hosts.to_string()]).env("BASELINE_DATABASE", database),
            Contestant::Enlist => command
                .args(["serve", "--listen", "127.0.0.1:0"])
                .env("ENLIST_DATABASE", database)
                .env("ENLIST_ADMIN_TOKEN", ADMIN_TOKEN)
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
        let tokens = match contestant {
            Contestant::Baseline => (0..hosts).map(baseline_token).collect(),
            Contestant::Enlist => enrol(address, ADMIN_TOKEN, hosts).await?,
        };
        Ok(Self { contestant, address, pid, tokens, child, place, directory })
    }

    /// Ends it with SIGKILL: what it acknowledged has to be there all the same.
    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        Ok(self.child.kill().await?)
    }

    /// What the file system holds for it.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
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

/// A program beside this one.
fn program(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "there is no {name} beside this program: cargo build --release -p enlist-benches --bins, and -p enlist-examples"
    )
    .into())
}
