//! Install tokens: their rows, and the questions about them.

use diesel::dsl::exists;
use diesel::prelude::*;
use enlist_core::install_token::{Binding, Claim, InstallToken, InstallTokenState};
use enlist_core::store::{Expected, InstallTokenOwner, InstallTokenQuery, Page, Revision, StoreErrorKind};
use enlist_core::{HostId, InstallTokenId, TokenHash};

use crate::agent_token::credential_kind_of;
use crate::column::{At, Count, Hash, Id, UNKNOWN_WORD, overread, parse, required};
use crate::error::Failure;
use crate::schema::install_tokens;

const ISSUED: &str = "issued";
const CONSUMED: &str = "consumed";
const REVOKED: &str = "revoked";

/// A row of `install_tokens`.
#[derive(Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = install_tokens, treat_none_as_default_value = false, treat_none_as_null = true)]
#[diesel(check_for_backend(diesel::sqlite::Sqlite))]
struct InstallTokenRow {
    id: Id,
    revision: Option<Count>,
    tenant_id: String,
    host_id: Option<Id>,
    hash: Hash,
    credential_kind: String,
    state: String,
    state_at: Option<At>,
    claim: Option<String>,
    claim_hash: Option<Hash>,
    agent_token_id: Option<Id>,
    created_by: String,
    created_at: At,
    expires_at: At,
}

impl InstallTokenRow {
    fn of(token: &InstallToken, revision: Option<Revision>) -> Self {
        let (state, state_at) = match token.state {
            InstallTokenState::Issued => (ISSUED, None),
            InstallTokenState::Consumed { at, .. } => (CONSUMED, Some(at)),
            InstallTokenState::Revoked { at } => (REVOKED, Some(at)),
        };
        let (claim, claim_hash, agent_token_id) = match token.state {
            InstallTokenState::Consumed { claim: Claim::Client(hash), agent_token, .. } => {
                (Some("client"), Some(hash), Some(agent_token))
            }
            InstallTokenState::Consumed { claim: Claim::Server { idempotency_key_hash }, agent_token, .. } => {
                (Some("server"), idempotency_key_hash, Some(agent_token))
            }
            InstallTokenState::Issued | InstallTokenState::Revoked { .. } => (None, None, None),
        };
        Self {
            id: token.id.into(),
            revision: revision.map(|revision| Count(revision.get())),
            tenant_id: token.tenant_id.as_str().to_owned(),
            host_id: match token.binding {
                Binding::Host(id) => Some(id.into()),
                Binding::Tenant => None,
            },
            hash: Hash(token.hash),
            credential_kind: token.credential_kind.as_str().to_owned(),
            state: state.to_owned(),
            state_at: state_at.map(At),
            claim: claim.map(str::to_owned),
            claim_hash: claim_hash.map(Hash),
            agent_token_id: agent_token_id.map(Id::from),
            created_by: token.created_by.as_str().to_owned(),
            created_at: At(token.created_at),
            expires_at: At(token.expires_at),
        }
    }

    fn decode(self) -> Result<(Option<Revision>, InstallToken), Failure> {
        let at = || required(self.state_at).map(|at| at.0);
        let state = match self.state.as_str() {
            ISSUED => InstallTokenState::Issued,
            CONSUMED => InstallTokenState::Consumed {
                claim: match self.claim.as_deref() {
                    Some("client") => Claim::Client(required(self.claim_hash)?.0),
                    Some("server") => Claim::Server { idempotency_key_hash: self.claim_hash.map(|hash| hash.0) },
                    _ => return Err(UNKNOWN_WORD),
                },
                at: at()?,
                agent_token: required(self.agent_token_id)?.into(),
            },
            REVOKED => InstallTokenState::Revoked { at: at()? },
            _ => return Err(UNKNOWN_WORD),
        };
        let token = InstallToken {
            id: self.id.into(),
            tenant_id: parse(&self.tenant_id)?,
            binding: self.host_id.map_or(Binding::Tenant, |id| Binding::Host(id.into())),
            hash: self.hash.0,
            credential_kind: credential_kind_of(&self.credential_kind)?,
            state,
            created_by: parse(&self.created_by)?,
            created_at: self.created_at.0,
            expires_at: self.expires_at.0,
        };
        Ok((self.revision.map(|revision| Revision::new(revision.0)), token))
    }
}

/// What guards a write of this token: `None` when there is no such token, `Some(None)` when it is a host's, and so not
/// an aggregate of its own.
pub(crate) fn revision(
    connection: &mut SqliteConnection,
    id: InstallTokenId,
) -> Result<Option<Option<Revision>>, Failure> {
    let row = install_tokens::table.find(Id::from(id)).select(install_tokens::revision);
    let revision = row.get_result::<Option<Count>>(connection).optional()?;
    Ok(revision.map(|own| own.map(|revision| Revision::new(revision.0))))
}

/// The token with this hash; with its revision when it is an aggregate of its own.
pub(crate) fn by_hash(
    connection: &mut SqliteConnection,
    hash: &TokenHash,
) -> Result<Option<(Option<Revision>, InstallToken)>, Failure> {
    let row = install_tokens::table.filter(install_tokens::hash.eq(Hash(*hash))).select(InstallTokenRow::as_select());
    row.get_result(connection).optional()?.map(InstallTokenRow::decode).transpose()
}

/// The same by its id.
pub(crate) fn by_id(
    connection: &mut SqliteConnection,
    id: InstallTokenId,
) -> Result<Option<(Option<Revision>, InstallToken)>, Failure> {
    let row = install_tokens::table.find(Id::from(id)).select(InstallTokenRow::as_select());
    row.get_result(connection).optional()?.map(InstallTokenRow::decode).transpose()
}

/// The one token of the host that is Issued, expired or not.
pub(crate) fn issued(connection: &mut SqliteConnection, host_id: HostId) -> Result<Option<InstallToken>, Failure> {
    let row = install_tokens::table
        .filter(install_tokens::host_id.eq(Id::from(host_id)))
        .filter(install_tokens::state.eq(ISSUED))
        .select(InstallTokenRow::as_select())
        .get_result(connection)
        .optional()?;
    row.map(|row| row.decode().map(|(_, token)| token)).transpose()
}

/// Makes or overwrites tokens of a host: those that end first, so that one can be issued in another's place.
pub(crate) fn put_of_host(
    connection: &mut SqliteConnection,
    host_id: HostId,
    tokens: &[InstallToken],
) -> Result<(), Failure> {
    let (issued, ended): (Vec<_>, Vec<_>) =
        tokens.iter().partition(|token| matches!(token.state, InstallTokenState::Issued));
    for token in ended.into_iter().chain(issued) {
        if token.binding != Binding::Host(host_id) {
            return Err(Failure::Invalid("an install token of another host, or of none, in a host's write"));
        }
        let row = InstallTokenRow::of(token, None);
        let stored = install_tokens::table.find(row.id).filter(install_tokens::host_id.eq(row.host_id));
        if diesel::update(stored).set(&row).execute(connection)? == 0 {
            // Asked first: of a token with its own hash, SQLite would say that the hash was seen.
            if diesel::select(exists(install_tokens::table.find(row.id))).get_result(connection)? {
                return Err(Failure::Invalid("an install token that another host has, or a tenant"));
            }
            diesel::insert_into(install_tokens::table).values(&row).execute(connection)?;
        }
    }
    Ok(())
}

/// Writes a token that is an aggregate of its own, under its guard.
pub(crate) fn put_of_tenant(
    connection: &mut SqliteConnection,
    token: &InstallToken,
    expected: Expected,
) -> Result<(), Failure> {
    if token.binding != Binding::Tenant {
        return Err(Failure::Invalid("an install token of a host is written with its host"));
    }
    let row = InstallTokenRow::of(token, Some(expected.next()));
    match expected {
        Expected::Absent => {
            diesel::insert_into(install_tokens::table).values(&row).execute(connection)?;
        }
        Expected::Revision(revision) => {
            let guarded = install_tokens::table.find(row.id).filter(install_tokens::revision.eq(Count(revision.get())));
            if diesel::update(guarded).set(&row).execute(connection)? == 0 {
                return Err(StoreErrorKind::Conflict.into());
            }
        }
    }
    Ok(())
}

/// `list_install_tokens`.
pub(crate) fn list(
    connection: &mut SqliteConnection,
    query: &InstallTokenQuery,
) -> Result<Page<InstallToken>, Failure> {
    let mut rows = install_tokens::table
        .order(install_tokens::id)
        .limit(overread(query.limit))
        .select(InstallTokenRow::as_select())
        .into_boxed();
    rows = match &query.owner {
        InstallTokenOwner::Host(host_id) => rows.filter(install_tokens::host_id.eq(Id::from(*host_id))),
        InstallTokenOwner::Tenant(tenant_id) => rows
            .filter(install_tokens::tenant_id.eq(tenant_id.as_str().to_owned()))
            .filter(install_tokens::host_id.is_null()),
    };
    if let Some(after) = query.after {
        rows = rows.filter(install_tokens::id.gt(Id::from(after)));
    }
    let tokens = rows.load(connection)?.into_iter().map(|row| row.decode().map(|(_, token)| token));
    Ok(Page::of_overread(tokens.collect::<Result<_, _>>()?, query.limit))
}
