//! A private PostgreSQL.

use std::path::Path;
use std::process::Command;

use crate::account::Account;
use crate::error::tail;
use crate::watchdog::{Watchdog, prepare};
use crate::{Error, programs, url};

/// What a commit is worth to a [`Cluster`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Nothing is flushed to the disk: for tests of logic, which it makes much faster.
    #[default]
    Off,
    /// As in production: for tests that kill the server or measure it.
    On,
}

/// A PostgreSQL server of this process's own, in a directory of its own under `/tmp`, reached through a socket there.
///
/// Dropping it stops the server at once and removes the directory; so does the end of the process, however it ends.
#[derive(Debug)]
pub struct Cluster {
    watchdog: Watchdog,
}

impl Cluster {
    /// Starts one and waits until it accepts connections: about a second.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] without PostgreSQL's programs; [`Error::Failed`] with the end of the server's log when it
    /// does not start within a minute.
    pub fn start(durability: Durability) -> Result<Self, Error> {
        let programs = programs::postgres_folder()?;
        let account = Account::for_servers()?;
        // SIGQUIT, an immediate shutdown: there is nothing to keep.
        let mut watchdog = Watchdog::create(account, "QUIT", |directory| {
            let mut server = Command::new(programs.join("postgres"));
            server.arg("-D").arg(directory.join("data"));
            server
        })?;
        initialise(&programs, account, &watchdog.directory().path().join("data"))?;
        let configuration = configuration(watchdog.directory().path(), durability);
        watchdog.directory().append("data/postgresql.conf", &configuration)?;
        watchdog.start("postgres", |directory| {
            // Its eighth line is how `pg_ctl` knows, too.
            let status = directory.read("data/postmaster.pid");
            status.is_some_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
        })?;
        Ok(Self { watchdog })
    }

    /// The URL of its database `postgres`, for its superuser.
    #[must_use]
    pub fn url(&self) -> String {
        url::of_socket(self.watchdog.directory().path(), "postgres")
    }

    /// The directory with everything of it: `data`, the socket, and the server's `log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.watchdog.directory().path()
    }
}

fn initialise(programs: &Path, account: Account, data: &Path) -> Result<(), Error> {
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.arg("--pgdata").arg(data).arg(format!("--username={}", url::USER));
    initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    prepare(&mut initdb, account);
    let output = initdb.output().map_err(Error::io("run initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let what = format!("initdb ended with {}", output.status);
    Err(Error::Failed { what, output: tail(&String::from_utf8_lossy(&text)) })
}

/// What is added to the configuration that `initdb` wrote; the last word on a setting holds.
fn configuration(directory: &Path, durability: Durability) -> String {
    let durability = match durability {
        // `minimal` also leaves out of the log what only a replica would read.
        Durability::Off => {
            "
fsync = off
synchronous_commit = off
shared_buffers = 64MB
full_page_writes = off
wal_level = minimal
max_wal_senders = 0"
        }
        Durability::On => "",
    };
    format!(
        "
listen_addresses = ''
unix_socket_directories = '{directory}'
port = {port}
max_connections = 400
# A test may have all of a schema in one transaction, and many tests run at once.
max_locks_per_transaction = 256
huge_pages = off
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
logging_collector = off
log_destination = 'stderr'
log_line_prefix = '%m [%p] %d '{durability}
",
        directory = directory.display(),
        port = url::PORT,
    )
}
