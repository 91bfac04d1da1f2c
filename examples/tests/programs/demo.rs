//! The demo and the agent, as somebody who has just cloned the project runs them.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::support::{ADMIN, Api, ServerProcess};

#[tokio::test]
async fn the_demo_reports_this_machines_numbers_and_ends_by_itself() {
    let output = Command::new(env!("CARGO_BIN_EXE_enlist-demo"))
        .args(["--for", "5s"])
        .kill_on_drop(true)
        .output()
        .await
        .expect("the demo's program was built with its tests");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let accepted: Vec<_> = text.lines().filter(|line| line.contains("Accepted: CPU ")).collect();
    assert!(!accepted.is_empty(), "{text}");
    assert!(accepted.iter().all(|line| line.contains(" %, load ") && line.contains(" GiB of ")), "{text}");
    assert!(text.contains("the server says: online"), "{text}");
    assert!(text.contains(&format!("{0} of {0} reports accepted and durable", accepted.len())), "{text}");
}

#[tokio::test]
async fn the_agent_enrols_once_reports_and_stops_when_its_host_is_archived() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &["--report-interval", "1s"], "info").await;
    let api = Api::new(&server);
    let host = json!({"name": "a-machine", "kind": "byoc"});
    let (_, created) = api.call("POST", "/v1/hosts", ADMIN, Some(host)).await;
    let host_id = created["host"]["id"].as_str().unwrap();
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enlist-agent"));
        command
            .args(arguments)
            .env("ENLIST_SERVER", &server.url)
            .env("ENLIST_STATE_DIR", directory.path().join("agent"))
            .env("ENLIST_INSTALL_TOKEN", created["install_token"]["token"].as_str().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    // Enrolling twice is what a unit file does.
    for _ in 0..2 {
        let output = agent(&["enrol"]).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("enrolled as host {host_id}\n"));
    }
    let running = agent(&["run"]).spawn().unwrap();
    while api.telemetry(host_id).await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, host) = api.call("GET", &format!("/v1/hosts/{host_id}"), ADMIN, None).await;
    assert_eq!(host["status"], "online");
    assert!(host["facts"]["cpu_count"].as_u64().unwrap() > 0, "{host}");
    let (status, _) = api.call("POST", &format!("/v1/hosts/{host_id}/archive"), ADMIN, None).await;
    assert_eq!(status, 200);
    let output = running.wait_with_output().await.unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("out of service"), "{log}");
}
