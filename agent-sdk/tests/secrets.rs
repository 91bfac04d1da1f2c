//! No secret is seen where it does not belong.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use enlist_agent_sdk::{Agent, Client, Credential, CredentialStore, FileCredentialStore, InstallToken};
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

#[tokio::test]
async fn no_secret_is_in_logs_debug_output_errors_or_events() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());

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
