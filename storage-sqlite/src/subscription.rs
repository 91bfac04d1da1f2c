//! Who is told of tokens that were cut off: `credential_changes`, read behind what was read before.

use std::collections::VecDeque;
use std::future;

use async_trait::async_trait;
use diesel::dsl::max;
use diesel::prelude::*;
use enlist_core::store::{Change, StoreError, Subscription};

use crate::column::Hash;
use crate::error::Failure;
use crate::schema::credential_changes;
use crate::store::SqliteStore;
use crate::transaction::snapshot;

/// A subscription. It is a handle on the store like any other, and learns of commits, its own process's as well as
/// others', when it is told to [`sync`](Subscription::sync): SQLite calls nobody.
#[derive(Debug)]
pub(crate) struct Changes {
    store: SqliteStore,
    /// The last change that was read.
    seen: i64,
    found: VecDeque<Change>,
}

impl Changes {
    /// Tells what is changed from now on.
    pub(crate) async fn begin(store: SqliteStore) -> Result<Self, StoreError> {
        let seen = store.read(newest).await?;
        Ok(Self { store, seen, found: VecDeque::new() })
    }
}

#[async_trait]
impl Subscription for Changes {
    async fn next(&mut self) -> Change {
        match self.found.pop_front() {
            Some(change) => change,
            // Only `sync` finds any, and it cannot be called while this waits.
            None => future::pending().await,
        }
    }

    async fn sync(&mut self) -> Result<(), StoreError> {
        let seen = self.seen;
        let news = self.store.read(move |connection| snapshot(connection, |connection| read(connection, seen))).await?;
        // Nothing waits from here on: dropped before, it has moved nothing, and what it read is read again.
        if let Some((newest, change)) = news {
            self.seen = newest;
            self.found.push_back(change);
        }
        Ok(())
    }
}

/// The last change there was; 0 when there never was any, since the newest row is never trimmed.
fn newest(connection: &mut SqliteConnection) -> Result<i64, Failure> {
    let newest = credential_changes::table.select(max(credential_changes::change_id));
    Ok(newest.get_result::<Option<i64>>(connection)?.unwrap_or(0))
}

/// What there is behind `seen`, and the number of the last of it.
fn read(connection: &mut SqliteConnection, seen: i64) -> Result<Option<(i64, Change)>, Failure> {
    let rows = credential_changes::table
        .filter(credential_changes::change_id.gt(seen))
        .order(credential_changes::change_id)
        .select((credential_changes::change_id, credential_changes::hash))
        .load::<(i64, Hash)>(connection)?;
    let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else {
        // Numbers never fall, unless somebody emptied the table, or put an older file in its place.
        let newest = newest(connection)?;
        return Ok((newest != seen).then_some((newest, Change::Gap)));
    };
    let last = *last;
    // Rows are trimmed from their beginning only: what lacks, lacks between `seen` and the first.
    if *first != seen + 1 {
        return Ok(Some((last, Change::Gap)));
    }
    Ok(Some((last, Change::AgentTokens(rows.into_iter().map(|(_, hash)| hash.0).collect()))))
}
