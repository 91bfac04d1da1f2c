//! Migrated once, copied by every test.

use std::error::Error as StdError;

use sqlx::postgres::PgConnection;

use crate::database::{drop_database, execute};
use crate::{Database, Error};

/// With what precedes it in a name, below the 63 bytes of an identifier.
const FINGERPRINT_LENGTH: usize = 40;

/// Makes the template of `fingerprint` if it is not there, and says what it is called.
pub(crate) async fn ensure<E>(
    connection: &mut PgConnection,
    server_url: &str,
    fingerprint: &str,
    migrate: impl AsyncFnOnce(&str) -> Result<(), E>,
) -> Result<String, Error>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let is_plain = fingerprint.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if fingerprint.is_empty() || fingerprint.len() > FINGERPRINT_LENGTH || !is_plain {
        return Err(Error::Fingerprint(fingerprint.to_owned()));
    }
    let name = format!("enlist_template_{fingerprint}");
    if exists(connection, &name).await? {
        return Ok(name);
    }
    // Tests come in crowds, and not from one process: the first of them makes it. On a failure the connection ends, and
    // the lock with it.
    execute(connection, "limit waiting", "SET lock_timeout = '5min'").await?;
    lock(connection, "SELECT pg_advisory_lock(hashtextextended($1, 0))", &name).await?;
    if !exists(connection, &name).await? {
        make(connection, server_url, fingerprint, &name, migrate).await?;
    }
    lock(connection, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", &name).await?;
    Ok(name)
}

/// Under the lock. It has another name until it is whole: what a killed process leaves is never taken for a template.
async fn make<E>(
    connection: &mut PgConnection,
    server_url: &str,
    fingerprint: &str,
    name: &str,
    migrate: impl AsyncFnOnce(&str) -> Result<(), E>,
) -> Result<(), Error>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let unfinished = format!("enlist_making_{fingerprint}");
    drop_database(connection, &unfinished).await?;
    let database = Database::create(connection, server_url, unfinished.clone(), "template0").await?;
    migrate(database.url()).await.map_err(|error| Error::Migration(error.into()))?;

    // Nobody may be connected to what is renamed or copied: close the door, then show out whoever is still there.
    let seal = format!(r#"ALTER DATABASE "{unfinished}" WITH ALLOW_CONNECTIONS false"#);
    execute(connection, "seal the template", seal).await?;
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
        .bind(&unfinished)
        .execute(&mut *connection)
        .await
        .map_err(Error::sql("disconnect those in the template"))?;
    let rename = format!(r#"ALTER DATABASE "{unfinished}" RENAME TO "{name}""#);
    execute(connection, "name the template", rename).await?;
    database.keep();
    execute(connection, "mark the template", format!(r#"ALTER DATABASE "{name}" WITH IS_TEMPLATE true"#)).await
}

async fn exists(connection: &mut PgConnection, name: &str) -> Result<bool, Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(connection)
        .await
        .map_err(Error::sql("look for the template"))
}

async fn lock(connection: &mut PgConnection, statement: &'static str, name: &str) -> Result<(), Error> {
    sqlx::query(statement).bind(name).execute(connection).await.map_err(Error::sql("lock the template"))?;
    Ok(())
}
