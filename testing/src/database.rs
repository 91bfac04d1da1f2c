//! A database for one test.

use std::error::Error as StdError;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::runtime;
use tokio::time::timeout;

use crate::{Error, server_url, template, url};

/// For a connection, and for all that a drop does. A server that is that slow is as good as none.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of a prefix goes into a name: with the rest it stays below the 63 bytes of an identifier.
const PREFIX_LENGTH: usize = 24;

/// A database of one test's own. Dropping it drops it on the server, whoever is still connected.
#[derive(Debug)]
#[must_use = "dropping it drops the database on the server"]
pub struct Database {
    server: String,
    name: String,
    url: String,
    /// Whether it is dropped on the server with this.
    is_owned: bool,
}

impl Database {
    /// Makes an empty database on the server of [`server_url`]. `prefix` is part of its name, for whoever reads the log.
    ///
    /// # Errors
    ///
    /// As [`server_url`], or [`Error::Sql`].
    pub async fn empty(prefix: &str) -> Result<Self, Error> {
        Self::empty_at(&server_url()?, prefix).await
    }

    /// Makes an empty database on this server.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] or [`Error::Sql`].
    pub async fn empty_at(server_url: &str, prefix: &str) -> Result<Self, Error> {
        let mut connection = connect(server_url).await?;
        Self::create(&mut connection, server_url, unique_name(prefix), "template0").await
    }

    /// Makes a database on the server of [`server_url`] as a copy of a template that `migrate` has filled, given its
    /// URL. One template serves all tests and processes with the same `fingerprint`, so let it follow from the
    /// migrations: another fingerprint, another template. It is of 1 to 40 ASCII letters, digits, `_` or `-`.
    ///
    /// # Errors
    ///
    /// As [`server_url`]; [`Error::Migration`] with what `migrate` answered, after which there is no template;
    /// [`Error::Fingerprint`] or [`Error::Sql`].
    pub async fn from_template<E>(
        prefix: &str,
        fingerprint: &str,
        migrate: impl AsyncFnOnce(&str) -> Result<(), E>,
    ) -> Result<Self, Error>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        Self::from_template_at(&server_url()?, prefix, fingerprint, migrate).await
    }

    /// Makes a database on this server as [`from_template`](Self::from_template) does.
    ///
    /// # Errors
    ///
    /// As [`from_template`](Self::from_template).
    pub async fn from_template_at<E>(
        server_url: &str,
        prefix: &str,
        fingerprint: &str,
        migrate: impl AsyncFnOnce(&str) -> Result<(), E>,
    ) -> Result<Self, Error>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let mut connection = connect(server_url).await?;
        let template = template::ensure(&mut connection, server_url, fingerprint, migrate).await?;
        Self::create(&mut connection, server_url, unique_name(prefix), &template).await
    }

    /// Its URL, for sqlx and libpq alike.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name on the server, as [`pooler_url`](crate::pooler_url) wants it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn create(
        connection: &mut PgConnection,
        server_url: &str,
        name: String,
        template: &str,
    ) -> Result<Self, Error> {
        let url = url::with_database(server_url, &name)?;
        let statement = format!(r#"CREATE DATABASE "{name}" TEMPLATE "{template}""#);
        // Owned before it is there: a future that is dropped half way leaves nothing either.
        let database = Self { server: server_url.to_owned(), name, url, is_owned: true };
        execute(connection, "create a database", statement).await?;
        Ok(database)
    }

    /// Leaves it on the server.
    pub(crate) fn keep(mut self) {
        self.is_owned = false;
    }

    /// Drops it, and whoever is connected to it.
    async fn remove(server: &str, name: &str) -> Result<(), Error> {
        let mut connection = connect(server).await?;
        drop_database(&mut connection, name).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !self.is_owned {
            return;
        }
        let (server, name) = (std::mem::take(&mut self.server), std::mem::take(&mut self.name));
        // A thread of its own: the caller's runtime, if there is one, cannot be blocked on from within. What fails stays
        // on the server until that is gone.
        let remover = thread::Builder::new().spawn(move || {
            if let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() {
                let _ = runtime.block_on(async { timeout(PATIENCE, Self::remove(&server, &name)).await });
            }
        });
        if let Ok(remover) = remover {
            let _ = remover.join();
        }
    }
}

/// Connects to the database `postgres`, from where others are made and dropped.
async fn connect(server_url: &str) -> Result<PgConnection, Error> {
    let url = url::with_database(server_url, "postgres")?;
    let outcome = timeout(PATIENCE, PgConnection::connect(&url)).await;
    outcome
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        .map_err(Error::sql("accept a connection"))
}

pub(crate) async fn execute(
    connection: &mut PgConnection,
    what: &'static str,
    statement: impl Into<String>,
) -> Result<(), Error> {
    // Names in it are of ours, or were checked.
    sqlx::raw_sql(AssertSqlSafe(statement.into())).execute(connection).await.map_err(Error::sql(what))?;
    Ok(())
}

pub(crate) async fn drop_database(connection: &mut PgConnection, name: &str) -> Result<(), Error> {
    execute(connection, "drop a database", format!(r#"DROP DATABASE IF EXISTS "{name}" WITH (FORCE)"#)).await
}

/// A name that no other test has, in whichever process, container or machine.
fn unique_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let prefix: String = prefix
        .chars()
        .take(PREFIX_LENGTH)
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' })
        .collect();
    let (process, count) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    // A process number is unique on one machine only. The standard library's maps have the randomness at hand.
    let random = RandomState::new().hash_one((process, count));
    format!("{prefix}_{process}_{count}_{:08x}", random >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_plain_and_short() {
        let prefix = "Ein::sehr \"langer\" Präfix eines Tests";
        let (one, two) = (unique_name(prefix), unique_name(prefix));
        assert_ne!(one, two);
        assert!(one.starts_with("ein__sehr__langer__pr_fi_"), "{one}");
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{one}");
        // The largest process number and counter: ten digits each.
        const { assert!(PREFIX_LENGTH + 1 + 10 + 1 + 10 + 1 + 8 < 63) }
    }
}
