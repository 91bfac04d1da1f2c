//! The file of actors: who may administer what.

use std::path::Path;
use std::time::Duration;

use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::{SystemEntropy, TokenHash};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{ADMIN, Api, ServerProcess};

/// A token, and the entry of an actor who presents it.
fn actor(id: &str, rights: Value) -> (PlainToken, Value) {
    let token = PlainToken::generate(Prefix::new("ead"), &SystemEntropy);
    let mut entry = rights;
    entry["id"] = json!(id);
    entry["token_sha256"] = json!(token.hash().to_hex());
    (token, entry)
}

/// A server that knows an owner and a member of `acme`, and an owner of `globex`; with their tokens.
pub(crate) async fn start_with_two_tenants(directory: &Path) -> (ServerProcess, [PlainToken; 3]) {
    let (alice, owner) = actor("alice", json!({"grants": {"acme": "owner"}}));
    let (rita, member) = actor("rita", json!({"grants": {"acme": "member"}}));
    let (gus, other) = actor("gus", json!({"grants": {"globex": "owner"}}));
    let file = directory.join("actors.json");
    std::fs::write(&file, json!({"actors": [owner, member, other]}).to_string()).unwrap();
    let arguments = ["--actors-file", file.to_str().expect("it is text")];
    (ServerProcess::start(&directory.join("fleet.db"), &arguments, "warn").await, [alice, rita, gus])
}

#[tokio::test]
async fn two_tenants_do_not_find_each_others_hosts_and_events_name_who_acted() {
    let directory = tempfile::tempdir().unwrap();
    let (server, [alice, rita, gus]) = start_with_two_tenants(directory.path()).await;
    let api = Api::new(&server);
    let create = async |by: &PlainToken, tenant: Option<&str>| {
        let host = json!({"name": "web-1", "kind": "byoc", "tenant_id": tenant});
        api.call("POST", "/v1/hosts", by.expose(), Some(host)).await
    };
    assert_eq!(create(&rita, None).await.0, 403);
    assert_eq!(create(&gus, Some("acme")).await.0, 404);
    let (status, hers) = create(&alice, None).await;
    assert_eq!((status, &hers["host"]["tenant_id"]), (201, &json!("acme")), "{hers}");
    let (status, his) = create(&gus, None).await;
    assert_eq!((status, &his["host"]["tenant_id"]), (201, &json!("globex")), "{his}");
    let path = |created: &Value| format!("/v1/hosts/{}", created["host"]["id"].as_str().expect("an id"));
    let (hers, his) = (path(&hers), path(&his));
    for (by, found, hidden) in [(&alice, &hers, &his), (&rita, &hers, &his), (&gus, &his, &hers)] {
        assert_eq!(api.call("GET", found, by.expose(), None).await.0, 200);
        for (method, path) in
            [("GET", hidden.clone()), ("DELETE", hidden.clone()), ("POST", format!("{hidden}/archive"))]
        {
            let (status, problem) = api.call(method, &path, by.expose(), None).await;
            assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{method} {path}");
        }
        let (_, hosts) = api.call("GET", "/v1/hosts", by.expose(), None).await;
        assert_eq!(hosts["items"].as_array().map(Vec::len), Some(1), "{hosts}");
    }
    assert_eq!(api.call("DELETE", &hers, rita.expose(), None).await.0, 403);
    assert_eq!(api.call("GET", &hers, &alice.hash().to_hex(), None).await.0, 401, "the hash is no token");
    let (_, events) = api.call("GET", "/v1/events?type=host.created", ADMIN, None).await;
    let actors: Vec<_> = events["items"].as_array().expect("items").iter().map(|event| &event["actor"]).collect();
    assert_eq!(actors, [&json!("alice"), &json!("gus")]);
}

#[tokio::test]
async fn an_actors_file_that_cannot_be_meant_is_refused_at_the_start_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("actors.json");
    let of_admin = PlainToken::generate(Prefix::new("ead"), &SystemEntropy);
    let hash = |token: &PlainToken| TokenHash::to_hex(&token.hash());
    let entry = |id: &str, token: &str| json!({"id": id, "token_sha256": token, "operator": true});
    for (text, complaint) in [
        ("{\"actors\": [canary".to_owned(), "not JSON"),
        (json!({"actors": [entry("a", "canary")]}).to_string(), "/actors/0/token_sha256"),
        (json!({"actors": [entry("a", &hash(&of_admin))]}).to_string(), "/actors/0/token_sha256"),
        (json!({"actors": [{"id": "a", "token": "canary"}]}).to_string(), "/actors/0/token"),
        (
            json!({"actors": [{"id": "a", "token_sha256": "0".repeat(64), "grants": {"acme": "canary"}}]}).to_string(),
            "/actors/0/grants/acme",
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let said = refusal(&file, &of_admin).await;
        assert!(said.contains("actors.json") && said.contains(complaint), "{text}: {said}");
        assert!(!said.contains("canary") && !said.contains(&hash(&of_admin)), "{said}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(refusal(&file, &of_admin).await.contains("actors.json"));
}

/// What a server says that does not start.
async fn refusal(actors: &Path, admin: &PlainToken) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_enlist-server"))
        .args(["serve", "--listen", "127.0.0.1:0", "--database", "memory:", "--actors-file"])
        .arg(actors)
        .env("ENLIST_ADMIN_TOKEN", admin.expose())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(Duration::from_secs(30), output).await;
    let output = ended.expect("it does not serve").unwrap();
    assert!(!output.status.success());
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}
