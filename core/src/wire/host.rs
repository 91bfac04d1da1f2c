//! Bodies about hosts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::agent_token::CredentialKind;
use crate::clock::Timestamp;
use crate::host::{ExternalId, HostKind, HostName, LabelKey, LabelValue, Placement, Status, Tag};
use crate::id::{HostId, TenantId};
use crate::telemetry::HostFacts;
use crate::wire::install_token::MintedInstallToken;

/// `POST /v1/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateHost {
    /// Unique among the tenant's unarchived hosts.
    pub name: HostName,
    /// Whose machine it is.
    pub kind: HostKind,
    /// Required unless the actor has exactly one tenant, or the service a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Unique in the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<ExternalId>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Placement>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<Placement>,
    /// Where clients reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Placement>,
    /// At most 64.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Tag>,
    /// At most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether to make an install token along with it.
    #[serde(default = "yes")]
    pub mint_install_token: bool,
    /// The kind of credential that the install token buys.
    #[serde(default = "bearer")]
    pub credential_kind: CredentialKind,
}

impl CreateHost {
    /// A host of this name and kind, everything else by default.
    pub fn new(name: HostName, kind: HostKind) -> Self {
        Self {
            name,
            kind,
            tenant_id: None,
            external_id: None,
            provider: None,
            availability_zone: None,
            address: None,
            tags: BTreeSet::new(),
            labels: BTreeMap::new(),
            mint_install_token: true,
            credential_kind: CredentialKind::Bearer,
        }
    }
}

/// 201 of `POST /v1/hosts`.
#[derive(Debug, Serialize)]
pub struct CreatedHost {
    /// The host.
    pub host: HostBody,
    /// The install token, shown this once.
    pub install_token: Option<MintedInstallToken>,
}

/// A host on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostBody {
    /// Its identity.
    pub id: HostId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Unique in the tenant.
    pub external_id: Option<ExternalId>,
    /// Unique among the tenant's unarchived hosts.
    pub name: HostName,
    /// Whose machine it is.
    pub kind: HostKind,
    /// Archived, else its presence.
    pub status: Status,
    /// No new work is placed on it.
    pub cordoned: bool,
    /// Free text.
    pub provider: Option<Placement>,
    /// Free text.
    pub availability_zone: Option<Placement>,
    /// Where clients reach it.
    pub address: Option<Placement>,
    /// What it last said of itself.
    pub facts: HostFacts,
    /// For filters and placement.
    pub tags: BTreeSet<Tag>,
    /// For the embedding service.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Its last contact, at most 5 s late, by the server's clock.
    pub last_seen_at: Option<Timestamp>,
    /// When an install token of its was first exchanged.
    pub enrolled_at: Option<Timestamp>,
    /// When it was taken out of service.
    pub archived_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed by an administrator or an exchange.
    pub updated_at: Timestamp,
    /// Rises with every change of the host or its tokens; never by a contact.
    pub revision: u64,
}

const fn yes() -> bool {
    true
}

const fn bearer() -> CredentialKind {
    CredentialKind::Bearer
}
