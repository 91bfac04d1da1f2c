//! Transactions that end with the work they hold, however it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::{Connection, SqliteConnection};

use rusqlite::{Transaction, TransactionBehavior};

use crate::error::Failure;

/// Runs `work` as one transaction that has the write lock from its first statement on: two writers then wait for each
/// other at the beginning, and none finds out at its end that what it read has changed.
pub(crate) fn immediate<T>(
    connection: &mut SqliteConnection,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut cause = None;
    let ended = connection.immediate_transaction(|connection| guarded(connection, work, &mut cause));
    // Why the work failed says more than how its rollback went: SQLite has often rolled back by itself.
    ended.map_err(|failure| cause.unwrap_or(failure))
}

/// The same on the connection of reports; `work` commits. A transaction that is dropped before is rolled back.
pub(crate) fn immediate_report<T>(
    connection: &mut rusqlite::Connection,
    work: impl FnOnce(Transaction<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    work(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// Runs `work` on one moment of the database: every statement sees the same.
pub(crate) fn snapshot<T>(
    connection: &mut SqliteConnection,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut cause = None;
    let ended = connection.transaction(|connection| guarded(connection, work, &mut cause));
    ended.map_err(|failure| cause.unwrap_or(failure))
}

/// Keeps the cause of a failure beside the result, which a failed rollback would replace; turns a panic into a failure,
/// so that the transaction around it is rolled back.
fn guarded<T>(
    connection: &mut SqliteConnection,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure>,
    cause: &mut Option<Failure>,
) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or(Err(Failure::Panicked)).map_err(|failure| {
        *cause = Some(failure);
        Failure::Panicked
    })
}
