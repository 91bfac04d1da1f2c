//! What holds on every route: those that the router itself tells of, so that none can be forgotten.

mod common;

use common::{House, Known, ROOT, asked};
use enlist_http_warp::Caller;

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
