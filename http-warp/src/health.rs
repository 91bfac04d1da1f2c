//! Health: for load balancers and supervisors, without a credential.

use std::time::Duration;

use enlist_core::Fleet;
use enlist_core::wire::{Code, MonitorReply, Problem};
use http::{Method, StatusCode};
use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::reply::{self, Response};

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    monitor: Option<MonitorReply>,
}

/// `GET` or `HEAD`, `/healthz`: 200 as long as the process answers at all. `GET /readyz`: 200 while the store answers and the
/// drivers run, else 503; and what the monitor of silence says of itself, which never makes it 503: a replica that holds
/// verdicts back takes reports all the same.
///
/// Both paths get their final answer here; every other request is rejected and goes on.
pub fn health(fleet: Fleet) -> BoxedFilter<(Response,)> {
    let alive = warp::path!("healthz").and(warp::method()).map(|method: Method| match method {
        Method::GET | Method::HEAD => reply::json(StatusCode::OK, &Health { status: "ok", monitor: None }),
        _ => reply::method_not_allowed("GET, HEAD"),
    });
    let ready = warp::path!("readyz").and(warp::method()).then(move |method: Method| {
        let fleet = fleet.clone();
        async move {
            match method {
                Method::GET | Method::HEAD => ready(&fleet).await,
                _ => reply::method_not_allowed("GET, HEAD"),
            }
        }
    });
    alive.or(ready).unify().boxed()
}

async fn ready(fleet: &Fleet) -> Response {
    match fleet.check().await {
        Ok(()) => reply::json(StatusCode::OK, &Health { status: "ready", monitor: Some(fleet.monitor()) }),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            let problem = Problem::new(Code::Unavailable, "The store does not answer, or the drivers do not run.");
            reply::problem(&problem.with_retry_after(Duration::from_secs(2)))
        }
    }
}
