//! Containers, as administrators read them.

mod common;

use common::{House, container, later, report_at};
use serde_json::{Value, json};

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().expect("items").iter().map(|item| item["container_id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn a_container_that_a_complete_report_lacks_is_shown_only_when_removed_ones_are_asked_for() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let mut report = report_at(later(1));
    report["containers"] = json!([container("c2"), container("c3")]);
    house.report_by(&host.token, &report).send().await.expect(200);

    let path = format!("/v1/hosts/{}/containers", host.host_id);
    let page = house.get(&path).send().await.expect(200);
    assert_eq!(ids(&page), ["c2", "c3"]);
    assert_eq!(page["items"][0]["name"], "name of c2");
    assert_eq!(page["items"][0]["metrics"]["cpu_cores"], 0.5);
    assert_eq!(page["items"][0]["missing"], false);
    assert_eq!(page["items"][0]["removed_at"], Value::Null);

    let page = house.get(&format!("{path}?removed=true")).send().await.expect(200);
    assert_eq!(ids(&page), ["c1", "c2", "c3"]);
    assert_ne!(page["items"][0]["removed_at"], Value::Null);
}

#[tokio::test]
async fn pages_hold_every_container_once() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let mut report = report_at(later(1));
    // An engine may call a container what it likes: a cursor has to survive the query string.
    report["containers"] = json!([container("a b"), container("c&d=e"), container("é")]);
    house.report_by(&host.token, &report).send().await.expect(200);
    let path = format!("/v1/hosts/{}/containers?limit=1", host.host_id);
    let mut seen = Vec::new();
    let mut next = path.clone();
    loop {
        let page = house.get(&next).send().await.expect(200);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        next = format!(
            "{path}&cursor={}",
            percent_encoding::utf8_percent_encode(cursor, percent_encoding::NON_ALPHANUMERIC)
        );
    }
    assert_eq!(seen, ["a b", "c&d=e", "é"]);
}
