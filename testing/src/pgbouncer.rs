//! A private PgBouncer.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::account::Account;
use crate::watchdog::Watchdog;
use crate::{Error, programs, url};

/// The file in its directory. It may hold the server's password.
const CONFIGURATION: &str = "pgbouncer.ini";

/// A PgBouncer of this process's own that pools in transaction mode, on a socket in a directory of its own.
///
/// At most four connections to the server for each database, whatever the number of clients, so that what does not
/// survive transaction mode shows. Startup parameters of sqlx pass, except `options`: PgBouncer refuses those unless its
/// operator lets it ignore them, and so does this one. Stopped and removed as a [`Cluster`](crate::Cluster) is.
#[derive(Debug)]
pub struct PgBouncer {
    watchdog: Watchdog,
}

impl PgBouncer {
    /// Starts one before the server at `server_url`, as the role in it, for all of its databases.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without the program; [`Error::Failed`] with the end of its log when it does not start.
    pub fn start(server_url: &str) -> Result<Self, Error> {
        let server = connection_string(server_url)?;
        let program = programs::pgbouncer()?;
        let account = Account::for_servers()?;
        // SIGTERM stops 1.18 at once. Later versions wait for the clients at the first, and stop at the second.
        let mut watchdog = Watchdog::create(account, "TERM", |directory| {
            let mut pooler = Command::new(program);
            pooler.arg(directory.join(CONFIGURATION));
            pooler
        })?;
        let socket = watchdog.directory().path().join(format!(".s.PGSQL.{}", url::PORT));
        watchdog.directory().append(CONFIGURATION, &configuration(watchdog.directory().path(), &server))?;
        watchdog.start("pgbouncer", |_| UnixStream::connect(&socket).is_ok())?;
        Ok(Self { watchdog })
    }

    /// The URL of this database of the server, through the pooler.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        url::of_socket(self.watchdog.directory().path(), database)
    }

    /// The directory with everything of it: its configuration, the socket, and its `log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.watchdog.directory().path()
    }
}

/// The server in PgBouncer's words.
fn connection_string(server_url: &str) -> Result<String, Error> {
    let options =
        PgConnectOptions::from_str(server_url).map_err(|_| Error::Url("the address of the server cannot be read"))?;
    let host = match options.get_socket() {
        Some(directory) => directory.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let mut words = format!(
        "host={} port={} user={}",
        quoted(&host),
        options.get_port(),
        // Set for everyone: whatever a client calls itself, it shares these connections.
        quoted(options.get_username())
    );
    if let Some(password) = options.to_url_lossy().password() {
        words.push_str(&format!(" password={}", quoted(&url::unescape(password))));
    }
    Ok(words)
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn configuration(directory: &Path, server: &str) -> String {
    format!(
        "
[databases]
* = {server}

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {directory}
auth_type = any
server_tls_sslmode = prefer
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
; Every test has its database, and soon drops it.
server_idle_timeout = 20
autodb_idle_timeout = 60
log_connections = 0
log_disconnections = 0
",
        port = url::PORT,
        directory = directory.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_named_in_pgbouncers_words() {
        let words = connection_string("postgres://me@localhost/db?host=/tmp/a").expect("a URL");
        assert_eq!(words, "host='/tmp/a' port=5432 user='me'");
        let words = connection_string("postgres://o%27neil:p%2Fw%27@db.example:7/x").expect("a URL");
        assert_eq!(words, "host='db.example' port=7 user='o''neil' password='p/w'''");
    }
}
