//! Agents that are killed, and servers that are.

use std::path::Path;
use std::time::Duration;

use enlist_agent_sdk::{Agent, AgentToken, Collected, Collector};
use enlist_core::{Clock, SystemClock};
use enlist_testing::Database;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{ADMIN, AgentProcess, Api, ServerProcess, report};

const WINDOW: &str = "5s";

/// Far longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until there is something to be seen.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

async fn get(api: &Api, path: &str) -> Value {
    let (status, reply) = api.call("GET", path, ADMIN, None).await;
    assert_eq!(status, 200, "{path}: {reply}");
    reply
}

async fn until_status(api: &Api, host_id: &str, status: &str) {
    let path = format!("/v1/hosts/{host_id}");
    until(status, async || (get(api, &path).await["status"] == status).then_some(())).await;
}

/// Until verdicts are made: not held back any more.
async fn until_watched(api: &Api) {
    let watched = async || (get(api, "/readyz").await["monitor"]["status"] == "ok").then_some(());
    until("a monitor that is ok", watched).await;
}

/// The hosts that events of this type are about, in their order.
async fn told(api: &Api, event_type: &str) -> Vec<String> {
    let page = get(api, &format!("/v1/events?limit=500&type={event_type}")).await;
    let events = page["items"].as_array().expect("items");
    events.iter().map(|event| event["host_id"].as_str().expect("of a host").to_owned()).collect()
}

/// Whether the containers of a host are missing, if all of them are or none.
async fn missing(api: &Api, host_id: &str) -> Option<bool> {
    let page = get(api, &format!("/v1/hosts/{host_id}/containers")).await;
    let missing: Vec<_> = page["items"].as_array().expect("items").iter().map(|one| &one["missing"]).collect();
    let first = missing.first()?.as_bool()?;
    assert!(missing.iter().all(|one| **one == json!(first)), "{page}");
    Some(first)
}

/// Events as they are told.
struct Feed {
    stream: reqwest::Response,
    text: String,
}

impl Feed {
    async fn follow(server: &ServerProcess) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client can be built");
        let request = http.get(format!("{}/v1/events/stream", server.url)).bearer_auth(ADMIN);
        Self { stream: request.send().await.expect("it is answered"), text: String::new() }
    }

    /// The next event of this type.
    async fn next(&mut self, event_type: &str) -> Value {
        loop {
            while let Some((line, rest)) = self.text.split_once('\n') {
                let event = line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).expect("JSON"));
                self.text = rest.to_owned();
                if let Some(event) = event.filter(|event| event["type"] == event_type) {
                    return event;
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.stream.chunk()).await.expect("it says so in time");
            self.text += std::str::from_utf8(&chunk.expect("it goes on").expect("it does not end")).expect("text");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_is_told_of_once_and_so_is_its_return() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("fleet.db");
    let server = ServerProcess::start(&database, &["--liveness-window", WINDOW], "warn").await;
    let api = Api::new(&server);
    let mut feed = Feed::follow(&server).await;
    let (host_id, token) = api.enrol("web-1").await;
    let agent = AgentProcess::start(&server, directory.path(), &host_id, &token);
    assert_eq!(feed.next("host.online").await["data"]["was"], "pending");
    // Containers, which this agent does not look at; again if it has just said something newer.
    let shown = async || {
        let report = report(SystemClock::default().now());
        assert_eq!(api.call("POST", "/v1/agent/telemetry", token.expose(), Some(report)).await.0, 200);
        missing(&api, &host_id).await
    };
    assert!(!until("containers", shown).await);

    agent.kill().await;
    let event = feed.next("host.unreachable").await;
    assert_eq!((event["host_id"].as_str(), &event["data"]["storm"]), (Some(&*host_id), &Value::Null), "{event}");
    assert_eq!(get(&api, &format!("/v1/hosts/{host_id}")).await["status"], "unreachable");
    assert_eq!(missing(&api, &host_id).await, Some(true));

    let _agent = AgentProcess::start(&server, directory.path(), &host_id, &token);
    let event = feed.next("host.online").await;
    assert_eq!((event["host_id"].as_str(), &event["data"]["was"]), (Some(&*host_id), &json!("unreachable")));
    assert_eq!(get(&api, &format!("/v1/hosts/{host_id}")).await["status"], "online");
    assert_eq!(missing(&api, &host_id).await, Some(false));
    assert_eq!([told(&api, "host.online").await.len(), told(&api, "host.unreachable").await.len()], [2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_watch_as_one_and_one_goes_on_alone() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::empty("liveness").await.unwrap();
    let start = || ServerProcess::start_on(database.url(), &["--liveness-window", WINDOW], "warn");
    let (first, second) = tokio::join!(start(), start());
    let (here, there) = (Api::new(&first), Api::new(&second));
    let mut agents = Vec::new();
    for (name, server) in [("a", &first), ("b", &second), ("c", &second)] {
        let (host_id, token) = here.enrol(name).await;
        let agent = AgentProcess::start(server, directory.path(), &host_id, &token);
        until_status(&there, &host_id, "online").await;
        agents.push((host_id, agent));
    }
    let [(a, agent_a), (b, agent_b), (c, _agent_c)] = <[_; 3]>::try_from(agents).ok().expect("three of them");
    // Both of them look, and neither holds its verdict back.
    until_watched(&here).await;
    until_watched(&there).await;
    agent_a.kill().await;
    until_status(&here, &a, "unreachable").await;
    assert_eq!(told(&here, "host.unreachable").await, [&*a]);

    first.kill().await;
    agent_b.kill().await;
    until_status(&there, &b, "unreachable").await;
    // Both have looked at `a` many times since.
    assert_eq!(told(&there, "host.unreachable").await, [a, b]);
    assert_eq!(get(&there, &format!("/v1/hosts/{c}")).await["status"], "online");
}

/// An agent that measures nothing: hundreds of them run beside each other.
struct Nothing;

#[enlist_agent_sdk::async_trait]
impl Collector for Nothing {
    async fn collect(&mut self) -> Collected {
        Collected::default()
    }
}

/// A host and its agent, which can be killed.
type Simulated = (String, JoinHandle<()>);

async fn simulate(server: &ServerProcess, directory: &Path, name: &str) -> Simulated {
    let (host_id, token) = Api::new(server).enrol(name).await;
    let builder = Agent::builder(&server.url)
        .state_dir(directory.join(name))
        .agent_token(AgentToken::new(token.expose()).expect("a token"))
        .collector(Nothing);
    let (agent, events) = builder.open().await.expect("it opens");
    let task = tokio::spawn(async move {
        let ended = agent.run(std::future::pending()).await;
        panic!("an agent ended: {ended:?}, {events:?}");
    });
    (host_id, task)
}

/// How a server goes.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Stopped,
    Killed,
}

/// How long the server is away, and after how much silence hosts are unreachable. `ENLIST_TEST_AWAY=5m` tries it with windows as
/// they are by default.
fn absence() -> (Duration, String) {
    match std::env::var("ENLIST_TEST_AWAY") {
        Ok(away) => (humantime::parse_duration(&away).expect("a duration, as in 5m"), "90s".to_owned()),
        Err(_) => (Duration::from_secs(16), WINDOW.to_owned()),
    }
}

/// The server is away for more than three windows: nobody is unreachable for it, but who is gone afterwards is.
async fn away(size: usize, end: End) {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("fleet.db");
    let (away, window) = absence();
    let server = ServerProcess::start(&database, &["--liveness-window", &window], "warn").await;
    let mut fleet = Vec::new();
    for n in 0..size {
        fleet.push(simulate(&server, directory.path(), &format!("h-{n}")).await);
    }
    let online =
        async |api: &Api| get(api, "/v1/hosts?status=online&limit=500").await["items"].as_array().map(Vec::len);
    let api = Api::new(&server);
    until("all of the fleet", async || (online(&api).await == Some(size)).then_some(())).await;
    until_watched(&api).await;
    let address = server.url.strip_prefix("http://").expect("it speaks plain HTTP").to_owned();
    match end {
        End::Stopped => assert_eq!(server.terminate().await, Some(0)),
        End::Killed => server.kill().await,
    }
    tokio::time::sleep(away).await;

    let server = ServerProcess::start(&database, &["--listen", &address, "--liveness-window", &window], "warn").await;
    let api = Api::new(&server);
    assert_eq!(online(&api).await, Some(size));
    // Verdicts are made again: whoever is silent falls from now on.
    until_watched(&api).await;
    assert_eq!(told(&api, "host.unreachable").await, [""; 0]);
    let log = server.log();
    assert!(log.contains("nobody has looked for silent hosts"), "{log}");
    let (host_id, agent) = fleet.pop().expect("there are some");
    agent.abort();
    until_status(&api, &host_id, "unreachable").await;
    assert_eq!(told(&api, "host.unreachable").await, [host_id]);
    // Each was told of when it came, and none has come back, since none had gone.
    assert_eq!(told(&api, "host.online").await.len(), size);
    assert!(fleet.iter().all(|(_, agent)| !agent.is_finished()));
}

/// A fleet so large that it would be a storm; and four hosts, which no storm protects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_unreachable_because_the_server_was_away() {
    tokio::join!(away(30, End::Stopped), away(30, End::Killed), away(4, End::Killed));
}
