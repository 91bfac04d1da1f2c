//! Ingest as it is usually written by hand: axum and sqlx, a transaction a report, row by row.
//!
//! It shares nothing with Enlist's crates, so that tuning them does not tune it.

mod body;
mod grow;
mod schema;
mod store;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::clock;

pub use grow::{grow_postgres, grow_sqlite};
pub use store::Database;

/// As Enlist's own.
const MAX_BODY: usize = 1 << 20;

/// Serves `POST /v1/agent/telemetry` until the process ends or the future is dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, database: Database) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/agent/telemetry", post(telemetry))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(database));
    axum::serve(listener, router).await
}

async fn telemetry(State(database): State<Arc<Database>>, headers: HeaderMap, json: Bytes) -> Response {
    let Some(token) = bearer(&headers) else {
        return refusal(StatusCode::UNAUTHORIZED, "a bearer token is required");
    };
    let host = match database.host_of(&Sha256::digest(token)).await {
        Ok(Some(host)) => host,
        Ok(None) => return refusal(StatusCode::UNAUTHORIZED, "the token is not known"),
        Err(error) => return refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let now = clock::unix_micros();
    let report = match body::read(&json, now) {
        Ok(report) => report,
        Err(detail) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, &detail),
    };
    match database.store(host, &report, now).await {
        Ok(is_new) => {
            let status = if is_new { "accepted" } else { "duplicate" };
            json_reply(StatusCode::OK, &serde_json::json!({ "status": status, "next_report_in_ms": 30_000 }))
        }
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

fn refusal(status: StatusCode, detail: &str) -> Response {
    json_reply(status, &serde_json::json!({ "detail": detail }))
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
