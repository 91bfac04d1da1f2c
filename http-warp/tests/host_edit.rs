//! `PATCH /v1/hosts/{host_id}`, `…/cordon`, `…/uncordon` and `…/tags`.

mod common;

use common::{Ask, House, ROOT, Reply};
use serde_json::{Value, json};

/// A host with everything, and its path.
async fn furnished(house: &House) -> (Value, String) {
    let body = json!({
        "name": "web-1", "kind": "managed", "tenant_id": "acme", "external_id": "i-4711", "provider": "hetzner",
        "availability_zone": "fsn1", "address": "10.0.0.7", "tags": ["edge", "eu"],
        "labels": {"rack": "7", "row": "b"}, "mint_install_token": false,
    });
    let created = house.post("/v1/hosts").json(&body).send().await;
    assert_eq!(created.header("etag"), Some("\"1\""));
    let host = created.expect(201)["host"].clone();
    let path = format!("/v1/hosts/{}", host["id"].as_str().expect("an id"));
    (host, path)
}

fn patch<'a>(house: &'a House, path: &str, if_match: &str, patch: &Value) -> Ask<'a> {
    house.ask("PATCH", path).by(ROOT).header("if-match", if_match).json(patch)
}

fn merged(host: &Value, changes: &Value) -> Value {
    let mut host = host.clone();
    for (field, value) in changes.as_object().expect("an object") {
        host[field] = value.clone();
    }
    host
}

#[track_caller]
fn shown(reply: Reply) -> Value {
    let etag = reply.header("etag").expect("a host has one").to_owned();
    let host = reply.expect(200);
    assert_eq!(etag, format!("\"{}\"", host["revision"]));
    host
}

async fn last_event(house: &House) -> Value {
    let events = house.get("/v1/events?limit=500").send().await.expect(200);
    events["items"].as_array().expect("items").last().expect("there are some").clone()
}

#[tokio::test]
async fn a_merge_patch_changes_what_it_says_and_nothing_else() {
    let house = House::new().await;
    let (created, path) = furnished(&house).await;
    assert_eq!(shown(house.get(&path).send().await), created);

    let body = json!({"name": "web-one", "address": null, "tags": ["eu"], "labels": {"rack": "8", "row": null, "u": "3"},
               "liveness_window_seconds": 300});
    let media_type = "application/merge-patch+json";
    let edited = shown(patch(&house, &path, "\"1\"", &body).header("content-type", media_type).send().await);
    let changes = json!({
        "name": "web-one", "address": null, "tags": ["eu"], "labels": {"rack": "8", "u": "3"}, "revision": 2,
        "liveness_window_seconds": 300, "updated_at": edited["updated_at"],
    });
    assert_eq!(edited, merged(&created, &changes));
    assert_eq!(shown(house.get(&path).send().await), edited);
    let event = last_event(&house).await;
    assert_eq!(event["type"], "host.updated");
    assert_eq!(event["data"], json!({"fields": ["name", "address", "tags", "labels", "liveness_window_seconds"]}));
    assert_eq!((&event["actor"], &event["host_id"]), (&json!(ROOT), &created["id"]));

    let body = json!({"external_id": null, "provider": null, "availability_zone": null, "tags": null, "labels": null,
                      "liveness_window_seconds": null});
    let media_type = "application/json";
    let emptied = shown(patch(&house, &path, "\"2\"", &body).header("content-type", media_type).send().await);
    let changes = json!({
        "external_id": null, "provider": null, "availability_zone": null, "tags": [], "labels": {}, "revision": 3,
        "liveness_window_seconds": null,
        "updated_at": emptied["updated_at"],
    });
    assert_eq!(emptied, merged(&edited, &changes));
}

#[tokio::test]
async fn the_same_patch_again_is_200_without_an_event_or_a_new_revision() {
    let house = House::new().await;
    let (_, path) = furnished(&house).await;
    let body = json!({"name": "web-one", "provider": null, "labels": {"rack": "8"}});
    let once = shown(patch(&house, &path, "\"1\"", &body).send().await);
    let written = house.written().await;
    assert_eq!(shown(patch(&house, &path, "\"2\"", &body).send().await), once);
    assert_eq!(shown(patch(&house, &path, "\"2\"", &json!({})).send().await), once);
    assert_eq!(house.written().await, written);
}

#[tokio::test]
async fn a_change_has_to_say_which_revision_it_was_decided_on() {
    let house = House::new().await;
    let (_, path) = furnished(&house).await;
    let written = house.written().await;
    let body = json!({"name": "web-one"});
    house.ask("PATCH", &path).by(ROOT).json(&body).send().await.refused(428, "precondition_required");
    for stale in ["\"0\"", "\"2\"", "W/\"1\"", "\"01\"", "\"+1\"", "\"x\"", "\"\"", "\"99999999999999999999\""] {
        patch(&house, &path, stale, &body).send().await.refused(412, "precondition_failed");
    }
    for malformed in ["1", "*", "\"1", "\"", "", "\"1\", \"2\""] {
        patch(&house, &path, malformed, &body).send().await.refused(400, "invalid_request");
    }
    let twice = patch(&house, &path, "\"1\"", &body).header("if-match", "\"1\"");
    twice.send().await.refused(400, "invalid_request");
    assert_eq!(house.written().await, written);
    shown(patch(&house, &path, "\"1\"", &body).send().await);
    patch(&house, &path, "\"1\"", &body).send().await.refused(412, "precondition_failed");
}

#[tokio::test]
async fn what_is_no_patch_of_a_host_is_422_and_named() {
    let house = House::new().await;
    let (_, path) = furnished(&house).await;
    let written = house.written().await;
    let too_many: Vec<_> = (0..65).map(|n| format!("t{n}")).collect();
    for (body, field) in [
        (json!({"name": null}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"kind": "byoc"}), "/kind"),
        (json!({"tenant_id": "elsewhere"}), "/tenant_id"),
        (json!({"cordoned": true}), "/cordoned"),
        (json!({"revision": 7}), "/revision"),
        (json!({"colour": null}), "/colour"),
        (json!({"tags": ["a b"]}), "/tags/0"),
        (json!({"tags": {"edge": null}}), "/tags"),
        (json!({"tags": too_many}), "/tags"),
        (json!({"labels": {"rack": 7}}), "/labels/rack"),
        (json!({"labels": ["rack"]}), "/labels"),
        (json!({"address": "10.0.0.7\n"}), "/address"),
        (json!({"liveness_window_seconds": 2}), "/liveness_window_seconds"),
        (json!({"liveness_window_seconds": 86_401}), "/liveness_window_seconds"),
        (json!({"liveness_window_seconds": "60"}), "/liveness_window_seconds"),
        (json!([{"op": "replace", "path": "/name", "value": "x"}]), ""),
        (json!(null), ""),
        (json!("name"), ""),
    ] {
        let problem = patch(&house, &path, "\"1\"", &body).send().await.refused(422, "invalid_field");
        assert_eq!(problem["field"], field, "{body} {problem}");
    }
    let ask = house.ask("PATCH", &path).by(ROOT).header("if-match", "\"1\"");
    ask.body("{").send().await.refused(400, "invalid_json");
    assert_eq!(house.written().await, written);
}

#[tokio::test]
async fn a_name_that_another_host_has_is_409_and_says_whose() {
    let house = House::new().await;
    let (_, path) = furnished(&house).await;
    let other = house.create("web-2").await;
    let written = house.written().await;
    let problem = patch(&house, &path, "\"1\"", &json!({"name": "web-2"})).send().await.refused(409, "name_taken");
    assert_eq!((&problem["host_id"], &problem["field"]), (&other["host"]["id"], &json!("/name")));
    let other = format!("/v1/hosts/{}", other["host"]["id"].as_str().expect("an id"));
    let body = json!({"external_id": "i-4711"});
    patch(&house, &other, "\"1\"", &body).send().await.refused(409, "external_id_taken");
    assert_eq!(house.written().await, written);
}

#[tokio::test]
async fn an_archived_host_is_not_changed() {
    let house = House::new().await;
    let (_, path) = furnished(&house).await;
    shown(house.post(&format!("{path}/archive")).send().await);
    let written = house.written().await;
    patch(&house, &path, "\"2\"", &json!({"name": "x"})).send().await.refused(409, "host_archived");
    for (method, below) in [("POST", "cordon"), ("POST", "uncordon"), ("PUT", "tags/t"), ("DELETE", "tags/edge")] {
        house.ask(method, &format!("{path}/{below}")).by(ROOT).send().await.refused(409, "host_archived");
    }
    assert_eq!(house.written().await, written);
}

#[tokio::test]
async fn cordoning_and_uncordoning_are_idempotent() {
    let house = House::new().await;
    let (created, path) = furnished(&house).await;
    for (verb, cordoned, event) in [("cordon", true, "host.cordoned"), ("uncordon", false, "host.uncordoned")] {
        let once = shown(house.post(&format!("{path}/{verb}")).send().await);
        assert_eq!(once["cordoned"], cordoned);
        let last = last_event(&house).await;
        assert_eq!((&last["type"], &last["data"]), (&json!(event), &json!({})));
        let written = house.written().await;
        assert_eq!(shown(house.post(&format!("{path}/{verb}")).send().await), once);
        assert_eq!(house.written().await, written);
    }
    assert_eq!(shown(house.get(&path).send().await)["name"], created["name"]);
}

#[tokio::test]
async fn tags_are_added_and_removed_one_by_one() {
    let house = House::new().await;
    let (_, path) = furnished(&house).await;
    let tags = || async { house.get(&format!("{path}/tags")).send().await.expect(200) };
    assert_eq!(tags().await, json!({"items": ["edge", "eu"], "next_cursor": null}));
    // A tag may hold what a path does not: it is decoded once.
    for (method, tag, left) in [
        ("PUT", "gpu", json!(["edge", "eu", "gpu"])),
        ("PUT", "zone%3Da%2Fb", json!(["edge", "eu", "gpu", "zone=a/b"])),
        ("DELETE", "edge", json!(["eu", "gpu", "zone=a/b"])),
        ("DELETE", "zone=a%2Fb", json!(["eu", "gpu"])),
    ] {
        let path = format!("{path}/tags/{tag}");
        let reply = house.ask(method, &path).by(ROOT).send().await;
        assert_eq!((reply.status.as_u16(), reply.text()), (204, String::new()), "{method} {tag}");
        assert_eq!(tags().await["items"], left);
        let last = last_event(&house).await;
        assert_eq!((&last["type"], &last["data"]), (&json!("host.updated"), &json!({"fields": ["tags"]})));
        let written = house.written().await;
        assert_eq!(house.ask(method, &path).by(ROOT).send().await.status, 204);
        assert_eq!(house.written().await, written, "the second time changes nothing");
    }
    let written = house.written().await;
    for bad in ["a%20b", "%ff", "zone%253Da", &"t".repeat(65)] {
        for method in ["PUT", "DELETE"] {
            let reply = house.ask(method, &format!("{path}/tags/{bad}")).by(ROOT).send().await;
            let problem = reply.refused(400, "invalid_request");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.starts_with("tag: ")), "{problem}");
        }
    }
    assert_eq!(house.written().await, written);
    for n in 0..62 {
        assert_eq!(house.ask("PUT", &format!("{path}/tags/t{n}")).by(ROOT).send().await.status, 204);
    }
    let refused = house.ask("PUT", &format!("{path}/tags/one-more")).by(ROOT).send().await;
    assert_eq!(refused.refused(422, "invalid_field")["field"], "/tags");
}
