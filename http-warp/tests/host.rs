//! `/v1/hosts`, and one host.

mod common;

use common::{House, OWNER};
use serde_json::{Value, json};

#[tokio::test]
async fn a_created_host_is_found_again_with_everything_that_was_said_of_it() {
    let house = House::new().await;
    let body = json!({
        "name": "web-1", "kind": "managed", "tenant_id": "acme", "external_id": "i-4711", "provider": "hetzner",
        "availability_zone": "fsn1", "address": "10.0.0.7", "tags": ["edge", "eu"], "labels": {"rack": "7"},
        "liveness_window_seconds": 300, "credential_kind": "refresh",
    });
    let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
    assert_eq!(created["host"]["status"], "pending");
    assert_eq!(created["host"]["revision"], 1);
    for (field, said) in body.as_object().expect("an object") {
        if field != "credential_kind" {
            assert_eq!(created["host"][field], *said, "{field}");
        }
    }
    assert!(created["install_token"]["token"].as_str().expect("a token").starts_with("eit_"));

    let path = format!("/v1/hosts/{}", created["host"]["id"].as_str().expect("an id"));
    assert_eq!(house.get(&path).send().await.expect(200), created["host"]);
}

#[tokio::test]
async fn a_window_out_of_bounds_is_422_and_named() {
    let house = House::new().await;
    let written = house.written().await;
    for window in [json!(0), json!(2), json!(86_401), json!(-3), json!(30.5), json!("30"), json!(u64::MAX)] {
        let body = json!({"name": "web-1", "kind": "byoc", "liveness_window_seconds": window});
        let problem = house.post("/v1/hosts").json(&body).send().await.refused(422, "invalid_field");
        assert_eq!(problem["field"], "/liveness_window_seconds", "{window}");
    }
    assert_eq!(house.written().await, written);
    for window in [json!(3), json!(86_400), json!(null)] {
        let name = format!("web-{window}");
        let body = json!({"name": name, "kind": "byoc", "liveness_window_seconds": window});
        let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
        assert_eq!(created["host"]["liveness_window_seconds"], window);
    }
}

#[tokio::test]
async fn a_host_without_an_install_token_can_be_had() {
    let house = House::new().await;
    let body = json!({"name": "web-1", "kind": "byoc", "mint_install_token": false});
    let created = house.post("/v1/hosts").json(&body).send().await.expect(201);
    assert_eq!(created["install_token"], Value::Null);
    assert_eq!(created["host"]["tenant_id"], "acme", "the default tenant");
}

#[tokio::test]
async fn the_tenant_need_not_be_named_by_somebody_who_has_only_one() {
    let house = House::new().await;
    let body = json!({"name": "web-1", "kind": "byoc"});
    let created = house.ask("POST", "/v1/hosts").by(OWNER).json(&body).send().await.expect(201);
    assert_eq!(created["host"]["tenant_id"], "acme");
}

#[tokio::test]
async fn a_name_clash_names_the_other_host_so_that_a_lost_create_is_recovered() {
    let house = House::new().await;
    let first = house.create("web-1").await;
    let again = json!({"name": "web-1", "kind": "byoc", "tenant_id": "acme"});
    let problem = house.post("/v1/hosts").json(&again).send().await.refused(409, "name_taken");
    assert_eq!(problem["host_id"], first["host"]["id"]);
    assert_eq!(problem["field"], "/name");
}

#[tokio::test]
async fn pages_hold_every_host_once() {
    let house = House::new().await;
    for n in 0..5 {
        house.create(&format!("web-{n}")).await;
    }
    let mut names = Vec::new();
    let mut path = "/v1/hosts?limit=2".to_owned();
    loop {
        let page = house.get(&path).send().await.expect(200);
        let items = page["items"].as_array().expect("items");
        names.extend(items.iter().map(|host| host["name"].as_str().expect("a name").to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/hosts?limit=2&cursor={cursor}");
    }
    names.sort();
    assert_eq!(names, ["web-0", "web-1", "web-2", "web-3", "web-4"]);
}

#[tokio::test]
async fn filters_are_read_from_the_query() {
    let house = House::new().await;
    house.create("web-1").await;
    let body = json!({"name": "db 1", "kind": "managed", "tags": ["eu:west"]});
    house.post("/v1/hosts").json(&body).send().await.expect(201);
    for (query, found) in [
        ("kind=managed", vec!["db 1"]),
        ("kind=byoc&status=pending", vec!["web-1"]),
        ("tag=eu%3Awest", vec!["db 1"]),
        ("q=db+1", vec!["db 1"]),
        ("q=db%201", vec!["db 1"]),
        ("tenant_id=elsewhere", vec![]),
        ("status=archived", vec![]),
    ] {
        let page = house.get(&format!("/v1/hosts?{query}")).send().await.expect(200);
        let names: Vec<_> = page["items"].as_array().expect("items").iter().map(|host| &host["name"]).collect();
        assert_eq!(names, found, "{query}");
    }
}

#[tokio::test]
async fn path_parameters_are_decoded_exactly_once() {
    let house = House::new().await;
    let id = house.create("web-1").await["host"]["id"].as_str().expect("an id").to_owned();
    let once = id.replace('-', "%2D");
    assert_eq!(house.get(&format!("/v1/hosts/{once}")).send().await.expect(200)["id"], id);
    let twice = id.replace('-', "%252D");
    house.get(&format!("/v1/hosts/{twice}")).send().await.refused(404, "not_found");
}

#[tokio::test]
async fn archiving_twice_changes_nothing_the_second_time() {
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    let path = format!("/v1/hosts/{}/archive", host.host_id);
    let archived = house.post(&path).send().await.expect(200);
    assert_eq!(archived["status"], "archived");
    let written = house.written().await;
    assert_eq!(house.post(&path).send().await.expect(200), archived);
    assert_eq!(house.written().await, written);
}
