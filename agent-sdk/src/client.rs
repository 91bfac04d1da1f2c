//! Typed calls to an Enlist server: one request each, no state, no retries.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use enlist_core::agent_token::RETIRE_GRACE;
use enlist_core::telemetry::{HostFacts, Report};
use enlist_core::wire::{AgentSelf, ExchangeReply, HeartbeatReply, Problem, ProposedHost, TelemetryReply};
use enlist_core::{PlainToken, TokenHash};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, Url};
use rustls_platform_verifier::BuilderVerifierExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::error::ClientError;
use crate::install_token::InstallToken;

/// How long a request may take in all, half the retire grace: then no message of ours is in flight any more when the
/// server begins to take the use of a retired token for a theft.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(RETIRE_GRACE.as_secs() / 2);

/// The largest reply that is read.
const MAX_REPLY_BYTES: usize = 64 * 1024;

const USER_AGENT: &str = concat!("enlist-agent-sdk/", env!("CARGO_PKG_VERSION"));

/// A server's agent routes. Cheap to clone; clones share connections.
///
/// Every call is one request that ends within [`REQUEST_TIMEOUT`]. Dropping its future abandons the request, whose fate
/// is then unknown, as after a time-out. Replies are read up to 64 KiB; redirects are not followed, since a credential
/// must not travel to wherever a reply points.
///
/// ```
/// use enlist_agent_sdk::Client;
///
/// let client = Client::new("http://127.0.0.1:7070/fleet/")?; // calls http://127.0.0.1:7070/fleet/v1/…
/// # Ok::<(), enlist_agent_sdk::ClientError>(())
/// ```
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    timeout: Duration,
}

impl Client {
    /// A client for the server at this base URL, with the defaults of [`Client::builder`].
    ///
    /// # Errors
    /// See [`ClientBuilder::build`].
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::builder(url).build()
    }

    /// Begins a client for the server at this base URL: `http` or `https`, a path prefix is kept.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder { url: url.to_owned(), http: None, timeout: REQUEST_TIMEOUT }
    }

    /// Exchanges an install token for the credential whose hash is `claim`; safe to repeat with the same claim.
    ///
    /// `host` is for tenant-bound install tokens. Keep the secret behind `claim` durably before calling this;
    /// [`Enrolment`](crate::Enrolment) does.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn exchange(
        &self,
        install_token: &InstallToken,
        claim: TokenHash,
        facts: Option<&HostFacts>,
        host: Option<&ProposedHost>,
    ) -> Result<ExchangeReply, ClientError> {
        let body = ExchangeBody { install_token: install_token.expose(), claim, facts, host };
        let request = self.request(Method::POST, "/v1/install-tokens/exchange");
        receive(with_json(request, &body)).await
    }

    /// Sends a report. Numbers must be finite: JSON has no others.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn report(&self, token: &PlainToken, report: &Report) -> Result<TelemetryReply, ClientError> {
        let request = self.request(Method::POST, "/v1/agent/telemetry");
        receive(with_json(with_bearer(request, token), report)).await
    }

    /// Says that the host is there, and nothing else.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn heartbeat(&self, token: &PlainToken) -> Result<HeartbeatReply, ClientError> {
        #[derive(Serialize)]
        struct Empty {}
        let request = self.request(Method::POST, "/v1/agent/heartbeat");
        receive(with_json(with_bearer(request, token), &Empty {})).await
    }

    /// Asks the server whose credential this is.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn who_am_i(&self, token: &PlainToken) -> Result<AgentSelf, ClientError> {
        receive(with_bearer(self.request(Method::GET, "/v1/agent/self"), token)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // Set here, not only on the HTTP client: that may be the caller's own.
        self.http.request(method, format!("{}{path}", self.base)).timeout(self.timeout)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// What a [`Client`] is made of.
#[derive(Debug)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    http: Option<reqwest::Client>,
    timeout: Duration,
}

impl ClientBuilder {
    /// The caller's own HTTP client: its TLS, proxies and pools. Switch redirects off in it, and prefer HTTP/1.1.
    ///
    /// The default one speaks HTTP/1.1 (a request that times out gives its connection up, where HTTP/2 would go on using a
    /// dead one), TLS 1.2 and 1.3 by rustls with the ring provider and the platform's root certificates, and the proxy
    /// of the environment save for loopback addresses. No process-wide default is read or set.
    pub fn http_client(mut self, http: reqwest::Client) -> Self {
        self.http = Some(http);
        self
    }

    /// A shorter time-out than [`REQUEST_TIMEOUT`], which is the longest.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(REQUEST_TIMEOUT);
        self
    }

    /// The client. Nothing is sent.
    ///
    /// # Errors
    /// [`ClientError::InvalidUrl`] unless the URL is `http` or `https` without user, password, query and fragment;
    /// [`ClientError::Setup`] when TLS cannot be set up, for want of root certificates for example (for `https` only).
    pub fn build(self) -> Result<Client, ClientError> {
        let url = Url::parse(&self.url).map_err(|_| ClientError::InvalidUrl("it is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ClientError::InvalidUrl("it is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ClientError::InvalidUrl("a user or password has no place in it"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ClientError::InvalidUrl("a query or fragment has no place in it"));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            tracing::warn!(%url, "the server's URL is not https: credentials travel in the clear");
        }
        let http = match self.http {
            Some(http) => http,
            None => default_http_client(&url)?,
        };
        Ok(Client { http, base: url.as_str().trim_end_matches('/').into(), timeout: self.timeout })
    }
}

#[derive(Serialize)]
struct ExchangeBody<'a> {
    install_token: &'a str,
    claim: TokenHash,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<&'a HostFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a ProposedHost>,
}

fn default_http_client(url: &Url) -> Result<reqwest::Client, ClientError> {
    let mut http = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .tls_backend_preconfigured(tls(url).map_err(|error| ClientError::Setup(error.into()))?);
    if is_loopback(url) {
        http = http.no_proxy();
    }
    http.build().map_err(|error| ClientError::Setup(error.without_url().into()))
}

fn tls(url: &Url) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = if url.scheme() == "https" {
        builder.with_platform_verifier()?
    } else {
        // No redirect is followed, so TLS is never spoken: a machine without root certificates need not fail for it.
        builder.with_root_certificates(rustls::RootCertStore::empty())
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    })
}

fn with_bearer(request: RequestBuilder, token: &PlainToken) -> RequestBuilder {
    let text = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = HeaderValue::from_str(&text).expect("a token is ASCII letters, digits and underscores");
    value.set_sensitive(true);
    request.header(AUTHORIZATION, value)
}

/// The body's memory is zeroed when it is done with: an exchange holds a secret.
fn with_json(request: RequestBuilder, body: &impl Serialize) -> RequestBuilder {
    // Room for an exchange, so that growing leaves no copy of it behind.
    let mut json = Zeroizing::new(Vec::with_capacity(4 * 1024));
    serde_json::to_writer(&mut *json, body).expect("bodies have string keys only, so they are JSON");
    request.header(CONTENT_TYPE, "application/json").body(Bytes::from_owner(json))
}

async fn receive<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
    let mut response = request.send().await.map_err(transport)?;
    let head = Head::of(&response);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > MAX_REPLY_BYTES {
            return Err(ClientError::Unexpected { status: head.status });
        }
        body.extend_from_slice(&chunk);
    }
    judge(head, &body)
}

fn transport(error: reqwest::Error) -> ClientError {
    ClientError::Transport { timed_out: error.is_timeout(), source: error.without_url().into() }
}

/// What counts of a reply besides its body.
struct Head {
    status: u16,
    is_problem: bool,
    /// Seconds only: the server sends no dates, and a date would need two clocks to agree. One is ignored.
    retry_after: Option<Duration>,
}

impl Head {
    fn of(response: &Response) -> Self {
        let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let media_type = header(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
        Self {
            status: response.status().as_u16(),
            is_problem: media_type.trim().eq_ignore_ascii_case(Problem::CONTENT_TYPE),
            retry_after: header(RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
        }
    }
}

/// Tells the server's word from everything else that may answer in its place.
fn judge<T: DeserializeOwned>(head: Head, body: &[u8]) -> Result<T, ClientError> {
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
    use enlist_core::wire::Code;
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

    #[test]
    fn a_url_that_could_leak_or_surprise_is_refused() {
        for url in ["ftp://x", "x", "http://user:secret@x", "http://x/?token=1", "http://x/#a", ""] {
            assert!(matches!(Client::new(url), Err(ClientError::InvalidUrl(_))), "{url}");
        }
    }

    #[test]
    fn path_prefixes_of_the_url_are_kept() {
        for (url, expected) in [
            ("http://127.0.0.1:1", "http://127.0.0.1:1/v1/agent/self"),
            ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1/agent/self"),
            ("http://127.0.0.1:1/a/b/", "http://127.0.0.1:1/a/b/v1/agent/self"),
        ] {
            let request = Client::new(url).expect("a client").request(Method::GET, "/v1/agent/self");
            assert_eq!(request.build().expect("a request").url().as_str(), expected);
        }
    }

    /// Then no HTTP library shows it in its logs.
    #[test]
    fn the_credential_is_marked_as_sensitive() {
        let token = PlainToken::generate(enlist_core::secret::Prefix::AGENT, &enlist_core::SystemEntropy);
        let request = Client::new("http://127.0.0.1").expect("a client").request(Method::GET, "/v1/agent/self");
        let request = with_bearer(request, &token).build().expect("a request");
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn the_time_out_can_be_shortened_but_not_stretched_past_half_the_retire_grace() {
        let timeout = |by| Client::builder("http://127.0.0.1").timeout(by).build().expect("a client").timeout;
        assert_eq!(timeout(Duration::from_secs(3)), Duration::from_secs(3));
        assert_eq!(timeout(Duration::from_secs(60)), Duration::from_secs(15));
    }

    /// The request type of the wire is only read by servers; what is written here has to fit it.
    #[test]
    fn the_server_reads_an_exchange_as_it_was_meant() {
        let claim = TokenHash::from_bytes([7; 32]);
        let facts = HostFacts { cpu_count: Some(4), ..HostFacts::default() };
        let host = ProposedHost { name: "web-1".parse().ok(), external_id: None };
        let body = ExchangeBody { install_token: "mit_x", claim, facts: Some(&facts), host: Some(&host) };
        let json = serde_json::to_vec(&body).expect("JSON");
        let read: enlist_core::wire::ExchangeRequest = enlist_core::wire::parse_json(&json).expect("an exchange");
        assert_eq!(read.install_token, "mit_x");
        assert_eq!((read.claim, &read.facts, &read.host), (Some(claim), &Some(facts), &Some(host)));
    }

    /// The embedder may have a provider of its own, or none.
    #[tokio::test]
    async fn tls_works_without_a_process_wide_provider_and_sets_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let not_tls = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
        });
        match Client::new(&url) {
            Ok(client) => {
                let token = PlainToken::generate(enlist_core::secret::Prefix::AGENT, &enlist_core::SystemEntropy);
                let error = client.who_am_i(&token).await.expect_err("no TLS there");
                assert!(matches!(error, ClientError::Transport { timed_out: false, .. }), "{error:?}");
                not_tls.await.expect("asked");
            }
            // A machine without root certificates.
            Err(error) => assert!(matches!(error, ClientError::Setup(_)), "{error:?}"),
        }
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
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
