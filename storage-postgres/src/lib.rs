#![doc = include_str!("../README.md")]

mod agent_token;
mod aggregate;
mod authenticate;
mod builder;
mod candidate;
mod column;
mod contact;
mod container;
mod error;
mod event;
mod host;
mod host_page;
mod install_token;
mod lease;
mod liveness;
mod migrate;
mod partition;
mod presence;
mod prune;
mod snapshot;
mod sql;
mod steady;
mod store;
mod subscription;
mod telemetry;
mod transaction;

pub use builder::PgStoreBuilder;
/// The sqlx that the pool has to be of.
pub use sqlx;
pub use store::PgStore;
