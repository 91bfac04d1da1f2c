//! What holds on every route: those that the router itself tells of, so that none can be forgotten.

mod common;

use common::{House, Known, ROOT, asked, later, report_at};
use enlist_http_warp::Caller;
use serde_json::json;

/// The path with an empty segment at each place that can have one.
fn with_an_empty_segment(path: &str) -> Vec<String> {
    let below = "/v1".len();
    let inner = path.match_indices('/').filter(|(at, _)| *at >= below);
    let doubled = inner.map(|(at, _)| format!("{}/{}", &path[..at], &path[at..]));
    doubled.chain([format!("{path}/"), format!("{path}//")]).collect()
}

#[tokio::test]
async fn no_route_is_found_by_a_path_with_an_empty_segment() {
    let house = House::new().await;
    let known = Known::of(&house).await;
    house.contacts_written().await;
    let before = house.written().await;
    for route in &house.table {
        let credential = match route.caller {
            Caller::Administrator => ROOT,
            _ => known.host.token.expose(),
        };
        for path in with_an_empty_segment(&known.path(route.path)) {
            // The path is looked at first, so that neither a credential nor the method changes the answer.
            let by_its_caller = asked(&house, &known, route, &path).by(credential).send().await;
            assert_eq!(by_its_caller.status, 404, "{route:?} {path}: {}", by_its_caller.text());
            by_its_caller.refused(404, "not_found");
            let by_nobody = asked(&house, &known, route, &path).send().await;
            assert_eq!(by_nobody.status, 404, "{route:?} {path}: {}", by_nobody.text());
            house.ask("TRACE", &path).send().await.refused(404, "not_found");
        }
        // An id that is left out makes no shorter path.
        if let Some(at) = route.path.rfind("/{") {
            let path = known.path(&route.path[..at]);
            let reply = house.ask(route.method.as_str(), &format!("{path}/")).by(ROOT).send().await;
            assert_eq!(reply.status, 404, "{route:?} {path}/: {}", reply.text());
        }
    }
    house.contacts_written().await;
    assert_eq!(house.written().await, before);
}

#[tokio::test]
async fn no_route_of_administration_lets_a_parameter_pass_that_it_does_not_know() {
    let house = House::new().await;
    let known = Known::of(&house).await;
    house.contacts_written().await;
    let before = house.written().await;
    let token = known.host.token.expose();
    // A secret may have been put where a value goes, or where a name does.
    let long = "colour".repeat(6);
    let queries = [
        ("colour=red", "`colour`"),
        ("dry_run=true&dry_run=true", "`dry_run`"),
        ("access_token=red", "`access_token`"),
        ("colour", "`colour`"),
        ("=red", "an unknown"),
        ("%00red=1", "an unknown"),
        ("red%60,%20expected%20red%60,%20there%20are%20no%20fields=1", "an unknown"),
        (&long, "an unknown"),
        (token, "an unknown"),
    ];
    let routes: Vec<_> = house.table.iter().filter(|route| route.caller == Caller::Administrator).collect();
    assert!(routes.len() > 15, "{routes:?}");
    for route in routes {
        let path = known.path(route.path);
        for (query, named) in &queries {
            let reply = asked(&house, &known, route, &format!("{path}?{query}")).by(ROOT).send().await;
            assert_eq!(reply.status, 400, "{route:?} {query}: {}", reply.text());
            let problem = reply.refused(400, "invalid_request");
            let detail = problem["detail"].as_str().expect("a detail");
            assert!(detail.contains(named), "{route:?} {query}: {detail}");
            assert!(["red", &long, token].iter().all(|value| !detail.contains(value)), "{route:?} {query}: {detail}");
        }
        // In the documented order: a method, a credential and the ids of the path come before it.
        let unknown = format!("{path}?colour=red");
        house.ask("TRACE", &unknown).send().await.refused(405, "method_not_allowed");
        asked(&house, &known, route, &unknown).send().await.refused(401, "missing_token");
        if route.path.contains('{') {
            let no_id = route.path.replace("{host_id}", "web-1").replace("{tenant_id}", "%00");
            let no_id = known.path(&no_id.replace("/install-tokens/{token_id}", "/install-tokens/first"));
            let reply = asked(&house, &known, route, &format!("{no_id}?colour=red")).by(ROOT).send().await;
            assert_eq!(reply.status, 404, "{route:?}: {}", reply.text());
        }
        // A precondition and the body come behind it.
        let bare = house.ask(route.method.as_str(), &unknown).by(ROOT).body("not json");
        bare.send().await.refused(400, "invalid_request");
    }
    house.contacts_written().await;
    assert_eq!(house.written().await, before);
}

#[tokio::test]
async fn a_query_without_a_parameter_is_none() {
    let house = House::new().await;
    let body = json!({"name": "web-1", "kind": "byoc", "tenant_id": "acme"});
    house.post("/v1/hosts?").json(&body).send().await.expect(201);
    house.get("/v1/hosts?&").send().await.expect(200);
}

/// An agent may be newer than its server, and is let in all the same.
#[tokio::test]
async fn agents_may_add_parameters_that_the_server_does_not_know() {
    let house = House::new().await;
    let created = house.create("web-2").await;
    let host = house.enrol("web-1").await;
    let token = host.token.expose();
    let post = |path: &str| house.ask("POST", &format!("/v1/{path}?colour=red&limit=x")).by(token);
    house.ask("GET", "/v1/agent/self?colour=red").by(token).send().await.expect(200);
    post("agent/telemetry").json(&report_at(later(1))).send().await.expect(200);
    post("agent/telemetry/batch").json(&json!({"reports": [report_at(later(2))]})).send().await.expect(200);
    post("agent/heartbeat").send().await.expect(200);
    post("agent/token/rotate")
        .json(&json!({"claim": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"}))
        .send()
        .await
        .expect(200);
    let install_token = json!({"install_token": created["install_token"]["token"]});
    post("install-tokens/exchange").json(&install_token).send().await.expect(200);
}

#[tokio::test]
async fn a_limit_of_any_size_is_brought_within_its_bounds_on_every_list() {
    let house = House::new().await;
    let known = Known::of(&house).await;
    house.report_by(&known.host.token, &report_at(later(1))).send().await.expect(200);
    house.post("/v1/tenants/acme/install-tokens").send().await.expect(201);
    let lists = [
        "/v1/hosts",
        "/v1/events",
        "/v1/hosts/{host_id}/tokens",
        "/v1/hosts/{host_id}/install-tokens",
        "/v1/tenants/{tenant_id}/install-tokens",
        "/v1/hosts/{host_id}/containers",
        "/v1/hosts/{host_id}/telemetry",
    ];
    for list in lists {
        let path = known.path(list);
        let all = house.get(&path).send().await.expect(200);
        assert_ne!(all["items"], json!([]), "{list}");
        for most in ["500", "501", "18446744073709551615", "18446744073709551616", "%2B50", "0500", &"9".repeat(99)] {
            assert_eq!(house.get(&format!("{path}?limit={most}")).send().await.expect(200), all, "{list} {most}");
        }
        let one = house.get(&format!("{path}?limit=1")).send().await.expect(200);
        assert_eq!(one["items"].as_array().map(Vec::len), Some(1), "{list}");
        for least in ["0", "-0", "-1", "-18446744073709551616"] {
            assert_eq!(house.get(&format!("{path}?limit={least}")).send().await.expect(200), one, "{list} {least}");
        }
    }
}
