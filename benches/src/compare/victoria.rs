//! VictoriaMetrics beside it, a store of metrics alone: one report a request, in InfluxDB's lines.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::count::Rows;
use crate::load::Client;
use crate::report::CONTAINERS;
use crate::{Error, clock};

/// As Debian calls it.
pub(crate) const PROGRAM: &str = "victoria-metrics";
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// One that runs, on an empty directory.
#[derive(Debug)]
pub(crate) struct Victoria {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    child: Child,
    directory: TempDir,
}

/// Its version, as it says it.
///
/// # Errors
/// When there is no such program: it was asked for.
pub(crate) async fn version() -> Result<String, Error> {
    let output = Command::new(PROGRAM).arg("-version").output().await;
    let output =
        output.map_err(|error| format!("--with-victoria needs {PROGRAM} (apt-get install {PROGRAM}): {error}"))?;
    // Debian's does not know it.
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(if version.is_empty() { "VictoriaMetrics".to_owned() } else { version })
}

impl Victoria {
    pub(crate) async fn start() -> Result<Self, Error> {
        let directory = tempfile::tempdir()?;
        // It does not say which port it took: one that was free a moment ago.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(PROGRAM);
        command.arg(format!("-storageDataPath={}", directory.path().join("data").display()));
        command.arg(format!("-httpListenAddr={address}"));
        // What came in a moment ago is counted as well.
        command.args(["-loggerLevel=ERROR", "-search.latencyOffset=0s", "-search.maxUniqueTimeseries=10000000"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let deadline = clock::instant() + PATIENCE;
        loop {
            if let Ok(mut client) = Client::connect(address).await
                && matches!(client.post("/health", "", Bytes::new()).await, Ok((status, _)) if status.is_success())
            {
                break;
            }
            if child.try_wait()?.is_some() || clock::instant() > deadline {
                return Err(format!("{PROGRAM} did not start").into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let pid = child.id().ok_or("it has ended")?;
        Ok(Self { address, pid, child, directory })
    }

    /// Counts its samples of one number of each kind, since it has no rows. What came last is found a moment later: until
    /// there are as many as expected, or a while has passed.
    pub(crate) async fn count(&self, expected: u64) -> Result<Rows, Error> {
        let mut client = Client::connect(self.address).await?;
        let deadline = clock::instant() + PATIENCE;
        loop {
            client.post("/internal/force_flush", "", Bytes::new()).await?;
            let reports = count_of(&mut client, "host_cpu_percent").await?;
            let containers = count_of(&mut client, "container_cpu_cores").await?;
            let is_all = reports >= expected && containers >= expected * CONTAINERS as u64;
            if is_all || clock::instant() > deadline {
                return Ok(Rows { reports, distinct: reports, containers });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends it in order, so that what it holds in memory is on disk; how many bytes that are.
    pub(crate) async fn stop(mut self) -> Result<u64, Error> {
        let pid = self.pid.to_string();
        Command::new("kill").args(["-INT", &pid]).status().await?;
        self.child.wait().await?;
        bytes_below(self.directory.path())
    }
}

async fn count_of(client: &mut Client, metric: &str) -> Result<u64, Error> {
    // Of an hour that ends in a minute: times of samples are those of reports.
    let end = clock::unix_micros() / 1_000_000 + 60;
    let path = format!("/api/v1/query?nocache=1&time={end}&query=sum(count_over_time({metric}[1h]))");
    let (status, reply) = client.post(&path, "", Bytes::new()).await?;
    if !status.is_success() {
        return Err(format!("{PROGRAM}: {status}: {}", String::from_utf8_lossy(&reply)).into());
    }
    let reply: Value = serde_json::from_slice(&reply)?;
    let count = reply["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
    Ok(count.unwrap_or(0.0) as u64)
}

fn bytes_below(directory: &std::path::Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
