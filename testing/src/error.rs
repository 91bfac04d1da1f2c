//! What can go wrong, in words for whoever reads the output of a failed test.

use std::fmt;
use std::io;

/// Why there is no server, or no database on it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something has to be installed first.
    #[error("missing: {what}. {remedy}")]
    Missing {
        /// What was looked for, and where.
        what: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed, or did not get ready in time.
    #[error("{what}; the end of its output:\n{output}")]
    Failed {
        /// Which program, and how.
        what: String,
        /// The end of what it wrote.
        output: String,
    },
    /// The server refused something.
    #[error("PostgreSQL, asked to {what}: {source}")]
    Sql {
        /// What was being done.
        what: &'static str,
        /// What the server or the driver said.
        source: sqlx::Error,
    },
    /// The caller's own migration failed. Nothing is left of the template.
    #[error("migrating the template: {0}")]
    Migration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A fingerprint that cannot be part of a database's name.
    #[error("not a fingerprint: {0:?} (1 to 40 ASCII letters, digits, `_` or `-`)")]
    Fingerprint(String),
    /// A URL that is none of PostgreSQL's. Its text is left out, since it may hold a password.
    #[error("not a PostgreSQL URL: {0}")]
    Url(&'static str),
}

impl Error {
    pub(crate) fn sql(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Sql { what, source }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// As it is displayed: this is what `expect` and `unwrap` show of a failed test.
impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The last lines of `text`, enough to see why a program gave up.
pub(crate) fn tail(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
