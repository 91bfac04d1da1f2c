//! Agent tokens: their rows, and the questions about them.

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use enlist_core::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin, RetiredBy, RevokeReason};
use enlist_core::store::{AgentTokenQuery, AgentTokenRecord, Credential, Known, LAST_USE_GRAIN, Page, Tombstone};
use enlist_core::{AgentTokenId, HostId, Timestamp, TokenHash};

use crate::column::{At, Count, Hash, Id, UNKNOWN_WORD, overread, parse, parse_optional, required};
use crate::error::Failure;
use crate::host::{lifecycle_of, window_of};
use crate::schema::{agent_tokens, hosts, tombstones};

/// A row of `agent_tokens`, but for its last use: that is contact's, and a commit does not touch it.
#[derive(Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = agent_tokens, treat_none_as_default_value = false, treat_none_as_null = true)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
struct AgentTokenRow {
    id: Id,
    host_id: Id,
    lineage_id: Id,
    hash: Hash,
    kind: String,
    name: Option<String>,
    origin: String,
    origin_install_token_id: Option<Id>,
    origin_actor_id: Option<String>,
    predecessor_id: Option<Id>,
    state: String,
    state_at: Option<At>,
    succeeded_by: Option<Id>,
    retired_by: Option<String>,
    revoke_reason: Option<String>,
    created_at: At,
    expires_at: Option<At>,
}

impl AgentTokenRow {
    fn of(token: &AgentToken) -> Self {
        let (origin, install_token, actor) = match &token.origin {
            Origin::Exchange(install_token) => ("exchange", Some(*install_token), None),
            Origin::Issued(actor) => ("issued", None, Some(actor)),
            Origin::Proposed { .. } => ("proposed", None, None),
            Origin::Rotated { by, .. } => ("rotated", None, Some(by)),
        };
        let (state_at, succeeded_by, retired_by, reason) = match token.state {
            AgentTokenState::Pending => (None, None, None, None),
            AgentTokenState::Active { since } => (Some(since), None, None, None),
            AgentTokenState::Retired { at, successor, by } => (Some(at), Some(successor), Some(by), None),
            AgentTokenState::Displaced { at, by } => (Some(at), Some(by), None, None),
            AgentTokenState::Revoked { at, reason } => (Some(at), None, None, Some(reason)),
        };
        Self {
            id: token.id.into(),
            host_id: token.host_id.into(),
            lineage_id: token.lineage_id.into(),
            hash: Hash(token.hash),
            kind: token.kind.as_str().to_owned(),
            name: token.name.as_ref().map(|name| name.as_str().to_owned()),
            origin: origin.to_owned(),
            origin_install_token_id: install_token.map(Id::from),
            origin_actor_id: actor.map(|actor| actor.as_str().to_owned()),
            predecessor_id: token.origin.predecessor().map(Id::from),
            state: token.state_name().to_owned(),
            state_at: state_at.map(At),
            succeeded_by: succeeded_by.map(Id::from),
            retired_by: retired_by.map(|by| retired_by_word(by).to_owned()),
            revoke_reason: reason.map(|reason| reason_word(reason).to_owned()),
            created_at: At(token.created_at),
            expires_at: token.expires_at.map(At),
        }
    }

    fn decode(self) -> Result<AgentToken, Failure> {
        let origin = match self.origin.as_str() {
            "exchange" => Origin::Exchange(required(self.origin_install_token_id)?.into()),
            "issued" => Origin::Issued(parse(&required(self.origin_actor_id)?)?),
            "proposed" => Origin::Proposed { predecessor: required(self.predecessor_id)?.into() },
            "rotated" => Origin::Rotated {
                predecessor: required(self.predecessor_id)?.into(),
                by: parse(&required(self.origin_actor_id)?)?,
            },
            _ => return Err(UNKNOWN_WORD),
        };
        let at = || required(self.state_at).map(|at| at.0);
        let succeeded_by = || required(self.succeeded_by).map(AgentTokenId::from);
        let state = match self.state.as_str() {
            "pending" => AgentTokenState::Pending,
            "active" => AgentTokenState::Active { since: at()? },
            "retired" => AgentTokenState::Retired {
                at: at()?,
                successor: succeeded_by()?,
                by: retired_by_of(&required(self.retired_by)?)?,
            },
            "displaced" => AgentTokenState::Displaced { at: at()?, by: succeeded_by()? },
            "revoked" => AgentTokenState::Revoked { at: at()?, reason: reason_of(&required(self.revoke_reason)?)? },
            _ => return Err(UNKNOWN_WORD),
        };
        Ok(AgentToken {
            id: self.id.into(),
            host_id: self.host_id.into(),
            lineage_id: self.lineage_id.into(),
            hash: self.hash.0,
            kind: credential_kind_of(&self.kind)?,
            name: parse_optional(self.name.as_deref())?,
            origin,
            state,
            created_at: self.created_at.0,
            expires_at: self.expires_at.map(|at| at.0),
        })
    }
}

/// `authenticate`: one look-up by the hash, one of its host; of a tombstone only when there is no token. In this order
/// they need no transaction: a token that was there and is gone when the first looks has left its tombstone by then.
pub(crate) fn authenticate(connection: &mut SqliteConnection, hash: &TokenHash) -> Result<Option<Known>, Failure> {
    let row = agent_tokens::table
        .inner_join(hosts::table)
        .filter(agent_tokens::hash.eq(Hash(*hash)))
        .select((
            AgentTokenRow::as_select(),
            hosts::tenant_id,
            hosts::archived_at,
            hosts::generation,
            hosts::liveness_window,
        ))
        .get_result::<(AgentTokenRow, String, Option<At>, Count, Option<i64>)>(connection)
        .optional()?;
    let Some((token, tenant_id, archived_at, generation, window)) = row else {
        return Ok(tombstone(connection, hash)?.map(Known::Tombstone));
    };
    Ok(Some(Known::Credential(Box::new(Credential {
        token: token.decode()?,
        tenant_id: parse(&tenant_id)?,
        lifecycle: lifecycle_of(archived_at),
        generation: generation.0,
        liveness_window: window_of(window)?,
    }))))
}

fn tombstone(connection: &mut SqliteConnection, hash: &TokenHash) -> Result<Option<Tombstone>, Failure> {
    let row = tombstones::table
        .find(Hash(*hash))
        .select((tombstones::token_id, tombstones::host_id, tombstones::deleted_at))
        .get_result::<(Id, Id, At)>(connection)
        .optional()?;
    Ok(row.map(|(token_id, host_id, deleted_at)| Tombstone {
        token_id: token_id.into(),
        host_id: host_id.into(),
        deleted_at: deleted_at.0,
    }))
}

/// Makes a tombstone of every agent token of the host, whatever state it is in.
pub(crate) fn bury(connection: &mut SqliteConnection, host_id: HostId, at: Timestamp) -> Result<(), Failure> {
    agent_tokens::table
        .filter(agent_tokens::host_id.eq(Id::from(host_id)))
        .select((agent_tokens::hash, agent_tokens::id, agent_tokens::host_id, At(at).into_sql::<BigInt>()))
        .insert_into(tombstones::table)
        .into_columns((tombstones::hash, tombstones::token_id, tombstones::host_id, tombstones::deleted_at))
        .execute(connection)?;
    Ok(())
}

/// The token with this hash, whatever state it is in.
pub(crate) fn by_hash(connection: &mut SqliteConnection, hash: &TokenHash) -> Result<Option<AgentToken>, Failure> {
    let row = agent_tokens::table.filter(agent_tokens::hash.eq(Hash(*hash))).select(AgentTokenRow::as_select());
    row.get_result(connection).optional()?.map(AgentTokenRow::decode).transpose()
}

/// The same by its id.
pub(crate) fn by_id(connection: &mut SqliteConnection, id: AgentTokenId) -> Result<Option<AgentToken>, Failure> {
    let row = agent_tokens::table.find(Id::from(id)).select(AgentTokenRow::as_select());
    row.get_result(connection).optional()?.map(AgentTokenRow::decode).transpose()
}

/// Every token of the host that is Pending or Active, in the order of their ids.
pub(crate) fn live(connection: &mut SqliteConnection, host_id: HostId) -> Result<Vec<AgentToken>, Failure> {
    // `AgentToken::is_live`, restated where rows are chosen: a host may have a long past of ended ones.
    let rows = agent_tokens::table
        .filter(agent_tokens::host_id.eq(Id::from(host_id)))
        .filter(agent_tokens::state.eq("pending").or(agent_tokens::state.eq("active")))
        .order(agent_tokens::id)
        .select(AgentTokenRow::as_select());
    rows.load(connection)?.into_iter().map(AgentTokenRow::decode).collect()
}

/// Makes or overwrites tokens of a host. Those that end come first and those that begin last, so that each place in a
/// lineage is free before another takes it.
pub(crate) fn put(connection: &mut SqliteConnection, host_id: HostId, tokens: &[AgentToken]) -> Result<(), Failure> {
    let mut tokens: Vec<_> = tokens.iter().collect();
    tokens.sort_by_key(|token| match token.state {
        AgentTokenState::Retired { .. } | AgentTokenState::Displaced { .. } | AgentTokenState::Revoked { .. } => 0,
        AgentTokenState::Active { .. } => 1,
        AgentTokenState::Pending => 2,
    });
    for token in tokens {
        if token.host_id != host_id {
            return Err(Failure::Invalid("an agent token of another host in a host's write"));
        }
        let row = AgentTokenRow::of(token);
        let stored = agent_tokens::table.find(row.id).filter(agent_tokens::host_id.eq(row.host_id));
        if diesel::update(stored).set(&row).execute(connection)? == 0 {
            // Asked first: of a token with its own hash, SQLite would say that the hash was seen.
            if diesel::select(exists(agent_tokens::table.find(row.id))).get_result(connection)? {
                return Err(Failure::Invalid("an agent token that another host has"));
            }
            diesel::insert_into(agent_tokens::table).values(&row).execute(connection)?;
        }
    }
    Ok(())
}

/// Notes that a token of the host was used at `at`, unless a use that is hardly older is known: then the row is not
/// rewritten. Never goes back. Says whether it was written.
pub(crate) fn note_use(
    transaction: &rusqlite::Transaction<'_>,
    host_id: HostId,
    id: AgentTokenId,
    at: Timestamp,
) -> Result<bool, Failure> {
    const USED: &str = "
        UPDATE agent_tokens SET last_used_at = ?3
        WHERE id = ?1 AND host_id = ?2 AND (last_used_at IS NULL OR last_used_at < ?4)";
    let fresh_since = At(at.saturating_sub(LAST_USE_GRAIN));
    let mut statement = transaction.prepare_cached(USED)?;
    Ok(statement.execute(rusqlite::params![Id::from(id), Id::from(host_id), At(at), fresh_since])? > 0)
}

/// `list_agent_tokens`.
pub(crate) fn list(
    connection: &mut SqliteConnection,
    query: &AgentTokenQuery,
) -> Result<Page<AgentTokenRecord>, Failure> {
    let mut rows = agent_tokens::table
        .filter(agent_tokens::host_id.eq(Id::from(query.host_id)))
        .order(agent_tokens::id)
        .limit(overread(query.limit))
        .select((AgentTokenRow::as_select(), agent_tokens::last_used_at))
        .into_boxed();
    if let Some(lineage_id) = query.lineage_id {
        rows = rows.filter(agent_tokens::lineage_id.eq(Id::from(lineage_id)));
    }
    if let Some(after) = query.after {
        rows = rows.filter(agent_tokens::id.gt(Id::from(after)));
    }
    let records = rows.load::<(AgentTokenRow, Option<At>)>(connection)?.into_iter().map(|(token, last_used_at)| {
        Ok(AgentTokenRecord { token: token.decode()?, last_used_at: last_used_at.map(|at| at.0) })
    });
    Ok(Page::of_overread(records.collect::<Result<_, Failure>>()?, query.limit))
}

/// Reads [`CredentialKind::as_str`] back.
pub(crate) fn credential_kind_of(word: &str) -> Result<CredentialKind, Failure> {
    let kinds = [CredentialKind::Bearer, CredentialKind::Refresh];
    kinds.into_iter().find(|kind| kind.as_str() == word).ok_or(UNKNOWN_WORD)
}

const fn retired_by_word(by: RetiredBy) -> &'static str {
    match by {
        RetiredBy::Agent => "agent",
        RetiredBy::Administrator => "administrator",
    }
}

fn retired_by_of(word: &str) -> Result<RetiredBy, Failure> {
    let all = [RetiredBy::Agent, RetiredBy::Administrator];
    all.into_iter().find(|by| retired_by_word(*by) == word).ok_or(UNKNOWN_WORD)
}

const fn reason_word(reason: RevokeReason) -> &'static str {
    match reason {
        RevokeReason::Administrator => "administrator",
        RevokeReason::CutOff => "cut_off",
        RevokeReason::HostArchived => "host_archived",
        RevokeReason::Reenrolled => "reenrolled",
        RevokeReason::ReuseDetected => "reuse_detected",
    }
}

fn reason_of(word: &str) -> Result<RevokeReason, Failure> {
    let all = [
        RevokeReason::Administrator,
        RevokeReason::CutOff,
        RevokeReason::HostArchived,
        RevokeReason::Reenrolled,
        RevokeReason::ReuseDetected,
    ];
    all.into_iter().find(|reason| reason_word(*reason) == word).ok_or(UNKNOWN_WORD)
}
