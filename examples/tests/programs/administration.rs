//! Every route of administration, walked with `curl` by people of two tenants.

use std::collections::BTreeSet;
use std::path::Path;

use enlist_core::{Actor, ActorId, Fleet, MemoryStore};
use enlist_http_warp::{Caller, Routes, StaticBearer};
use tokio::process::Command;

use crate::actors::start_with_two_tenants;
use crate::support::ADMIN;

#[tokio::test]
async fn two_tenants_walk_every_route_and_do_not_find_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let (server, [acme, reader, globex]) = start_with_two_tenants(directory.path()).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/walk-administration");
    // Twice: what an earlier walk has left behind is in nobody's way.
    for _ in 0..2 {
        let output = Command::new(&script)
            .arg(&server.url)
            .env("ADMIN", ADMIN)
            .env("ACME", acme.expose())
            .env("READER", reader.expose())
            .env("GLOBEX", globex.expose())
            .output()
            .await
            .expect("there is a bash");
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}\n{errors}\n{}", server.log());
        assert_eq!(errors, "");
        // Who asked what, and was answered how.
        let walked: BTreeSet<Vec<&str>> = text
            .lines()
            .filter_map(|line| line.split_whitespace().collect::<Vec<_>>().get(..4).map(<[&str]>::to_vec))
            .map(|row| vec![row[0], row[1], row[2].split('?').next().expect("the first part"), &row[3][..1]])
            .collect();
        for (method, path) in administrative_routes() {
            let row = |who, status| vec![who, method.as_str(), path, status];
            assert!(walked.contains(&row("acme", "2")), "acme never got {method} {path}:\n{text}");
            // Lists are there for everybody, and show what is theirs.
            let theirs = matches!(path, "/v1/hosts" | "/v1/events" | "/v1/events/stream") && method == "GET";
            let status = if theirs { "2" } else { "4" };
            assert!(walked.contains(&row("globex", status)), "globex never tried {method} {path}:\n{text}");
        }
    }
}

/// As the routes themselves tell them.
fn administrative_routes() -> Vec<(String, &'static str)> {
    let (fleet, _drivers) = Fleet::builder(MemoryStore::new()).build().expect("the defaults hold");
    let nobody = Actor::operator(ActorId::new("nobody").expect("a name"));
    let auth = StaticBearer::new("unused".to_owned(), nobody).expect("it is usable");
    let mut routes = Routes::new(fleet, auth).table();
    routes.retain(|route| route.caller == Caller::Administrator);
    assert!(routes.len() > 25, "{routes:?}");
    routes.into_iter().map(|route| (route.method.to_string(), route.path)).collect()
}
