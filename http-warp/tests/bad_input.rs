//! Bad input of every kind: the documented answer, nothing written, and the server goes on.

mod common;

use std::time::Duration;

use common::{House, ROOT, Reply, container, later, limits, now, report_at};
use enlist_core::secret::Prefix;
use enlist_core::{PlainToken, SystemEntropy};
use serde_json::{Value, json};

struct Case {
    what: &'static str,
    ask: Sent,
    status: u16,
    code: &'static str,
    field: Option<&'static str>,
    /// What the detail has to name, where there is no field in a body to point to.
    names: &'static str,
}

struct Sent {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Case {
    fn is_met_by(&self, reply: &Reply) -> bool {
        let problem = reply.json();
        reply.status == self.status
            && reply.header("content-type") == Some("application/problem+json")
            && reply.header("cache-control") == Some("no-store")
            && reply.header("www-authenticate").is_some() == (self.status == 401)
            && problem["status"] == self.status
            && problem["code"] == self.code
            && problem.get("field").and_then(Value::as_str) == self.field
            && problem["detail"].as_str().is_some_and(|detail| detail.contains(self.names))
            && (self.code != "clock_skew" || problem["server_time"] == json!(now()))
    }
}

#[tokio::test]
async fn bad_input_gets_its_documented_4xx_writes_nothing_and_the_server_goes_on() {
    let house = House::new().await;
    let enrolled = house.enrol("web-1").await;
    let minted = house.create("web-2").await;
    let install_token = minted["install_token"]["token"].as_str().expect("a token").to_owned();
    let known =
        KnownTo { host: enrolled.host_id.to_string(), agent_token: enrolled.token.expose().to_owned(), install_token };
    house.contacts_written().await;
    let before = house.written().await;

    let mut wrong = Vec::new();
    for case in cases(&known) {
        let mut request = house.ask(case.ask.method, &case.ask.path);
        for (name, value) in &case.ask.headers {
            request = request.header(name, value);
        }
        let reply = request.body(case.ask.body.clone()).send().await;
        let told = [&known.agent_token, &known.install_token].map(|secret| reply.text().contains(secret.as_str()));
        if !case.is_met_by(&reply) || told != [false; 2] {
            wrong.push(format!("{} ({} {}): {} {}", case.what, case.status, case.code, reply.status, reply.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    house.contacts_written().await;
    assert_eq!(house.written().await, before, "nothing was written");
    house.report_by(&enrolled.token, &report_at(later(1))).send().await.expect(200);
    house.get("/v1/hosts").send().await.expect(200);
}

struct KnownTo {
    host: String,
    agent_token: String,
    install_token: String,
}

fn cases(known: &KnownTo) -> Vec<Case> {
    let mut cases = agent_cases(known);
    cases.extend(credential_cases(known));
    cases.extend(exchange_cases(known));
    cases.extend(admin_cases(known));
    cases
}

fn agent_cases(known: &KnownTo) -> Vec<Case> {
    let report = |body: Vec<u8>| telemetry(&known.agent_token, body);
    let changed = |pointer: &str, value: Value| {
        let mut body = report_at(later(1));
        *body.pointer_mut(pointer).expect("it is there") = value;
        report(body.to_string().into_bytes())
    };
    let metrics = |text: &str| {
        let metrics = format!(r#"{{"recorded_at":"{}","host":{{"metrics":{{{text}}}}}}}"#, later(1));
        report(metrics.into_bytes())
    };
    let containers = |count: usize| json!((0..count).map(|n| container(&n.to_string())).collect::<Vec<_>>());
    let two_hours_slow = now().saturating_sub(Duration::from_secs(2 * 60 * 60));
    vec![
        case("not JSON", report(b"not json".to_vec()), 400, "invalid_json", None),
        case("an empty body", report(Vec::new()), 400, "invalid_json", None),
        case("half a document", report(b"{\"recorded_at\":".to_vec()), 400, "invalid_json", None),
        case("two documents", report(b"{} {}".to_vec()), 422, "invalid_field", Some("/recorded_at")),
        case("NaN, which is not JSON", metrics(r#""cpu_percent":NaN"#), 400, "invalid_json", None),
        case(
            "a number that overflows",
            metrics(r#""load_1m":1e999"#),
            422,
            "invalid_field",
            Some("/host/metrics/load_1m"),
        ),
        case("a list", report(b"[1]".to_vec()), 422, "invalid_field", Some("")),
        case(
            "a wrong type",
            changed("/host/metrics/cpu_percent", json!("12")),
            422,
            "invalid_field",
            Some("/host/metrics/cpu_percent"),
        ),
        case("no metrics", changed("/host", json!({})), 422, "invalid_field", Some("/host/metrics")),
        case(
            "a negative percentage",
            changed("/host/metrics/cpu_percent", json!(-1.0)),
            422,
            "invalid_field",
            Some("/host/metrics/cpu_percent"),
        ),
        case(
            "a negative counter",
            changed("/host/metrics/memory_used_bytes", json!(-1)),
            422,
            "invalid_field",
            Some("/host/metrics/memory_used_bytes"),
        ),
        case(
            "a counter beyond 63 bits",
            changed("/host/metrics/memory_used_bytes", json!(1_u64 << 63)),
            422,
            "invalid_field",
            Some("/host/metrics/memory_used_bytes"),
        ),
        case(
            "501 containers",
            changed("/containers", containers(501)),
            422,
            "too_many_containers",
            Some("/containers"),
        ),
        case(
            "a container twice",
            changed("/containers", json!([container("c"), container("c")])),
            422,
            "invalid_field",
            Some("/containers/1/container_id"),
        ),
        case(
            "a string over its bound",
            changed("/containers/0/name", json!("n".repeat(256))),
            422,
            "invalid_field",
            Some("/containers/0/name"),
        ),
        case(
            "a time that is none",
            changed("/recorded_at", json!("yesterday")),
            422,
            "invalid_field",
            Some("/recorded_at"),
        ),
        case(
            "a clock 2 h slow",
            changed("/recorded_at", json!(two_hours_slow)),
            422,
            "clock_skew",
            Some("/recorded_at"),
        ),
        case(
            "a clock 10 min fast",
            changed("/recorded_at", json!(later(600))),
            422,
            "clock_skew",
            Some("/recorded_at"),
        ),
        case("a body over the limit", report(vec![b' '; limits().body_bytes + 1]), 413, "body_too_large", None),
        case(
            "a body in an encoding that is not supported",
            with(report(b"x".to_vec()), "content-encoding", "br"),
            415,
            "unsupported_encoding",
            None,
        ),
        case(
            "a damaged gzip stream",
            with(report(b"x".to_vec()), "content-encoding", "gzip"),
            400,
            "invalid_encoding",
            None,
        ),
        case("a batch that is not JSON", batch(&known.agent_token, b"oops"), 400, "invalid_json", None),
        case("a batch without reports", batch(&known.agent_token, b"{}"), 422, "invalid_field", Some("/reports")),
        case("a heartbeat that is not JSON", heartbeat(&known.agent_token, b"oops"), 400, "invalid_json", None),
        case("a heartbeat that is no object", heartbeat(&known.agent_token, b"3"), 422, "invalid_field", Some("")),
    ]
}

fn credential_cases(known: &KnownTo) -> Vec<Case> {
    let body = || report_at(later(1)).to_string().into_bytes();
    let none = Sent { headers: Vec::new(), ..telemetry("", body()) };
    let token = &known.agent_token;
    let broken = flip_last(token);
    vec![
        case("no token", none, 401, "missing_token", None),
        case("a token with a broken checksum", telemetry(&broken, body()), 401, "invalid_token", None),
        case("a token that nobody has", telemetry(&unknown(Prefix::AGENT), body()), 401, "invalid_token", None),
        case("an install token as bearer", telemetry(&known.install_token, body()), 401, "invalid_token", None),
        case("an administrator's token", telemetry(ROOT, body()), 401, "invalid_token", None),
        case(
            "two Authorization headers",
            with(telemetry(token, body()), "authorization", &format!("Bearer {token}")),
            400,
            "invalid_request",
            None,
        ),
        case(
            "another scheme",
            Sent { headers: vec![("authorization", "Basic cm9vdDo=".into())], ..telemetry("", body()) },
            400,
            "invalid_request",
            None,
        ),
        case(
            "no credential of an administrator",
            Sent { headers: Vec::new(), ..get("/v1/hosts") },
            401,
            "missing_token",
            None,
        ),
        case(
            "a host's token for administration",
            with(Sent { headers: Vec::new(), ..get("/v1/hosts") }, "authorization", &format!("Bearer {token}")),
            401,
            "invalid_token",
            None,
        ),
    ]
}

fn exchange_cases(known: &KnownTo) -> Vec<Case> {
    let exchange = |body: Value| Sent {
        method: "POST",
        path: "/v1/install-tokens/exchange".into(),
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
    };
    let token = |token: &str| exchange(json!({ "install_token": token }));
    let facts = json!({"install_token": known.install_token, "facts": {"os": "o".repeat(256)}});
    vec![
        case("an exchange without a token", exchange(json!({})), 422, "invalid_field", Some("/install_token")),
        case(
            "an install token with a broken checksum",
            token(&flip_last(&known.install_token)),
            400,
            "invalid_install_token",
            Some("/install_token"),
        ),
        case(
            "an agent token in an exchange",
            token(&known.agent_token),
            400,
            "invalid_install_token",
            Some("/install_token"),
        ),
        case(
            "an install token that nobody has",
            token(&unknown(Prefix::INSTALL)),
            401,
            "invalid_install_token",
            Some("/install_token"),
        ),
        case(
            "an install token of a wrong type",
            exchange(json!({"install_token": 5})),
            422,
            "invalid_field",
            Some("/install_token"),
        ),
        case(
            "a secret where its hash belongs",
            exchange(json!({"install_token": known.install_token, "claim": known.agent_token})),
            422,
            "invalid_field",
            Some("/claim"),
        ),
        case("a fact over its bound", exchange(facts), 422, "invalid_field", Some("/facts/os")),
        case("a large exchange", exchange(json!({"install_token": "x".repeat(64 << 10)})), 413, "body_too_large", None),
    ]
}

fn admin_cases(known: &KnownTo) -> Vec<Case> {
    let host = &known.host;
    let post = |path: &str, body: Value| Sent { method: "POST", body: body.to_string().into_bytes(), ..get(path) };
    let create = |body: Value| post("/v1/hosts", body);
    let tokens = |body: Value| post(&format!("/v1/hosts/{host}/tokens"), body);
    let install_tokens = |body: Value| post(&format!("/v1/hosts/{host}/install-tokens"), body);
    let nobody = "01890000-0000-7000-8000-000000000000";
    let mut cases = vec![
        case(
            "a field that does not exist",
            create(json!({"name": "n", "kind": "byoc", "colour": "red"})),
            422,
            "invalid_field",
            Some("/colour"),
        ),
        case("no name", create(json!({"kind": "byoc"})), 422, "invalid_field", Some("/name")),
        case(
            "a name over its bound",
            create(json!({"name": "n".repeat(129), "kind": "byoc"})),
            422,
            "invalid_field",
            Some("/name"),
        ),
        case(
            "a kind that does not exist",
            create(json!({"name": "n", "kind": "rented"})),
            422,
            "invalid_field",
            Some("/kind"),
        ),
        case(
            "a name that is taken",
            create(json!({"name": "web-1", "kind": "byoc"})),
            409,
            "name_taken",
            Some("/name"),
        ),
        case(
            "a body of administration over the limit",
            create(json!({"name": "n".repeat(64 << 10)})),
            413,
            "body_too_large",
            None,
        ),
        case(
            "a token that would be expired",
            tokens(json!({"expires_at": now()})),
            422,
            "invalid_field",
            Some("/expires_at"),
        ),
        case("an unknown field of a token", tokens(json!({"ttl": 5})), 422, "invalid_field", Some("/ttl")),
        case(
            "an install token for ever",
            install_tokens(json!({"expires_at": "2036-01-01T00:00:00Z"})),
            422,
            "invalid_field",
            Some("/expires_at"),
        ),
        case("a host that does not exist", get(&format!("/v1/hosts/{nobody}")), 404, "not_found", None),
        case("its containers", get(&format!("/v1/hosts/{nobody}/containers")), 404, "not_found", None),
        case("its telemetry", get(&format!("/v1/hosts/{nobody}/telemetry")), 404, "not_found", None),
        case("its course", get(&format!("/v1/hosts/{nobody}/telemetry?step=60")), 404, "not_found", None),
        case("its latest report", get(&format!("/v1/hosts/{nobody}/telemetry/latest")), 404, "not_found", None),
        case(
            "its container's course",
            get(&format!("/v1/hosts/{nobody}/containers/c1/telemetry?step=60")),
            404,
            "not_found",
            None,
        ),
        case(
            "a container that is none",
            get(&format!("/v1/hosts/{host}/containers/%00/telemetry?step=60")),
            404,
            "not_found",
            None,
        ),
        case(
            "a container that is not UTF-8",
            get(&format!("/v1/hosts/{host}/containers/%ff/telemetry?step=60")),
            404,
            "not_found",
            None,
        ),
        case("archiving it", post(&format!("/v1/hosts/{nobody}/archive"), json!({})), 404, "not_found", None),
        case(
            "a token that does not exist",
            Sent { method: "DELETE", ..get(&format!("/v1/hosts/{host}/tokens/{nobody}")) },
            404,
            "not_found",
            None,
        ),
        case("an id that is none", get("/v1/hosts/web-1"), 404, "not_found", None),
        case("an id that is not UTF-8", get("/v1/hosts/%ff"), 404, "not_found", None),
        case(
            "an id that is encoded twice",
            get(&format!("/v1/hosts/{}", host.replace('-', "%252d"))),
            404,
            "not_found",
            None,
        ),
        case(
            "a token's id that is none",
            Sent { method: "DELETE", ..get(&format!("/v1/hosts/{host}/tokens/first")) },
            404,
            "not_found",
            None,
        ),
        case("a path that does not exist", get("/v1/teapots"), 404, "not_found", None),
        case(
            "a method that does not exist",
            Sent { method: "PUT", ..get("/v1/hosts") },
            405,
            "method_not_allowed",
            None,
        ),
    ];
    cases.extend(
        [
            ("/v1/hosts?limit=many", "limit: expected a whole number"),
            ("/v1/hosts?limit=", "limit: expected a whole number"),
            ("/v1/hosts?limit=-", "limit: expected a whole number"),
            ("/v1/hosts?limit=1e3", "limit: expected a whole number"),
            ("/v1/hosts?limit=%D9%A1", "limit: expected a whole number"),
            ("/v1/hosts?limit=1&limit=2", "limit"),
            ("/v1/hosts?status=asleep", "status"),
            ("/v1/hosts?status=,+expected+asleep", "status: expected one of `pending`"),
            ("/v1/hosts?kind=rented", "kind"),
            ("/v1/hosts?tag=%20", "tag"),
            ("/v1/hosts?tag=..", "tag"),
            ("/v1/hosts?colour=red", "colour"),
            ("/v1/hosts?cursor=x", "cursor"),
            ("/v1/events?cursor=x", "cursor"),
            ("/v1/events?host_id=web-1", "host_id: expected the id of a host"),
            ("/v1/events/stream?host_id=web-1", "host_id: expected the id of a host"),
            ("/v1/events?since=x", "since"),
        ]
        .map(|(path, names)| Case { names, ..case("a bad query", get(path), 400, "invalid_request", None) }),
    );
    cases.extend(
        [
            ("telemetry?from=yesterday", "from"),
            ("telemetry?cursor=x", "cursor"),
            ("telemetry?step=", "step"),
            ("telemetry?step=0", "step"),
            ("telemetry?step=86401", "step"),
            ("telemetry?step=5m", "step"),
            ("telemetry?step=1.5", "step"),
            ("telemetry?step=60&step=60", "step"),
            ("telemetry?step=60&limit=5", "limit"),
            ("telemetry?step=60&to=tomorrow", "to"),
            ("telemetry?step=60&cursor=x", "cursor"),
            ("telemetry?step=3", "take 4 s or more"),
            ("telemetry?step=86400&from=1970-01-01T00:00:00Z&to=9999-12-31T23:59:59Z", "from"),
            ("telemetry/latest?limit=1", "limit"),
            ("containers/c1/telemetry", "step"),
            ("containers/c1/telemetry?step=60&removed=true", "removed"),
            ("containers?removed=perhaps", "removed"),
            ("containers?limit=1.5", "limit: expected a whole number"),
        ]
        .map(|(path, names)| Case {
            names,
            ..case("a bad query", get(&format!("/v1/hosts/{host}/{path}")), 400, "invalid_request", None)
        }),
    );
    cases
}

/// Well-formed, and nobody's.
fn unknown(prefix: Prefix) -> String {
    PlainToken::generate(prefix, &SystemEntropy).expose().to_owned()
}

fn case(what: &'static str, ask: Sent, status: u16, code: &'static str, field: Option<&'static str>) -> Case {
    Case { what, ask, status, code, field, names: "" }
}

fn telemetry(token: &str, body: Vec<u8>) -> Sent {
    let headers = vec![("authorization", format!("Bearer {token}"))];
    Sent { method: "POST", path: "/v1/agent/telemetry".into(), headers, body }
}

fn heartbeat(token: &str, body: &[u8]) -> Sent {
    Sent { path: "/v1/agent/heartbeat".into(), ..telemetry(token, body.to_vec()) }
}

fn batch(token: &str, body: &[u8]) -> Sent {
    Sent { path: "/v1/agent/telemetry/batch".into(), ..telemetry(token, body.to_vec()) }
}

fn get(path: &str) -> Sent {
    Sent { method: "GET", path: path.into(), ..telemetry(ROOT, Vec::new()) }
}

fn with(mut sent: Sent, name: &'static str, value: &str) -> Sent {
    sent.headers.push((name, value.into()));
    sent
}

/// The same text with its last character changed.
fn flip_last(token: &str) -> String {
    let (kept, last) = token.split_at(token.len() - 1);
    format!("{kept}{}", if last == "0" { "1" } else { "0" })
}
