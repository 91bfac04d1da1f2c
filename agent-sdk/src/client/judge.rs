//! Tells the server's word from everything else that may answer in its place.

use std::time::Duration;

use enlist_core::wire::Problem;
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde::de::DeserializeOwned;

use crate::error::ClientError;

/// What counts of a reply besides its body.
pub(super) struct Head {
    pub(super) status: u16,
    is_problem: bool,
    /// Seconds only: the server sends no dates, and a date would need two clocks to agree. One is ignored.
    retry_after: Option<Duration>,
}

impl Head {
    pub(super) fn of(response: &Response) -> Self {
        let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        Self::new(response.status().as_u16(), header(CONTENT_TYPE), header(RETRY_AFTER))
    }

    fn new(status: u16, content_type: Option<&str>, retry_after: Option<&str>) -> Self {
        let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
        Self {
            status,
            is_problem: media_type.trim().eq_ignore_ascii_case(Problem::CONTENT_TYPE),
            retry_after: retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
        }
    }
}

impl ClientError {
    /// What a reply says that another HTTP client has received, for [`Permit::worked`](crate::Permit::worked): a success, or
    /// the server's word, told from that of whatever stands in between. The headers are `Content-Type` and `Retry-After`.
    ///
    /// # Errors
    /// When it is no success.
    pub fn of_reply(
        status: u16,
        content_type: Option<&str>,
        retry_after: Option<&str>,
        body: &[u8],
    ) -> Result<(), Self> {
        let head = Head::new(status, content_type, retry_after);
        if (200..300).contains(&status) && !head.is_problem {
            return Ok(());
        }
        judge::<serde::de::IgnoredAny>(head, body).map(drop)
    }
}

/// What a reply says.
pub(super) fn judge<T: DeserializeOwned>(head: Head, body: &[u8]) -> Result<T, ClientError> {
    let Head { status, is_problem, retry_after } = head;
    if status == 200 && !is_problem {
        return serde_json::from_slice(body).map_err(|_| ClientError::Unexpected { status });
    }
    let problem = Some(body)
        .filter(|_| is_problem && status >= 400)
        .and_then(|body| serde_json::from_slice::<Problem>(body).ok())
        .filter(|problem| problem.status == status)
        .map(|problem| Box::new(Problem { retry_after, ..problem }));
    match (problem, retry_after) {
        (problem, Some(after)) if matches!(status, 429 | 503) => {
            Err(ClientError::RetryLater { status, after, problem })
        }
        // The request was too slow to be read: as good as no answer, and the same again may be quicker.
        (Some(_), _) if status == 408 => Err(ClientError::Unexpected { status }),
        (Some(problem), _) => Err(ClientError::Refused(problem)),
        (None, _) => Err(ClientError::Unexpected { status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::wire::{Code, HeartbeatReply, TelemetryReply};
    use proptest::prelude::*;

    fn problem(status: u16, code: Code) -> Vec<u8> {
        Problem::new(code, "why").with_status(status).to_json()
    }

    fn judged(status: u16, is_problem: bool, retry_after: Option<u64>, body: &[u8]) -> ClientError {
        let head = Head { status, is_problem, retry_after: retry_after.map(Duration::from_secs) };
        judge::<HeartbeatReply>(head, body).expect_err("no answer that counts")
    }

    #[test]
    fn a_refusal_counts_only_in_our_form_and_under_its_own_status() {
        let deleted = problem(410, Code::HostDeleted);
        assert!(judged(410, true, None, &deleted).is_host_deleted());
        for (status, is_problem, body) in [
            (410, false, deleted.as_slice()),
            (401, true, &deleted),
            (200, true, &deleted),
            (410, true, b"{\"status\":410}"),
            (410, true, b"<html>gone</html>"),
        ] {
            let error = judged(status, is_problem, None, body);
            assert!(matches!(error, ClientError::Unexpected { .. }), "{error:?}");
            assert!(!error.is_final() && !error.is_host_deleted());
        }
        let other = judged(401, true, None, &problem(401, Code::HostDeleted));
        assert!(!other.is_host_deleted(), "only 410 says that a host was deleted");
    }

    #[test]
    fn an_unknown_code_is_a_refusal_that_is_not_final() {
        let body = br#"{"type":"about:blank","status":409,"code":"of_a_later_version","action":"also_new"}"#;
        let error = judged(409, true, None, body);
        assert_eq!(error.problem().map(|p| p.code.as_str()), Some("of_a_later_version"));
        assert!(!error.is_final());
    }

    #[test]
    fn retry_after_counts_from_whoever_sends_it() {
        for (is_problem, body) in [(true, problem(503, Code::Overloaded)), (false, b"busy".to_vec())] {
            let error = judged(503, is_problem, Some(7), &body);
            assert!(matches!(error, ClientError::RetryLater { after, .. } if after.as_secs() == 7), "{error:?}");
        }
        assert!(matches!(judged(503, false, None, b"busy"), ClientError::Unexpected { status: 503 }));
        let late = problem(408, Code::RequestTimeout);
        assert!(matches!(judged(408, true, None, &late), ClientError::Unexpected { status: 408 }));
    }

    proptest! {
        #[test]
        fn no_reply_makes_judging_panic(
            status in 100u16..600, is_problem: bool, retry in proptest::option::of(any::<u64>()), body: Vec<u8>
        ) {
            let head = Head { status, is_problem, retry_after: retry.map(Duration::from_secs) };
            let _ = judge::<TelemetryReply>(head, &body);
        }
    }
}
