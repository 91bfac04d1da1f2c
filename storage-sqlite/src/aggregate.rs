//! Aggregates: what `load` gives and `commit` writes.

use std::collections::HashSet;

use diesel::SqliteConnection;
use enlist_core::HostId;
use enlist_core::event::Event;
use enlist_core::install_token::{Binding, InstallToken};
use enlist_core::store::{
    Aggregate, Commit, Expected, HostAggregate, HostWrite, Key, Presented, Revision, StoreErrorKind,
    TenantInstallToken, Write,
};

use crate::column::Id;
use crate::error::Failure;
use crate::{agent_token, event, host, install_token, presence};

/// `load`, inside a transaction: one moment.
pub(crate) fn load(connection: &mut SqliteConnection, key: &Key) -> Result<Option<Aggregate>, Failure> {
    match key {
        Key::Host(id) => of_host(connection, *id, Presented::Nothing),
        Key::InstallToken(hash) => {
            let found = install_token::by_hash(connection, hash)?;
            of_install_token(connection, found)
        }
        Key::InstallTokenId(id) => {
            let found = install_token::by_id(connection, *id)?;
            of_install_token(connection, found)
        }
        Key::AgentToken(hash) => match agent_token::by_hash(connection, hash)? {
            Some(token) => of_host(connection, token.host_id, Presented::AgentToken(token)),
            None => Ok(None),
        },
        Key::AgentTokenId(id) => match agent_token::by_id(connection, *id)? {
            Some(token) => of_host(connection, token.host_id, Presented::AgentToken(token)),
            None => Ok(None),
        },
    }
}

/// `commit`, inside a transaction.
pub(crate) fn commit(connection: &mut SqliteConnection, commit: Commit) -> Result<Vec<Event>, Failure> {
    let Commit { writes, events } = commit;
    // All guards before the first write, so that a conflict is told before any clash.
    let mut written = HashSet::new();
    for write in &writes {
        // A second write of one aggregate expects a revision that the first will have left behind.
        if !written.insert(aggregate_of(write)) {
            return Err(StoreErrorKind::Conflict.into());
        }
        check(connection, write)?;
    }
    for write in &writes {
        match write {
            Write::Host(write) => put_host(connection, write)?,
            Write::TenantInstallToken { expected, token } => {
                install_token::put_of_tenant(connection, token, *expected)?;
            }
            Write::HostDeletion { expected, host_id, at } => {
                agent_token::bury(connection, *host_id, *at)?;
                host::delete(connection, *host_id, *expected, *at)?;
            }
        }
    }
    event::append(connection, events)
}

fn aggregate_of(write: &Write) -> Id {
    match write {
        Write::Host(write) => write.host.id.into(),
        Write::TenantInstallToken { token, .. } => token.id.into(),
        Write::HostDeletion { host_id, .. } => (*host_id).into(),
    }
}

fn check(connection: &mut SqliteConnection, write: &Write) -> Result<(), Failure> {
    let holds = match write {
        Write::Host(write) => {
            let found = host::revision(connection, write.host.id)?;
            match write.expected {
                Expected::Absent => found.is_none(),
                Expected::Revision(revision) => found == Some(revision),
            }
        }
        Write::TenantInstallToken { expected, token } => {
            let found = install_token::revision(connection, token.id)?;
            match expected {
                Expected::Absent => found.is_none(),
                // A host's token of this id is not this aggregate.
                Expected::Revision(revision) => found == Some(Some(*revision)),
            }
        }
        Write::HostDeletion { expected, host_id, .. } => host::revision(connection, *host_id)? == Some(*expected),
    };
    if holds { Ok(()) } else { Err(StoreErrorKind::Conflict.into()) }
}

fn put_host(connection: &mut SqliteConnection, write: &HostWrite) -> Result<(), Failure> {
    let HostWrite { expected, host, install_tokens, agent_tokens, facts } = write;
    host::put(connection, host, *expected)?;
    agent_token::put(connection, host.id, agent_tokens)?;
    install_token::put_of_host(connection, host.id, install_tokens)?;
    match facts {
        Some(facts) => presence::merge_enrolment_facts(connection, host.id, facts),
        None => Ok(()),
    }
}

fn of_install_token(
    connection: &mut SqliteConnection,
    found: Option<(Option<Revision>, InstallToken)>,
) -> Result<Option<Aggregate>, Failure> {
    match found {
        None => Ok(None),
        Some((Some(revision), token)) => {
            Ok(Some(Aggregate::TenantInstallToken(Box::new(TenantInstallToken { revision, token }))))
        }
        Some((None, token)) => match token.binding {
            Binding::Host(host_id) => of_host(connection, host_id, Presented::InstallToken(token)),
            Binding::Tenant => Err(Failure::Corrupt("a tenant's install token without a revision")),
        },
    }
}

fn of_host(connection: &mut SqliteConnection, id: HostId, presented: Presented) -> Result<Option<Aggregate>, Failure> {
    let Some((revision, host)) = host::by_id(connection, id)? else { return Ok(None) };
    let install_token = install_token::issued(connection, id)?;
    let agent_tokens = agent_token::live(connection, id)?;
    Ok(Some(Aggregate::Host(Box::new(HostAggregate { revision, host, install_token, agent_tokens, presented }))))
}
