//! The administrator's token: made once, shown once, and never lost unseen.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn server(directory: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enlist-server"));
    command
        .args(["serve", "--listen", listen, "--database"])
        .arg(format!("sqlite://{}", directory.join("fleet.db").display()))
        .env_remove("ENLIST_ADMIN_TOKEN")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The lines up to the one that says where it listens.
async fn started(directory: &Path) -> (Child, Vec<String>) {
    let mut child = server(directory, "127.0.0.1:0").spawn().expect("the server's program was built with its tests");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut lines = Vec::new();
    while let Some(line) = output.next_line().await.expect("the output is text") {
        let listens = line.starts_with("listening on ");
        lines.push(line);
        if listens {
            return (child, lines);
        }
    }
    panic!("the server ended: {lines:?}");
}

fn shown(lines: &[String]) -> Option<&str> {
    lines.iter().find_map(|line| line.strip_prefix("administrator's token, shown this once: "))
}

async fn status_with(token: &str, lines: &[String]) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = lines.last().and_then(|line| line.strip_prefix("listening on ")).expect("it listens");
    let http = reqwest::Client::builder().no_proxy().build().expect("a plain client can be built");
    let reply = http.get(format!("{url}/v1/hosts")).bearer_auth(token).send().await.expect("the server answers");
    reply.status().as_u16()
}

#[tokio::test]
async fn the_first_start_shows_a_token_and_later_starts_accept_it_without_showing_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut first, lines) = started(directory.path()).await;
    let token = shown(&lines).expect("the first start shows one").to_owned();
    assert_eq!(status_with(&token, &lines).await, 200);
    assert_eq!(status_with("ead_wrong", &lines).await, 401);
    first.kill().await.unwrap();
    let (_second, lines) = started(directory.path()).await;
    assert_eq!(shown(&lines), None);
    assert_eq!(status_with(&token, &lines).await, 200);
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_token_behind_that_nobody_has_seen() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let output = server(directory.path(), &listen).output().await.unwrap();
    assert!(!output.status.success());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    let (_server, lines) = started(directory.path()).await;
    assert!(shown(&lines).is_some());
}
