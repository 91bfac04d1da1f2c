//! The host: what the administrator says of it ([`Lifecycle`]) and what it shows of itself ([`Presence`]).
//!
//! The two have two owners and never write each other. Lifecycle stands under the aggregate's revision; presence is
//! written by contact and by silence, conditionally, and no guarded transition reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{FieldError, InvalidTransition};
use crate::id::{HostId, InstallTokenId, TenantId};
use crate::liveness::LivenessWindow;
use crate::text::bounded_text;
use crate::wire::PatchHost;

bounded_text! {
    /// A host's name, unique among its tenant's unarchived hosts.
    HostName, "host name", 1..=128, Printable
}
bounded_text! {
    /// What the embedding service or the provider calls the host, unique in its tenant.
    ExternalId, "external id", 1..=128, Printable
}
bounded_text! {
    /// A tag, for filters and placement. It stands in paths, so it is neither `.` nor `..`.
    Tag, "tag", 1..=64, Segment
}
bounded_text! {
    /// The key of a label.
    LabelKey, "label key", 1..=128, Slug
}
bounded_text! {
    /// The value of a label.
    LabelValue, "label value", 0..=512, Printable
}
bounded_text! {
    /// Provider, availability zone or address of a host: free text for the operator.
    Placement, "provider, zone or address", 1..=255, Printable
}

/// How many tags, and how many labels, a host has at most.
pub const MAX_TAGS: usize = 64;

/// Who owns the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKind {
    /// The operator of the service owns it; tenants may look.
    Managed,
    /// Bring your own: the tenant owns it.
    Byoc,
}

impl HostKind {
    /// The name on the wire and in stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Byoc => "byoc",
        }
    }
}

/// A part of a host that administrators edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "named as the fields of `Host`")]
pub enum HostField {
    Name,
    ExternalId,
    Provider,
    AvailabilityZone,
    Address,
    Tags,
    Labels,
    #[serde(rename = "liveness_window_seconds")]
    LivenessWindow,
}

/// Why a host was not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotEdit {
    /// It is archived.
    #[error(transparent)]
    State(#[from] InvalidTransition),
    /// It would have more tags or labels than it may.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// A machine of the fleet, as the administrator knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its identity, for ever.
    pub id: HostId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Managed, or brought by the tenant.
    pub kind: HostKind,
    /// Unique among the tenant's unarchived hosts.
    pub name: HostName,
    /// Unique in the tenant, archived hosts included.
    pub external_id: Option<ExternalId>,
    /// Free text for the operator.
    pub provider: Option<Placement>,
    /// Free text for the operator.
    pub availability_zone: Option<Placement>,
    /// Where clients reach it, if they do.
    pub address: Option<Placement>,
    /// For filters and placement; at most [`MAX_TAGS`].
    pub tags: BTreeSet<Tag>,
    /// For the embedding service; at most [`MAX_TAGS`].
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// After how much silence it is unreachable; `None`: after its fleet's window.
    pub liveness_window: Option<LivenessWindow>,
    /// No new work is placed on it.
    pub cordoned: bool,
    /// The administrator's state of it.
    pub lifecycle: Lifecycle,
    /// The revocation epoch (`gen` of access tokens): raised by revocation, cut-off and archive, never by promotion.
    pub generation: u64,
    /// When an install token of its was first exchanged.
    pub enrolled_at: Option<Timestamp>,
    /// The install token of its tenant whose exchange made it; none if an administrator created it.
    pub made_with: Option<InstallTokenId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the administrator or an exchange last changed it.
    pub updated_at: Timestamp,
}

/// `Live → Archived`; deletion then removes the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// In service.
    Live,
    /// Out of service for good: every token of its is revoked.
    Archived {
        /// When it was first archived; repeats do not move it.
        at: Timestamp,
    },
}

impl Lifecycle {
    /// When it was archived, if it was.
    pub const fn archived_at(self) -> Option<Timestamp> {
        match self {
            Self::Live => None,
            Self::Archived { at } => Some(at),
        }
    }
}

impl Host {
    /// Whether it was archived.
    pub const fn is_archived(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Archived { .. })
    }

    /// Takes the host out of service. Idempotent: a second time changes nothing, `archived_at` stays.
    #[must_use]
    pub fn archive(self, now: Timestamp) -> Self {
        match self.lifecycle {
            Lifecycle::Archived { .. } => self,
            Lifecycle::Live => Self {
                lifecycle: Lifecycle::Archived { at: now },
                generation: self.generation + 1,
                updated_at: now,
                ..self
            },
        }
    }

    /// Notes that a credential was bought for it; the first time is kept.
    ///
    /// # Errors
    /// When it is archived.
    pub fn enrol(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        self.live("enrol")?;
        Ok(Self { enrolled_at: self.enrolled_at.or(Some(now)), updated_at: now, ..self })
    }

    /// Applies a merge patch (RFC 7396), and says which fields are other than before. If none is, the host is what it was,
    /// `updated_at` included.
    ///
    /// # Errors
    /// When it is archived, or would have more than [`MAX_TAGS`] tags or labels.
    pub fn edit(self, patch: PatchHost, now: Timestamp) -> Result<(Self, BTreeSet<HostField>), CannotEdit> {
        self.live("edit")?;
        let mut edited = self.clone();
        // Taken apart, so that a field that is added cannot be forgotten here.
        let PatchHost {
            name,
            external_id,
            provider,
            availability_zone,
            address,
            tags,
            labels,
            liveness_window_seconds,
        } = patch;
        edited.name = name.unwrap_or(edited.name);
        edited.external_id = external_id.unwrap_or(edited.external_id);
        edited.provider = provider.unwrap_or(edited.provider);
        edited.availability_zone = availability_zone.unwrap_or(edited.availability_zone);
        edited.address = address.unwrap_or(edited.address);
        edited.liveness_window = liveness_window_seconds.unwrap_or(edited.liveness_window);
        // A list is replaced whole, an object is merged by key (RFC 7396 §2).
        edited.tags = tags.map_or(edited.tags, Option::unwrap_or_default);
        match labels {
            None => {}
            Some(None) => edited.labels.clear(),
            Some(Some(patch)) => {
                for (key, value) in patch {
                    match value {
                        Some(value) => edited.labels.insert(key, value),
                        None => edited.labels.remove(&key),
                    };
                }
            }
        }
        within_bounds(&edited.tags, &edited.labels)?;
        let changed: BTreeSet<_> = [
            (HostField::Name, edited.name != self.name),
            (HostField::ExternalId, edited.external_id != self.external_id),
            (HostField::Provider, edited.provider != self.provider),
            (HostField::AvailabilityZone, edited.availability_zone != self.availability_zone),
            (HostField::Address, edited.address != self.address),
            (HostField::Tags, edited.tags != self.tags),
            (HostField::Labels, edited.labels != self.labels),
            (HostField::LivenessWindow, edited.liveness_window != self.liveness_window),
        ]
        .into_iter()
        .filter_map(|(field, is_other)| is_other.then_some(field))
        .collect();
        if changed.is_empty() {
            return Ok((self, changed));
        }
        Ok((Self { updated_at: now, ..edited }, changed))
    }

    /// Gives it a tag, or takes one from it: an edit of its tags.
    ///
    /// # Errors
    /// As [`Host::edit`].
    pub fn tag(self, tag: Tag, tagged: bool, now: Timestamp) -> Result<(Self, BTreeSet<HostField>), CannotEdit> {
        let mut tags = self.tags.clone();
        match tagged {
            true => tags.insert(tag),
            false => tags.remove(&tag),
        };
        self.edit(PatchHost { tags: Some(Some(tags)), ..PatchHost::default() }, now)
    }

    /// Keeps new work away from it, or lets it come again.
    ///
    /// # Errors
    /// When it is archived.
    pub fn cordon(self, cordoned: bool, now: Timestamp) -> Result<Self, InvalidTransition> {
        self.live(if cordoned { "cordon" } else { "uncordon" })?;
        let updated_at = if self.cordoned == cordoned { self.updated_at } else { now };
        Ok(Self { cordoned, updated_at, ..self })
    }

    /// Begins a new revocation epoch: access tokens of the one before are refused.
    #[must_use]
    pub fn next_generation(self, now: Timestamp) -> Self {
        Self { generation: self.generation + 1, updated_at: now, ..self }
    }

    fn live(&self, attempted: &'static str) -> Result<(), InvalidTransition> {
        match self.lifecycle {
            Lifecycle::Live => Ok(()),
            Lifecycle::Archived { .. } => Err(InvalidTransition { entity: "host", state: "archived", attempted }),
        }
    }
}

/// Whether a host may have these.
pub(crate) fn within_bounds(tags: &BTreeSet<Tag>, labels: &BTreeMap<LabelKey, LabelValue>) -> Result<(), FieldError> {
    if tags.len() > MAX_TAGS {
        return Err(FieldError::invalid("/tags", format!("at most {MAX_TAGS} tags")));
    }
    if labels.len() > MAX_TAGS {
        return Err(FieldError::invalid("/labels", format!("at most {MAX_TAGS} labels")));
    }
    Ok(())
}

/// Whether the host has proved its credential within the liveness window, by the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Never yet.
    Pending,
    /// Yes.
    Online {
        /// Its last contact; never goes back.
        last_seen_at: Timestamp,
    },
    /// It has been silent for longer than its window.
    Unreachable {
        /// Its last contact; never goes back.
        last_seen_at: Timestamp,
        /// When the silence was noticed.
        since: Timestamp,
    },
}

impl Presence {
    /// Its last contact.
    pub const fn last_seen_at(self) -> Option<Timestamp> {
        match self {
            Self::Pending => None,
            Self::Online { last_seen_at } | Self::Unreachable { last_seen_at, .. } => Some(last_seen_at),
        }
    }

    /// The status that the wire shows of an unarchived host.
    pub const fn status(self) -> Status {
        match self {
            Self::Pending => Status::Pending,
            Self::Online { .. } => Status::Online,
            Self::Unreachable { .. } => Status::Unreachable,
        }
    }

    /// The host has proved its credential at `at`. A contact always wins over silence noticed before it;
    /// `last_seen_at` never goes back, and what is no newer than it changes nothing.
    #[must_use]
    pub fn contact(self, at: Timestamp) -> Self {
        match self {
            Self::Pending => Self::Online { last_seen_at: at },
            Self::Online { last_seen_at } => Self::Online { last_seen_at: last_seen_at.max(at) },
            Self::Unreachable { last_seen_at, .. } if at <= last_seen_at => self,
            Self::Unreachable { .. } => Self::Online { last_seen_at: at },
        }
    }

    /// Nothing has been heard within `window`: an online host becomes unreachable, any other stays as it is.
    #[must_use]
    pub fn silence(self, now: Timestamp, window: Duration) -> Self {
        match self {
            Self::Online { last_seen_at } if now.saturating_since(last_seen_at) > window => {
                Self::Unreachable { last_seen_at, since: now }
            }
            other => other,
        }
    }
}

/// What the wire calls the state of a host: archived, else its presence. Derived, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Created, and never heard of.
    Pending,
    /// Heard within the liveness window.
    Online,
    /// Silent for longer.
    Unreachable,
    /// Out of service.
    Archived,
}

impl Status {
    /// Derives it.
    pub const fn of(lifecycle: Lifecycle, presence: Presence) -> Self {
        match lifecycle {
            Lifecycle::Archived { .. } => Self::Archived,
            Lifecycle::Live => presence.status(),
        }
    }

    /// The name on the wire and in stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Online => "online",
            Self::Unreachable => "unreachable",
            Self::Archived => "archived",
        }
    }
}
