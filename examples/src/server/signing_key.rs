//! The keys of access tokens, as files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use enlist_core::SystemEntropy;
use enlist_core::access_token::{InvalidIssuer, InvalidSigningKey, Issuer, SigningKey};
use zeroize::Zeroizing;

use super::config::ServeArgs;

/// Why access tokens cannot be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyError {
    /// The file cannot be read or written.
    #[error("the signing key {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The file holds something else.
    #[error("the signing key {}", .0.display())]
    Invalid(PathBuf, #[source] InvalidSigningKey),
    /// The texts or the life are out of bounds.
    #[error(transparent)]
    Issuer(#[from] InvalidIssuer),
}

/// Makes a new key in a file of its own, which only its owner can read, and gives its id.
///
/// # Errors
/// When the file cannot be written, or is there already: a key in use is never overwritten.
pub fn make_signing_key(path: &Path) -> Result<String, SigningKeyError> {
    let key = SigningKey::generate(&SystemEntropy);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.to_pkcs8_pem().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| SigningKeyError::File(path.to_owned(), error))?;
    Ok(key.kid().to_owned())
}

/// The issuer that the arguments describe, if there is a key.
pub(super) fn issuer(args: &ServeArgs) -> Result<Option<Issuer>, SigningKeyError> {
    let Some((first, others)) = args.access_token_key.split_first() else { return Ok(None) };
    let others = others.iter().map(|path| read(path).map(|key| key.public())).collect::<Result<Vec<_>, _>>()?;
    let audience = args.access_token_audience.as_ref().unwrap_or(&args.access_token_issuer);
    let issuer = Issuer::builder(&args.access_token_issuer, audience, read(first)?)
        .publish(others)
        .life(args.access_token_life)
        .build()?;
    Ok(Some(issuer))
}

fn read(path: &Path) -> Result<SigningKey, SigningKeyError> {
    let text = fs::read_to_string(path).map_err(|error| SigningKeyError::File(path.to_owned(), error))?;
    SigningKey::from_pkcs8_pem(&Zeroizing::new(text)).map_err(|error| SigningKeyError::Invalid(path.to_owned(), error))
}
