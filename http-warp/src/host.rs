//! Hosts, for administrators.

use enlist_core::fleet::HostFilter;
use enlist_core::wire::CreateHost;
use http::{Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json};
use crate::request::id;
use crate::resource::{AdminCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    hosts(api).or(host(api)).unify().or(archive(api)).unify().boxed()
}

fn hosts(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn create(mut call: AdminCall, (): ()) -> Answer {
        let request: CreateHost = call.json().await?;
        Ok(json(StatusCode::CREATED, &call.admin().create_host(request).await?))
    }
    async fn list(call: AdminCall, (): ()) -> Answer {
        let filter: HostFilter = call.request.query()?;
        Ok(json(StatusCode::OK, &call.admin().list_hosts(filter).await?))
    }
    Resource::new(api, "/v1/hosts")
        .admin(Method::GET, list)
        .admin(Method::POST, create)
        .at(warp::path!("hosts").map(|| ()))
}

fn host(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn read(call: AdminCall, host_id: String) -> Answer {
        Ok(json(StatusCode::OK, &call.admin().host(id(&host_id)?).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}").admin(Method::GET, read).at(warp::path!("hosts" / String))
}

fn archive(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn archive(call: AdminCall, host_id: String) -> Answer {
        Ok(json(StatusCode::OK, &call.admin().archive_host(id(&host_id)?).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/archive")
        .admin(Method::POST, archive)
        .at(warp::path!("hosts" / String / "archive"))
}
