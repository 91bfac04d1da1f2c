//! The README's commands do what the README says.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::support::{ADMIN, Api, ServerProcess};

/// The commands of a section of the README, block by block.
fn blocks(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split("\n## ").find(|text| text.starts_with(section)).expect("it is there");
    section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).map(str::to_owned).collect()
}

/// The walk with `curl` in the README. The block before it starts the server and the one behind the agent: other tests run those.
fn walk() -> String {
    blocks("With `curl` alone").into_iter().find(|block| block.contains("curl")).expect("it is there")
}

async fn run(script: &str, directory: &Path) -> Output {
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .env("ADMIN", ADMIN)
        .current_dir(directory)
        .output()
        .await
        .expect("there is a bash")
}

#[tokio::test]
async fn the_walk_with_curl_enrols_a_host_and_reads_its_report_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &[], "warn").await;
    let script = walk().replace("http://127.0.0.1:7070", &server.url);
    let output = run(&script, directory.path()).await;
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

#[tokio::test]
async fn two_tenants_are_set_up_and_walked_as_the_readme_says() {
    let directory = tempfile::tempdir().unwrap();
    let [setup, walk] = <[String; 2]>::try_from(blocks("Two tenants")).expect("two blocks");
    let (file, start) = setup.split_once("ENLIST_ADMIN_TOKEN=").expect("the server is started last");
    assert!(run(file, directory.path()).await.status.success());
    let actors = directory.path().join("actors.json");
    assert!(start.ends_with("serve --actors-file actors.json\n"), "{start}");
    let arguments = ["--actors-file", actors.to_str().expect("it is text")];
    let server = ServerProcess::start(&directory.path().join("fleet.db"), &arguments, "warn").await;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/");
    let walk = walk
        .replace("for_the_operator", ADMIN)
        .replace("scripts/", scripts.to_str().expect("it is text"))
        .replace("http://127.0.0.1:7070", &server.url);
    let output = run(&walk, directory.path()).await;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.ends_with("118 requests walked\n"), "{text}\n{errors}");
}

#[test]
fn the_readme_shows_what_the_demo_prints() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let picture = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it is there");
    for line in ["A fleet of one, kept in ", "Accepted: CPU ", "the server says: online", "accepted and durable"] {
        assert!(picture.contains(line), "{line}");
    }
}
