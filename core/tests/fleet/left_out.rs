//! What a report does not say: left out or `null`, as agents write it in whose language an empty list or map is `null`.

use enlist_core::conformance::sample::at;
use enlist_core::fleet::ContainerFilter;
use enlist_core::telemetry::{Report, parse_batch, parse_report};
use enlist_core::wire::{Problem, ReportStatus};
use enlist_core::{AgentIdentity, HostId};
use serde_json::{Value, json};

use crate::world::World;

fn read(body: &Value) -> Report {
    parse_report(body.to_string().as_bytes()).expect("it is a report")
}

fn container(more: Value) -> Value {
    with(json!({"container_id": "c1", "name": "web", "image": "nginx", "state": "running"}), more)
}

/// A report measured `seconds` after the beginning, with these fields.
fn report(seconds: i64, host: Value, more: Value) -> Value {
    with(json!({"recorded_at": at(seconds), "host": with(json!({"metrics": {}}), host)}), more)
}

fn with(mut object: Value, more: Value) -> Value {
    let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) else { panic!("both are objects") };
    fields.extend(more);
    object
}

async fn send(world: &World, identity: &AgentIdentity, body: &Value) -> Result<ReportStatus, Problem> {
    let reply = world.fleet.agent(identity).live().unwrap().report_json(body.to_string().as_bytes()).await;
    reply.map(|reply| reply.status).map_err(Problem::from)
}

async fn containers(world: &World, host_id: HostId) -> usize {
    world.fleet.admin(&world.root).list_containers(host_id, ContainerFilter::default()).await.unwrap().items.len()
}

#[test]
fn null_is_as_good_as_left_out() {
    let of = |more| report(0, json!({}), more);
    let holding = |more| of(json!({"containers": [container(more)]}));
    let cases = [
        (report(0, json!({"facts": null, "custom": null}), json!({})), of(json!({}))),
        (report(0, json!({"metrics": {"cpu_percent": null}}), json!({"agent": null})), of(json!({}))),
        (
            report(0, json!({"custom": {"known": 1, "unknown": null}}), json!({})),
            report(0, json!({"custom": {"known": 1}}), json!({})),
        ),
        (of(json!({"containers": null, "containers_complete": null})), of(json!({}))),
        (of(json!({"containers": null, "containers_complete": true})), of(json!({"containers_complete": true}))),
        (holding(json!({"ports": null, "labels": null, "metrics": null, "image_tag": null})), holding(json!({}))),
        (holding(json!({"labels": {"a": "b", "c": null}})), holding(json!({"labels": {"a": "b"}}))),
    ];
    for (null, left_out) in &cases {
        assert_eq!(read(null), read(left_out), "{null}");
    }
    let batch = json!({"reports": cases.iter().map(|(null, _)| null).collect::<Vec<_>>()});
    let batch = parse_batch(batch.to_string().as_bytes()).expect("a batch");
    let reports: Vec<_> = batch.into_iter().map(|item| item.expect("it is a report").report).collect();
    assert_eq!(reports, cases.each_ref().map(|(_, left_out)| read(left_out)));

    // A name that comes twice has the value that is known.
    let twice = report(0, json!({"custom": {"known": 1}}), json!({})).to_string().replace(":1}", r#":1,"known":null}"#);
    assert_eq!(parse_report(twice.as_bytes()).unwrap().host.custom["known"], 1.0);
}

/// What a report has to have cannot be left out, nor can an element of a list.
#[test]
fn null_is_refused_where_nothing_can_be_left_out() {
    let whole = report(0, json!({}), json!({"containers": [container(json!({"ports": [{"container_port": 80}]}))]}));
    for field in [
        "/recorded_at",
        "/host",
        "/host/metrics",
        "/containers/0",
        "/containers/0/container_id",
        "/containers/0/ports/0",
        "/containers/0/ports/0/container_port",
    ] {
        let mut body = whole.clone();
        *body.pointer_mut(field).expect("it is there") = Value::Null;
        assert_eq!(parse_report(body.to_string().as_bytes()).unwrap_err().field, field);
    }
}

#[tokio::test]
async fn no_list_takes_containers_away_only_where_it_is_said_to_be_complete() {
    let world = World::new().running().await;
    let identity = world.identity("a").await;
    for (seconds, list, complete, left) in [
        (0, json!([container(json!({}))]), json!(null), 1),
        (1, json!(null), json!(null), 1),
        (2, json!(null), json!(false), 1),
        (3, json!(null), json!(true), 0),
    ] {
        let mut body = report(seconds, json!({}), json!({"containers": list, "containers_complete": complete}));
        assert_eq!(send(&world, &identity, &body).await, Ok(ReportStatus::Accepted));
        assert_eq!(containers(&world, identity.host_id()).await, left, "{body}");
        // It is the same report without what is null.
        body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert_eq!(send(&world, &identity, &body).await, Ok(ReportStatus::Duplicate));
    }
}
