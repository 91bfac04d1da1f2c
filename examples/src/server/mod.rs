//! The reference server: a fleet, its routes, and an accept loop of its own.

mod accept;
mod actors;
mod admin_token;
mod client_address;
mod config;
mod database;
mod signing_key;
mod stall;
pub mod webhook;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use enlist_core::fleet::{BuildError, TokioTimer};
use enlist_core::store::StoreError;
use enlist_core::{Drivers, Fleet};
use enlist_http_warp::{Routes, health, jwks};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use warp::Filter;

pub use actors::ActorsError;
pub use admin_token::{AdminToken, AdminTokenError};
pub use config::{Database, DatabaseUrl, InvalidDatabase, Reuse, ServeArgs};
pub use signing_key::{SigningKeyError, make_signing_key};

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The database cannot be used.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// The file of the database cannot be used.
    #[error("the database {0} cannot be used; its folder has to be there, and the file to be readable and writable")]
    File(String, #[source] StoreError),
    /// There is no such kind of database.
    #[error(transparent)]
    Database(#[from] InvalidDatabase),
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] BuildError),
    /// Access tokens cannot be issued.
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    /// Events cannot be delivered.
    #[error(transparent)]
    Webhook(#[from] webhook::WebhookError),
    /// There is no administrator's token.
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    /// The actors of the file are not let in.
    #[error(transparent)]
    Actors(#[from] ActorsError),
}

/// A server that listens, and does not serve yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    fleet: Fleet,
    drivers: Drivers,
    database: database::Opened,
    admin: AdminToken,
    webhook: Option<webhook::Webhook>,
    options: accept::Options,
    trusted_proxies: Vec<std::net::IpAddr>,
}

impl Server {
    /// Listens, opens and migrates the database, and finds or makes the administrator's token, and reads who else
    /// may administer. Connections wait until [`Server::run`].
    ///
    /// # Errors
    /// When one of these is not to be had.
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(args.listen).await.map_err(|error| ServerError::Listen(args.listen, error))?;
        let address = listener.local_addr().map_err(|error| ServerError::Listen(args.listen, error))?;
        let issuer = signing_key::issuer(args)?;
        let webhook = webhook::Webhook::of(args)?;
        let database = database::Opened::open(args).await?;
        let mut builder = Fleet::builder_of(database.store())
            .limits(args.limits())
            .reuse_policy(args.reuse_policy.into())
            .default_tenant(args.default_tenant.clone());
        if let Some(issuer) = issuer {
            builder = builder.access_tokens(issuer);
        }
        let (fleet, drivers) = builder.build()?;
        let mut admin = AdminToken::find_or_make(args)?;
        if let Some(path) = &args.actors_file {
            admin.let_in(path)?;
        }
        let options = accept::Options { connections: args.max_connections, drain: args.drain };
        Ok(Self {
            listener,
            address,
            fleet,
            drivers,
            database,
            admin,
            webhook,
            options,
            trusted_proxies: args.trusted_proxy.clone(),
        })
    }

    /// Where it listens; with port 0, the port that was given.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fleet, for what runs in the same process.
    pub fn fleet(&self) -> Fleet {
        self.fleet.clone()
    }

    /// The administrator's token, if this start has made it: to be shown once, and then to be kept
    /// ([`Server::keep_admin_token`]).
    pub fn new_admin_token(&self) -> Option<&str> {
        self.admin.new_text()
    }

    /// Keeps the hash of a new administrator's token for the starts to come. Until then nothing is written, so that a
    /// token that nobody has seen is not the one that counts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_admin_token(&mut self) -> Result<(), ServerError> {
        Ok(self.admin.keep()?)
    }

    /// Serves until `shutdown`; then takes no more connections, answers what was asked, commits what was taken, and ends.
    ///
    /// # Errors
    /// Never once it serves; the result leaves room for it.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServerError> {
        let Self { listener, fleet, drivers, database, admin, webhook, options, trusted_proxies, .. } = self;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(drivers.run(TokioTimer, async { drop(stopped.await) }));
        let routes = Routes::new(fleet.clone(), admin.into_auth())
            .client_address(move |head| client_address::find(head, &trusted_proxies))
            .build();
        let delivering = match webhook {
            Some(mut webhook) => {
                let begun = webhook.begin(&fleet).await;
                Some(tokio::spawn(webhook.deliver(fleet.clone(), begun)))
            }
            None => None,
        };
        let feeds = fleet.clone();
        // Streams have no end of their own to wait for.
        let shutdown = async move {
            shutdown.await;
            feeds.close_feeds();
        };
        let not_found = warp::any().map(accept::not_found);
        let app = routes.or(health(fleet.clone())).unify().or(jwks(fleet)).unify().or(not_found).unify().boxed();
        accept::serve(listener, app, options, shutdown).await;
        // It may be waiting to send something again; that is for the next start.
        if let Some(delivering) = delivering {
            delivering.abort();
        }
        // No request is left. Only now may the drivers go: they commit what they have taken first.
        drop(stop);
        if let Err(error) = running.await {
            tracing::error!(%error, "the drivers ended badly");
        }
        database.close().await;
        tracing::info!("drained");
        Ok(())
    }
}

/// Completes at SIGTERM or SIGINT.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupted => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be caught: only SIGINT stops the server gently");
            drop(interrupted.await);
        }
    }
}

/// How long a request may take, from its head to the last byte of its body.
const REQUEST_TIME: Duration = Duration::from_secs(30);
