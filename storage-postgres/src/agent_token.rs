//! Agent tokens: their rows, and the questions about them.

use enlist_core::agent_token::{AgentToken, AgentTokenState, CredentialKind, Origin, RetiredBy, RevokeReason};
use enlist_core::store::{AgentTokenQuery, AgentTokenRecord, LAST_USE_GRAIN, Page};
use enlist_core::{AgentTokenId, HostId, TokenHash};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::column::{At, Hash, Id, UNKNOWN_WORD, overread, parse, parse_optional, required};
use crate::contact::Used;
use crate::error::Failure;
use crate::transaction::Db;

/// The columns of an [`AgentTokenRow`], of `agent_tokens AS a`.
macro_rules! agent_token_columns {
    () => {
        "a.id, a.host_id, a.lineage_id, a.hash, a.kind, a.name, a.origin, a.origin_install_token_id, a.origin_actor_id,
         a.predecessor_id, a.state, a.state_at, a.succeeded_by, a.retired_by, a.revoke_reason, a.created_at, a.expires_at"
    };
}
pub(crate) use agent_token_columns;

const BY_HASH: &str = concat!("SELECT ", agent_token_columns!(), " FROM {schema}.agent_tokens AS a WHERE a.hash = $1");
const BY_ID: &str = concat!("SELECT ", agent_token_columns!(), " FROM {schema}.agent_tokens AS a WHERE a.id = $1");
// `AgentToken::is_live`, restated where rows are chosen: a host may have a long past of ended ones.
const LIVE: &str = concat!(
    "SELECT ",
    agent_token_columns!(),
    " FROM {schema}.agent_tokens AS a WHERE a.host_id = $1 AND a.state IN ('pending', 'active') ORDER BY a.id"
);
const LIST: &str = concat!(
    "SELECT ",
    agent_token_columns!(),
    ", a.last_used_at FROM {schema}.agent_tokens AS a
     WHERE a.host_id = $1 AND ($2::uuid IS NULL OR a.lineage_id = $2) AND ($3::uuid IS NULL OR a.id > $3)
     ORDER BY a.id LIMIT $4"
);

/// Makes a token or overwrites it, with its hash in the register. A hash that the register has under another token
/// stays as it is there, and then the token's foreign key finds no pair of its own: that is `HashSeen`. The last use is
/// contact's, and stays.
const PUT: &str = "
    WITH registered AS (
        INSERT INTO {schema}.token_hashes (hash, token_id) VALUES ($4, $1) ON CONFLICT (hash) DO NOTHING
    )
    INSERT INTO {schema}.agent_tokens AS a
        (id, host_id, lineage_id, hash, kind, name, origin, origin_install_token_id, origin_actor_id, predecessor_id,
         state, state_at, succeeded_by, retired_by, revoke_reason, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    ON CONFLICT (id) DO UPDATE SET
        lineage_id = excluded.lineage_id, hash = excluded.hash, kind = excluded.kind, name = excluded.name,
        origin = excluded.origin, origin_install_token_id = excluded.origin_install_token_id,
        origin_actor_id = excluded.origin_actor_id, predecessor_id = excluded.predecessor_id, state = excluded.state,
        state_at = excluded.state_at, succeeded_by = excluded.succeeded_by, retired_by = excluded.retired_by,
        revoke_reason = excluded.revoke_reason, created_at = excluded.created_at, expires_at = excluded.expires_at
    WHERE a.host_id = excluded.host_id";

const BURY: &str = "
    INSERT INTO {schema}.tombstones (hash, token_id, host_id, deleted_at)
    SELECT hash, id, host_id, $2 FROM {schema}.agent_tokens WHERE host_id = $1
    RETURNING hash";

/// A later use than the known one is written only when it is later by this much: it is there for people to see what is
/// in use, not to be written with every request.
/// Of uses `AS u (id, host_id, at)`, coarser than so many seconds.
macro_rules! note_used {
    ($uses:literal, $grain:literal) => {
        concat!(
            "UPDATE {schema}.agent_tokens AS a SET last_used_at = u.at
             FROM ",
            $uses,
            " WHERE a.id = u.id AND a.host_id = u.host_id
                AND (a.last_used_at IS NULL OR a.last_used_at < u.at - make_interval(secs => ",
            $grain,
            "))
             RETURNING a.id, a.last_used_at, a.host_id"
        )
    };
}
pub(crate) use note_used;

const NOTE_USES: &str = note_used!("unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS u (id, host_id, at)", "$4");

/// A row of `agent_tokens`, but for its last use: that is contact's, and a commit does not touch it.
#[derive(Debug)]
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

    fn read(row: &PgRow) -> Result<Self, Failure> {
        Ok(Self {
            id: row.try_get("id")?,
            host_id: row.try_get("host_id")?,
            lineage_id: row.try_get("lineage_id")?,
            hash: row.try_get("hash")?,
            kind: row.try_get("kind")?,
            name: row.try_get("name")?,
            origin: row.try_get("origin")?,
            origin_install_token_id: row.try_get("origin_install_token_id")?,
            origin_actor_id: row.try_get("origin_actor_id")?,
            predecessor_id: row.try_get("predecessor_id")?,
            state: row.try_get("state")?,
            state_at: row.try_get("state_at")?,
            succeeded_by: row.try_get("succeeded_by")?,
            retired_by: row.try_get("retired_by")?,
            revoke_reason: row.try_get("revoke_reason")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        })
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

/// The token in a row of [`agent_token_columns!`].
pub(crate) fn decode(row: &PgRow) -> Result<AgentToken, Failure> {
    AgentTokenRow::read(row)?.decode()
}

/// The token with this hash, whatever state it is in.
pub(crate) async fn by_hash(db: &mut Db, hash: &TokenHash) -> Result<Option<AgentToken>, Failure> {
    let row = db.query(BY_HASH).bind(Hash(*hash)).fetch_optional(db.connection()).await?;
    row.as_ref().map(decode).transpose()
}

/// The same by its id.
pub(crate) async fn by_id(db: &mut Db, id: AgentTokenId) -> Result<Option<AgentToken>, Failure> {
    let row = db.query(BY_ID).bind(Id::from(id)).fetch_optional(db.connection()).await?;
    row.as_ref().map(decode).transpose()
}

/// Every token of the host that is Pending or Active, in the order of their ids.
pub(crate) async fn live(db: &mut Db, host_id: HostId) -> Result<Vec<AgentToken>, Failure> {
    let rows = db.query(LIVE).bind(Id::from(host_id)).fetch_all(db.connection()).await?;
    rows.iter().map(decode).collect()
}

/// Makes or overwrites tokens of a host. Those that end come first and those that begin last, so that each place in a
/// lineage is free before another takes it.
pub(crate) async fn put(db: &mut Db, host_id: HostId, tokens: &[AgentToken]) -> Result<(), Failure> {
    let mut tokens: Vec<_> = tokens.iter().collect();
    tokens.sort_by_key(|token| match token.state {
        AgentTokenState::Retired { .. } | AgentTokenState::Displaced { .. } | AgentTokenState::Revoked { .. } => 0,
        AgentTokenState::Active { .. } => 1,
        AgentTokenState::Pending => 2,
    });
    for token in tokens {
        if token.host_id != host_id {
            return Err(MISPLACED);
        }
        let row = AgentTokenRow::of(token);
        let put = db
            .query(PUT)
            .bind(row.id)
            .bind(row.host_id)
            .bind(row.lineage_id)
            .bind(row.hash)
            .bind(row.kind)
            .bind(row.name)
            .bind(row.origin)
            .bind(row.origin_install_token_id)
            .bind(row.origin_actor_id)
            .bind(row.predecessor_id)
            .bind(row.state)
            .bind(row.state_at)
            .bind(row.succeeded_by)
            .bind(row.retired_by)
            .bind(row.revoke_reason)
            .bind(row.created_at)
            .bind(row.expires_at);
        if put.execute(db.connection()).await?.rows_affected() == 0 {
            return Err(MISPLACED);
        }
    }
    Ok(())
}

const MISPLACED: Failure = Failure::Invalid("an agent token of another host in a host's write");

/// Leaves tombstones of all tokens of a host that is about to be deleted; returns their hashes.
pub(crate) async fn bury(db: &mut Db, host_id: HostId, at: At) -> Result<Vec<TokenHash>, Failure> {
    let rows = db.query(BURY).bind(Id::from(host_id)).bind(at).fetch_all(db.connection()).await?;
    rows.iter().map(|row| Ok(row.try_get::<Hash, _>("hash")?.0)).collect()
}

/// Notes when tokens of hosts were used, coarsely. Never goes back. Says which uses were written.
pub(crate) async fn note_uses(db: &mut Db, uses: &[(Id, Id, At)]) -> Result<Vec<Used>, Failure> {
    if uses.is_empty() {
        return Ok(Vec::new());
    }
    let rows = db
        .query(NOTE_USES)
        .bind(uses.iter().map(|(token, _, _)| *token).collect::<Vec<_>>())
        .bind(uses.iter().map(|(_, host, _)| *host).collect::<Vec<_>>())
        .bind(uses.iter().map(|(_, _, at)| *at).collect::<Vec<_>>())
        .bind(LAST_USE_GRAIN.as_secs_f64())
        .fetch_all(db.connection())
        .await?;
    rows.iter().map(|row| Ok((row.try_get::<Id, _>(0)?.into(), row.try_get::<At, _>(1)?.0))).collect()
}

/// `list_agent_tokens`.
pub(crate) async fn list(db: &mut Db, query: &AgentTokenQuery) -> Result<Page<AgentTokenRecord>, Failure> {
    let wanted = db.query(LIST).bind(Id::from(query.host_id)).bind(query.lineage_id.map(Id::from));
    let page = wanted.bind(query.after.map(Id::from)).bind(overread(query.limit));
    let rows = page.fetch_all(db.connection()).await?;
    let records = rows.iter().map(|row| {
        let last_used_at: Option<At> = row.try_get("last_used_at")?;
        Ok(AgentTokenRecord { token: decode(row)?, last_used_at: last_used_at.map(|at| at.0) })
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
