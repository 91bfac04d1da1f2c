//! The schema's versions: made by [`migrate`], checked by everything else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enlist_core::store::StoreErrorKind;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};

use crate::column::Count;
use crate::error::Failure;
use crate::store::Shared;
use crate::transaction::Db;

/// Every migration in its order: its version, and what it does. Only ever added to.
const MIGRATIONS: &[(&str, &str)] =
    &[("2026-11-22-000000", include_str!("../migrations/2026-11-22-000000_first_light/up.sql"))];
/// The newest epoch that this version can work with. Additive migrations of later versions do not raise it.
const EPOCH: u64 = 1;

const VERSIONS: &str = "
    SELECT epoch, ARRAY(SELECT version FROM {schema}.schema_migrations) AS versions
    FROM {schema}.schema_epoch";

/// Whether the schema was found to be one that this version can work with. Once it was, it stays so for as long as
/// `check` finds an epoch that this version knows: only a later version that cannot be lived beside raises it.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicBool);

impl Gate {
    /// Fails with `SchemaVersion` unless the schema fits. Costs nothing once it did.
    pub(crate) async fn check(&self, db: &mut Db) -> Result<(), Failure> {
        if self.is_open() {
            return Ok(());
        }
        // Without the tables the engine says so, and that is `SchemaVersion` as well.
        let row = db.query(VERSIONS).fetch_optional(db.connection()).await?;
        let Some(row) = row else { return Err(StoreErrorKind::SchemaVersion.into()) };
        let epoch: Count = row.try_get("epoch")?;
        let versions: Vec<String> = row.try_get("versions")?;
        let versions: BTreeSet<_> = versions.iter().map(String::as_str).collect();
        // Additive migrations of later versions may be there too.
        let complete = MIGRATIONS.iter().all(|(version, _)| versions.contains(version));
        if !complete || epoch.0 > EPOCH {
            return Err(StoreErrorKind::SchemaVersion.into());
        }
        self.0.store(true, Ordering::Release);
        Ok(())
    }

    /// Closes when a later version has raised the epoch; `None` when nobody knows it any more. From then on every call
    /// looks for itself, until it fits again.
    pub(crate) fn reconsider(&self, epoch: Option<Count>) -> Result<(), Failure> {
        if epoch.is_some_and(|epoch| epoch.0 <= EPOCH) {
            return Ok(());
        }
        self.0.store(false, Ordering::Release);
        Err(StoreErrorKind::SchemaVersion.into())
    }

    /// Whether it was passed before.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Applies what is missing, all or nothing. Replicas that migrate at once take turns.
pub(crate) async fn migrate(shared: Arc<Shared>) -> Result<(), Failure> {
    // Directly if there is a way: then a long migration does not hold one of the pooler's connections.
    match &shared.listen {
        Some(options) => {
            let mut connection = PgConnection::connect_with(options).await?;
            apply(&shared, &mut connection).await?;
            // It is done, whatever becomes of the connection.
            let _ = connection.close().await;
            Ok(())
        }
        None => {
            let mut connection = shared.pool.acquire().await?;
            // Nobody uses it after this, whatever was left open on it.
            connection.close_on_drop();
            apply(&shared, &mut connection).await
        }
    }
}

/// One transaction, with a lock that goes with it: a lock of the session would be left behind on a pooler's connection.
/// Nothing is prepared, for the same reason.
async fn apply(shared: &Shared, connection: &mut PgConnection) -> Result<(), Failure> {
    let sql = &shared.sql;
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    run(&mut transaction, &format!("SELECT pg_advisory_xact_lock({})", sql.lock_key("migrate"))).await?;
    // Asked first: making a schema "if it does not exist" takes a privilege even when it does.
    let there = format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = '{}'", sql.schema());
    if raw_sql(AssertSqlSafe(there)).fetch_optional(&mut *transaction).await?.is_none() {
        run(&mut transaction, &format!("CREATE SCHEMA \"{}\"", sql.schema())).await?;
    }
    run(&mut transaction, &format!("SET LOCAL search_path = \"{}\", pg_catalog", sql.schema())).await?;
    run(
        &mut transaction,
        "CREATE TABLE IF NOT EXISTS schema_migrations (
            version    text COLLATE \"C\" NOT NULL PRIMARY KEY,
            applied_at timestamptz NOT NULL DEFAULT now()
        )",
    )
    .await?;
    let applied = raw_sql("SELECT version FROM schema_migrations").fetch_all(&mut *transaction).await?;
    let applied =
        applied.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<BTreeSet<_>, sqlx::Error>>()?;
    if !applied.is_empty() {
        let epoch = raw_sql("SELECT epoch::text FROM schema_epoch").fetch_optional(&mut *transaction).await?;
        let epoch = epoch.map(|row| row.try_get::<String, _>(0)).transpose()?;
        // A schema of ours without the row was changed by somebody else.
        let fits = epoch.and_then(|epoch| epoch.parse::<u64>().ok()).is_some_and(|epoch| epoch <= EPOCH);
        if !fits {
            return Err(StoreErrorKind::SchemaVersion.into());
        }
    }
    for (version, script) in MIGRATIONS.iter().filter(|(version, _)| !applied.contains(*version)) {
        raw_sql(*script).execute(&mut *transaction).await?;
        run(&mut transaction, &format!("INSERT INTO schema_migrations (version) VALUES ('{version}')")).await?;
        tracing::info!(schema = sql.schema(), version, "migrated");
    }
    transaction.commit().await?;
    Ok(())
}

async fn run(connection: &mut PgConnection, text: &str) -> Result<(), Failure> {
    raw_sql(AssertSqlSafe(text)).execute(connection).await?;
    Ok(())
}
