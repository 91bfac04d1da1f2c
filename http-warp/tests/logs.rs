//! What is logged. Alone in its file: who logs first in a process decides what `tracing` asks of the others.

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{House, later, report_at};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while it was held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn logs_tell_route_and_status_and_no_secret_body_or_query_even_at_trace_level() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _on = tracing::subscriber::set_default(subscriber);
    let house = House::new().await;
    let host = house.enrol("web-1").await;
    house.report_by(&host.token, &report_at(later(1))).send().await.expect(200);
    house.report_by(&host.token, &json!({"canary": "in-the-body"})).send().await.refused(422, "invalid_field");
    house.get("/v1/hosts?q=canary-in-the-query").send().await.expect(200);
    house.get("/v1/hosts?canary=in-the-query").send().await.refused(400, "invalid_request");
    house.ask("GET", "/v1/hosts").by("canary-in-a-header").send().await.refused(401, "invalid_token");
    let issued = house.post(&format!("/v1/hosts/{}/tokens", host.host_id)).send().await.expect(201);
    let logged = String::from_utf8(log.0.lock().expect("no panic while it was held").clone()).expect("UTF-8");
    assert!(logged.contains(r#"request{method=POST route="/v1/agent/telemetry"}"#), "{logged}");
    assert!(logged.contains("answered status=422"), "{logged}");
    for secret in ["canary", host.token.expose(), issued["token"].as_str().expect("a secret")] {
        assert!(!logged.contains(secret), "{secret} in {logged}");
    }
}
