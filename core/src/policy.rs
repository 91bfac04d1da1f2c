//! Who may do what: a pure, synchronous question that every administrative verb asks in one place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::HostKind;
use crate::id::{ActorId, TenantId};

/// Who asks for an administrative act. Made by the embedding service, after it has authenticated its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// As the embedding service names them.
    pub id: ActorId,
    /// Whether they run the service itself.
    pub operator: bool,
    /// What they are in which tenant.
    pub grants: BTreeMap<TenantId, Role>,
}

impl Actor {
    /// Somebody who runs the service.
    pub fn operator(id: ActorId) -> Self {
        Self { id, operator: true, grants: BTreeMap::new() }
    }

    /// A user with a role in one tenant.
    pub fn member(id: ActorId, tenant_id: TenantId, role: Role) -> Self {
        Self { id, operator: false, grants: BTreeMap::from([(tenant_id, role)]) }
    }

    /// The tenant that is meant when none is named: the only one that they belong to.
    pub fn only_tenant(&self) -> Option<&TenantId> {
        let mut tenants = self.grants.keys();
        tenants.next().filter(|_| tenants.next().is_none())
    }
}

/// What somebody is in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Member,
    /// Runs the tenant's own hosts.
    Admin,
    /// Owns the tenant.
    Owner,
}

/// Declares the actions from one list, each with whether it reads or changes: an action that is added stands in
/// [`Action::ALL`], and with that in every test that walks it.
macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident: $effect:ident;)*) => {
        /// Every administrative act there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// All of them, for tests that must not forget one.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            const fn effect(self) -> Effect {
                match self {
                    $(Self::$name => Effect::$effect,)*
                }
            }
        }
    };
}

/// What an action does.
#[derive(Clone, Copy)]
enum Effect {
    Reads,
    Changes,
}

actions! {
    /// Create a host.
    CreateHost: Changes;
    /// Read hosts, their containers and telemetry.
    ReadHost: Reads;
    /// Change what is said of a host: its name, address, tags, labels and the like.
    EditHost: Changes;
    /// Keep new work away from a host, or let it come again.
    CordonHost: Changes;
    /// Place new work on a host.
    PlaceWork: Changes;
    /// Take a host out of service.
    ArchiveHost: Changes;
    /// Delete a host, its tokens and all that it reported.
    DeleteHost: Changes;
    /// List install tokens and agent tokens, never their secrets.
    ReadTokens: Reads;
    /// Make an install token.
    MintInstallToken: Changes;
    /// Take an install token back.
    RevokeInstallToken: Changes;
    /// Issue an agent token.
    IssueAgentToken: Changes;
    /// Make a successor of an agent token.
    RotateAgentToken: Changes;
    /// Revoke an agent token, or all of a host.
    RevokeAgentToken: Changes;
    /// Read events.
    ReadEvents: Reads;
}

impl Action {
    /// Whether it changes nothing.
    pub const fn is_read(self) -> bool {
        matches!(self.effect(), Effect::Reads)
    }
}

/// What an act is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Whose it is.
    pub tenant_id: &'a TenantId,
    /// The kind of the host concerned.
    pub kind: HostKind,
}

/// A policy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// They may know of it, but not do this: 403.
    Forbid,
    /// For them it does not exist: 404.
    Hide,
}

/// Which rows a list may show: what stores apply in their query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every tenant's.
    All,
    /// These kinds of these tenants. An empty map shows nothing.
    Tenants(BTreeMap<TenantId, Kinds>),
}

/// Kinds of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Managed ones and those that tenants brought.
    Both,
    /// One of the two.
    Only(HostKind),
}

impl Kinds {
    /// Whether it holds `kind`.
    pub fn contains(self, kind: HostKind) -> bool {
        match self {
            Self::Both => true,
            Self::Only(only) => only == kind,
        }
    }
}

impl Scope {
    /// Whether a row of this tenant and kind may be shown. A row that concerns no host (`None`) follows its tenant.
    pub fn shows(&self, tenant_id: &TenantId, kind: Option<HostKind>) -> bool {
        match self {
            Self::All => true,
            Self::Tenants(tenants) => {
                tenants.get(tenant_id).is_some_and(|kinds| kind.is_none_or(|kind| kinds.contains(kind)))
            }
        }
    }
}

/// Who may do what. Pure: no clock, no I/O; what it needs to know stands in the actor.
pub trait Policy: Send + Sync + 'static {
    /// May this actor do this to that?
    ///
    /// To ensure correctness, a resource of a tenant that the actor has no part in is hidden, never forbidden: that
    /// it exists is none of their business.
    fn authorize(&self, actor: &Actor, action: Action, resource: Resource<'_>) -> Decision;

    /// Which rows may this actor see in a list? Must agree with `authorize` on every single row.
    fn scope(&self, actor: &Actor, action: Action) -> Scope;
}

/// The default: operators do everything; managed hosts are theirs alone to change; a tenant's own hosts are also its
/// owners' and admins'; members read.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultPolicy;

impl Policy for DefaultPolicy {
    fn authorize(&self, actor: &Actor, action: Action, resource: Resource<'_>) -> Decision {
        if actor.operator {
            return Decision::Allow;
        }
        let Some(role) = actor.grants.get(resource.tenant_id) else { return Decision::Hide };
        let runs_it = resource.kind == HostKind::Byoc && *role >= Role::Admin;
        if action.is_read() || runs_it { Decision::Allow } else { Decision::Forbid }
    }

    fn scope(&self, actor: &Actor, action: Action) -> Scope {
        if actor.operator {
            return Scope::All;
        }
        let kinds = |role: &Role| match role {
            _ if action.is_read() => Some(Kinds::Both),
            Role::Admin | Role::Owner => Some(Kinds::Only(HostKind::Byoc)),
            Role::Member => None,
        };
        Scope::Tenants(actor.grants.iter().filter_map(|(id, role)| Some((id.clone(), kinds(role)?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule of each action, by hand. An action that is added does not compile before it stands here.
    const fn changes(action: Action) -> bool {
        match action {
            Action::ReadHost | Action::ReadTokens | Action::ReadEvents => false,
            Action::CreateHost
            | Action::EditHost
            | Action::CordonHost
            | Action::PlaceWork
            | Action::ArchiveHost
            | Action::DeleteHost
            | Action::MintInstallToken
            | Action::RevokeInstallToken
            | Action::IssueAgentToken
            | Action::RotateAgentToken
            | Action::RevokeAgentToken => true,
        }
    }

    fn decide(actor: &Actor, action: Action, kind: HostKind) -> Decision {
        let tenant_id = TenantId::new("acme").unwrap();
        DefaultPolicy.authorize(actor, action, Resource { tenant_id: &tenant_id, kind })
    }

    #[test]
    fn every_action_of_every_role_on_every_kind_is_decided_as_the_design_says() {
        use Decision::{Allow, Forbid, Hide};
        use HostKind::{Byoc, Managed};
        let id = || ActorId::new("someone").unwrap();
        let of = |tenant: &str, role| Actor::member(id(), TenantId::new(tenant).unwrap(), role);
        for &action in Action::ALL {
            for kind in [Byoc, Managed] {
                assert_eq!(decide(&Actor::operator(id()), action, kind), Allow, "{action:?}");
                for role in [Role::Member, Role::Admin, Role::Owner] {
                    let expected = match (changes(action), kind, role) {
                        (false, ..) | (true, Byoc, Role::Admin | Role::Owner) => Allow,
                        (true, Byoc, Role::Member) | (true, Managed, _) => Forbid,
                    };
                    assert_eq!(decide(&of("acme", role), action, kind), expected, "{action:?} {role:?} {kind:?}");
                    assert_eq!(decide(&of("elsewhere", role), action, kind), Hide, "{action:?} {role:?} {kind:?}");
                }
                // A list shows what the action is allowed on, and nothing else.
                for actor in
                    [Actor::operator(id()), of("acme", Role::Member), of("acme", Role::Admin), of("b", Role::Owner)]
                {
                    let shown = DefaultPolicy.scope(&actor, action).shows(&TenantId::new("acme").unwrap(), Some(kind));
                    assert_eq!(shown, decide(&actor, action, kind) == Allow, "{action:?} {actor:?} {kind:?}");
                }
                let nobody = Actor { grants: BTreeMap::new(), ..of("acme", Role::Owner) };
                assert_eq!(decide(&nobody, action, kind), Hide, "{action:?}");
            }
            assert_eq!(action.is_read(), !changes(action), "{action:?}");
        }
    }

    #[test]
    fn every_action_is_listed_once() {
        let listed: std::collections::BTreeSet<_> = Action::ALL.iter().collect();
        assert_eq!(listed.len(), Action::ALL.len());
    }
}
