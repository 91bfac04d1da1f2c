//! What goes wrong inside, and what the contract calls it.

use std::error::Error;
use std::fmt;

use enlist_core::store::{StoreError, StoreErrorKind};
use sqlx::Error as EngineError;
use sqlx::postgres::PgDatabaseError;

/// What making a day answers when its table is there, but no partition: "object not in prerequisite state".
pub(crate) const NOT_ATTACHED: &str = "55000";

/// A failure on its way out of a transaction.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The contract's own words.
    Store(StoreErrorKind),
    /// The way from and to the engine.
    Engine(EngineError),
    /// What the engine itself refused.
    Refused(Refusal),
    /// A stored value that no version of ours wrote.
    Corrupt(&'static str),
    /// A value that a column cannot hold, or one that contradicts its aggregate.
    Invalid(&'static str),
    /// The engine cannot be asked just now, in our words.
    Unavailable(&'static str),
    /// The work panicked; its transaction was rolled back.
    Panicked,
}

/// What the engine says when it refuses, but for the texts that quote data: message and detail name the values of the
/// row, and those belong in no log.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: String,
    constraint: Option<String>,
    table: Option<String>,
    /// Only in classes of errors whose messages are about the engine and not about rows.
    message: Option<String>,
}

impl Refusal {
    fn of(error: &PgDatabaseError) -> Self {
        let code = error.code();
        let of_the_engine = ["08", "25", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class));
        Self {
            code: code.to_owned(),
            constraint: error.constraint().map(str::to_owned),
            table: error.table().map(str::to_owned),
            message: of_the_engine.then(|| error.message().to_owned()),
        }
    }

    /// A row for whose day there is no partition: PostgreSQL calls it a violated check, but of no constraint.
    fn lacks_partition(&self) -> bool {
        self.code == "23514" && self.constraint.is_none()
    }

    fn kind(&self) -> StoreErrorKind {
        match self.code.as_str() {
            // Unique and foreign keys are told apart by the names in `migrations/`.
            "23505" | "23503" => kind_of_clash(self.constraint.as_deref().unwrap_or_default()),
            // No such table, schema, column or function.
            "42P01" | "3F000" | "42703" | "42883" => StoreErrorKind::SchemaVersion,
            // Damaged data, a damaged index.
            "XX001" | "XX002" => StoreErrorKind::Corrupt,
            // No privilege; a plan that a migration has overtaken.
            "42501" | "0A000" => StoreErrorKind::Unavailable,
            // A limit of the server, unless it is a row that is too large for its table.
            "54000" if self.table.is_none() => StoreErrorKind::Unavailable,
            code => match code.get(..2).unwrap_or_default() {
                // Connection, login, no such database, transaction state (a read-only replica), conflict with others,
                // out of resources, locks, shutdown and time-outs, the system below, the engine's own defects.
                "08" | "28" | "3D" | "25" | "40" | "53" | "55" | "57" | "58" | "XX" => StoreErrorKind::Unavailable,
                // Constraints, data that no column holds, triggers: a rule that was broken.
                _ => StoreErrorKind::Invalid,
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL refused: SQLSTATE {}", self.code)?;
        if let Some(message) = &self.message {
            write!(f, " ({message})")?;
        }
        if let Some(table) = &self.table {
            write!(f, ", table {table}")?;
        }
        if let Some(constraint) = &self.constraint {
            write!(f, ", constraint {constraint}")?;
        }
        Ok(())
    }
}

impl Error for Refusal {}

/// Clashes by the names that `migrations/` gives to keys.
fn kind_of_clash(constraint: &str) -> StoreErrorKind {
    match constraint {
        "hosts_name" => StoreErrorKind::NameTaken,
        "hosts_external_id" => StoreErrorKind::ExternalIdTaken,
        "token_hashes_pkey"
        | "token_hashes_pair"
        | "agent_tokens_hash"
        | "install_tokens_hash"
        | "agent_tokens_hash_seen"
        | "install_tokens_hash_seen" => StoreErrorKind::HashSeen,
        // Somebody else made the aggregate after its guard had found it absent.
        "hosts_pkey" | "host_presence_pkey" | "install_tokens_pkey" => StoreErrorKind::Conflict,
        _ => StoreErrorKind::Invalid,
    }
}

impl Failure {
    /// Whether trying the same work in smaller pieces may isolate its cause. When the engine itself cannot answer, or
    /// the schema is another, every piece would fail alike.
    pub(crate) fn may_be_of_one_piece(&self) -> bool {
        !matches!(self.kind(), StoreErrorKind::Unavailable | StoreErrorKind::SchemaVersion)
    }

    /// Whether the transaction lost against another one, and would do well when it is made again: the engine has rolled
    /// it back, so nothing of it is there.
    pub(crate) fn lost_to_another(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == "40001" || refusal.code == "40P01")
    }

    /// Whether a partition has gone that this store remembered to be there.
    pub(crate) fn lacks_partition(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.lacks_partition())
    }

    /// Whether a lock was not to be had in the time allowed.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == "55P03")
    }

    /// Whether a day could not be made for a reason that may be its own.
    pub(crate) fn is_of_a_day(&self) -> bool {
        self.is_lock_timeout() || matches!(self, Self::Refused(refusal) if refusal.code == NOT_ATTACHED)
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Store(kind) => *kind,
            Self::Engine(error) => kind_of(error),
            // Several times in a row, or it would have been made again.
            Self::Refused(refusal) if refusal.lacks_partition() => StoreErrorKind::Unavailable,
            Self::Refused(refusal) => refusal.kind(),
            Self::Corrupt(_) | Self::Panicked => StoreErrorKind::Corrupt,
            Self::Invalid(_) => StoreErrorKind::Invalid,
            Self::Unavailable(_) => StoreErrorKind::Unavailable,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(kind) => write!(f, "{kind:?}"),
            Self::Engine(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Corrupt(what) | Self::Invalid(what) | Self::Unavailable(what) => f.write_str(what),
            Self::Panicked => f.write_str("the store's own code panicked"),
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
        match error {
            EngineError::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) => Self::Refused(Refusal::of(error)),
                None => Self::Unavailable("another engine's error"),
            },
            // Its text may quote the URL.
            EngineError::Configuration(_) => Self::Unavailable("the database's URL or its options cannot be used"),
            error => Self::Engine(error),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let kind = failure.kind();
        match failure {
            Failure::Store(kind) => Self::new(kind),
            Failure::Engine(error) => Self::with_source(kind, error),
            Failure::Refused(refusal) => Self::with_source(kind, refusal),
            Failure::Corrupt(what) | Failure::Invalid(what) | Failure::Unavailable(what) => {
                Self::with_source(kind, what)
            }
            Failure::Panicked => Self::with_source(kind, "the store's own code panicked; nothing was written"),
        }
    }
}

fn kind_of(error: &EngineError) -> StoreErrorKind {
    match error {
        // A row that is not there where the schema says that it is, or holds what no version of ours wrote.
        EngineError::RowNotFound
        | EngineError::ColumnDecode { .. }
        | EngineError::Decode(_)
        | EngineError::ColumnNotFound(_)
        | EngineError::ColumnIndexOutOfBounds { .. } => StoreErrorKind::Corrupt,
        EngineError::Encode(_) | EngineError::InvalidArgument(_) => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str, constraint: Option<&str>) -> Failure {
        let constraint = constraint.map(str::to_owned);
        Failure::Refused(Refusal { code: code.to_owned(), constraint, table: None, message: None })
    }

    #[test]
    fn what_may_pass_can_be_retried() {
        for code in ["53100", "53300", "57P01", "57014", "55P03", "25006", "08006", "40001", "40P01", "58030", "54000"]
        {
            assert_eq!(refusal(code, None).kind(), StoreErrorKind::Unavailable, "{code}");
        }
        assert_eq!(kind_of(&EngineError::PoolTimedOut), StoreErrorKind::Unavailable);
    }

    #[test]
    fn clashes_are_told_apart_by_the_names_of_their_keys() {
        let unique = |name| refusal("23505", Some(name)).kind();
        assert_eq!(unique("hosts_name"), StoreErrorKind::NameTaken);
        assert_eq!(unique("hosts_external_id"), StoreErrorKind::ExternalIdTaken);
        assert_eq!(unique("hosts_pkey"), StoreErrorKind::Conflict);
        assert_eq!(unique("agent_tokens_active"), StoreErrorKind::Invalid);
        assert_eq!(refusal("23503", Some("agent_tokens_hash_seen")).kind(), StoreErrorKind::HashSeen);
    }

    #[test]
    fn a_broken_rule_is_the_callers_and_another_schema_asks_for_a_migration() {
        for code in ["23514", "23502", "22003", "22021", "P0001"] {
            assert_eq!(refusal(code, Some("some_check")).kind(), StoreErrorKind::Invalid, "{code}");
        }
        let too_large =
            Refusal { code: "54000".to_owned(), constraint: None, table: Some("hosts".to_owned()), message: None };
        assert_eq!(too_large.kind(), StoreErrorKind::Invalid);
        assert_eq!(refusal("42P01", None).kind(), StoreErrorKind::SchemaVersion);
        assert!(refusal("23514", None).lacks_partition());
        assert!(!refusal("23514", Some("some_check")).lacks_partition());
    }
}
