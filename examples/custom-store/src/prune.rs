//! What is old goes, a bounded number of rows of each kind at a time.

use std::collections::BTreeSet;

use enlist_core::install_token::{Binding, InstallTokenState};
use enlist_core::store::{Prune, Pruned};
use redb::{ReadableTable, Value};

use crate::error::Failure;
use crate::record::{AgentTokenRow, InstallTokenRow, PresenceRow, TombstoneRow, decode};
use crate::schema::{AsKey, Writer, get, owned, put};

/// How many rows of a kind may still go, and whether more would have had to.
struct Budget {
    left: usize,
    more: bool,
}

impl Budget {
    /// Whether to remove a row that is `old`.
    fn takes(&mut self, old: bool) -> bool {
        let takes = old && self.left > 0;
        self.left -= usize::from(takes);
        self.more |= old && !takes;
        takes
    }
}

/// `prune`.
pub(crate) fn prune(tables: &mut Writer<'_>, prune: &Prune) -> Result<Pruned, Failure> {
    let deleted: BTreeSet<_> = keys(&tables.deleted)?.into_iter().collect();
    let hosts = keys(&tables.hosts)?;
    let budget = || Budget { left: prune.limit, more: false };
    let (mut snapshots, mut containers, mut events) = (budget(), budget(), budget());
    let (mut tombstones, mut install_tokens) = (budget(), budget());

    let bounds = hosts.into_iter().map(|host| (host, prune.snapshots_before.unix_micros()));
    for (host, before) in bounds.chain(deleted.iter().map(|host| (*host, i64::MAX))) {
        let old = tables.snapshots.range((host, i64::MIN)..(host, before))?;
        let old: Vec<_> = old.take(snapshots.left + 1).map(|row| Ok(row?.0.value())).collect::<Result<_, Failure>>()?;
        for key in old {
            if snapshots.takes(true) {
                tables.snapshots.remove(key)?;
            }
        }
    }

    let before = prune.containers_removed_before.unix_micros();
    let mut changed = BTreeSet::new();
    tables.containers.retain(|(host, _), (removed_at, _)| {
        let takes = containers.takes(deleted.contains(&host) || removed_at.is_some_and(|at| at < before));
        if takes {
            changed.insert(host);
        }
        !takes
    })?;
    for host in changed {
        // Whoever keeps the rows of a host in mind has to notice that some have gone.
        if let Some(mut presence) = get::<_, PresenceRow>(&tables.presence, host)? {
            presence.shown.containers_version += 1;
            put(&mut tables.presence, host, &presence)?;
        }
    }
    if !snapshots.more && !containers.more {
        for host in deleted {
            tables.deleted.remove(host)?;
        }
    }

    let before = prune.events_before.unix_micros();
    tables.events.retain(|_, (at, _)| !events.takes(at < before))?;

    let mut old = Vec::new();
    for row in tables.tombstones.iter()? {
        let (hash, row) = row?;
        if tombstones.takes(decode::<TombstoneRow>(row.value())?.0.deleted_at < prune.tombstones_before) {
            old.push(*hash.value());
        }
    }
    for hash in old {
        tables.tombstones.remove(&hash)?;
    }

    let mut spent = Vec::new();
    for row in tables.install_tokens.iter()? {
        let (key, row) = row?;
        let InstallTokenRow { token, .. } = decode(row.value())?;
        let bought: Option<AgentTokenRow> = match token.state {
            InstallTokenState::Consumed { agent_token, .. } => {
                owned(&tables.agent_tokens, &tables.agent_owners, Some(agent_token.key()))?
            }
            InstallTokenState::Issued | InstallTokenState::Revoked { .. } => None,
        };
        let spent_at = token.spent_at(bought.as_ref().map(|row| &row.0));
        if install_tokens.takes(spent_at.is_some_and(|at| at < prune.install_tokens_before)) {
            spent.push((key.value(), token));
        }
    }
    for (key, token) in spent {
        // Its hash stays.
        tables.install_tokens.remove(key)?;
        tables.install_owners.remove(token.id.key())?;
        if token.binding == Binding::Tenant {
            tables.tenant_install_tokens.remove((token.tenant_id.as_str(), token.id.key()))?;
        }
    }

    let kinds = [snapshots, containers, events, tombstones, install_tokens];
    let rows = kinds.iter().map(|kind| (prune.limit - kind.left) as u64).sum();
    Ok(Pruned { rows, more: kinds.iter().any(|kind| kind.more) })
}

fn keys<V: Value + 'static>(table: &impl ReadableTable<u128, V>) -> Result<Vec<u128>, Failure> {
    table.iter()?.map(|row| Ok(row?.0.value())).collect()
}
