//! The client rules of a rotation, each against a server that loses, refuses and stalls.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use enlist_agent_sdk::{Backoff, ClientError, Event, FileCredentialStore, SessionError, Worked};
use enlist_core::Clock;
use enlist_core::wire::{Code, Problem};
use support::fleet::Fleet;
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Every answer that says nothing about the credential.
fn no_answers() -> Vec<fn() -> Answer> {
    vec![
        || html(200),
        || html(401),
        || html(404),
        || html(410),
        || html(502),
        || refusal(Code::Internal),
        || ok(serde_json::json!({"welcome": "to the network"})),
        || Answer::Lost,
        || Answer::Silence,
        || Answer::Reply { status: 302, headers: vec![("location", "/v1/agent/self".into())], body: vec![] },
        || problem(&Problem::new(Code::Unavailable, "later").with_retry_after(Duration::from_secs(7))),
        || problem(&Problem::new(Code::RateLimited, "later").with_retry_after(Duration::from_secs(7))),
        || problem(&Problem::new(Code::TokenRevoked, "under another status").with_status(403)),
    ]
}

#[tokio::test]
async fn a_rotation_proposes_then_presents_then_works_with_the_successor() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| answers.answer(asked)).await;
    let (session, mut events) = session(&server, FileCredentialStore::new(home.path()), &timer.clock).await;
    session.rotate();
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["rotate", "self", "heartbeat"]);
    let installed = &file(home.path())["installed"];
    assert_ne!(installed["token"], old.as_str());
    assert!(installed["successor"].is_null());
    assert_eq!(server.asked()[2].bearer.as_deref(), installed["token"].as_str());
    assert!(matches!(events.next().await, Some(Event::CredentialChanged { .. })));
    assert_eq!(fleet.world().alarms, 0);
    // It was wanted once. What the server said before it was over does not count later.
    session.asked_to_rotate();
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    timer.clock.advance(MINUTE * 2);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths().len(), 5);
    session.asked_to_rotate();
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths()[5..], ["rotate", "self", "heartbeat"]);
}

/// Rule 1: the fleet of the tests checks it at every request, here with nobody to answer the first one.
#[tokio::test]
async fn rule_1_the_successor_is_durable_before_it_is_proposed_and_stays_the_same() {
    let (home, _) = enrolled_home().await;
    let path = home.path().to_owned();
    let server = Server::start(move |n, asked| {
        assert_eq!(hash_of(&file(&path)["installed"]["successor"]), asked.body["claim"]);
        if n < 5 { Answer::Lost } else { proposed() }
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let session = rotating(&server, home.path(), &clock).await;
    for _ in 0..5 {
        assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: Some(_), .. })));
        clock.advance(MINUTE);
    }
    let claims: Vec<_> = server.asked().into_iter().map(|asked| asked.body["claim"].clone()).collect();
    assert!(claims.len() == 5 && claims.iter().all(|claim| *claim == claims[0]), "{claims:?}");
}

#[tokio::test]
async fn rule_1_a_claim_in_use_draws_another_and_not_for_ever() {
    for refusals in [2, 100] {
        let (home, old) = enrolled_home().await;
        let server = Server::start(move |n, asked| match asked.path.as_str() {
            "/v1/agent/token/rotate" if n < refusals => refusal(Code::ClaimInUse),
            "/v1/agent/token/rotate" => proposed(),
            "/v1/agent/self" => who(),
            _ => acknowledged(),
        })
        .await;
        let clock = MovingTimer::new().clock.clone();
        let session = rotating(&server, home.path(), &clock).await;
        let permit = session.permit().await;
        let mut claims: Vec<_> = server.asked().into_iter().map(|asked| asked.body["claim"].to_string()).collect();
        claims.retain(|claim| claim != "null");
        let drawn = claims.len();
        claims.sort();
        claims.dedup();
        assert_eq!(claims.len(), drawn, "each time another");
        if refusals == 2 {
            assert_ne!(permit.expect("rotated").expose(), old);
            assert_eq!(drawn, 3);
        } else {
            assert!(matches!(permit, Err(SessionError::Refused { .. })));
            assert_eq!(drawn, 5);
            assert_eq!(file(home.path())["installed"]["token"], old.as_str());
        }
    }
}

#[tokio::test]
async fn rule_1_a_displaced_successor_is_dropped_and_another_drawn() {
    let (home, old) = enrolled_home().await;
    let server = Server::start(|n, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" if n == 1 => refusal(Code::TokenDisplaced),
        "/v1/agent/self" => who(),
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let session = rotating(&server, home.path(), &clock).await;
    let permit = session.permit().await.expect("rotated");
    assert_eq!(server.paths(), ["rotate", "self", "rotate", "self"]);
    let asked = server.asked();
    assert_ne!(asked[0].body["claim"], asked[2].body["claim"]);
    assert!(asked[2].bearer.as_deref() == Some(old.as_str()) && asked[3].bearer.as_deref() == Some(permit.expose()));
}

/// Rules 2, 4 and 7: at either step, whatever is not the server's word leaves the file as it is and the step to be done
/// again; nothing is presented for work meanwhile.
#[tokio::test]
async fn rules_2_and_7_what_is_not_the_servers_word_changes_nothing_at_any_step() {
    for step in ["rotate", "self"] {
        for no_answer in no_answers() {
            let (home, old) = enrolled_home().await;
            let timer = MovingTimer::new();
            let fleet = Fleet::new(&old, home.path(), &timer.clock);
            let (answers, healthy) = (fleet.clone(), Arc::new(AtomicUsize::new(0)));
            let switch = Arc::clone(&healthy);
            let server = Server::start(move |_, asked| {
                if asked.path.ends_with(step) && switch.load(Ordering::SeqCst) == 0 {
                    return no_answer();
                }
                answers.answer(asked)
            })
            .await;
            let session = rotating(&server, home.path(), &timer.clock).await;
            assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: Some(_), .. })));
            let before = file(home.path());
            assert_eq!(before["installed"]["token"], old.as_str());
            timer.clock.advance(MINUTE);
            assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: Some(_), .. })));
            assert_eq!(file(home.path()), before);
            assert_eq!(fleet.world().served, 0);

            healthy.store(1, Ordering::SeqCst);
            timer.clock.advance(MINUTE);
            heartbeat(&session, &server).await.expect("a permit").expect("served");
            let after = file(home.path());
            assert_eq!(after["installed"]["token"], before["installed"]["successor"]["token"]);
            assert_eq!(fleet.world().alarms, 0);
        }
    }
}

#[tokio::test]
async fn rule_2_a_rotation_that_is_not_answered_never_hammers() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|_, _| html(502)).await;
    let clock = MovingTimer::new().clock.clone();
    let session = rotating(&server, home.path(), &clock).await;
    let mut waits = Vec::new();
    for n in 1..20 {
        let Err(SessionError::Waiting { error: Some(_), retry_after }) = session.permit().await else {
            panic!("no answer, no permit")
        };
        assert_eq!(server.asked().len(), n);
        // However often it is asked meanwhile, and whatever is wanted.
        for _ in 0..3 {
            session.rotate();
            session.asked_to_rotate();
            match session.permit().await {
                Err(SessionError::Waiting { error: None, retry_after: left }) => assert_eq!(left, retry_after),
                other => assert!(retry_after.is_zero(), "{other:?}"),
            }
        }
        assert!(server.asked().len() == n || retry_after.is_zero());
        waits.push(retry_after);
        clock.advance(retry_after);
    }
    let longest = (0..8).fold(Backoff::contact(), |mut backoff, _| {
        backoff.next_delay(&enlist_core::SystemEntropy);
        backoff
    });
    assert!(waits.iter().all(|wait| *wait <= longest.ceiling()), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(1)), "{waits:?}");
}

#[tokio::test]
async fn rule_2_a_conflict_is_marked_durably_and_work_goes_on_with_the_current_token() {
    for code in [Code::RotationConflict, Code::RotationPending] {
        let (home, old) = enrolled_home().await;
        let refused = code.clone();
        let server = Server::start(move |_, asked| match asked.path.as_str() {
            "/v1/agent/token/rotate" => refusal(refused.clone()),
            _ => acknowledged(),
        })
        .await;
        let clock = MovingTimer::new().clock.clone();
        let (first, mut events) = session(&server, FileCredentialStore::new(home.path()), &clock).await;
        first.rotate();
        heartbeat(&first, &server).await.expect("a permit").expect("served");
        let marked = file(home.path());
        assert_eq!(marked["installed"]["successor"]["refused"], true);
        assert_eq!(marked["installed"]["token"], old.as_str());
        assert!(matches!(events.next().await, Some(Event::RotationRefused { problem }) if problem.code == code));

        // A server that asks does not hurry it.
        first.asked_to_rotate();
        clock.advance(MINUTE * 14);
        heartbeat(&first, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths(), ["rotate", "heartbeat", "heartbeat"]);
        clock.advance(MINUTE * 3);
        heartbeat(&first, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths()[3..], ["rotate", "heartbeat"]);
        assert_eq!(server.asked()[0].body, server.asked()[3].body, "the same proposal");
        assert_eq!(file(home.path()), marked);
        // Its caller does.
        first.rotate();
        heartbeat(&first, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths()[5..], ["rotate", "heartbeat"]);
        drop(first);
        assert!(events.next().await.is_none(), "it is said once for each mark");

        // Nor does a restart.
        let (second, _events) = session(&server, FileCredentialStore::new(home.path()), &clock).await;
        second.asked_to_rotate();
        heartbeat(&second, &server).await.expect("a permit").expect("served");
        clock.advance(MINUTE * 17);
        heartbeat(&second, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths()[7..], ["heartbeat", "rotate", "heartbeat"]);
    }
}

/// Rule 3: the fleet of the tests checks that the mark is gone when the successor is presented.
#[tokio::test]
async fn rule_3_the_mark_is_gone_durably_before_the_successor_is_first_presented() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server =
        Server::start(move |n, asked| if n == 0 { refusal(Code::RotationPending) } else { answers.answer(asked) })
            .await;
    let session = rotating(&server, home.path(), &timer.clock).await;
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    let successor = file(home.path())["installed"]["successor"]["token"].clone();
    timer.clock.advance(MINUTE * 17);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["rotate", "heartbeat", "rotate", "self", "heartbeat"]);
    assert_eq!(file(home.path())["installed"]["token"], successor);
}

#[tokio::test]
async fn rule_3_once_the_current_token_is_refused_for_good_its_successor_is_tried() {
    for code in [Code::TokenSuperseded, Code::TokenRevoked, Code::TokenReuseDetected] {
        let (home, old) = enrolled_home().await;
        let server = Server::start(move |n, asked| match asked.path.as_str() {
            "/v1/agent/token/rotate" => refusal(Code::RotationConflict),
            "/v1/agent/self" => who(),
            _ if n == 1 => refusal(code.clone()),
            _ => acknowledged(),
        })
        .await;
        let clock = MovingTimer::new().clock.clone();
        let session = rotating(&server, home.path(), &clock).await;
        heartbeat(&session, &server).await.expect("a permit").expect("served");
        assert_eq!(server.paths(), ["rotate", "heartbeat", "self", "heartbeat"]);
        assert_ne!(server.asked()[3].bearer, Some(old));
    }
}

#[tokio::test]
async fn rule_4_the_current_token_is_dropped_only_once_its_successor_is_accepted() {
    let (home, old) = enrolled_home().await;
    let (path, current) = (home.path().to_owned(), old.clone());
    let server = Server::start(move |n, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => {
            assert_eq!(file(&path)["installed"]["token"], current.as_str());
            let another = serde_json::json!({
                "host_id": SECOND_TOKEN_ID, "tenant_id": "acme", "token_id": SECOND_TOKEN_ID, "kind": "bearer",
                "expires_at": null, "server_time": now(),
            });
            if n == 1 { ok(another) } else { who() }
        }
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let session = rotating(&server, home.path(), &clock).await;
    // The reply names another host: whose word that is, nobody knows.
    assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: Some(_), .. })));
    let before = file(home.path());
    assert_eq!(before["installed"]["token"], old.as_str());
    assert_eq!(before["installed"]["successor"]["refused"], false);
    clock.advance(MINUTE);
    let permit = session.permit().await.expect("rotated");
    assert_eq!(before["installed"]["successor"]["token"], permit.expose());
    assert_eq!(file(home.path())["installed"]["token"], permit.expose());
}

#[tokio::test]
async fn rule_6_nothing_is_in_flight_on_the_current_token_when_the_successor_is_presented() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| answers.answer(asked)).await;
    let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &timer.clock).await;
    let permit = session.permit().await.expect("a permit");
    session.rotate();
    let other = session.clone();
    let waiting = tokio::spawn(async move { other.permit().await.map(|permit| permit.expose().to_owned()) });
    // Each of these is a round trip in which the other could have got ahead.
    for _ in 0..10 {
        client(&server).heartbeat(&permit).await.expect("served");
    }
    assert!(server.paths().iter().all(|path| path == "heartbeat"), "{:?}", server.paths());
    let result = client(&server).heartbeat(&permit).await;
    assert_eq!(permit.worked(&result).await.expect("served"), Worked::Done);
    let presented = waiting.await.expect("no panic").expect("a permit");
    assert_eq!(server.paths()[11..], ["rotate", "self"]);
    assert_ne!(presented, old);
}

#[tokio::test]
async fn an_expired_token_rotates_at_once_and_its_request_is_made_again() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    fleet.world().tokens[0].expires_at = Some(timer.clock.now());
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| answers.answer(asked)).await;
    let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &timer.clock).await;
    fleet.world().life = Some(MINUTE * 60);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["heartbeat", "rotate", "self", "heartbeat"]);
    let expires_at = timer.clock.now().saturating_add(MINUTE * 60).to_string();
    assert_eq!(file(home.path())["installed"]["expires_at"], expires_at.as_str());
}

/// One try at once, then slowly: whatever the server says, nobody is hammered.
#[tokio::test]
async fn a_token_that_is_always_expired_is_replaced_once_and_then_paused() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => who(),
        _ => refusal(Code::TokenExpired),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &clock).await;
    let refused = heartbeat(&session, &server).await.expect_err("refused");
    let SessionError::Refused { retry_after, for_good: false, .. } = refused else { panic!("{refused:?}") };
    assert!((30..=60).contains(&retry_after.as_secs()), "{retry_after:?}");
    assert_eq!(server.paths(), ["heartbeat", "rotate", "self", "heartbeat"]);
    assert!(matches!(session.permit().await, Err(SessionError::Waiting { error: None, .. })));
}

#[tokio::test]
async fn two_thirds_of_a_life_are_enough() {
    let life = Duration::from_secs(90 * 24 * 3_600);
    let (home, _) = enrolled_home().await;
    let end = now().saturating_add(life);
    let server = Server::start(move |_, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => who_until(Some(end)),
        _ => acknowledged(),
    })
    .await;
    // As if the server had said it at the enrolment.
    let mut document = file(home.path());
    document["installed"]["expires_at"] = end.to_string().into();
    document["installed"]["obtained_at"] = now().to_string().into();
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    let timer = MovingTimer::new();
    let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &timer.clock).await;
    // Two thirds less a twentieth, less a minute.
    timer.clock.advance(life * 2 / 3 - life / 20 - MINUTE);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["heartbeat"]);
    timer.clock.advance(life / 20 + MINUTE);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["heartbeat", "rotate", "self", "heartbeat"]);
    // The life of the new one is counted from now; a third of it is left, and no two thirds are over.
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(file(home.path())["installed"]["obtained_at"], timer.clock.now().to_string().as_str());
    assert_eq!(server.paths().len(), 5);
}

/// The clock of the machine says nothing sensible: the server will.
#[tokio::test]
async fn a_clock_beyond_the_end_of_a_life_does_not_make_it_rotate_all_the_time() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => who_until(Some(now())),
        _ => acknowledged(),
    })
    .await;
    let timer = MovingTimer::new();
    timer.clock.set(now().saturating_add(MINUTE * 600));
    let session = rotating(&server, home.path(), &timer.clock).await;
    for _ in 0..5 {
        heartbeat(&session, &server).await.expect("a permit").expect("served");
        timer.clock.advance(MINUTE * 2);
    }
    assert_eq!(server.paths().iter().filter(|path| *path == "rotate").count(), 1);
}

/// A server of an earlier version refuses in our form, and it never had the proposal.
#[tokio::test]
async fn a_server_that_does_not_know_rotation_costs_nothing() {
    let (home, old) = enrolled_home().await;
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => refusal(Code::NotFound),
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let first = rotating(&server, home.path(), &clock).await;
    heartbeat(&first, &server).await.expect("a permit").expect("served");
    assert_eq!(file(home.path())["installed"]["token"], old.as_str());
    assert_eq!(file(home.path())["installed"]["successor"]["refused"], true);
    assert_eq!(server.paths(), ["rotate", "heartbeat"]);
}

#[tokio::test]
async fn a_document_of_version_1_is_taken_over_and_its_life_learned() {
    let (home, secret) = enrolled_home().await;
    let path = home.path().join("credential.json");
    let mut document = file(home.path());
    document["version"] = 1.into();
    document["installed"].as_object_mut().expect("installed").remove("obtained_at");
    std::fs::write(&path, document.to_string()).expect("written");
    let end = now().saturating_add(MINUTE * 600);
    let server = Server::start(move |_, asked| match asked.path.as_str() {
        "/v1/agent/self" => who_until(Some(end)),
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &clock).await;
    for _ in 0..3 {
        heartbeat(&session, &server).await.expect("a permit").expect("served");
    }
    assert_eq!(server.paths(), ["heartbeat", "self", "heartbeat", "heartbeat"]);
    let document = file(home.path());
    assert_eq!((&document["version"], &document["installed"]["token"]), (&2.into(), &secret.into()));
    assert_eq!(document["installed"]["expires_at"], end.to_string().as_str());
    assert_eq!(document["installed"]["obtained_at"], now().to_string().as_str());
}

/// A successor that is held up was never presented, whoever drew it.
#[tokio::test]
async fn a_restart_before_a_server_that_does_not_know_rotation_costs_nothing_either() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(move |_, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => refusal(Code::NotFound),
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let first = rotating(&server, home.path(), &clock).await;
    heartbeat(&first, &server).await.expect("a permit").expect("served");
    drop(first);
    let (second, _events) = session(&server, FileCredentialStore::new(home.path()), &clock).await;
    for minute in 0..120 {
        heartbeat(&second, &server).await.expect("a permit").unwrap_or_else(|error| panic!("{minute}: {error}"));
        clock.advance(MINUTE);
    }
}

#[tokio::test]
async fn a_program_with_an_http_client_of_its_own_rotates_too() {
    let (home, _) = enrolled_home().await;
    let mut document = file(home.path());
    // As after an exchange.
    document["installed"]["obtained_at"] = serde_json::Value::Null;
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    let end = now().saturating_add(MINUTE * 600);
    let server = Server::start(move |_, asked| match asked.path.as_str() {
        "/v1/agent/self" => who_until(Some(end)),
        "/v1/agent/token/rotate" => proposed(),
        _ => acknowledged(),
    })
    .await;
    let clock = MovingTimer::new().clock.clone();
    let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &clock).await;
    for _ in 0..500 {
        let permit = session.permit().await.expect("a permit");
        assert!(permit.expose().starts_with("eat_"));
        let reply = ClientError::of_reply(204, None, None, b"");
        assert_eq!(permit.worked(&reply).await.expect("nothing is wrong"), Worked::Done);
        clock.advance(MINUTE);
    }
    assert!(server.paths().contains(&"rotate".to_owned()), "{:?}", server.paths());
}
