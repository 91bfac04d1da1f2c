//! Request and reply bodies of HTTP version 1, for every framework and for the agent.
//!
//! Fields may be added, never renamed. Bodies of agents ignore unknown fields; those of administration refuse them.

mod agent_token;
mod code;
mod container;
mod event;
mod host;
mod install_token;
mod problem;
mod telemetry;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use agent_token::{AgentSelf, IssueAgentToken, IssuedAgentToken};
pub use code::{AgentAction, Code};
pub use container::ContainerBody;
pub use event::EventReply;
pub use host::{CreateHost, CreatedHost, HostBody};
pub use install_token::{
    ExchangeReply, ExchangeRequest, ExchangedToken, MintInstallToken, MintedInstallToken, ProposedHost,
};
pub use problem::Problem;
pub use telemetry::{ContainerSnapshotBody, HeartbeatReply, ReportStatus, SnapshotBody, TelemetryReply};

use crate::error::FieldError;

/// A page of a list. `next_cursor` is opaque; it asks for what follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageBody<T> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// Absent (`null`) on the last page.
    pub next_cursor: Option<String>,
}

/// Reads a JSON body.
///
/// # Errors
/// `invalid_json` when it is not JSON; `invalid_field` with a pointer to the value that does not fit.
pub fn parse_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, FieldError> {
    match serde_json::from_slice(json) {
        Ok(value) => Ok(value),
        // Only a body that is refused pays for finding out where.
        Err(_) => {
            let mut deserializer = serde_json::Deserializer::from_slice(json);
            let error = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
                Ok(_) => return Err(not_json("there is something after the JSON value")),
                Err(error) => error,
            };
            if error.inner().is_data() {
                Err(FieldError::invalid(pointer(error.path()), without_value(error.inner())))
            } else {
                Err(not_json(&error.inner().to_string()))
            }
        }
    }
}

fn not_json(detail: &str) -> FieldError {
    FieldError { code: Code::InvalidJson, field: String::new(), detail: format!("the body is not JSON: {detail}") }
}

/// What serde says, less the value that it quotes: that may be a secret in the wrong field.
fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.strip_prefix("invalid type: "), text.strip_prefix("invalid value: ")) {
        (None, None) => text,
        _ => match text.rsplit_once(", expected ") {
            Some((_, expected)) => format!("expected {expected}"),
            None => "a value of another type is expected".to_owned(),
        },
    }
}

/// A JSON Pointer (RFC 6901) of a serde path.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut pointer, segment| {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
        pointer
    })
}

/// The token of an `Authorization` header (RFC 6750 §2.1).
///
/// # Errors
/// When the scheme is not Bearer. Says what is wrong without repeating the value.
pub fn bearer(value: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "the Authorization header is not text")?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err("the Authorization header is not of the form: Bearer TOKEN"),
    }
}
