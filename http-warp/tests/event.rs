//! Events, as administrators read them.

mod common;

use common::{House, OWNER, STRANGER};
use serde_json::{Value, json};

fn types(page: &Value) -> Vec<&str> {
    page["items"].as_array().expect("items").iter().map(|item| item["type"].as_str().expect("a type")).collect()
}

#[tokio::test]
async fn events_tell_what_happened_in_order_and_who_did_it() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let page = house.get("/v1/events").send().await.expect(200);
    assert_eq!(
        types(&page),
        ["host.created", "install_token.minted", "host.enrolled", "agent_token.promoted", "host.online"]
    );
    assert_eq!(page["items"][0]["actor"], "root");
    assert_eq!(page["items"][0]["tenant_id"], "acme");
    assert_eq!(page["items"][0]["host_id"], json!(host.host_id));
    assert_eq!(page["items"][0]["data"]["name"], "web-1");
    assert_eq!(page["items"][2].get("actor"), None, "the host enrolled itself");
}

#[tokio::test]
async fn a_reader_that_comes_back_with_a_position_misses_nothing() {
    let house = House::new().await;
    house.create("web-1").await;
    let page = house.get("/v1/events?limit=1").send().await.expect(200);
    assert_eq!(types(&page), ["host.created"]);
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    house.create("web-2").await;
    let rest = house.get(&format!("/v1/events?cursor={cursor}")).send().await.expect(200);
    assert_eq!(types(&rest), ["install_token.minted", "host.created", "install_token.minted"]);
    let last = &rest["items"][2]["position"];
    let none = house.get(&format!("/v1/events?cursor={last}")).send().await.expect(200);
    assert_eq!(none, json!({"items": [], "next_cursor": null}));
}

#[tokio::test]
async fn events_are_filtered_by_host_type_and_tenant() {
    let house = House::new().await;
    let first = house.create("web-1").await;
    house.create("web-2").await;
    let id = first["host"]["id"].as_str().expect("an id");
    for (query, count) in [
        (format!("host_id={id}"), 2),
        (format!("host_id={id}&type=host.created"), 1),
        ("type=host.created".to_owned(), 2),
        ("tenant_id=acme".to_owned(), 4),
        ("tenant_id=elsewhere".to_owned(), 0),
    ] {
        let page = house.get(&format!("/v1/events?{query}")).send().await.expect(200);
        assert_eq!(types(&page).len(), count, "{query}");
    }
    let own = house.ask("GET", "/v1/events").by(OWNER).send().await.expect(200);
    assert_eq!(types(&own).len(), 4);
    let others = house.ask("GET", "/v1/events").by(STRANGER).send().await.expect(200);
    assert!(types(&others).is_empty());
}

#[tokio::test]
async fn a_position_ahead_of_every_event_is_refused_as_the_stream_refuses_it() {
    let house = House::new().await;
    for none in ["/v1/events", "/v1/events?cursor=0", "/v1/events?cursor=7"] {
        // Of a store without events nobody knows whether it has deleted them all by age.
        house.get(none).send().await.expect(200);
    }
    house.create("web-1").await;
    for query in ["cursor=3", "cursor=3&type=host.created", "cursor=3&tenant_id=elsewhere"] {
        let listed = house.get(&format!("/v1/events?{query}")).send().await.refused(400, "invalid_request");
        let followed = house.get(&format!("/v1/events/stream?{query}")).send().await.refused(400, "invalid_request");
        assert_eq!(listed, followed, "{query}");
    }
    for query in ["cursor=2", "cursor=1&type=host.created", "cursor=1&tenant_id=elsewhere", "tenant_id=elsewhere"] {
        let page = house.get(&format!("/v1/events?{query}")).send().await.expect(200);
        assert_eq!(page, json!({"items": [], "next_cursor": null}), "{query}");
    }
}
