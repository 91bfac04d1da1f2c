//! The server of this process.

use std::env;
use std::sync::{Mutex, PoisonError};

use crate::{Cluster, Durability, Error, PgBouncer, url};

/// The variable with the URL of the server to use.
pub const POSTGRES_URL: &str = "ENLIST_TEST_POSTGRES_URL";
/// The variable with the URL of a PgBouncer before that server. Without a server's URL beside it, it means nothing.
pub const PGBOUNCER_URL: &str = "ENLIST_TEST_PGBOUNCER_URL";

// Statics are never dropped: at the end of the process their pipes close, and the watchdogs do the rest.
static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);
static POOLER: Mutex<Option<PgBouncer>> = Mutex::new(None);

/// The URL of the server for tests: the one in [`POSTGRES_URL`], otherwise a [`Cluster`] that the first call of the
/// process starts.
///
/// # Errors
///
/// As [`Cluster::start`]. Let a test panic with it: without a server it has shown nothing.
pub fn server_url() -> Result<String, Error> {
    if let Some(url) = given(POSTGRES_URL) {
        return Ok(url);
    }
    let mut cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = &*cluster {
        return Ok(cluster.url());
    }
    Ok(cluster.insert(Cluster::start(Durability::Off)?).url())
}

/// The URL of this database of [`server_url`]'s server through a PgBouncer in transaction mode: the one in
/// [`PGBOUNCER_URL`], otherwise one that the first call of the process starts.
///
/// # Errors
///
/// As [`server_url`] and [`PgBouncer::start`].
pub fn pooler_url(database: &str) -> Result<String, Error> {
    // Alone it is left over from another server.
    if let (Some(_), Some(pooler)) = (given(POSTGRES_URL), given(PGBOUNCER_URL)) {
        return url::with_database(&pooler, database);
    }
    let server = server_url()?;
    let mut pooler = POOLER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pooler) = &*pooler {
        return Ok(pooler.url(database));
    }
    Ok(pooler.insert(PgBouncer::start(&server)?).url(database))
}

fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}
