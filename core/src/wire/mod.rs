//! Request and reply bodies of HTTP version 1, for every framework and for the agent.
//!
//! Fields may be added, never renamed. Bodies of agents ignore unknown fields; those of administration refuse them.

mod agent_token;
mod code;
mod container;
mod event;
mod host;
mod install_token;
mod liveness;
mod problem;
mod series;
mod telemetry;
mod unknown;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use agent_token::{
    AgentSelf, AgentTokenBody, AgentTokenStatus, IssueAgentToken, IssuedAgentToken, ProposeAgentToken,
    ProposedAgentToken, ProposedState, RefreshAccessToken, RefreshReply, RevokedAgentTokens, RotateAgentToken,
    TokenOrigin,
};
pub use code::{AgentAction, Code};
pub use container::ContainerBody;
pub use event::EventReply;
pub use host::{CreateHost, CreatedHost, DeletePreview, HostBody, PatchHost, RunningContainer};
pub use install_token::{
    ExchangeReply, ExchangeRequest, ExchangedToken, InstallTokenBody, MintInstallToken, MintedInstallToken,
    ProposedHost,
};
pub use liveness::{MonitorReply, MonitorStatus};
pub use problem::Problem;
pub use series::{ContainerBucketBody, HostBucketBody, LatestTelemetry, SeriesBody};
pub use telemetry::{
    BatchReply, BatchResult, ContainerSnapshotBody, HeartbeatReply, ReportStatus, SnapshotBody, TelemetryReply,
};
pub(crate) use unknown::{known, or_default};

use crate::error::FieldError;
use crate::pointer;

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
    // Asked of the whole at once: of each of its strings, as serde_json would of bytes, it costs more.
    let Ok(text) = std::str::from_utf8(json) else { return Err(not_json("it is not UTF-8")) };
    // serde would also take the fields of an object as an array, in an order that nobody promised.
    if json.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|first| *first == b'[') {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok();
        return Err(if is_json {
            FieldError::invalid("", "expected an object")
        } else {
            not_json("an object is expected")
        });
    }
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        // Only a body that is refused pays for finding out where.
        Err(_) => {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let error = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
                Ok(_) => return Err(not_json("there is something after the JSON value")),
                Err(error) => error,
            };
            // serde_json calls some wrong types a syntax error: an array where an enum's name is due.
            let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok();
            if error.inner().is_data() || (!is_half_a_character(error.inner()) && is_json()) {
                let detail = without_value(error.inner());
                Err(FieldError::invalid(pointer_of(error.path()) + &at_fault(&detail), detail))
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
    let quotes = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "];
    if error.is_syntax() {
        let out_of_range = text.starts_with("number out of range");
        return if out_of_range { "the number is out of range" } else { "a value of another kind is expected" }
            .to_owned();
    }
    if !quotes.iter().any(|start| text.starts_with(start)) {
        return text;
    }
    // The last of them: a quoted value may hold the word as well.
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None => "a value of another kind is expected".to_owned(),
    }
}

/// Whether a string escapes half of a surrogate pair, so that it is no text. Who passes over strings calls it JSON.
fn is_half_a_character(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    let halves = ["lone leading surrogate", "unexpected end of hex escape", "invalid unicode code point"];
    error.is_syntax() && halves.iter().any(|start| text.starts_with(start))
}

/// What a pointer to the object lacks, if the error is that a field does, or that it comes twice: the name is one of ours.
fn at_fault(detail: &str) -> String {
    let name = ["missing field `", "duplicate field `"].iter().find_map(|start| detail.strip_prefix(start));
    let name = name.and_then(|rest| rest.split('`').next());
    name.map_or_else(String::new, |name| format!("/{name}"))
}

/// A JSON Pointer (RFC 6901) of a serde path.
fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut found = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer::push(&mut found, &index.to_string()),
            Segment::Map { key } => pointer::push(&mut found, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer::bounded(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read by serde")]
    struct Outer {
        kind: crate::host::HostKind,
        #[serde(default)]
        number: u64,
        #[serde(default)]
        list: Vec<Outer>,
    }

    fn refused(json: &str) -> (Code, String, String) {
        let error = parse_json::<Outer>(json.as_bytes()).unwrap_err();
        (error.code, error.field, error.detail)
    }

    #[test]
    fn a_field_that_does_not_fit_is_named_and_its_value_is_not() {
        for (json, field) in [
            (r#"{"kind": "canary"}"#, "/kind"),
            (r#"{"kind": "byoc", "number": "canary, expected canary"}"#, "/number"),
            (r#"{"kind": "byoc", "list": [{"kind": ["canary"]}]}"#, "/list/0/kind"),
            (r#"{"kind": "byoc", "list": [{"kind": "byoc"}, {"number": 1}]}"#, "/list/1/kind"),
            (r#"{"number": 1}"#, "/kind"),
            (r#"{"kind": "byoc", "list": "canary"}"#, "/list"),
            (r#"{"kind": "byoc", "number": 1e999}"#, "/number"),
            (r#""canary""#, ""),
            (r#" ["byoc", 1, []]"#, ""),
        ] {
            let (code, found, detail) = refused(json);
            assert_eq!((code, found.as_str()), (Code::InvalidField, field), "{json}");
            assert!(!detail.contains("canary"), "{detail}");
        }
    }

    #[test]
    fn a_field_that_comes_twice_is_named() {
        for (json, field) in [
            (r#"{"kind": "byoc", "number": 1, "number": 2}"#, "/number"),
            (r#"{"kind": "byoc", "list": [{"kind": "byoc", "kind": "byoc"}]}"#, "/list/0/kind"),
        ] {
            let (code, found, _) = refused(json);
            assert_eq!((code, found.as_str()), (Code::InvalidField, field), "{json}");
        }
    }

    #[test]
    fn what_is_no_text_is_not_json() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only read by serde")]
        struct Texts {
            text: String,
            #[serde(default)]
            map: std::collections::BTreeMap<String, u64>,
        }
        let refused = |json: &[u8]| {
            let error = parse_json::<Texts>(json).unwrap_err();
            (error.code, error.field)
        };
        for json in [
            r#"{"text": "\ud800"}"#,
            r#"{"text": "\ud800\u0041"}"#,
            r#"{"text": "\ud800 canary"}"#,
            r#"{"text": "\udc00"}"#,
            r#"{"text": "t", "map": {"\ud800": 1}}"#,
        ] {
            assert_eq!(refused(json.as_bytes()), (Code::InvalidJson, String::new()), "{json}");
        }
        for json in [&b"{\"text\": \"\xff\"}"[..], b"{\"text\": \"t\", \"other\": \"\xff\"}", b"[\"\xff\"]"] {
            let error = parse_json::<Texts>(json).unwrap_err();
            assert!(error.code == Code::InvalidJson && error.detail.contains("UTF-8"), "{error}");
        }
        // The other half makes it whole.
        assert_eq!(parse_json::<Texts>(br#"{"text": "\ud83d\ude00"}"#).unwrap().text, "😀");
    }

    #[test]
    fn an_unknown_field_of_administration_is_named() {
        let (code, _, detail) = refused(r#"{"kind": "byoc", "colour": 1}"#);
        assert!(code == Code::InvalidField && detail.contains("`colour`"), "{detail}");
    }
}
