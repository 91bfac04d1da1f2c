//! What only shows on a real connection: the routes behind hyper, the way a reference server runs them.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{House, later, limits, report_at};
use enlist_http_warp::{PeerAddr, is_servable, unservable};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_service::Service;

/// Serves the house on a port of this machine, in an accept loop as the crate's documentation asks for one.
async fn serve(house: &House) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = house.app.clone();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let app = app.clone();
            tokio::spawn(async move {
                let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    let servable = is_servable(&request);
                    request.extensions_mut().insert(PeerAddr(peer));
                    let answer = servable.then(|| warp::service(app.clone()).call(request));
                    async move {
                        match answer {
                            Some(answer) => answer.await,
                            None => Ok(unservable()),
                        }
                    }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// Writes all of it, then reads what comes until the connection ends.
async fn exchange(to: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    for piece in pieces {
        stream.write_all(piece).await.expect("it is taken");
    }
    read(&mut stream).await
}

async fn read(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    end.expect("it is answered").expect("it ends in order, not with a reset");
    String::from_utf8(answer).expect("UTF-8")
}

/// The JSON of the last reply in what was read.
fn problem(answer: &str) -> Value {
    let body = answer.rsplit("\r\n\r\n").next().expect("a body");
    serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON at the end of: {answer}"))
}

fn head(token: &str, more: &str) -> String {
    format!("POST /v1/agent/telemetry HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n\r\n")
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut text = format!("{:x}\r\n", body.len()).into_bytes();
    text.extend_from_slice(body);
    text.extend_from_slice(b"\r\n");
    text
}

#[tokio::test]
async fn a_chunked_report_within_the_limit_is_taken() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let server = serve(&house).await;
    let report = report_at(later(1)).to_string();
    let (first, second) = report.as_bytes().split_at(40);
    let head = head(host.token.expose(), "transfer-encoding: chunked\r\nconnection: close");
    let answer = exchange(server, &[head.as_bytes(), &chunked(first), &chunked(second), b"0\r\n\r\n"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains(r#""status":"accepted""#), "{answer}");
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_with_413_and_is_a_contact() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let server = serve(&house).await;
    house.clock.advance(Duration::from_secs(10));
    let head = head(host.token.expose(), "transfer-encoding: chunked\r\nconnection: close");
    let piece = chunked(&vec![b' '; 64 << 10]);
    let mut pieces = vec![head.as_bytes()];
    pieces.extend(std::iter::repeat_n(piece.as_slice(), 6));
    pieces.push(b"0\r\n\r\n");
    let answer = exchange(server, &pieces).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(problem(&answer)["code"], "body_too_large");
    assert!(problem(&answer)["detail"].as_str().expect("a detail").contains(&limits().body_bytes.to_string()));
    house.contacts_written().await;
    let seen = house.get(&format!("/v1/hosts/{}", host.host_id)).send().await.expect(200);
    assert_eq!(seen["last_seen_at"], json!(later(10)));
    house.report_by(&host.token, &report_at(later(11))).send().await.expect(200);
}

#[tokio::test]
async fn a_client_that_writes_all_of_a_large_body_first_still_learns_why_it_was_refused() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let server = serve(&house).await;
    let piece = vec![b' '; limits().body_bytes];
    for (token, status, code) in [(host.token.expose(), 413, "body_too_large"), ("eat_guess", 401, "invalid_token")] {
        let head = head(token, &format!("content-length: {}\r\nconnection: close", 4 * piece.len()));
        let mut stream = TcpStream::connect(server).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("it is taken");
        for _ in 0..4 {
            // Long enough for a server that has answered and closed to refuse what comes after.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.write_all(&piece).await.expect("it is taken");
        }
        let answer = read(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(problem(&answer)["code"], code);
    }
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_any_of_it_is_asked_for() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let server = serve(&house).await;
    for (token, status) in [(host.token.expose(), 413), ("eat_guess", 401)] {
        let head = head(token, "content-length: 1000000\r\nexpect: 100-continue\r\nconnection: close");
        let answer = exchange(server, &[head.as_bytes()]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "no 100 Continue first: {answer}");
    }
    // Too much to be worth reading: refused although the client waits for nothing.
    let head = head(host.token.expose(), "content-length: 1000000000\r\nconnection: close");
    let answer = exchange(server, &[head.as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_body_writes_nothing() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let server = serve(&house).await;
    let before = house.written().await;
    let report = report_at(later(1)).to_string();
    let head = head(host.token.expose(), &format!("content-length: {}", report.len() + 1));
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("it is taken");
    stream.write_all(report.as_bytes()).await.expect("it is taken");
    stream.shutdown().await.expect("half of the connection");
    let answer = read(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(problem(&answer)["code"], "invalid_request");
    assert_eq!(house.written().await, before);
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let server = serve(&house).await;
    let report = report_at(later(1)).to_string();
    let good = head(host.token.expose(), &format!("content-length: {}", report.len()));
    let twice = good.replace("host: x", &format!("host: x\r\nauthorization: Bearer {}", host.token.expose()));
    let last = good.replace("host: x", "host: x\r\nconnection: close");
    let refused = head("eat_guess", &format!("content-length: {}", report.len()));
    let report = report.as_bytes();
    let answer = exchange(
        server,
        &[twice.as_bytes(), report, refused.as_bytes(), report, good.as_bytes(), report, last.as_bytes(), report],
    )
    .await;
    let statuses: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
    assert_eq!(statuses, ["400", "401", "200", "200"], "{answer}");
}

#[tokio::test]
async fn a_request_without_a_path_is_answered_and_harms_nobody() {
    let house = House::new().await;
    let server = serve(&house).await;
    for method in ["CONNECT", "GET"] {
        let head = format!("{method} example.org:443 HTTP/1.1\r\nhost: example.org\r\nconnection: close\r\n\r\n");
        let answer = exchange(server, &[head.as_bytes()]).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
    }
    house.get("/v1/hosts").send().await.expect(200);
}
