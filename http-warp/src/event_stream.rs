//! Events as they happen: server-sent events, as browsers read them (WHATWG HTML §9.2).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use enlist_core::event::Position;
use enlist_core::fleet::{EventFeed, FeedFilter, FeedItem};
use enlist_core::wire::{Code, EventReply, Problem};
use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use warp::Reply;

use crate::auth::AdminAuth;
use crate::reply::{Answer, Refused};
use crate::resource::{AdminAct, AdminCall};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx holds replies back unless it is told not to.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How long a stream is silent at most, so that proxies and clients see that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often it is asked again whose stream it is.
const REAUTHORISE: Duration = Duration::from_secs(30);
/// After what time a client whose stream ended comes back, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// `GET /v1/events/stream`.
pub(crate) async fn follow(call: AdminCall, (): ()) -> Answer {
    let (mut filter, call) = call.query::<FeedFilter>().await?;
    if let Some(id) = last_event_id(&call.request.head)? {
        filter.cursor = Some(id.to_string());
    }
    let feed = call.admin().follow_events(filter).await?;
    let now = feed.monotonic();
    let AdminAct { auth, request, .. } = call;
    let follower = Follower { feed, auth, head: request.head, asked_at: now, spoke_at: now, begun: false };
    let body = Exclusive(Mutex::new(unfold(follower, Follower::step).boxed()));
    let mut reply = warp::reply::stream(body).into_response();
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(reply)
}

/// Where the client was when its last stream ended: it comes before what the query says, which a client that comes back
/// repeats as it was.
fn last_event_id(head: &Parts) -> Result<Option<Position>, Refused> {
    let mut values = head.headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let position = value.to_str().ok().and_then(|text| text.parse().ok());
    match position.filter(|_| values.next().is_none()) {
        Some(position) => Ok(Some(position)),
        None => {
            let detail = "Last-Event-ID: one header, with the id of an event of this stream";
            Err(Refused::new(Problem::new(Code::InvalidRequest, detail)))
        }
    }
}

/// One client. Nothing is read for it while it takes nothing.
struct Follower {
    feed: EventFeed,
    auth: Arc<dyn AdminAuth>,
    head: Parts,
    asked_at: Duration,
    spoke_at: Duration,
    begun: bool,
}

impl Follower {
    /// The next piece of the stream; the end when the caller is not known any more, or nothing more can be told. The client
    /// then comes back, with the place where it was, and gets the refusal as a reply.
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let piece = if std::mem::replace(&mut self.begun, true) {
            self.told().await?
        } else {
            // A client that is cut off before the first event comes back to here, and not to another "now".
            format!("retry: {RETRY_MS}\nid: {}\n\n", self.feed.position())
        };
        self.spoke_at = self.feed.monotonic();
        Some((Ok(piece.into()), self))
    }

    async fn told(&mut self) -> Option<String> {
        loop {
            self.reauthorise().await?;
            match self.feed.next().await {
                Ok(Some(FeedItem::Event(event))) => return Some(message(&event)),
                // The id goes along, so that whoever waits for what is rare does not have all the rest looked through again.
                Ok(Some(FeedItem::Quiet(position))) if self.is_due(self.spoke_at, HEARTBEAT) => {
                    return Some(format!(": still here\nid: {position}\n\n"));
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a stream of events ended");
                    return None;
                }
            }
        }
    }

    /// Asks whose stream it is, if it is time to.
    async fn reauthorise(&mut self) -> Option<()> {
        if self.is_due(self.asked_at, REAUTHORISE) {
            match self.auth.actor(&self.head).await {
                Ok(actor) => self.feed.reauthorise(&actor),
                Err(error) => {
                    tracing::info!(%error, "a stream of events ended: its reader is not known any more");
                    return None;
                }
            }
            self.asked_at = self.feed.monotonic();
        }
        Some(())
    }

    fn is_due(&self, since: Duration, after: Duration) -> bool {
        self.feed.monotonic().saturating_sub(since) >= after
    }
}

fn message(event: &EventReply) -> String {
    let data = serde_json::to_string(event).expect("an event has string keys only, so it is JSON");
    // No `event:` line: a browser hands those with one only to listeners that know its name. JSON has no line breaks.
    format!("id: {}\ndata: {data}\n\n", event.position)
}

/// warp wants bodies that threads could share; this one is only ever had by one at a time.
struct Exclusive(Mutex<BoxStream<'static, Result<Bytes, Infallible>>>);

impl Stream for Exclusive {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    }
}
