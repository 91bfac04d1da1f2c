//! Install tokens: their rows, and the questions about them.

use std::collections::BTreeMap;

use enlist_core::install_token::{Binding, Claim, InstallToken, InstallTokenState};
use enlist_core::store::{Expected, InstallTokenOwner, InstallTokenQuery, Page, Revision, StoreErrorKind};
use enlist_core::{HostId, InstallTokenId, TokenHash};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use crate::agent_token::credential_kind_of;
use crate::column::{At, Count, Hash, Id, UNKNOWN_WORD, overread, parse, required};
use crate::error::Failure;
use crate::transaction::Db;

const ISSUED: &str = "issued";
const CONSUMED: &str = "consumed";
const REVOKED: &str = "revoked";

/// What an [`InstallTokenRow`] is read with.
macro_rules! select_install_token {
    () => {
        "SELECT id, revision, tenant_id, host_id, hash, credential_kind, state, state_at, claim, claim_hash,
                agent_token_id, created_by, created_at, expires_at
         FROM {schema}.install_tokens"
    };
}

const LOCK: &str = "SELECT id, revision FROM {schema}.install_tokens WHERE id = ANY($1) ORDER BY id FOR UPDATE";
const BY_HASH: &str = concat!(select_install_token!(), " WHERE hash = $1");
const BY_ID: &str = concat!(select_install_token!(), " WHERE id = $1");
const ISSUED_OF_HOST: &str = concat!(select_install_token!(), " WHERE host_id = $1 AND state = 'issued'");

/// Those of this owner, page by page.
macro_rules! list_where {
    ($owner:literal) => {
        concat!(select_install_token!(), " WHERE ", $owner, " AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3")
    };
}
const LIST_OF_HOST: &str = list_where!("host_id = $1");
const LIST_OF_TENANT: &str = list_where!("tenant_id = $1 AND host_id IS NULL");

/// With its hash in the register: as that of an agent token, see there.
macro_rules! insert {
    () => {
        "WITH registered AS (
            INSERT INTO {schema}.token_hashes (hash, token_id) VALUES ($5, $1) ON CONFLICT (hash) DO NOTHING
        )
        INSERT INTO {schema}.install_tokens AS t
            (id, revision, tenant_id, host_id, hash, credential_kind, state, state_at, claim, claim_hash, agent_token_id,
             created_by, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    };
}
const INSERT: &str = insert!();
const PUT: &str = concat!(
    insert!(),
    " ON CONFLICT (id) DO UPDATE SET
        tenant_id = excluded.tenant_id, hash = excluded.hash, credential_kind = excluded.credential_kind,
        state = excluded.state, state_at = excluded.state_at, claim = excluded.claim, claim_hash = excluded.claim_hash,
        agent_token_id = excluded.agent_token_id, created_by = excluded.created_by, created_at = excluded.created_at,
        expires_at = excluded.expires_at
     WHERE t.host_id = excluded.host_id"
);
/// The guard stands in the statement too, so that two writes of one token in one commit cannot both pass.
const UPDATE: &str = "
    WITH registered AS (
        INSERT INTO {schema}.token_hashes (hash, token_id) VALUES ($5, $1) ON CONFLICT (hash) DO NOTHING
    )
    UPDATE {schema}.install_tokens SET
        revision = $2, tenant_id = $3, host_id = $4, hash = $5, credential_kind = $6, state = $7, state_at = $8,
        claim = $9, claim_hash = $10, agent_token_id = $11, created_by = $12, created_at = $13, expires_at = $14
    WHERE id = $1 AND revision = $15";

/// A row of `install_tokens`.
#[derive(Debug)]
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

    fn read(row: &PgRow) -> Result<Self, Failure> {
        Ok(Self {
            id: row.try_get("id")?,
            revision: row.try_get("revision")?,
            tenant_id: row.try_get("tenant_id")?,
            host_id: row.try_get("host_id")?,
            hash: row.try_get("hash")?,
            credential_kind: row.try_get("credential_kind")?,
            state: row.try_get("state")?,
            state_at: row.try_get("state_at")?,
            claim: row.try_get("claim")?,
            claim_hash: row.try_get("claim_hash")?,
            agent_token_id: row.try_get("agent_token_id")?,
            created_by: row.try_get("created_by")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        })
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

    fn bind(self, query: Query<'static, Postgres, PgArguments>) -> Query<'static, Postgres, PgArguments> {
        query
            .bind(self.id)
            .bind(self.revision)
            .bind(self.tenant_id)
            .bind(self.host_id)
            .bind(self.hash)
            .bind(self.credential_kind)
            .bind(self.state)
            .bind(self.state_at)
            .bind(self.claim)
            .bind(self.claim_hash)
            .bind(self.agent_token_id)
            .bind(self.created_by)
            .bind(self.created_at)
            .bind(self.expires_at)
    }
}

/// An install token, with its revision when it is an aggregate of its own.
pub(crate) type Found = (Option<Revision>, InstallToken);

fn decode(row: &PgRow) -> Result<Found, Failure> {
    InstallTokenRow::read(row)?.decode()
}

/// Locks these tokens, in the order of all transactions, and reads their revisions: `None` for one that is a host's,
/// and so not an aggregate of its own. Tokens that are not there are left out.
pub(crate) async fn lock(
    db: &mut Db,
    mut tokens: Vec<Id>,
) -> Result<BTreeMap<InstallTokenId, Option<Revision>>, Failure> {
    tokens.sort_unstable();
    let rows = db.query(LOCK).bind(tokens).fetch_all(db.connection()).await?;
    rows.iter()
        .map(|row| {
            let own: Option<Count> = row.try_get("revision")?;
            Ok((row.try_get::<Id, _>("id")?.into(), own.map(|revision| Revision::new(revision.0))))
        })
        .collect()
}

/// The token with this hash.
pub(crate) async fn by_hash(db: &mut Db, hash: &TokenHash) -> Result<Option<Found>, Failure> {
    let row = db.query(BY_HASH).bind(Hash(*hash)).fetch_optional(db.connection()).await?;
    row.as_ref().map(decode).transpose()
}

/// The same by its id.
pub(crate) async fn by_id(db: &mut Db, id: InstallTokenId) -> Result<Option<Found>, Failure> {
    let row = db.query(BY_ID).bind(Id::from(id)).fetch_optional(db.connection()).await?;
    row.as_ref().map(decode).transpose()
}

/// The one token of the host that is Issued, expired or not.
pub(crate) async fn issued(db: &mut Db, host_id: HostId) -> Result<Option<InstallToken>, Failure> {
    let row = db.query(ISSUED_OF_HOST).bind(Id::from(host_id)).fetch_optional(db.connection()).await?;
    row.as_ref().map(|row| decode(row).map(|(_, token)| token)).transpose()
}

/// Makes or overwrites tokens of a host: those that end first, so that one can be issued in another's place.
pub(crate) async fn put_of_host(db: &mut Db, host_id: HostId, tokens: &[InstallToken]) -> Result<(), Failure> {
    const MISPLACED: Failure = Failure::Invalid("an install token of another host, or of none, in a host's write");
    let (issued, ended): (Vec<_>, Vec<_>) =
        tokens.iter().partition(|token| matches!(token.state, InstallTokenState::Issued));
    for token in ended.into_iter().chain(issued) {
        if token.binding != Binding::Host(host_id) {
            return Err(MISPLACED);
        }
        let put = InstallTokenRow::of(token, None).bind(db.query(PUT));
        if put.execute(db.connection()).await?.rows_affected() == 0 {
            return Err(MISPLACED);
        }
    }
    Ok(())
}

/// Writes a token that is an aggregate of its own, under its guard.
pub(crate) async fn put_of_tenant(db: &mut Db, token: &InstallToken, expected: Expected) -> Result<(), Failure> {
    if token.binding != Binding::Tenant {
        return Err(Failure::Invalid("an install token of a host is written with its host"));
    }
    let row = InstallTokenRow::of(token, Some(expected.next()));
    let put = match expected {
        Expected::Absent => row.bind(db.query(INSERT)),
        Expected::Revision(revision) => row.bind(db.query(UPDATE)).bind(Count(revision.get())),
    };
    if put.execute(db.connection()).await?.rows_affected() == 0 {
        return Err(StoreErrorKind::Conflict.into());
    }
    Ok(())
}

/// `list_install_tokens`.
pub(crate) async fn list(db: &mut Db, query: &InstallTokenQuery) -> Result<Page<InstallToken>, Failure> {
    let owned = match &query.owner {
        InstallTokenOwner::Host(host_id) => db.query(LIST_OF_HOST).bind(Id::from(*host_id)),
        InstallTokenOwner::Tenant(tenant_id) => db.query(LIST_OF_TENANT).bind(tenant_id.as_str()),
    };
    let rows = owned.bind(query.after.map(Id::from)).bind(overread(query.limit)).fetch_all(db.connection()).await?;
    let tokens = rows.iter().map(|row| decode(row).map(|(_, token)| token));
    Ok(Page::of_overread(tokens.collect::<Result<_, _>>()?, query.limit))
}
