//! The stream of events, piece by piece.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::{House, MEMBER, OWNER, ROOT, STRANGER, actor, ask, limits};
use enlist_core::Actor;
use enlist_http_warp::{AdminAuth, AuthError, Response, Routes};
use http::request::Parts;
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// A stream that has begun, and the position that it begins behind.
struct Stream {
    reply: Response,
    behind: u64,
}

impl Stream {
    async fn of(reply: Response) -> Self {
        assert_eq!(reply.status(), 200);
        let mut stream = Self { reply, behind: 0 };
        let begin = stream.piece().await.expect("it begins");
        let id = begin.strip_prefix("retry: 2000\nid: ").and_then(|rest| rest.strip_suffix("\n\n"));
        stream.behind = id.expect("where it begins").parse().expect("a position");
        stream
    }

    /// `None` at its end.
    async fn piece(&mut self) -> Option<String> {
        let frame = self.reply.body_mut().frame().await?.expect("the stream is whole");
        Some(String::from_utf8(frame.into_data().expect("no trailers").to_vec()).expect("UTF-8"))
    }

    /// The next event, which its id agrees with.
    async fn event(&mut self) -> Value {
        let piece = self.piece().await.expect("it goes on");
        let lines: Vec<_> = piece.lines().collect();
        let [id, data, ""] = lines[..] else { panic!("{piece:?}") };
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(id, format!("id: {}", data["position"]));
        data
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_told_as_they_happen_and_as_the_list_has_them() {
    let house = House::new().await;
    house.create("web-1").await;
    let reply = house.get("/v1/events/stream").open().await;
    assert_eq!(reply.headers()["content-type"], "text/event-stream");
    assert_eq!(reply.headers()["cache-control"], "no-store");
    assert_eq!(reply.headers()["x-accel-buffering"], "no");
    let mut stream = Stream::of(reply).await;
    assert_eq!(stream.behind, 2);
    house.create("web-2").await;
    let listed = house.get("/v1/events?cursor=2").send().await.expect(200);
    assert_eq!(stream.event().await, listed["items"][0]);
    assert_eq!(stream.event().await, listed["items"][1]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_back_goes_on_where_it_was() {
    let house = House::new().await;
    let first = house.create("web-1").await;
    house.create("web-2").await;
    // The header, which a browser adds, comes before the query, which it repeats.
    let back = house.get("/v1/events/stream?cursor=0").header("last-event-id", "2");
    let mut stream = Stream::of(back.open().await).await;
    assert_eq!(stream.behind, 2);
    assert_eq!(stream.event().await["position"], 3);
    let mut stream = Stream::of(house.get("/v1/events/stream?cursor=1").open().await).await;
    assert_eq!(stream.event().await["position"], 2);
    let id = first["host"]["id"].as_str().expect("an id");
    let one = format!("/v1/events/stream?cursor=0&host_id={id}&type=install_token.minted&kind=byoc&tenant_id=acme");
    let mut stream = Stream::of(house.get(&one).open().await).await;
    assert_eq!(stream.event().await["position"], 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_followed_is_refused_before_anything_is_streamed() {
    let house = House::new().await;
    for query in ["cursor=x", "limit=5", "kind=cloud", "host_id=1"] {
        house.get(&format!("/v1/events/stream?{query}")).send().await.refused(400, "invalid_request");
    }
    for id in ["", "x", "-1", "1 2"] {
        house.get("/v1/events/stream").header("last-event-id", id).send().await.refused(400, "invalid_request");
    }
    let twice = house.get("/v1/events/stream").header("last-event-id", "1").header("last-event-id", "1");
    twice.send().await.refused(400, "invalid_request");
    house.ask("GET", "/v1/events/stream").send().await.refused(401, "missing_token");
    house.ask("GET", "/v1/events/stream").by("nobody").send().await.refused(401, "invalid_token");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_told_of_its_own() {
    let house = House::new().await;
    let open = async |who: &str, query: &str| {
        Stream::of(house.ask("GET", &format!("/v1/events/stream?cursor=0{query}")).by(who).open().await).await
    };
    let mut others = open(STRANGER, "").await;
    let mut asking = open(STRANGER, "&tenant_id=acme").await;
    let mut own = open(MEMBER, "").await;
    house.create("web-1").await;
    let body = json!({"name": "web-2", "kind": "byoc", "tenant_id": "elsewhere"});
    house.post("/v1/hosts").json(&body).send().await.expect(201);
    assert_eq!(others.event().await["tenant_id"], "elsewhere");
    assert_eq!(own.event().await["tenant_id"], "acme");
    house.clock.advance(Duration::from_secs(15));
    assert_eq!(asking.piece().await.expect("it goes on"), ": still here\nid: 4\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_stream_on_which_nothing_happens_shows_that_it_is_there() {
    let house = House::new().await;
    house.create("web-1").await;
    let mut stream = Stream::of(house.get("/v1/events/stream").open().await).await;
    for _ in 0..3 {
        house.clock.advance(Duration::from_secs(15));
        assert_eq!(stream.piece().await.expect("it goes on"), ": still here\nid: 2\n\n");
    }
}

/// Knows one caller, whoever that is just now.
#[derive(Clone)]
struct Now(Arc<Mutex<Option<&'static str>>>);

#[async_trait]
impl AdminAuth for Now {
    async fn actor(&self, _: &Parts) -> Result<Actor, AuthError> {
        self.0.lock().unwrap().and_then(actor).ok_or(AuthError::Invalid)
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_again_every_30_seconds_whose_stream_it_is() {
    let house = House::new().await;
    let now = Now(Arc::new(Mutex::new(Some(ROOT))));
    let app = Routes::new(house.fleet.clone(), now.clone()).build();
    let mut stream = Stream::of(ask(&app, "GET", "/v1/events/stream").open().await).await;
    // Half of the time is not enough, twice in a row it is.
    *now.0.lock().unwrap() = Some(STRANGER);
    house.clock.advance(Duration::from_secs(15));
    house.create("web-1").await;
    assert_eq!(stream.event().await["tenant_id"], "acme");
    house.clock.advance(Duration::from_secs(15));
    assert_eq!(stream.piece().await.expect("it goes on"), ": still here\nid: 2\n\n");
    house.create("web-2").await;
    let body = json!({"name": "web-3", "kind": "byoc", "tenant_id": "elsewhere"});
    house.post("/v1/hosts").json(&body).send().await.expect(201);
    assert_eq!(stream.event().await["tenant_id"], "elsewhere");
    assert_eq!(stream.event().await["tenant_id"], "elsewhere");
    *now.0.lock().unwrap() = None;
    house.clock.advance(Duration::from_secs(30));
    assert_eq!(stream.piece().await, None);
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_and_end_with_their_readers() {
    let mut limits = limits();
    limits.event_feeds = 1;
    let house = House::with(limits).await;
    let stream = Stream::of(house.get("/v1/events/stream").open().await).await;
    let refused = house.ask("GET", "/v1/events/stream").by(OWNER).send().await;
    assert_eq!(refused.header("retry-after"), Some("2"));
    refused.refused(503, "too_many_streams");
    drop(stream);
    let mut stream = Stream::of(house.ask("GET", "/v1/events/stream").by(OWNER).open().await).await;
    house.fleet.close_feeds();
    assert_eq!(stream.piece().await, None);
}
