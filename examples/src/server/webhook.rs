//! Telling another service of every event: one `POST` an event, in the order of positions and so in order for each host, and
//! the next only after this one was taken. At least once: what was taken just before a crash is sent again.

mod signature;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use enlist_agent_sdk::Backoff;
use enlist_core::event::Position;
use enlist_core::fleet::{AdminError, EventFeed, FeedFilter, FeedItem};
use enlist_core::wire::EventReply;
use enlist_core::{Actor, ActorId, Fleet, SystemEntropy};
use reqwest::{StatusCode, Url};
use zeroize::Zeroizing;

pub use signature::{InvalidSignature, SIGNATURE_HEADER, sign, verify};

use super::config::ServeArgs;

/// The header with the id of the event, by which a receiver tells repeats.
pub const EVENT_ID_HEADER: &str = "enlist-event-id";

/// How long the receiver may take.
const DELIVERY_TIME: Duration = Duration::from_secs(10);
/// The shortest secret that keeps guesses out.
const SHORTEST_SECRET: usize = 16;

/// Why events cannot be delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The URL, the secret and the state go together.
    #[error("a webhook needs --webhook-url, --webhook-secret-file and --webhook-state, all three")]
    Incomplete,
    /// Not a URL of HTTP.
    #[error("the webhook's URL is not one of http or https")]
    Url,
    /// The secret cannot be read.
    #[error("the webhook's secret {}", .0.display())]
    Secret(PathBuf, #[source] io::Error),
    /// The secret can be guessed.
    #[error("the webhook's secret {} has less than 16 bytes", .0.display())]
    ShortSecret(PathBuf),
    /// The state cannot be read or written.
    #[error("the webhook's state {}", .0.display())]
    State(PathBuf, #[source] io::Error),
    /// There is no client for HTTP.
    #[error("the webhook's client")]
    Client(#[source] reqwest::Error),
}

/// Where events are delivered, and how far they were.
pub(super) struct Webhook {
    http: reqwest::Client,
    url: Url,
    secret: Zeroizing<Vec<u8>>,
    state: PathBuf,
    /// Behind which position deliveries go on; from now on, if there was none yet.
    from: Option<Position>,
    backoff: Backoff,
}

impl Webhook {
    /// What the arguments describe, if they do.
    pub(super) fn of(args: &ServeArgs) -> Result<Option<Self>, WebhookError> {
        let (url, secret, state) = match (&args.webhook_url, &args.webhook_secret_file, &args.webhook_state) {
            (None, None, None) => return Ok(None),
            (Some(url), Some(secret), Some(state)) => (url, secret, state),
            _ => return Err(WebhookError::Incomplete),
        };
        let url: Url = url.parse().map_err(|_| WebhookError::Url)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(WebhookError::Url);
        }
        let text = fs::read(secret).map_err(|error| WebhookError::Secret(secret.clone(), error))?;
        let text = Zeroizing::new(text);
        let secret_bytes = Zeroizing::new(text.trim_ascii().to_vec());
        if secret_bytes.len() < SHORTEST_SECRET {
            return Err(WebhookError::ShortSecret(secret.clone()));
        }
        let unusable = |error| WebhookError::State(state.clone(), error);
        let from = load(state).map_err(unusable)?;
        // What cannot be written would be found out only once events were delivered, and lost by the next start.
        match from {
            Some(position) => save(state, position).map_err(unusable)?,
            None => drop(tempfile::NamedTempFile::new_in(directory(state)).map_err(unusable)?),
        }
        // Whoever is first installs the provider of TLS; the others find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(DELIVERY_TIME)
            // A signed body goes where the operator said, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(WebhookError::Client)?;
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        Ok(Some(Self { http, url, secret: secret_bytes, state: state.clone(), from, backoff }))
    }

    /// Fixes where deliveries begin, so that what is asked of the server from now on is told. To be called once the drivers
    /// were spawned.
    pub(super) async fn begin(&mut self, fleet: &Fleet) -> Option<EventFeed> {
        // The drivers take a moment to begin, and a store that is away is no reason not to serve.
        for _ in 0..50 {
            if let Ok(feed) = self.enter(fleet).await {
                return Some(feed);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Delivers until it is dropped; then the last delivery may be made again.
    pub(super) async fn deliver(mut self, fleet: Fleet, begun: Option<EventFeed>) {
        let mut begun = begun;
        loop {
            let entered = match begun.take() {
                Some(feed) => Ok(feed),
                None => self.enter(&fleet).await,
            };
            match entered {
                Ok(feed) => self.follow(&fleet, feed).await,
                // While the store is away, for example. A position of another database is not given up by itself: what it
                // has to go on with is the operator's to say.
                Err(error) => self.complain(&error),
            }
            self.pause().await;
        }
    }

    async fn enter(&mut self, fleet: &Fleet) -> Result<EventFeed, AdminError> {
        let reader = Actor::operator(ActorId::new("webhook").expect("it is short and printable"));
        let cursor = self.from.map(|position| position.to_string());
        let feed = fleet.admin(&reader).follow_events(FeedFilter { cursor, ..FeedFilter::default() }).await?;
        if self.from.is_none() {
            self.note(feed.position()).await;
        }
        Ok(feed)
    }

    /// Delivers what the feed tells, until it ends.
    async fn follow(&mut self, fleet: &Fleet, mut feed: EventFeed) {
        loop {
            match feed.next().await {
                Ok(Some(FeedItem::Event(event))) => {
                    let body = serde_json::to_vec(&event).expect("an event has string keys only, so it is JSON");
                    while let Err(reason) = self.post(fleet, &event, &body).await {
                        tracing::warn!(position = %event.position, reason, "an event was not taken, and is sent again");
                        self.pause().await;
                    }
                    self.backoff.reset();
                    self.note(event.position).await;
                }
                Ok(Some(FeedItem::Quiet(_))) => {}
                Ok(None) => return,
                // It stands where it stood: its place is not given up to others.
                Err(error) => {
                    self.complain(&error);
                    self.pause().await;
                }
            }
        }
    }

    fn complain(&self, error: &AdminError) {
        let state = self.state.display();
        tracing::warn!(error = error as &dyn std::error::Error, %state, "events are not delivered for now");
    }

    async fn post(&self, fleet: &Fleet, event: &EventReply, body: &[u8]) -> Result<(), String> {
        // Signed anew each time: the signature says when.
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(EVENT_ID_HEADER, event.id.to_string())
            .header(SIGNATURE_HEADER, sign(&self.secret, body, fleet.now()))
            .body(body.to_vec());
        match request.send().await.map(|reply| reply.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(refusal(status)),
            // Its URL may hold a secret of the receiver's.
            Err(error) => Err(error.without_url().to_string()),
        }
    }

    /// Keeps the position, so that a restart goes on behind it.
    async fn note(&mut self, position: Position) {
        let path = self.state.clone();
        let saved = tokio::task::spawn_blocking(move || save(&path, position)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the webhook's state was not written: a restart sends events again")
            }
            Err(error) => tracing::error!(%error, "the webhook's state was not written: a restart sends events again"),
        }
        self.from = Some(position);
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.next_delay(&SystemEntropy)).await;
    }
}

fn refusal(status: StatusCode) -> String {
    format!("the receiver answered {status}")
}

fn load(path: &Path) -> io::Result<Option<Position>> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| io::Error::other("it holds no position")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Durably and whole, or not at all.
fn save(path: &Path, position: Position) -> io::Result<()> {
    let directory = directory(path);
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{position}")?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}
