//! Hosts and tokens: loading aggregates, and committing under their guards.

use std::collections::BTreeSet;
use std::ops::Bound;

use enlist_core::agent_token::{AgentToken, AgentTokenState};
use enlist_core::event::Event;
use enlist_core::host::{Host, Presence, Status};
use enlist_core::install_token::{Binding, InstallToken, InstallTokenState};
use enlist_core::placement::is_eligible;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, Aggregate, Candidate, CandidateQuery, Candidates, Commit, Credential, Expected,
    HostAggregate, HostLookup, HostPresence, HostQuery, HostRecord, HostWrite, InstallTokenOwner, InstallTokenQuery,
    Key, Known, Page, Presented, Revision, StoreErrorKind, TenantInstallToken, Tombstone, Write,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{HostId, Timestamp, TokenHash};
use redb::ReadableTable;

use crate::error::Failure;
use crate::record::{AgentTokenRow, HostRow, InstallTokenRow, PresenceRow, SnapshotRow, TombstoneRow, decode};
use crate::schema::{AsKey, Reader, Writer, all_of, behind, claim, get, number, owned, page, put};
use crate::{event, liveness};

/// A row that another one speaks of is not there.
const MISSING: Failure = Failure::Record("a row that is missing");
/// A number that is out of a time's bounds.
const NO_TIME: Failure = Failure::Record("a time");

/// `load`.
pub(crate) fn load(tables: &Reader, key: &Key) -> Result<Option<Aggregate>, Failure> {
    match key {
        Key::Host(id) => host_aggregate(tables, id.key(), Presented::Nothing),
        Key::InstallToken(hash) => install_aggregate(tables, number(&tables.install_hashes, hash.as_bytes())?),
        Key::InstallTokenId(id) => install_aggregate(tables, Some(id.key())),
        Key::AgentToken(hash) => agent_aggregate(tables, number(&tables.agent_hashes, hash.as_bytes())?),
        Key::AgentTokenId(id) => agent_aggregate(tables, Some(id.key())),
    }
}

fn install_aggregate(tables: &Reader, id: Option<u128>) -> Result<Option<Aggregate>, Failure> {
    let row = owned(&tables.install_tokens, &tables.install_owners, id)?;
    let Some(InstallTokenRow { revision, token }) = row else { return Ok(None) };
    if let Binding::Host(host_id) = token.binding {
        return host_aggregate(tables, host_id.key(), Presented::InstallToken(token));
    }
    let aggregate = TenantInstallToken { revision: Revision::new(revision), token };
    Ok(Some(Aggregate::TenantInstallToken(Box::new(aggregate))))
}

fn agent_aggregate(tables: &Reader, id: Option<u128>) -> Result<Option<Aggregate>, Failure> {
    let row = owned(&tables.agent_tokens, &tables.agent_owners, id)?;
    let Some(AgentTokenRow(token)) = row else { return Ok(None) };
    host_aggregate(tables, token.host_id.key(), Presented::AgentToken(token))
}

fn host_aggregate(tables: &Reader, id: u128, presented: Presented) -> Result<Option<Aggregate>, Failure> {
    let Some(HostRow { revision, host }) = get(&tables.hosts, id)? else { return Ok(None) };
    let install_tokens: Vec<InstallTokenRow> = all_of(&tables.install_tokens, id)?;
    let agent_tokens: Vec<AgentTokenRow> = all_of(&tables.agent_tokens, id)?;
    let issued = |token: &InstallToken| matches!(token.state, InstallTokenState::Issued);
    Ok(Some(Aggregate::Host(Box::new(HostAggregate {
        revision: Revision::new(revision),
        host,
        install_token: install_tokens.into_iter().map(|row| row.token).find(issued),
        agent_tokens: agent_tokens.into_iter().map(|row| row.0).filter(AgentToken::is_live).collect(),
        presented,
    }))))
}

/// `authenticate`.
pub(crate) fn authenticate(tables: &Reader, hash: &TokenHash) -> Result<Option<Known>, Failure> {
    let id = number(&tables.agent_hashes, hash.as_bytes())?;
    let Some(AgentTokenRow(token)) = owned(&tables.agent_tokens, &tables.agent_owners, id)? else {
        let tombstone: Option<TombstoneRow> = get(&tables.tombstones, hash.as_bytes())?;
        return Ok(tombstone.map(|row| Known::Tombstone(row.0)));
    };
    let HostRow { host, .. } = get(&tables.hosts, token.host_id.key())?.ok_or(MISSING)?;
    let Host { tenant_id, lifecycle, generation, liveness_window, .. } = host;
    let credential = Credential { token, tenant_id, lifecycle, generation, liveness_window };
    Ok(Some(Known::Credential(Box::new(credential))))
}

/// `find_host`.
pub(crate) fn find(tables: &Reader, lookup: &HostLookup) -> Result<Option<HostRecord>, Failure> {
    let id = match lookup {
        HostLookup::Id(id) => Some(id.key()),
        HostLookup::ExternalId(tenant, id) => number(&tables.external_ids, (tenant.as_str(), id.as_str()))?,
        HostLookup::Name(tenant, name) => number(&tables.names, (tenant.as_str(), name.as_str()))?,
    };
    let row = id.map(|id| get(&tables.hosts, id)).transpose()?.flatten();
    row.map(|row| record(tables, row)).transpose()
}

/// `list_hosts`.
pub(crate) fn list(tables: &Reader, query: &HostQuery) -> Result<Page<HostRecord>, Failure> {
    let rows =
        tables.hosts.range((query.after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.key())), Bound::Unbounded))?;
    let hosts = rows.map(|row| {
        let record = record(tables, decode(row?.1.value())?)?;
        let (host, presence) = (&record.host, record.presence.presence);
        let wanted = query.scope.shows(&host.tenant_id, Some(host.kind))
            && query.status.is_none_or(|status| status == Status::of(host.lifecycle, presence))
            && query.tag.as_ref().is_none_or(|tag| host.tags.contains(tag))
            && query.kind.is_none_or(|kind| kind == host.kind)
            && query.tenant_id.as_ref().is_none_or(|tenant| *tenant == host.tenant_id)
            && query.name_prefix.as_ref().is_none_or(|prefix| host.name.as_str().starts_with(prefix));
        Ok(wanted.then_some(record))
    });
    page(hosts.filter_map(Result::transpose), query.limit)
}

/// `list_candidates`: by the one ring of all hosts, whatever the query narrows.
pub(crate) fn list_candidates(tables: &Reader, query: &CandidateQuery) -> Result<Candidates, Failure> {
    let after = query.after.map_or(Bound::Unbounded, |after| Bound::Excluded((after.lot(), after.key())));
    let mut found = Candidates::NONE;
    let mut last = None;
    for (place, row) in tables.ring.range((after, Bound::Unbounded))?.enumerate() {
        if place == query.limit {
            found.next = last;
            break;
        }
        let (_, id) = row?.0.value();
        let record = record(tables, get(&tables.hosts, id)?.ok_or(MISSING)?)?;
        last = Some(record.host.id);
        if !is_eligible(&record, query) {
            continue;
        }
        let newest = record.presence.newest_report_at.map(|at| (id, at.unix_micros()));
        let newest = newest.map(|key| get::<_, SnapshotRow>(&tables.snapshots, key)).transpose()?.flatten();
        found.items.push(Candidate { record, metrics: newest.map(|row| HostSnapshot::from(row).metrics) });
    }
    Ok(found)
}

fn record(tables: &Reader, HostRow { revision, host }: HostRow) -> Result<HostRecord, Failure> {
    let presence: PresenceRow = get(&tables.presence, host.id.key())?.ok_or(MISSING)?;
    Ok(HostRecord { revision: Revision::new(revision), host, presence: presence.shown })
}

/// `list_install_tokens`.
pub(crate) fn list_install_tokens(tables: &Reader, query: &InstallTokenQuery) -> Result<Page<InstallToken>, Failure> {
    let after = query.after.map(|id| id.key());
    let token = |InstallTokenRow { token, .. }| token;
    match &query.owner {
        InstallTokenOwner::Host(host_id) => {
            let rows = behind(&tables.install_tokens, host_id.key(), after)?;
            page(rows.map(|row| row.map(token)), query.limit)
        }
        InstallTokenOwner::Tenant(tenant_id) => {
            let tenant_id = tenant_id.as_str();
            let (first, last) = ((tenant_id, after.unwrap_or(0)), (tenant_id, u128::MAX));
            let ids = tables.tenant_install_tokens.range((Bound::Excluded(first), Bound::Included(last)))?;
            let rows = ids.map(|row| {
                let id = row?.0.value().1;
                get(&tables.install_tokens, (id, id))?.map(token).ok_or(MISSING)
            });
            page(rows, query.limit)
        }
    }
}

/// `list_agent_tokens`.
pub(crate) fn list_agent_tokens(tables: &Reader, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, Failure> {
    let rows = behind(&tables.agent_tokens, query.host_id.key(), query.after.map(|id| id.key()))?;
    let records = rows.map(|row| {
        let AgentTokenRow(token) = row?;
        if query.lineage_id.is_some_and(|lineage| lineage != token.lineage_id) {
            return Ok(None);
        }
        let last_used_at = match tables.last_used.get(token.id.key())? {
            Some(last) => Some(Timestamp::from_unix_micros(last.value()).ok_or(NO_TIME)?),
            None => None,
        };
        Ok(Some(AgentTokenRecord { token, last_used_at }))
    });
    page(records.filter_map(Result::transpose), query.limit)
}

/// `commit`; returns also the hashes of the agent tokens that it cut off. A refusal can come at any point: what was
/// written until then goes with the transaction.
pub(crate) fn commit(tables: &mut Writer<'_>, commit: Commit) -> Result<(Vec<Event>, Vec<TokenHash>), Failure> {
    check_guards(tables, &commit.writes)?;
    let mut cut_off = Vec::new();
    for write in commit.writes {
        match write {
            Write::Host(write) => {
                cut_off.extend(write.agent_tokens.iter().filter(|token| !token.is_live()).map(|token| token.hash));
                write_host(tables, *write)?;
            }
            Write::TenantInstallToken { token, .. } if token.binding != Binding::Tenant => {
                return Err(StoreErrorKind::Invalid.into());
            }
            Write::TenantInstallToken { expected, token } => {
                tables.tenant_install_tokens.insert((token.tenant_id.as_str(), token.id.key()), ())?;
                write_install_token(tables, token.id.key(), expected.next(), token)?;
            }
            Write::HostDeletion { host_id, at, .. } => cut_off.extend(delete_host(tables, host_id, at)?),
        }
    }
    Ok((event::append(tables, commit.events)?, cut_off))
}

/// All guards come before the first write, so that a conflict is never mistaken for a clash.
fn check_guards(tables: &Writer<'_>, writes: &[Write]) -> Result<(), Failure> {
    let host = |id: u128| Ok::<_, Failure>(get::<_, HostRow>(&tables.hosts, id)?.map(|row| Some(row.revision)));
    let mut written = BTreeSet::new();
    for write in writes {
        let (id, current, expected) = match write {
            Write::Host(write) => (write.host.id.key(), host(write.host.id.key())?, write.expected),
            Write::HostDeletion { expected, host_id, .. } => {
                (host_id.key(), host(host_id.key())?, Expected::Revision(*expected))
            }
            Write::TenantInstallToken { expected, token } => {
                let id = token.id.key();
                let row: Option<InstallTokenRow> = owned(&tables.install_tokens, &tables.install_owners, Some(id))?;
                // A host's token of this id is not this aggregate.
                let own = |row: InstallTokenRow| (row.token.binding == Binding::Tenant).then_some(row.revision);
                (id, row.map(own), *expected)
            }
        };
        let holds = match expected {
            Expected::Absent => current.is_none(),
            Expected::Revision(revision) => current == Some(Some(revision.get())),
        };
        if !holds || !written.insert(id) {
            return Err(StoreErrorKind::Conflict.into());
        }
    }
    Ok(())
}

fn write_host(tables: &mut Writer<'_>, write: HostWrite) -> Result<(), Failure> {
    let HostWrite { expected, host, install_tokens, agent_tokens, facts } = write;
    let id = host.id.key();
    let mut presence = match get::<_, HostRow>(&tables.hosts, id)? {
        Some(before) => {
            give_free(tables, &before.host)?;
            let row: PresenceRow = get(&tables.presence, id)?.ok_or(MISSING)?;
            // Its window may be another one.
            liveness::note(tables, &before.host, row.shown.presence, Presence::Pending)?;
            liveness::note(tables, &host, Presence::Pending, row.shown.presence)?;
            row
        }
        None => PresenceRow { shown: HostPresence::default(), last_complete_at: None },
    };
    let tenant_id = host.tenant_id.as_str();
    if !host.is_archived() && !claim(&mut tables.names, (tenant_id, host.name.as_str()), id)? {
        return Err(StoreErrorKind::NameTaken.into());
    }
    if let Some(external_id) = &host.external_id
        && !claim(&mut tables.external_ids, (tenant_id, external_id.as_str()), id)?
    {
        return Err(StoreErrorKind::ExternalIdTaken.into());
    }
    if let Some(facts) = facts
        && presence.shown.newest_report_at.is_none()
    {
        presence.shown.facts.merge(&facts);
    }
    put(&mut tables.presence, id, &presence)?;
    let host_id = host.id;
    tables.ring.insert((host.id.lot(), id), ())?;
    put(&mut tables.hosts, id, &HostRow { revision: expected.next().get(), host })?;
    for token in install_tokens {
        if token.binding != Binding::Host(host_id) {
            return Err(StoreErrorKind::Invalid.into());
        }
        write_install_token(tables, id, Revision::FIRST, token)?;
    }
    for token in agent_tokens {
        if token.host_id != host_id {
            return Err(StoreErrorKind::Invalid.into());
        }
        write_agent_token(tables, token)?;
    }
    check_tokens(tables, id)
}

fn write_install_token(
    tables: &mut Writer<'_>,
    owner: u128,
    revision: Revision,
    token: InstallToken,
) -> Result<(), Failure> {
    let id = token.id.key();
    let before: Option<InstallTokenRow> = get(&tables.install_tokens, (owner, id))?;
    let keeps_its_hash = before.is_none_or(|row| row.token.hash == token.hash);
    if !claim(&mut tables.install_owners, id, owner)? || !keeps_its_hash {
        return Err(StoreErrorKind::Invalid.into());
    }
    if !claim(&mut tables.install_hashes, token.hash.as_bytes(), id)? {
        return Err(StoreErrorKind::HashSeen.into());
    }
    put(&mut tables.install_tokens, (owner, id), &InstallTokenRow { revision: revision.get(), token })
}

fn write_agent_token(tables: &mut Writer<'_>, token: AgentToken) -> Result<(), Failure> {
    let (owner, id) = (token.host_id.key(), token.id.key());
    let before: Option<AgentTokenRow> = get(&tables.agent_tokens, (owner, id))?;
    let keeps_its_hash = before.is_none_or(|row| row.0.hash == token.hash);
    if !claim(&mut tables.agent_owners, id, owner)? || !keeps_its_hash {
        return Err(StoreErrorKind::Invalid.into());
    }
    let buried = tables.tombstones.get(token.hash.as_bytes())?.is_some();
    if buried || !claim(&mut tables.agent_hashes, token.hash.as_bytes(), id)? {
        return Err(StoreErrorKind::HashSeen.into());
    }
    put(&mut tables.agent_tokens, (owner, id), &AgentTokenRow(token))
}

/// What SQL would hold with partial unique indexes. Asked once all of the host's tokens are written, so that it does not
/// matter which of them stands first.
fn check_tokens(tables: &Writer<'_>, host: u128) -> Result<(), Failure> {
    let mut live = BTreeSet::new();
    for AgentTokenRow(token) in all_of(&tables.agent_tokens, host)? {
        let active = matches!(token.state, AgentTokenState::Active { .. });
        if token.is_live() && !live.insert((token.lineage_id, active)) {
            return Err(StoreErrorKind::Invalid.into());
        }
    }
    let install_tokens: Vec<InstallTokenRow> = all_of(&tables.install_tokens, host)?;
    let issued = install_tokens.iter().filter(|row| matches!(row.token.state, InstallTokenState::Issued));
    if issued.count() > 1 { Err(StoreErrorKind::Invalid.into()) } else { Ok(()) }
}

/// Gives the name and the external id of a host free.
fn give_free(tables: &mut Writer<'_>, host: &Host) -> Result<(), Failure> {
    let tenant_id = host.tenant_id.as_str();
    // Once it is archived, the name may be another's.
    if !host.is_archived() {
        tables.names.remove((tenant_id, host.name.as_str()))?;
    }
    if let Some(external_id) = &host.external_id {
        tables.external_ids.remove((tenant_id, external_id.as_str()))?;
    }
    Ok(())
}

/// Removes what is small at once; what the host reported is left to pruning, a bounded number of rows at a time.
fn delete_host(tables: &mut Writer<'_>, host_id: HostId, deleted_at: Timestamp) -> Result<Vec<TokenHash>, Failure> {
    let id = host_id.key();
    let HostRow { host, .. } = get(&tables.hosts, id)?.ok_or(MISSING)?;
    give_free(tables, &host)?;
    tables.hosts.remove(id)?;
    tables.ring.remove((host.id.lot(), id))?;
    let presence: PresenceRow = get(&tables.presence, id)?.ok_or(MISSING)?;
    liveness::note(tables, &host, presence.shown.presence, Presence::Pending)?;
    tables.presence.remove(id)?;
    tables.deleted.insert(id, ())?;
    for InstallTokenRow { token, .. } in all_of(&tables.install_tokens, id)? {
        tables.install_tokens.remove((id, token.id.key()))?;
        tables.install_owners.remove(token.id.key())?;
    }
    let mut hashes = Vec::new();
    for AgentTokenRow(token) in all_of(&tables.agent_tokens, id)? {
        tables.agent_tokens.remove((id, token.id.key()))?;
        tables.agent_owners.remove(token.id.key())?;
        tables.agent_hashes.remove(token.hash.as_bytes())?;
        tables.last_used.remove(token.id.key())?;
        let tombstone = Tombstone { token_id: token.id, host_id, deleted_at };
        put(&mut tables.tombstones, token.hash.as_bytes(), &TombstoneRow(tombstone))?;
        hashes.push(token.hash);
    }
    Ok(hashes)
}
