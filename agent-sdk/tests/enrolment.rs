//! Enrolment against a server that loses, refuses and stalls.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enlist_agent_sdk::{
    Agent, Client, Credential, CredentialError, CredentialStore, EnrolError, Enrolment, ExternalId,
    FileCredentialStore, HostName, OpenError,
};
use enlist_core::wire::{Code, Problem};
use support::*;
use tempfile::tempdir;

fn enrolment(server: &Server, directory: &std::path::Path, timer: &Arc<MovingTimer>) -> Enrolment {
    let client = Client::builder(&server.url).timeout(SHORT).build().expect("a client");
    Enrolment::new(client, Arc::new(FileCredentialStore::new(directory))).timer(Arc::clone(timer) as _)
}

#[tokio::test]
async fn the_secret_is_durable_before_its_claim_is_sent() {
    let home = tempdir().expect("a directory");
    let (directory, durable) = (home.path().join("state"), Arc::new(AtomicBool::new(false)));
    let (path, seen) = (directory.clone(), Arc::clone(&durable));
    let server = Server::start(move |_, asked| {
        // What a crash at this very moment would leave behind.
        let pending = &file(&path)["enrolment"];
        seen.store(hash_of(pending) == asked.body["claim"], Ordering::SeqCst);
        enrolled()
    })
    .await;
    let credential = enrolment(&server, &directory, &MovingTimer::new()).run(&install_token()).await.expect("enrolled");
    assert!(durable.load(Ordering::SeqCst));
    assert_eq!(credential.host_id().to_string(), HOST_ID);
    // The host id is pinned beside the very secret that was claimed with.
    let installed = &file(&directory)["installed"];
    assert_eq!(installed["host_id"], HOST_ID);
    assert_eq!(hash_of(installed), server.claims()[0]);
    assert_eq!(installed["token"], credential.token().expose());
}

#[tokio::test]
async fn nothing_that_is_not_the_servers_word_changes_the_claim() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, _| match n {
        0 => Answer::Lost,
        1 => Answer::Silence,
        2 => html(200),
        3 => html(401),
        4 => html(404),
        5 => html(410),
        6 => html(500),
        7 => refusal(Code::Internal),
        8 => refusal(Code::RateLimited),
        9 => ok(serde_json::json!({"welcome": "to the network"})),
        10 => Answer::Reply { status: 302, headers: vec![("location", "/v1/elsewhere".into())], body: vec![] },
        11 => Answer::Reply { status: 200, headers: vec![], body: vec![b' '; 70_000] },
        _ => enrolled(),
    })
    .await;
    let timer = MovingTimer::new();
    enrolment(&server, home.path(), &timer).run(&install_token()).await.expect("enrolled in the end");
    let claims = server.claims();
    assert_eq!(claims.len(), 13);
    assert!(claims.iter().all(|claim| *claim == claims[0]), "one secret for one install token");
    assert_eq!(hash_of(&file(home.path())["installed"]), claims[0]);
    assert!(timer.slept().iter().all(|delay| *delay <= Duration::from_secs(30)));
    assert!(server.asked().iter().all(|asked| asked.bearer.is_none()), "the secret is not used before the 200");
}

#[tokio::test]
async fn a_restart_between_repeats_the_same_claim() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, _| if n == 0 { Answer::Lost } else { enrolled() }).await;
    let (token, timer) = (install_token(), MovingTimer::new());
    let first = enrolment(&server, home.path(), &timer).attempt(&token).await;
    assert!(matches!(first, Err(EnrolError::Unanswered(_))), "{first:?}");
    enrolment(&server, home.path(), &timer).attempt(&token).await.expect("enrolled");
    assert_eq!(server.claims()[0], server.claims()[1]);
}

#[tokio::test]
async fn what_the_host_is_called_is_proposed_each_by_itself() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|_, _| Answer::Lost).await;
    let enrolment = enrolment(&server, home.path(), &MovingTimer::new());
    let (name, id) = (HostName::new("web-1").expect("a name"), ExternalId::new("i-1").expect("an id"));
    let proposals = [
        enrolment.clone(),
        enrolment.clone().host_name(name.clone()),
        enrolment.clone().external_id(id.clone()),
        enrolment.host_name(name).external_id(id),
    ];
    for proposal in &proposals {
        let _ = proposal.attempt(&install_token()).await;
    }
    let asked: Vec<_> = server.asked().into_iter().map(|asked| asked.body["host"].clone()).collect();
    let (name, id) = (serde_json::json!({"name": "web-1"}), serde_json::json!({"external_id": "i-1"}));
    assert_eq!(asked, [serde_json::Value::Null, name, id, serde_json::json!({"name": "web-1", "external_id": "i-1"})]);
}

#[tokio::test]
async fn a_name_that_is_taken_is_final_and_another_can_be_proposed_with_the_same_claim() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, _| if n == 0 { refusal(Code::NameTaken) } else { enrolled() }).await;
    let enrolment = enrolment(&server, home.path(), &MovingTimer::new());
    let (token, named) = (install_token(), |name| enrolment.clone().host_name(HostName::new(name).expect("a name")));
    let error = named("web-1").run(&token).await.expect_err("refused");
    assert!(matches!(&error, EnrolError::Refused(problem) if problem.code == Code::NameTaken), "{error:?}");
    named("web-2").run(&token).await.expect("enrolled");
    assert_eq!(server.claims()[0], server.claims()[1]);
}

#[tokio::test]
async fn another_install_token_draws_another_secret() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, _| if n == 0 { Answer::Lost } else { enrolled() }).await;
    let timer = MovingTimer::new();
    let _ = enrolment(&server, home.path(), &timer).attempt(&install_token()).await;
    enrolment(&server, home.path(), &timer).attempt(&install_token()).await.expect("enrolled");
    assert_ne!(server.claims()[0], server.claims()[1]);
}

#[tokio::test]
async fn an_installed_credential_wins_over_any_install_token() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|_, _| enrolled()).await;
    let (token, timer) = (install_token(), MovingTimer::new());
    enrolment(&server, home.path(), &timer).run(&token).await.expect("enrolled");
    let before = file(home.path());
    for token in [token, install_token()] {
        let again = enrolment(&server, home.path(), &timer).run(&token).await.expect("it is enrolled");
        assert_eq!(again.host_id().to_string(), HOST_ID);
        let (agent, _events) = agent(&server, home.path(), &timer).install_token(token).open().await.expect("opens");
        assert_eq!(agent.host_id(), Some(again.host_id()));
    }
    assert_eq!(server.asked().len(), 1, "nobody was asked again");
    assert_eq!(file(home.path()), before);
}

#[tokio::test]
async fn a_claim_in_use_is_drawn_again_and_not_for_ever() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, _| if n < 2 { refusal(Code::ClaimInUse) } else { enrolled() }).await;
    enrolment(&server, home.path(), &MovingTimer::new()).attempt(&install_token()).await.expect("enrolled");
    let claims = server.claims();
    assert!(claims[0] != claims[1] && claims[1] != claims[2]);
    assert_eq!(hash_of(&file(home.path())["installed"]), claims[2]);

    let home = tempdir().expect("a directory");
    let server = Server::start(|_, _| refusal(Code::ClaimInUse)).await;
    let refused = enrolment(&server, home.path(), &MovingTimer::new()).run(&install_token()).await;
    assert!(matches!(refused, Err(EnrolError::Refused(problem)) if problem.code == Code::ClaimInUse));
    assert_eq!(server.asked().len(), 5);
}

#[tokio::test]
async fn a_refused_install_token_is_final_and_says_what_to_do() {
    for code in [Code::InvalidInstallToken, Code::InstallTokenAlreadyUsed] {
        let home = tempdir().expect("a directory");
        let refused = code.clone();
        let server = Server::start(move |_, _| refusal(refused.clone())).await;
        let error =
            enrolment(&server, home.path(), &MovingTimer::new()).run(&install_token()).await.expect_err("refused");
        assert!(error.to_string().contains("new install token"), "{error}");
        assert_eq!(server.asked().len(), 1, "it is not tried again");

        let timer = MovingTimer::new();
        let (agent, _events) =
            agent(&server, home.path(), &timer).install_token(install_token()).open().await.expect("opens");
        let error = run_until(agent, &server, 9).await.expect_err("refused");
        assert!(error.to_string().contains(code.as_str()), "{error}");
    }
}

#[tokio::test]
async fn retry_after_is_obeyed_by_an_enrolment() {
    let home = tempdir().expect("a directory");
    let busy = |code| problem(&Problem::new(code, "later").with_retry_after(Duration::from_secs(120)));
    let server = Server::start(move |n, _| match n {
        0 => busy(Code::RateLimited),
        1 => busy(Code::Overloaded),
        _ => enrolled(),
    })
    .await;
    let timer = MovingTimer::new();
    enrolment(&server, home.path(), &timer).run(&install_token()).await.expect("enrolled");
    let slept = timer.slept();
    assert_eq!(slept.len(), 2);
    assert!(slept.iter().all(|delay| (120..=150).contains(&delay.as_secs())), "{slept:?}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_stays_as_it_is() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|_, _| enrolled()).await;
    let (token, timer) = (install_token(), MovingTimer::new());
    enrolment(&server, home.path(), &timer).run(&token).await.expect("enrolled");
    let path = home.path().join("credential.json");
    let whole = std::fs::read(&path).expect("the file");
    for torn in [&whole[..whole.len() / 2], b"", b"\0\0\0\0", b"{}", b"{\"version\":1}"] {
        std::fs::write(&path, torn).expect("written");
        let error = enrolment(&server, home.path(), &timer).run(&token).await.expect_err("damaged");
        assert!(matches!(error, EnrolError::Credential(CredentialError::Corrupt { .. })), "{error:?}");
        let opened = agent(&server, home.path(), &timer).install_token(install_token()).open().await;
        assert!(matches!(opened, Err(OpenError::Credential(CredentialError::Corrupt { .. }))));
        assert_eq!(std::fs::read(&path).expect("the file"), torn);
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn without_credential_and_install_token_nothing_opens() {
    let home = tempdir().expect("a directory");
    let opened = Agent::builder("http://127.0.0.1:1").state_dir(home.path()).open().await;
    assert!(matches!(opened, Err(OpenError::NotEnrolled)));
    let opened = Agent::builder("http://127.0.0.1:1").open().await;
    assert!(matches!(opened, Err(OpenError::NoCredentialStore)));
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    let home = tempdir().expect("a directory");
    let directory = home.path().join("a").join("b");
    let server = Server::start(|_, _| enrolled()).await;
    // Left by a crash, with another mode.
    std::fs::create_dir_all(home.path().join("a")).expect("made");
    enrolment(&server, &directory, &MovingTimer::new()).run(&install_token()).await.expect("enrolled");
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("credential.json")), 0o600);

    let store = FileCredentialStore::new(&directory);
    let left = directory.join("credential.json.new");
    std::fs::write(&left, "torn").expect("written");
    std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o644)).expect("set");
    let document = store.load().await.expect("readable").expect("there");
    store.save(&document).await.expect("saved");
    assert_eq!(mode(&directory.join("credential.json")), 0o600);
    assert!(!left.exists(), "nothing is left beside it");

    store.erase().await.expect("erased");
    store.erase().await.expect("erased already");
    assert!(Credential::load(&store).await.expect("readable").is_none());
}

/// Dropping the future of a save neither tears the file nor lets an older save overtake a newer one.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_save_takes_effect_whole_and_in_order_or_not_at_all() {
    use enlist_agent_sdk::SecretBytes;
    let home = tempdir().expect("a directory");
    let store = FileCredentialStore::new(home.path());
    for round in 0..20u8 {
        let document = SecretBytes::new(vec![round; 5_000]);
        let _ = tokio::time::timeout(Duration::ZERO, store.save(&document)).await;
        let last = SecretBytes::new(vec![100 + round; 5_000]);
        store.save(&last).await.expect("saved");
        let found = store.load().await.expect("readable").expect("there");
        assert_eq!(found.expose(), last.expose());
    }
}

/// Two agents of one directory would overwrite what the other has drawn.
#[tokio::test]
async fn a_directory_that_another_agent_uses_is_refused_until_it_is_free() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (FileCredentialStore::new(home.path()), FileCredentialStore::new(home.path()));
    assert!(first.load().await.unwrap().is_none());
    let clone = first.clone();
    let error = second.load().await.unwrap_err();
    assert!(matches!(&error, CredentialError::InUse(path) if path == home.path()), "{error:?}");
    drop(first);
    clone.load().await.expect("a clone is the same store");
    assert!(second.save(&enlist_agent_sdk::SecretBytes::new(b"{}".to_vec())).await.is_err());
    drop(clone);
    second.load().await.unwrap();
}
