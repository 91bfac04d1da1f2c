//! No secret outlives the reply that gives it: not in the database, not in the log at its most talkative.

use std::path::Path;

use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::{Clock, SystemClock, SystemEntropy};
use serde_json::json;

use crate::support::{ADMIN, Api, ServerProcess, report};

/// Every file below `directory` that holds `needle`.
fn holding(directory: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, needle));
        } else if std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_database_or_in_the_log_at_trace_level() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "trace").await;
    let api = Api::new(&server);
    let mut canaries = vec![ADMIN.to_owned()];

    // A client-made credential, used for a good report and a bad one.
    let (host_id, token) = api.enrol("client-made").await;
    canaries.push(token.expose().to_owned());
    let good = report(SystemClock::default().now());
    assert_eq!(api.call("POST", "/v1/agent/telemetry", token.expose(), Some(good)).await.0, 200);
    let wrong = json!({"recorded_at": token.expose(), "host": {"metrics": {"cpu_percent": token.expose()}}});
    let (status, problem) = api.call("POST", "/v1/agent/telemetry", token.expose(), Some(wrong)).await;
    assert_eq!(status, 422);
    assert!(!problem.to_string().contains(token.expose()));

    // A server-made one, and the install tokens of both.
    let host = json!({"name": "server-made", "kind": "byoc"});
    let (_, created) = api.call("POST", "/v1/hosts", ADMIN, Some(host)).await;
    let install_token = created["install_token"]["token"].as_str().unwrap().to_owned();
    let exchange = json!({"install_token": install_token});
    let (status, enrolled) = api.call("POST", "/v1/install-tokens/exchange", "", Some(exchange.clone())).await;
    assert_eq!(status, 200);
    canaries.push(enrolled["agent_token"]["token"].as_str().unwrap().to_owned());
    let (status, refused) = api.call("POST", "/v1/install-tokens/exchange", "", Some(exchange)).await;
    assert_eq!(status, 401);
    assert!(!refused.to_string().contains(&install_token));
    canaries.push(install_token);

    // One issued by hand, and one that nobody has, in every wrong place.
    let path = format!("/v1/hosts/{host_id}/tokens");
    let (status, issued) = api.call("POST", &path, ADMIN, Some(json!({"name": "by hand"}))).await;
    assert_eq!(status, 201);
    canaries.push(issued["token"].as_str().unwrap().to_owned());
    let stranger = PlainToken::generate(Prefix::AGENT, &SystemEntropy);
    for (method, path, bearer, body) in [
        ("GET", "/v1/agent/self", stranger.expose(), None),
        ("GET", "/v1/hosts", stranger.expose(), None),
        ("POST", "/v1/install-tokens/exchange", "", Some(json!({"install_token": stranger.expose()}))),
        ("POST", "/v1/install-tokens/exchange", "", Some(json!({"install_token": [stranger.expose()]}))),
        ("POST", "/v1/hosts", ADMIN, Some(json!({"name": "x", "kind": stranger.expose()}))),
    ] {
        let (status, problem) = api.call(method, path, bearer, body).await;
        assert!((400..500).contains(&status), "{method} {path}: {status}");
        assert!(!problem.to_string().contains(stranger.expose()), "{method} {path}: {problem}");
    }
    canaries.push(stranger.expose().to_owned());

    let log = server.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is as talkative as it can be");
    for canary in &canaries {
        // Half of it would be too much as well.
        for part in [canary.as_str(), &canary[canary.len() / 2..], &canary[..canary.len() / 2]] {
            assert!(!log.contains(part), "a secret is in the log");
            assert_eq!(holding(directory.path(), part), [""; 0], "a secret is on the disk");
        }
    }
    // What is looked for could be found: an id of the same request is there.
    assert!(!holding(directory.path(), "server-made").is_empty());
    assert_eq!(server.terminate().await, Some(0));
    for canary in &canaries {
        assert_eq!(holding(directory.path(), canary), [""; 0], "a secret is on the disk");
    }
}
