//! Rules taken away, one at a time: what the checker has to find out.

use std::fmt;

/// One rule less. Each is a thin wrapper around what the project does, on the one side or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The server revokes the token in use as soon as its successor is accepted.
    IssueThenRevoke,
    /// The server refuses a pending token that is a day old.
    PendingLapses,
    /// An administrator's successor never yields to the agent's.
    RotatedNeverYields,
    /// A repeat of a server-made exchange draws another secret.
    RepeatRedraws,
    /// A client proposes before its successor is durable: rule 1.
    ProposeUnsaved,
    /// A client works with the current token while it has a successor: rule 2.
    WorkBesideSuccessor,
    /// A client presents its successor when the proposal was not answered: rule 3.
    PresentUnanswered,
    /// A client leaves the mark of a refusal on its disk when the proposal is accepted: rule 3.
    MarkKept,
    /// A client drops the current token when it has sent the proposal, not when the successor is accepted: rule 4.
    DropEarly,
    /// A client that took a token delivered by hand does not note that in the same save: rule 5.
    HandKept,
    /// A token delivered by hand takes the place of an earlier one that was not answered: rule 5.
    HandReplaced,
    /// Messages arrive however late: rule 6.
    LateMessages,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::IssueThenRevoke,
        Self::PendingLapses,
        Self::RotatedNeverYields,
        Self::RepeatRedraws,
        Self::ProposeUnsaved,
        Self::WorkBesideSuccessor,
        Self::PresentUnanswered,
        Self::MarkKept,
        Self::DropEarly,
        Self::HandKept,
        Self::HandReplaced,
        Self::LateMessages,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IssueThenRevoke => "issue-then-revoke",
            Self::PendingLapses => "pending-lapses",
            Self::RotatedNeverYields => "rotated-never-yields",
            Self::RepeatRedraws => "repeat-redraws",
            Self::ProposeUnsaved => "propose-unsaved",
            Self::WorkBesideSuccessor => "work-beside-successor",
            Self::PresentUnanswered => "present-unanswered",
            Self::MarkKept => "mark-kept",
            Self::DropEarly => "drop-early",
            Self::HandKept => "hand-kept",
            Self::HandReplaced => "hand-replaced",
            Self::LateMessages => "late-messages",
        }
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
