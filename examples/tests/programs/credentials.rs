//! The tables of credentials, walked with `curl`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::support::{ADMIN, Api, ServerProcess};

/// Waits for the retire grace once, by the clock on the wall: half a minute.
#[tokio::test]
async fn the_tables_hold_row_by_row() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("signing.pem");
    let made =
        Command::new(env!("CARGO_BIN_EXE_enlist-server")).arg("make-signing-key").arg(&key).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = key.to_str().expect("it is text");
    let arguments = ["--exchange-per-minute", "0", "--rotations-per-minute", "0", "--access-token-key", key];
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &arguments, "warn").await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/walk-credentials");
    let output = Command::new(script).arg(&server.url).env("ADMIN", ADMIN).env("REFRESH", "1").output().await;
    let output = output.expect("there is a bash");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}\n{}", server.log());
    assert!(text.contains("86 rows walked"), "{text}");
}

#[tokio::test]
async fn a_signing_key_is_for_its_owner_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("signing.pem");
    let make = || Command::new(env!("CARGO_BIN_EXE_enlist-server")).arg("make-signing-key").arg(&key).output();
    assert!(make().await.unwrap().status.success());
    let made = std::fs::read_to_string(&key).unwrap();
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!make().await.unwrap().status.success());
    assert_eq!(std::fs::read_to_string(&key).unwrap(), made);
}

#[tokio::test]
async fn what_is_no_signing_key_is_named_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("signing.pem");
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_enlist-server"))
        .args(["serve", "--listen", "127.0.0.1:0", "--database", "memory:", "--access-token-key"])
        .arg(&key)
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("signing.pem"), "{errors}");
    assert!(!errors.contains("canary"), "{errors}");
}

/// One install token makes one host, named as the machine is told to be, and a clone of it is told why it is refused.
#[tokio::test]
async fn an_agent_makes_its_host_with_an_install_token_of_a_tenant() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "warn").await;
    let api = Api::new(&server);
    let enrol = async |state: &str, arguments: &[&str]| {
        let (status, minted) = api.call("POST", "/v1/tenants/acme/install-tokens", ADMIN, None).await;
        assert_eq!(status, 201, "{minted}");
        let output = Command::new(env!("CARGO_BIN_EXE_enlist-agent"))
            .args(["enrol", "--server", &server.url, "--state-dir"])
            .arg(directory.path().join(state))
            .args(arguments)
            .env("ENLIST_INSTALL_TOKEN", minted["token"].as_str().expect("a secret"))
            .output()
            .await
            .unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (done, said) = enrol("first", &["--name", "web-1", "--external-id", "i-1"]).await;
    assert!(done, "{said}");
    let (done, said) = enrol("clone", &["--name", "web-2", "--external-id", "i-1"]).await;
    assert!(!done && said.contains("external_id_taken"), "{said}");
    // What this machine itself is called, and its id, whatever they are.
    let (done, said) = enrol("second", &[]).await;
    assert!(done, "{said}");
    let (_, hosts) = api.call("GET", "/v1/hosts?tenant_id=acme", ADMIN, None).await;
    let hosts = hosts["items"].as_array().expect("items");
    assert_eq!((hosts.len(), &hosts[0]["name"], &hosts[0]["external_id"]), (2, &json!("web-1"), &json!("i-1")));
    let machine = enlist_agent_sdk::this_machine();
    assert_eq!(hosts[1]["external_id"], json!(machine.external_id));
    if let Some(name) = machine.name {
        assert_eq!(hosts[1]["name"], json!(name));
    }
}

/// An administrator issues a token, and the agent needs nothing else.
#[tokio::test]
async fn an_agent_takes_a_token_that_was_delivered_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "warn").await;
    let api = Api::new(&server);
    let body = json!({"name": "by-hand", "kind": "byoc", "mint_install_token": false});
    let (_, created) = api.call("POST", "/v1/hosts", ADMIN, Some(body)).await;
    let host = format!("/v1/hosts/{}", created["host"]["id"].as_str().expect("an id"));
    let (_, issued) = api.call("POST", &format!("{host}/tokens"), ADMIN, None).await;
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{}\n", issued["token"].as_str().expect("a secret"))).unwrap();
    let agent = Command::new(env!("CARGO_BIN_EXE_enlist-agent"))
        .args(["run", "--server", &server.url, "--interval", "1s", "--state-dir"])
        .arg(directory.path().join("state"))
        .arg("--agent-token-file")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the agent's program was built with its tests");
    let mut waited = 0;
    while api.call("GET", &host, ADMIN, None).await.1["status"] != "online" {
        tokio::time::sleep(Duration::from_millis(50)).await;
        waited += 1;
        assert!(waited < 600, "the agent never reported");
    }
    drop(agent);
    let kept = std::fs::read_to_string(directory.path().join("state/credential.json")).unwrap();
    assert!(kept.contains(issued["token"].as_str().expect("a secret")), "it is kept");
}
