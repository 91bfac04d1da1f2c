//! A fault at every single step of an exchange, a rotation and a refresh, one run for each: afterwards the host is
//! authenticated without a human, within two more requests, and nobody has raised an alarm.

use std::collections::BTreeSet;
use std::time::Duration;

use enlist_core::agent_token::CredentialKind;
use enlist_core::fleet::Limits;
use enlist_core::secret::IdempotencyKey;
use enlist_core::wire::AgentTokenStatus;
use enlist_core::{HostId, PlainToken};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::faults::{Faults, Victims};
use crate::server::{Kept, Server, no_losses, postgres, sqlite};

/// How often an agent tries before the test gives up: more than it may need.
const MOST_TURNS: usize = 12;

/// What is under way when the fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Exchange,
    Rotation,
    Refresh,
    RefreshTokenRotation,
}

impl Act {
    const fn kind(self) -> CredentialKind {
        match self {
            Self::Exchange | Self::Rotation => CredentialKind::Bearer,
            Self::Refresh | Self::RefreshTokenRotation => CredentialKind::Refresh,
        }
    }
}

/// Runs the act once for each of its points, with the fault there. Gives the points.
async fn fault_at_every_point(kept: &Kept, act: Act, victims: Victims) -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for planned in 0.. {
        let faults = Faults::new(victims);
        let server = Server::start(kept, faults.clone(), no_losses(), Limits::default()).await;
        let (host_id, install_token) = server.host(act.kind()).await;
        let mut agent = Agent::new(&server, &install_token);
        match act {
            Act::Exchange | Act::Refresh => {}
            Act::Rotation | Act::RefreshTokenRotation => {
                assert_eq!(agent.work(MOST_TURNS).await, Some(1), "nothing is wrong yet");
                agent.rotate();
            }
        }
        faults.arm(planned);
        let worked = agent.work(MOST_TURNS).await;
        let Some((fault, recovered_after)) = faults.outcome() else {
            assert_eq!(worked, Some(1), "without a fault it works at once");
            assert!(planned > 5, "the act has steps: {points:?}");
            return points;
        };
        assert!(worked.is_some(), "{act:?}, {victims:?}, {fault}: the host is locked out, {:?}", agent.refused);
        // A fault after the last request is none of the host's.
        assert!(recovered_after.is_none_or(|requests| requests <= 2), "{act:?}, {fault}: {recovered_after:?} requests");
        complete(&server, &mut agent, host_id, act, &fault).await;
        assert_eq!(server.alarms(host_id).await, [""; 0], "{act:?}, {victims:?}, {fault}");
        points.insert(fault);
    }
    unreachable!("there is a last point")
}

/// Whatever was left undone is done when it is asked for again, and leaves one credential.
async fn complete(server: &Server, agent: &mut Agent, host_id: HostId, act: Act, fault: &str) {
    let rotated = |tokens: usize| tokens > 1;
    if matches!(act, Act::Rotation | Act::RefreshTokenRotation) && !rotated(server.tokens(host_id).await.len()) {
        agent.rotate();
    }
    for _ in 0..3 {
        // Attempts have pauses, which work with an access token need not wait for.
        server.clock.advance(Duration::from_secs(60));
        assert!(agent.work(MOST_TURNS).await.is_some(), "{act:?}, {fault}: the host works on");
    }
    assert_eq!(server.with_status(host_id, AgentTokenStatus::Active).await.len(), 1, "{act:?}, {fault}");
    assert_eq!(server.with_status(host_id, AgentTokenStatus::Pending).await.len(), 0, "{act:?}, {fault}");
    let expected = if matches!(act, Act::Rotation | Act::RefreshTokenRotation) { 2 } else { 1 };
    assert_eq!(server.tokens(host_id).await.len(), expected, "{act:?}, {fault}: no token was made in vain");
}

async fn every_act(kept: Kept) {
    for act in [Act::Exchange, Act::Rotation, Act::Refresh, Act::RefreshTokenRotation] {
        for victims in [Victims::Server, Victims::Both] {
            let points = fault_at_every_point(&kept, act, victims).await;
            let some = |what: &str| assert!(points.iter().any(|point| point.contains(what)), "{what}: {points:#?}");
            some("server killed before it reads");
            some("server killed before it commits");
            some("server killed after it has committed");
            some("server killed before it answers");
            some("agent killed before it saves");
            some("agent killed after it has saved");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_every_step_on_sqlite() {
    every_act(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_every_step_on_postgresql() {
    every_act(postgres().await).await;
}

/// A client as simple as `curl` in a script: it sends the same request until it is answered.
struct Script {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Script {
    fn new(server: &Server) -> Self {
        // Whoever is first installs the provider; the others find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client can be built");
        Self { http, url: server.url.clone(), key: "0123456789abcdefghijklmn".to_owned() }
    }

    async fn until_answered(&self, path: &str, bearer: Option<&str>, body: Value) -> Value {
        IdempotencyKey::parse(self.key.as_bytes()).expect("it is long enough");
        for _ in 0..MOST_TURNS {
            let mut request = self.http.post(format!("{}{path}", self.url)).header("idempotency-key", &self.key);
            if let Some(bearer) = bearer {
                request = request.bearer_auth(bearer);
            }
            let Ok(reply) = request.body(body.to_string()).send().await else { continue };
            let status = reply.status().as_u16();
            let Ok(text) = reply.text().await else { continue };
            if status == 503 {
                continue;
            }
            assert_eq!(status, 200, "{text}");
            return serde_json::from_str(&text).expect("JSON");
        }
        panic!("{path} was never answered")
    }
}

/// Server-made secrets: the reply that carries them is lost, and the same request with the same key gives them again.
async fn scripted(kept: Kept) {
    for planned in 0.. {
        let faults = Faults::new(Victims::Server);
        let server = Server::start(&kept, faults.clone(), no_losses(), Limits::default()).await;
        let (host_id, install_token) = server.host(CredentialKind::Bearer).await;
        let script = Script::new(&server);
        faults.arm(planned);
        let body = json!({"install_token": install_token.expose()});
        let bought = script.until_answered("/v1/install-tokens/exchange", None, body).await;
        let first = secret(&bought["agent_token"]);
        script.until_answered("/v1/agent/heartbeat", Some(first.expose()), json!({})).await;
        let rotated = script.until_answered("/v1/agent/token/rotate", Some(first.expose()), json!({})).await;
        let second = secret(&rotated);
        script.until_answered("/v1/agent/heartbeat", Some(second.expose()), json!({})).await;
        let Some((fault, _)) = faults.outcome() else {
            assert!(planned > 10, "four requests and their commits");
            return;
        };
        assert_eq!(server.alarms(host_id).await, [""; 0], "{fault}");
        assert_eq!(server.tokens(host_id).await.len(), 2, "{fault}: no token was made in vain");
    }
}

fn secret(token: &Value) -> PlainToken {
    let text = token["token"].as_str().expect("server-made");
    PlainToken::parse(text, &[enlist_core::secret::Prefix::AGENT]).expect("a token")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_repeats_its_requests_gets_through_on_sqlite() {
    scripted(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_repeats_its_requests_gets_through_on_postgresql() {
    scripted(postgres().await).await;
}
