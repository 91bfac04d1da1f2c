//! What can go wrong in a store.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// A store's failure: its kind says what it means, its source why.
///
/// Its text never holds data. The source may hold the engine's words; it belongs in the log, not in a reply.
#[derive(Debug, Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A guard did not hold: load again.
    Conflict,
    /// Another unarchived host of the tenant has the name.
    NameTaken,
    /// Another host of the tenant has the external id.
    ExternalIdTaken,
    /// A token with this hash was seen before.
    HashSeen,
    /// The commit breaks a rule of the schema: a defect of the caller.
    Invalid,
    /// The engine cannot answer just now; the same call may succeed later.
    Unavailable,
    /// The schema is not the one that this version needs: migrate.
    SchemaVersion,
    /// What was read cannot be understood: somebody else wrote it, or a disk lost it.
    Corrupt,
}

impl StoreError {
    /// A failure without a source.
    pub const fn new(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// A failure with the engine's own error.
    pub fn with_source(kind: StoreErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: Some(Arc::from(source.into())) }
    }

    /// What it means.
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the very same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Conflict => "a guard did not hold: load again",
            StoreErrorKind::NameTaken => "another unarchived host of the tenant has this name",
            StoreErrorKind::ExternalIdTaken => "another host of the tenant has this external id",
            StoreErrorKind::HashSeen => "a token with this hash was seen before",
            StoreErrorKind::Invalid => "the commit breaks a rule of the schema",
            StoreErrorKind::Unavailable => "the store cannot answer just now",
            StoreErrorKind::SchemaVersion => "the schema is not the one that this version needs: run migrate()",
            StoreErrorKind::Corrupt => "a stored row cannot be understood",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self::new(kind)
    }
}
