//! The agent's loop with a credential that changes under it.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enlist_agent_sdk::{CredentialError, CredentialStore, FileCredentialStore, Outcome, SecretBytes, SessionError};
use enlist_core::secret::Prefix;
use enlist_core::wire::Code;
use enlist_core::{PlainToken, SystemEntropy};
use support::fleet::Fleet;
use support::*;

fn rotation_wanted() -> Answer {
    ok(serde_json::json!({
        "status": "accepted", "server_time": now(), "next_report_in_ms": 30_000, "lease_ms": 60_000, "rotate": true,
    }))
}

#[tokio::test]
async fn a_server_that_asks_gets_a_rotation_between_two_reports() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| match answers.answer(asked) {
        // It goes on asking, which is not obeyed all the time.
        Answer::Reply { status: 200, .. } if asked.path.ends_with("/telemetry") => rotation_wanted(),
        answer => answer,
    })
    .await;
    let (agent, events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 5).await.expect("ran");
    assert_eq!(server.paths()[..5], ["telemetry", "rotate", "self", "telemetry", "telemetry"]);
    assert_eq!(names(events).await[..3], ["Reported", "CredentialChanged", "Reported"]);
    let new = file(home.path())["installed"]["token"].as_str().map(str::to_owned);
    assert!(new.is_some() && server.asked()[3].bearer == new && server.asked()[0].bearer == Some(old));
    assert_eq!(fleet.world().alarms, 0);
}

#[tokio::test]
async fn a_report_that_found_its_token_expired_is_sent_again_with_the_successor() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    fleet.world().tokens[0].expires_at = Some(now());
    fleet.world().life = Some(Duration::from_secs(3_600));
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| answers.answer(asked)).await;
    let (agent, events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 5).await.expect("ran");
    assert_eq!(server.paths()[..5], ["telemetry", "rotate", "self", "telemetry", "telemetry"]);
    let reports = server.reports();
    assert!(reports[0] == reports[1] && reports[1] != reports[2], "the same report, and it is not lost");
    assert_eq!(names(events).await[..2], ["CredentialChanged", "Reported"]);
}

#[tokio::test]
async fn nothing_is_reported_while_a_rotation_is_unanswered_and_then_it_goes_on() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server = Server::start(move |n, asked| match n {
        0 => rotation_wanted(),
        // The proposal arrives, and its reply does not.
        1..6 => {
            let _ = answers.answer(asked);
            html(502)
        }
        _ => answers.answer(asked),
    })
    .await;
    let (agent, events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 10).await.expect("ran");
    let mut expected = vec!["telemetry"];
    expected.extend(["rotate"; 6]);
    expected.extend(["self", "telemetry"]);
    assert_eq!(server.paths()[..9], expected);
    assert!(timer.slept()[1..6].iter().all(|delay| *delay <= Duration::from_secs(10)), "{:?}", timer.slept());
    let names = names(events).await;
    assert_eq!(names[..2], ["Reported", "ConnectivityLost"]);
    assert_eq!(names.iter().filter(|name| *name == "ConnectivityLost").count(), 1, "{names:?}");
    assert!(names.contains(&"ConnectivityRestored".to_owned()) && !names.contains(&"ReportDropped".to_owned()));
    assert_eq!(fleet.world().alarms, 0);
}

#[tokio::test]
async fn a_refused_rotation_is_an_event_and_reports_go_on() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => refusal(Code::RotationConflict),
        _ if n == 0 => rotation_wanted(),
        _ => acknowledged(),
    })
    .await;
    let (agent, events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    run_until(agent, &server, 5).await.expect("ran");
    assert_eq!(server.paths()[..4], ["telemetry", "rotate", "telemetry", "telemetry"]);
    assert_eq!(names(events).await[..3], ["Reported", "RotationRefused", "Reported"]);
}

/// The program's own requests and the agent's take turns; a rotation that the program asks for takes place.
#[tokio::test]
async fn a_program_shares_the_credential_with_its_agent() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| answers.answer(asked)).await;
    let (agent, _events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    let session = agent.session();
    assert_eq!(session.host_id(), agent.host_id());
    session.rotate();
    let own = async {
        for _ in 0..5 {
            heartbeat(&session, &server).await.expect("a permit").expect("served");
        }
    };
    agent.run(own).await.expect("ran");
    assert_eq!(server.paths().iter().filter(|path| *path == "rotate").count(), 1);
    assert_eq!(fleet.world().alarms, 0);
}

/// The agent must not take a deleted host for one that was never enrolled.
#[tokio::test]
async fn a_deletion_that_the_program_learns_of_ends_its_agent_too() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|_, _| refusal(Code::HostDeleted)).await;
    let (agent, events) =
        agent(&server, home.path(), &MovingTimer::new()).install_token(install_token()).open().await.expect("opens");
    let error = heartbeat(&agent.session(), &server).await.expect_err("deleted");
    assert!(matches!(error, SessionError::HostDeleted(_)), "{error:?}");
    let outcome = run_until(agent, &server, 9).await.expect("ended");
    assert!(matches!(outcome, Outcome::HostDeleted(_)), "{outcome:?}");
    assert_eq!(server.paths(), ["heartbeat"]);
    assert_eq!(names(events).await, ["HostDeleted"]);
}

#[tokio::test]
async fn a_revoked_host_enrols_anew_with_another_install_token_and_keeps_the_old_credential_until_then() {
    for code in [Code::TokenRevoked, Code::TokenReuseDetected, Code::InvalidToken] {
        let (home, old) = enrolled_home().await;
        let (path, current) = (home.path().to_owned(), old.clone());
        let mut exchanges = 0;
        let server = Server::start(move |_, asked| match asked.path.as_str() {
            "/v1/install-tokens/exchange" => {
                let document = file(&path);
                assert_eq!(document["installed"]["token"], current.as_str(), "the old one is still there");
                assert_eq!(hash_of(&document["enrolment"]), asked.body["claim"]);
                exchanges += 1;
                if exchanges < 3 { html(502) } else { enrolled() }
            }
            _ if asked.bearer.as_deref() == Some(&current) => refusal(code.clone()),
            "/v1/agent/self" => who(),
            _ => acknowledged(),
        })
        .await;
        let (agent, events) = agent(&server, home.path(), &MovingTimer::new())
            .install_token(install_token())
            .open()
            .await
            .expect("opens");
        run_until(agent, &server, 8).await.expect("ran");
        let expected = ["telemetry", "exchange", "telemetry", "exchange", "telemetry", "exchange", "telemetry"];
        assert_eq!(server.paths()[..7], expected);
        let claims = server.claims();
        assert!(claims.iter().all(|claim| *claim == claims[0]));
        let document = file(home.path());
        assert_eq!(hash_of(&document["installed"]), claims[0]);
        assert!(document["enrolment"].is_null() && document["installed"]["token"] != old.as_str());
        let names = names(events).await;
        let enrolled = names.iter().position(|name| name == "Enrolled").expect("it is said");
        assert_eq!(names[enrolled..][..3], ["Enrolled", "CredentialChanged", "Reported"], "{names:?}");
    }
}

/// Expired for more than a week: not even a successor is accepted any more.
#[tokio::test]
async fn a_host_that_slept_too_long_enrols_anew() {
    let (home, old) = enrolled_home().await;
    let server = Server::start(move |_, asked| match asked.path.as_str() {
        "/v1/install-tokens/exchange" => enrolled(),
        _ if asked.bearer.as_deref() == Some(&old) => refusal(Code::TokenExpired),
        "/v1/agent/self" => refusal(Code::InvalidToken),
        _ => acknowledged(),
    })
    .await;
    let (agent, _events) =
        agent(&server, home.path(), &MovingTimer::new()).install_token(install_token()).open().await.expect("opens");
    run_until(agent, &server, 5).await.expect("ran");
    assert_eq!(server.paths()[..5], ["telemetry", "rotate", "self", "exchange", "telemetry"]);
    assert!(file(home.path())["installed"]["successor"].is_null());
}

/// In a unit file it stays for years: it must not be used while the credential works, nor when that may come back.
#[tokio::test]
async fn an_old_install_token_is_not_used_for_a_credential_that_is_not_lost() {
    let refusals: [fn() -> Answer; 6] = [
        || refusal(Code::TokenSuperseded),
        || refusal(Code::Forbidden),
        || refusal(Code::MissingToken),
        || html(401),
        || html(404),
        || refusal(Code::Internal),
    ];
    for refused in refusals {
        let (home, _) = enrolled_home().await;
        let before = file(home.path());
        let server = Server::start(move |n, _| if n < 4 { refused() } else { acknowledged() }).await;
        let (agent, _events) = agent(&server, home.path(), &MovingTimer::new())
            .install_token(install_token())
            .open()
            .await
            .expect("opens");
        run_until(agent, &server, 7).await.expect("ran");
        assert!(server.paths().iter().all(|path| path == "telemetry"), "{:?}", server.paths());
        assert_eq!(file(home.path()), before);
    }
}

#[tokio::test]
async fn the_install_token_that_bought_the_credential_is_never_used_again() {
    let (home, _) = enrolled_home().await;
    let token = install_token();
    let mut document = file(home.path());
    document["installed"]["install_token_sha256"] = token.hash().to_hex().into();
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    let server = Server::start(|_, _| refusal(Code::TokenRevoked)).await;
    let (agent, _events) =
        agent(&server, home.path(), &MovingTimer::new()).install_token(token).open().await.expect("opens");
    run_until(agent, &server, 4).await.expect("it goes on");
    assert!(server.paths().iter().all(|path| path == "telemetry"), "{:?}", server.paths());
    assert_eq!(file(home.path()), document);
}

#[tokio::test]
async fn an_install_token_that_is_refused_as_well_is_not_tried_again_and_nothing_is_lost() {
    let (home, old) = enrolled_home().await;
    let server = Server::start(|n, asked| match asked.path.as_str() {
        "/v1/install-tokens/exchange" => refusal(Code::InstallTokenAlreadyUsed),
        "/v1/agent/self" => who(),
        _ if n < 6 => refusal(Code::TokenRevoked),
        _ => acknowledged(),
    })
    .await;
    let timer = MovingTimer::new();
    let (agent, _events) =
        agent(&server, home.path(), &timer).install_token(install_token()).open().await.expect("opens");
    run_until(agent, &server, 8).await.expect("it goes on");
    assert_eq!(server.paths().iter().filter(|path| *path == "exchange").count(), 1);
    assert_eq!(file(home.path())["installed"]["token"], old.as_str());
    assert!(timer.slept()[..5].iter().all(|delay| (30..=60).contains(&delay.as_secs())), "{:?}", timer.slept());
}

/// Reads, and writes only while there is room.
struct Full(FileCredentialStore, Arc<AtomicBool>);

#[enlist_agent_sdk::async_trait]
impl CredentialStore for Full {
    async fn load(&self) -> Result<Option<SecretBytes>, CredentialError> {
        self.0.load().await
    }

    async fn save(&self, document: &SecretBytes) -> Result<(), CredentialError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(CredentialError::Store("the disk is full".into()));
        }
        self.0.save(document).await
    }

    async fn erase(&self) -> Result<(), CredentialError> {
        self.0.erase().await
    }
}

#[tokio::test]
async fn a_full_disk_delays_a_rotation_and_not_the_reports() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let full = Arc::new(AtomicBool::new(true));
    let room = Arc::clone(&full);
    let server = Server::start(move |n, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/self" => who(),
        _ => {
            room.store(n < 6, Ordering::SeqCst);
            rotation_wanted()
        }
    })
    .await;
    let store = Full(FileCredentialStore::new(home.path()), full);
    let (agent, events) = agent(&server, home.path(), &timer).credential_store(store).open().await.expect("opens");
    run_until(agent, &server, 12).await.expect("ran");
    let paths = server.paths();
    assert!(paths[..7].iter().all(|path| path == "telemetry"), "{paths:?}");
    assert!(paths[7..].contains(&"rotate".to_owned()), "{paths:?}");
    let names = names(events).await;
    assert!(names.contains(&"CredentialNotKept".to_owned()), "{names:?}");
    assert_ne!(file(home.path())["installed"]["token"], old.as_str());
}

/// An administrator's successor was used somewhere else: the token in use is superseded for ever.
#[tokio::test]
async fn a_new_install_token_brings_a_superseded_host_back_and_old_ones_are_never_tried() {
    for (spent, tried) in [(false, true), (true, false)] {
        let (home, _) = enrolled_home().await;
        let token = install_token();
        if spent {
            let mut document = file(home.path());
            let hash = token.hash().to_hex();
            document["installed"]["earlier_install_tokens_sha256"] = serde_json::json!([hash]);
            document["version"] = 2.into();
            std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
        }
        let server = Server::start(move |_, asked| match asked.path.as_str() {
            "/v1/install-tokens/exchange" => enrolled(),
            _ => refusal(Code::TokenSuperseded),
        })
        .await;
        let (agent, _events) =
            agent(&server, home.path(), &MovingTimer::new()).install_token(token).open().await.expect("opens");
        run_until(agent, &server, 40).await.expect("ran");
        assert_eq!(server.paths().iter().any(|path| path == "exchange"), tried, "{:?}", server.paths());
    }
}

/// It may be an enrolment as another host, whose install token is spent already.
#[tokio::test]
async fn a_deletion_erases_the_credential_and_not_an_enrolment_that_is_under_way() {
    let (home, secret) = enrolled_home().await;
    let mut document = file(home.path());
    let enrolment = serde_json::json!({
        "token": PlainToken::generate(Prefix::AGENT, &SystemEntropy).expose(),
        "install_token_sha256": install_token().hash().to_hex(),
    });
    document["enrolment"] = enrolment.clone();
    std::fs::write(home.path().join("credential.json"), document.to_string()).expect("written");
    let server = Server::start(|_, _| refusal(Code::HostDeleted)).await;
    let (agent, _events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    let outcome = agent.run(std::future::pending()).await.expect("it ends by itself");
    assert!(matches!(outcome, Outcome::HostDeleted(_)));
    let document = file(home.path());
    assert_eq!(document["enrolment"], enrolment);
    assert!(document["installed"].is_null() && !document.to_string().contains(&secret));
}
