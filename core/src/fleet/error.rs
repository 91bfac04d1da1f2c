//! Why a service refuses, and how each refusal looks over HTTP.

use std::time::Duration;

use crate::agent_token::Refusal;
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::fleet::placement::PlaceError;
use crate::host::CannotEdit;
use crate::id::{AgentTokenId, HostId};
use crate::lineage::CannotRotate;
use crate::secret::MalformedToken;
use crate::store::{StoreError, StoreErrorKind};
use crate::telemetry::SeriesError;
use crate::wire::{AgentAction, Code, DeletePreview, Problem};

/// How long a client waits before it asks a service again that could not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Too many requests of this kind. Nothing was written, and it is no contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests: wait, and send the same again")]
pub struct RateLimited {
    /// After how long the next one is taken.
    pub retry_after: Duration,
}

/// Why an administrative verb was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no such thing, or the policy hides it.
    #[error("not found")]
    NotFound,
    /// The policy forbids it.
    #[error("the policy does not let this actor do that")]
    Forbidden,
    /// A field is out of its bounds.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// A query parameter is out of its bounds.
    #[error("{0}")]
    InvalidQuery(&'static str),
    /// There is no series of that range and step.
    #[error(transparent)]
    Series(#[from] SeriesError),
    /// Another unarchived host of the tenant has this name.
    #[error("another unarchived host of the tenant has this name")]
    NameTaken(Option<HostId>),
    /// Another host of the tenant has this external id.
    #[error("another host of the tenant has this external id")]
    ExternalIdTaken(Option<HostId>),
    /// The host is out of service.
    #[error("the host is archived: it is not changed any more, and nothing can be issued for it")]
    HostArchived,
    /// The host is at another revision than the caller has read.
    #[error("the host was changed since it was read: read it again, and decide anew")]
    RevisionMismatch,
    /// Containers run on the host.
    #[error("containers run on the host: move them first, or delete it by force")]
    HostHasContainers(Box<DeletePreview>),
    /// The token cannot be rotated as it stands.
    #[error(transparent)]
    CannotRotate(#[from] CannotRotate),
    /// The install token was exchanged: taking it back would change nothing.
    #[error("the install token was exchanged already: revoke the agent token that it bought")]
    InstallTokenUsed,
    /// It changed under every attempt.
    #[error("the host changed under every attempt: try again")]
    Conflict,
    /// As many feeds of events are open as may be, of this actor or of all.
    #[error("as many streams of events are followed as may be: end one, or try again later")]
    TooManyFeeds,
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Why an exchange was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The body breaks a bound.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// It is not an install token. Nothing was looked up.
    #[error("the install token is malformed: {0}")]
    Malformed(MalformedToken),
    /// Unknown, revoked or expired.
    #[error("the install token is unknown, revoked or expired: ask for a new one")]
    InvalidToken,
    /// Another claim has won.
    #[error("the install token was already used: ask for a new one")]
    AlreadyUsed,
    /// The claim's hash was seen before.
    #[error("the claim was used before: draw another agent token")]
    ClaimInUse,
    /// The credential that it bought has been refused since.
    #[error("the credential that this claim bought has been refused since")]
    Refused(AgentTokenId, Refusal),
    /// Too many refused exchanges from this address.
    #[error("too many refused exchanges")]
    RateLimited(#[source] RateLimited),
    /// Another unarchived host of the tenant has the proposed name. Which one is not told: an install token lets its holder
    /// in, not look around.
    #[error("another host of the tenant has this name: propose another, or none")]
    NameTaken,
    /// Another host of the tenant has the proposed external id, and is none that this token may enrol anew.
    #[error(
        "another host of the tenant has this external id, and it is archived, still holds a credential, or was created by \
         an administrator: propose another, or ask for an install token of that host"
    )]
    ExternalIdTaken,
    /// The host that this claim enrolled was deleted.
    #[error("the host that this claim enrolled was deleted")]
    HostDeleted {
        /// What was bought.
        token_id: AgentTokenId,
        /// What was enrolled.
        host_id: HostId,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Why a presented agent token was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// None was presented.
    #[error("present an agent token: Authorization: Bearer eat_…")]
    Missing,
    /// More than one `Authorization` header, or not the Bearer scheme.
    #[error("{0}")]
    BadHeader(&'static str),
    /// It is not an agent token. Nothing was looked up.
    #[error("the agent token is malformed: {0}")]
    Malformed(MalformedToken),
    /// Nobody has it.
    #[error("the agent token is unknown")]
    Unknown,
    /// It is known, and refused.
    #[error("the agent token is refused")]
    Refused(AgentTokenId, Refusal),
    /// It expired too long ago even to propose a successor.
    #[error("the agent token expired more than 7 days ago: enrol anew")]
    ExpiredForGood(AgentTokenId),
    /// It is a refresh token, which buys access tokens and is not presented for work.
    #[cfg(feature = "access-tokens")]
    #[error("this is a refresh token: buy an access token with it, and present that")]
    AccessTokenWanted(AgentTokenId),
    /// It is an access token where an agent token is due: it is neither rotated nor exchanged, and a fleet that issues none
    /// takes none.
    #[cfg(feature = "access-tokens")]
    #[error("an access token is of no use here: present the agent token itself")]
    AgentTokenWanted,
    /// It is no access token that can be believed.
    #[cfg(feature = "access-tokens")]
    #[error("the access token is refused: {0}")]
    AccessToken(crate::access_token::AccessTokenError),
    /// Something of its host was cut off after the access token was bought with this agent token.
    #[cfg(feature = "access-tokens")]
    #[error("a credential of the host was revoked since the access token was bought")]
    StaleAccessToken(AgentTokenId),
    /// Its host was deleted.
    #[error("the host of this agent token was deleted")]
    HostDeleted {
        /// The token.
        token_id: AgentTokenId,
        /// What was its host.
        host_id: HostId,
    },
    /// Its host has proposed and refreshed too often: says nothing about the credential.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// The store failed: says nothing about the credential.
    #[error(transparent)]
    Store(StoreError),
}

/// Why no access token was sold.
#[cfg(feature = "access-tokens")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// The fleet issues none.
    #[error("this server issues no access tokens: present the credential itself")]
    Disabled,
    /// What was presented is valid, and not for refreshing.
    #[error("this credential is presented with every request: it buys no access tokens")]
    NotARefreshToken,
    /// What was presented is refused.
    #[error(transparent)]
    Authenticate(#[from] AuthenticateError),
}

/// Why a report, or a whole batch of them, was refused. Nothing of a report was written; of a batch nothing was
/// acknowledged, and it can be sent again as it is: what was written of it is then a duplicate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It breaks a bound.
    #[error("{error}")]
    Invalid {
        /// Which.
        error: FieldError,
        /// The server's clock.
        server_time: Timestamp,
    },
    /// The host was archived meanwhile.
    #[error("the host is archived")]
    HostArchived,
    /// The queue is full, or too many large bodies are held.
    #[error("the ingest queue is full")]
    Overloaded,
    /// The store failed, or the drivers do not run: it was not acknowledged. If the error is retryable, send it again.
    #[error("the report was not acknowledged")]
    Store(#[source] StoreError),
}

/// Why a verb of an agent failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The drivers do not run.
    #[error(transparent)]
    Unavailable(StoreError),
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Conflict => Self::Conflict,
            _ => Self::Store(error),
        }
    }
}

impl From<CannotEdit> for AdminError {
    fn from(error: CannotEdit) -> Self {
        match error {
            // The only state in which a host is not edited.
            CannotEdit::State(_) => Self::HostArchived,
            CannotEdit::Field(error) => Self::Invalid(error),
        }
    }
}

impl From<StoreError> for EnrolError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for AuthenticateError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for AgentError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Unavailable | StoreErrorKind::Conflict | StoreErrorKind::SchemaVersion => {
                Self::new(Code::Unavailable, "The service cannot answer just now; try again.")
                    .with_retry_after(RETRY_AFTER)
            }
            _ => Self::new(Code::Internal, "The service failed; its log says more."),
        }
    }
}

impl From<RateLimited> for Problem {
    fn from(error: RateLimited) -> Self {
        Self::new(Code::RateLimited, error.to_string()).with_retry_after(error.retry_after)
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        let detail = error.to_string();
        match error {
            PlaceError::NoEligibleHost { .. } => Self::new(Code::NoEligibleHost, detail),
            PlaceError::NoFit { .. } => Self::new(Code::NoFit, detail),
            PlaceError::Invalid(error) => error.into(),
            PlaceError::Store(error) => error.into(),
        }
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        let detail = error.to_string();
        match error {
            AdminError::NotFound => Self::new(Code::NotFound, "There is no such thing, or it is not yours."),
            AdminError::Forbidden => Self::new(Code::Forbidden, detail),
            AdminError::Invalid(error) => error.into(),
            AdminError::InvalidQuery(_) | AdminError::Series(_) => Self::new(Code::InvalidRequest, detail),
            AdminError::NameTaken(host_id) => {
                Self { host_id, field: Some("/name".into()), ..Self::new(Code::NameTaken, detail) }
            }
            AdminError::ExternalIdTaken(host_id) => {
                Self { host_id, field: Some("/external_id".into()), ..Self::new(Code::ExternalIdTaken, detail) }
            }
            // To an administrator it is a state in the way, not a refused credential.
            AdminError::HostArchived => Self::new(Code::HostArchived, detail).with_status(409),
            AdminError::RevisionMismatch => Self::new(Code::PreconditionFailed, detail),
            AdminError::HostHasContainers(running) => {
                let DeletePreview { containers, total } = *running;
                Self { containers, total: Some(total), ..Self::new(Code::HostHasContainers, detail) }
            }
            AdminError::CannotRotate(CannotRotate::NotLive) => Self::new(Code::TokenNotLive, detail),
            AdminError::CannotRotate(CannotRotate::AgentSuccessorPending) => Self::new(Code::RotationPending, detail),
            AdminError::InstallTokenUsed => Self::new(Code::InstallTokenAlreadyUsed, detail).with_status(409),
            AdminError::Conflict => Self::new(Code::Conflict, detail).with_retry_after(RETRY_AFTER),
            AdminError::TooManyFeeds => Self::new(Code::TooManyStreams, detail).with_retry_after(RETRY_AFTER),
            AdminError::Store(error) => error.into(),
        }
    }
}

impl From<EnrolError> for Problem {
    fn from(error: EnrolError) -> Self {
        let detail = error.to_string();
        let about_token = |code| Self { field: Some("/install_token".into()), ..Self::new(code, detail.clone()) };
        match error {
            EnrolError::Invalid(error) => error.into(),
            EnrolError::Malformed(_) => about_token(Code::InvalidInstallToken).with_status(400),
            EnrolError::InvalidToken => about_token(Code::InvalidInstallToken).with_action(AgentAction::ReEnrol),
            EnrolError::AlreadyUsed => about_token(Code::InstallTokenAlreadyUsed).with_action(AgentAction::ReEnrol),
            EnrolError::ClaimInUse => Self { field: Some("/claim".into()), ..Self::new(Code::ClaimInUse, detail) }
                .with_action(AgentAction::Propose),
            EnrolError::Refused(token_id, refusal) => refused(token_id, refusal),
            EnrolError::RateLimited(limited) => Self { detail, ..limited.into() },
            EnrolError::NameTaken => Self { field: Some("/host/name".into()), ..Self::new(Code::NameTaken, detail) },
            EnrolError::ExternalIdTaken => {
                Self { field: Some("/host/external_id".into()), ..Self::new(Code::ExternalIdTaken, detail) }
            }
            EnrolError::HostDeleted { token_id, host_id } => Self {
                token_id: Some(token_id),
                host_id: Some(host_id),
                ..Self::new(Code::HostDeleted, detail).with_action(AgentAction::Stop)
            },
            EnrolError::Store(error) => error.into(),
        }
    }
}

impl From<AuthenticateError> for Problem {
    fn from(error: AuthenticateError) -> Self {
        let detail = error.to_string();
        match error {
            AuthenticateError::Missing => Self::new(Code::MissingToken, detail),
            AuthenticateError::BadHeader(_) => Self::new(Code::InvalidRequest, detail),
            AuthenticateError::Malformed(_) | AuthenticateError::Unknown => {
                Self::new(Code::InvalidToken, detail).with_action(AgentAction::ReEnrol)
            }
            AuthenticateError::Refused(token_id, refusal) => refused(token_id, refusal),
            AuthenticateError::ExpiredForGood(token_id) => Self {
                token_id: Some(token_id),
                ..Self::new(Code::TokenExpired, detail).with_action(AgentAction::ReEnrol)
            },
            #[cfg(feature = "access-tokens")]
            AuthenticateError::AccessTokenWanted(token_id) => Self {
                token_id: Some(token_id),
                ..Self::new(Code::InvalidToken, detail).with_action(AgentAction::Refresh)
            },
            #[cfg(feature = "access-tokens")]
            AuthenticateError::AgentTokenWanted => {
                Self::new(Code::InvalidToken, detail).with_action(AgentAction::Refresh)
            }
            #[cfg(feature = "access-tokens")]
            AuthenticateError::AccessToken(error) => {
                let expired = matches!(error, crate::access_token::AccessTokenError::Expired);
                let code = if expired { Code::TokenExpired } else { Code::InvalidToken };
                Self::new(code, detail).with_action(AgentAction::Refresh)
            }
            #[cfg(feature = "access-tokens")]
            AuthenticateError::StaleAccessToken(token_id) => Self {
                token_id: Some(token_id),
                ..Self::new(Code::TokenRevoked, detail).with_action(AgentAction::Refresh)
            },
            AuthenticateError::HostDeleted { token_id, host_id } => Self {
                token_id: Some(token_id),
                host_id: Some(host_id),
                ..Self::new(Code::HostDeleted, detail).with_action(AgentAction::Stop)
            },
            AuthenticateError::RateLimited(limited) => limited.into(),
            AuthenticateError::Store(error) => error.into(),
        }
    }
}

#[cfg(feature = "access-tokens")]
impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        let detail = error.to_string();
        match error {
            RefreshError::Disabled => Self::new(Code::NotFound, detail),
            RefreshError::NotARefreshToken => Self::new(Code::Forbidden, detail),
            RefreshError::Authenticate(error) => error.into(),
        }
    }
}

impl From<ReportError> for Problem {
    fn from(error: ReportError) -> Self {
        let detail = error.to_string();
        match error {
            ReportError::Invalid { error, server_time } => Self::from(error).with_server_time(server_time),
            ReportError::HostArchived => Self::new(Code::HostArchived, detail).with_action(AgentAction::Stop),
            ReportError::Overloaded => Self::new(Code::Overloaded, detail).with_retry_after(RETRY_AFTER),
            ReportError::Store(error) => error.into(),
        }
    }
}

impl From<AgentError> for Problem {
    fn from(AgentError::Unavailable(error): AgentError) -> Self {
        error.into()
    }
}

/// A refused credential: what it means to the agent, and the token's public id.
fn refused(token_id: AgentTokenId, refusal: Refusal) -> Problem {
    let (code, action, detail) = match refusal {
        Refusal::HostArchived => (Code::HostArchived, AgentAction::Stop, "The host is out of service."),
        Refusal::Revoked => (Code::TokenRevoked, AgentAction::ReEnrol, "The credential was revoked."),
        Refusal::Expired => {
            let detail = "The credential has expired: propose a successor with it, within 7 days of its end.";
            (Code::TokenExpired, AgentAction::Propose, detail)
        }
        Refusal::Superseded => {
            (Code::TokenSuperseded, AgentAction::Retry, "Its successor is in use: present that one.")
        }
        Refusal::ReuseDetected => {
            let detail = "Its agent had replaced it: another holder of a copy may be at work. Ask an administrator.";
            (Code::TokenReuseDetected, AgentAction::ReEnrol, detail)
        }
        Refusal::Displaced => {
            (Code::TokenDisplaced, AgentAction::Propose, "It was never used and has yielded to another successor.")
        }
        Refusal::ClaimInUse => {
            (Code::ClaimInUse, AgentAction::Propose, "The claim was used before: draw another agent token.")
        }
        Refusal::RotationPending => {
            let detail = "An administrator's successor waits for its first use: go on, and propose again later.";
            (Code::RotationPending, AgentAction::Retry, detail)
        }
        Refusal::RotationConflict => {
            let detail = "Another successor waits already: go on, and propose again later. If this agent did not \
                propose it, somebody else holds the credential.";
            (Code::RotationConflict, AgentAction::Retry, detail)
        }
    };
    let field = (refusal == Refusal::ClaimInUse).then(|| "/claim".to_owned());
    Problem { token_id: Some(token_id), field, ..Problem::new(code, detail).with_action(action) }
}
