//! Access tokens: buying one, and the keys that they are verified with.

use enlist_core::Fleet;
use enlist_core::wire::{Code, Problem, RefreshAccessToken};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{self, Answer, Response, json};
use crate::resource::{PublicCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    // Public: who presents what is the rotation table's to judge.
    async fn refresh(mut call: PublicCall, (): ()) -> Answer {
        let bearer = call.bearer().await?;
        let key = call.idempotency_key().await?;
        let request: RefreshAccessToken = call.json_or_default().await?;
        Ok(json(StatusCode::OK, &call.fleet.refresh(&bearer, &request, key.as_ref()).await?))
    }
    Resource::new(api, "/v1/agent/token/refresh")
        .public(Method::POST, refresh)
        .at(warp::path!("agent" / "token" / "refresh").map(|| ()))
}

/// `GET` or `HEAD`, `/.well-known/jwks.json`: the keys of access tokens (RFC 7517), which caches may keep for five minutes;
/// 404 when the fleet issues none.
///
/// The path gets its final answer here; every other request is rejected and goes on.
pub fn jwks(fleet: Fleet) -> BoxedFilter<(Response,)> {
    warp::path!(".well-known" / "jwks.json")
        .and(warp::method())
        .map(move |method: Method| match (method, fleet.jwks()) {
            (Method::GET | Method::HEAD, Some(keys)) => {
                let mut reply = json(StatusCode::OK, &keys);
                let headers = reply.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
                reply
            }
            (Method::GET | Method::HEAD, None) => {
                reply::problem(&Problem::new(Code::NotFound, "This server issues no access tokens."))
            }
            _ => reply::method_not_allowed("GET, HEAD"),
        })
        .boxed()
}
