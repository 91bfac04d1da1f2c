//! The codes of refusals, and what an agent does about them.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the codes with their text, usual status and title from one list.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// Why a request was refused: stable, machine-readable. Clients tolerate codes that they do not know.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code of a later version.
            Other(Box<str>),
        }

        impl Code {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it stands on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }

            /// The HTTP status that it usually comes with.
            pub fn status(&self) -> u16 {
                match self {
                    $(Self::$name => $status,)*
                    Self::Other(_) => 500,
                }
            }

            /// A short title for people.
            pub fn title(&self) -> &'static str {
                match self {
                    $(Self::$name => $title,)*
                    Self::Other(_) => "Refused",
                }
            }

            fn from_text(text: Cow<'_, str>) -> Self {
                match &*text {
                    $($text => Self::$name,)*
                    _ => Self::Other(text.into_owned().into_boxed_str()),
                }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json", 400, "Not JSON";
    /// The request itself is malformed: two `Authorization` headers, a bad query.
    InvalidRequest = "invalid_request", 400, "Malformed request";
    /// A value has the wrong type or is out of its bounds; `field` names it.
    InvalidField = "invalid_field", 422, "Invalid field";
    /// More containers than a report may hold.
    TooManyContainers = "too_many_containers", 422, "Too many containers";
    /// The report was measured at an implausible time; compare `server_time`.
    ClockSkew = "clock_skew", 422, "Clock skew";
    /// The report was measured before the time that reports are kept for.
    TooOld = "too_old", 422, "Too old";
    /// More reports than a batch may hold.
    TooManyReports = "too_many_reports", 422, "Too many reports";
    /// The request did not arrive in time.
    RequestTimeout = "request_timeout", 408, "Request timeout";
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, "Body too large";
    /// The body's encoding is not supported.
    UnsupportedEncoding = "unsupported_encoding", 415, "Unsupported content encoding";
    /// The body is not what its encoding says: damaged, cut short, or followed by something else.
    InvalidEncoding = "invalid_encoding", 400, "Damaged encoding";
    /// No credential was presented.
    MissingToken = "missing_token", 401, "Credential required";
    /// The presented credential is unknown, malformed or of the wrong kind.
    InvalidToken = "invalid_token", 401, "Invalid credential";
    /// The agent token's time is over.
    TokenExpired = "token_expired", 401, "Credential expired";
    /// The agent token was cut off.
    TokenRevoked = "token_revoked", 401, "Credential revoked";
    /// A successor has replaced the agent token.
    TokenSuperseded = "token_superseded", 401, "Credential superseded";
    /// A token that its agent had retired was presented again.
    TokenReuseDetected = "token_reuse_detected", 401, "Credential reuse detected";
    /// The agent token was never used and yielded to another.
    TokenDisplaced = "token_displaced", 401, "Credential displaced";
    /// The host is out of service.
    HostArchived = "host_archived", 401, "Host archived";
    /// The host was deleted.
    HostDeleted = "host_deleted", 410, "Host deleted";
    /// The install token is malformed (400), or unknown, revoked or expired (401).
    InvalidInstallToken = "invalid_install_token", 401, "Invalid install token";
    /// The install token was exchanged by another claim.
    InstallTokenAlreadyUsed = "install_token_already_used", 401, "Install token already used";
    /// The claim was used before: draw another secret.
    ClaimInUse = "claim_in_use", 409, "Claim in use";
    /// An administrator's successor is pending.
    RotationPending = "rotation_pending", 409, "Rotation pending";
    /// Another holder of the credential has proposed a successor.
    RotationConflict = "rotation_conflict", 409, "Rotation conflict";
    /// The agent token is not in a state in which it can be rotated.
    TokenNotLive = "token_not_live", 409, "Credential not live";
    /// There is no such thing, or it is not yours to know of.
    NotFound = "not_found", 404, "Not found";
    /// The resource does not have this method.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// You may know of it, but not do this.
    Forbidden = "forbidden", 403, "Forbidden";
    /// Another unarchived host of the tenant has this name; `host_id` says which.
    NameTaken = "name_taken", 409, "Name taken";
    /// Another host of the tenant has this external id; `host_id` says which.
    ExternalIdTaken = "external_id_taken", 409, "External id taken";
    /// No host may take the work.
    NoEligibleHost = "no_eligible_host", 409, "No eligible host";
    /// None of the hosts that may take the work has room for it.
    NoFit = "no_fit", 409, "No host has room";
    /// Containers run on the host; `containers` lists them.
    HostHasContainers = "host_has_containers", 409, "Host has containers";
    /// The request changes something and does not say at which revision: send `If-Match`.
    PreconditionRequired = "precondition_required", 428, "Precondition required";
    /// The thing is at another revision than `If-Match` says: read it again.
    PreconditionFailed = "precondition_failed", 412, "Precondition failed";
    /// The thing changed meanwhile, again and again.
    Conflict = "conflict", 409, "Conflict";
    /// Too many requests; see `Retry-After`.
    RateLimited = "rate_limited", 429, "Too many requests";
    /// The ingest queue is full; see `Retry-After`.
    Overloaded = "overloaded", 503, "Overloaded";
    /// As many streams of events are followed as may be; see `Retry-After`.
    TooManyStreams = "too_many_streams", 503, "Too many streams";
    /// The service cannot answer just now; see `Retry-After`.
    Unavailable = "unavailable", 503, "Unavailable";
    /// A defect of the service.
    Internal = "internal", 500, "Internal error";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_text(Cow::<'de, str>::deserialize(deserializer)?))
    }
}

/// What an agent does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AgentAction {
    /// The same again, later.
    Retry,
    /// Buy a new access token.
    Refresh,
    /// Only a new install token helps.
    ReEnrol,
    /// Draw another successor and propose that.
    Propose,
    /// Stop: an administrator has taken the host out of service.
    Stop,
    /// An action of a later version.
    #[serde(other)]
    Unknown,
}
