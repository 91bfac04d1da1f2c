//! The example does what it says, over a real socket and a real file.

use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::{Clock, SystemClock, SystemEntropy};
use serde_json::{Value, json};

use super::*;

/// One request; the status and the JSON of its reply.
async fn call(method: &str, url: &str, bearer: Option<&str>, body: Option<Value>) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a plain client can be built");
    let mut request = client.request(method.parse().expect("a method"), url);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let reply = request.send().await.expect("the server answers");
    let status = reply.status().as_u16();
    let text = reply.text().await.expect("a reply has a body");
    (status, serde_json::from_str(&text).expect("every reply is JSON"))
}

#[tokio::test]
async fn a_host_enrols_and_reports_through_axum() {
    rustls::crypto::ring::default_provider().install_default().expect("nobody else installs one in this test");
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("fleet.db");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (bound, serving) = (listener, async move { drop(stopped.await) });
    let server = tokio::spawn(async move {
        serve(bound, database.to_str().unwrap(), serving).await.map_err(|error| error.to_string())
    });

    let root = Some("let-me-in");
    let (status, problem) = call("GET", &format!("{base}/hosts"), None, None).await;
    assert_eq!((status, &problem["code"]), (401, &json!("missing_token")));
    let host = json!({"name": "web-1", "kind": "byoc"});
    let (status, created) = call("POST", &format!("{base}/hosts"), root, Some(host)).await;
    assert_eq!(status, 201, "{created}");
    let token = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    let claim = json!({"install_token": created["install_token"]["token"], "claim": token.hash().to_hex()});
    let (status, enrolled) = call("POST", &format!("{base}/install-tokens/exchange"), None, Some(claim)).await;
    assert_eq!((status, &enrolled["host_id"]), (200, &created["host"]["id"]), "{enrolled}");
    let now = SystemClock::default().now().to_string();
    let report = json!({"recorded_at": now, "host": {"metrics": {"cpu_percent": 42.0}}});
    let (status, reply) = call("POST", &format!("{base}/agent/telemetry"), Some(token.expose()), Some(report)).await;
    assert_eq!((status, &reply["status"]), (200, &json!("accepted")), "{reply}");

    let url = format!("{base}/hosts/{}", created["host"]["id"].as_str().unwrap());
    let (_, host) = call("GET", &url, root, None).await;
    assert_eq!(host["status"], "online");
    let (_, telemetry) = call("GET", &format!("{url}/telemetry"), root, None).await;
    assert_eq!(telemetry["items"][0]["metrics"]["cpu_percent"], 42.0);
    let (_, events) = call("GET", &format!("{base}/events?type=host.online"), root, None).await;
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1));

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
