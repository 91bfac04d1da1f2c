//! Where the database is, and how a connection to it is prepared.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::result::Error as EngineError;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query, sql_types};
use enlist_core::store::StoreError;

use crate::error::{Failure, unavailable};

/// How long a connection waits for the lock of another process. Within one store nobody waits: it has one writer.
const BUSY_TIMEOUT_MS: u32 = 5_000;
/// Between attempts to switch a fresh file to WAL, for which SQLite does not wait by itself.
const WAL_RETRY: Duration = Duration::from_millis(50);
const WAL_ATTEMPTS: u32 = BUSY_TIMEOUT_MS / 50;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// In memory, for as long as any connection to it lives; each store has its own.
    Memory(u64),
    /// In this file.
    File(String),
}

impl Location {
    /// Reads `sqlite://path`, `sqlite:path`, a plain path, `sqlite::memory:` or `:memory:`.
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        let stripped = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        let path = stripped.unwrap_or(url);
        if path == ":memory:" {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            return Ok(Self::Memory(NEXT.fetch_add(1, Ordering::Relaxed)));
        }
        if path.is_empty() || path.contains('\0') {
            return Err(unavailable("the database URL names no file"));
        }
        if stripped.is_some() && path.contains('?') {
            return Err(unavailable("the database URL has parameters, and there are none: drop what follows the `?`"));
        }
        // SQLite reads a name that begins with `file:`, and diesel one with `sqlite:`, as a URL of their own.
        let is_url = path.starts_with("file:") || path.starts_with("sqlite:");
        Ok(Self::File(if is_url { format!("./{path}") } else { path.to_owned() }))
    }

    /// Whether it is lost with its last connection.
    pub(crate) const fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    fn open(&self, role: Role) -> Result<SqliteConnection, StoreError> {
        // The engine's own words name no path here: `unable to open database file`.
        let mut connection = SqliteConnection::establish(&self.name()).map_err(unavailable)?;
        // First of all: everything after it may meet another process's lock.
        connection.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};")).map_err(unavailable_engine)?;
        if role == Role::Writer && !self.is_memory() {
            switch_to_wal(&mut connection)?;
        }
        connection.batch_execute(role.settings()).map_err(unavailable_engine)?;
        Ok(connection)
    }

    /// A connection for statements that stay prepared.
    pub(crate) fn open_raw(&self, role: Role) -> Result<rusqlite::Connection, Failure> {
        let connection = rusqlite::Connection::open(self.name())?;
        connection.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS.into()))?;
        connection.execute_batch(role.settings())?;
        // All that there are stay prepared, and a few that there may be.
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    fn name(&self) -> String {
        match self {
            // A name that connections of this process share, and no file.
            Self::Memory(number) => format!("file:/enlist-{number}?vfs=memdb"),
            Self::File(path) => path.clone(),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything. There is one thread that writes.
    Writer,
    /// Reading only. The file has to be in WAL mode already.
    Reader,
}

impl Role {
    // synchronous=FULL: in WAL mode anything less loses acknowledged commits with the power.
    // wal_autocheckpoint: 128 MiB of pages, should `checkpoint` not keep up with what is written.
    // journal_size_limit: what one large transaction grew is given back to the disk.
    // cache_size: negative, in KiB. What reports touch is in it; a larger one costs them more than it spares, since a commit
    // that has split a page goes through all of it as long as the file is smaller than 1 GiB.
    const fn settings(self) -> &'static str {
        match self {
            Self::Writer => {
                "PRAGMA synchronous = FULL;
                 PRAGMA foreign_keys = ON;
                 PRAGMA wal_autocheckpoint = 32768;
                 PRAGMA journal_size_limit = 134217728;
                 PRAGMA cache_size = -16384;
                 PRAGMA temp_store = MEMORY;"
            }
            Self::Reader => {
                "PRAGMA query_only = ON;
                 PRAGMA cache_size = -4096;
                 PRAGMA temp_store = MEMORY;"
            }
        }
    }
}

/// What a thread talks to the database by: diesel for what is typed and rare, and for reports, of which there are
/// thousands a second, statements that stay prepared. The two never have a transaction at the same time.
pub(crate) struct Connections {
    location: Location,
    role: Role,
    pub(crate) diesel: SqliteConnection,
    /// Opened when it is first needed.
    reports: Option<rusqlite::Connection>,
}

impl Connections {
    /// Opens the database, making the file if there is none and it is to be written.
    pub(crate) fn open(location: &Location, role: Role) -> Result<Self, StoreError> {
        Ok(Self { location: location.clone(), role, diesel: location.open(role)?, reports: None })
    }

    /// The connection of reports.
    pub(crate) fn reports(&mut self) -> Result<&mut rusqlite::Connection, Failure> {
        let connection = match self.reports.take() {
            Some(connection) => connection,
            None => self.location.open_raw(self.role)?,
        };
        Ok(self.reports.insert(connection))
    }

    /// A connection whose transaction could neither be committed nor rolled back is good for nothing any more. Closing
    /// it rolls back; until another can be opened, what is asked of it fails.
    pub(crate) fn replace_broken(&mut self) {
        if self.reports.as_ref().is_some_and(|connection| !connection.is_autocommit()) {
            self.reports = None;
        }
        // Not in memory: there it may be the only one that still holds the data.
        let broken = <AnsiTransactionManager as TransactionManager<SqliteConnection>>::is_broken_transaction_manager;
        if self.location.is_memory() || !broken(&mut self.diesel) {
            return;
        }
        match self.location.open(self.role) {
            Ok(fresh) => self.diesel = fresh,
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "cannot open the database again"),
        }
    }
}

/// Write-ahead logging is a property of the file: set once, and only if it is not set yet, since the switch needs the
/// file alone. Readers then never wait for the writer, nor the writer for them.
fn switch_to_wal(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    if journal_mode(connection, "PRAGMA journal_mode").map_err(unavailable_engine)? == "wal" {
        return Ok(());
    }
    let mut attempt = 1;
    loop {
        match journal_mode(connection, "PRAGMA journal_mode = WAL") {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(unavailable("the file system cannot share the memory that write-ahead logging needs")),
            Err(error) if is_locked(&error) && attempt < WAL_ATTEMPTS => {
                attempt += 1;
                thread::sleep(WAL_RETRY);
            }
            Err(error) => return Err(unavailable_engine(error)),
        }
    }
}

fn journal_mode(connection: &mut SqliteConnection, pragma: &str) -> Result<String, EngineError> {
    #[derive(QueryableByName)]
    struct Mode {
        #[diesel(sql_type = sql_types::Text)]
        journal_mode: String,
    }
    Ok(sql_query(pragma).get_result::<Mode>(connection)?.journal_mode)
}

fn is_locked(error: &EngineError) -> bool {
    matches!(error, EngineError::DatabaseError(_, information) if information.message().contains("locked"))
}

fn unavailable_engine(error: EngineError) -> StoreError {
    Failure::from(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Location {
        Location::File(path.to_owned())
    }

    #[test]
    fn every_documented_form_of_url_is_understood() {
        let parse = |url: &str| Location::parse(url).expect(url);
        assert_eq!(parse("sqlite://enlist.db"), file("enlist.db"));
        assert_eq!(parse("sqlite:///var/lib/enlist.db"), file("/var/lib/enlist.db"));
        assert_eq!(parse("sqlite:enlist.db"), file("enlist.db"));
        assert_eq!(parse("some dir/enlist.db"), file("some dir/enlist.db"));
        assert!(parse("sqlite::memory:").is_memory());
        // Each its own.
        assert_ne!(parse(":memory:"), parse(":memory:"));
        assert_eq!(parse("file:odd.db"), file("./file:odd.db"));
    }

    #[test]
    fn a_url_that_names_no_file_or_has_parameters_is_refused() {
        for url in ["", "sqlite://", "sqlite://enlist.db?mode=rwc"] {
            assert!(Location::parse(url).is_err(), "{url}");
        }
    }
}
