//! Typed calls to an Enlist server: one request each, no state, no retries.

mod judge;

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use enlist_core::TokenHash;
use enlist_core::agent_token::RETIRE_GRACE;
use enlist_core::telemetry::{HostFacts, Report};
use enlist_core::wire::{
    AgentSelf, BatchReply, ExchangeReply, HeartbeatReply, ProposeAgentToken, ProposedAgentToken, ProposedHost,
    RefreshAccessToken, TelemetryReply,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};
use rustls_platform_verifier::BuilderVerifierExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::agent_token::{AccessToken, BearerToken};
use crate::error::ClientError;
use crate::install_token::InstallToken;
use judge::{Head, judge};

/// How long a request may take in all, half the retire grace: then no message of ours is in flight any more when the
/// server begins to take the use of a retired token for a theft.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(RETIRE_GRACE.as_secs() / 2);

/// The largest reply that is read.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// The largest that is read in answer to a batch: some hundred bytes for each report.
const MAX_BATCH_REPLY_BYTES: usize = 512 * 1024;

const USER_AGENT: &str = concat!("enlist-agent-sdk/", env!("CARGO_PKG_VERSION"));

/// A server's agent routes. Cheap to clone; clones share connections.
///
/// Every call is one request that ends within [`REQUEST_TIMEOUT`]. Dropping its future abandons the request, whose fate
/// is then unknown, as after a time-out. Replies are read up to 64 KiB, those to batches up to 512 KiB; redirects are not followed, since a credential
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
    pub async fn report(&self, token: &impl BearerToken, report: &Report) -> Result<TelemetryReply, ClientError> {
        let request = self.request(Method::POST, "/v1/agent/telemetry");
        receive(with_json(with_bearer(request, token), report)).await
    }

    /// Sends reports that were kept back, compressed; the reply answers for each, in the same order. Safe to repeat: what
    /// was stored before is a duplicate. Numbers must be finite: JSON has no others.
    ///
    /// At most 500 reports, 8 MiB as JSON and 1 MiB compressed, unless the server says otherwise; beyond that the whole is
    /// refused with 413 or 422. Compressing costs some 10 ms of this thread a MiB.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn report_batch(&self, token: &impl BearerToken, reports: &[Report]) -> Result<BatchReply, ClientError> {
        #[derive(Serialize)]
        struct Batch<'a> {
            reports: &'a [Report],
        }
        let request = self.request(Method::POST, "/v1/agent/telemetry/batch");
        let request = with_compressed_json(with_bearer(request, token), &Batch { reports });
        receive_within(MAX_BATCH_REPLY_BYTES, request).await
    }

    /// Says that the host is there, and nothing else.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn heartbeat(&self, token: &impl BearerToken) -> Result<HeartbeatReply, ClientError> {
        #[derive(Serialize)]
        struct Empty {}
        let request = self.request(Method::POST, "/v1/agent/heartbeat");
        receive(with_json(with_bearer(request, token), &Empty {})).await
    }

    /// Asks the server whose credential this is.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn who_am_i(&self, token: &impl BearerToken) -> Result<AgentSelf, ClientError> {
        receive(with_bearer(self.request(Method::GET, "/v1/agent/self"), token)).await
    }

    /// Proposes the agent token whose hash is `claim` as the successor of `token`; safe to repeat with the same claim.
    ///
    /// The successor's first use retires `token`. Keep the secret behind `claim` durably before calling this, and do not
    /// present it before the 200; [`Session`](crate::Session) does all that.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn propose(&self, token: &impl BearerToken, claim: TokenHash) -> Result<ProposedAgentToken, ClientError> {
        let request = self.request(Method::POST, "/v1/agent/token/rotate");
        receive(with_json(with_bearer(request, token), &ProposeAgentToken { claim: Some(claim) })).await
    }

    /// Buys an access token with an agent token of kind `refresh`. A `claim` proposes a successor along with it, as
    /// [`Client::propose`] does.
    ///
    /// A server that signs no access tokens answers `not_found`: then the agent token itself is presented for work.
    ///
    /// # Errors
    /// As every call: see [`ClientError`].
    pub async fn refresh(
        &self,
        token: &impl BearerToken,
        claim: Option<TokenHash>,
    ) -> Result<AccessToken, ClientError> {
        let request = self.request(Method::POST, "/v1/agent/token/refresh");
        receive(with_json(with_bearer(request, token), &RefreshAccessToken { claim, rotate: false })).await
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

fn with_bearer(request: RequestBuilder, token: &impl BearerToken) -> RequestBuilder {
    let text = Zeroizing::new(format!("Bearer {}", token.bearer()));
    let mut value = HeaderValue::from_str(&text).expect("a token is visible ASCII");
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

/// For what is large and holds no secret. Quickly rather than well: reports repeat themselves so much that it hardly matters.
fn with_compressed_json(request: RequestBuilder, body: &impl Serialize) -> RequestBuilder {
    let json = serde_json::to_vec(body).expect("bodies have string keys only, so they are JSON");
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 4), Compression::fast());
    let written = encoder.write_all(&json).and_then(|()| encoder.finish());
    let compressed = written.expect("writing to memory does not fail");
    request.header(CONTENT_TYPE, "application/json").header(CONTENT_ENCODING, "gzip").body(compressed)
}

async fn receive<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
    receive_within(MAX_REPLY_BYTES, request).await
}

async fn receive_within<T: DeserializeOwned>(most: usize, request: RequestBuilder) -> Result<T, ClientError> {
    let mut response = request.send().await.map_err(transport)?;
    let head = Head::of(&response);
    // A reply can hold an access token; it has room for one.
    let mut body = Zeroizing::new(Vec::with_capacity(4 * 1024));
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > most {
            return Err(ClientError::Unexpected { status: head.status });
        }
        body.extend_from_slice(&chunk);
    }
    judge(head, &body)
}

fn transport(error: reqwest::Error) -> ClientError {
    ClientError::Transport { timed_out: error.is_timeout(), source: error.without_url().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enlist_core::PlainToken;

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
}
