//! What the server can be told, by flag or by `ENLIST_*` variable.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use enlist_core::TenantId;
use enlist_core::fleet::{Limits, ReusePolicy};

/// `enlist-server serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Where to listen; port 0 takes any that is free.
    #[arg(long, env = "ENLIST_LISTEN", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Threads that serve requests. By default one fewer than there are cores, but at least one: the engine needs a core too,
    /// SQLite's writer in this process or a PostgreSQL beside it, and work that stays on its thread costs less.
    #[arg(long, env = "ENLIST_WORKER_THREADS", value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub worker_threads: Option<u16>,

    /// Where the fleet is kept: `sqlite://PATH`, `postgres://USER@HOST/DATABASE`, or `memory:` for trying things out. A URL
    /// with a password belongs in the variable, since others can read a command line.
    #[arg(long, env = "ENLIST_DATABASE", default_value = "sqlite://enlist.db", hide_env_values = true)]
    pub database: DatabaseUrl,

    /// The way to PostgreSQL itself, when `--database` leads to a pooler that works by the transaction, as PgBouncer does.
    #[arg(long, env = "ENLIST_DATABASE_DIRECT", value_name = "URL", hide_env_values = true)]
    pub database_direct: Option<DatabaseUrl>,

    /// The schema that holds the tables in PostgreSQL.
    #[arg(long, env = "ENLIST_DATABASE_SCHEMA", default_value = "enlist")]
    pub database_schema: String,

    /// How many connections to PostgreSQL may be open at a time.
    #[arg(long, env = "ENLIST_DATABASE_CONNECTIONS", default_value_t = 16, value_parser = connections)]
    pub database_connections: u32,

    /// A file that holds the administrator's bearer token; `ENLIST_ADMIN_TOKEN` holds the token itself.
    #[arg(long, env = "ENLIST_ADMIN_TOKEN_FILE", value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,

    /// A JSON file of who may administer besides, and in which tenants: their ids, their roles and the SHA-256 of their
    /// bearer tokens. Read at the start.
    #[arg(long, env = "ENLIST_ACTORS_FILE", value_name = "PATH")]
    pub actors_file: Option<PathBuf>,

    /// The tenant of hosts that are created without one.
    #[arg(long, env = "ENLIST_DEFAULT_TENANT", default_value = "default")]
    pub default_tenant: TenantId,

    /// Refused exchanges a minute that an address may have (IPv6: a /64); 0 for no limit.
    #[arg(long, env = "ENLIST_EXCHANGE_PER_MINUTE", default_value_t = 30)]
    pub exchange_per_minute: u32,

    /// Live reports and heartbeats a minute that an agent token may send; 0 for no limit.
    #[arg(long, env = "ENLIST_LIVE_PER_MINUTE", default_value_t = 60)]
    pub live_per_minute: u32,

    /// Batches of reports a minute that an agent token may send; 0 for no limit.
    #[arg(long, env = "ENLIST_BATCHES_PER_MINUTE", default_value_t = 12)]
    pub batches_per_minute: u32,

    /// Rotations and refreshes a minute that a host may ask for; 0 for no limit.
    #[arg(long, env = "ENLIST_ROTATIONS_PER_MINUTE", default_value_t = 12)]
    pub rotations_per_minute: u32,

    /// How long an agent token lives from its first use on, and each of its successors. Agents rotate at two thirds of it,
    /// and can for 7 days after its end. For ever unless it is set.
    #[arg(long, env = "ENLIST_AGENT_TOKEN_LIFE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub agent_token_life: Option<Duration>,

    /// After what time in use an agent is asked to rotate its token. Never unless it is set.
    #[arg(long, env = "ENLIST_ROTATE_AFTER", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub rotate_after: Option<Duration>,

    /// What happens when a token that its agent had replaced is presented again: it is refused and an event says so; or
    /// what is live of its lineage is revoked besides.
    #[arg(long, env = "ENLIST_REUSE_POLICY", default_value = "report")]
    pub reuse_policy: Reuse,

    /// A file with the private key that signs access tokens, as `enlist-server make-signing-key` writes it. Given several
    /// times, the first signs, and the others are published and accepted besides. Without one no access tokens are issued.
    #[arg(long, env = "ENLIST_ACCESS_TOKEN_KEY", value_name = "PATH", value_delimiter = ',')]
    pub access_token_key: Vec<PathBuf>,

    /// Who issues access tokens (`iss`); the server's public URL, for example.
    #[arg(long, env = "ENLIST_ACCESS_TOKEN_ISSUER", value_name = "TEXT", default_value = "enlist")]
    pub access_token_issuer: String,

    /// Whom access tokens are meant for (`aud`); the issuer unless it is set.
    #[arg(long, env = "ENLIST_ACCESS_TOKEN_AUDIENCE", value_name = "TEXT")]
    pub access_token_audience: Option<String>,

    /// How long an access token is good; 1 minute to 24 hours.
    #[arg(long, env = "ENLIST_ACCESS_TOKEN_LIFE", default_value = "10m", value_parser = humantime::parse_duration)]
    pub access_token_life: Duration,

    /// After how much silence a host is unreachable; at least 3 seconds.
    #[arg(long, env = "ENLIST_LIVENESS_WINDOW", default_value = "90s", value_parser = humantime::parse_duration)]
    pub liveness_window: Duration,

    /// How often agents shall report; at most a third of the liveness window is asked for.
    #[arg(long, env = "ENLIST_REPORT_INTERVAL", default_value = "30s", value_parser = humantime::parse_duration)]
    pub report_interval: Duration,

    /// How long reports are kept; at least a day.
    #[arg(long, env = "ENLIST_TELEMETRY_RETENTION", default_value = "30d", value_parser = humantime::parse_duration)]
    pub telemetry_retention: Duration,

    /// How long events are kept.
    #[arg(long, env = "ENLIST_EVENT_RETENTION", default_value = "365d", value_parser = humantime::parse_duration)]
    pub event_retention: Duration,

    /// How long install tokens are listed that are of no use any more; at least 30 days.
    #[arg(long, env = "ENLIST_INSTALL_TOKEN_RETENTION", default_value = "365d", value_parser = humantime::parse_duration)]
    pub install_token_retention: Duration,

    /// Where every event is sent as it happens, signed, one `POST` an event, in order, until it is answered with 2xx. Of
    /// several replicas one is told.
    #[arg(long, env = "ENLIST_WEBHOOK_URL", value_name = "URL", hide_env_values = true)]
    pub webhook_url: Option<String>,

    /// A file with the secret that deliveries are signed with; at least 16 bytes.
    #[arg(long, env = "ENLIST_WEBHOOK_SECRET_FILE", value_name = "PATH")]
    pub webhook_secret_file: Option<PathBuf>,

    /// A file that keeps how far events were delivered. Without one yet, deliveries begin with the next event.
    #[arg(long, env = "ENLIST_WEBHOOK_STATE", value_name = "PATH")]
    pub webhook_state: Option<PathBuf>,

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

/// What happens when a retired token is presented again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reuse {
    /// Refuse it, and say so in an event.
    Report,
    /// Besides, revoke its lineage.
    RevokeLineage,
}

impl From<Reuse> for ReusePolicy {
    fn from(reuse: Reuse) -> Self {
        match reuse {
            Reuse::Report => Self::Report,
            Reuse::RevokeLineage => Self::RevokeLineage,
        }
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number, at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn connections(text: &str) -> Result<u32, String> {
    positive(text).and_then(|number| u32::try_from(number).map_err(|_| "fewer".to_owned()))
}

impl ServeArgs {
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.liveness_window = self.liveness_window;
        limits.report_interval = self.report_interval;
        limits.telemetry_retention = self.telemetry_retention;
        limits.event_retention = self.event_retention;
        limits.install_token_retention = self.install_token_retention;
        limits.agent_token_life = self.agent_token_life;
        limits.rotate_after = self.rotate_after;
        limits.refused_exchanges_per_minute = NonZeroU32::new(self.exchange_per_minute);
        limits.live_per_minute = NonZeroU32::new(self.live_per_minute);
        limits.batches_per_minute = NonZeroU32::new(self.batches_per_minute);
        limits.rotations_per_minute = NonZeroU32::new(self.rotations_per_minute);
        limits
    }
}

/// A URL that may hold a password: it is not printed, and read only after the command line was, whose errors repeat what
/// they refuse.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The text, password and all: for whoever connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What it says.
    ///
    /// # Errors
    /// When this build knows no such database.
    pub fn read(&self) -> Result<Database<'_>, InvalidDatabase> {
        match self.0.split_once(':') {
            Some(("memory", "")) => Ok(Database::Memory),
            Some(("sqlite", path)) if !path.trim_start_matches('/').is_empty() => Ok(Database::Sqlite(&self.0)),
            Some(("postgres" | "postgresql", _)) => Ok(Database::Postgres(self)),
            _ => Err(InvalidDatabase),
        }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<PathBuf> {
        let Ok(Database::Sqlite(url)) = self.read() else { return None };
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
        (path != ":memory:").then(|| PathBuf::from(path))
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

/// Where the fleet is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database<'a> {
    /// In memory: gone with the process.
    Memory,
    /// In a SQLite file.
    Sqlite(&'a str),
    /// In a PostgreSQL database.
    Postgres(&'a DatabaseUrl),
}

/// A database URL that this build does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a database is sqlite://PATH, postgres://USER@HOST/DATABASE or memory:")]
pub struct InvalidDatabase;
