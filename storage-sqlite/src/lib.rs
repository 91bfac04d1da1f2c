#![doc = include_str!("../README.md")]

mod agent_token;
mod aggregate;
mod candidate;
mod checkpoint;
mod column;
mod connection;
mod contact;
mod container;
mod error;
mod event;
mod host;
mod host_page;
mod install_token;
mod liveness;
mod migrate;
mod presence;
mod prune;
mod schema;
mod snapshot;
mod statement;
mod store;
mod subscription;
mod telemetry;
mod transaction;
mod worker;

pub use store::SqliteStore;
