//! Install tokens, as administrators make, list and revoke them.

use crate::agent_token::CredentialKind;
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::event::EventBody;
use crate::fleet::agent_token::{Change, TokenFilter};
use crate::fleet::error::AdminError;
use crate::fleet::{Admin, Inner, page_body, page_size, parse_cursor};
use crate::host::{Host, HostKind};
use crate::id::{ActorId, HostId, InstallTokenId, TenantId};
use crate::install_token::{Binding, InstallToken, InstallTokenState, MAX_LIFE};
use crate::policy::{Action, Resource};
use crate::secret::PlainToken;
use crate::store::{
    Aggregate, Commit, Expected, HostAggregate, HostWrite, InstallTokenQuery, Key, Presented, StoreErrorKind, Write,
};
use crate::wire::{InstallTokenBody, MintInstallToken, MintedInstallToken, PageBody};

impl Admin<'_> {
    /// Makes an install token for a host; an earlier one that was not exchanged is revoked.
    ///
    /// # Errors
    /// When the host is not found or archived, the policy forbids it, or `expires_at` is out of bounds.
    pub async fn mint_install_token(
        &self,
        host_id: HostId,
        request: MintInstallToken,
    ) -> Result<MintedInstallToken, AdminError> {
        let draft = Minting::new(self.fleet, &request)?;
        let id = self
            .change(Action::MintInstallToken, &Key::Host(host_id), |aggregate, now| {
                let HostAggregate { revision, host, install_token, .. } = aggregate;
                if host.is_archived() {
                    return Err(AdminError::HostArchived);
                }
                let mut events = Vec::new();
                let earlier = install_token.and_then(|token| token.revoke(now).ok());
                events.extend(
                    earlier.as_ref().map(|token| EventBody::InstallTokenRevoked { install_token_id: token.id }),
                );
                let minted = draft.token(&host, &self.actor.id, now, self.fleet);
                events.push(minted_event(&minted));
                let id = minted.id;
                let write = HostWrite {
                    install_tokens: earlier.into_iter().chain([minted]).collect(),
                    ..HostWrite::new(Expected::Revision(revision), Host { updated_at: now, ..host })
                };
                Ok(Change { write: Some((write, events)), cut_off: Vec::new(), result: id })
            })
            .await?;
        Ok(draft.reveal(id))
    }

    /// A page of a host's install tokens, spent ones included, in the order of their ids, which is about that of their
    /// making. Never a secret.
    ///
    /// # Errors
    /// When the host is not found, the policy forbids it, or the cursor is none of ours.
    pub async fn list_install_tokens(
        &self,
        host_id: HostId,
        filter: TokenFilter,
    ) -> Result<PageBody<InstallTokenBody>, AdminError> {
        let after = parse_cursor(filter.cursor.as_deref())?;
        self.find(Action::ReadTokens, host_id).await?;
        self.page_of_install_tokens(InstallTokenQuery { owner: host_id.into(), after, limit: page_size(filter.limit) })
            .await
    }

    /// Makes an install token that is bound to a tenant: its exchange makes a bring-your-own host, or enrols one anew that
    /// such an exchange has made. Those made before stay as they are.
    ///
    /// # Errors
    /// When the policy hides the tenant or forbids it, or `expires_at` is out of bounds.
    pub async fn mint_tenant_install_token(
        &self,
        tenant_id: TenantId,
        request: MintInstallToken,
    ) -> Result<MintedInstallToken, AdminError> {
        self.authorize(Action::MintInstallToken, brought_by(&tenant_id))?;
        let draft = Minting::new(self.fleet, &request)?;
        let now = self.fleet.now();
        let token = draft.token_of(tenant_id, Binding::Tenant, &self.actor.id, now, self.fleet);
        let id = token.id;
        let event = self.fleet.tenant_event(&token.tenant_id, None, Some(&self.actor.id), now, minted_event(&token));
        let write = Write::TenantInstallToken { expected: Expected::Absent, token };
        self.fleet.store.commit(Commit::of(write, vec![event])).await?;
        Ok(draft.reveal(id))
    }

    /// A page of the install tokens that are bound to a tenant, spent ones included, in the order of their ids, which is
    /// about that of their making. Never a secret.
    ///
    /// # Errors
    /// When the policy hides the tenant, or the cursor is none of ours.
    pub async fn list_tenant_install_tokens(
        &self,
        tenant_id: TenantId,
        filter: TokenFilter,
    ) -> Result<PageBody<InstallTokenBody>, AdminError> {
        let after = parse_cursor(filter.cursor.as_deref())?;
        self.authorize(Action::ReadTokens, brought_by(&tenant_id))?;
        self.page_of_install_tokens(InstallTokenQuery {
            owner: tenant_id.into(),
            after,
            limit: page_size(filter.limit),
        })
        .await
    }

    async fn page_of_install_tokens(&self, query: InstallTokenQuery) -> Result<PageBody<InstallTokenBody>, AdminError> {
        let page = self.fleet.store.list_install_tokens(&query).await?;
        let now = self.fleet.now();
        Ok(page_body(page, |token| token.id.to_string(), |token| InstallTokenBody::of(token, now)))
    }

    /// Takes an install token back: it can never be exchanged. Revoking it again changes nothing.
    ///
    /// # Errors
    /// When there is no such token, the policy forbids it, or it was exchanged before.
    pub async fn revoke_install_token(&self, token_id: InstallTokenId) -> Result<(), AdminError> {
        for _ in 0..Inner::ATTEMPTS {
            let now = self.fleet.now();
            let loaded = self.fleet.store.load(&Key::InstallTokenId(token_id)).await?.ok_or(AdminError::NotFound)?;
            let (token, host) = match loaded {
                Aggregate::TenantInstallToken(aggregate) => (aggregate.token, Err(aggregate.revision)),
                Aggregate::Host(aggregate) => {
                    let HostAggregate { revision, host, presented, .. } = *aggregate;
                    let Presented::InstallToken(token) = presented else { return Err(AdminError::NotFound) };
                    (token, Ok((revision, host)))
                }
            };
            let of_tenant = brought_by(&token.tenant_id);
            let kind = host.as_ref().map_or(of_tenant.kind, |(_, host)| host.kind);
            self.authorize(Action::RevokeInstallToken, Resource { kind, ..of_tenant })?;
            match token.state {
                InstallTokenState::Issued => {}
                InstallTokenState::Revoked { .. } => return Ok(()),
                InstallTokenState::Consumed { .. } => return Err(AdminError::InstallTokenUsed),
            }
            let Ok(revoked) = token.revoke(now) else { return Err(AdminError::InstallTokenUsed) };
            let body = EventBody::InstallTokenRevoked { install_token_id: token_id };
            let about = host.as_ref().ok().map(|(_, host)| host);
            let event = self.fleet.tenant_event(&revoked.tenant_id, about, Some(&self.actor.id), now, body);
            let write = match host {
                Ok((revision, host)) => Write::from(HostWrite {
                    install_tokens: vec![revoked],
                    ..HostWrite::new(Expected::Revision(revision), Host { updated_at: now, ..host })
                }),
                Err(revision) => Write::TenantInstallToken { expected: Expected::Revision(revision), token: revoked },
            };
            match self.fleet.store.commit(Commit::of(write, vec![event])).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AdminError::Conflict)
    }
}

/// What a policy is asked about an install token of a tenant: it makes hosts that the tenant brings.
const fn brought_by(tenant_id: &TenantId) -> Resource<'_> {
    Resource { tenant_id, kind: HostKind::Byoc }
}

/// An install token before it is known which host it is for: its secret is drawn once, however often a commit is tried.
pub(super) struct Minting {
    plain: PlainToken,
    credential_kind: CredentialKind,
    expires_at: Timestamp,
}

impl Minting {
    pub(super) fn new(fleet: &Inner, request: &MintInstallToken) -> Result<Self, AdminError> {
        let now = fleet.now();
        let expires_at = request.expires_at.unwrap_or_else(|| now.saturating_add(fleet.limits.install_token_life));
        if expires_at <= now || expires_at > now.saturating_add(MAX_LIFE) {
            return Err(FieldError::invalid("/expires_at", "within the next 30 days").into());
        }
        Ok(Self {
            plain: PlainToken::generate(fleet.prefixes.install, &*fleet.entropy),
            credential_kind: request.credential_kind.unwrap_or(CredentialKind::Bearer),
            expires_at,
        })
    }

    pub(super) fn token(&self, host: &Host, by: &ActorId, now: Timestamp, fleet: &Inner) -> InstallToken {
        self.token_of(host.tenant_id.clone(), Binding::Host(host.id), by, now, fleet)
    }

    fn token_of(
        &self,
        tenant_id: TenantId,
        binding: Binding,
        by: &ActorId,
        now: Timestamp,
        fleet: &Inner,
    ) -> InstallToken {
        InstallToken {
            id: InstallTokenId::generate(now, &*fleet.entropy),
            tenant_id,
            binding,
            hash: self.plain.hash(),
            credential_kind: self.credential_kind,
            state: InstallTokenState::Issued,
            created_by: by.clone(),
            created_at: now,
            expires_at: self.expires_at,
        }
    }

    pub(super) fn reveal(self, id: InstallTokenId) -> MintedInstallToken {
        MintedInstallToken { id, token: self.plain, expires_at: self.expires_at }
    }
}

pub(super) const fn minted_event(token: &InstallToken) -> EventBody {
    EventBody::InstallTokenMinted {
        install_token_id: token.id,
        credential_kind: token.credential_kind,
        expires_at: token.expires_at,
    }
}
