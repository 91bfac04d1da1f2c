//! A policy's scope as a condition of a query: what stores with a query language make their statements from.

use crate::host::HostKind;
use crate::id::TenantId;
use crate::policy::{Kinds, Scope};

/// Which rows a list may show, sorted by what a query needs to say of them. [`Scope::shows`] is the rule; the conformance
/// suite holds what stores make of this to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Every row.
    Everything,
    /// One tenant's, of one kind or of any.
    Tenant(String, Option<HostKind>),
    /// Of some tenants both kinds, of others one. All three empty: nothing.
    Tenants {
        /// Both kinds of these.
        both: Vec<String>,
        /// Managed hosts of these.
        managed: Vec<String>,
        /// Hosts that these brought.
        byoc: Vec<String>,
    },
}

impl Visible {
    /// What `scope` shows of `tenant_id`, or of all tenants.
    pub fn of(scope: &Scope, tenant_id: Option<&TenantId>) -> Self {
        match (scope, tenant_id) {
            (Scope::All, None) => Self::Everything,
            (Scope::All, Some(tenant_id)) => Self::tenant(tenant_id, Kinds::Both),
            (Scope::Tenants(tenants), Some(tenant_id)) => match tenants.get(tenant_id) {
                Some(kinds) => Self::tenant(tenant_id, *kinds),
                None => Self::NOTHING,
            },
            (Scope::Tenants(tenants), None) => match (tenants.len(), tenants.first_key_value()) {
                (1, Some((tenant_id, kinds))) => Self::tenant(tenant_id, *kinds),
                _ => Self::tenants(tenants.iter().map(|(tenant_id, kinds)| (tenant_id, *kinds))),
            },
        }
    }

    /// Whether no row can be shown at all.
    pub fn is_nothing(&self) -> bool {
        *self == Self::NOTHING
    }

    const NOTHING: Self = Self::Tenants { both: Vec::new(), managed: Vec::new(), byoc: Vec::new() };

    fn tenant(tenant_id: &TenantId, kinds: Kinds) -> Self {
        let only = match kinds {
            Kinds::Both => None,
            Kinds::Only(kind) => Some(kind),
        };
        Self::Tenant(tenant_id.as_str().to_owned(), only)
    }

    fn tenants<'a>(tenants: impl Iterator<Item = (&'a TenantId, Kinds)>) -> Self {
        let (mut both, mut managed, mut byoc) = (Vec::new(), Vec::new(), Vec::new());
        for (tenant_id, kinds) in tenants {
            let list = match kinds {
                Kinds::Both => &mut both,
                Kinds::Only(HostKind::Managed) => &mut managed,
                Kinds::Only(HostKind::Byoc) => &mut byoc,
            };
            list.push(tenant_id.as_str().to_owned());
        }
        Self::Tenants { both, managed, byoc }
    }
}
