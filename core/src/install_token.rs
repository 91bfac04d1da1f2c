//! The install token: `Issued → Consumed`, or `Revoked`. It buys exactly one agent token, for ever the same claim's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent_token::{AgentToken, AgentTokenState, CredentialKind, Draft, Origin, RevokeReason};
use crate::clock::Timestamp;
use crate::error::InvalidTransition;
use crate::host::{ExternalId, Host, HostKind, HostName, Lifecycle};
use crate::id::{ActorId, AgentTokenId, HostId, InstallTokenId, LineageId, TenantId};
use crate::secret::TokenHash;

/// How long an install token can be exchanged unless its maker says otherwise.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(15 * 60);
/// The longest life that can be asked for.
pub const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A secret for one installation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstallToken {
    /// Its public identity.
    pub id: InstallTokenId,
    /// Whose hosts it can enrol.
    pub tenant_id: TenantId,
    /// The host that it enrols, or the tenant in which the exchange makes one.
    pub binding: Binding,
    /// What it is looked up by.
    pub hash: TokenHash,
    /// The kind of credential that it buys.
    pub credential_kind: CredentialKind,
    /// Where it stands.
    pub state: InstallTokenState,
    /// Who made it.
    pub created_by: ActorId,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it cannot be exchanged any more. Concerns only `Issued`.
    pub expires_at: Timestamp,
}

/// What an install token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// One existing host: the token is part of its aggregate.
    Host(HostId),
    /// A tenant: the exchange finds or makes a bring-your-own host.
    Tenant,
}

/// The states of an install token. `Consumed` and `Revoked` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstallTokenState {
    /// It can be exchanged until it expires.
    Issued,
    /// It was exchanged.
    Consumed {
        /// What the one winner committed to.
        claim: Claim,
        /// When.
        at: Timestamp,
        /// What it bought.
        agent_token: AgentTokenId,
    },
    /// An administrator took it back, or made another for the same host, or archived the host.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

/// What a client commits to in an exchange: the identity of a request across repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// The client drew the agent token; this is its hash.
    Client(TokenHash),
    /// The server draws it.
    Server {
        /// SHA-256 of the `Idempotency-Key`, if there was one. No key never matches no key.
        idempotency_key_hash: Option<TokenHash>,
    },
}

/// What an exchange leads to: the rows of the exchange table that concern a token that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// The token can be consumed by this claim.
    Grant,
    /// This claim won before: the same answer again, nothing changes. The credential bought may have been refused
    /// since; whoever answers checks that.
    Repeat {
        /// What it bought then.
        agent_token: AgentTokenId,
    },
    /// Revoked or expired: as if it were unknown.
    Invalid,
    /// Another claim won.
    AlreadyUsed {
        /// Whether somebody else seems to hold the same install token: worth an alarm.
        contested: bool,
    },
}

/// What an exchange changes, in one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// The install token, Consumed.
    pub spent: InstallToken,
    /// The credential, Pending.
    pub bought: AgentToken,
    /// The credentials of earlier exchanges, Revoked.
    pub ended: Vec<AgentToken>,
}

impl InstallToken {
    /// Whether its time is over. Only meaningful while it is Issued.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// Judges a claim. `bought` is the agent token that it was exchanged for, when it was.
    pub fn exchange(&self, claim: &Claim, bought: Option<&AgentToken>, now: Timestamp) -> Exchange {
        match &self.state {
            InstallTokenState::Revoked { .. } => Exchange::Invalid,
            InstallTokenState::Issued if self.is_expired(now) => Exchange::Invalid,
            InstallTokenState::Issued => Exchange::Grant,
            InstallTokenState::Consumed { claim: won, agent_token, .. } => match (won, claim) {
                (Claim::Client(won), Claim::Client(hash)) if won == hash => {
                    Exchange::Repeat { agent_token: *agent_token }
                }
                (
                    Claim::Server { idempotency_key_hash: Some(won) },
                    Claim::Server { idempotency_key_hash: Some(key) },
                ) if won == key => {
                    let unused = bought.is_some_and(|token| matches!(token.state, AgentTokenState::Pending));
                    if unused {
                        Exchange::Repeat { agent_token: *agent_token }
                    } else {
                        Exchange::AlreadyUsed { contested: false }
                    }
                }
                _ => Exchange::AlreadyUsed { contested: true },
            },
        }
    }

    /// Whether its exchange enrols this host anew; `live` are the Pending and Active agent tokens of the host. A token that is
    /// bound to a tenant gets back what such a token made, once nothing is left that could still work: it takes over no
    /// running host, none that an administrator created, and none that is out of service.
    pub fn reenrols(&self, host: &Host, live: &[AgentToken]) -> bool {
        self.binding == Binding::Tenant
            && self.tenant_id == host.tenant_id
            && host.made_with.is_some()
            && !host.is_archived()
            && live.is_empty()
    }

    /// The host that its exchange makes when it is bound to a tenant: one that the tenant brings.
    pub fn make_host(
        &self,
        id: HostId,
        name: Option<HostName>,
        external_id: Option<ExternalId>,
        now: Timestamp,
    ) -> Host {
        Host {
            id,
            tenant_id: self.tenant_id.clone(),
            kind: HostKind::Byoc,
            name: name.unwrap_or_else(|| unnamed(id)),
            external_id,
            provider: None,
            availability_zone: None,
            address: None,
            tags: BTreeSet::new(),
            labels: BTreeMap::new(),
            liveness_window: None,
            cordoned: false,
            lifecycle: Lifecycle::Live,
            generation: 0,
            enrolled_at: None,
            made_with: Some(self.id),
            created_at: now,
            updated_at: now,
        }
    }

    /// Spends it.
    ///
    /// # Errors
    /// Unless it is Issued and not expired.
    pub fn consume(self, claim: Claim, agent_token: AgentTokenId, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self.state {
            InstallTokenState::Issued if !self.is_expired(now) => {
                Ok(Self { state: InstallTokenState::Consumed { claim, at: now, agent_token }, ..self })
            }
            _ => Err(self.refuse("consume", now)),
        }
    }

    /// Exchanges it, granted: it is spent, the credential begins, and those that earlier exchanges gave the host end,
    /// since whoever enrols it anew has lost them. `earlier` are the live tokens of their lineages.
    ///
    /// # Errors
    /// Unless it is Issued and not expired.
    pub fn buy(
        self,
        claim: Claim,
        draft: Draft,
        host_id: HostId,
        lineage_id: LineageId,
        earlier: Vec<AgentToken>,
        now: Timestamp,
    ) -> Result<Purchase, InvalidTransition> {
        let bought = AgentToken {
            id: draft.id,
            host_id,
            lineage_id,
            hash: draft.hash,
            kind: self.credential_kind,
            name: None,
            origin: Origin::Exchange(self.id),
            state: AgentTokenState::Pending,
            created_at: now,
            expires_at: None,
        };
        let spent = self.consume(claim, draft.id, now)?;
        let ended = earlier.into_iter().filter_map(|token| token.revoke(RevokeReason::Reenrolled, now).ok()).collect();
        Ok(Purchase { spent, bought, ended })
    }

    /// Takes it back. An expired one can be revoked too: it is still Issued.
    ///
    /// # Errors
    /// Unless it is Issued.
    pub fn revoke(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self.state {
            InstallTokenState::Issued => Ok(Self { state: InstallTokenState::Revoked { at: now }, ..self }),
            _ => Err(self.refuse("revoke", now)),
        }
    }

    /// Its status for people, expiry included.
    pub fn status(&self, now: Timestamp) -> InstallTokenStatus {
        match self.state {
            InstallTokenState::Issued if self.is_expired(now) => InstallTokenStatus::Expired,
            InstallTokenState::Issued => InstallTokenStatus::Issued,
            InstallTokenState::Consumed { .. } => InstallTokenStatus::Consumed,
            InstallTokenState::Revoked { .. } => InstallTokenStatus::Revoked,
        }
    }

    /// From when on it has been of no use: expired, revoked, or exchanged for an agent token that has ended since, which
    /// `bought` is, or was until it was deleted. While that may still act, a repeated exchange is answered.
    pub fn spent_at(&self, bought: Option<&AgentToken>) -> Option<Timestamp> {
        match self.state {
            InstallTokenState::Issued => Some(self.expires_at),
            InstallTokenState::Revoked { at } => Some(at),
            InstallTokenState::Consumed { at, .. } => (!bought.is_some_and(AgentToken::is_live)).then_some(at),
        }
    }

    fn refuse(&self, attempted: &'static str, now: Timestamp) -> InvalidTransition {
        InvalidTransition { entity: "install token", state: self.status(now).as_str(), attempted }
    }
}

/// What a host is called that nobody has named: by the end of its id, which is random.
fn unnamed(id: HostId) -> HostName {
    let id = id.as_uuid().simple().to_string();
    HostName::new(format!("host-{}", &id[20..])).expect("hexadecimal digits are printable, and these are few")
}

/// What the wire calls the state of an install token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstallTokenStatus {
    /// It can be exchanged.
    Issued,
    /// It was not exchanged in time.
    Expired,
    /// It was exchanged.
    Consumed,
    /// It was taken back.
    Revoked,
}

impl InstallTokenStatus {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Expired => "expired",
            Self::Consumed => "consumed",
            Self::Revoked => "revoked",
        }
    }
}
