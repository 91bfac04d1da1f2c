//! Events as other programs follow them: a stream, and deliveries to a webhook.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use enlist_core::{Clock, SystemClock};
use enlist_examples::server::webhook::{EVENT_ID_HEADER, SIGNATURE_HEADER, verify};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{ADMIN, Api, ServerProcess};

const SECRET: &str = "a-secret-of-the-receivers";

/// What was delivered, and taken or not.
#[derive(Clone)]
struct Delivery {
    event: Value,
    taken: bool,
}

/// A receiver that refuses as many deliveries as it was told to, and checks the signature of each.
struct Receiver {
    url: String,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    came: Arc<Notify>,
}

impl Receiver {
    async fn start(refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let came = Arc::new(Notify::new());
        let receiver = Self { url, deliveries: Arc::clone(&deliveries), came: Arc::clone(&came) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let taken = deliveries.lock().unwrap().len() >= refusals;
                let event = receive(stream, taken).await;
                deliveries.lock().unwrap().push(Delivery { event, taken });
                came.notify_one();
            }
        });
        receiver
    }

    /// What was taken, once an event of this type was.
    async fn taken_until(&self, last: &str) -> Vec<Value> {
        loop {
            let all = self.deliveries.lock().unwrap().clone();
            let taken: Vec<_> = all.into_iter().filter(|one| one.taken).map(|one| one.event).collect();
            if taken.iter().any(|event| event["type"] == last) {
                return taken;
            }
            self.came.notified().await;
        }
    }
}

/// One request on a connection of its own, and its reply.
async fn receive(stream: TcpStream, take: bool) -> Value {
    let mut stream = BufReader::new(stream);
    let (mut length, mut signature, mut id) = (0, String::new(), String::new());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            assert_eq!(line.trim_end(), "POST /events HTTP/1.1");
            continue;
        };
        match name {
            "content-length" => length = value.parse().unwrap(),
            SIGNATURE_HEADER => signature = value.to_owned(),
            EVENT_ID_HEADER => id = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let now = SystemClock::default().now();
    verify(SECRET.as_bytes(), &signature, &body, now, Duration::from_secs(300)).expect("it is signed");
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(event["id"], id);
    let status = if take { "204 No Content" } else { "500 Internal Server Error" };
    let reply = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(reply.as_bytes()).await.unwrap();
    event
}

#[tokio::test]
async fn a_webhook_gets_every_event_in_order_through_refusals_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (secret, state) = (path("secret"), path("state"));
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::write(&state, "0\n").unwrap();
    let receiver = Receiver::start(2).await;
    let arguments = [
        "--webhook-url",
        &receiver.url,
        "--webhook-secret-file",
        secret.to_str().unwrap(),
        "--webhook-state",
        state.to_str().unwrap(),
    ];
    let server = ServerProcess::start(&path("fleet.db"), &arguments, "debug").await;
    let api = Api::new(&server);
    let (host_id, _) = api.enrol("web-1").await;
    receiver.taken_until("host.enrolled").await;
    let log = server.log();
    assert!(!log.contains(SECRET) && log.contains("is sent again"), "{log}");
    server.kill().await;

    let server = ServerProcess::start(&path("fleet.db"), &arguments, "warn").await;
    let api = Api::new(&server);
    let archived = api.call("POST", &format!("/v1/hosts/{host_id}/archive"), ADMIN, None).await;
    assert_eq!(archived.0, 200, "{}", archived.1);
    let taken = receiver.taken_until("host.archived").await;
    let mut positions: Vec<_> = taken.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted(), "{positions:?}");
    // At least once: what was taken just before the end may come again.
    positions.dedup();
    let listed = api.call("GET", "/v1/events?limit=500", ADMIN, None).await.1;
    let listed: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, listed[..positions.len()]);
    assert!(taken.iter().any(|event| event["type"] == "host.created"));
    assert_eq!(server.terminate().await, Some(0));
}

/// Not from a moment later, though nothing says yet where to begin.
#[tokio::test]
async fn a_webhook_gets_what_the_first_request_of_the_first_start_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (secret, state) = (path("secret"), path("state"));
    std::fs::write(&secret, SECRET).unwrap();
    let receiver = Receiver::start(0).await;
    let arguments = ["--webhook-url", &receiver.url, "--webhook-secret-file", secret.to_str().unwrap()];
    let arguments = [&arguments[..], &["--webhook-state", state.to_str().unwrap()]].concat();
    let server = ServerProcess::start(&path("fleet.db"), &arguments, "warn").await;
    Api::new(&server).enrol("web-1").await;
    let taken = receiver.taken_until("host.enrolled").await;
    let types: Vec<_> = taken.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[0], "host.created", "{types:?}");
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test]
async fn a_webhook_without_all_that_it_needs_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "short").unwrap();
    let (secret, state) = (secret.to_str().unwrap(), directory.path().join("state"));
    let state = state.to_str().unwrap();
    let good = directory.path().join("good");
    std::fs::write(&good, SECRET).unwrap();
    let good = good.to_str().unwrap();
    let missing = directory.path().join("missing/state");
    let missing = missing.to_str().unwrap();
    let url = ["--webhook-url", "http://127.0.0.1:9/"];
    for (arguments, complaint) in [
        (vec![url[0], url[1]], "all three"),
        (vec![url[0], "ftp://x/", "--webhook-secret-file", secret, "--webhook-state", state], "http or https"),
        (vec![url[0], url[1], "--webhook-secret-file", secret, "--webhook-state", state], "less than 16 bytes"),
        // Found out later, it would be known only after events were delivered, and the next start would lose some.
        (vec![url[0], url[1], "--webhook-secret-file", good, "--webhook-state", missing], "the webhook's state"),
    ] {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_enlist-server"))
            .args(["serve", "--listen", "127.0.0.1:0", "--database", "memory:"])
            .args(&arguments)
            .env("ENLIST_ADMIN_TOKEN", ADMIN)
            .kill_on_drop(true)
            .output();
        // One that is not refused serves for ever.
        let output = tokio::time::timeout(Duration::from_secs(60), output).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(complaint), "{arguments:?}: {said}");
    }
}

/// It ends with the server, which does not wait for it.
#[tokio::test]
async fn a_stream_is_followed_over_a_socket_and_does_not_hold_up_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &["--drain", "1h"], "warn").await;
    let api = Api::new(&server);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("{}/v1/events/stream", server.url)).bearer_auth(ADMIN);
    let mut stream = request.send().await.unwrap();
    assert_eq!(stream.status().as_u16(), 200);
    let (host_id, _) = api.enrol("web-1").await;
    let mut told = String::new();
    while !told.contains("host.enrolled") {
        told += &String::from_utf8_lossy(&stream.chunk().await.unwrap().expect("it goes on"));
    }
    assert!(told.starts_with("retry: 2000\nid: 0\n\n") && told.contains(&host_id), "{told}");
    assert_eq!(server.terminate().await, Some(0));
    while let Ok(Some(_)) = stream.chunk().await {}
}
