//! Aggregates: what `load` gives and `commit` writes.

use std::collections::HashSet;

use enlist_core::event::Event;
use enlist_core::install_token::{Binding, InstallToken};
use enlist_core::store::{
    Aggregate, Commit, Expected, HostAggregate, HostWrite, Key, Presented, Revision, StoreErrorKind,
    TenantInstallToken, Write,
};
use enlist_core::{HostId, TokenHash};

use crate::column::{At, Id};
use crate::error::Failure;
use crate::install_token::Found;
use crate::transaction::Db;
use crate::{agent_token, event, host, install_token, presence, subscription};

/// `load`, inside a transaction: one moment.
pub(crate) async fn load(db: &mut Db, key: &Key) -> Result<Option<Aggregate>, Failure> {
    match key {
        Key::Host(id) => of_host(db, *id, Presented::Nothing).await,
        Key::InstallToken(hash) => {
            let found = install_token::by_hash(db, hash).await?;
            of_install_token(db, found).await
        }
        Key::InstallTokenId(id) => {
            let found = install_token::by_id(db, *id).await?;
            of_install_token(db, found).await
        }
        Key::AgentToken(hash) => match agent_token::by_hash(db, hash).await? {
            Some(token) => of_host(db, token.host_id, Presented::AgentToken(token)).await,
            None => Ok(None),
        },
        Key::AgentTokenId(id) => match agent_token::by_id(db, *id).await? {
            Some(token) => of_host(db, token.host_id, Presented::AgentToken(token)).await,
            None => Ok(None),
        },
    }
}

/// `commit`, inside a transaction. It may be run again, so it takes nothing away from `commit`.
pub(crate) async fn commit(db: &mut Db, commit: &Commit) -> Result<Vec<Event>, Failure> {
    // All guards before the first write, so that a conflict is told before any clash.
    check(db, &commit.writes).await?;
    let mut cut_off = Vec::new();
    for write in &commit.writes {
        match write {
            Write::Host(write) => {
                let ended = write.agent_tokens.iter().filter(|token| !token.is_live());
                cut_off.extend(ended.map(|token| token.hash));
                put_host(db, write).await?;
            }
            Write::TenantInstallToken { expected, token } => {
                install_token::put_of_tenant(db, token, *expected).await?;
            }
            Write::HostDeletion { expected, host_id, at } => {
                cut_off.extend(delete_host(db, *host_id, *expected, At(*at)).await?);
            }
        }
    }
    subscription::tell(db, &cut_off).await?;
    event::append(db, commit.events.clone()).await
}

/// Locks what the writes are about, and checks every guard on what is there then.
async fn check(db: &mut Db, writes: &[Write]) -> Result<(), Failure> {
    let (mut hosts, mut tokens, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for write in writes {
        let (list, id) = match write {
            Write::Host(write) => (&mut hosts, Id::from(write.host.id)),
            Write::TenantInstallToken { token, .. } => (&mut tokens, Id::from(token.id)),
            Write::HostDeletion { host_id, .. } => (&mut hosts, Id::from(*host_id)),
        };
        // A second write of one aggregate expects a revision that the first has left behind.
        if !seen.insert(id) {
            return Err(StoreErrorKind::Conflict.into());
        }
        list.push(id);
    }
    let revisions = if hosts.is_empty() {
        Default::default()
    } else {
        let revisions = host::lock(db, hosts.clone()).await?;
        // Contact and commits of a host take turns: see `transaction`.
        presence::lock(db, hosts).await?;
        revisions
    };
    let own = if tokens.is_empty() { Default::default() } else { install_token::lock(db, tokens).await? };
    let holds = |write: &Write| match write {
        Write::Host(write) => match write.expected {
            Expected::Absent => !revisions.contains_key(&write.host.id),
            Expected::Revision(revision) => revisions.get(&write.host.id) == Some(&revision),
        },
        Write::TenantInstallToken { expected, token } => match expected {
            Expected::Absent => !own.contains_key(&token.id),
            // A host's token of this id is not this aggregate.
            Expected::Revision(revision) => own.get(&token.id) == Some(&Some(*revision)),
        },
        Write::HostDeletion { expected, host_id, .. } => revisions.get(host_id) == Some(expected),
    };
    if writes.iter().all(holds) { Ok(()) } else { Err(StoreErrorKind::Conflict.into()) }
}

async fn put_host(db: &mut Db, write: &HostWrite) -> Result<(), Failure> {
    let HostWrite { expected, host, install_tokens, agent_tokens, facts } = write;
    host::put(db, host, *expected).await?;
    agent_token::put(db, host.id, agent_tokens).await?;
    install_token::put_of_host(db, host.id, install_tokens).await?;
    match facts {
        Some(facts) => presence::merge_enrolment_facts(db, host.id, facts).await,
        None => Ok(()),
    }
}

async fn delete_host(db: &mut Db, host_id: HostId, expected: Revision, at: At) -> Result<Vec<TokenHash>, Failure> {
    let buried = agent_token::bury(db, host_id, at).await?;
    host::delete(db, host_id, expected, at).await?;
    Ok(buried)
}

async fn of_install_token(db: &mut Db, found: Option<Found>) -> Result<Option<Aggregate>, Failure> {
    match found {
        None => Ok(None),
        Some((Some(revision), token)) => {
            Ok(Some(Aggregate::TenantInstallToken(Box::new(TenantInstallToken { revision, token }))))
        }
        Some((None, token)) => match host_of(&token) {
            Some(host_id) => of_host(db, host_id, Presented::InstallToken(token)).await,
            None => Err(Failure::Corrupt("a tenant's install token without a revision")),
        },
    }
}

const fn host_of(token: &InstallToken) -> Option<HostId> {
    match token.binding {
        Binding::Host(host_id) => Some(host_id),
        Binding::Tenant => None,
    }
}

async fn of_host(db: &mut Db, id: HostId, presented: Presented) -> Result<Option<Aggregate>, Failure> {
    let Some((revision, host)) = host::by_id(db, id).await? else { return Ok(None) };
    let install_token = install_token::issued(db, id).await?;
    let agent_tokens = agent_token::live(db, id).await?;
    Ok(Some(Aggregate::Host(Box::new(HostAggregate { revision, host, install_token, agent_tokens, presented }))))
}
