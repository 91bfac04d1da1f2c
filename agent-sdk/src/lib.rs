//! The agent half of Enlist: a host enrols, keeps its credential, reports, and survives what happens in between.
//!
//! Three layers, each usable alone:
//!
//! - [`Client`]: typed calls to the server's agent routes, with [`ClientError`]s that tell the server's word from that of
//!   whatever stands in between.
//! - [`Credential`]: an install token becomes one by an [`Enrolment`], a [`CredentialStore`] keeps it, and a [`Session`] uses
//!   it: rotates it, buys access tokens with it, and loses it neither by lost replies, time-outs, crashes nor restarts.
//! - [`Agent`]: the loop that enrols and then reports what its [`Collector`]s measure, with an [`Event`] stream and a
//!   [`Lease`].
//!
//! ```no_run
//! use enlist_agent_sdk::{Agent, Event, InstallToken};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let (agent, mut events) = Agent::builder("https://fleet.example.com")
//!     .state_dir("/var/lib/my-agent")
//!     .install_token(InstallToken::new(std::env::var("INSTALL_TOKEN")?)?)
//!     .open()
//!     .await?;
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         if let Event::ConnectivityLost { error } = event {
//!             eprintln!("{error}");
//!         }
//!     }
//! });
//! let outcome = agent.run(async { std::future::pending().await }).await?;
//! println!("{outcome:?}");
//! # Ok(()) }
//! ```
//!
//! Needs a tokio runtime with I/O and time. Time, randomness and sleeping are injected ([`Clock`], [`Entropy`], [`Timer`])
//! and default to the system's. No process-wide state is read or written: TLS has its provider passed in, and logs go to
//! `tracing`.
//!
//! Not yet here: reports kept on disk while the server is away, and containers.

mod agent;
mod agent_token;
mod backoff;
mod client;
mod collector;
mod credential;
mod enrolment;
mod error;
mod event;
mod install_token;
pub mod keyring;
mod lease;
mod machine;
mod session;
mod stamp;
mod timer;

pub use agent::{Agent, AgentBuilder, Outcome};
pub use agent_token::{AccessToken, AgentToken, BearerToken};
pub use async_trait::async_trait;
pub use backoff::Backoff;
pub use client::{Client, ClientBuilder, REQUEST_TIMEOUT};
pub use collector::{Collected, Collector, Containers, SystemCollector};
pub use credential::{Credential, CredentialStore, FileCredentialStore, SecretBytes};
pub use enlist_core::host::{ExternalId, HostName};
pub use enlist_core::wire::ProposedHost;
pub use enlist_core::{Clock, Entropy, SystemClock, SystemEntropy};
pub use enrolment::Enrolment;
pub use error::{
    BoxError, ClientError, CredentialError, EnrolError, InvalidAgentToken, InvalidInstallToken, OpenError, RunError,
    SessionError,
};
pub use event::{Event, Events};
pub use install_token::InstallToken;
pub use lease::Lease;
pub use machine::this_machine;
pub use reqwest;
pub use session::{Permit, Session, SessionBuilder, Worked};
pub use timer::{Timer, TokioTimer};
