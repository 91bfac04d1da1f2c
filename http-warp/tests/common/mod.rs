//! A fleet in memory with its drivers running, mounted, and a shorthand for asking it.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use enlist_core::fleet::{
    ContainerFilter, EventFilter, FleetBuilder, HostFilter, Limits, TelemetryRange, TokenFilter, TokioTimer,
};
use enlist_core::secret::Prefix;
use enlist_core::{
    Actor, ActorId, Drivers, Fleet, HostId, ManualClock, MemoryStore, PlainToken, Role, SystemEntropy, TenantId,
    Timestamp,
};
use enlist_http_warp::{AdminAuth, AuthError, PeerAddr, Response, Route, Routes, peer_address};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower_service::Service;
use warp::filters::BoxedFilter;

pub const ROOT: &str = "root";
/// Owns the tenant `acme`.
pub const OWNER: &str = "owner";
/// A member of `acme`.
pub const MEMBER: &str = "member";
/// Owns the tenant `elsewhere`.
pub const STRANGER: &str = "stranger";

/// Takes the bearer token for the name of one of the actors above.
pub struct Names;

#[async_trait]
impl AdminAuth for Names {
    async fn actor(&self, head: &Parts) -> Result<Actor, AuthError> {
        let name = head.headers.get("authorization").ok_or(AuthError::Missing)?;
        let name = name.to_str().ok().and_then(|name| name.strip_prefix("Bearer ")).ok_or(AuthError::Invalid)?;
        actor(name).ok_or(AuthError::Invalid)
    }
}

pub fn actor(name: &str) -> Option<Actor> {
    let id = ActorId::new(name).ok()?;
    let tenant = |name: &str| TenantId::new(name).expect("a tenant id");
    Some(match name {
        ROOT => Actor::operator(id),
        OWNER => Actor::member(id, tenant("acme"), Role::Owner),
        MEMBER => Actor::member(id, tenant("acme"), Role::Member),
        STRANGER => Actor::member(id, tenant("elsewhere"), Role::Owner),
        _ => return None,
    })
}

pub struct House {
    pub fleet: Fleet,
    pub app: BoxedFilter<(Response,)>,
    /// Every route of it.
    pub table: Vec<Route>,
    pub clock: Arc<ManualClock>,
    /// Its drop stops the drivers.
    _stop: oneshot::Sender<()>,
}

/// A host that has enrolled and is online, and its secret.
pub struct Enrolled {
    pub host_id: HostId,
    pub token_id: String,
    pub token: PlainToken,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A request that is not sent yet.
pub struct Ask<'a> {
    app: &'a BoxedFilter<(Response,)>,
    request: http::Request<Full<Bytes>>,
}

pub fn now() -> Timestamp {
    "2026-11-05T12:00:00Z".parse().expect("RFC 3339")
}

pub fn limits() -> Limits {
    let mut limits = Limits::default();
    (limits.body_bytes, limits.batch_body_bytes) = (256 << 10, 512 << 10);
    limits.contact_interval = Duration::from_millis(20);
    limits
}

pub fn build(limits: Limits) -> (Fleet, Drivers, Arc<ManualClock>) {
    build_with(limits, |builder| builder)
}

fn build_with(
    limits: Limits,
    configure: impl FnOnce(FleetBuilder) -> FleetBuilder,
) -> (Fleet, Drivers, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(now()));
    let builder = Fleet::builder(MemoryStore::new())
        .clock(Arc::clone(&clock))
        .limits(limits)
        .default_tenant(TenantId::new("acme").expect("a tenant id"));
    let (fleet, drivers) = configure(builder).build().expect("the limits agree");
    (fleet, drivers, clock)
}

impl House {
    pub async fn new() -> Self {
        Self::with(limits()).await
    }

    pub async fn with(limits: Limits) -> Self {
        Self::of(build(limits)).await
    }

    /// A fleet with settings of its own.
    pub async fn configured(configure: impl FnOnce(FleetBuilder) -> FleetBuilder) -> Self {
        Self::of(build_with(limits(), configure)).await
    }

    async fn of((fleet, drivers, clock): (Fleet, Drivers, Arc<ManualClock>)) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(drivers.run(TokioTimer, async {
            let _ = stopped.await;
        }));
        while !fleet.accepts_reports() {
            tokio::task::yield_now().await;
        }
        let routes = Routes::new(fleet.clone(), Names).client_address(peer_address);
        Self { fleet, table: routes.table(), app: routes.build(), clock, _stop: stop }
    }

    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        ask(&self.app, method, path)
    }

    pub fn get(&self, path: &str) -> Ask<'_> {
        self.ask("GET", path).by(ROOT)
    }

    pub fn post(&self, path: &str) -> Ask<'_> {
        self.ask("POST", path).by(ROOT)
    }

    pub fn report_by(&self, token: &PlainToken, report: &Value) -> Ask<'_> {
        self.ask("POST", "/v1/agent/telemetry").by(token.expose()).json(report)
    }

    /// Creates a host of `acme` and gives the reply's body.
    pub async fn create(&self, name: &str) -> Value {
        let body = json!({"name": name, "kind": "byoc", "tenant_id": "acme"});
        self.post("/v1/hosts").json(&body).send().await.expect(201)
    }

    /// Creates a host, enrols it, and lets it report once.
    pub async fn enrol(&self, name: &str) -> Enrolled {
        let created = self.create(name).await;
        let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
        let body = json!({"install_token": created["install_token"]["token"], "claim": token.hash().to_hex()});
        let reply = self.ask("POST", "/v1/install-tokens/exchange").json(&body).send().await.expect(200);
        self.report_by(&token, &report_at(now())).send().await.expect(200);
        Enrolled {
            host_id: reply["host_id"].as_str().expect("an id").parse().expect("an id"),
            token_id: reply["agent_token"]["id"].as_str().expect("an id").to_owned(),
            token,
        }
    }

    /// Everything that a request could have written, as the fleet itself tells it.
    pub async fn written(&self) -> Value {
        let root = actor(ROOT).expect("one of ours");
        let admin = self.fleet.admin(&root);
        let limit = Some(500);
        let hosts = admin.list_hosts(HostFilter { limit, ..HostFilter::default() }).await.expect("hosts");
        let events = admin.list_events(EventFilter { limit, ..EventFilter::default() }).await.expect("events");
        let mut contact = BTreeMap::new();
        for host in &hosts.items {
            let range = TelemetryRange {
                from: Some(Timestamp::MIN),
                to: Some(Timestamp::MAX),
                limit,
                ..TelemetryRange::default()
            };
            let telemetry = admin.list_telemetry(host.id, range).await.expect("telemetry");
            let containers = admin
                .list_containers(host.id, ContainerFilter { removed: true, limit, cursor: None })
                .await
                .expect("containers");
            let tokens = TokenFilter { limit, ..TokenFilter::default() };
            let tokens = (
                admin.list_agent_tokens(host.id, tokens.clone()).await.expect("agent tokens"),
                admin.list_install_tokens(host.id, tokens).await.expect("install tokens"),
            );
            contact.insert(host.id.to_string(), (telemetry, containers, tokens));
        }
        json!({"hosts": hosts, "events": events, "contact": contact})
    }

    /// Waits until the contacts that were noted are written.
    pub async fn contacts_written(&self) {
        tokio::time::sleep(self.fleet.limits().contact_interval * 3).await;
    }
}

/// A request of any filter.
pub fn ask<'a>(app: &'a BoxedFilter<(Response,)>, method: &str, path: &str) -> Ask<'a> {
    let mut request = http::Request::new(Full::default());
    *request.method_mut() = method.parse().expect("a method");
    *request.uri_mut() = path.parse().expect("a path");
    Ask { app, request }
}

impl Ask<'_> {
    /// With this credential.
    pub fn by(self, bearer: &str) -> Self {
        self.header("authorization", &format!("Bearer {bearer}"))
    }

    /// With this header, besides those that it has.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().append(name, value.parse().expect("a header's value"));
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.request.headers_mut().insert("content-length", body.len().into());
        *self.request.body_mut() = Full::new(body);
        self
    }

    pub fn from(self, address: &str) -> Self {
        self.extension(PeerAddr(SocketAddr::new(address.parse().expect("an address"), 4711)))
    }

    pub fn extension(mut self, value: impl Clone + Send + Sync + 'static) -> Self {
        self.request.extensions_mut().insert(value);
        self
    }

    /// Sends it, and leaves the body to be read piece by piece.
    pub async fn open(self) -> Response {
        let Ok(reply) = warp::service(self.app.clone()).call(self.request).await;
        reply
    }

    /// Sends it the way an accept loop does, less the socket.
    pub async fn send(self) -> Reply {
        let Ok(reply) = warp::service(self.app.clone()).call(self.request).await;
        let (head, body) = reply.into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of the body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The body of a reply that must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// The body of a refusal, which must have this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], "about:blank", "{problem}");
        assert_eq!(self.header("www-authenticate").is_some(), status == 401, "{problem}");
        problem
    }
}

/// A host of `acme` with everything that a route can name.
pub struct Known {
    pub host: Enrolled,
    pub install_token_id: String,
    pub revision: u64,
}

impl Known {
    pub async fn of(house: &House) -> Self {
        let host = house.enrol("web-1").await;
        let minted = house.post(&format!("/v1/hosts/{}/install-tokens", host.host_id)).send().await.expect(201);
        let read = house.get(&format!("/v1/hosts/{}", host.host_id)).send().await.expect(200);
        Self {
            host,
            install_token_id: minted["id"].as_str().expect("an id").to_owned(),
            revision: read["revision"].as_u64().expect("a number"),
        }
    }

    /// The path of a route. A parameter that is not known here has to be told of here.
    pub fn path(&self, template: &str) -> String {
        let token_id = match template.starts_with("/v1/install-tokens") {
            true => &self.install_token_id,
            false => &self.host.token_id,
        };
        let path = template
            .replace("{host_id}", &self.host.host_id.to_string())
            .replace("{token_id}", token_id)
            .replace("{tenant_id}", "acme")
            .replace("{tag}", "edge")
            .replace("{container_id}", "c1");
        assert!(!path.contains('{'), "{path} has a parameter that this test does not know");
        path
    }
}

/// A request that somebody who may would get through with. A route that needs more than this has to say so here.
pub fn asked<'a>(house: &'a House, known: &Known, route: &Route, path: &str) -> Ask<'a> {
    let body = match (route.method.as_str(), route.path) {
        ("POST", "/v1/hosts") => json!({"name": "web-2", "kind": "byoc", "tenant_id": "acme"}),
        ("POST", "/v1/hosts/{host_id}/tokens/{token_id}/rotate") => json!({"overlap": "none"}),
        ("PATCH", _) => json!({"address": "10.0.0.8"}),
        ("GET" | "PUT" | "DELETE", _) => Value::Null,
        _ => json!({}),
    };
    let path = match (route.path.ends_with("/{container_id}/telemetry"), path.contains('?')) {
        (false, _) => path.to_owned(),
        (true, false) => format!("{path}?step=60"),
        (true, true) => format!("{path}&step=60"),
    };
    let ask = house.ask(route.method.as_str(), &path);
    match route.method.as_str() {
        "PATCH" => ask.header("if-match", &format!("\"{}\"", known.revision)).json(&body),
        _ if body.is_null() => ask,
        _ => ask.json(&body),
    }
}

pub fn report_at(at: Timestamp) -> Value {
    json!({
        "recorded_at": at,
        "host": {"metrics": {"cpu_percent": 12.5, "memory_used_bytes": 1_073_741_824}},
        "containers": [container("c1")],
        "containers_complete": true,
    })
}

pub fn container(id: &str) -> Value {
    json!({"container_id": id, "name": format!("name of {id}"), "image": "nginx", "state": "running",
           "metrics": {"cpu_cores": 0.5}})
}

/// `now`, and so many seconds.
pub fn later(seconds: u64) -> Timestamp {
    now().saturating_add(Duration::from_secs(seconds))
}
