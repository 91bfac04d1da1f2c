//! The administrator's bearer token: given, or made at the first start and shown once.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use enlist_core::secret::{PlainToken, Prefix, TokenHash};
use enlist_core::{Actor, ActorId, SystemEntropy};
use enlist_http_warp::{StaticBearer, UnusableToken};

use super::actors::{self, ActorsError};
use super::config::{Database, ServeArgs};

/// Administrators' tokens that the server makes.
const PREFIX: Prefix = Prefix::new("ead");

/// The administrator's token, as the server knows it, and those of the actors who are let in besides.
pub struct AdminToken {
    auth: StaticBearer,
    new: Option<PlainToken>,
    /// Where the hash of a new one is to be kept.
    file: Option<PathBuf>,
}

/// Why there is no administrator's token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminTokenError {
    /// The file cannot be read or written.
    #[error("the administrator's token: {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The file does not hold what it should.
    #[error("{} does not hold the hash of an administrator's token: remove it to have a new one made", .0.display())]
    Damaged(PathBuf),
    /// Replicas on one database have to have the same.
    #[error("with PostgreSQL, set ENLIST_ADMIN_TOKEN or --admin-token-file: replicas share the administrator's token")]
    NotGiven,
    /// The token cannot be sent in a header.
    #[error(transparent)]
    Unusable(#[from] UnusableToken),
}

impl AdminToken {
    /// `ENLIST_ADMIN_TOKEN`, else the file that was named, else the one that an earlier start has made, else a new one.
    /// Of a token that the server has made, only the hash is kept, beside the database.
    pub(super) fn find_or_make(args: &ServeArgs) -> Result<Self, AdminTokenError> {
        if let Ok(token) = std::env::var("ENLIST_ADMIN_TOKEN") {
            return Self::given(token);
        }
        if let Some(path) = &args.admin_token_file {
            let text = fs::read_to_string(path).map_err(|error| AdminTokenError::File(path.clone(), error))?;
            return Self::given(text.trim_end().to_owned());
        }
        if let Ok(Database::Postgres(_)) = args.database.read() {
            return Err(AdminTokenError::NotGiven);
        }
        match args.database.path() {
            None => Ok(Self::made(None)),
            Some(database) => {
                let mut path = database.into_os_string();
                path.push(".admin-token-sha256");
                Self::kept_or_made(path.into())
            }
        }
    }

    /// Lets in the actors of a file besides.
    pub(super) fn let_in(&mut self, path: &Path) -> Result<(), ActorsError> {
        self.auth = actors::let_in(self.auth.clone(), path, &admin())?;
        Ok(())
    }

    /// Keeps the hash of a new token: to be called once the token was shown, so that none is kept that nobody knows.
    pub(super) fn keep(&mut self) -> Result<(), AdminTokenError> {
        let (Some(token), Some(path)) = (&self.new, self.file.take()) else { return Ok(()) };
        let keep = || {
            let mut file = fs::File::create_new(&path)?;
            writeln!(file, "{}", token.hash().to_hex())?;
            file.sync_all()
        };
        keep().map_err(|error| AdminTokenError::File(path.clone(), error))
    }

    /// The token, if it was made just now.
    pub(super) fn new_text(&self) -> Option<&str> {
        self.new.as_ref().map(PlainToken::expose)
    }

    pub(super) fn into_auth(self) -> StaticBearer {
        self.auth
    }

    fn given(token: String) -> Result<Self, AdminTokenError> {
        Ok(Self { auth: StaticBearer::new(token, operator())?, new: None, file: None })
    }

    fn made(file: Option<PathBuf>) -> Self {
        let token = PlainToken::generate(PREFIX, &SystemEntropy);
        Self { auth: StaticBearer::of_hash(token.hash(), operator()), new: Some(token), file }
    }

    fn kept_or_made(path: PathBuf) -> Result<Self, AdminTokenError> {
        match fs::read_to_string(&path) {
            Ok(text) => {
                let Some(hash) = TokenHash::from_hex(text.trim()) else { return Err(AdminTokenError::Damaged(path)) };
                tracing::info!(
                    "the administrator's token is the one that the first start has shown; remove {} to have a new one made",
                    path.display()
                );
                Ok(Self { auth: StaticBearer::of_hash(hash, operator()), new: None, file: None })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::made(Some(path))),
            Err(error) => Err(AdminTokenError::File(path, error)),
        }
    }
}

fn operator() -> Actor {
    Actor::operator(admin())
}

fn admin() -> ActorId {
    ActorId::new("admin").expect("it is short and printable")
}
