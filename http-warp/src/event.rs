//! Events, for administrators.

use enlist_core::fleet::EventFilter;
use http::{Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::event_stream::follow;
use crate::reply::{Answer, Response, json};
use crate::resource::{AdminCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn list(call: AdminCall, (): ()) -> Answer {
        let (filter, call) = call.query::<EventFilter>().await?;
        Ok(json(StatusCode::OK, &call.admin().list_events(filter).await?))
    }
    let list = Resource::new(api, "/v1/events").admin(Method::GET, list).at(warp::path!("events").map(|| ()));
    let stream = Resource::new(api, "/v1/events/stream")
        .admin(Method::GET, follow)
        .at(warp::path!("events" / "stream").map(|| ()));
    list.or(stream).unify().boxed()
}
