#![doc = include_str!("../README.md")]

mod account;
mod cluster;
mod database;
mod directory;
mod error;
mod pgbouncer;
mod programs;
mod server;
mod template;
mod url;
mod watchdog;

pub use cluster::{Cluster, Durability};
pub use database::Database;
pub use error::Error;
pub use pgbouncer::PgBouncer;
pub use server::{PGBOUNCER_URL, POSTGRES_URL, pooler_url, server_url};
