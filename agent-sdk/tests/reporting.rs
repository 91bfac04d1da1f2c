//! The reporting loop against a server that loses, refuses and stalls; time moves only when the agent sleeps.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use enlist_agent_sdk::{Agent, Collected, Collector, Containers, Event, Outcome, SystemClock};
use enlist_core::wire::{AgentAction, Code, Problem};
use enlist_core::{Clock, Timestamp};
use support::*;
use tempfile::tempdir;

fn recorded_at(report: &serde_json::Value) -> Timestamp {
    report["recorded_at"].as_str().expect("a time").parse().expect("RFC 3339")
}

#[tokio::test]
async fn a_host_enrols_and_reports_at_once_with_the_secret_that_it_drew() {
    let home = tempdir().expect("a directory");
    let server = Server::start(|n, _| if n == 0 { enrolled() } else { acknowledged() }).await;
    let timer = MovingTimer::new();
    let (agent, events) =
        agent(&server, home.path(), &timer).install_token(install_token()).open().await.expect("opens");
    let lease = agent.lease();
    assert!(!lease.is_held());
    run_until(agent, &server, 3).await.expect("ran");
    let asked = server.asked();
    assert_eq!(asked[1].path, "/v1/agent/telemetry");
    assert_eq!(asked[1].bearer.as_deref(), file(home.path())["installed"]["token"].as_str());
    assert!(asked[0].body["facts"]["agent_version"].is_string());
    assert_eq!(asked[0].bearer, None);
    assert!(lease.is_held());
    // The host id ends in a quarter of 2³²: that is its place in the interval; from then on the server's pace.
    let slept = timer.slept();
    assert_eq!(slept[0], Duration::from_millis(7_500));
    let names = names(events).await;
    assert_eq!(names[..3], ["Enrolled", "CredentialChanged", "Reported"], "{names:?}");
}

/// The system's clock, timer and numbers, and nothing injected.
#[tokio::test]
async fn an_agent_on_its_defaults_reports_this_machine() {
    let home = tempdir().expect("a directory");
    let server =
        Server::start(|n, _| if n == 0 { enrolled() } else { acknowledged_at(SystemClock::default().now(), 1) }).await;
    let (agent, events) = Agent::builder(&server.url)
        .state_dir(home.path())
        .install_token(install_token())
        .interval(Duration::from_secs(1))
        .agent_version("9.8.7")
        .open()
        .await
        .expect("opens");
    run_until(agent, &server, 3).await.expect("ran");
    let facts = &server.asked()[0].body["facts"];
    assert!(facts["os"].is_string() && facts["cpu_count"].as_u64() > Some(0), "{facts}");
    for report in server.reports() {
        let report = enlist_core::telemetry::parse_report(report.to_string().as_bytes()).expect("within bounds");
        let metrics = report.host.metrics;
        assert!(metrics.cpu_percent.is_some() && metrics.memory_used_bytes > Some(0), "{metrics:?}");
        assert_eq!(report.host.facts.and_then(|facts| facts.agent_version).as_deref(), Some("9.8.7"));
    }
    assert_eq!(names(events).await[..3], ["Enrolled", "CredentialChanged", "Reported"]);
}

#[tokio::test]
async fn reports_come_when_the_server_says() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, _| acknowledged_at(now(), [30_000, 20_000, 45_000, 45_000][n.min(3)])).await;
    let timer = MovingTimer::new();
    let (agent, _events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 4).await.expect("ran");
    assert_eq!(timer.slept()[..3], [7_500, 20_000, 45_000].map(Duration::from_millis));
}

#[tokio::test]
async fn a_report_of_unknown_fate_is_repeated_exactly_and_then_given_up_and_counted() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, _| match n {
        0 => Answer::Lost,
        1 => html(502),
        2 => acknowledged(),
        3 => Answer::Silence,
        4 => html(200),
        5 => refusal(Code::Internal),
        _ => acknowledged(),
    })
    .await;
    let timer = MovingTimer::new();
    let (agent, events) = agent(&server, home.path(), &timer).request_timeout(SHORT).open().await.expect("opens");
    run_until(agent, &server, 8).await.expect("ran");
    let reports = server.reports();
    assert!(reports[0] == reports[1] && reports[1] == reports[2], "the same report until it is acknowledged");
    assert!(reports[2] != reports[3] && reports[3] == reports[4] && reports[4] == reports[5]);
    assert_ne!(reports[5]["recorded_at"], reports[6]["recorded_at"], "three times are enough");
    assert_eq!(reports[5]["agent"]["dropped_total"], 0);
    assert_eq!(reports[6]["agent"]["dropped_total"], 1);
    let slept = timer.slept();
    assert!(slept[..2].iter().all(|delay| *delay < Duration::from_secs(2)), "{slept:?}");
    assert!(slept[3..6].iter().all(|delay| *delay < Duration::from_secs(10)), "{slept:?}");
    // After an outage the fleet spreads again: each host waits for its place in the interval.
    assert_eq!([slept[2], slept[6]], [Duration::from_millis(7_500); 2]);
    let names = names(events).await;
    let expected = [
        "ConnectivityLost",
        "ConnectivityRestored",
        "Reported",
        "ConnectivityLost",
        "ReportDropped",
        "ConnectivityRestored",
        "Reported",
    ];
    assert_eq!(names[..7], expected, "{names:?}");
}

/// A server whose liveness window is short would else call hosts unreachable after its own absence.
#[tokio::test]
async fn a_failed_contact_is_repeated_at_least_as_often_as_reports_are_due() {
    let (home, _) = enrolled_home().await;
    let answer = |n| if n == 0 { acknowledged_at(now(), 3_000) } else { Answer::Lost };
    let server = Server::start(move |n, _| answer(n)).await;
    let timer = MovingTimer::new();
    let (agent, _events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 16).await.expect("ran");
    let slept = timer.slept();
    assert!(slept.len() > 12 && slept.iter().all(|delay| *delay <= Duration::from_secs(3)), "{slept:?}");
}

/// Client rule 7, and every refusal but one.
#[tokio::test]
async fn nothing_but_host_deleted_erases_the_credential() {
    let (home, secret) = enrolled_home().await;
    let before = file(home.path());
    let deleted_without_type = Answer::Reply {
        status: 410,
        headers: vec![("content-type", "application/json".into())],
        body: Problem::new(Code::HostDeleted, "gone").to_json(),
    };
    let answers = vec![
        html(200),
        html(401),
        html(403),
        html(404),
        html(410),
        html(500),
        Answer::Lost,
        Answer::Silence,
        deleted_without_type,
        problem(&Problem::new(Code::HostDeleted, "under another status").with_status(401)),
        refusal(Code::InvalidToken),
        refusal(Code::MissingToken),
        refusal(Code::TokenRevoked),
        refusal(Code::TokenSuperseded),
        refusal(Code::TokenReuseDetected),
        refusal(Code::TokenDisplaced),
        refusal(Code::NotFound),
        problem(&Problem::new(Code::Other("of_a_later_version".into()), "?").with_status(401)),
        problem(&Problem::new(Code::TokenRevoked, "stop").with_action(AgentAction::Stop)),
    ];
    let count = answers.len();
    let mut answers = answers.into_iter();
    let server = Server::start(move |_, _| answers.next().unwrap_or_else(acknowledged)).await;
    let (agent, _events) =
        agent(&server, home.path(), &MovingTimer::new()).request_timeout(SHORT).open().await.expect("opens");
    run_until(agent, &server, count + 2).await.expect("it goes on");
    assert_eq!(file(home.path()), before);
    assert!(server.asked().iter().all(|asked| asked.bearer.as_ref() == Some(&secret)));
}

#[tokio::test]
async fn host_deleted_erases_the_credential_and_ends_the_agent() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, _| if n == 0 { acknowledged() } else { refusal(Code::HostDeleted) }).await;
    let (agent, events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    let lease = agent.lease();
    let outcome = run_until(agent, &server, 9).await.expect("ended");
    assert!(matches!(outcome, Outcome::HostDeleted(_)), "{outcome:?}");
    assert!(!home.path().join("credential.json").exists());
    assert!(!lease.is_held());
    assert_eq!(names(events).await.last().map(String::as_str), Some("HostDeleted"));
}

#[tokio::test]
async fn host_archived_ends_the_agent_and_keeps_the_credential() {
    let (home, _) = enrolled_home().await;
    let before = file(home.path());
    let server = Server::start(|n, _| if n == 0 { acknowledged() } else { refusal(Code::HostArchived) }).await;
    let (agent, _events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    let lease = agent.lease();
    let outcome = run_until(agent, &server, 9).await.expect("ended");
    assert!(matches!(outcome, Outcome::HostArchived(_)), "{outcome:?}");
    assert!(!lease.is_held());
    assert_eq!(file(home.path()), before);
}

#[tokio::test]
async fn a_refused_credential_is_tried_again_slowly() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, _| if n < 3 { refusal(Code::TokenSuperseded) } else { acknowledged() }).await;
    let timer = MovingTimer::new();
    let (agent, events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 5).await.expect("ran");
    assert!(timer.slept()[..3].iter().all(|delay| (30..=60).contains(&delay.as_secs())), "{:?}", timer.slept());
    assert!(names(events).await.iter().any(|name| name == "Reported"));
}

#[tokio::test]
async fn retry_after_is_obeyed_and_the_report_repeated() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, _| {
        let busy = |code| problem(&Problem::new(code, "later").with_retry_after(Duration::from_secs(90)));
        match n {
            0 => busy(Code::RateLimited),
            1 => busy(Code::Overloaded),
            _ => acknowledged(),
        }
    })
    .await;
    let timer = MovingTimer::new();
    let (agent, _events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 3).await.expect("ran");
    assert!(timer.slept()[..2].iter().all(|delay| (90..=100).contains(&delay.as_secs())), "{:?}", timer.slept());
    let reports = server.reports();
    assert!(reports[0] == reports[1] && reports[1] == reports[2]);
}

#[tokio::test]
async fn recorded_at_rises_strictly_when_the_clock_steps_back() {
    let (home, _) = enrolled_home().await;
    let timer = MovingTimer::new();
    let clock = Arc::clone(&timer.clock);
    let server = Server::start(move |n, _| {
        if n.is_multiple_of(2) {
            // By more than the agent sleeps in between.
            clock.set(clock.now().saturating_sub(Duration::from_secs(200)));
        }
        acknowledged_at(clock.now(), 30_000)
    })
    .await;
    let (agent, _events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    run_until(agent, &server, 8).await.expect("ran");
    let times: Vec<_> = server.reports().iter().map(recorded_at).collect();
    assert!(times.len() >= 8 && times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[tokio::test]
async fn a_clock_that_the_server_finds_implausible_is_corrected_by_the_servers() {
    let (home, _) = enrolled_home().await;
    let timer = MovingTimer::new();
    let clock = Arc::clone(&timer.clock);
    let ahead = Duration::from_secs(2 * 3_600);
    timer.clock.set(now().saturating_add(ahead));
    let server = Server::start(move |_, asked| {
        let server_time = clock.now().saturating_sub(ahead);
        if asked.path.ends_with("/heartbeat") {
            return acknowledged_at(server_time, 30_000);
        }
        match enlist_core::telemetry::judge_recorded_at(recorded_at(&asked.body), server_time) {
            Ok(()) => acknowledged_at(server_time, 30_000),
            Err(error) => problem(&Problem::from(error).with_server_time(server_time)),
        }
    })
    .await;
    let (agent, events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    let lease = agent.lease();
    run_until(agent, &server, 5).await.expect("ran");
    let paths: Vec<_> = server.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths[1], "/v1/agent/heartbeat", "the refused report still renews the lease");
    assert!(lease.is_held());
    let names = names(events).await;
    assert_eq!(names[..4], ["ReportDropped", "ClockSkew", "Reported", "Reported"], "{names:?}");
}

#[tokio::test]
async fn a_report_at_fault_is_dropped_and_the_lease_renewed() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|n, asked| match (n, asked.path.ends_with("/heartbeat")) {
        (0, _) => refusal(Code::InvalidField),
        _ => acknowledged(),
    })
    .await;
    let (agent, events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    run_until(agent, &server, 4).await.expect("ran");
    let reports = server.reports();
    assert_ne!(reports[0]["recorded_at"], reports[1]["recorded_at"]);
    let names = names(events).await;
    assert_eq!(names[..3], ["ReportDropped", "Refused", "Reported"], "{names:?}");
}

#[tokio::test]
async fn events_that_nobody_reads_hold_nothing_up() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|_, _| acknowledged()).await;
    let (agent, mut events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    run_until(agent, &server, 400).await.expect("ran");
    assert!(matches!(events.next().await, Some(Event::Missed { count }) if count >= 140));

    let (agent, events) = support::agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    drop(events);
    run_until(agent, &server, 420).await.expect("ran");
}

#[tokio::test]
async fn a_stalled_collector_is_left_out_and_no_container_is_taken_for_gone() {
    struct Stalled;
    #[enlist_agent_sdk::async_trait]
    impl Collector for Stalled {
        async fn collect(&mut self) -> Collected {
            std::future::pending().await
        }
    }
    struct Engine;
    #[enlist_agent_sdk::async_trait]
    impl Collector for Engine {
        async fn collect(&mut self) -> Collected {
            let mut collected = Collected::default().with_custom("not_a_number", f64::NAN);
            collected.containers = Some(Containers { list: Vec::new(), complete: true });
            collected
        }
    }
    for (stalled, complete) in [(false, true), (true, false)] {
        let (home, _) = enrolled_home().await;
        let server = Server::start(|_, _| acknowledged()).await;
        let mut builder = agent(&server, home.path(), &MovingTimer::new())
            .collector(Engine)
            .collect_timeout(Duration::from_millis(50));
        if stalled {
            builder = builder.collector(Stalled);
        }
        let (agent, events) = builder.open().await.expect("opens");
        run_until(agent, &server, 1).await.expect("ran");
        let report = &server.reports()[0];
        assert_eq!(report["containers_complete"], complete);
        assert_eq!(report["host"]["custom"], serde_json::json!({"collections": 1.0}));
        assert_eq!(names(events).await.iter().any(|name| name == "CollectorStalled"), stalled);
    }
}

#[tokio::test]
async fn the_lease_counts_from_sending_the_acknowledged_request() {
    let (home, _) = enrolled_home().await;
    let timer = MovingTimer::new();
    let clock = Arc::clone(&timer.clock);
    // The reply takes ten seconds by the agent's clock.
    let server = Server::start(move |_, _| {
        clock.advance(Duration::from_secs(10));
        acknowledged_at(now(), 30_000)
    })
    .await;
    let (agent, mut events) = agent(&server, home.path(), &timer).open().await.expect("opens");
    let lease = agent.lease();
    let seen = Arc::new(Mutex::new(None));
    let writer = Arc::clone(&seen);
    let watched = lease.clone();
    let first = async move {
        events.next().await;
        *writer.lock().expect("not poisoned") = Some(watched.remaining());
    };
    agent.run(first).await.expect("ran");
    // Sixty seconds of lease, less ten in flight, less the 7.5 s that the agent sleeps next.
    let remaining = seen.lock().expect("not poisoned").expect("seen");
    assert!([50_000, 42_500].map(Duration::from_millis).contains(&remaining), "{remaining:?}");
}

#[tokio::test]
async fn shutdown_ends_the_agent_while_a_request_hangs() {
    let (home, _) = enrolled_home().await;
    let server = Server::start(|_, _| Answer::Silence).await;
    let (agent, events) = agent(&server, home.path(), &MovingTimer::new()).open().await.expect("opens");
    let outcome = run_until(agent, &server, 1).await.expect("ended");
    assert!(matches!(outcome, Outcome::Shutdown));
    assert!(names(events).await.is_empty());
}
