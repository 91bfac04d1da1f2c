//! The schema's versions: made by [`migrate`], checked by everything else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::migration::{Migration, MigrationSource};
use diesel::sqlite::Sqlite;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use enlist_core::store::StoreErrorKind;

use crate::error::Failure;
use crate::schema::{__diesel_schema_migrations, schema_epoch, sqlite_master};
use crate::transaction::immediate;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
/// The newest epoch that this version can work with. Additive migrations of later versions do not raise it.
const EPOCH: i64 = 1;

/// Whether the schema was found to be one that this version can work with. Once it was, it stays so: a later version
/// that migrates meanwhile must not break the one before it.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicBool);

impl Gate {
    /// Fails with `SchemaVersion` unless the schema fits. Costs nothing once it did.
    pub(crate) fn check(&self, connection: &mut SqliteConnection) -> Result<(), Failure> {
        if self.0.load(Ordering::Acquire) {
            return Ok(());
        }
        if !fits(connection)? {
            return Err(StoreErrorKind::SchemaVersion.into());
        }
        self.0.store(true, Ordering::Release);
        Ok(())
    }
}

/// Whether opening is allowed: a database that was never migrated, one of ours, or an older one. Only one whose epoch
/// is later than ours is refused.
pub(crate) fn check_openable(connection: &mut SqliteConnection) -> Result<(), Failure> {
    if applied(connection)?.is_empty() || epoch(connection)? <= EPOCH {
        return Ok(());
    }
    Err(StoreErrorKind::SchemaVersion.into())
}

/// Applies what is missing, all or nothing. Two processes that migrate at once take turns.
pub(crate) fn migrate(connection: &mut SqliteConnection) -> Result<(), Failure> {
    immediate(connection, |connection| {
        check_openable(connection)?;
        connection.run_pending_migrations(MIGRATIONS).map_err(cause)?;
        Ok(())
    })
}

/// What the engine said, if it was the engine: a full disk is another matter than a table that is there already.
fn cause(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    match error.downcast::<diesel::result::Error>() {
        Ok(engine) => Failure::Engine(*engine),
        Err(error) => Failure::Migration(error),
    }
}

/// Every migration of ours is applied, and none of a later epoch. Additive ones of later versions may be there too.
fn fits(connection: &mut SqliteConnection) -> Result<bool, Failure> {
    let applied = applied(connection)?;
    Ok(!applied.is_empty() && known()?.is_subset(&applied) && epoch(connection)? <= EPOCH)
}

fn known() -> Result<BTreeSet<String>, Failure> {
    let migrations: Vec<Box<dyn Migration<Sqlite>>> =
        MIGRATIONS.migrations().map_err(|_| Failure::Invalid("the embedded migrations cannot be read"))?;
    Ok(migrations.iter().map(|migration| migration.name().version().to_string()).collect())
}

fn applied(connection: &mut SqliteConnection) -> Result<BTreeSet<String>, Failure> {
    if !has_table(connection, "__diesel_schema_migrations")? {
        return Ok(BTreeSet::new());
    }
    let versions = __diesel_schema_migrations::table.select(__diesel_schema_migrations::version);
    Ok(versions.load::<String>(connection)?.into_iter().collect())
}

/// Only asked where migrations were applied: then a file without the row was written by somebody else.
fn epoch(connection: &mut SqliteConnection) -> Result<i64, Failure> {
    if !has_table(connection, "schema_epoch")? {
        return Ok(i64::MAX);
    }
    let epoch = schema_epoch::table.select(schema_epoch::epoch).get_result::<i64>(connection).optional()?;
    Ok(epoch.unwrap_or(i64::MAX))
}

fn has_table(connection: &mut SqliteConnection, name: &str) -> Result<bool, Failure> {
    let tables = sqlite_master::table.filter(sqlite_master::kind.eq("table")).filter(sqlite_master::name.eq(name));
    Ok(tables.count().get_result::<i64>(connection)? > 0)
}
