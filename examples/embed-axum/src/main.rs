//! Enlist's core under axum: a whole fleet service without warp.
//!
//! Everything that is about the framework stands in this file: three extractions, one conversion of problems, and a
//! route a verb. `cargo run -p enlist-embed-axum`, then `curl` as the log line says.

use std::future::Future;
use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use enlist_core::fleet::{AuthenticateError, EventFilter, HostFilter, TelemetryRange, TokioTimer, bearer};
use enlist_core::wire::{Code, ExchangeRequest, Problem, parse_json};
use enlist_core::{Actor, ActorId, AgentIdentity, Fleet, HostId, TenantId};
use enlist_storage_sqlite::SqliteStore;

/// A refusal of core's as axum's: status, headers and body are all made already.
struct Refused(Box<Problem>);

impl<E: Into<Problem>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let reply = Response::builder().status(self.0.status);
        let reply = self.0.headers().into_iter().fold(reply, |reply, (name, value)| reply.header(name, value));
        reply.body(Body::from(self.0.to_json())).expect("a problem's status and headers are valid")
    }
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Result<Response, Refused> {
    let body = serde_json::to_vec(body).map_err(|_| Problem::new(Code::Internal, "The reply could not be written."))?;
    Ok((status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body)
        .into_response())
}

/// How this service knows its administrators. Yours has users, and tells their tenants and roles.
fn administrator(headers: &HeaderMap) -> Result<Actor, Refused> {
    match bearer(headers.get_all(header::AUTHORIZATION).iter().map(|value| value.as_bytes())) {
        Ok("let-me-in") => Ok(Actor::operator(ActorId::new("root").expect("it is short and printable"))),
        _ => Err(Problem::new(Code::MissingToken, "Authorization: Bearer let-me-in").into()),
    }
}

async fn agent(fleet: &Fleet, headers: &HeaderMap) -> Result<AgentIdentity, AuthenticateError> {
    let values = headers.get_all(header::AUTHORIZATION).iter().map(|value| value.as_bytes());
    fleet.authenticate(bearer(values)?).await
}

fn host_id(text: &str) -> Result<HostId, Refused> {
    text.parse().map_err(|_| Problem::new(Code::NotFound, "There is no such host.").into())
}

async fn create_host(State(fleet): State<Fleet>, headers: HeaderMap, body: Bytes) -> Result<Response, Refused> {
    let actor = administrator(&headers)?;
    json(StatusCode::CREATED, &fleet.admin(&actor).create_host(parse_json(&body)?).await?)
}

async fn list_hosts(
    State(fleet): State<Fleet>,
    headers: HeaderMap,
    Query(filter): Query<HostFilter>,
) -> Result<Response, Refused> {
    json(StatusCode::OK, &fleet.admin(&administrator(&headers)?).list_hosts(filter).await?)
}

async fn read_host(
    State(fleet): State<Fleet>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    json(StatusCode::OK, &fleet.admin(&administrator(&headers)?).host(host_id(&id)?).await?)
}

async fn read_telemetry(
    State(fleet): State<Fleet>,
    headers: HeaderMap,
    Path(id): Path<String>,
    Query(range): Query<TelemetryRange>,
) -> Result<Response, Refused> {
    json(StatusCode::OK, &fleet.admin(&administrator(&headers)?).list_telemetry(host_id(&id)?, range).await?)
}

async fn list_events(
    State(fleet): State<Fleet>,
    headers: HeaderMap,
    Query(filter): Query<EventFilter>,
) -> Result<Response, Refused> {
    json(StatusCode::OK, &fleet.admin(&administrator(&headers)?).list_events(filter).await?)
}

async fn exchange(
    State(fleet): State<Fleet>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Result<Response, Refused> {
    let request: ExchangeRequest = parse_json(&body)?;
    json(StatusCode::OK, &fleet.enrol(request, Some(peer.ip())).await?)
}

async fn report(State(fleet): State<Fleet>, headers: HeaderMap, body: Body) -> Result<Response, Refused> {
    let identity = agent(&fleet, &headers).await?;
    // The rate limit first: whoever sends too much has none of it read.
    let live = fleet.agent(&identity).live()?;
    let Ok(body) = to_bytes(body, fleet.limits().body_bytes).await else {
        live.contact();
        return Err(Problem::new(Code::BodyTooLarge, "The body is too large, or ended early.").into());
    };
    json(StatusCode::OK, &live.report_json(&body).await?)
}

fn app(fleet: Fleet) -> Router {
    let body_bytes = fleet.limits().body_bytes;
    Router::new()
        .route("/v1/hosts", post(create_host).get(list_hosts))
        .route("/v1/hosts/{id}", get(read_host))
        .route("/v1/hosts/{id}/telemetry", get(read_telemetry))
        .route("/v1/events", get(list_events))
        .route("/v1/install-tokens/exchange", post(exchange))
        .route("/v1/agent/telemetry", post(report))
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(fleet)
}

/// Builds the fleet, spawns its drivers, and serves until `shutdown`.
async fn serve(
    listener: tokio::net::TcpListener,
    database: &str,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let store = SqliteStore::open(database).await?;
    store.migrate().await?;
    let (fleet, drivers) = Fleet::builder(store).default_tenant(TenantId::new("default")?).build()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(drivers.run(TokioTimer, async { drop(stopped.await) }));
    let service = app(fleet).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await?;
    // No request is left; now the drivers may go, and commit what is still theirs.
    drop(stop);
    Ok(running.await?)
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "a program says where it listens")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:7071").await?;
    println!("curl -H 'Authorization: Bearer let-me-in' http://{}/v1/hosts", listener.local_addr()?);
    serve(listener, "sqlite://embed-axum.db", async { drop(tokio::signal::ctrl_c().await) }).await
}

#[cfg(test)]
mod tests;
