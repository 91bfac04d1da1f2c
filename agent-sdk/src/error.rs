//! What can go wrong, by layer. No error carries a secret, and none of the client's costs the credential.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use enlist_core::secret::MalformedToken;
use enlist_core::wire::{AgentAction, Code, Problem};

/// An error of somebody else's, kept as the source.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// Why a call brought no answer that counts.
///
/// Only [`ClientError::Refused`] is a word of the server about this host. A time-out, a captive portal's page, a
/// proxy's 401 or 404 and every 5xx say nothing about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The base URL cannot be used; nothing was sent.
    #[error("the server's URL cannot be used: {0}")]
    InvalidUrl(&'static str),
    /// The HTTP client could not be set up, for want of root certificates for example; nothing was sent.
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] BoxError),
    /// No whole reply came: not reached, cut off, or timed out. Whether the request was acted on is unknown.
    #[error("{}", if *.timed_out { "the server did not answer in time" } else { "the server was not reached" })]
    Transport {
        /// Whether time ran out.
        timed_out: bool,
        /// What the HTTP client says; without the URL.
        #[source]
        source: BoxError,
    },
    /// The server refuses, in the form that is its own: `application/problem+json` with our fields and the status of
    /// the reply itself.
    #[error("refused ({}): {}", .0.code, .0.detail)]
    Refused(Box<Problem>),
    /// 429 or 503 with `Retry-After` in seconds, from the server or from something before it.
    #[error("the server asks to come back in {after:?} (status {status})")]
    RetryLater {
        /// 429 or 503.
        status: u16,
        /// The time asked for.
        after: Duration,
        /// The refusal, if it came in our form.
        problem: Option<Box<Problem>>,
    },
    /// An answer that is not the server's: another status, another type, another body. Something stands in between.
    #[error("an answer that is not of an Enlist server (status {status}): is the URL right, or something in between?")]
    Unexpected {
        /// The status of the reply.
        status: u16,
    },
}

impl ClientError {
    /// What an agent does about it: what the server says, else what its code means; `Retry` for all that is no refusal.
    pub fn action(&self) -> AgentAction {
        match self {
            Self::Refused(problem) => match problem.action {
                Some(AgentAction::Unknown) | None => usual_action(problem),
                Some(action) => action,
            },
            _ => AgentAction::Retry,
        }
    }

    /// Whether only a person can help: the host was taken out of service, or needs a new install token.
    ///
    /// Final does not mean that the credential may be erased; [`ClientError::is_host_deleted`] alone does.
    pub fn is_final(&self) -> bool {
        matches!(self.action(), AgentAction::ReEnrol | AgentAction::Stop)
    }

    /// Whether the server says, with 410 and in its own form, that the host was deleted. Nothing else may ever erase a
    /// credential, and this only when it answers a request that presented it.
    pub fn is_host_deleted(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.status == 410 && problem.code == Code::HostDeleted)
    }

    /// The refusal, if it is one in our form.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) | Self::RetryLater { problem: Some(problem), .. } => Some(problem),
            _ => None,
        }
    }
}

fn usual_action(problem: &Problem) -> AgentAction {
    match problem.code {
        Code::HostArchived | Code::HostDeleted => AgentAction::Stop,
        Code::InvalidInstallToken
        | Code::InstallTokenAlreadyUsed
        | Code::InvalidToken
        | Code::TokenExpired
        | Code::TokenRevoked
        | Code::TokenReuseDetected => AgentAction::ReEnrol,
        Code::ClaimInUse | Code::TokenDisplaced => AgentAction::Propose,
        _ => AgentAction::Retry,
    }
}

/// Why the credential could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file system refused.
    #[error("cannot {attempted} {}", .path.display())]
    Io {
        /// What was attempted, as in "write".
        attempted: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// What is stored is not a whole credential. It is left as it is: restore it, or remove it and enrol anew.
    #[error(
        "the stored credential is damaged ({detail}); it was left as it is: restore it, or remove it and enrol with a \
         new install token"
    )]
    Corrupt {
        /// What is wrong with it; never a part of it.
        detail: String,
    },
    /// It was written by a later version of this library.
    #[error("the stored credential has format {found}; this version reads {supported}")]
    UnsupportedVersion {
        /// The format found.
        found: u64,
        /// The newest format that is understood.
        supported: u64,
    },
    /// Another agent, or another store of this process, uses the directory.
    #[error("another agent uses the state directory {}: stop it, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    /// A store of the embedder's own failed.
    #[error("the credential store failed")]
    Store(#[source] BoxError),
}

/// A text that cannot be an install token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInstallToken {
    /// Empty, longer than 512 bytes, or with white space or control characters inside.
    #[error("an install token is 1-512 printable ASCII characters without spaces")]
    Text,
    /// It starts like one of ours and is damaged.
    #[error("the install token is damaged: {0}")]
    Malformed(#[from] MalformedToken),
}

/// A text that cannot be an agent token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAgentToken {
    /// Empty, longer than 512 bytes, or with white space or control characters inside.
    #[error("an agent token is 1-512 printable ASCII characters without spaces")]
    Text,
    /// It starts like one of ours and is damaged, or is an install token.
    #[error("it is not an agent token: {0}")]
    Malformed(#[from] MalformedToken),
}

/// Why a host could not be enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The credential could not be read or kept. Nothing was lost: the next attempt repeats the same claim.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The server refuses for good.
    #[error("the server refuses to enrol this host ({}): {}{}", .0.code, .0.detail, what_to_do(.0))]
    Refused(Box<Problem>),
    /// No answer that counts; the same claim can be sent again at any time.
    #[error("no answer to the exchange yet; it can be repeated")]
    Unanswered(#[source] ClientError),
}

fn what_to_do(problem: &Problem) -> &'static str {
    match problem.code {
        Code::InvalidInstallToken => {
            "; ask an administrator for a new install token: this one is unknown, expired, revoked or was replaced"
        }
        Code::InstallTokenAlreadyUsed => {
            "; ask an administrator for a new install token, and tell them if nobody else should have used this one"
        }
        Code::HostArchived | Code::HostDeleted => {
            "; the host was taken out of service: ask an administrator for a new host and install token"
        }
        Code::TokenRevoked | Code::TokenExpired => {
            "; the credential it bought is no longer valid: ask an administrator for a new install token"
        }
        _ => "",
    }
}

/// Why an agent could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Neither `state_dir` nor `credential_store` was given.
    #[error("an agent needs a state directory or a credential store")]
    NoCredentialStore,
    /// There is no credential, and no install token or new agent token to get one.
    #[error("this host is not enrolled: give an install token, or an agent token that was not refused yet")]
    NotEnrolled,
    /// The credential could not be read.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The URL or the HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The machine's numbers cannot be read.
    #[error("the machine's metrics cannot be read")]
    Collector(#[source] BoxError),
}

/// Why a running agent gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The host could not be enrolled.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The credential could not be erased after the host was deleted, or not be read again after it enrolled anew.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The agent token that was delivered by hand was refused, and there is nothing else to begin with.
    #[error("this host is not enrolled: the agent token was refused, and there is no install token")]
    NotEnrolled,
}

/// Why there is no credential to work with just now, or what came of the host that had one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no credential yet; see [`Enrolment`](crate::Enrolment).
    #[error("this host is not enrolled")]
    NotEnrolled,
    /// Not now. A rotation waits for an answer, and until it has one the token in use is not presented for work; or a
    /// pause after a refusal is not over.
    #[error("the credential waits for an answer of the server; ask again in {retry_after:?}")]
    Waiting {
        /// When to ask again; asking earlier does no harm.
        retry_after: Duration,
        /// What kept the answer away, if this call found out.
        #[source]
        error: Option<ClientError>,
    },
    /// The server refuses the credential, in its own form. It is kept, and asking again later may help.
    #[error("the credential is refused ({}): {}", .problem.code, .problem.detail)]
    Refused {
        /// The server's words.
        problem: Box<Problem>,
        /// When to ask again.
        retry_after: Duration,
        /// Whether the server has refused all that the host holds, so that it takes a new install token or agent token.
        for_good: bool,
    },
    /// A change could not be kept. It was not made, as if the server's answer had been lost: nothing was used that is
    /// not durable.
    #[error("a change of the credential cannot be kept")]
    NotKept {
        /// What the store says.
        #[source]
        error: CredentialError,
        /// When to ask again.
        retry_after: Duration,
    },
    /// An administrator has taken the host out of service: stop. The credential is kept.
    #[error("the host is out of service: {}", .0.detail)]
    HostArchived(Box<Problem>),
    /// The host was deleted. The credential is erased.
    #[error("the host was deleted: {}", .0.detail)]
    HostDeleted(Box<Problem>),
    /// The credential could not be read, or not be erased after the host was deleted.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl SessionError {
    /// When to ask again, if that can help.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Waiting { retry_after, .. }
            | Self::Refused { retry_after, .. }
            | Self::NotKept { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}
