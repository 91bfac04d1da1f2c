//! Errors that belong to no single concept.

use crate::wire::Code;

/// A transition that the state machine does not have: which entity, the state it was in, and what was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{entity} is {state}: cannot {attempted}")]
pub struct InvalidTransition {
    /// The kind of entity, as in "agent token".
    pub entity: &'static str,
    /// The state that it was in.
    pub state: &'static str,
    /// What was attempted.
    pub attempted: &'static str,
}

/// Input that breaks a documented bound: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct FieldError {
    /// The code that the client can act on.
    pub code: Code,
    /// A JSON Pointer (RFC 6901) to the offending value; empty for the whole document.
    pub field: String,
    /// What would have been accepted. Never repeats the offending value.
    pub detail: String,
}

impl FieldError {
    /// A value that is out of its documented bounds.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: Code::InvalidField, field: field.into(), detail: detail.into() }
    }

    /// The same for a document that stands at `pointer` in a larger one.
    #[must_use]
    pub fn within(self, pointer: &str) -> Self {
        Self { field: format!("{pointer}{}", self.field), ..self }
    }
}
