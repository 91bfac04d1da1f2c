//! Bodies about hosts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::agent_token::CredentialKind;
use crate::clock::Timestamp;
use crate::host::{ExternalId, HostKind, HostName, LabelKey, LabelValue, Placement, Status, Tag};
use crate::id::{HostId, TenantId};
use crate::liveness::LivenessWindow;
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
    /// Required unless the actor has exactly one tenant, or the service has a default, one of theirs if they
    /// have several.
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
    /// After how much silence it is unreachable, in seconds, 3 to 86,400; the fleet's window unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_window_seconds: Option<LivenessWindow>,
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
            liveness_window_seconds: None,
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

/// `PATCH /v1/hosts/{host_id}`: a merge patch (RFC 7396). What is absent stays as it is, `null` removes. Tags are replaced
/// whole, labels are merged by key.
///
/// ```
/// # use enlist_core::wire::{PatchHost, parse_json};
/// let patch: PatchHost = parse_json(br#"{"address": "10.0.0.8", "provider": null, "labels": {"rack": null}}"#)?;
/// assert_eq!(patch.name, None, "stays");
/// assert_eq!(patch.provider, Some(None), "goes");
/// assert!(patch.labels.flatten().is_some_and(|labels| labels.values().all(Option::is_none)), "that label goes");
/// # Ok::<(), enlist_core::FieldError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchHost {
    /// Another name, unique among the tenant's unarchived hosts. It cannot be removed.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<HostName>,
    /// Unique in the tenant.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub external_id: Option<Option<ExternalId>>,
    /// Free text.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub provider: Option<Option<Placement>>,
    /// Free text.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<Option<Placement>>,
    /// Where clients reach it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub address: Option<Option<Placement>>,
    /// All that it shall have, at most 64.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub tags: Option<Option<BTreeSet<Tag>>>,
    /// Those to set, and with `None` those to remove; it has at most 64 afterwards.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub labels: Option<Option<BTreeMap<LabelKey, Option<LabelValue>>>>,
    /// After how much silence it is unreachable, in seconds, 3 to 86,400; without one after its fleet's window.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub liveness_window_seconds: Option<Option<LivenessWindow>>,
}

/// Reads a field that is there, `null` or not: serde by itself takes `null` for one that is absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// `GET /v1/hosts/{host_id}/delete-preview`: what runs on the host. Of one that is not online
/// nothing is known to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletePreview {
    /// The first 50 of them, in the order of their ids.
    pub containers: Vec<RunningContainer>,
    /// How many there are, counted up to 10,000.
    pub total: u64,
}

/// A container that stands in the way of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningContainer {
    /// The engine's id of it.
    pub container_id: String,
    /// What it is called.
    pub name: String,
    /// The image without its tag.
    pub image: String,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tag: Option<String>,
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
    /// After how much silence it is unreachable, in seconds; `null`: after its fleet's window.
    pub liveness_window_seconds: Option<LivenessWindow>,
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
