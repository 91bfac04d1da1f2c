//! The README's commands do what the README says.

use std::path::Path;

use tokio::process::Command;

use crate::support::{ADMIN, Api, ServerProcess};

/// The walk with `curl` in the README.
fn walk() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split("\n## ").find(|section| section.starts_with("With `curl` alone")).expect("it is there");
    let blocks: Vec<_> = section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    // The one before starts the server and the one behind the agent: other tests run those.
    blocks.into_iter().find(|block| block.contains("curl")).expect("it is there").to_owned()
}

#[tokio::test]
async fn the_walk_with_curl_enrols_a_host_and_reads_its_report_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "warn").await;
    let script = walk().replace("http://127.0.0.1:7070", &server.url);
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .env("ADMIN", ADMIN)
        .current_dir(directory.path())
        .output()
        .await
        .expect("there is a bash");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains(r#""status":"accepted""#), "{text}");
    assert!(text.contains(r#""cpu_percent":12.5"#), "{text}");
    assert!(text.contains(r#""status":"rejected","code":"too_old""#), "{text}");
    assert!(text.contains(r#""code":"host_archived""#), "{text}");
    let api = Api::new(&server);
    let (_, hosts) = api.call("GET", "/v1/hosts?status=archived", ADMIN, None).await;
    assert_eq!(hosts["items"].as_array().map(Vec::len), Some(1), "{hosts}");
}

#[test]
fn the_readme_shows_what_the_demo_prints() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let picture = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it is there");
    for line in ["A fleet of one, kept in ", "Accepted: CPU ", "the server says: online", "accepted and durable"] {
        assert!(picture.contains(line), "{line}");
    }
}
