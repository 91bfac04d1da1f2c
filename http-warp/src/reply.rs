//! Replies: JSON, problems, and nothing else.

use std::error::Error;

use enlist_core::wire::{Code, Problem};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// What every filter here answers with.
pub type Response = warp::reply::Response;

/// What a handler gives.
pub(crate) type Answer = Result<Response, Refused>;

/// A refusal on its way to the client. It takes every error that has a problem, and logs the causes that the client
/// does not get to see.
#[derive(Debug)]
pub(crate) struct Refused(Box<Problem>);

impl Refused {
    pub(crate) fn new(problem: Problem) -> Self {
        Self(Box::new(problem))
    }

    /// There is no such thing.
    pub(crate) fn not_found() -> Self {
        Self::new(Problem::new(Code::NotFound, "There is no such thing, or it is not yours."))
    }
}

impl<E: Error + Into<Problem> + 'static> From<E> for Refused {
    fn from(error: E) -> Self {
        let causes = causes(&error);
        let problem = error.into();
        match problem.code {
            Code::Internal => tracing::error!(causes, "a request failed"),
            Code::Unavailable => tracing::warn!(causes, "a request could not be served"),
            _ => {}
        }
        Self::new(problem)
    }
}

impl From<Refused> for Response {
    fn from(Refused(problem): Refused) -> Self {
        self::problem(&problem)
    }
}

/// An error and what led to it. None of ours holds a secret.
fn causes(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(error.source(), |&cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A JSON reply. None of version 1 may be kept by a cache: some carry a secret, and all are about this moment.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let json = serde_json::to_vec(body).expect("the bodies have string keys only, so they are JSON");
    with_type(status, HeaderValue::from_static("application/json"), json)
}

/// 204.
pub(crate) fn no_content() -> Response {
    let mut reply = Response::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// A problem, with its headers.
pub fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Response::new(problem.to_json().into());
    *reply.status_mut() = status;
    for (name, value) in problem.headers() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

/// 405, with the methods that the resource has.
pub(crate) fn method_not_allowed(allowed: &str) -> Response {
    let refusal = Problem::new(Code::MethodNotAllowed, format!("This resource answers to: {allowed}."));
    let mut reply = problem(&refusal);
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        reply.headers_mut().insert(ALLOW, allowed);
    }
    reply
}

/// The answer to a request that [`is_servable`](crate::is_servable) keeps from warp: 405.
pub fn unservable() -> Response {
    let mut reply =
        problem(&Problem::new(Code::MethodNotAllowed, "The request names no path: this server is no proxy."));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
    reply
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
