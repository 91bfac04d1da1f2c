//! RFC 9457 problem details: every error of the HTTP surface, made here once for all frameworks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::id::{AgentTokenId, HostId};
use crate::wire::code::{AgentAction, Code};
use crate::wire::host::RunningContainer;

/// A refusal, ready for any framework: [`Problem::status`], [`Problem::headers`] and its JSON are the whole reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type", default = "about_blank")]
    pub type_uri: std::borrow::Cow<'static, str>,
    /// For people, the same for each code.
    #[serde(default)]
    pub title: std::borrow::Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// For people: what was wrong and what to do. Never a secret.
    #[serde(default)]
    pub detail: String,
    /// For machines.
    pub code: Code,
    /// A JSON Pointer to what was wrong in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What an agent does about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<AgentAction>,
    /// The server's clock, where time was the problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<Timestamp>,
    /// The public id of the token concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<AgentTokenId>,
    /// The host that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// Containers that stand in the way, the first 50 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<RunningContainer>,
    /// How many of them there are in all, counted up to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Sent as the header `Retry-After`, in whole seconds, rounded up.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Sent as the header `Accept-Encoding` (RFC 9110 §15.5.16): which encoding of the body would have been taken.
    #[serde(skip)]
    pub accept_encoding: Option<&'static str>,
}

impl Problem {
    /// The media type of its JSON.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// A problem with the status and title that its code usually has.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            type_uri: about_blank(),
            title: code.title().into(),
            status: code.status(),
            detail: detail.into(),
            code,
            field: None,
            action: None,
            server_time: None,
            token_id: None,
            host_id: None,
            containers: Vec::new(),
            total: None,
            retry_after: None,
            accept_encoding: None,
        }
    }

    /// The same under another status.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The same with what an agent does about it.
    #[must_use]
    pub fn with_action(self, action: AgentAction) -> Self {
        Self { action: Some(action), ..self }
    }

    /// The same with the server's clock.
    #[must_use]
    pub fn with_server_time(self, now: Timestamp) -> Self {
        Self { server_time: Some(now), ..self }
    }

    /// The same with `Retry-After`, and `retry` as the action.
    #[must_use]
    pub fn with_retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), action: Some(AgentAction::Retry), ..self }
    }

    /// The headers that belong to it, besides the status: names in lower case.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers =
            vec![("content-type", Self::CONTENT_TYPE.to_owned()), ("cache-control", "no-store".to_owned())];
        if self.status == 401 {
            // RFC 6750 §3: no error code when no credential was presented.
            let challenge = match self.code {
                Code::MissingToken => "Bearer realm=\"enlist\"".to_owned(),
                _ => format!("Bearer realm=\"enlist\", error=\"invalid_token\", error_description=\"{}\"", self.title),
            };
            headers.push(("www-authenticate", challenge));
        }
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.push(("retry-after", seconds.max(1).to_string()));
        }
        if let Some(encodings) = self.accept_encoding {
            headers.push(("accept-encoding", encodings.to_owned()));
        }
        headers
    }

    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a problem has string keys only, so it is JSON")
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let field = Some(error.field).filter(|_| error.code != Code::InvalidJson);
        Self { field, ..Self::new(error.code, error.detail) }
    }
}

const fn about_blank() -> std::borrow::Cow<'static, str> {
    std::borrow::Cow::Borrowed("about:blank")
}
