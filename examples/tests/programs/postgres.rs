//! The server on PostgreSQL: as replicas, and behind a pooler.

use std::time::Duration;

use enlist_core::secret::{PlainToken, Prefix};
use enlist_core::{Clock, SystemClock, SystemEntropy};
use enlist_testing::{Database, pooler_url};
use serde_json::json;

use crate::support::{ADMIN, Api, ServerProcess, report};

/// What one replica archives, the other refuses, although it had the credential in its cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_are_one_fleet() {
    let database = Database::empty("replicas").await.unwrap();
    // Both find an empty database, and one of them makes the schema.
    let (a, b) = tokio::join!(
        ServerProcess::start_on(database.url(), &[], "warn"),
        ServerProcess::start_on(database.url(), &[], "warn"),
    );
    let (here, there) = (Api::new(&a), Api::new(&b));
    let (host_id, token) = here.enrol("h").await;
    for _ in 0..2 {
        let (status, reply) = there.call("GET", "/v1/agent/self", token.expose(), None).await;
        assert_eq!((status, reply["host_id"].as_str()), (200, Some(&*host_id)));
    }
    let now = SystemClock::default().now();
    let report = report(now);
    let (_, first) = there.call("POST", "/v1/agent/telemetry", token.expose(), Some(report.clone())).await;
    let (_, second) = here.call("POST", "/v1/agent/telemetry", token.expose(), Some(report)).await;
    assert_eq!((&first["status"], &second["status"]), (&json!("accepted"), &json!("duplicate")));

    let (status, _) = here.call("POST", &format!("/v1/hosts/{host_id}/archive"), ADMIN, None).await;
    assert_eq!(status, 200);
    // Told by the database: long before the 30 s for which the other would have remembered it.
    for _ in 0..500 {
        let (status, reply) = there.call("GET", "/v1/agent/self", token.expose(), None).await;
        if (status, &reply["code"]) == (401, &json!("host_archived")) {
            return;
        }
        assert_eq!(status, 200, "{reply}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the other replica was not told");
}

/// Sixteen machines with one install token of their tenant, and then with one external id, at both replicas at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_race_at_two_replicas_are_one_host() {
    let database = Database::empty("tenant_tokens").await.unwrap();
    let arguments = ["--exchange-per-minute", "0"];
    let a = ServerProcess::start_on(database.url(), &arguments, "warn").await;
    let b = ServerProcess::start_on(database.url(), &arguments, "warn").await;
    let replicas = [Api::new(&a), Api::new(&b)];
    let mint = async || {
        let (status, minted) = replicas[0].call("POST", "/v1/tenants/acme/install-tokens", ADMIN, None).await;
        assert_eq!(status, 201, "{minted}");
        minted["token"].as_str().expect("a secret").to_owned()
    };
    let race = async |tokens: &[String; 16], machine: fn(usize) -> usize| {
        let attempts = tokens.iter().enumerate().map(|(n, token)| {
            let (api, secret) = (replicas[n % 2].clone(), PlainToken::generate(Prefix::AGENT, &SystemEntropy));
            let host = json!({"name": format!("m-{}", machine(n)), "external_id": format!("i-{}", machine(n))});
            let body = json!({"install_token": token, "claim": secret.hash().to_hex(), "host": host});
            tokio::spawn(async move { api.call("POST", "/v1/install-tokens/exchange", "", Some(body)).await })
        });
        let mut answers = Vec::new();
        for attempt in attempts.collect::<Vec<_>>() {
            let (status, reply) = attempt.await.unwrap();
            answers.push((status, reply["code"].as_str().unwrap_or_default().to_owned()));
        }
        answers.sort();
        answers
    };
    let lost = |status: u16, code: &str| {
        let mut answers = vec![(status, code.to_owned()); 16];
        answers[0] = (200, String::new());
        answers
    };
    let one = mint().await;
    let answers = race(&std::array::from_fn(|_| one.clone()), |n| n).await;
    assert_eq!(answers, lost(401, "install_token_already_used"));
    let mut tokens: [String; 16] = Default::default();
    for token in &mut tokens {
        *token = mint().await;
    }
    assert_eq!(race(&tokens, |_| 100).await, lost(409, "external_id_taken"));
    let (_, hosts) = replicas[1].call("GET", "/v1/hosts?tenant_id=acme", ADMIN, None).await;
    assert_eq!(hosts["items"].as_array().expect("items").len(), 2, "{hosts}");
}

/// Through a PgBouncer that pools by the transaction, with the way past it for what a pooler cannot do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_a_pooler_serves_and_is_told() {
    let database = Database::empty("pooled").await.unwrap();
    let pooler = pooler_url(database.name()).unwrap();
    let server = ServerProcess::start_on(&pooler, &["--database-direct", database.url()], "warn").await;
    let api = Api::new(&server);
    let (host_id, token) = api.enrol("h").await;
    let start = SystemClock::default().now();
    for n in 0..20 {
        let at = start.saturating_add(Duration::from_micros(n));
        let (status, reply) = api.call("POST", "/v1/agent/telemetry", token.expose(), Some(report(at))).await;
        assert_eq!((status, &reply["status"]), (200, &json!("accepted")));
    }
    assert_eq!(api.telemetry(&host_id).await.len(), 20);
    assert_eq!(api.call("GET", "/readyz", "", None).await.0, 200);
    assert_eq!(server.log(), format!("listening on {}", server.url), "nothing was worth a warning");
}

/// An administrator has to be told which folder is missing.
#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/none/x.db", folder.path().display());
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_enlist-server"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-token-file", "/nonexistent", "--database", &url])
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains(&url) && said.contains("its folder"), "{said}");
}

/// A URL may hold a password: no message repeats it.
#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let program = env!("CARGO_BIN_EXE_enlist-server");
    for url in ["postgres://enlist:hunter2@127.0.0.1:1/none", "postgres://enlist:hunter2@[bad/none", "pg://hunter2"] {
        let output = tokio::process::Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-token-file", "/nonexistent"])
            .env("ENLIST_DATABASE", url)
            .output()
            .await
            .unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains("hunter2"), "{said}");
        assert!(said.contains("database"), "{said}");
    }
}
