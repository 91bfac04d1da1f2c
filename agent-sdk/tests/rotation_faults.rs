//! A rotation that is interrupted: by crashes, failing saves, dropped futures, and the end of the host.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use enlist_agent_sdk::{CredentialError, CredentialStore, FileCredentialStore, SecretBytes, SessionError};
use enlist_core::wire::Code;
use support::fleet::Fleet;
use support::*;
use tokio::sync::Notify;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn host_deleted_erases_at_any_step_and_host_archived_keeps_everything() {
    for step in ["rotate", "self", "heartbeat"] {
        for (code, erased) in [(Code::HostDeleted, true), (Code::HostArchived, false)] {
            let (home, _) = enrolled_home().await;
            let said = code.clone();
            let server = Server::start(move |_, asked| match asked.path.rsplit('/').next() {
                Some(last) if last == step => refusal(said.clone()),
                Some("rotate") => proposed(),
                Some("self") => who(),
                _ => acknowledged(),
            })
            .await;
            let clock = MovingTimer::new().clock.clone();
            let session = rotating(&server, home.path(), &clock).await;
            let before = file(home.path());
            let error = heartbeat(&session, &server).await.expect_err("the end");
            let (deleted, archived) =
                (matches!(error, SessionError::HostDeleted(_)), matches!(error, SessionError::HostArchived(_)));
            assert_eq!((deleted, archived), (erased, !erased), "{error:?}");
            assert_eq!(home.path().join("credential.json").exists(), !erased);
            if erased {
                assert!(session.host_id().is_none());
                let asked = server.asked().len();
                assert!(matches!(session.permit().await, Err(SessionError::HostDeleted(_))));
                assert_eq!(server.asked().len(), asked, "there is nothing to ask with");
            } else if step == "rotate" {
                assert_eq!(file(home.path())["installed"]["token"], before["installed"]["token"]);
            }
        }
    }
}

/// Its successor is in use and revoked: then the current token is retired, and a new install token has to help. Refused
/// without either, it may have been too early.
#[tokio::test]
async fn a_refused_successor_is_the_end_only_if_the_server_has_retired_the_current_token() {
    for (state, lost) in [("used", true), ("pending", false)] {
        let (home, old) = enrolled_home().await;
        let server = Server::start(move |_, asked| match asked.path.as_str() {
            "/v1/agent/token/rotate" => ok(serde_json::json!({"id": SECOND_TOKEN_ID, "state": state})),
            _ => refusal(Code::TokenRevoked),
        })
        .await;
        let clock = MovingTimer::new().clock.clone();
        let session = rotating(&server, home.path(), &clock).await;
        let refused = session.permit().await.expect_err("refused");
        assert!(matches!(refused, SessionError::Refused { for_good, .. } if for_good == lost), "{state}: {refused:?}");
        assert_eq!(server.paths(), ["rotate", "self"]);
        let document = file(home.path());
        assert_eq!(document["installed"]["token"], old.as_str());
        // The proposal is repeated: its answer says which of the two still serves.
        clock.advance(MINUTE);
        let _ = session.permit().await;
        assert_eq!(server.paths()[2..], ["rotate", "self"]);
        assert_eq!(file(home.path()), document);
    }
}

/// What goes wrong with a save.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing is written.
    Before,
    /// It is written all the same.
    After,
}

/// A file store whose n-th save fails, or never ends.
struct Failing {
    inner: FileCredentialStore,
    left: Mutex<Option<usize>>,
    fault: Fault,
    /// Told when the save hangs, if it does that instead.
    hangs: Option<Arc<Notify>>,
}

impl Failing {
    fn new(home: &Path, failing: usize, fault: Fault) -> Self {
        Self { inner: FileCredentialStore::new(home), left: Mutex::new(Some(failing)), fault, hangs: None }
    }
}

#[enlist_agent_sdk::async_trait]
impl CredentialStore for Failing {
    async fn load(&self) -> Result<Option<SecretBytes>, CredentialError> {
        self.inner.load().await
    }

    async fn save(&self, document: &SecretBytes) -> Result<(), CredentialError> {
        let fails = {
            let mut left = self.left.lock().expect("not poisoned");
            let fails = *left == Some(0);
            *left = left.and_then(|left| left.checked_sub(1));
            fails
        };
        if !fails || matches!(self.fault, Fault::After) {
            self.inner.save(document).await?;
        }
        if let (true, Some(hangs)) = (fails, &self.hangs) {
            hangs.notify_one();
            std::future::pending::<()>().await;
        }
        if fails { Err(CredentialError::Store("the disk is full".into())) } else { Ok(()) }
    }

    async fn erase(&self) -> Result<(), CredentialError> {
        self.inner.erase().await
    }
}

/// The fleet of the tests refuses to be asked anything that is not durable.
#[tokio::test]
async fn a_failing_save_is_an_error_and_as_good_as_a_lost_reply() {
    for fault in [Fault::Before, Fault::After] {
        for conflict in [false, true] {
            for failing in 0..4 {
                let (home, old) = enrolled_home().await;
                let timer = MovingTimer::new();
                let fleet = Fleet::new(&old, home.path(), &timer.clock);
                let answers = fleet.clone();
                let mut refusals = usize::from(conflict);
                let server = Server::start(move |_, asked| {
                    if asked.path.ends_with("/rotate") && refusals > 0 {
                        refusals -= 1;
                        return refusal(Code::RotationPending);
                    }
                    answers.answer(asked)
                })
                .await;
                let store = Failing::new(home.path(), failing, fault);
                let (session, _events) = session(&server, store, &timer.clock).await;
                session.rotate();
                let mut failures = 0;
                for _ in 0..30 {
                    match heartbeat(&session, &server).await {
                        Ok(result) => drop(result.expect("served")),
                        Err(SessionError::NotKept { .. }) => failures += 1,
                        Err(other) => panic!("{other:?}"),
                    }
                    timer.clock.advance(MINUTE);
                }
                // Draw, (mark, mark gone,) shift: there is no save after the last one.
                let saves = if conflict { 4 } else { 2 };
                assert_eq!(failures, usize::from(failing < saves), "{fault:?} {failing}");
                assert_ne!(file(home.path())["installed"]["token"], old.as_str(), "{fault:?} {failing}");
                assert_eq!(fleet.active().to_hex(), hash_of(&file(home.path())["installed"]));
                assert_eq!(fleet.world().alarms, 0);
            }
        }
    }
}

#[tokio::test]
async fn a_successor_that_cannot_be_kept_does_not_keep_work_waiting() {
    let (home, old) = enrolled_home().await;
    let timer = MovingTimer::new();
    let fleet = Fleet::new(&old, home.path(), &timer.clock);
    let answers = fleet.clone();
    let server = Server::start(move |_, asked| answers.answer(asked)).await;
    let (session, _events) = session(&server, Failing::new(home.path(), 0, Fault::Before), &timer.clock).await;
    session.rotate();
    let error = session.permit().await.expect_err("the disk is full");
    assert!(matches!(&error, SessionError::NotKept { .. }) && error.retry_after() == Some(Duration::ZERO), "{error:?}");
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths(), ["heartbeat"]);
    timer.clock.advance(MINUTE);
    heartbeat(&session, &server).await.expect("a permit").expect("served");
    assert_eq!(server.paths()[1..], ["rotate", "self", "heartbeat"]);
}

/// Whatever is lost and whenever the agent dies, it comes back, rotates, and nobody is alarmed.
#[tokio::test]
async fn a_crash_between_any_two_steps_loses_nothing() {
    #[derive(Clone, Copy, Debug)]
    enum Loss {
        Request,
        Reply,
    }
    for pause in [Duration::ZERO, Duration::from_secs(20), MINUTE * 10] {
        for loss in [Loss::Request, Loss::Reply] {
            for lost in 0..4 {
                let (home, old) = enrolled_home().await;
                let timer = MovingTimer::new();
                let fleet = Fleet::new(&old, home.path(), &timer.clock);
                let answers = fleet.clone();
                let server = Server::start(move |n, asked| match loss {
                    Loss::Request if n == lost => Answer::Lost,
                    Loss::Reply if n == lost => {
                        let _ = answers.answer(asked);
                        Answer::Lost
                    }
                    _ => answers.answer(asked),
                })
                .await;
                for _ in 0..3 {
                    // Dropped before it can do anything about the loss: the next start finds only the file.
                    let session = rotating(&server, home.path(), &timer.clock).await;
                    let _ = heartbeat(&session, &server).await;
                    drop(session);
                    timer.clock.advance(pause);
                }
                let session = session(&server, FileCredentialStore::new(home.path()), &timer.clock).await.0;
                heartbeat(&session, &server).await.expect("a permit").expect("served");
                assert_ne!(file(home.path())["installed"]["token"], old.as_str(), "{loss:?} {lost}");
                assert_eq!(fleet.active().to_hex(), hash_of(&file(home.path())["installed"]));
                assert_eq!(fleet.world().alarms, 0, "{loss:?} {lost}");
            }
        }
    }
}

/// The same with the future dropped in the same process, during any request.
#[tokio::test]
async fn a_future_dropped_during_a_request_loses_nothing() {
    for dropped in 0..3 {
        let (home, old) = enrolled_home().await;
        let timer = MovingTimer::new();
        let fleet = Fleet::new(&old, home.path(), &timer.clock);
        let answers = fleet.clone();
        let server = Server::start(move |n, asked| {
            let answer = answers.answer(asked);
            if n == dropped { Answer::Silence } else { answer }
        })
        .await;
        let (session, _events) = session(&server, FileCredentialStore::new(home.path()), &timer.clock).await;
        session.rotate();
        let asked = async {
            while server.asked().len() <= dropped {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            result = heartbeat(&session, &server) => panic!("it hangs: {result:?}"),
            () = asked => {}
        }
        heartbeat(&session, &server).await.expect("a permit").expect("served");
        assert_eq!(fleet.active().to_hex(), hash_of(&file(home.path())["installed"]));
        assert_ne!(file(home.path())["installed"]["token"], old.as_str());
        assert_eq!(fleet.world().alarms, 0);
    }
}

#[tokio::test]
async fn a_future_dropped_during_a_save_loses_nothing() {
    for fault in [Fault::Before, Fault::After] {
        for dropped in 0..2 {
            let (home, old) = enrolled_home().await;
            let timer = MovingTimer::new();
            let fleet = Fleet::new(&old, home.path(), &timer.clock);
            let answers = fleet.clone();
            let server = Server::start(move |_, asked| answers.answer(asked)).await;
            let hangs = Arc::new(Notify::new());
            let store = Failing { hangs: Some(Arc::clone(&hangs)), ..Failing::new(home.path(), dropped, fault) };
            let (session, _events) = session(&server, store, &timer.clock).await;
            session.rotate();
            tokio::select! {
                result = heartbeat(&session, &server) => panic!("it hangs: {result:?}"),
                () = hangs.notified() => {}
            }
            heartbeat(&session, &server).await.expect("a permit").expect("served");
            assert_eq!(fleet.active().to_hex(), hash_of(&file(home.path())["installed"]), "{fault:?} {dropped}");
            assert_ne!(file(home.path())["installed"]["token"], old.as_str());
            assert_eq!(fleet.world().alarms, 0);
        }
    }
}
