//! Rule 5: an agent token that a person delivers.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use enlist_agent_sdk::{AgentToken, Event, Events, FileCredentialStore, OpenError, RunError, Session, SessionError};
use enlist_core::secret::Prefix;
use enlist_core::wire::Code;
use enlist_core::{ManualClock, PlainToken, SystemEntropy};
use support::*;
use tempfile::tempdir;

const MINUTE: Duration = Duration::from_secs(60);

fn delivered() -> String {
    PlainToken::generate(Prefix::AGENT, &SystemEntropy).expose().to_owned()
}

fn sha256(token: &str) -> String {
    AgentToken::new(token).expect("a token").hash().to_hex()
}

async fn with_token(server: &Server, home: &Path, clock: &Arc<ManualClock>, token: &str) -> (Session, Events) {
    Session::builder(client(server), Arc::new(FileCredentialStore::new(home)))
        .agent_token(AgentToken::new(token).expect("a token"))
        .clock(Arc::clone(clock) as _)
        .open()
        .await
        .expect("opens")
}

/// Says who presents itself, and serves work.
fn accepting(asked: &Asked) -> Answer {
    match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => who(),
        _ => acknowledged(),
    }
}

#[tokio::test]
async fn an_accepted_one_replaces_current_and_successor_durably() {
    let (home, old) = enrolled_home().await;
    let mut document = file(home.path());
    let bought_with = document["installed"]["install_token_sha256"].clone();
    document["installed"]["successor"] = serde_json::json!({"token": delivered(), "refused": true});
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    let server = Server::start(|_, asked| accepting(asked)).await;
    let (clock, token) = (MovingTimer::new().clock.clone(), delivered());
    let (session, mut events) = with_token(&server, home.path(), &clock, &token).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["self", "heartbeat"]);
    assert!(server.asked().iter().all(|asked| asked.bearer.as_deref() == Some(&token)));
    let document = file(home.path());
    let installed = &document["installed"];
    assert_eq!(installed["token"], token.as_str());
    assert!(installed["successor"].is_null() && old != token);
    assert_eq!((&installed["token_id"], &installed["host_id"]), (&SECOND_TOKEN_ID.into(), &HOST_ID.into()));
    assert_eq!(installed["obtained_at"], now().to_string().as_str());
    assert_eq!(document["delivered_sha256"], sha256(&token).as_str());
    // What enrolled the host is spent: it must not enrol it again.
    assert_eq!(installed["install_token_sha256"], bought_with);
    assert!(matches!(events.next().await, Some(Event::CredentialChanged { .. })));

    // Rotated since, and still in the unit file: presented again it would be a false alarm.
    session.rotate();
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    drop(session);
    let asked = server.asked().len();
    let (session, _events) = with_token(&server, home.path(), &clock, &token).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert!(server.asked()[asked..].iter().all(|asked| asked.bearer.as_deref() != Some(&token)));
}

#[tokio::test]
async fn without_a_credential_it_becomes_the_credential() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|_, asked| accepting(asked)).await;
    let (clock, token) = (MovingTimer::new().clock.clone(), "mdt_of_the_embedding_service");
    let (session, _events) = with_token(&server, home.path(), &clock, token).await;
    assert!(session.host_id().is_none());
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(session.host_id().map(|id| id.to_string()).as_deref(), Some(HOST_ID));
    let installed = &file(home.path())["installed"];
    assert_eq!((&installed["token"], &installed["host_id"]), (&token.into(), &HOST_ID.into()));
    assert!(installed["install_token_sha256"].is_null(), "it was not bought");
}

#[tokio::test]
async fn a_refused_one_is_dropped_and_never_presented_again() {
    for code in [
        Code::InvalidToken,
        Code::TokenRevoked,
        Code::TokenSuperseded,
        Code::TokenReuseDetected,
        Code::TokenDisplaced,
        Code::TokenExpired,
        Code::HostArchived,
        // Of that token's host: what is installed is not that.
        Code::HostDeleted,
    ] {
        let (home, old) = enrolled_home().await;
        let said = code.clone();
        let server = Server::start(move |_, asked| match asked.path.as_str() {
            "/v1/agent/self" => refusal(said.clone()),
            _ => acknowledged(),
        })
        .await;
        let (clock, token) = (MovingTimer::new().clock.clone(), delivered());
        let (session, mut events) = with_token(&server, home.path(), &clock, &token).await;
        for _ in 0..2 {
            heartbeat(&session, &server).await.expect("a permit").expect("served");
        }
        drop(session);
        assert!(matches!(events.next().await, Some(Event::AgentTokenRefused { problem }) if problem.code == code));
        let document = file(home.path());
        assert_eq!(document["installed"]["token"], old.as_str());
        assert_eq!(document["delivered_sha256"], sha256(&token).as_str());
        let (session, _events) = with_token(&server, home.path(), &clock, &token).await;
        heartbeat(&session, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths(), ["self", "heartbeat", "heartbeat", "heartbeat"], "{code}");
    }
}

#[tokio::test]
async fn an_unanswered_one_is_tried_again_while_the_installed_one_works() {
    let no_answers: [fn() -> Answer; 7] = [
        || html(200),
        || html(401),
        || html(404),
        || refusal(Code::Internal),
        || refusal(Code::NotFound),
        || Answer::Lost,
        || Answer::Silence,
    ];
    for no_answer in no_answers {
        let (home, old) = enrolled_home().await;
        let server = Server::start(move |n, asked| match asked.path.as_str() {
            "/v1/agent/self" if n < 3 => no_answer(),
            _ => accepting(asked),
        })
        .await;
        let (clock, token) = (MovingTimer::new().clock.clone(), delivered());
        let before = file(home.path());
        let (session, _events) = with_token(&server, home.path(), &clock, &token).await;
        for _ in 0..2 {
            heartbeat(&session, &server).await.expect("a permit").expect("served");
            assert_eq!(server.asked().last().and_then(|asked| asked.bearer.clone()), Some(old.clone()));
            let document = file(home.path());
            assert_eq!(
                (&document["installed"], &document["delivered"]),
                (&before["installed"], &token.as_str().into())
            );
            clock.advance(MINUTE);
        }
        heartbeat(&session, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths(), ["self", "heartbeat", "self", "heartbeat", "self", "heartbeat"]);
        let document = file(home.path());
        assert_eq!(document["installed"]["token"], token.as_str());
        assert!(document["delivered"].is_null());
    }
}

/// Its answer was lost, and it may be the one that is in use now: another one, delivered later, does not push it out.
#[tokio::test]
async fn one_that_was_not_answered_is_tried_again_before_another_that_came_later() {
    let (home, old) = enrolled_home().await;
    let (first, second) = (delivered(), delivered());
    let in_use = first.clone();
    let server = Server::start(move |n, asked| {
        let presented = asked.bearer.as_deref();
        match asked.path.as_str() {
            "/v1/agent/self" if n == 0 => Answer::Lost,
            _ if presented == Some(&in_use) => accepting(asked),
            "/v1/agent/self" => refusal(Code::TokenDisplaced),
            _ => refusal(Code::TokenSuperseded),
        }
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let (session, _events) = with_token(&server, home.path(), &clock, &first).await;
    assert!(heartbeat(&session, &server).await.is_err());
    drop(session);
    clock.advance(MINUTE);
    let (session, _events) = with_token(&server, home.path(), &clock, &second).await;
    for _ in 0..2 {
        heartbeat(&session, &server).await.expect("a permit").expect("served");
    }
    let document = file(home.path());
    assert_eq!(document["installed"]["token"], first.as_str());
    assert_eq!(document["delivered_sha256"], sha256(&second).as_str());
    let presented: Vec<_> = server.asked().into_iter().filter_map(|asked| asked.bearer).collect();
    assert_eq!(presented, [&first, &old, &first, &first, &second, &first].map(|token| token.clone()));
}

#[tokio::test]
async fn without_a_credential_an_unanswered_one_waits_and_is_all_that_is_kept() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, asked| if n == 0 { html(200) } else { accepting(asked) }).await;
    let clock = MovingTimer::new().clock.clone();
    let token = delivered();
    let (session, _events) = with_token(&server, home.path(), &clock, &token).await;
    assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: Some(_), .. })));
    let document = file(home.path());
    assert_eq!((&document["delivered"], &document["installed"]), (&token.as_str().into(), &serde_json::Value::Null));
    clock.advance(MINUTE);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
}

#[tokio::test]
async fn one_of_another_host_is_not_used() {
    let (home, old) = enrolled_home().await;
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/agent/self" => ok(serde_json::json!({
            "host_id": SECOND_TOKEN_ID, "tenant_id": "acme", "token_id": SECOND_TOKEN_ID, "kind": "bearer",
            "expires_at": null, "server_time": now(),
        })),
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let (session, mut events) = with_token(&server, home.path(), &clock, &delivered()).await;
    for _ in 0..2 {
        heartbeat(&session, &server).await.expect("a permit").expect("served");
    }
    assert_eq!(server.paths(), ["self", "heartbeat", "heartbeat"]);
    assert_eq!(file(home.path())["installed"]["token"], old.as_str());
    let event = events.next().await;
    assert!(
        matches!(event, Some(Event::AgentTokenOfAnotherHost { host_id }) if host_id.to_string() == SECOND_TOKEN_ID)
    );
}

/// It was copied from the file, perhaps. Once it was rotated away it must not come back.
#[tokio::test]
async fn the_installed_one_itself_is_not_tried_now_or_later() {
    let (home, old) = enrolled_home().await;
    let server = Server::start(|_, asked| accepting(asked)).await;
    let clock = MovingTimer::new().clock.clone();
    let (session, _events) = with_token(&server, home.path(), &clock, &old).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    session.rotate();
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    drop(session);
    let (session, _events) = with_token(&server, home.path(), &clock, &old).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["heartbeat", "rotate", "self", "heartbeat", "heartbeat"]);
}

#[tokio::test]
async fn an_agent_begins_with_a_delivered_token_or_else_with_an_install_token() {
    let (home, timer) = (tempdir().expect("a directory"), MovingTimer::new());
    let token = delivered();
    let builder = |server: &Server| {
        agent(server, home.path(), &timer).agent_token(AgentToken::new(token.as_str()).expect("a token"))
    };
    let refusing = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/agent/self" => refusal(Code::TokenRevoked),
        "/v1/install-tokens/exchange" => enrolled(),
        _ => acknowledged(),
    })
    .await;
    let (first, events) = builder(&refusing).open().await.expect("opens");
    assert!(first.host_id().is_none());
    let error = run_until(first, &refusing, 9).await.expect_err("nothing else to begin with");
    assert!(matches!(error, RunError::NotEnrolled), "{error:?}");
    assert_eq!(names(events).await, ["AgentTokenRefused"]);
    // It is known to be refused: there is nothing to begin with.
    assert!(matches!(builder(&refusing).open().await, Err(OpenError::NotEnrolled)));
    let (second, _events) = builder(&refusing).install_token(install_token()).open().await.expect("opens");
    run_until(second, &refusing, 3).await.expect("enrolled");
    assert_eq!(refusing.paths()[..3], ["self", "exchange", "telemetry"]);

    let (home, server) = (tempdir().expect("a directory"), Server::start(|_, asked| accepting(asked)).await);
    let (agent, events) = agent(&server, home.path(), &timer)
        .agent_token(AgentToken::new(delivered()).expect("a token"))
        .install_token(install_token())
        .open()
        .await
        .expect("opens");
    run_until(agent, &server, 3).await.expect("ran");
    assert_eq!(server.paths()[..2], ["self", "telemetry"]);
    assert_eq!(names(events).await[..2], ["CredentialChanged", "Reported"]);
}
