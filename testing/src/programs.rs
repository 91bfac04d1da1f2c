//! Where the distribution keeps its programs.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// A folder with another PostgreSQL's programs.
const POSTGRES_BIN: &str = "ENLIST_TEST_POSTGRES_BIN";
/// Where Debian and its kin keep a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Where PgBouncer may be although it is not on the `PATH` of an ordinary user.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"];

/// The folder with `initdb` and `postgres`.
pub(crate) fn postgres_folder() -> Result<PathBuf, Error> {
    const REMEDY: &str = "Install it (`apt-get install postgresql`, or run testing/install), name the folder of its \
                          programs in ENLIST_TEST_POSTGRES_BIN, or name a running server in ENLIST_TEST_POSTGRES_URL";
    if let Some(folder) = env::var_os(POSTGRES_BIN).filter(|folder| !folder.is_empty()).map(PathBuf::from) {
        if is_postgres_folder(&folder) {
            return Ok(folder);
        }
        let what = format!("`initdb` and `postgres` in {}, which {POSTGRES_BIN} names", folder.display());
        return Err(Error::Missing { what, remedy: REMEDY });
    }
    newest_version(Path::new(VERSIONS)).or_else(configured).or_else(|| find_on_path(is_postgres_folder)).ok_or_else(
        || {
            let what = format!("a PostgreSQL server (in {VERSIONS}/*/bin, through `pg_config` and on the PATH)");
            Error::Missing { what, remedy: REMEDY }
        },
    )
}

/// The program `pgbouncer`.
pub(crate) fn pgbouncer() -> Result<PathBuf, Error> {
    let has_it = |folder: &Path| folder.join("pgbouncer").is_file();
    let folder = find_on_path(has_it)
        .or_else(|| SYSTEM_FOLDERS.iter().map(PathBuf::from).find(|folder| has_it(folder)))
        .ok_or_else(|| Error::Missing {
            what: "PgBouncer (on the PATH and in the system's folders)".to_owned(),
            remedy: "Install it (`apt-get install pgbouncer`, or run testing/install), or name a running one in \
                     ENLIST_TEST_PGBOUNCER_URL beside its server in ENLIST_TEST_POSTGRES_URL",
        })?;
    Ok(folder.join("pgbouncer"))
}

fn is_postgres_folder(folder: &Path) -> bool {
    folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

/// The folder of the highest version that has a server: clients alone leave such a folder too.
fn newest_version(versions: &Path) -> Option<PathBuf> {
    fs::read_dir(versions)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| is_postgres_folder(folder))
        .max()
        .map(|(_, folder)| folder)
}

/// What `pg_config` says, if it is there.
fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    is_postgres_folder(&folder).then_some(folder)
}

fn find_on_path(accept: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find(|folder| accept(folder))
}

/// Whether a variable would lead a server or a client astray.
pub(crate) fn is_for_postgres(variable: &OsStr) -> bool {
    variable.as_encoded_bytes().starts_with(b"PG")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_by_number_and_has_a_server() {
        let versions = tempfile::tempdir_in("/tmp").expect("a directory");
        for (version, has_server) in [("9", true), ("15", true), ("17", false), ("main", true)] {
            let bin = versions.path().join(version).join("bin");
            fs::create_dir_all(&bin).expect("a folder");
            fs::write(bin.join("initdb"), "").expect("a file");
            if has_server {
                fs::write(bin.join("postgres"), "").expect("a file");
            }
        }
        assert_eq!(newest_version(versions.path()), Some(versions.path().join("15/bin")));
        assert_eq!(newest_version(&versions.path().join("none")), None);
    }
}
