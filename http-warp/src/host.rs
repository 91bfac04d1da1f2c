//! Hosts, for administrators.

use enlist_core::fleet::HostFilter;
use enlist_core::host::Tag;
use enlist_core::wire::{CreateHost, HostBody, PatchHost};
use http::header::ETAG;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json, no_content};
use crate::request::{id, parameter};
use crate::resource::{AdminCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    hosts(api)
        .or(host(api))
        .unify()
        .or(delete_preview(api))
        .unify()
        .or(archive(api))
        .unify()
        .or(cordon(api))
        .unify()
        .or(uncordon(api))
        .unify()
        .or(tags(api))
        .unify()
        .or(tag(api))
        .unify()
        .boxed()
}

/// A host, with the entity tag that `If-Match` takes.
fn shown(host: &HostBody) -> Response {
    with_revision(json(StatusCode::OK, host), host.revision)
}

fn with_revision(mut reply: Response, revision: u64) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        reply.headers_mut().insert(ETAG, tag);
    }
    reply
}

fn hosts(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn create(call: AdminCall, (): ()) -> Answer {
        let mut call = call.no_query().await?;
        let request: CreateHost = call.json().await?;
        let created = call.admin().create_host(request).await?;
        Ok(with_revision(json(StatusCode::CREATED, &created), created.host.revision))
    }
    async fn list(call: AdminCall, (): ()) -> Answer {
        let (filter, call) = call.query::<HostFilter>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_hosts(filter).await?))
    }
    Resource::new(api, "/v1/hosts")
        .admin(Method::GET, list)
        .admin(Method::POST, create)
        .at(warp::path!("hosts").map(|| ()))
}

fn host(api: &Routes) -> BoxedFilter<(Response,)> {
    /// The query of a deletion.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Deletion {
        #[serde(default)]
        force: bool,
    }

    async fn read(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(shown(&call.admin().host(host_id).await?))
    }
    async fn edit(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let mut call = call.no_query().await?;
        let read = call.if_match().await?;
        let patch: PatchHost = call.json().await?;
        Ok(shown(&call.admin().edit_host(host_id, read, patch).await?))
    }
    async fn delete(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let (Deletion { force }, call) = call.query().await?;
        call.admin().delete_host(host_id, force).await?;
        Ok(no_content())
    }
    Resource::new(api, "/v1/hosts/{host_id}")
        .admin(Method::GET, read)
        .admin(Method::PATCH, edit)
        .admin(Method::DELETE, delete)
        .at(warp::path!("hosts" / String))
}

fn delete_preview(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn read(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(json(StatusCode::OK, &call.admin().delete_preview(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/delete-preview")
        .admin(Method::GET, read)
        .at(warp::path!("hosts" / String / "delete-preview"))
}

fn archive(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn archive(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(shown(&call.admin().archive_host(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/archive")
        .admin(Method::POST, archive)
        .at(warp::path!("hosts" / String / "archive"))
}

fn cordon(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn cordon(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(shown(&call.admin().cordon_host(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/cordon")
        .admin(Method::POST, cordon)
        .at(warp::path!("hosts" / String / "cordon"))
}

fn uncordon(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn uncordon(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(shown(&call.admin().uncordon_host(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/uncordon")
        .admin(Method::POST, uncordon)
        .at(warp::path!("hosts" / String / "uncordon"))
}

fn tags(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let call = call.no_query().await?;
        Ok(json(StatusCode::OK, &call.admin().host_tags(host_id).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/tags").admin(Method::GET, list).at(warp::path!("hosts" / String / "tags"))
}

fn tag(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn add(call: AdminCall, (host_id, tag): (String, String)) -> Answer {
        let (host_id, tag): (_, Tag) = (id(&host_id)?, parameter("tag", &tag)?);
        let call = call.no_query().await?;
        call.admin().tag_host(host_id, tag).await?;
        Ok(no_content())
    }
    async fn remove(call: AdminCall, (host_id, tag): (String, String)) -> Answer {
        let (host_id, tag): (_, Tag) = (id(&host_id)?, parameter("tag", &tag)?);
        let call = call.no_query().await?;
        call.admin().untag_host(host_id, tag).await?;
        Ok(no_content())
    }
    Resource::new(api, "/v1/hosts/{host_id}/tags/{tag}")
        .admin(Method::PUT, add)
        .admin(Method::DELETE, remove)
        .at(warp::path!("hosts" / String / "tags" / String).map(|host_id, tag| (host_id, tag)))
}
