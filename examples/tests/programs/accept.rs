//! Clients that hold a connection and say nothing, or half of something.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, ServerProcess};

async fn connect(server: &ServerProcess) -> TcpStream {
    let address = server.url.strip_prefix("http://").expect("it speaks plain HTTP");
    TcpStream::connect(address).await.expect("it listens")
}

/// Each takes the only place there is; the request behind it is answered once the server has had enough of them.
#[tokio::test]
async fn a_client_that_says_nothing_does_not_keep_others_out() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &["--max-connections", "1"], "warn").await;
    let mut silent = connect(&server).await;
    let api = Api::new(&server);
    assert_eq!(api.call("GET", "/healthz", "", None).await.0, 200);
    assert_eq!(silent.read(&mut [0; 16]).await.expect("it was closed, not reset"), 0);
}

#[tokio::test]
async fn a_client_that_sends_half_a_head_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "warn").await;
    let mut half = connect(&server).await;
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut reply = Vec::new();
    half.read_to_end(&mut reply).await.unwrap();
    assert!(!String::from_utf8_lossy(&reply).contains("200 OK"));
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &["--drain", "1h"], "warn").await;
    let api = Api::new(&server);
    let _silent = connect(&server).await;
    // Accepted in order: once this is answered, the silent one has a place as well.
    assert_eq!(api.call("GET", "/healthz", "", None).await.0, 200);
    assert_eq!(server.terminate().await, Some(0));
}

/// Load balancers probe with it, and HTTP/2 has no room for the body that a `GET` would have had.
#[tokio::test]
async fn head_is_answered_in_both_versions_of_http() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "warn").await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    for http2 in [false, true] {
        let builder = reqwest::Client::builder().no_proxy();
        let http = if http2 { builder.http2_prior_knowledge() } else { builder }.build().unwrap();
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/v1/hosts", 405), ("/nothing", 404)] {
            let reply = http.head(format!("{}{path}", server.url)).send().await.expect("it is answered");
            assert_eq!(reply.status().as_u16(), status, "{path}");
            assert!(reply.bytes().await.expect("the reply is whole").is_empty());
        }
    }
}

/// As many as it is told to, on a machine of any size.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn requests_are_served_by_as_many_threads_as_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let threads = |id: u32| {
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
        let names = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
        names.filter(|name| name.starts_with("tokio-")).count()
    };
    let many = ServerProcess::start(&directory.path().join("many.db"), &["--worker-threads", "200"], "warn").await;
    assert!(threads(many.id()) >= 200);
    let one = ServerProcess::start(&directory.path().join("one.db"), &["--worker-threads", "1"], "warn").await;
    assert!(threads(one.id()) < 100);
    assert_eq!(Api::new(&one).call("GET", "/healthz", "", None).await.0, 200);
}
