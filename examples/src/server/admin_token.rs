//! The administrator's bearer token: given, or made at the first start and shown once.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use enlist_core::secret::{PlainToken, Prefix, TokenHash};
use enlist_core::{Actor, ActorId, SystemEntropy};
use enlist_http_warp::{StaticBearer, UnusableToken};

use super::config::ServeArgs;

/// Administrators' tokens that the server makes.
const PREFIX: Prefix = Prefix::new("ead");

/// The administrator's token, as the server knows it.
pub struct AdminToken {
    auth: StaticBearer,
    new: Option<PlainToken>,
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
        match args.database.path() {
            None => Ok(Self::made(PlainToken::generate(PREFIX, &SystemEntropy))),
            Some(database) => {
                let mut path = database.into_os_string();
                path.push(".admin-token-sha256");
                Self::kept(Path::new(&path))
            }
        }
    }

    /// The token, if it was made just now.
    pub(super) fn new_text(&self) -> Option<&str> {
        self.new.as_ref().map(PlainToken::expose)
    }

    pub(super) fn into_auth(self) -> StaticBearer {
        self.auth
    }

    fn given(token: String) -> Result<Self, AdminTokenError> {
        Ok(Self { auth: StaticBearer::new(token, operator())?, new: None })
    }

    fn made(token: PlainToken) -> Self {
        Self { auth: StaticBearer::of_hash(token.hash(), operator()), new: Some(token) }
    }

    fn kept(path: &Path) -> Result<Self, AdminTokenError> {
        let failed = |error| AdminTokenError::File(path.to_owned(), error);
        match fs::read_to_string(path) {
            Ok(text) => {
                let hash = TokenHash::from_hex(text.trim()).ok_or_else(|| AdminTokenError::Damaged(path.to_owned()))?;
                Ok(Self { auth: StaticBearer::of_hash(hash, operator()), new: None })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = PlainToken::generate(PREFIX, &SystemEntropy);
                let mut file = fs::File::create_new(path).map_err(failed)?;
                writeln!(file, "{}", token.hash().to_hex()).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                Ok(Self::made(token))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

fn operator() -> Actor {
    Actor::operator(ActorId::new("admin").expect("it is short and printable"))
}
