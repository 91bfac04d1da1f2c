//! The credential in a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{CredentialStore, SecretBytes};
use crate::error::CredentialError;

const FILE: &str = "credential.json";
const TEMPORARY: &str = "credential.json.new";
/// Locked while a store of this directory lives.
const LOCK: &str = "lock";
/// Far above what a credential takes; a larger file is not ours.
const MAX_BYTES: u64 = 64 * 1024;

/// `credential.json` in a directory of the agent's own.
///
/// The file has mode 0600; the directory is made with mode 0700 if it is missing, and left as it is otherwise. A save
/// writes a file beside it, syncs that, renames it over the old one and syncs the directory: a crash leaves the old
/// document or the new one. The work runs on tokio's blocking threads, since syncing takes milliseconds to seconds;
/// dropping the future does not stop it half-way, and calls take effect in their order.
///
/// One store uses a directory at a time, clones aside: two agents of one credential would overwrite what the other has
/// drawn. From its first call until its last clone is dropped, a store holds a lock on the file `lock` in the
/// directory; another one is refused with an error that says so.
#[derive(Debug, Clone)]
pub struct FileCredentialStore {
    directory: Arc<PathBuf>,
    /// Fair, and held until the work is done, also when nobody waits for it any more. Holds the lock, once it is taken.
    turn: Arc<Mutex<Option<File>>>,
}

impl FileCredentialStore {
    /// The store in this directory. Nothing is touched yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Arc::new(directory.into()), turn: Arc::default() }
    }

    /// The file that holds the credential.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, CredentialError> + Send + 'static,
    ) -> Result<T, CredentialError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let directory = Arc::clone(&self.directory);
        let done = tokio::task::spawn_blocking(move || {
            let mut turn = turn;
            if turn.is_none() {
                *turn = lock(&directory)?;
            }
            work(&directory)
        });
        done.await.map_err(|error| CredentialError::Store(error.into()))?
    }
}

#[async_trait]
impl CredentialStore for FileCredentialStore {
    async fn load(&self) -> Result<Option<SecretBytes>, CredentialError> {
        self.blocking(load).await
    }

    async fn save(&self, document: &SecretBytes) -> Result<(), CredentialError> {
        let document = document.clone();
        // Made first, so that it can be locked before anything is written into it.
        self.blocking(make_directory).await?;
        self.blocking(move |directory| save(directory, &document)).await
    }

    async fn erase(&self) -> Result<(), CredentialError> {
        self.blocking(erase).await
    }
}

/// Takes the directory for this store. `None` while there is no directory: nobody uses what is not there.
fn lock(directory: &Path) -> Result<Option<File>, CredentialError> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path).map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(CredentialError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn load(directory: &Path) -> Result<Option<SecretBytes>, CredentialError> {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    warn_if_others_can_read(&file, &path);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed("read", &path))?;
    Ok(Some(SecretBytes(bytes)))
}

fn save(directory: &Path, document: &SecretBytes) -> Result<(), CredentialError> {
    let (path, temporary) = (directory.join(FILE), directory.join(TEMPORARY));
    // Left by a crash; made anew, so that its mode is ours.
    remove(&temporary)?;
    let mut file = private_file(&temporary).map_err(failed("create", &temporary))?;
    let written = file.write_all(document.expose()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // A full disk: do not leave a piece of a secret behind.
        let _ = fs::remove_file(&temporary);
        return Err(failed("write", &temporary)(error));
    }
    fs::rename(&temporary, &path).map_err(failed("rename to", &path))?;
    sync_directory(directory)
}

fn erase(directory: &Path) -> Result<(), CredentialError> {
    let removed = [TEMPORARY, FILE].map(|name| remove(&directory.join(name)));
    for removed in removed {
        removed?;
    }
    if directory.exists() { sync_directory(directory) } else { Ok(()) }
}

fn remove(path: &Path) -> Result<(), CredentialError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes the directory and those above it, each durably.
fn make_directory(directory: &Path) -> Result<(), CredentialError> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_directory(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", directory)(error)),
        _ => {}
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> Result<(), CredentialError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))
}

/// Elsewhere directories cannot be synced; renames are journalled there.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), CredentialError> {
    Ok(())
}

#[cfg(unix)]
fn warn_if_others_can_read(file: &File, path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "others can read the credential: set its mode to 0600");
    }
}

#[cfg(not(unix))]
fn warn_if_others_can_read(_: &File, _: &Path) {}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CredentialError {
    move |source| CredentialError::Io { attempted, path: path.to_owned(), source }
}
