//! The tables. Keys begin with what their rows are listed by, so that each list is one range.

use std::borrow::Borrow;
use std::ops::Bound;

use enlist_core::store::Page;
use enlist_core::{AgentTokenId, HostId, InstallTokenId};
use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::record::{decode, encode};

/// A record of `record.rs`.
pub(crate) type Json = &'static [u8];
/// SHA-256 of a token.
pub(crate) type Hash = &'static [u8; 32];

/// Declares each table once, for readers and for the writer.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $key:ty => $value:ty,)*) => {
        /// Every table, as of one moment.
        #[expect(dead_code, reason = "some are the writer's alone")]
        pub(crate) struct Reader { $($(#[$doc])* pub(crate) $name: ReadOnlyTable<$key, $value>,)* }

        /// Every table, in the one transaction that writes.
        pub(crate) struct Writer<'t> { $($(#[$doc])* pub(crate) $name: Table<'t, $key, $value>,)* }

        impl Reader {
            pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self, Failure> {
                Ok(Self { $($name: transaction.open_table(TableDefinition::new(stringify!($name)))?,)* })
            }
        }

        impl<'t> Writer<'t> {
            /// Makes those that are not there.
            pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, Failure> {
                Ok(Self { $($name: transaction.open_table(TableDefinition::new(stringify!($name)))?,)* })
            }
        }
    };
}

tables! {
    /// The layout, the last position given, and a number that `check` raises.
    meta: &'static str => u64,
    /// `HostRow` by its id.
    hosts: u128 => Json,
    /// Hosts in the order in which candidates for placement stand.
    ring: (u64, u128) => (),
    /// `PresenceRow` by the host.
    presence: u128 => Json,
    /// Hosts that are online, by their own window in seconds (0: the fleet's) and by when they were heard last.
    online: (u32, i64, u128) => (),
    /// `Monitor`, under a key of its own.
    monitor: &'static str => Json,
    /// Unarchived hosts by tenant and name.
    names: (&'static str, &'static str) => u128,
    /// Hosts by tenant and external id.
    external_ids: (&'static str, &'static str) => u128,
    /// `InstallTokenRow` by aggregate and id: the host's, or its own when it is bound to a tenant.
    install_tokens: (u128, u128) => Json,
    /// Install tokens that are bound to a tenant, by tenant and id.
    tenant_install_tokens: (&'static str, u128) => (),
    /// The aggregate of an install token.
    install_owners: u128 => u128,
    /// Install tokens by hash. What is here once stays, whatever becomes of the token.
    install_hashes: Hash => u128,
    /// `AgentTokenRow` by host and id.
    agent_tokens: (u128, u128) => Json,
    /// The host of an agent token.
    agent_owners: u128 => u128,
    /// Agent tokens by hash, but for those of deleted hosts.
    agent_hashes: Hash => u128,
    /// When an agent token was last used.
    last_used: u128 => i64,
    /// `TombstoneRow` by hash.
    tombstones: Hash => Json,
    /// Time and `EventRow` by position. The time stands beside the record, so that pruning decodes nothing.
    events: u64 => (i64, Json),
    /// When it was removed, and `ContainerRow`, by host and `container_id`.
    containers: (u128, &'static str) => (Option<i64>, Json),
    /// `SnapshotRow` by host and `recorded_at`.
    snapshots: (u128, i64) => Json,
    /// Deleted hosts of which containers or snapshots may be left.
    deleted: u128 => (),
}

/// Ids as keys: as numbers UUIDs sort as they do everywhere.
pub(crate) trait AsKey {
    fn key(&self) -> u128;
}

macro_rules! keys {
    ($($id:ident)*) => {
        $(impl AsKey for $id {
            fn key(&self) -> u128 {
                self.as_uuid().as_u128()
            }
        })*
    };
}
keys! { HostId InstallTokenId AgentTokenId }

/// Reads a record.
pub(crate) fn get<'k, K: Key + 'static, T: DeserializeOwned>(
    table: &impl ReadableTable<K, Json>,
    key: impl Borrow<K::SelfType<'k>>,
) -> Result<Option<T>, Failure> {
    table.get(key)?.map(|row| decode(row.value())).transpose()
}

/// Reads what `claim` wrote.
pub(crate) fn number<'k, K: Key + 'static>(
    table: &impl ReadableTable<K, u128>,
    key: impl Borrow<K::SelfType<'k>>,
) -> Result<Option<u128>, Failure> {
    Ok(table.get(key)?.map(|number| number.value()))
}

/// Reads the record of a token, by way of whose it is.
pub(crate) fn owned<T: DeserializeOwned>(
    table: &impl ReadableTable<(u128, u128), Json>,
    owners: &impl ReadableTable<u128, u128>,
    id: Option<u128>,
) -> Result<Option<T>, Failure> {
    let Some(id) = id else { return Ok(None) };
    let Some(owner) = number(owners, id)? else { return Ok(None) };
    get(table, (owner, id))
}

/// Reads all records of one aggregate, in the order of their ids.
pub(crate) fn all_of<T: DeserializeOwned>(
    table: &impl ReadableTable<(u128, u128), Json>,
    owner: u128,
) -> Result<Vec<T>, Failure> {
    table.range((owner, 0)..=(owner, u128::MAX))?.map(|row| decode(row?.1.value())).collect()
}

/// Reads the records of one aggregate behind an id, in the order of their ids.
pub(crate) fn behind<T: DeserializeOwned>(
    table: &impl ReadableTable<(u128, u128), Json>,
    owner: u128,
    after: Option<u128>,
) -> Result<impl Iterator<Item = Result<T, Failure>>, Failure> {
    let rows = table.range((Bound::Excluded((owner, after.unwrap_or(0))), Bound::Included((owner, u128::MAX))))?;
    Ok(rows.map(|row| decode(row?.1.value())))
}

/// One page of rows; reads one more than it holds, to see whether any follow.
pub(crate) fn page<T>(rows: impl IntoIterator<Item = Result<T, Failure>>, limit: usize) -> Result<Page<T>, Failure> {
    let rows = rows.into_iter().take(limit.saturating_add(1)).collect::<Result<_, _>>()?;
    Ok(Page::of_overread(rows, limit))
}

/// Writes a record over the one that is there.
pub(crate) fn put<'k, K: Key + 'static>(
    table: &mut Table<'_, K, Json>,
    key: impl Borrow<K::SelfType<'k>>,
    record: &impl Serialize,
) -> Result<(), Failure> {
    table.insert(key, encode(record)?.as_slice())?;
    Ok(())
}

/// Makes `key` be `owner`'s; says whether it was free or theirs before. If not, the transaction must be undone.
pub(crate) fn claim<'k, K: Key + 'static>(
    table: &mut Table<'_, K, u128>,
    key: impl Borrow<K::SelfType<'k>>,
    owner: u128,
) -> Result<bool, Failure> {
    Ok(table.insert(key, owner)?.is_none_or(|before| before.value() == owner))
}
