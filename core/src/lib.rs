#![doc = include_str!("../../docs/core.md")]

#[cfg(feature = "access-tokens")]
pub mod access_token;
pub mod agent_token;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod container;
pub mod entropy;
mod error;
pub mod event;
#[cfg(feature = "server")]
pub mod fleet;
pub mod host;
pub mod id;
pub mod install_token;
pub mod lineage;
pub mod liveness;
#[cfg(feature = "server")]
pub mod placement;
mod pointer;
pub mod policy;
pub mod secret;
#[cfg(feature = "server")]
pub mod store;
pub mod telemetry;
mod text;
pub mod wire;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use entropy::{Entropy, SystemEntropy};
pub use error::{FieldError, InvalidTransition};
#[cfg(feature = "server")]
pub use fleet::{AgentIdentity, Drivers, Fleet, Timer};
pub use id::{AccessTokenId, ActorId, AgentTokenId, EventId, HostId, InstallTokenId, LineageId, TenantId};
pub use policy::{Actor, Policy, Role};
pub use secret::{AccessToken, PlainToken, TokenHash};
#[cfg(feature = "server")]
pub use store::{MemoryStore, Store};
pub use text::InvalidText;
