//! The typed calls alone.

mod support;

use std::time::Duration;

use enlist_agent_sdk::{Client, ClientError, reqwest};
use enlist_core::secret::Prefix;
use enlist_core::telemetry::{HostReport, Report};
use enlist_core::wire::{Code, Problem, ProposedState, ReportStatus};
use enlist_core::{PlainToken, SystemEntropy};
use serde_json::{Value, json};
use support::*;

fn token() -> PlainToken {
    PlainToken::generate(Prefix::AGENT, &SystemEntropy)
}

#[tokio::test]
async fn a_heartbeat_and_who_am_i_present_the_credential_under_the_prefix_of_the_url() {
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/fleet/v1/agent/heartbeat" => acknowledged(),
        "/fleet/v1/agent/self" => ok(serde_json::json!({
            "host_id": HOST_ID, "tenant_id": "acme", "token_id": HOST_ID, "kind": "bearer", "expires_at": null,
            "server_time": now(), "of_a_later_version": 1,
        })),
        _ => refusal(Code::NotFound),
    })
    .await;
    let client = Client::new(&format!("{}/fleet", server.url)).expect("a client");
    let token = token();
    assert_eq!(client.heartbeat(&token).await.expect("acknowledged").lease_ms, 60_000);
    assert_eq!(client.who_am_i(&token).await.expect("known").host_id.to_string(), HOST_ID);
    assert!(server.asked().iter().all(|asked| asked.bearer.as_deref() == Some(token.expose())));
}

/// The bodies are what the server reads: `ProposeAgentToken` and `RefreshAccessToken`.
#[tokio::test]
async fn a_proposal_and_a_refresh_carry_a_claim_and_never_a_secret() {
    let server = Server::start(|_, asked| match asked.path.as_str() {
        "/v1/agent/token/rotate" => proposed(),
        "/v1/agent/token/refresh" => {
            ok(serde_json::json!({"access_token": "a.b.c", "expires_at": now(), "refresh_token": null}))
        }
        _ => refusal(Code::NotFound),
    })
    .await;
    let client = Client::new(&server.url).expect("a client");
    let (token, successor) = (token(), token());
    let reply = client.propose(&token, successor.hash()).await.expect("accepted");
    assert_eq!((reply.id.to_string().as_str(), reply.state), (SECOND_TOKEN_ID, ProposedState::Pending));
    let access = client.refresh(&token, None).await.expect("sold");
    assert_eq!((access.expose(), access.expires_at()), ("a.b.c", now()));
    client.refresh(&token, Some(successor.hash())).await.expect("sold");
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.bearer.as_deref() == Some(token.expose())));
    let claim = serde_json::json!({"claim": successor.hash().to_hex()});
    let bodies: Vec<_> = asked.into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, [claim.clone(), serde_json::json!({}), claim]);
    // An access token proves the host like any other.
    let refused = client.who_am_i(&access).await.expect_err("not found");
    assert!(matches!(refused, ClientError::Refused(_)), "{refused:?}");
    assert_eq!(server.asked()[3].bearer.as_deref(), Some("a.b.c"));
}

/// As many as may be, each with an answer of its own.
#[tokio::test]
async fn a_batch_is_answered_report_by_report() {
    let server = Server::start(|_, asked| {
        let answer = |(index, report): (usize, &Value)| match index % 2 {
            0 => json!({"recorded_at": report["recorded_at"], "status": "accepted", "of_a_later_version": 1}),
            _ => json!({"recorded_at": report["recorded_at"], "status": "rejected", "code": "invalid_field",
                        "field": format!("/reports/{index}/containers/{}", "x".repeat(300))}),
        };
        let results: Vec<_> =
            asked.body["reports"].as_array().expect("reports").iter().enumerate().map(answer).collect();
        match asked.path.as_str() {
            "/v1/agent/telemetry/batch" => {
                ok(json!({"results": results, "server_time": now(), "next_report_in_ms": 30_000, "lease_ms": 60_000}))
            }
            _ => refusal(Code::NotFound),
        }
    })
    .await;
    let client = Client::new(&server.url).expect("a client");
    let token = token();
    let report = |n| Report {
        recorded_at: now().saturating_sub(Duration::from_secs(n)),
        host: HostReport::default(),
        containers: Vec::new(),
        containers_complete: false,
        agent: None,
    };
    let reports: Vec<_> = (0..500).map(report).collect();
    let reply = client.report_batch(&token, &reports).await.expect("acknowledged");
    assert_eq!((reply.results.len(), reply.lease_ms), (500, 60_000));
    assert_eq!(reply.results[0].status, ReportStatus::Accepted);
    let rejected = &reply.results[1];
    assert_eq!((rejected.recorded_at, rejected.status), (Some(reports[1].recorded_at), ReportStatus::Rejected));
    assert_eq!(rejected.code, Some(Code::InvalidField));
    let asked = &server.asked()[0];
    assert_eq!(asked.bearer.as_deref(), Some(token.expose()));
    // The server reads what was meant.
    let read = enlist_core::telemetry::parse_batch(asked.body.to_string().as_bytes()).expect("a batch");
    let read: Vec<_> = read.into_iter().map(|item| item.expect("it keeps its bounds").report).collect();
    assert_eq!(read, reports);
}

#[tokio::test]
async fn a_batch_too_many_is_sent_later() {
    let server = Server::start(|_, _| {
        let limited = Problem::new(Code::RateLimited, "later").with_retry_after(Duration::from_secs(5));
        problem(&limited)
    })
    .await;
    let error = Client::new(&server.url).expect("a client").report_batch(&token(), &[]).await.expect_err("too many");
    assert!(matches!(&error, ClientError::RetryLater { status: 429, after, .. } if after.as_secs() == 5), "{error:?}");
    assert!(!error.is_final());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let server = Server::start(move |n, _| match n {
            0 => Answer::Reply { status, headers: vec![("location", "/v1/agent/heartbeat".into())], body: vec![] },
            _ => acknowledged(),
        })
        .await;
        let error = Client::new(&server.url).expect("a client").heartbeat(&token()).await.expect_err("no answer");
        assert!(matches!(error, ClientError::Unexpected { status: found } if found == status), "{error:?}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_reply_larger_than_any_of_ours_is_not_read_to_its_end() {
    let server = Server::start(|_, _| {
        let body =
            format!("{{\"server_time\":\"{}\",\"next_report_in_ms\":1,\"lease_ms\":1{}}}", now(), " ".repeat(70_000));
        Answer::Reply { status: 200, headers: vec![("content-type", "application/json".into())], body: body.into() }
    })
    .await;
    let error = Client::new(&server.url).expect("a client").heartbeat(&token()).await.expect_err("too large");
    assert!(matches!(error, ClientError::Unexpected { status: 200 }), "{error:?}");
}

#[tokio::test]
async fn the_callers_own_http_client_is_used_and_its_requests_time_out_too() {
    let server = Server::start(|_, _| Answer::Silence).await;
    // Without a provider reqwest's own client cannot do TLS; over plain HTTP it needs none.
    let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let broken = reqwest::Proxy::all("http://127.0.0.1:1").expect("a proxy");
    let http =
        reqwest::Client::builder().tls_backend_preconfigured(tls.clone()).proxy(broken).build().expect("a client");
    let client = Client::builder(&server.url).http_client(http).build().expect("a client");
    let error = client.heartbeat(&token()).await.expect_err("its proxy is broken");
    assert!(matches!(error, ClientError::Transport { timed_out: false, .. }), "{error:?}");
    assert!(server.asked().is_empty());

    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().expect("a client");
    let client = Client::builder(&server.url).http_client(http).timeout(SHORT).build().expect("a client");
    let error = client.heartbeat(&token()).await.expect_err("silence");
    assert!(matches!(error, ClientError::Transport { timed_out: true, .. }), "{error:?}");
}
