//! A server process to talk to.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::{SystemEntropy, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

pub(crate) const ADMIN: &str = "an-administrators-token-for-tests";

/// An `enlist-server` of its own, killed when it is dropped.
pub(crate) struct ServerProcess {
    pub(crate) url: String,
    pub(crate) log: Arc<Mutex<String>>,
    child: Child,
}

impl ServerProcess {
    /// Starts the server on a SQLite file and waits until it listens.
    pub(crate) async fn start(database: &Path, arguments: &[&str], log_level: &str) -> Self {
        Self::start_on(&format!("sqlite://{}", database.display()), arguments, log_level).await
    }

    /// Starts the server on any database and waits until it listens.
    pub(crate) async fn start_on(database: &str, arguments: &[&str], log_level: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_enlist-server"))
            .arg("serve")
            .args(arguments)
            .env("ENLIST_LISTEN", "127.0.0.1:0")
            .env("ENLIST_DATABASE", database)
            .env("ENLIST_ADMIN_TOKEN", ADMIN)
            .env("ENLIST_LOG", log_level)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server's program was built with its tests");
        let log = Arc::new(Mutex::new(String::new()));
        let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let errors = child.stderr.take().expect("it is piped");
        tokio::spawn(collect(errors, Arc::clone(&log)));
        let url = loop {
            let line = output.next_line().await.expect("the output is text");
            let Some(line) = line else { panic!("the server ended: {}", log.lock().unwrap()) };
            log.lock().unwrap().push_str(&line);
            if let Some(url) = line.strip_prefix("listening on ") {
                break url.to_owned();
            }
        };
        Self { url, log, child }
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// SIGKILL: no warning, no chance to write anything.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it runs until it is killed");
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("there is a kill");
        assert!(sent.success());
        self.child.wait().await.expect("it can be waited for").code()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

/// An `enlist-agent` of its own, killed when it is dropped.
pub(crate) struct AgentProcess(Child);

impl AgentProcess {
    /// Starts the agent of a host that has this token, with a state of its own below `directory`.
    pub(crate) fn start(server: &ServerProcess, directory: &Path, host_id: &str, token: &PlainToken) -> Self {
        let file = directory.join(format!("{host_id}.token"));
        std::fs::write(&file, token.expose()).expect("the directory can be written to");
        let child = Command::new(env!("CARGO_BIN_EXE_enlist-agent"))
            .args(["run", "--server", &server.url, "--state-dir"])
            .arg(directory.join(host_id))
            .arg("--agent-token-file")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the agent's program was built with its tests");
        Self(child)
    }

    /// SIGKILL: the server is not told.
    pub(crate) async fn kill(mut self) {
        self.0.kill().await.expect("it runs until it is killed");
    }
}

async fn collect(stream: impl AsyncRead + Unpin, log: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
    }
}

/// A client of the API.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    url: String,
}

impl Api {
    pub(crate) fn new(server: &ServerProcess) -> Self {
        // Whoever is first installs the provider; the others find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client can be built");
        Self { http, url: server.url.clone() }
    }

    /// One request; `None` when no whole reply came.
    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let mut request = self.http.request(method.parse().expect("a method"), format!("{}{path}", self.url));
        if !bearer.is_empty() {
            request = request.bearer_auth(bearer);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let reply = request.send().await.ok()?;
        let status = reply.status().as_u16();
        let text = reply.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub(crate) async fn call(&self, method: &str, path: &str, bearer: &str, body: Option<Value>) -> (u16, Value) {
        self.try_call(method, path, bearer, body).await.expect("the server answers")
    }

    /// Creates a host and enrols it with a client-made credential.
    pub(crate) async fn enrol(&self, name: &str) -> (String, PlainToken) {
        let host = json!({"name": name, "kind": "byoc"});
        let (status, created) = self.call("POST", "/v1/hosts", ADMIN, Some(host)).await;
        assert_eq!(status, 201, "{created}");
        let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
        let exchange = json!({"install_token": created["install_token"]["token"], "claim": token.hash().to_hex()});
        let (status, enrolled) = self.call("POST", "/v1/install-tokens/exchange", "", Some(exchange)).await;
        assert_eq!(status, 200, "{enrolled}");
        (created["host"]["id"].as_str().expect("a host has an id").to_owned(), token)
    }

    /// All stored reports of a host.
    pub(crate) async fn telemetry(&self, host_id: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/hosts/{host_id}/telemetry?limit=500{cursor}");
            let (status, page) = self.call("GET", &path, ADMIN, None).await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["items"].as_array().expect("a page has items").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }
}

/// A report measured at `at`, with ten containers that say so as well.
pub(crate) fn report(at: Timestamp) -> Value {
    let number = at.unix_micros();
    let containers: Vec<_> = (0..10)
        .map(|n| {
            json!({"container_id": format!("c{n}"), "name": format!("n{n}"), "image": "i", "state": "running",
                   "metrics": {"memory_used_bytes": number, "pids": n}})
        })
        .collect();
    json!({
        "recorded_at": at.to_string(),
        "host": {"metrics": {"memory_used_bytes": number, "cpu_percent": 12.5}},
        "containers": containers,
        "containers_complete": true,
    })
}
