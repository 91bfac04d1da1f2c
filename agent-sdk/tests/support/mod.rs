//! A server on loopback that answers as a test tells it to, and an agent's surroundings that stand still.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod fleet;

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use enlist_agent_sdk::{
    Agent, AgentBuilder, AgentToken, Client, ClientError, Collected, Collector, CredentialStore, Events,
    FileCredentialStore, InstallToken, Outcome, RunError, Session, SessionError, Timer, Worked,
};
use enlist_core::secret::Prefix;
use enlist_core::wire::{Code, HeartbeatReply, Problem};
use enlist_core::{Clock, ManualClock, PlainToken, SystemEntropy, Timestamp};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const HOST_ID: &str = "01890a5d-ac96-774b-bcce-000040000000";

/// Of the token that follows the first.
pub(crate) const SECOND_TOKEN_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

/// Time does not pass by itself here: what goes on this long would go on for ever.
const ENDLESS: usize = 2_000;

/// What the server was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) bearer: Option<String>,
    pub(crate) body: Value,
}

/// What the server does.
pub(crate) enum Answer {
    /// This reply.
    Reply { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// Acts on the request, and the reply is lost.
    Lost,
    /// Nothing, for ever.
    Silence,
}

pub(crate) fn ok(body: Value) -> Answer {
    let headers = vec![("content-type", "application/json".to_owned())];
    Answer::Reply { status: 200, headers, body: body.to_string().into_bytes() }
}

pub(crate) fn html(status: u16) -> Answer {
    let headers = vec![("content-type", "text/html".to_owned())];
    Answer::Reply { status, headers, body: b"<html>Please sign in to this network</html>".to_vec() }
}

pub(crate) fn problem(problem: &Problem) -> Answer {
    Answer::Reply { status: problem.status, headers: problem.headers(), body: problem.to_json() }
}

pub(crate) fn refusal(code: Code) -> Answer {
    problem(&Problem::new(code, "says the test"))
}

pub(crate) fn enrolled() -> Answer {
    ok(json!({
        "host_id": HOST_ID,
        "tenant_id": "acme",
        "agent_token": {"id": "01890a5d-ac96-774b-bcce-b302099a8057", "kind": "bearer", "expires_at": null},
    }))
}

pub(crate) fn acknowledged() -> Answer {
    acknowledged_at(now(), 30_000)
}

pub(crate) fn acknowledged_at(server_time: Timestamp, next_report_in_ms: u64) -> Answer {
    ok(json!({
        "status": "accepted", "server_time": server_time, "next_report_in_ms": next_report_in_ms, "lease_ms": 60_000,
    }))
}

/// The reply of `GET /v1/agent/self`.
pub(crate) fn who() -> Answer {
    who_until(None)
}

pub(crate) fn who_until(expires_at: Option<Timestamp>) -> Answer {
    ok(json!({
        "host_id": HOST_ID, "tenant_id": "acme", "token_id": SECOND_TOKEN_ID, "kind": "bearer", "expires_at": expires_at,
        "server_time": now(),
    }))
}

pub(crate) fn proposed() -> Answer {
    ok(json!({"id": SECOND_TOKEN_ID, "state": "pending"}))
}

pub(crate) fn now() -> Timestamp {
    "2026-11-01T12:00:00Z".parse().expect("a time")
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Answers the n-th request, from zero, by this function.
    pub(crate) async fn start(mut answer: impl FnMut(usize, &Asked) -> Answer + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let shared = Arc::clone(&asked);
        let answer = Arc::new(Mutex::new(move |request: Asked| {
            let mut asked = shared.lock().expect("not poisoned");
            assert!(asked.len() < ENDLESS, "the agent never stops asking");
            let answer = answer(asked.len(), &request);
            asked.push(request);
            answer
        }));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request| {
                    let answer = Arc::clone(&answer);
                    async move {
                        let asked = read(request).await;
                        let answer = (answer.lock().expect("not poisoned"))(asked);
                        write(answer).await
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { url, asked, task }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// The paths that were asked, less what they have in common.
    pub(crate) fn paths(&self) -> Vec<String> {
        let last = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
        self.asked().into_iter().map(|asked| last(asked.path)).collect()
    }

    pub(crate) fn claims(&self) -> Vec<String> {
        let exchanges = self.asked().into_iter().filter(|asked| asked.path.ends_with("/exchange"));
        exchanges.map(|asked| asked.body["claim"].as_str().expect("a claim").to_owned()).collect()
    }

    pub(crate) fn reports(&self) -> Vec<Value> {
        let reports = self.asked().into_iter().filter(|asked| asked.path.ends_with("/telemetry"));
        reports.map(|asked| asked.body).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(request: Request<Incoming>) -> Asked {
    let path = request.uri().path().to_owned();
    let bearer = request
        .headers()
        .get("authorization")
        .map(|value| value.to_str().expect("ASCII").strip_prefix("Bearer ").expect("a bearer token").to_owned());
    let compressed = request.headers().get("content-encoding").is_some_and(|coding| coding == "gzip");
    let mut body = request.into_body().collect().await.expect("a body").to_bytes();
    if compressed {
        let mut whole = Vec::new();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut whole).expect("gzip");
        body = whole.into();
    }
    Asked { path, bearer, body: serde_json::from_slice(&body).unwrap_or_default() }
}

async fn write(answer: Answer) -> Result<Response<Full<Bytes>>, std::io::Error> {
    match answer {
        Answer::Reply { status, headers, body } => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body.into())).expect("a reply"))
        }
        Answer::Lost => Err(std::io::ErrorKind::ConnectionReset.into()),
        Answer::Silence => std::future::pending().await,
    }
}

pub(crate) fn install_token() -> InstallToken {
    InstallToken::from(PlainToken::generate(Prefix::INSTALL, &SystemEntropy))
}

/// A state directory as an agent leaves it that has enrolled and reported: the credential, and its secret.
pub(crate) async fn enrolled_home() -> (TempDir, String) {
    let home = tempfile::tempdir().expect("a directory");
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/install-tokens/exchange" => enrolled(),
        "/v1/agent/self" => who(),
        _ => acknowledged(),
    })
    .await;
    let (agent, _) =
        agent(&server, home.path(), &MovingTimer::new()).install_token(install_token()).open().await.expect("opens");
    let path = home.path().to_owned();
    let confirmed = async move {
        while file(&path)["installed"]["obtained_at"].is_null() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    agent.run(confirmed).await.expect("enrolled");
    // The last save has let the directory go.
    while FileCredentialStore::new(home.path()).load().await.is_err() {
        tokio::task::yield_now().await;
    }
    let secret = file(home.path())["installed"]["token"].as_str().expect("a token").to_owned();
    (home, secret)
}

/// What the credential file says, or null.
pub(crate) fn file(directory: &Path) -> Value {
    std::fs::read(directory.join("credential.json"))
        .map_or(Value::Null, |json| serde_json::from_slice(&json).expect("the file is whole whenever it is read"))
}

/// SHA-256 of the token in this part of the file.
pub(crate) fn hash_of(part: &Value) -> String {
    let text = part["token"].as_str().expect("a token");
    AgentToken::new(text).expect("a token").hash().to_hex()
}

/// Sleeps by moving the clock, and writes down for how long.
pub(crate) struct MovingTimer {
    pub(crate) clock: Arc<ManualClock>,
    slept: Mutex<Vec<Duration>>,
}

impl MovingTimer {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { clock: Arc::new(ManualClock::new(now())), slept: Mutex::default() })
    }

    pub(crate) fn slept(&self) -> Vec<Duration> {
        self.slept.lock().expect("not poisoned").clone()
    }
}

#[enlist_agent_sdk::async_trait]
impl Timer for MovingTimer {
    async fn sleep(&self, by: Duration) {
        {
            let mut slept = self.slept.lock().expect("not poisoned");
            assert!(slept.len() < ENDLESS, "the agent never gives up");
            slept.push(by);
        }
        self.clock.advance(by);
        tokio::task::yield_now().await;
    }
}

/// A client that does not wait long.
pub(crate) fn client(server: &Server) -> Client {
    Client::builder(&server.url).timeout(SHORT).build().expect("a client")
}

/// A session on the moving clock.
pub(crate) async fn session(
    server: &Server,
    store: impl CredentialStore,
    clock: &Arc<ManualClock>,
) -> (Session, Events) {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Session::builder(client(server), Arc::new(store)).clock(clock).open().await.expect("opens")
}

/// A session on this home that wants a rotation.
pub(crate) async fn rotating(server: &Server, home: &Path, clock: &Arc<ManualClock>) -> Session {
    let (session, _) = session(server, FileCredentialStore::new(home), clock).await;
    session.rotate();
    session
}

/// One heartbeat, again if the session says so.
pub(crate) async fn heartbeat(
    session: &Session,
    server: &Server,
) -> Result<Result<HeartbeatReply, ClientError>, SessionError> {
    let client = client(server);
    loop {
        let permit = session.permit().await?;
        let result = client.heartbeat(&permit).await;
        if permit.worked(&result).await? == Worked::Done {
            return Ok(result);
        }
    }
}

/// Counts its collections, so that no two reports are the same.
#[derive(Default)]
pub(crate) struct Counting(u32);

#[enlist_agent_sdk::async_trait]
impl Collector for Counting {
    async fn collect(&mut self) -> Collected {
        self.0 += 1;
        Collected::default().with_custom("collections", f64::from(self.0))
    }
}

/// An agent on the moving timer that measures nothing but [`Counting`].
pub(crate) fn agent(server: &Server, directory: &Path, timer: &Arc<MovingTimer>) -> AgentBuilder {
    Agent::builder(&server.url)
        .state_dir(directory)
        .collector(Counting::default())
        .clock(Arc::clone(&timer.clock) as Arc<dyn Clock>)
        .timer(Arc::clone(timer) as Arc<dyn Timer>)
}

/// Short enough to wait for a silent server, long enough for a busy machine.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// Runs until the server was asked `requests` times.
pub(crate) async fn run_until(agent: Agent, server: &Server, requests: usize) -> Result<Outcome, RunError> {
    let asked = Arc::clone(&server.asked);
    let enough = async move {
        while asked.lock().expect("not poisoned").len() < requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    agent.run(enough).await
}

/// The names of the events that wait.
pub(crate) async fn names(mut events: Events) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(event) = events.next().await {
        let text = format!("{event:?}");
        names.push(text.split([' ', '{']).next().unwrap_or_default().to_owned());
    }
    names
}
