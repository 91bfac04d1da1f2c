//! Credentials of kind `refresh`: access tokens are bought, used and replaced, and never kept.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use enlist_agent_sdk::{FileCredentialStore, Session, SessionError};
use enlist_core::wire::{AgentAction, Code, Problem};
use enlist_core::{Clock, ManualClock};
use support::*;
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_secs(15 * 60);

/// As [`enrolled_home`], of kind `refresh`.
async fn refresh_home() -> (TempDir, String) {
    let (home, secret) = enrolled_home().await;
    let mut document = file(home.path());
    document["installed"]["kind"] = "refresh".into();
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    (home, secret)
}

async fn refreshing(server: &Server, home: &Path, clock: &Arc<ManualClock>) -> Session {
    session(server, FileCredentialStore::new(home), clock).await.0
}

/// Sells access tokens that tell the request they were bought with.
fn sold(n: usize, clock: &ManualClock) -> Answer {
    ok(serde_json::json!({
        "access_token": format!("head.{n}.signature"), "expires_at": clock.now().saturating_add(LIFE),
    }))
}

fn refresh_wanted() -> Answer {
    problem(&Problem::new(Code::InvalidToken, "buy another").with_action(AgentAction::Refresh))
}

fn who_refreshes() -> Answer {
    ok(serde_json::json!({
        "host_id": HOST_ID, "tenant_id": "acme", "token_id": SECOND_TOKEN_ID, "kind": "refresh", "expires_at": null,
        "server_time": now(),
    }))
}

fn bearers(server: &Server, path: &str) -> Vec<String> {
    let asked = server.asked().into_iter().filter(|asked| asked.path.ends_with(path));
    asked.map(|asked| asked.bearer.expect("a credential")).collect()
}

#[tokio::test]
async fn an_access_token_is_bought_at_the_start_and_at_two_thirds_of_its_life() {
    let (home, secret) = refresh_home().await;
    let clock = MovingTimer::new().clock.clone();
    let seller = Arc::clone(&clock);
    let server = Server::start(move |n, asked| match asked.path.as_str() {
        "/v1/agent/token/refresh" => sold(n, &seller),
        _ => acknowledged(),
    })
    .await;
    let session = refreshing(&server, home.path(), &clock).await;
    let before = file(home.path());
    for _ in 0..2 {
        heartbeat(&session, &server).await.expect("a permit").expect("served");
    }
    clock.advance(LIFE * 2 / 3 - Duration::from_secs(1));
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(bearers(&server, "/refresh"), [secret.as_str()]);
    clock.advance(Duration::from_secs(1));
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(bearers(&server, "/refresh"), [secret.as_str(), secret.as_str()]);
    assert_eq!(
        bearers(&server, "/heartbeat"),
        ["head.0.signature", "head.0.signature", "head.0.signature", "head.4.signature"]
    );
    assert_eq!(file(home.path()), before, "it is never on disk");
}

#[tokio::test]
async fn a_refused_access_token_is_bought_again_once_for_a_request() {
    let (home, _) = refresh_home().await;
    let clock = MovingTimer::new().clock.clone();
    let (seller, refusals) = (Arc::clone(&clock), Arc::new(AtomicUsize::new(1)));
    let left = Arc::clone(&refusals);
    let server = Server::start(move |n, asked| match asked.path.as_str() {
        "/v1/agent/token/refresh" => sold(n, &seller),
        _ => match left.load(Ordering::SeqCst) {
            0 => acknowledged(),
            more => {
                left.store(more - 1, Ordering::SeqCst);
                refresh_wanted()
            }
        },
    })
    .await;
    let session = refreshing(&server, home.path(), &clock).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["refresh", "heartbeat", "refresh", "heartbeat"]);
    assert_eq!(bearers(&server, "/heartbeat"), ["head.0.signature", "head.2.signature"]);

    refusals.store(2, Ordering::SeqCst);
    let refused = heartbeat(&session, &server).await.expect_err("twice is a refusal");
    assert!(matches!(refused, SessionError::Refused { for_good: false, .. }), "{refused:?}");
    assert_eq!(server.paths()[4..], ["heartbeat", "refresh", "heartbeat"]);
    clock.advance(MINUTE * 2);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
}

#[tokio::test]
async fn a_server_without_signing_keys_is_shown_the_refresh_token_until_it_wants_an_access_token() {
    let (home, secret) = refresh_home().await;
    let clock = MovingTimer::new().clock.clone();
    let (seller, keys) = (Arc::clone(&clock), Arc::new(AtomicBool::new(false)));
    let signs = Arc::clone(&keys);
    let server = Server::start(move |n, asked| match (asked.path.as_str(), signs.load(Ordering::SeqCst)) {
        ("/v1/agent/token/refresh", false) => refusal(Code::NotFound),
        ("/v1/agent/token/refresh", true) => sold(n, &seller),
        (_, true) if asked.bearer.as_ref().is_some_and(|bearer| !bearer.starts_with("head")) => refresh_wanted(),
        _ => acknowledged(),
    })
    .await;
    let session = refreshing(&server, home.path(), &clock).await;
    for _ in 0..2 {
        heartbeat(&session, &server).await.expect("a permit").expect("served");
    }
    assert_eq!(server.paths(), ["refresh", "heartbeat", "heartbeat"]);
    assert!(server.asked().iter().all(|asked| asked.bearer.as_deref() == Some(&secret)));
    keys.store(true, Ordering::SeqCst);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths()[3..], ["heartbeat", "refresh", "heartbeat"]);
    assert_eq!(bearers(&server, "/heartbeat").last().map(String::as_str), Some("head.4.signature"));
}

/// Only the server's own 404 says that it signs nothing.
#[tokio::test]
async fn what_is_not_the_servers_word_does_not_show_the_refresh_token_for_work() {
    let no_answers: [fn() -> Answer; 5] = [
        || html(200),
        || html(404),
        || refusal(Code::Internal),
        || ok(serde_json::json!({"access_token": "a b", "expires_at": now()})),
        || Answer::Lost,
    ];
    for no_answer in no_answers {
        let (home, _) = refresh_home().await;
        let clock = MovingTimer::new().clock.clone();
        let server = Server::start(move |_, asked| match asked.path.as_str() {
            "/v1/agent/token/refresh" => no_answer(),
            _ => acknowledged(),
        })
        .await;
        let session = refreshing(&server, home.path(), &clock).await;
        for _ in 0..2 {
            assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: Some(_), .. })));
            clock.advance(MINUTE);
        }
        assert_eq!(server.paths(), ["refresh", "refresh"]);
    }
}

#[tokio::test]
async fn an_access_token_works_on_while_the_next_one_or_a_rotation_is_unanswered() {
    let (home, _) = refresh_home().await;
    let clock = MovingTimer::new().clock.clone();
    let (seller, away) = (Arc::clone(&clock), Arc::new(AtomicBool::new(false)));
    let gone = Arc::clone(&away);
    let server = Server::start(move |n, asked| match asked.path.as_str() {
        "/v1/agent/heartbeat" => acknowledged(),
        _ if gone.load(Ordering::SeqCst) => html(502),
        "/v1/agent/token/refresh" => sold(n, &seller),
        "/v1/agent/token/rotate" => proposed(),
        _ => who_refreshes(),
    })
    .await;
    let session = refreshing(&server, home.path(), &clock).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    away.store(true, Ordering::SeqCst);
    session.rotate();
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["refresh", "heartbeat", "rotate", "heartbeat"]);
    clock.advance(LIFE * 3 / 4);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    clock.advance(LIFE / 4);
    assert!(matches!(session.permit().await, Err(SessionError::Waiting { .. })), "its life is over");
    away.store(false, Ordering::SeqCst);
    clock.advance(MINUTE);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths()[server.paths().len() - 4..], ["rotate", "self", "refresh", "heartbeat"]);
}

#[tokio::test]
async fn a_refresh_token_rotates_by_the_same_table() {
    // A server that takes a refresh token at `self`, and one that does not.
    for strict in [false, true] {
        let (home, old) = refresh_home().await;
        let clock = MovingTimer::new().clock.clone();
        let seller = Arc::clone(&clock);
        let server = Server::start(move |n, asked| match asked.path.as_str() {
            "/v1/agent/token/refresh" => sold(n, &seller),
            "/v1/agent/token/rotate" => proposed(),
            "/v1/agent/self" if strict && asked.bearer.as_ref().is_some_and(|bearer| bearer.starts_with("ert_")) => {
                refresh_wanted()
            }
            "/v1/agent/self" => who_refreshes(),
            _ => acknowledged(),
        })
        .await;
        let session = refreshing(&server, home.path(), &clock).await;
        session.rotate();
        heartbeat(&session, &server).await.expect("a permit").expect("served");
        let expected: &[&str] = if strict {
            &["rotate", "self", "refresh", "self", "refresh", "heartbeat"]
        } else {
            &["rotate", "self", "refresh", "heartbeat"]
        };
        assert_eq!(server.paths(), expected);
        let installed = &file(home.path())["installed"];
        let new = installed["token"].as_str().expect("a token");
        assert!(new.starts_with("ert_") && installed["successor"].is_null());
        assert_eq!(bearers(&server, "/rotate"), [old]);
        assert!(bearers(&server, "/refresh").iter().all(|bearer| bearer == new));
    }
}

#[tokio::test]
async fn a_refused_refresh_token_is_a_refused_credential() {
    for (code, lost) in [(Code::TokenRevoked, true), (Code::InvalidToken, true), (Code::TokenSuperseded, false)] {
        let (home, _) = refresh_home().await;
        let before = file(home.path());
        let server = Server::start(move |_, _| refusal(code.clone())).await;
        let session = refreshing(&server, home.path(), &MovingTimer::new().clock).await;
        let refused = session.permit().await.expect_err("refused");
        assert!(matches!(refused, SessionError::Refused { for_good, .. } if for_good == lost), "{refused:?}");
        assert_eq!(server.paths(), ["refresh"]);
        assert_eq!(file(home.path()), before);
    }
}

/// What is worked with is an access token then, so that replies to reports do not say it.
#[tokio::test]
async fn a_server_that_asks_for_a_rotation_with_an_access_token_gets_one() {
    for asks in [false, true] {
        let (home, secret) = refresh_home().await;
        let clock = MovingTimer::new().clock.clone();
        let end = clock.now().saturating_add(LIFE);
        let server = Server::start(move |n, asked| match asked.path.as_str() {
            "/v1/agent/token/refresh" => ok(serde_json::json!({
                "access_token": format!("head.{n}.signature"), "expires_at": end, "rotate": asks,
            })),
            "/v1/agent/token/rotate" => proposed(),
            "/v1/agent/self" => who_refreshes(),
            _ => acknowledged(),
        })
        .await;
        let session = refreshing(&server, home.path(), &clock).await;
        for _ in 0..2 {
            heartbeat(&session, &server).await.expect("a permit").expect("served");
        }
        assert_eq!(file(home.path())["installed"]["token"] != secret.as_str(), asks, "{:?}", server.paths());
    }
}
