//! No secret is seen where it does not belong.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use enlist_agent_sdk::{
    Agent, AgentToken, Client, Credential, CredentialStore, FileCredentialStore, InstallToken, Session,
};
use enlist_core::wire::Code;
use support::*;
use tempfile::tempdir;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log_everything() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone());
    let guard = tracing::subscriber::set_default(subscriber.finish());
    (log, guard)
}

/// The current token, its successor, an access token, and one that was delivered by hand.
#[tokio::test]
async fn no_secret_of_a_session_is_in_logs_debug_output_errors_or_events() {
    let (log, _guard) = log_everything();
    let (home, old) = enrolled_home().await;
    let mut document = file(home.path());
    document["installed"]["kind"] = "refresh".into();
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    let delivered = "mdt_canary_of_a_delivered_token";
    let server = Server::start(|n, asked| match asked.path.as_str() {
        "/v1/agent/self" if asked.bearer.as_deref() == Some(delivered) => refusal(Code::TokenRevoked),
        "/v1/agent/token/refresh" => ok(serde_json::json!({
            "access_token": "canary.of.an_access_token", "expires_at": now().saturating_add(SHORT * 600),
        })),
        "/v1/agent/token/rotate" if n == 1 => Answer::Lost,
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => ok(serde_json::json!({
            "host_id": HOST_ID, "tenant_id": "acme", "token_id": SECOND_TOKEN_ID, "kind": "refresh", "expires_at": null,
            "server_time": now(),
        })),
        _ => refusal(Code::TokenRevoked),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let token = AgentToken::new(delivered).expect("a token");
    let mut shown = format!("{token:?}");
    let builder = Session::builder(client(&server), Arc::new(FileCredentialStore::new(home.path())));
    let builder = builder.agent_token(token).clock(Arc::clone(&clock) as _);
    shown += &format!("{builder:?}");
    let (session, mut events) = builder.open().await.expect("opens");
    session.rotate();
    let waiting = session.permit().await.expect_err("the reply was lost");
    let successor = file(home.path())["installed"]["successor"]["token"].as_str().expect("a token").to_owned();
    shown += &format!("{waiting:?} {waiting} {session:?}");
    clock.advance(SHORT * 60);
    let permit = session.permit().await.expect("rotated");
    assert_eq!(permit.expose(), "canary.of.an_access_token");
    shown += &format!("{permit:?}");
    drop(permit);
    let refused = heartbeat(&session, &server).await.expect_err("refused");
    shown += &format!("{refused:?} {refused}");
    drop(session);
    while let Some(event) = events.next().await {
        shown += &format!("{event:?}");
    }
    shown += &String::from_utf8_lossy(&log.0.lock().expect("not poisoned"));
    assert!(shown.contains("the agent token that was delivered is refused"), "the log was taken");
    for secret in [&old[4..30], &successor[4..30], "canary"] {
        assert!(!shown.contains(secret), "a secret was shown");
    }
}

#[tokio::test]
async fn no_secret_is_in_logs_debug_output_errors_or_events() {
    let (log, _guard) = log_everything();
    let home = tempdir().expect("a directory");
    let install_token = install_token();
    let install_secret = install_token.expose().to_owned();
    let server = Server::start(|n, asked| match (n, asked.path.as_str()) {
        (0, _) => html(502),
        (_, "/v1/install-tokens/exchange") => enrolled(),
        (_, "/v1/agent/self") => refusal(Code::InvalidToken),
        (3, _) => Answer::Lost,
        (5, _) => refusal(Code::TokenRevoked),
        _ => acknowledged(),
    })
    .await;
    let mut shown = format!("{install_token:?}");
    let builder = agent(&server, home.path(), &MovingTimer::new()).install_token(install_token);
    shown += &format!("{builder:?}");
    let (agent, mut events) = builder.open().await.expect("opens");
    shown += &format!("{agent:?}");
    run_until(agent, &server, 8).await.expect("ran");
    while let Some(event) = events.next().await {
        shown += &format!("{event:?}");
    }

    let store = FileCredentialStore::new(home.path());
    let credential = Credential::load(&store).await.expect("readable").expect("installed");
    let client = Client::new(&server.url).expect("a client");
    let error = client.who_am_i(credential.token()).await.expect_err("refused");
    let unreachable = Client::new("http://127.0.0.1:1").expect("a client");
    let transport = unreachable.report_or_error(&credential).await;
    shown += &format!("{credential:?} {client:?} {error:?} {error} {transport} {:?}", store.load().await);
    shown += &format!(
        "{:?}",
        Agent::builder("http://127.0.0.1").install_token(InstallToken::new("mit_canary").expect("a token"))
    );
    shown += &String::from_utf8_lossy(&log.0.lock().expect("not poisoned"));

    assert!(shown.contains("a contact failed"), "the log was taken");
    let agent_secret = credential.token().expose();
    for secret in [&install_secret[4..30], &agent_secret[4..30], "canary"] {
        assert!(!shown.contains(secret), "a secret was shown");
    }
    // As bytes too.
    let bytes = format!("{:?}", &agent_secret.as_bytes()[4..20]);
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "a secret was shown");
}

trait ReportOrError {
    async fn report_or_error(&self, credential: &Credential) -> String;
}

impl ReportOrError for Client {
    async fn report_or_error(&self, credential: &Credential) -> String {
        let error = self.heartbeat(credential.token()).await.expect_err("nobody listens");
        format!("{error:?} {error}")
    }
}
