//! Where the database is, and how a connection to it is prepared.

use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::result::Error as EngineError;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query, sql_types};
use enlist_core::store::StoreError;

use crate::error::unavailable;

/// How long a connection waits for the lock of another process. Within one store nobody waits: it has one writer.
const BUSY_TIMEOUT_MS: u32 = 5_000;
/// Between attempts to switch a fresh file to WAL, for which SQLite does not wait by itself.
const WAL_RETRY: Duration = Duration::from_millis(50);
const WAL_ATTEMPTS: u32 = BUSY_TIMEOUT_MS / 50;

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// In memory, for as long as its one connection lives.
    Memory,
    /// In this file.
    File(String),
}

impl Location {
    /// Reads `sqlite://path`, `sqlite:path`, a plain path, `sqlite::memory:` or `:memory:`.
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        let stripped = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        let path = stripped.unwrap_or(url);
        if path == ":memory:" {
            return Ok(Self::Memory);
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

    /// Opens the connection that writes, making the file if there is none.
    pub(crate) fn open_writer(&self) -> Result<SqliteConnection, StoreError> {
        let mut connection = self.open()?;
        if matches!(self, Self::File(_)) {
            switch_to_wal(&mut connection)?;
        }
        // synchronous=FULL: in WAL mode anything less loses acknowledged commits with the power.
        // wal_autocheckpoint: 16 MiB of pages, so that a steady ingest folds them back in large, rare steps.
        // journal_size_limit: what one large transaction grew is given back to the disk.
        // cache_size: negative, in KiB.
        connection
            .batch_execute(
                "PRAGMA synchronous = FULL;
                 PRAGMA foreign_keys = ON;
                 PRAGMA wal_autocheckpoint = 4096;
                 PRAGMA journal_size_limit = 67108864;
                 PRAGMA cache_size = -16384;
                 PRAGMA temp_store = MEMORY;",
            )
            .map_err(unavailable_engine)?;
        Ok(connection)
    }

    /// Opens a connection that only reads. The file has to be in WAL mode already.
    pub(crate) fn open_reader(&self) -> Result<SqliteConnection, StoreError> {
        let mut connection = self.open()?;
        connection
            .batch_execute(
                "PRAGMA query_only = ON;
                 PRAGMA cache_size = -4096;
                 PRAGMA temp_store = MEMORY;",
            )
            .map_err(unavailable_engine)?;
        Ok(connection)
    }

    fn open(&self) -> Result<SqliteConnection, StoreError> {
        let path = match self {
            Self::Memory => ":memory:",
            Self::File(path) => path,
        };
        // The engine's own words name no path here: `unable to open database file`.
        let mut connection = SqliteConnection::establish(path).map_err(unavailable)?;
        // First of all: everything after it may meet another process's lock.
        connection.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};")).map_err(unavailable_engine)?;
        Ok(connection)
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
    crate::error::Failure::from(error).into()
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
        assert_eq!(parse("sqlite::memory:"), Location::Memory);
        assert_eq!(parse(":memory:"), Location::Memory);
        assert_eq!(parse("file:odd.db"), file("./file:odd.db"));
    }

    #[test]
    fn a_url_that_names_no_file_or_has_parameters_is_refused() {
        for url in ["", "sqlite://", "sqlite://enlist.db?mode=rwc"] {
            assert!(Location::parse(url).is_err(), "{url}");
        }
    }
}
