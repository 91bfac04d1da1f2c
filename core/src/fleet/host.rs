//! Hosts, as administrators see and change them.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::agent_token::RevokeReason;
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::event::EventBody;
use crate::fleet::agent_token::Change;
use crate::fleet::error::AdminError;
use crate::fleet::install_token::{Minting, minted_event};
use crate::fleet::{Admin, page_body, page_size, parse_cursor, query};
use crate::host::{CannotEdit, Host, HostField, HostKind, Lifecycle, Status, Tag, within_bounds};
use crate::id::{HostId, TenantId};
use crate::liveness::LivenessWindow;
use crate::policy::{Action, Resource};
use crate::store::{
    Commit, Expected, HostAggregate, HostLookup, HostPresence, HostQuery, HostRecord, HostWrite, Key, Revision,
    StoreError, StoreErrorKind,
};
use crate::wire::{CreateHost, CreatedHost, HostBody, MintInstallToken, PageBody, PatchHost};

/// Which hosts to list: the query of `GET /v1/hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFilter {
    /// Of this status only. Without one, archived hosts are listed as well.
    #[serde(default)]
    pub status: Option<Status>,
    /// With this tag only.
    #[serde(default)]
    pub tag: Option<Tag>,
    /// Of this kind only.
    #[serde(default)]
    pub kind: Option<HostKind>,
    /// Of this tenant only.
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    /// With a name that begins so.
    #[serde(default)]
    pub q: Option<String>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How many; 50 unless it is said, at least 1, 500 at most.
    #[serde(default, deserialize_with = "query::limit")]
    pub limit: Option<usize>,
}

impl Admin<'_> {
    /// Creates a host, and along with it an install token unless the request says otherwise.
    ///
    /// # Errors
    /// When a field is out of its bounds, the liveness window is too short for this fleet's limits, no tenant is named and none is implied, the policy forbids it, or the name
    /// or external id is taken: the error then names the host that has it, so that a create whose reply was lost can
    /// be found again.
    pub async fn create_host(&self, request: CreateHost) -> Result<CreatedHost, AdminError> {
        let tenant_id = self.tenant(request.tenant_id.as_ref())?;
        self.authorize(Action::CreateHost, Resource { tenant_id: &tenant_id, kind: request.kind })?;
        within_bounds(&request.tags, &request.labels)?;
        self.check_window(request.liveness_window_seconds)?;
        let draft = match request.mint_install_token {
            true => {
                self.authorize(Action::MintInstallToken, Resource { tenant_id: &tenant_id, kind: request.kind })?;
                let credential_kind = Some(request.credential_kind);
                Some(Minting::new(self.fleet, &MintInstallToken { credential_kind, expires_at: None })?)
            }
            false => None,
        };
        let now = self.fleet.now();
        let host = Host {
            id: HostId::generate(now, &*self.fleet.entropy),
            tenant_id,
            kind: request.kind,
            name: request.name,
            external_id: request.external_id,
            provider: request.provider,
            availability_zone: request.availability_zone,
            address: request.address,
            tags: request.tags,
            labels: request.labels,
            liveness_window: request.liveness_window_seconds,
            cordoned: false,
            lifecycle: Lifecycle::Live,
            generation: 0,
            enrolled_at: None,
            made_with: None,
            created_at: now,
            updated_at: now,
        };
        let minted = draft.as_ref().map(|draft| draft.token(&host, &self.actor.id, now, self.fleet));
        let bodies = [EventBody::HostCreated { name: host.name.clone(), kind: host.kind, install_token_id: None }];
        let events = bodies
            .into_iter()
            .chain(minted.as_ref().map(minted_event))
            .map(|body| self.fleet.host_event(&host, Some(&self.actor.id), now, body))
            .collect();
        let minted_id = minted.as_ref().map(|token| token.id);
        let write = HostWrite {
            install_tokens: minted.into_iter().collect(),
            ..HostWrite::new(Expected::Absent, host.clone())
        };
        if let Err(error) = self.fleet.store.commit(Commit::of(write, events)).await {
            return Err(self.clash(error, &host).await);
        }
        let record = HostRecord { revision: Expected::Absent.next(), host, presence: HostPresence::default() };
        let install_token = draft.zip(minted_id).map(|(draft, id)| draft.reveal(id));
        Ok(CreatedHost { host: host_body(record), install_token })
    }

    /// A host by its id.
    ///
    /// # Errors
    /// When it is not found, or hidden.
    pub async fn host(&self, host_id: HostId) -> Result<HostBody, AdminError> {
        self.find(Action::ReadHost, host_id).await.map(host_body)
    }

    /// A page of the hosts that the actor may see, in the order of their ids.
    ///
    /// # Errors
    /// When the cursor is none of ours.
    pub async fn list_hosts(&self, filter: HostFilter) -> Result<PageBody<HostBody>, AdminError> {
        let query = HostQuery {
            scope: self.fleet.policy.scope(self.actor, Action::ReadHost),
            status: filter.status,
            tag: filter.tag,
            kind: filter.kind,
            tenant_id: filter.tenant_id,
            name_prefix: filter.q,
            after: parse_cursor(filter.cursor.as_deref())?,
            limit: page_size(filter.limit),
        };
        let page = self.fleet.store.list_hosts(&query).await?;
        Ok(page_body(page, |record| record.host.id.to_string(), host_body))
    }

    /// Changes what is said of a host, if it still is at the revision `read`. A patch that changes nothing writes nothing.
    /// Another liveness window is told to its agents with their next reports, by other replicas within
    /// [`Limits::credential_cache_ttl`](crate::fleet::Limits::credential_cache_ttl); sweeps go by it at once.
    ///
    /// # Errors
    /// When it is not found, the policy forbids it, it is at another revision, it is archived, it would have too many tags
    /// or labels, the liveness window is too short for this fleet's limits, or the name or external id is taken: the error then names the host that has it.
    pub async fn edit_host(&self, host_id: HostId, read: Revision, patch: PatchHost) -> Result<HostBody, AdminError> {
        self.edit(host_id, |HostAggregate { revision, host, .. }, now| {
            if revision != read {
                return Err(AdminError::RevisionMismatch);
            }
            self.check_window(patch.liveness_window_seconds.flatten())?;
            Ok(host.edit(patch.clone(), now)?)
        })
        .await?;
        self.shown(host_id).await
    }

    /// Gives a host a tag. Idempotent.
    ///
    /// # Errors
    /// When it is not found, the policy forbids it, it is archived, or it has as many tags as it may.
    pub async fn tag_host(&self, host_id: HostId, tag: Tag) -> Result<(), AdminError> {
        self.edit(host_id, |HostAggregate { host, .. }, now| Ok(host.tag(tag.clone(), true, now)?)).await
    }

    /// Takes a tag from a host. Idempotent: one that it does not have changes nothing.
    ///
    /// # Errors
    /// When it is not found, the policy forbids it, or it is archived.
    pub async fn untag_host(&self, host_id: HostId, tag: Tag) -> Result<(), AdminError> {
        self.edit(host_id, |HostAggregate { host, .. }, now| Ok(host.tag(tag.clone(), false, now)?)).await
    }

    /// The tags of a host, in order: all of them, since there are at most 64.
    ///
    /// # Errors
    /// When it is not found, or hidden.
    pub async fn host_tags(&self, host_id: HostId) -> Result<PageBody<Tag>, AdminError> {
        let HostRecord { host, .. } = self.find(Action::ReadHost, host_id).await?;
        Ok(PageBody { items: host.tags.into_iter().collect(), next_cursor: None })
    }

    /// Keeps new work away from a host. What runs there goes on. Idempotent.
    ///
    /// # Errors
    /// When it is not found, the policy forbids it, or it is archived.
    pub async fn cordon_host(&self, host_id: HostId) -> Result<HostBody, AdminError> {
        self.set_cordoned(host_id, true).await
    }

    /// Lets new work come to a host again. Idempotent.
    ///
    /// # Errors
    /// When it is not found, the policy forbids it, or it is archived.
    pub async fn uncordon_host(&self, host_id: HostId) -> Result<HostBody, AdminError> {
        self.set_cordoned(host_id, false).await
    }

    /// Takes a host out of service and cuts off every token of its, in one commit. Idempotent.
    ///
    /// # Errors
    /// When it is not found, or the policy forbids it.
    pub async fn archive_host(&self, host_id: HostId) -> Result<HostBody, AdminError> {
        self.change(Action::ArchiveHost, &Key::Host(host_id), |aggregate, now| {
            let HostAggregate { revision, host, install_token, agent_tokens, .. } = aggregate;
            if host.is_archived() {
                // Whoever archived it may not have come to tell the cache, and its tokens are not listed any more.
                self.fleet.forget_all();
                return Ok(Change { write: None, cut_off: Vec::new(), result: () });
            }
            let revoked: Vec<_> = agent_tokens
                .into_iter()
                .filter_map(|token| token.revoke(RevokeReason::HostArchived, now).ok())
                .collect();
            let withdrawn = install_token.and_then(|token| token.revoke(now).ok());
            let mut events = vec![EventBody::HostArchived { revoked: revoked.iter().map(|token| token.id).collect() }];
            events
                .extend(withdrawn.as_ref().map(|token| EventBody::InstallTokenRevoked { install_token_id: token.id }));
            let cut_off = revoked.iter().map(|token| token.hash).collect();
            let write = HostWrite {
                install_tokens: withdrawn.into_iter().collect(),
                agent_tokens: revoked,
                ..HostWrite::new(Expected::Revision(revision), host.archive(now))
            };
            Ok(Change { write: Some((write, events)), cut_off, result: () })
        })
        .await?;
        self.shown(host_id).await
    }

    /// Commits what `edit` makes of a host, with the event of it, if that is another than before.
    async fn edit(
        &self,
        host_id: HostId,
        edit: impl Fn(HostAggregate, Timestamp) -> Result<(Host, BTreeSet<HostField>), AdminError>,
    ) -> Result<(), AdminError> {
        self.change(Action::EditHost, &Key::Host(host_id), |aggregate, now| {
            let revision = aggregate.revision;
            let hashes: Vec<_> = aggregate.agent_tokens.iter().map(|token| token.hash).collect();
            let (host, fields) = edit(aggregate, now)?;
            // Nothing is cut off: its agents are to be told of the new window with their next report.
            let cut_off = if fields.contains(&HostField::LivenessWindow) { hashes } else { Vec::new() };
            let write = HostWrite::new(Expected::Revision(revision), host);
            let write = (!fields.is_empty()).then(|| (write, vec![EventBody::HostUpdated { fields }]));
            Ok(Change { write, cut_off, result: () })
        })
        .await
    }

    async fn set_cordoned(&self, host_id: HostId, cordoned: bool) -> Result<HostBody, AdminError> {
        self.change(Action::CordonHost, &Key::Host(host_id), |HostAggregate { revision, host, .. }, now| {
            let was = host.cordoned;
            let host = host.cordon(cordoned, now).map_err(CannotEdit::from)?;
            let event = if cordoned { EventBody::HostCordoned {} } else { EventBody::HostUncordoned {} };
            let write = HostWrite::new(Expected::Revision(revision), host);
            let write = (was != cordoned).then(|| (write, vec![event]));
            Ok(Change { write, cut_off: Vec::new(), result: () })
        })
        .await?;
        self.shown(host_id).await
    }

    /// A host after it was changed. Not `self.host`: whoever may change it need not be allowed to read it.
    async fn shown(&self, host_id: HostId) -> Result<HostBody, AdminError> {
        let found = self.fleet.store.find_host(&HostLookup::Id(host_id)).await?;
        found.map(host_body).ok_or(AdminError::NotFound)
    }

    fn check_window(&self, own: Option<LivenessWindow>) -> Result<(), AdminError> {
        own.map_or(Ok(()), |own| Ok(self.fleet.limits.check_window(own)?))
    }

    /// The tenant that is meant: the one that is named, else the actor's only one, else the service's default, unless the
    /// actor belongs to others.
    fn tenant(&self, named: Option<&TenantId>) -> Result<TenantId, AdminError> {
        let is_theirs = |tenant: &&TenantId| self.actor.grants.is_empty() || self.actor.grants.contains_key(*tenant);
        named
            .or_else(|| self.actor.only_tenant())
            .or(self.fleet.default_tenant.as_ref().filter(is_theirs))
            .cloned()
            .ok_or_else(|| FieldError::invalid("/tenant_id", "required: you have no tenant, or several").into())
    }

    /// What a failed write of `host` comes from: if its name or its external id is taken, finds out which host has it.
    pub(super) async fn clash(&self, error: StoreError, host: &Host) -> AdminError {
        let lookup = match (error.kind(), &host.external_id) {
            (StoreErrorKind::NameTaken, _) => HostLookup::Name(host.tenant_id.clone(), host.name.clone()),
            (StoreErrorKind::ExternalIdTaken, Some(external_id)) => {
                HostLookup::ExternalId(host.tenant_id.clone(), external_id.clone())
            }
            _ => return error.into(),
        };
        let found = self.fleet.store.find_host(&lookup).await.ok().flatten();
        // Named only to those who may know of it.
        let other = found.filter(|record| {
            let resource = Resource { tenant_id: &record.host.tenant_id, kind: record.host.kind };
            self.authorize(Action::ReadHost, resource).is_ok()
        });
        let other = other.map(|record| record.host.id);
        match error.kind() {
            StoreErrorKind::NameTaken => AdminError::NameTaken(other),
            _ => AdminError::ExternalIdTaken(other),
        }
    }
}

pub(super) fn host_body(record: HostRecord) -> HostBody {
    let HostRecord { revision, host, presence } = record;
    HostBody {
        id: host.id,
        status: Status::of(host.lifecycle, presence.presence),
        tenant_id: host.tenant_id,
        external_id: host.external_id,
        name: host.name,
        kind: host.kind,
        cordoned: host.cordoned,
        provider: host.provider,
        availability_zone: host.availability_zone,
        address: host.address,
        facts: presence.facts,
        tags: host.tags,
        labels: host.labels,
        liveness_window_seconds: host.liveness_window,
        last_seen_at: presence.presence.last_seen_at(),
        enrolled_at: host.enrolled_at,
        archived_at: host.lifecycle.archived_at(),
        created_at: host.created_at,
        updated_at: host.updated_at,
        revision: revision.get(),
    }
}
