//! What can go wrong, in the contract's words.

use enlist_core::store::{StoreError, StoreErrorKind};

/// A failure on its way out of a transaction, which it undoes.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The contract says no.
    Refused(StoreErrorKind),
    /// A stored record cannot be read. Told apart from the engine's own damage, since nothing was written yet.
    Record(&'static str),
    /// The engine cannot go on.
    Engine(redb::Error),
}

impl From<StoreErrorKind> for Failure {
    fn from(kind: StoreErrorKind) -> Self {
        Self::Refused(kind)
    }
}

/// redb has an error for each step, and one for all of them.
macro_rules! engine_errors {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                Self::Engine(error.into())
            }
        })*
    };
}
engine_errors! { DatabaseError TransactionError TableError StorageError CommitError }

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Refused(kind) => return kind.into(),
            Failure::Record(what) => return Self::with_source(StoreErrorKind::Corrupt, what),
            Failure::Engine(error) => error,
        };
        let kind = match error {
            redb::Error::Corrupted(_) => StoreErrorKind::Corrupt,
            redb::Error::UpgradeRequired(_) | redb::Error::TableTypeMismatch { .. } => StoreErrorKind::SchemaVersion,
            _ => StoreErrorKind::Unavailable,
        };
        Self::with_source(kind, error)
    }
}
