//! A request as handlers get it: its head put together again from what warp gives out, its body unread.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use enlist_core::fleet::AdminError;
use enlist_core::store::Revision;
use enlist_core::wire::{Code, Problem};
use http::header::{HOST, IF_MATCH};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::host::Authority;
use warp::path::FullPath;

use crate::body::Body;
use crate::reply::Refused;

/// The address of the peer of a connection: an accept loop puts it into the extensions of each request.
///
/// Under `warp::serve`, which knows it, that is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// The address of the connection's peer, for [`Routes::client_address`](crate::Routes::client_address). Behind a proxy
/// that is the proxy.
pub fn peer_address(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<PeerAddr>().map(|PeerAddr(peer)| peer.ip())
}

/// Whether warp can be given this request. Some of its path filters panic where there is no path, as in
/// `CONNECT example.org:443`; answer [`unservable`](crate::unservable) instead.
pub fn is_servable<B>(request: &http::Request<B>) -> bool {
    !request.uri().path().is_empty()
}

pub(crate) struct Request {
    pub(crate) head: Parts,
    pub(crate) body: Body,
}

/// Takes the request, whatever it holds. Stands behind the path, since it takes the body.
pub(crate) fn request(extensions: BoxedFilter<(Extensions,)>) -> BoxedFilter<(Request,)> {
    warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::host::optional().or(warp::any().map(|| None)).unify())
        .and(warp::header::headers_cloned())
        .and(extensions)
        .map(head)
        .and(warp::body::stream())
        .map(|head: Parts, stream| Request { body: Body::new(&head.headers, stream), head })
        .boxed()
}

fn head(
    method: Method,
    path: FullPath,
    query: String,
    authority: Option<Authority>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Parts {
    let target = if query.is_empty() { path.as_str().to_owned() } else { format!("{}?{query}", path.as_str()) };
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = method;
    // It was part of a URI before, so it is one.
    head.uri = target.parse().unwrap_or_else(|_| Uri::from_static("/"));
    head.headers = headers;
    if let Some(authority) = authority.filter(|_| !head.headers.contains_key(HOST))
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    head.extensions = extensions;
    head
}

/// The extensions of a head, with nothing but the peer's address in them.
pub(crate) fn peer_extension() -> BoxedFilter<(Extensions,)> {
    warp::addr::remote()
        .and(warp::ext::optional::<PeerAddr>())
        .map(|served: Option<SocketAddr>, inserted: Option<PeerAddr>| {
            let mut extensions = Extensions::new();
            if let Some(peer) = inserted.or(served.map(PeerAddr)) {
                extensions.insert(peer);
            }
            extensions
        })
        .boxed()
}

/// The same extensions and, if the request has one, a `T`.
pub(crate) fn with_extension<T: Clone + Send + Sync + 'static>(
    others: BoxedFilter<(Extensions,)>,
) -> BoxedFilter<(Extensions,)> {
    others
        .and(warp::ext::optional::<T>())
        .map(|mut extensions: Extensions, value: Option<T>| {
            if let Some(value) = value {
                extensions.insert(value);
            }
            extensions
        })
        .boxed()
}

/// An id that stands in a path. warp does not decode path parameters; this does, once. What is no id names nothing.
pub(crate) fn id<T: FromStr>(segment: &str) -> Result<T, Refused> {
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| Refused::not_found())?;
    decoded.parse().map_err(|_| Refused::not_found())
}

/// What else stands in a path, decoded once. What does not fit is named; its value is not repeated.
pub(crate) fn parameter<T: FromStr<Err: Display>>(name: &str, segment: &str) -> Result<T, Refused> {
    let invalid = |detail: String| Refused::new(Problem::new(Code::InvalidRequest, format!("{name}: {detail}")));
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|error| invalid(error.to_string()))?;
    decoded.parse().map_err(|error: T::Err| invalid(error.to_string()))
}

impl Request {
    /// Whether the query string has this parameter.
    pub(crate) fn has_parameter(&self, name: &str) -> bool {
        let query = self.head.uri.query().unwrap_or_default().as_bytes();
        form_urlencoded::parse(query).any(|(parameter, _)| parameter == name)
    }

    /// The revision that the request is meant for: `If-Match` (RFC 9110 §13.1.1) with the one entity tag that was read.
    ///
    /// `*` is refused as well: it would let a change through that was decided on anything at all.
    pub(crate) fn if_match(&self) -> Result<Revision, Refused> {
        let ask = "say which revision this changes, as its ETag did: If-Match: \"3\"";
        let refused = |code| Refused::new(Problem::new(code, ask));
        let mut values = self.head.headers.get_all(IF_MATCH).iter();
        let Some(value) = values.next() else { return Err(refused(Code::PreconditionRequired)) };
        let tag = value.as_bytes();
        // A weak tag never matches here; a list, or `*`, is not what is asked for.
        let is_tag = tag.len() > 1 && tag.ends_with(b"\"") && (tag.starts_with(b"\"") || tag.starts_with(b"W/\""));
        if values.next().is_some() || !is_tag || tag.iter().filter(|byte| **byte == b'"').count() != 2 {
            return Err(refused(Code::InvalidRequest));
        }
        let revision = std::str::from_utf8(tag).ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
        match revision.and_then(|text| text.parse().ok().filter(|number: &u64| number.to_string() == text)) {
            Some(revision) => Ok(Revision::new(revision)),
            None => Err(AdminError::RevisionMismatch.into()),
        }
    }

    /// The query string. A parameter that is unknown, repeated or does not fit is named; its value is not repeated.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        let query = self.head.uri.query().unwrap_or_default().as_bytes();
        let deserializer = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query));
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let detail = named(&error.path().to_string(), &error.inner().to_string());
            Refused::new(Problem::new(Code::InvalidRequest, detail))
        })
    }
}

/// What is wrong with which parameter, from what serde says of it.
fn named(parameter: &str, error: &str) -> String {
    // Of unknown, repeated and missing parameters serde gives the name, and there is no value.
    if let Some(rest) = error.strip_prefix("unknown field `") {
        return unknown(rest);
    }
    if ["duplicate field ", "missing field "].iter().any(|start| error.starts_with(start)) {
        return error.replacen("field", "query parameter", 1);
    }
    // The last of them: a quoted value may hold the word as well.
    match error.rsplit_once(", expected ") {
        Some((_, expected)) => format!("{parameter}: expected {expected}"),
        None => format!("{parameter}: {error}"),
    }
}

/// What is said of a parameter that is unknown, from serde's text behind the first quotation mark.
fn unknown(rest: &str) -> String {
    // The last of them: the name comes from the client, and may hold anything.
    let (name, known) = match rest.strip_suffix("`, there are no fields") {
        Some(name) => (name, "there are none here".to_owned()),
        None => match rest.rsplit_once("`, expected ") {
            Some((name, known)) => (name, format!("expected {known}")),
            None => ("", "see the guide".to_owned()),
        },
    };
    // Shorter than any token of ours, which somebody may have put there without a name.
    let is_name = (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    match is_name {
        true => format!("unknown query parameter `{name}`, {known}"),
        false => format!("an unknown query parameter, {known}"),
    }
}
