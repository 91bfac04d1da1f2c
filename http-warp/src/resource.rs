//! A resource: one path and the methods that it answers to. Paths match first, then methods, then credentials; then
//! only the body is read.

use std::future::{Future, ready};
use std::net::IpAddr;
use std::sync::Arc;

use enlist_core::fleet::{Admin, Agent, CatchUp, Live, RateLimited, bearer};
use enlist_core::secret::IdempotencyKey;
use enlist_core::store::Revision;
use enlist_core::wire::{Code, Problem, parse_json};
use enlist_core::{Actor, AgentIdentity, Fleet};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::Instrument;
use warp::filters::BoxedFilter;
use warp::path::Peek;
use warp::{Filter, Rejection};
use zeroize::Zeroizing;

use crate::Routes;
use crate::auth::AdminAuth;
use crate::body::{Body, Bounds, Held, SMALL_BODY};
use crate::reply::{self, Answer, Refused, Response};
use crate::request::{self, Request};
use crate::table::{Caller, Route};

/// draft-ietf-httpapi-idempotency-key-header.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A handler, whatever credential it asks for.
type Handler<P> = Box<dyn Fn(Routes, Request, P) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Which credentials of a host a method takes.
#[derive(Clone, Copy)]
enum Credentials {
    /// Those that a host works with.
    Working,
    /// Any.
    Any,
}

/// One path, with parameters `P`, and its methods.
pub(crate) struct Resource<P> {
    api: Routes,
    template: &'static str,
    methods: Vec<(Method, Caller, Handler<P>)>,
}

/// A request that anybody may send.
pub(crate) struct PublicCall {
    pub(crate) fleet: Fleet,
    /// Where it comes from, if that is known.
    pub(crate) address: Option<IpAddr>,
    request: Request,
}

/// A request of an authenticated host.
pub(crate) struct AgentCall {
    pub(crate) fleet: Fleet,
    identity: AgentIdentity,
    pub(crate) request: Request,
}

/// A request of a known administrator, whose query nobody has looked at yet.
///
/// Only [`AdminCall::query`] and [`AdminCall::no_query`] lead on to what can be done, so that no route lets parameters pass
/// that it does not know: somebody who adds `dry_run=true` to a request that knows none shall not have it carried out.
pub(crate) struct AdminCall(AdminAct);

/// A request of a known administrator, once its query was taken.
pub(crate) struct AdminAct {
    fleet: Fleet,
    actor: Actor,
    /// For what goes on after the reply has begun, and has to ask again.
    pub(crate) auth: Arc<dyn AdminAuth>,
    pub(crate) request: Request,
}

impl<P: Send + 'static> Resource<P> {
    /// `template` is what logs call it: the path without anybody's ids.
    pub(crate) fn new(api: &Routes, template: &'static str) -> Self {
        Self { api: api.clone(), template, methods: Vec::new() }
    }

    /// A method for everybody.
    pub(crate) fn public<F>(self, method: Method, handler: impl Handle<PublicCall, P, F>) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.method(method, Caller::Anybody, move |api, request, params| {
            let address = (api.client_address)(&request.head);
            handler(PublicCall { fleet: api.fleet, address, request }, params).boxed()
        })
    }

    /// A method for hosts.
    pub(crate) fn agent<F>(self, method: Method, handler: impl Handle<AgentCall, P, F>) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.holder(method, Credentials::Working, handler)
    }

    /// A method for whoever holds a credential of a host, refresh tokens included where they are not for work.
    pub(crate) fn any_credential<F>(self, method: Method, handler: impl Handle<AgentCall, P, F>) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.holder(method, Credentials::Any, handler)
    }

    fn holder<F>(self, method: Method, accepted: Credentials, handler: impl Handle<AgentCall, P, F>) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.method(method, Caller::Agent, move |Routes { fleet, .. }, mut request, params| {
            async move {
                let values = request.head.headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
                let identity = match (bearer(values), accepted) {
                    (Ok(token), Credentials::Working) => fleet.authenticate(token).await,
                    (Ok(token), Credentials::Any) => fleet.identify(token).await,
                    (Err(error), _) => Err(error),
                };
                match identity {
                    Ok(identity) => handler(AgentCall { fleet, identity, request }, params).await,
                    Err(error) => {
                        request.body.discard().await;
                        Err(error.into())
                    }
                }
            }
            .boxed()
        })
    }

    /// A method for administrators.
    pub(crate) fn admin<F>(self, method: Method, handler: impl Handle<AdminCall, P, F>) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.method(method, Caller::Administrator, move |Routes { fleet, auth, .. }, mut request, params| {
            async move {
                match auth.actor(&request.head).await {
                    Ok(actor) => handler(AdminCall(AdminAct { fleet, actor, auth, request }), params).await,
                    Err(error) => {
                        request.body.discard().await;
                        Err(error.into())
                    }
                }
            }
            .boxed()
        })
    }

    fn method(
        mut self,
        method: Method,
        caller: Caller,
        handler: impl Fn(Routes, Request, P) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Self {
        self.methods.push((method, caller, Box::new(handler)));
        self
    }

    /// The filter: rejects other paths, answers everything else.
    pub(crate) fn at(
        self,
        path: impl Filter<Extract = (P,), Error = Rejection> + Clone + Send + Sync + 'static,
    ) -> BoxedFilter<(Response,)> {
        for (method, caller, _) in &self.methods {
            self.api.table.enter(Route { method: method.clone(), path: self.template, caller: *caller });
        }
        let request = request::request(self.api.extensions.clone());
        let resource = Arc::new(self);
        path.and(request)
            .then(move |params: P, request: Request| {
                let resource = Arc::clone(&resource);
                async move { resource.answer(request, params).await }
            })
            .boxed()
    }

    async fn answer(&self, request: Request, params: P) -> Response {
        let method = request.head.method.clone();
        let span = tracing::debug_span!("request", %method, route = self.template);
        async {
            let reply = match self.methods.iter().find(|(own, ..)| *own == method) {
                Some((.., handler)) => handler(self.api.clone(), request, params).await.unwrap_or_else(Response::from),
                None => reply::method_not_allowed(&self.allowed()),
            };
            tracing::debug!(status = reply.status().as_u16(), "answered");
            reply
        }
        .instrument(span)
        .await
    }

    fn allowed(&self) -> String {
        self.methods.iter().map(|(method, ..)| method.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// An async function of a call and the path's parameters.
pub(crate) trait Handle<C, P, F>: Fn(C, P) -> F + Copy + Send + Sync + 'static {}

impl<C, P, F, H: Fn(C, P) -> F + Copy + Send + Sync + 'static> Handle<C, P, F> for H {}

/// Rejects what has an empty segment. warp takes a path that ends in `/` for the one without it, which may be another
/// resource: `DELETE …/tokens/`, without the id that was to follow, would cut off all tokens.
pub(crate) fn whole_path() -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::path::peek()
        .and_then(|rest: Peek| {
            let is_whole = rest.as_str().split('/').all(|segment| !segment.is_empty());
            ready(if is_whole { Ok(()) } else { Err(warp::reject()) })
        })
        .untuple_one()
}

/// What is under `/v1` and nowhere else.
pub(crate) fn unknown() -> BoxedFilter<(Response,)> {
    warp::method()
        .map(|method: Method| {
            tracing::debug!(%method, route = "unknown", status = 404, "answered");
            Response::from(Refused::not_found())
        })
        .boxed()
}

impl PublicCall {
    /// The body, as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refused> {
        let limit = SMALL_BODY.min(self.fleet.limits().body_bytes);
        let body = self.request.body.read(limit).await?;
        Ok(parse_json(&body)?)
    }

    /// The body, as JSON; an empty one means the defaults.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, Refused> {
        let limit = SMALL_BODY.min(self.fleet.limits().body_bytes);
        let body = self.request.body.read(limit).await?;
        if body.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        Ok(parse_json(&body)?)
    }

    /// The text of the agent token that the request carries.
    pub(crate) async fn bearer(&mut self) -> Result<Zeroizing<String>, Refused> {
        let found = bearer(self.values(AUTHORIZATION)).map(|text| Zeroizing::new(text.to_owned()));
        if found.is_err() {
            self.request.body.discard().await;
        }
        Ok(found?)
    }

    /// The header `Idempotency-Key`, if there is one.
    pub(crate) async fn idempotency_key(&mut self) -> Result<Option<IdempotencyKey>, Refused> {
        let mut values = self.values(IDEMPOTENCY_KEY);
        let key = values.next().map(IdempotencyKey::parse).transpose();
        let key = match values.next() {
            None => key,
            Some(_) => Err("present one Idempotency-Key header, not several"),
        };
        drop(values);
        if key.is_err() {
            self.request.body.discard().await;
        }
        key.map_err(|detail| Refused::new(Problem::new(Code::InvalidRequest, detail)))
    }

    fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.request.head.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

impl AgentCall {
    pub(crate) fn agent(&self) -> Agent<'_> {
        self.fleet.agent(&self.identity)
    }

    /// Leave for a live report or heartbeat, and then only its body. One that cannot be read is a contact all the same: the
    /// host has proved its credential.
    pub(crate) async fn live(&mut self) -> Result<(Live<'_>, Held), Refused> {
        let Self { fleet, identity, request: Request { body, .. } } = self;
        let live = match fleet.agent(identity).live() {
            Ok(live) => live,
            Err(limited) => return Err(refuse(body, limited).await),
        };
        let most = fleet.limits().body_bytes;
        match body.read_inflated(Bounds { compressed: most, whole: most }, live.body_room()).await {
            Ok(body) => Ok((live, body)),
            Err(error) => {
                live.contact();
                Err(error.into())
            }
        }
    }

    /// The same for a batch.
    pub(crate) async fn catch_up(&mut self) -> Result<(CatchUp<'_>, Held), Refused> {
        let Self { fleet, identity, request: Request { body, .. } } = self;
        let catch_up = match fleet.agent(identity).catch_up() {
            Ok(catch_up) => catch_up,
            Err(limited) => return Err(refuse(body, limited).await),
        };
        let bounds = Bounds { compressed: fleet.limits().body_bytes, whole: fleet.limits().batch_body_bytes };
        match body.read_large(bounds, catch_up.body_room()).await {
            Ok(body) => Ok((catch_up, body)),
            Err(error) => {
                catch_up.contact();
                Err(error.into())
            }
        }
    }
}

/// The refusal of a request whose body nobody will look at.
async fn refuse(body: &mut Body, limited: RateLimited) -> Refused {
    body.discard().await;
    limited.into()
}

impl AdminCall {
    /// Whether the query has this parameter.
    pub(crate) fn has_parameter(&self, name: &str) -> bool {
        self.0.request.has_parameter(name)
    }

    /// The query. Ids in the path come before it, the body and `If-Match` behind it.
    pub(crate) async fn query<T: DeserializeOwned>(self) -> Result<(T, AdminAct), Refused> {
        let Self(mut act) = self;
        match act.request.query() {
            Ok(query) => Ok((query, act)),
            Err(refused) => {
                act.request.body.discard().await;
                Err(refused)
            }
        }
    }

    /// The same for a method that takes no parameters.
    pub(crate) async fn no_query(self) -> Result<AdminAct, Refused> {
        /// No parameters.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        let (Nothing {}, act) = self.query().await?;
        Ok(act)
    }
}

impl AdminAct {
    pub(crate) fn admin(&self) -> Admin<'_> {
        self.fleet.admin(&self.actor)
    }

    /// The revision that the request is meant for.
    pub(crate) async fn if_match(&mut self) -> Result<Revision, Refused> {
        let found = self.request.if_match();
        if found.is_err() {
            self.request.body.discard().await;
        }
        found
    }

    /// The body, as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refused> {
        let body = self.request.body.read(SMALL_BODY).await?;
        Ok(parse_json(&body)?)
    }

    /// The body, as JSON; an empty one means the defaults.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, Refused> {
        let body = self.request.body.read(SMALL_BODY).await?;
        if body.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        Ok(parse_json(&body)?)
    }
}
