//! The directory of one server.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::account::Account;

/// Where a path is short and the server's user may go. `TMPDIR` promises neither: a socket's path ends at 107 bytes.
const PARENTS: [&str; 2] = ["/tmp", "/var/tmp"];

/// A directory that only the server's account can enter. The watchdog removes it, nobody else.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    account: Account,
}

impl Directory {
    pub(crate) fn create(account: Account) -> Result<Self, Error> {
        let mut outcome = Err(std::io::ErrorKind::NotFound.into());
        for parent in PARENTS {
            outcome = tempfile::Builder::new()
                .prefix("enlist-")
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(parent);
            if outcome.is_ok() {
                break;
            }
        }
        let temporary = outcome.map_err(Error::io("make a directory in /tmp or /var/tmp"))?;
        account.own(temporary.path())?;
        Ok(Self { path: temporary.keep(), account })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds `text` to the file `name`, which then is the account's and nobody else's to read.
    pub(crate) fn append(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        let write = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?.write_all(text.as_bytes());
        write().map_err(Error::io(format!("write {}", path.display())))?;
        self.account.own(&path)
    }

    /// The file `name`, or nothing while it is not there.
    pub(crate) fn read(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.path.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}
