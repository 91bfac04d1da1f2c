//! The routes inside an embedding service.

mod common;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::{House, ROOT, ask};
use enlist_core::secret::Prefix;
use enlist_core::{Actor, ActorId, PlainToken, SystemEntropy};
use enlist_http_warp::{
    AdminAuth, AuthError, PeerAddr, Response, Routes, StaticBearer, is_servable, routes, unservable,
};
use http::request::Parts;
use warp::Filter;
use warp::filters::BoxedFilter;

const OWN: &str = "the service's own catch-all";

/// An embedding service: ours first, then a route that answers everything.
fn embedded(ours: BoxedFilter<(Response,)>) -> BoxedFilter<(Response,)> {
    ours.or(warp::any().map(|| Response::new(OWN.into()))).unify().boxed()
}

#[tokio::test]
async fn the_embedders_catch_all_never_answers_for_v1() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let app = embedded(house.app.clone());
    let hosts = format!("/v1/hosts/{}", host.host_id);
    let below = ["", "/containers", "/telemetry", "/archive", "/tokens", "/install-tokens", "/tokens/x", "/nowhere"];
    let mut paths: Vec<_> = below.iter().map(|below| format!("{hosts}{below}")).collect();
    paths.extend(
        [
            "/v1",
            "/v1/",
            "/v1//",
            "/v1/hosts",
            "/v1/hosts/",
            "/v1/hosts//archive",
            "/v1/hosts/%ff",
            "/v1/events",
            "/v1/events/streams",
            "/v1/nowhere",
            "/v1/agent",
            "/v1/agent/self",
            "/v1/agent/telemetry",
            "/v1/agent/heartbeat",
            "/v1/agent/nowhere",
            "/v1/install-tokens/exchange",
            "/v1/../x",
            "/v1?x=y",
        ]
        .map(str::to_owned),
    );
    for path in &paths {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            for credential in [None, Some("Bearer nobody"), Some("Basic x"), Some("Bearer root"), Some("")] {
                // What root may do is done below; here nothing shall change.
                if credential == Some("Bearer root") && method != "GET" {
                    continue;
                }
                let mut request = ask(&app, method, path).body("{}");
                if let Some(credential) = credential {
                    request = request.header("authorization", credential);
                }
                let reply = request.send().await;
                assert_ne!(reply.text(), OWN, "{method} {path} {credential:?}");
                if credential != Some("Bearer root") {
                    assert!(reply.status.is_client_error(), "{method} {path} {credential:?}: {}", reply.status);
                    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{method} {path}");
                }
                assert_eq!(reply.header("www-authenticate").is_some(), reply.status == 401, "{method} {path}");
                assert_eq!(reply.header("allow").is_some(), reply.status == 405, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn everything_outside_of_v1_goes_on_to_the_embedder() {
    let house = House::new().await;
    let app = embedded(house.app.clone());
    for path in ["/", "/v2/hosts", "/v11", "/V1/hosts", "//v1/hosts", "/x/v1/hosts", "/healthz", "/%76%31/hosts"] {
        assert_eq!(ask(&app, "GET", path).send().await.text(), OWN, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones_before_any_credential_is_asked_for() {
    let house = House::new().await;
    for (path, allowed) in [
        ("/v1/hosts", "GET, POST"),
        ("/v1/hosts/x", "GET, PATCH, DELETE"),
        ("/v1/hosts/x/archive", "POST"),
        ("/v1/hosts/x/cordon", "POST"),
        ("/v1/hosts/x/tags", "GET"),
        ("/v1/hosts/x/tokens/y", "DELETE"),
        ("/v1/install-tokens/exchange", "POST"),
        ("/v1/agent/telemetry", "POST"),
        ("/v1/agent/self", "GET"),
    ] {
        let reply = house.ask("PUT", path).send().await;
        assert_eq!(reply.header("allow"), Some(allowed), "{path}");
        reply.refused(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn the_routes_work_below_a_path_of_the_services_own() {
    let house = House::new().await;
    let app = embedded(warp::path("fleet").and(house.app.clone()).boxed());
    ask(&app, "GET", "/fleet/v1/hosts").by(ROOT).send().await.expect(200);
    ask(&app, "GET", "/fleet/v1/nowhere").send().await.refused(404, "not_found");
    ask(&app, "GET", "/fleet/v1/hosts/").by(ROOT).send().await.refused(404, "not_found");
    assert_eq!(ask(&app, "GET", "/v1/hosts").by(ROOT).send().await.text(), OWN);
}

/// Says what it saw of the head.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<String>>>);

/// What a middleware of the embedding service might have found out.
#[derive(Clone)]
struct Session(&'static str);

#[async_trait]
impl AdminAuth for Witness {
    async fn actor(&self, head: &Parts) -> Result<Actor, AuthError> {
        let session = head.extensions.get::<Session>().map_or("none", |session| session.0);
        let peer = head.extensions.get::<PeerAddr>().map(|peer| peer.0.ip().to_string());
        let host = head.headers.get("host").map(|host| host.to_str().expect("ASCII").to_owned());
        let seen = format!("{} {} session={session} peer={peer:?} host={host:?}", head.method, head.uri);
        self.0.lock().expect("no panic while it was held").push(seen);
        Err(AuthError::Unavailable("the directory is down".into()))
    }
}

#[tokio::test]
async fn admin_auth_sees_the_head_and_is_asked_only_where_it_counts() {
    let house = House::new().await;
    let witness = Witness::default();
    let app = Routes::new(house.fleet.clone(), witness.clone()).extension::<Session>().build();
    let reply = ask(&app, "GET", "/v1/hosts?limit=5")
        .header("host", "fleet.example")
        .extension(Session("s-1"))
        .from("192.0.2.7")
        .send()
        .await;
    assert!(reply.header("retry-after").is_some());
    let problem = reply.refused(503, "unavailable");
    assert!(!problem.to_string().contains("directory"), "causes are not the client's business: {problem}");

    for (method, path) in [("GET", "/v1/nowhere"), ("PUT", "/v1/hosts"), ("GET", "/v1/agent/self"), ("GET", "/x")] {
        ask(&app, method, path).send().await;
    }
    let seen = witness.0.lock().expect("no panic while it was held").clone();
    assert_eq!(seen, [r#"GET /v1/hosts?limit=5 session=s-1 peer=Some("192.0.2.7") host=Some("fleet.example")"#]);
}

#[tokio::test]
async fn the_authority_of_http2_and_the_peer_that_warp_knows_are_in_the_head_too() {
    let house = House::new().await;
    let witness = Witness::default();
    let app = routes(house.fleet.clone(), witness.clone());
    ask(&app, "GET", "http://fleet.example/v1/hosts").send().await;
    let peer = "192.0.2.7:4711".parse().expect("an address");
    warp::test::request().path("/v1/hosts").remote_addr(peer).reply(&app).await;
    let seen = witness.0.lock().expect("no panic while it was held").clone();
    assert_eq!(
        seen,
        [
            r#"GET /v1/hosts session=none peer=None host=Some("fleet.example")"#,
            r#"GET /v1/hosts session=none peer=Some("192.0.2.7") host=None"#,
        ]
    );
}

#[tokio::test]
async fn a_static_bearer_lets_in_its_token_and_nothing_else() {
    let house = House::new().await;
    let secret = "correct-horse-battery-staple";
    let auth =
        StaticBearer::new(secret.into(), Actor::operator(ActorId::new("operator").expect("an id"))).expect("usable");
    let shown = format!("{auth:?}");
    assert!(shown.starts_with(r#"StaticBearer { tokens: "redacted", actors: ["#), "{shown}");
    let app = routes(house.fleet.clone(), auth);
    ask(&app, "GET", "/v1/hosts").by(secret).send().await.expect(200);
    ask(&app, "GET", "/v1/hosts").header("authorization", &format!("bearer {secret}")).send().await.expect(200);
    for wrong in ["correct-horse-battery-stapl", "correct-horse-battery-staple2", "", "x"] {
        ask(&app, "GET", "/v1/hosts").by(wrong).send().await.refused(401, "invalid_token");
    }
    let missing = ask(&app, "GET", "/v1/hosts").send().await;
    assert_eq!(missing.header("www-authenticate"), Some("Bearer realm=\"enlist\""));
    missing.refused(401, "missing_token");
    ask(&app, "GET", "/v1/hosts").by(secret).by(secret).send().await.refused(400, "invalid_request");
    ask(&app, "GET", "/v1/hosts").header("authorization", secret).send().await.refused(400, "invalid_request");
    for unusable in ["", " ", "two words", "é"] {
        let actor = Actor::operator(ActorId::new("operator").expect("an id"));
        assert!(StaticBearer::new(unusable.into(), actor).is_err(), "{unusable:?}");
    }
}

#[tokio::test]
async fn a_static_bearer_can_be_made_of_a_hash_alone() {
    let house = House::new().await;
    let token = PlainToken::generate(Prefix::new("ead"), &SystemEntropy);
    let actor = Actor::operator(ActorId::new("operator").expect("an id"));
    let app = routes(house.fleet.clone(), StaticBearer::of_hash(token.hash(), actor));
    ask(&app, "GET", "/v1/hosts").by(token.expose()).send().await.expect(200);
    ask(&app, "GET", "/v1/hosts").by(&token.hash().to_hex()).send().await.refused(401, "invalid_token");
}

#[tokio::test]
async fn each_token_of_a_static_bearer_stands_for_its_own_actor() {
    let house = House::new().await;
    let [first, second, stranger] = std::array::from_fn(|_| PlainToken::generate(Prefix::new("ead"), &SystemEntropy));
    let operator = Actor::operator(ActorId::new("operator").expect("an id"));
    let nobody = Actor { operator: false, ..operator.clone() };
    let auth = StaticBearer::of_hash(first.hash(), operator).and(second.hash(), nobody.clone()).expect("it is free");
    for taken in [&first, &second] {
        assert!(auth.clone().and(taken.hash(), nobody.clone()).is_err());
    }
    let app = routes(house.fleet.clone(), auth);
    let body = serde_json::json!({"name": "a", "kind": "byoc", "tenant_id": "acme"});
    let create = |token: &PlainToken| ask(&app, "POST", "/v1/hosts").by(token.expose()).json(&body);
    create(&second).send().await.refused(404, "not_found");
    create(&first).send().await.expect(201);
    create(&stranger).send().await.refused(401, "invalid_token");
}

#[tokio::test]
async fn a_connect_is_kept_from_warp_and_answered() {
    let mut connect = http::Request::new(());
    *connect.method_mut() = http::Method::CONNECT;
    *connect.uri_mut() = "example.org:443".parse().expect("an authority");
    assert!(!is_servable(&connect));
    assert!(is_servable(&http::Request::new(())));
    let reply = unservable();
    assert_eq!(reply.status(), 405);
    assert!(reply.headers().contains_key("allow"));
}
