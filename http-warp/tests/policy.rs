//! The policy, seen through every route: those that the router itself tells of, so that none can be forgotten.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{House, Known, MEMBER, OWNER, ROOT, STRANGER, asked};
use enlist_core::policy::{Action, Actor, Decision, Policy, Resource, Scope};
use enlist_http_warp::{Caller, Route};
use serde_json::json;

/// The routes of administrators.
fn administration(house: &House) -> Vec<Route> {
    let all = house.table.iter().filter(|route| route.caller == Caller::Administrator);
    // A stream has no end to wait for: `event_stream.rs` looks at what it shows, and to whom.
    let routes: Vec<_> = all.filter(|route| route.path != "/v1/events/stream").cloned().collect();
    assert!(routes.len() > 15, "{routes:?}");
    routes
}

/// Whether it lists what the actor may see: then whoever may see nothing gets an empty page.
fn is_list_of_all(route: &Route) -> bool {
    route.method == "GET" && !route.path.contains('{')
}

#[tokio::test]
async fn to_an_actor_of_another_tenant_nothing_exists_on_any_route() {
    let house = House::new().await;
    let known = Known::of(&house).await;
    let before = house.written().await;
    for route in administration(&house) {
        let path = known.path(route.path);
        if is_list_of_all(&route) {
            for list in [path.clone(), format!("{path}?tenant_id=acme")] {
                let page = house.ask("GET", &list).by(STRANGER).send().await.expect(200);
                assert_eq!(page, json!({"items": [], "next_cursor": null}), "{list}");
            }
            continue;
        }
        let hidden = asked(&house, &known, &route, &path).by(STRANGER).send().await;
        assert_eq!(hidden.status, 404, "{route:?}: {}", hidden.text());
        let hidden = hidden.refused(404, "not_found");
        // Not told apart from one that is not there.
        let nobody = "01890000-0000-7000-8000-000000000000";
        let absent = path
            .replace(&known.host.host_id.to_string(), nobody)
            .replace(&known.install_token_id, nobody)
            .replace("acme", "nowhere");
        let absent = asked(&house, &known, &route, &absent).by(STRANGER).send().await.refused(404, "not_found");
        assert_eq!(hidden, absent, "{route:?}");
    }
    assert_eq!(house.written().await, before);
}

/// A host cannot so much as name another one.
#[test]
fn only_administrators_name_what_they_ask_about() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let house = runtime.block_on(House::new());
    let others: Vec<_> = house.table.iter().filter(|route| route.caller != Caller::Administrator).collect();
    assert!(others.len() >= 6, "{others:?}");
    assert!(others.iter().all(|route| !route.path.contains('{')), "{others:?}");
}

#[tokio::test]
async fn the_table_is_what_the_router_answers() {
    let house = House::new().await;
    let known = Known::of(&house).await;
    let mut paths: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for route in &house.table {
        assert!(paths.entry(route.path).or_default().insert(route.method.as_str()), "{route:?} is there twice");
    }
    for (template, methods) in paths {
        let reply = house.ask("TRACE", &known.path(template)).send().await;
        let allowed: BTreeSet<_> = reply.header("allow").expect("405 says what is allowed").split(", ").collect();
        assert_eq!((reply.status.as_u16(), allowed), (405, methods), "{template}");
    }
}

#[tokio::test]
async fn a_member_reads_what_only_an_owner_changes() {
    for route in administration(&House::new().await) {
        // Each on a fleet of its own: some of them leave nothing for the next.
        let house = House::new().await;
        let known = Known::of(&house).await;
        let path = known.path(route.path);
        let reply = asked(&house, &known, &route, &path).by(MEMBER).send().await;
        if route.method == "GET" {
            assert_eq!(reply.status, 200, "{route:?}: {}", reply.text());
        } else {
            assert_eq!(reply.status, 403, "{route:?}: {}", reply.text());
            reply.refused(403, "forbidden");
        }
        let force = if route.method == "DELETE" && route.path == "/v1/hosts/{host_id}" { "?force=true" } else { "" };
        let reply = asked(&house, &known, &route, &format!("{path}{force}")).by(OWNER).send().await;
        assert!(reply.status.is_success(), "{route:?}: {}", reply.text());
    }
}

/// Lets nobody do, or see, anything.
struct Closed(Decision);

impl Policy for Closed {
    fn authorize(&self, actor: &Actor, _: Action, _: Resource<'_>) -> Decision {
        if actor.id.as_str() == ROOT { Decision::Allow } else { self.0 }
    }
    fn scope(&self, actor: &Actor, _: Action) -> Scope {
        if actor.id.as_str() == ROOT { Scope::All } else { Scope::Tenants(BTreeMap::new()) }
    }
}

/// The guard of every verb to come: whichever forgets to ask the policy answers somebody here.
#[tokio::test]
async fn every_route_of_administration_asks_the_policy() {
    for (decision, status) in [(Decision::Hide, 404), (Decision::Forbid, 403)] {
        let house = House::configured(|builder| builder.policy(Closed(decision))).await;
        let known = Known::of(&house).await;
        let before = house.written().await;
        for route in administration(&house) {
            let reply = asked(&house, &known, &route, &known.path(route.path)).by(OWNER).send().await;
            if is_list_of_all(&route) {
                assert_eq!(reply.expect(200), json!({"items": [], "next_cursor": null}), "{route:?}");
            } else {
                assert_eq!(reply.status, status, "{route:?}: {}", reply.text());
            }
        }
        assert_eq!(house.written().await, before);
    }
}

#[tokio::test]
async fn a_managed_host_is_its_operators_alone_to_change() {
    let house = House::new().await;
    let body = json!({"name": "managed-1", "kind": "managed", "tenant_id": "acme"});
    let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
    let path = format!("/v1/hosts/{}", created["host"]["id"].as_str().expect("an id"));
    house.ask("GET", &path).by(OWNER).send().await.expect(200);
    house.ask("GET", &format!("{path}/delete-preview")).by(OWNER).send().await.expect(200);
    for (method, below) in
        [("POST", "/archive"), ("POST", "/cordon"), ("POST", "/uncordon"), ("PUT", "/tags/t"), ("DELETE", "")]
    {
        house.ask(method, &format!("{path}{below}")).by(OWNER).send().await.refused(403, "forbidden");
    }
    let patch = house.ask("PATCH", &path).by(OWNER).header("if-match", "\"1\"").json(&json!({}));
    patch.send().await.refused(403, "forbidden");
    house.ask("POST", "/v1/hosts").by(OWNER).json(&body).send().await.refused(403, "forbidden");
}
