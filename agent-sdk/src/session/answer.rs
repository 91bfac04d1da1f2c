//! What a reply means for the credential.

use enlist_core::agent_token::Refusal;
use enlist_core::wire::{AgentAction, Code, Problem};

use crate::error::ClientError;
use crate::keyring::Answer;

/// What became of a request, by the rotation table. A refusal counts under its own status only; everything that is not
/// in the table says nothing about the credential.
pub(super) fn answer_of<T>(result: &Result<T, ClientError>) -> Answer {
    match result {
        Ok(_) => Answer::Accepted,
        Err(ClientError::Refused(problem)) if problem.status == problem.code.status() => match &problem.code {
            Code::InvalidToken => Answer::Unknown,
            Code::HostArchived => Answer::Refused(Refusal::HostArchived),
            Code::TokenRevoked => Answer::Refused(Refusal::Revoked),
            Code::TokenExpired => Answer::Refused(Refusal::Expired),
            Code::TokenSuperseded => Answer::Refused(Refusal::Superseded),
            Code::TokenReuseDetected => Answer::Refused(Refusal::ReuseDetected),
            Code::TokenDisplaced => Answer::Refused(Refusal::Displaced),
            Code::ClaimInUse => Answer::Refused(Refusal::ClaimInUse),
            Code::RotationPending => Answer::Refused(Refusal::RotationPending),
            Code::RotationConflict => Answer::Refused(Refusal::RotationConflict),
            _ => Answer::Unanswered,
        },
        Err(_) => Answer::Unanswered,
    }
}

/// Whether the server wants an access token in place of what was presented.
pub(super) fn asks_for_refresh(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(problem)
        if problem.status == 401 && problem.action == Some(AgentAction::Refresh))
}

/// Whether the server, in its own form, does not know what a proposal is: one of an earlier version. It has not acted on it.
pub(super) fn does_not_rotate(problem: &Problem) -> bool {
    matches!(problem.code, Code::NotFound | Code::MethodNotAllowed) && problem.status == problem.code.status()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(problem: Problem) -> Result<(), ClientError> {
        Err(ClientError::Refused(Box::new(problem)))
    }

    #[test]
    fn each_code_of_the_table_counts_under_its_own_status_alone() {
        let of_the_table = [
            (Code::InvalidToken, Answer::Unknown),
            (Code::HostArchived, Answer::Refused(Refusal::HostArchived)),
            (Code::TokenRevoked, Answer::Refused(Refusal::Revoked)),
            (Code::TokenExpired, Answer::Refused(Refusal::Expired)),
            (Code::TokenSuperseded, Answer::Refused(Refusal::Superseded)),
            (Code::TokenReuseDetected, Answer::Refused(Refusal::ReuseDetected)),
            (Code::TokenDisplaced, Answer::Refused(Refusal::Displaced)),
            (Code::ClaimInUse, Answer::Refused(Refusal::ClaimInUse)),
            (Code::RotationPending, Answer::Refused(Refusal::RotationPending)),
            (Code::RotationConflict, Answer::Refused(Refusal::RotationConflict)),
        ];
        for code in Code::ALL {
            let expected =
                of_the_table.iter().find(|(of, _)| of == code).map_or(Answer::Unanswered, |(_, answer)| *answer);
            assert_eq!(answer_of(&refused(Problem::new(code.clone(), "why"))), expected, "{code}");
            let elsewhere = refused(Problem::new(code.clone(), "why").with_status(418));
            assert_eq!(answer_of(&elsewhere), Answer::Unanswered, "{code}");
        }
        assert_eq!(answer_of(&Ok(())), Answer::Accepted);
        assert_eq!(answer_of::<()>(&Err(ClientError::Unexpected { status: 401 })), Answer::Unanswered);
    }
}
