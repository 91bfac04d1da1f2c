//! Telemetry: reports and heartbeats of hosts, and reading them back.

use enlist_core::fleet::{SeriesRange, TelemetryRange};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Refused, Response, json, no_content};
use crate::request::id;
use crate::resource::{AdminCall, AgentCall, Resource};

/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// All but [`report`].
pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    let reads = history(api).or(latest(api)).unify().or(container(api)).unify();
    heartbeat(api).or(batch(api)).unify().or(reads).unify().boxed()
}

pub(crate) fn report(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn take(mut call: AgentCall, (): ()) -> Answer {
        let minimal = prefers_minimal(&call.request.head.headers);
        let (live, body) = call.live().await?;
        let taken = live.report_json(&body.bytes).await?;
        if !minimal {
            return Ok(json(StatusCode::OK, &taken));
        }
        let mut reply = no_content();
        reply.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("return=minimal"));
        Ok(reply)
    }
    Resource::new(api, "/v1/agent/telemetry")
        .agent(Method::POST, take)
        .at(warp::path!("agent" / "telemetry").map(|| ()))
}

fn batch(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn take(mut call: AgentCall, (): ()) -> Answer {
        let (catch_up, body) = call.catch_up().await?;
        Ok(json(StatusCode::OK, &catch_up.batch_json(&body.bytes).await?))
    }
    Resource::new(api, "/v1/agent/telemetry/batch")
        .agent(Method::POST, take)
        .at(warp::path!("agent" / "telemetry" / "batch").map(|| ()))
}

fn heartbeat(api: &Routes) -> BoxedFilter<(Response,)> {
    /// Nothing yet; a later version may say more.
    #[derive(Deserialize)]
    struct Heartbeat {}

    async fn take(mut call: AgentCall, (): ()) -> Answer {
        let (live, body) = call.live().await?;
        if !body.bytes.trim_ascii().is_empty()
            && let Err(error) = enlist_core::wire::parse_json::<Heartbeat>(&body.bytes)
        {
            live.contact();
            return Err(Refused::from(error));
        }
        Ok(json(StatusCode::OK, &live.heartbeat()?))
    }
    Resource::new(api, "/v1/agent/heartbeat")
        .agent(Method::POST, take)
        .at(warp::path!("agent" / "heartbeat").map(|| ()))
}

fn history(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        // Two questions on one path: the parameters and the answers of each are its own.
        if call.has_parameter("step") {
            let (range, call) = call.query::<SeriesRange>().await?;
            return Ok(json(StatusCode::OK, &call.admin().telemetry_series(host_id, range).await?));
        }
        let (range, call) = call.query::<TelemetryRange>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_telemetry(host_id, range).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/telemetry")
        .admin(Method::GET, list)
        .at(warp::path!("hosts" / String / "telemetry"))
}

fn latest(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn read(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(json(StatusCode::OK, &call.admin().latest_telemetry(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/telemetry/latest")
        .admin(Method::GET, read)
        .at(warp::path!("hosts" / String / "telemetry" / "latest"))
}

fn container(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn read(call: AdminCall, (host_id, container_id): (String, String)) -> Answer {
        let (host_id, container_id) = (id(&host_id)?, id::<String>(&container_id)?);
        let (range, call) = call.query::<SeriesRange>().await?;
        Ok(json(StatusCode::OK, &call.admin().container_series(host_id, &container_id, range).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/containers/{container_id}/telemetry")
        .admin(Method::GET, read)
        .at(warp::path!("hosts" / String / "containers" / String / "telemetry")
            .map(|host, container| (host, container)))
}

/// Whether the first preference about the reply is to have none (RFC 7240 §2: of several, the first counts).
fn prefers_minimal(headers: &HeaderMap) -> bool {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split(';').next()?.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("return"))
        .is_some_and(|(_, value)| value.trim().trim_matches('"') == "minimal")
}
