//! Enlist's HTTP API, version 1, as warp filters that an existing warp service can mount.
//!
//! [`routes`] owns `/v1/**` and nothing else. Every request below it gets its final answer there, unknown paths and
//! refused credentials included, so that no route of the service behind it ever answers for a request that Enlist has
//! refused; every other request is rejected and goes on. [`health`] is a filter of its own.
//!
//! The service brings its users: [`AdminAuth`] turns the head of a request into an [`Actor`](enlist_core::Actor).
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use enlist_core::{Actor, ActorId, Fleet, MemoryStore};
//! use enlist_core::fleet::TokioTimer;
//! use enlist_http_warp::{AdminAuth, AuthError, Routes, health, peer_address};
//! use warp::Filter;
//! use warp::http::request::Parts;
//!
//! /// How this service knows its users.
//! struct Sessions;
//!
//! #[async_trait::async_trait]
//! impl AdminAuth for Sessions {
//!     async fn actor(&self, head: &Parts) -> Result<Actor, AuthError> {
//!         match head.headers.get("x-user").map(|user| user.to_str()) {
//!             Some(Ok("root")) => Ok(Actor::operator(ActorId::new("root").expect("it is short and printable"))),
//!             Some(_) => Err(AuthError::Invalid),
//!             None => Err(AuthError::Missing),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (fleet, drivers) = Fleet::builder(MemoryStore::new()).build()?;
//! # let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! # let shutdown = async { let _ = stopped.await; };
//! tokio::spawn(drivers.run(TokioTimer, shutdown));
//!
//! let enlist = Routes::new(fleet.clone(), Sessions).client_address(peer_address).build();
//! let own = warp::path("hello").map(|| "the service's own route");
//! let app = enlist.or(health(fleet)).or(own);
//!
//! // From here on as ever, `warp::serve(app)` or `warp::service(app)` in an accept loop.
//! let reply = warp::test::request().path("/hello").reply(&app).await;
//! assert_eq!(reply.status(), 200);
//! let reply = warp::test::request().path("/v1/hosts").reply(&app).await;
//! assert_eq!(reply.status(), 401);
//! # drop(stop);
//! # Ok(())
//! # }
//! ```
//!
//! # An accept loop of one's own
//!
//! `warp::serve` has no header time-out and no TLS, so a server runs `warp::service(app)` in a loop of its own. It has
//! to do four things for these filters:
//!
//! - put a [`PeerAddr`] into the extensions of each request, or the limit on refused exchanges is one for all clients;
//! - ask [`is_servable`] before warp sees the request, and answer [`unservable`] itself otherwise: some of warp's path
//!   filters panic on a request without a path, which `CONNECT` is;
//! - bound the time of a request until its reply begins: a stream of events goes on. These filters bound what a client
//!   sends, not how slowly it does;
//! - call `Fleet::close_feeds` when it shall stop, before it waits for what is under way: streams do not end by themselves.
//!
//! The handlers are plain futures: nothing is spawned, and a request whose connection is gone is dropped.
//!
#![doc = include_str!("../../docs/http.md")]

#[cfg(feature = "access-tokens")]
mod access_token;
mod agent_token;
mod auth;
mod body;
mod container;
mod event;
mod event_stream;
mod health;
mod host;
mod inflate;
mod install_token;
mod reply;
mod request;
mod resource;
mod table;
mod telemetry;

use std::net::IpAddr;
use std::sync::Arc;

use enlist_core::Fleet;
use http::request::Parts;
use warp::Filter;
use warp::filters::BoxedFilter;

#[cfg(feature = "access-tokens")]
pub use access_token::jwks;
pub use auth::{AdminAuth, AuthError, StaticBearer, TokenTaken, UnusableToken};
pub use health::health;
pub use reply::{Response, problem, unservable};
pub use request::{PeerAddr, is_servable, peer_address};
pub use table::{Caller, Route};

/// The routes of `/v1`, with the client's address unknown: the limit on refused exchanges is one for all clients.
///
/// Short for [`Routes::new`] and [`Routes::build`].
pub fn routes(fleet: Fleet, auth: impl AdminAuth) -> BoxedFilter<(Response,)> {
    Routes::new(fleet, auth).build()
}

/// Finds the client's address in the head of a request.
type ClientAddress = Arc<dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync>;

/// Builds the routes of `/v1`.
#[derive(Clone)]
#[must_use = "build() gives the filter"]
pub struct Routes {
    fleet: Fleet,
    auth: Arc<dyn AdminAuth>,
    client_address: ClientAddress,
    extensions: BoxedFilter<(http::Extensions,)>,
    table: table::Table,
}

impl Routes {
    /// The routes of this fleet, for administrators as `auth` knows them.
    pub fn new(fleet: Fleet, auth: impl AdminAuth) -> Self {
        Self {
            fleet,
            auth: Arc::new(auth),
            client_address: Arc::new(|_| None),
            extensions: request::peer_extension(),
            table: table::Table::default(),
        }
    }

    /// Where the client's address is found, which refused exchanges are counted by; [`peer_address`], or a function
    /// that knows which proxies to believe.
    ///
    /// Without one, and for requests that it knows no address of, all clients share one limit.
    pub fn client_address(self, find: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        Self { client_address: Arc::new(find), ..self }
    }

    /// Passes the request extension `T` on to [`AdminAuth`] and to the function of [`Routes::client_address`].
    ///
    /// warp gives out extensions by type only, so those that were not named here are missing from the head;
    /// [`PeerAddr`] needs not be named.
    pub fn extension<T: Clone + Send + Sync + 'static>(self) -> Self {
        Self { extensions: request::with_extension::<T>(self.extensions), ..self }
    }

    /// Every route that the filter has, told by the routes themselves: for the lists of a gateway, and for tests that must
    /// not forget one.
    pub fn table(&self) -> Vec<Route> {
        let table = table::Table::default();
        drop(Self { table: table.clone(), ..self.clone() }.build());
        table.routes()
    }

    /// The filter. It may stand under a path of the service's own, as in `warp::path("fleet").and(routes)`.
    pub fn build(self) -> BoxedFilter<(Response,)> {
        let groups = agent_token::routes(&self)
            .or(telemetry::routes(&self))
            .unify()
            .or(install_token::routes(&self))
            .unify()
            .or(host::routes(&self))
            .unify()
            .or(container::routes(&self))
            .unify()
            .or(event::routes(&self))
            .unify();
        #[cfg(feature = "access-tokens")]
        let groups = groups.or(access_token::routes(&self)).unify();
        let groups = groups.boxed();
        // Most requests are reports: they need not make their way through the others.
        let routes = resource::whole_path().and(telemetry::report(&self).or(groups).unify());
        warp::path("v1").and(routes.or(resource::unknown()).unify()).boxed()
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}
