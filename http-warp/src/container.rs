//! Containers, for administrators.

use http::{Method, StatusCode};
use serde::Deserialize;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json};
use crate::request::id;
use crate::resource::{AdminCall, Resource};

/// The query of `GET /v1/hosts/{host_id}/containers`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContainerFilter {
    #[serde(default)]
    removed: bool,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let (ContainerFilter { removed, cursor, limit }, call) = call.query().await?;
        Ok(json(StatusCode::OK, &call.admin().list_containers(host_id, removed, cursor, limit).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/containers")
        .admin(Method::GET, list)
        .at(warp::path!("hosts" / String / "containers"))
}
