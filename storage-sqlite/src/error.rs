//! What goes wrong inside, and what the contract calls it.

use std::error::Error;
use std::fmt;

use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind, Error as EngineError};
use enlist_core::store::{StoreError, StoreErrorKind};

/// A failure on its way out of a transaction.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The contract's own words.
    Store(StoreErrorKind),
    /// The engine, or the way from and to it.
    Engine(EngineError),
    /// The same, by the connection of reports.
    Reports(rusqlite::Error),
    /// A migration that could not be applied, in diesel's words.
    Migration(Box<dyn Error + Send + Sync>),
    /// A stored value that no version of ours wrote.
    Corrupt(&'static str),
    /// A value that a column cannot hold, or one that contradicts its aggregate.
    Invalid(&'static str),
    /// The work panicked; its transaction was rolled back.
    Panicked,
}

impl Failure {
    /// Whether trying the same work in smaller pieces may isolate its cause. When the engine itself cannot answer, or
    /// the schema is another, every piece would fail alike.
    pub(crate) fn may_be_of_one_piece(&self) -> bool {
        !matches!(self.kind(), StoreErrorKind::Unavailable | StoreErrorKind::SchemaVersion)
    }

    /// What the contract calls it.
    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Store(kind) => *kind,
            Self::Engine(error) => kind_of(error),
            Self::Reports(error) => kind_of_reports_error(error),
            Self::Migration(error) => kind_of_migration_error(&error.to_string()),
            Self::Corrupt(_) | Self::Panicked => StoreErrorKind::Corrupt,
            Self::Invalid(_) => StoreErrorKind::Invalid,
        }
    }
}

impl From<StoreErrorKind> for Failure {
    fn from(kind: StoreErrorKind) -> Self {
        Self::Store(kind)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Reports(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let kind = failure.kind();
        match failure {
            Failure::Store(kind) => Self::new(kind),
            Failure::Engine(error) => Self::with_source(kind, error),
            Failure::Reports(error) => Self::with_source(kind, error),
            Failure::Migration(error) => Self::with_source(kind, error),
            Failure::Corrupt(what) | Failure::Invalid(what) => Self::with_source(kind, what),
            Failure::Panicked => Self::with_source(kind, "the store's own code panicked; nothing was written"),
        }
    }
}

/// A database that could not be opened, or threads that could not be started.
pub(crate) fn unavailable(why: impl fmt::Display) -> StoreError {
    StoreError::with_source(StoreErrorKind::Unavailable, why.to_string())
}

fn kind_of(error: &EngineError) -> StoreErrorKind {
    match error {
        EngineError::DatabaseError(kind, information) => kind_of_database_error(kind, information.as_ref()),
        // A row that is not there where the schema says that it is.
        EngineError::NotFound | EngineError::DeserializationError(_) => StoreErrorKind::Corrupt,
        EngineError::SerializationError(_) | EngineError::InvalidCString(_) => StoreErrorKind::Invalid,
        EngineError::RollbackErrorOnCommit { commit_error, .. } => kind_of(commit_error),
        _ => StoreErrorKind::Unavailable,
    }
}

fn kind_of_database_error(kind: &DatabaseErrorKind, information: &dyn DatabaseErrorInformation) -> StoreErrorKind {
    match kind {
        DatabaseErrorKind::UniqueViolation => kind_of_clash(information.message()),
        DatabaseErrorKind::ForeignKeyViolation
        | DatabaseErrorKind::NotNullViolation
        | DatabaseErrorKind::CheckViolation => StoreErrorKind::Invalid,
        DatabaseErrorKind::Unknown => kind_of_message(information.message()),
        _ => StoreErrorKind::Unavailable,
    }
}

fn kind_of_reports_error(error: &rusqlite::Error) -> StoreErrorKind {
    use rusqlite::Error as Raw;
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    match error {
        Raw::SqliteFailure(code, message) => match (code.extended_code, message) {
            (SQLITE_CONSTRAINT_UNIQUE | SQLITE_CONSTRAINT_PRIMARYKEY, Some(message)) => kind_of_clash(message),
            (_, Some(message)) => kind_of_message(message),
            (_, None) => StoreErrorKind::Unavailable,
        },
        Raw::ToSqlConversionFailure(_) => StoreErrorKind::Invalid,
        Raw::FromSqlConversionFailure(..)
        | Raw::IntegralValueOutOfRange(..)
        | Raw::Utf8Error(..)
        | Raw::InvalidColumnType(..)
        | Raw::QueryReturnedNoRows => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Unavailable,
    }
}

/// SQLite names the columns of the index that was violated, not the index.
fn kind_of_clash(message: &str) -> StoreErrorKind {
    let columns = message.rsplit(": ").next().unwrap_or_default();
    match columns {
        "hosts.tenant_id, hosts.name" => StoreErrorKind::NameTaken,
        "hosts.tenant_id, hosts.external_id" => StoreErrorKind::ExternalIdTaken,
        "token_hashes.hash" | "agent_tokens.hash" | "install_tokens.hash" => StoreErrorKind::HashSeen,
        _ => StoreErrorKind::Invalid,
    }
}

/// diesel keeps the type of this error to itself: its text is `Failed to run <name> with: <what SQLite said>`.
fn kind_of_migration_error(text: &str) -> StoreErrorKind {
    kind_of_message(text.split_once(" with: ").map_or(text, |(_, engine)| engine))
}

/// diesel hands on SQLite's message and not its code. The messages below are the fixed texts of the result codes
/// (`sqlite3_errstr`); what is none of them names a table, a column or a trigger, and so a rule that was broken.
fn kind_of_message(message: &str) -> StoreErrorKind {
    const CANNOT_ANSWER: &[&str] = &[
        "database is locked",
        "database table is locked",
        "database schema is locked",
        "database schema has changed",
        "database or disk is full",
        "disk I/O error",
        "unable to open database file",
        "attempt to write a readonly database",
        "access permission denied",
        "authorization denied",
        "out of memory",
        "interrupted",
        "query aborted",
        "locking protocol",
        "large file support is disabled",
        "not an error",
        "unknown error",
        "bad parameter or other API misuse",
        "cannot start a transaction within a transaction",
        "cannot commit",
        "cannot rollback",
    ];
    const DAMAGED: &[&str] = &["database disk image is malformed", "malformed database", "file is not a database"];
    const OTHER_SCHEMA: &[&str] = &["no such table", "no such column", "has no column named"];
    let begins = |known: &[&str]| known.iter().any(|text| message.starts_with(text));
    if begins(CANNOT_ANSWER) {
        StoreErrorKind::Unavailable
    } else if begins(DAMAGED) {
        StoreErrorKind::Corrupt
    } else if OTHER_SCHEMA.iter().any(|text| message.contains(text)) {
        StoreErrorKind::SchemaVersion
    } else {
        StoreErrorKind::Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(kind: DatabaseErrorKind, message: &str) -> StoreErrorKind {
        let error = EngineError::DatabaseError(kind, Box::new(message.to_owned()));
        StoreError::from(Failure::from(error)).kind()
    }

    #[test]
    fn a_busy_or_full_disk_can_be_retried() {
        for message in
            ["database is locked", "database or disk is full", "disk I/O error", "database table is locked: hosts"]
        {
            assert_eq!(kind(DatabaseErrorKind::Unknown, message), StoreErrorKind::Unavailable, "{message}");
        }
    }

    #[test]
    fn a_migration_that_met_a_full_disk_can_be_retried_and_one_that_met_other_tables_cannot() {
        let kind = |said: &str| kind_of_migration_error(&format!("Failed to run 2026-11-22-000000_x with: {said}"));
        assert_eq!(kind("database or disk is full"), StoreErrorKind::Unavailable);
        assert_eq!(kind("table hosts already exists"), StoreErrorKind::Invalid);
    }

    #[test]
    fn a_damaged_file_cannot_be_retried() {
        assert_eq!(kind(DatabaseErrorKind::Unknown, "database disk image is malformed"), StoreErrorKind::Corrupt);
    }

    #[test]
    fn clashes_are_told_apart_by_the_columns_of_their_index() {
        let unique =
            |columns: &str| kind(DatabaseErrorKind::UniqueViolation, &format!("UNIQUE constraint failed: {columns}"));
        assert_eq!(unique("hosts.tenant_id, hosts.name"), StoreErrorKind::NameTaken);
        assert_eq!(unique("hosts.tenant_id, hosts.external_id"), StoreErrorKind::ExternalIdTaken);
        assert_eq!(unique("token_hashes.hash"), StoreErrorKind::HashSeen);
        assert_eq!(unique("agent_tokens.lineage_id"), StoreErrorKind::Invalid);
    }
}
