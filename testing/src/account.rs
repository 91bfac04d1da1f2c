//! As whom a server runs.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::Error;

/// The user of the distribution's packages.
const SERVER_USER: &str = "postgres";

/// As whom a server runs: both PostgreSQL and PgBouncer refuse to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// As the caller, who is not root.
    Caller,
    /// As this user and group, since the caller is root.
    Other {
        /// The user's number.
        uid: u32,
        /// The number of its first group.
        gid: u32,
    },
}

impl Account {
    pub(crate) fn for_servers() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Caller);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(Error::io("read /etc/passwd"))?;
        find_user(&users, SERVER_USER).ok_or_else(|| Error::Missing {
            what: format!("a user `{SERVER_USER}`, as whom root could run PostgreSQL, which refuses to run as root"),
            remedy: "`apt-get install postgresql` adds it; or run the tests as somebody else",
        })
    }

    /// Makes `command` run as this account. The standard library drops root's other groups with it.
    pub(crate) fn apply(self, command: &mut Command) {
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives `path` to this account.
    pub(crate) fn own(self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Caller => Ok(()),
            Self::Other { uid, gid } => {
                chown(path, Some(uid), Some(gid)).map_err(Error::io(format!("give away {}", path.display())))
            }
        }
    }
}

/// Finds `name` in the text of a password file: `name:password:uid:gid:…`.
fn find_user(users: &str, name: &str) -> Option<Account> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account::Other { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_its_whole_name() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nold-postgres:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/var:/bin/sh\n";
        assert_eq!(find_user(users, "postgres"), Some(Account::Other { uid: 101, gid: 104 }));
        assert_eq!(find_user(users, "x"), None);
        assert_eq!(find_user("postgres:x:\n", "postgres"), None);
    }
}
