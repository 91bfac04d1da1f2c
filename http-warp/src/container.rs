//! Containers, for administrators.

use enlist_core::fleet::ContainerFilter;
use http::{Method, StatusCode};
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json};
use crate::request::id;
use crate::resource::{AdminCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let (filter, call) = call.query::<ContainerFilter>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_containers(host_id, filter).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/containers")
        .admin(Method::GET, list)
        .at(warp::path!("hosts" / String / "containers"))
}
