//! The accept loop: what `warp::serve` does not do. Heads have a time-out, connections a cap, requests an end, and a
//! stuck client cannot hold up the stop.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enlist_core::wire::{Code, Problem};
use enlist_http_warp::{PeerAddr, Response, is_servable, problem, unservable};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service as _;
use warp::filters::BoxedFilter;
use warp::http::Method;

use super::REQUEST_TIME;
use super::stall::Stalling;

/// From accepting a connection to its first byte, and from the first byte of a head to its last.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// While a connection neither brings a byte nor takes one for so long, or does not take what waits for it, it ends. Longer than any request may take, and
/// than the pings of HTTP/2 are apart.
const STALL_TIME: Duration = Duration::from_secs(60);

pub(super) struct Options {
    /// How many connections may be open at a time.
    pub(super) connections: usize,
    /// How long requests may take to end after the stop.
    pub(super) drain: Duration,
}

/// Serves `app` until `shutdown`, then waits for the requests under way, at most as long as the options say.
pub(super) async fn serve(
    listener: TcpListener,
    app: BoxedFilter<(Response,)>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(HEAD_TIME);
    let builder = Arc::new(builder);
    let places = Arc::new(Semaphore::new(options.connections.min(Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let (serving, stopping) = watch::channel(());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, most likely: those who are connected go on.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Replies are small and whole: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let watcher = graceful.watcher();
        let (builder, app, mut stopping) = (Arc::clone(&builder), app.clone(), stopping.clone());
        tokio::spawn(async move {
            // A connection that is still silent when the server stops has asked nothing.
            let speaks = tokio::select! {
                speaks = speaks_in_time(&stream) => speaks,
                _ = stopping.changed() => false,
            };
            if speaks {
                serve_connection(stream, peer, &builder, app, watcher).await;
            }
            drop(place);
        });
    }
    drop(listener);
    drop(serving);
    tracing::info!("draining");
    if tokio::time::timeout(options.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut off");
    }
}

/// Whether the first byte comes in time. Nothing else has a time-out before it: hyper waits to see which HTTP it is.
async fn speaks_in_time(stream: &TcpStream) -> bool {
    // Peeked at, since readiness alone may be a false alarm.
    matches!(tokio::time::timeout(HEAD_TIME, stream.peek(&mut [0])).await, Ok(Ok(1)))
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    builder: &auto::Builder<TokioExecutor>,
    app: BoxedFilter<(Response,)>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL_TIME));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(PeerAddr(peer));
        let mut app = warp::service(app.clone());
        async move {
            if !is_servable(&request) {
                return Ok::<Response, Infallible>(unservable());
            }
            let is_head = request.method() == Method::HEAD;
            let reply = match tokio::time::timeout(REQUEST_TIME, app.call(request)).await {
                Ok(reply) => reply?,
                Err(_) => problem(&Problem::new(Code::RequestTimeout, "The request took too long to arrive.")),
            };
            // hyper leaves the body of a reply to HEAD out in HTTP/1 only.
            Ok(if is_head { reply.map(|_| warp::reply::Response::default().into_body()) } else { reply })
        }
    });
    let connection =
        builder.serve_connection(TokioIo::new(Stalling::new(Box::pin(stream), STALL_TIME)), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        // A client that hangs up, or speaks another protocol: nothing to act on.
        tracing::debug!(error = &*error, "a connection ended early");
    }
}

/// Whatever no route knows.
pub(super) fn not_found() -> Response {
    problem(&Problem::new(Code::NotFound, "There is nothing here; the API begins at /v1."))
}
