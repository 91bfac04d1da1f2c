//! `/healthz` and `/readyz`.

mod common;

use common::{House, ask, build, limits};
use enlist_http_warp::health;
use serde_json::json;
use warp::Filter;

#[tokio::test]
async fn a_fleet_whose_drivers_run_is_healthy_and_ready() {
    let house = House::new().await;
    let app = health(house.fleet.clone());
    assert_eq!(ask(&app, "GET", "/healthz").send().await.expect(200), json!({"status": "ok"}));
    let ready = ask(&app, "GET", "/readyz").send().await.expect(200);
    // The drivers have swept once, or are about to.
    let monitor = &ready["monitor"];
    assert!(monitor["status"] == "suspended" || monitor["last_sweep_at"].is_null(), "{monitor}");
    assert_eq!(ready["status"], "ready");
}

#[tokio::test]
async fn a_fleet_without_drivers_is_healthy_but_not_ready() {
    let (fleet, _drivers, _clock) = build(limits());
    let app = health(fleet);
    ask(&app, "GET", "/healthz").send().await.expect(200);
    let reply = ask(&app, "GET", "/readyz").send().await;
    assert!(reply.header("retry-after").is_some());
    reply.refused(503, "unavailable");
}

#[tokio::test]
async fn health_owns_its_two_paths_and_nothing_else() {
    let house = House::new().await;
    let own = warp::any().map(|| warp::reply::Response::new("own".into()));
    let app = health(house.fleet.clone()).or(own).unify().boxed();
    let reply = ask(&app, "POST", "/healthz").send().await;
    assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    reply.refused(405, "method_not_allowed");
    for path in ["/", "/healthz/x", "/health", "/v1/hosts"] {
        assert_eq!(ask(&app, "GET", path).send().await.text(), "own", "{path}");
    }
}
