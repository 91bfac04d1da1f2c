//! Who asks for an administrative act: the seam to the embedding service's users.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::wire::{Code, Problem, bearer};
use enlist_core::{Actor, TokenHash};
use http::header::AUTHORIZATION;
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// How the embedding service recognises its users.
///
/// A trait and not a filter: a filter that rejects hands the request to the service's other routes, and one of those
/// might answer it.
///
/// It is asked once a request, and every 30 seconds while a stream of events runs, after the path and the method have matched and before the body is read. It sees the
/// head only: method, URI, headers, and the extensions that were named to [`Routes`](crate::Routes). The version is not
/// passed on; an `:authority` of HTTP/2 is in the header `Host`.
///
/// Bodies are not held to a content type. A service that recognises its users by a cookie has to refuse requests from
/// other origins here, as for any route of its own.
#[async_trait]
pub trait AdminAuth: Send + Sync + 'static {
    /// Whose request this is. What they may do is the policy's business.
    ///
    /// # Errors
    /// When nobody is known to have sent it; when that cannot be found out just now.
    async fn actor(&self, head: &Parts) -> Result<Actor, AuthError>;
}

#[async_trait]
impl<A: AdminAuth + ?Sized> AdminAuth for Arc<A> {
    async fn actor(&self, head: &Parts) -> Result<Actor, AuthError> {
        (**self).actor(head).await
    }
}

/// Why an administrator was not recognised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The request carries no credential: 401.
    #[error("present an administrator's credential")]
    Missing,
    /// It carries one that nobody has: 401.
    #[error("the administrator's credential is not valid")]
    Invalid,
    /// The credential is carried in a way that cannot be read: 400. The text goes to the client.
    #[error("{0}")]
    Malformed(&'static str),
    /// It cannot be found out just now: 503, and says nothing about the credential.
    #[error("administrators cannot be recognised just now")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Missing => Code::MissingToken,
            AuthError::Invalid => Code::InvalidToken,
            AuthError::Malformed(_) => Code::InvalidRequest,
            AuthError::Unavailable(_) => {
                return Self::new(Code::Unavailable, error.to_string()).with_retry_after(Duration::from_secs(2));
            }
        };
        Self::new(code, error.to_string())
    }
}

/// Bearer tokens that stand for one actor each: what the reference server uses. Keeps the SHA-256 of the tokens only.
#[derive(Clone)]
pub struct StaticBearer {
    actors: Vec<(Zeroizing<[u8; 32]>, Actor)>,
}

/// A token that no `Authorization` header can carry: empty, or not of visible ASCII characters only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an administrator's token is one or more visible ASCII characters, without spaces")]
pub struct UnusableToken;

/// A token that stands for another actor already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this token stands for another actor already")]
pub struct TokenTaken;

impl StaticBearer {
    /// Recognises whoever presents `token` as `actor`. The text is zeroed.
    ///
    /// # Errors
    /// When no header can carry the token: an empty one would not keep anybody out.
    pub fn new(mut token: String, actor: Actor) -> Result<Self, UnusableToken> {
        let usable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let digest = digest(&token);
        token.zeroize();
        if usable { Ok(Self { actors: vec![(digest, actor)] }) } else { Err(UnusableToken) }
    }

    /// Recognises whoever presents the token with this hash as `actor`: for a token that is not kept in the clear.
    pub fn of_hash(hash: TokenHash, actor: Actor) -> Self {
        Self { actors: vec![(Zeroizing::new(*hash.as_bytes()), actor)] }
    }

    /// Recognises whoever presents the token with this hash as `actor` besides.
    ///
    /// # Errors
    /// When the token stands for somebody already.
    pub fn and(mut self, hash: TokenHash, actor: Actor) -> Result<Self, TokenTaken> {
        if self.find(hash.as_bytes()).is_some() {
            return Err(TokenTaken);
        }
        self.actors.push((Zeroizing::new(*hash.as_bytes()), actor));
        Ok(self)
    }

    /// Digests are compared, so that neither the content nor the length of a token shows in the time that it takes.
    fn find(&self, digest: &[u8; 32]) -> Option<&Actor> {
        let known = self.actors.iter().find(|(known, _)| bool::from(digest.as_slice().ct_eq(known.as_slice())));
        known.map(|(_, actor)| actor)
    }
}

impl fmt::Debug for StaticBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actors: Vec<_> = self.actors.iter().map(|(_, actor)| actor).collect();
        f.debug_struct("StaticBearer").field("tokens", &"redacted").field("actors", &actors).finish()
    }
}

#[async_trait]
impl AdminAuth for StaticBearer {
    async fn actor(&self, head: &Parts) -> Result<Actor, AuthError> {
        let mut values = head.headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthError::Missing)?;
        if values.next().is_some() {
            return Err(AuthError::Malformed("present one Authorization header, not several"));
        }
        let presented = bearer(value.as_bytes()).map_err(AuthError::Malformed)?;
        self.find(&digest(presented)).cloned().ok_or(AuthError::Invalid)
    }
}

fn digest(token: &str) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::digest(token.as_bytes()).into())
}
