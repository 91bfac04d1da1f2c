//! What the server can be told, by flag or by `ENLIST_*` variable.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use enlist_core::TenantId;
use enlist_core::fleet::Limits;

/// `enlist-server serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Where to listen; port 0 takes any that is free.
    #[arg(long, env = "ENLIST_LISTEN", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Where the fleet is kept: `sqlite://PATH`, or `memory:` for trying things out.
    #[arg(long, env = "ENLIST_DATABASE", default_value = "sqlite://enlist.db")]
    pub database: Database,

    /// A file that holds the administrator's bearer token; `ENLIST_ADMIN_TOKEN` holds the token itself.
    #[arg(long, env = "ENLIST_ADMIN_TOKEN_FILE", value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,

    /// The tenant of hosts that are created without one.
    #[arg(long, env = "ENLIST_DEFAULT_TENANT", default_value = "default")]
    pub default_tenant: TenantId,

    /// Refused exchanges a minute that an address may have (IPv6: a /64); 0 for no limit.
    #[arg(long, env = "ENLIST_EXCHANGE_PER_MINUTE", default_value_t = 30)]
    pub exchange_per_minute: u32,

    /// How often agents shall report; at most a third of the liveness window is asked for.
    #[arg(long, env = "ENLIST_REPORT_INTERVAL", default_value = "30s", value_parser = humantime::parse_duration)]
    pub report_interval: Duration,

    /// A proxy whose `X-Forwarded-For` is believed. May be given several times.
    #[arg(long, env = "ENLIST_TRUSTED_PROXY", value_name = "ADDRESS", value_delimiter = ',')]
    pub trusted_proxy: Vec<IpAddr>,

    /// How many connections may be open at a time; more wait to be accepted.
    #[arg(long, env = "ENLIST_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = positive)]
    pub max_connections: usize,

    /// How long requests may take to end once the server was told to stop.
    #[arg(long, env = "ENLIST_DRAIN", default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number, at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

impl ServeArgs {
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.report_interval = self.report_interval;
        limits.refused_exchanges_per_minute = NonZeroU32::new(self.exchange_per_minute);
        limits
    }
}

/// Where the fleet is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// In memory: gone with the process.
    Memory,
    /// In a SQLite file.
    Sqlite(String),
}

/// A database URL that this build does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDatabase {
    /// PostgreSQL is planned, not there.
    #[error("PostgreSQL is not supported yet: use sqlite://PATH")]
    Postgres,
    /// Something else.
    #[error("a database is sqlite://PATH or memory:")]
    Unknown,
}

impl FromStr for Database {
    type Err = InvalidDatabase;

    fn from_str(url: &str) -> Result<Self, InvalidDatabase> {
        match url.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("sqlite", path)) if !path.trim_start_matches('/').is_empty() => Ok(Self::Sqlite(url.to_owned())),
            Some(("postgres" | "postgresql", _)) => Err(InvalidDatabase::Postgres),
            _ => Err(InvalidDatabase::Unknown),
        }
    }
}

impl Database {
    /// The file, if it is one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Memory => None,
            Self::Sqlite(url) => {
                let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
                (path != ":memory:").then(|| PathBuf::from(path))
            }
        }
    }
}
