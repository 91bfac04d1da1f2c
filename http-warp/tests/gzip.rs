//! Compressed bodies: the same answers, and bounds that hold whatever is inside.

mod common;

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use common::{Enrolled, House, Reply, later, limits, report_at};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower_service::Service;

const REPORT: &str = "/v1/agent/telemetry";
const BATCH: &str = "/v1/agent/telemetry/batch";

/// One member.
fn gzip(body: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(body).expect("to memory");
    encoder.finish().expect("to memory")
}

/// A report of the next second, filled up with spaces to this length.
fn padded(second: u64, length: usize) -> Vec<u8> {
    let mut body = report_at(later(second)).to_string().into_bytes();
    body.resize(length, b' ');
    body
}

fn unlimited() -> enlist_core::fleet::Limits {
    let mut limits = limits();
    (limits.live_per_minute, limits.batches_per_minute) = (None, None);
    limits
}

async fn house() -> (House, Enrolled) {
    let house = House::with(unlimited()).await;
    let host = house.enrol("web-1").await;
    (house, host)
}

async fn send(house: &House, host: &Enrolled, route: &str, encodings: &[&str], body: Vec<u8>) -> Reply {
    let mut ask = house.ask("POST", route).by(host.token.expose());
    for encoding in encodings {
        ask = ask.header("content-encoding", encoding);
    }
    ask.body(body).send().await
}

/// Sends a body in pieces as they come.
async fn stream(
    house: &House,
    host: &Enrolled,
    route: &str,
    encoding: &str,
    pieces: impl futures_util::Stream<Item = Bytes> + Send + Sync + 'static,
) -> (u16, Value) {
    let body = StreamBody::new(pieces.map(|piece| Ok::<_, std::io::Error>(Frame::data(piece))));
    let request = http::Request::post(route)
        .header("authorization", format!("Bearer {}", host.token.expose()))
        .header("content-encoding", encoding)
        .body(body)
        .expect("a request");
    let Ok(reply) = warp::service(house.app.clone()).call(request).await;
    let (head, body) = reply.into_parts();
    let body = body.collect().await.expect("a body in memory").to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_compressed_body_is_taken_wherever_a_host_reports() {
    let (house, host) = house().await;
    for (second, encodings) in
        (1..).zip([&["gzip"][..], &["GZip"], &["x-gzip"], &[" gzip "], &["identity, gzip"], &["identity", "gzip"]])
    {
        let body = gzip(&padded(second, 2_000), 6);
        let reply = send(&house, &host, REPORT, encodings, body).await.expect(200);
        assert_eq!(reply["status"], "accepted", "{encodings:?}");
    }
    for (second, encodings) in (101..).zip([&[][..], &["identity"], &[""], &["identity, identity"]]) {
        send(&house, &host, REPORT, encodings, padded(second, 2_000)).await.expect(200);
    }
    let batch = json!({"reports": [report_at(later(200)), report_at(later(201))]}).to_string();
    let reply = send(&house, &host, BATCH, &["gzip"], gzip(batch.as_bytes(), 9)).await.expect(200);
    assert_eq!(reply["results"][1]["status"], "accepted");
    send(&house, &host, "/v1/agent/heartbeat", &["gzip"], gzip(b"{}", 1)).await.expect(200);
    send(&house, &host, "/v1/agent/heartbeat", &["gzip"], gzip(b"", 1)).await.expect(200);
}

#[tokio::test]
async fn another_encoding_or_two_are_415_and_the_reply_says_what_would_do() {
    let (house, host) = house().await;
    let body = gzip(&padded(1, 2_000), 6);
    for encodings in [&["br"][..], &["deflate"], &["gzip, gzip"], &["gzip", "gzip"], &["gzip, br"], &["gzip;q=1"]] {
        for route in [REPORT, BATCH, "/v1/agent/heartbeat"] {
            let reply = send(&house, &host, route, encodings, body.clone()).await;
            assert_eq!(reply.header("accept-encoding"), Some("gzip"));
            reply.refused(415, "unsupported_encoding");
        }
    }
    // Elsewhere bodies are small.
    let reply = send(&house, &host, "/v1/agent/token/rotate", &["gzip"], gzip(b"{}", 6)).await;
    assert_eq!(reply.header("accept-encoding"), Some("identity"));
    reply.refused(415, "unsupported_encoding");
}

#[tokio::test]
async fn a_body_may_inflate_to_its_bound_and_not_a_byte_further() {
    let (house, host) = house().await;
    let limits = house.fleet.limits().clone();
    let (body, batch) = (limits.body_bytes, limits.batch_body_bytes);
    assert!(body < batch);
    send(&house, &host, REPORT, &["gzip"], gzip(&padded(1, body), 9)).await.expect(200);
    send(&house, &host, REPORT, &["gzip"], gzip(&padded(2, body + 1), 9)).await.refused(413, "body_too_large");
    let mut text = json!({"reports": [report_at(later(3))]}).to_string().into_bytes();
    text.resize(batch, b' ');
    send(&house, &host, BATCH, &["gzip"], gzip(&text, 9)).await.expect(200);
    send(&house, &host, BATCH, &[], text.clone()).await.expect(200);
    text.push(b' ');
    send(&house, &host, BATCH, &["gzip"], gzip(&text, 9)).await.refused(413, "body_too_large");
    send(&house, &host, BATCH, &[], text).await.refused(413, "body_too_large");
    // Nor may what is sent be larger than a body that is not compressed.
    let stored = gzip(&padded(4, body), 0);
    assert!(stored.len() > body);
    send(&house, &host, REPORT, &["gzip"], stored.clone()).await.refused(413, "body_too_large");
    let pieces: Vec<_> = stored.chunks(1_000).map(Bytes::copy_from_slice).collect();
    let (status, problem) = stream(&house, &host, REPORT, "gzip", futures_util::stream::iter(pieces)).await;
    assert_eq!((status, &problem["code"]), (413, &json!("body_too_large")), "also without a length");
}

#[tokio::test]
async fn a_bomb_ends_at_the_bound() {
    let (house, host) = house().await;
    let bomb = gzip(&vec![b' '; 200 << 20], 9);
    assert!(bomb.len() < house.fleet.limits().body_bytes);
    for route in [REPORT, BATCH] {
        send(&house, &host, route, &["gzip"], bomb.clone()).await.refused(413, "body_too_large");
    }
    // Of many members that hold nothing each still costs something.
    let members = gzip(b"", 6).repeat(5_000);
    send(&house, &host, BATCH, &["gzip"], members).await.refused(400, "invalid_encoding");
}

#[tokio::test]
async fn a_damaged_stream_is_400_and_writes_nothing() {
    let (house, host) = house().await;
    let written = house.written().await;
    let good = gzip(&padded(1, 2_000), 6);
    let end = good.len();
    let mut cases = vec![Vec::new(), b"oops".to_vec(), padded(1, 2_000)];
    cases.extend([1, 9, 10, 11, end / 2, end - 8, end - 1].map(|length| good[..length].to_vec()));
    // The magic number, the method, the data, the checksum, the length.
    cases.extend([0, 2, 15, end - 8, end - 1].map(|at| {
        let mut damaged = good.clone();
        damaged[at] ^= 0xff;
        damaged
    }));
    cases.extend([&b"\0"[..], b"trailing garbage", &good[..5]].map(|rest| [&good, rest].concat()));
    for (n, body) in cases.into_iter().enumerate() {
        for route in [REPORT, BATCH] {
            let problem = send(&house, &host, route, &["gzip"], body.clone()).await;
            assert_eq!(problem.status, 400, "case {n}: {}", problem.text());
            problem.refused(400, "invalid_encoding");
        }
    }
    assert_eq!(house.written().await, written);
    send(&house, &host, REPORT, &["gzip"], good).await.expect(200);
}

#[tokio::test]
async fn a_host_whose_stream_is_damaged_is_alive_all_the_same() {
    let (house, host) = house().await;
    house.clock.advance(Duration::from_secs(9));
    send(&house, &host, REPORT, &["gzip"], b"oops".to_vec()).await.refused(400, "invalid_encoding");
    house.contacts_written().await;
    let seen = house.get(&format!("/v1/hosts/{}", host.host_id)).send().await.expect(200)["last_seen_at"].clone();
    assert_eq!(seen, json!(later(9)));
}

/// A client that sends slowly holds memory: no more of it than is set, and live reports are not kept out.
#[tokio::test]
async fn large_bodies_find_room_or_are_told_to_come_again() {
    let mut limits = unlimited();
    (limits.body_bytes, limits.batch_body_bytes, limits.queue_bytes) = (100_000, 100_000, 200_000);
    let house = House::with(limits).await;
    let host = house.enrol("web-1").await;
    let (pieces, receiver) = futures_channel();
    let slow = stream(&house, &host, BATCH, "identity", receiver);
    tokio::pin!(slow);
    pieces.send(Bytes::from(vec![b' '; 90_000])).expect("it is read");
    let pending = futures_util::poll!(slow.as_mut());
    assert!(pending.is_pending());
    let batch = json!({"reports": [report_at(later(1))]}).to_string();
    let padded_batch = batch.clone() + &" ".repeat(50_000);
    for (encoding, body) in
        [("identity", padded_batch.clone().into_bytes()), ("gzip", gzip(padded_batch.as_bytes(), 9))]
    {
        let reply = send(&house, &host, BATCH, &[encoding], body).await;
        assert!(reply.header("retry-after").is_some());
        reply.refused(503, "overloaded");
    }
    send(&house, &host, REPORT, &["gzip"], gzip(&padded(2, 90_000), 9)).await.expect(200);
    drop(pieces);
    let (status, _) = slow.await;
    assert_eq!(status, 400, "spaces are no batch");
    send(&house, &host, BATCH, &[], padded_batch.into_bytes()).await.expect(200);
}

/// Pieces as they are sent.
fn futures_channel() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, impl futures_util::Stream<Item = Bytes> + Sync) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (sender, stream)
}

/// Bodies of every kind of answer.
fn bodies() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let report = (0u64..300, 0usize..6_000).prop_map(|(second, more)| padded(second, 600 + more));
    let batch = prop::collection::vec(0u64..300, 0..20).prop_map(|seconds| {
        let reports: Vec<_> = seconds.into_iter().map(|second| report_at(later(second))).collect();
        json!({ "reports": reports }).to_string().into_bytes()
    });
    let noise = prop::collection::vec(any::<u8>(), 0..3_000);
    let body = prop_oneof![report, batch, noise];
    (prop_oneof![Just(REPORT), Just(BATCH)], body)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    /// However it is compressed, into however many members, and however it is cut up on the way.
    #[test]
    fn a_compressed_body_is_answered_as_the_same_body_as_it_is(
        (route, body) in bodies(),
        level in 0u32..10,
        member in 1usize..5_000,
        piece in 1usize..700,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let ((plain, plain_host), (packed, packed_host)) = (house().await, house().await);
            let reply = send(&plain, &plain_host, route, &[], body.clone()).await;
            let expected = (reply.status.as_u16(), serde_json::from_slice(&reply.body).unwrap_or_default());
            let mut members: Vec<u8> = body.chunks(member.max(body.len() / 60 + 1)).flat_map(|part| gzip(part, level)).collect();
            if members.is_empty() {
                members = gzip(b"", level);
            }
            let pieces: Vec<_> = members.chunks(piece).map(Bytes::copy_from_slice).collect();
            let got = stream(&packed, &packed_host, route, "gzip", futures_util::stream::iter(pieces)).await;
            prop_assert_eq!(got, expected);
            Ok(())
        })?;
    }
}
