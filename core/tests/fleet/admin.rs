//! Administration: creating, listing and archiving hosts, and the policy over all of it.

use std::collections::BTreeMap;

use enlist_core::conformance::sample::{at, tenant};
use enlist_core::event::EventBody;
use enlist_core::fleet::{
    AdminError, ContainerFilter, EventFilter, HostFilter, SeriesRange, TelemetryRange, TokenFilter,
};
use enlist_core::host::{HostKind, HostName, Status, Tag};
use enlist_core::lineage::Overlap;
use enlist_core::policy::{Action, Actor, Decision, DefaultPolicy, Policy, Resource, Role, Scope};
use enlist_core::store::Revision;
use enlist_core::telemetry::Step;
use enlist_core::wire::{
    CreateHost, HostBody, IssueAgentToken, MintInstallToken, PatchHost, Problem, RotateAgentToken,
};
use enlist_core::{ActorId, HostId};

use crate::world::World;

fn named(name: &str, kind: HostKind) -> CreateHost {
    CreateHost::new(HostName::new(name).unwrap(), kind)
}

fn actor(tenant_name: &str, role: Role) -> Actor {
    Actor::member(ActorId::new("someone").unwrap(), tenant(tenant_name), role)
}

async fn names(world: &World, actor: &Actor, filter: HostFilter) -> Vec<String> {
    let page = world.fleet.admin(actor).list_hosts(filter).await.unwrap();
    page.items.into_iter().map(|host: HostBody| host.name.to_string()).collect()
}

#[tokio::test]
async fn creating_a_host_is_one_commit_with_its_token_and_its_events() {
    let world = World::new();
    let created = world.fleet.admin(&world.root).create_host(named("a", HostKind::Byoc)).await.unwrap();
    assert_eq!((created.host.status, created.host.revision), (Status::Pending, 1));
    assert_eq!((created.host.created_at, &created.host.tenant_id), (at(0), &tenant("acme")));
    let read = world.fleet.admin(&world.root).host(created.host.id).await.unwrap();
    assert_eq!(read, created.host);
    assert_eq!(world.event_types().await, ["host.created", "install_token.minted"]);
    let events = world.events().await;
    assert!(events.iter().all(|event| event.actor == Some(world.root.id.clone())));
    let json = serde_json::to_value(&created).unwrap();
    assert_eq!(json["install_token"]["token"], created.install_token.unwrap().token.expose());
}

#[tokio::test]
async fn no_install_token_is_made_unless_it_is_asked_for() {
    let world = World::new();
    let request = CreateHost { mint_install_token: false, ..named("a", HostKind::Byoc) };
    let created = world.fleet.admin(&world.root).create_host(request).await.unwrap();
    assert!(created.install_token.is_none());
    assert_eq!(world.event_types().await, ["host.created"]);
}

#[tokio::test]
async fn a_clash_names_the_host_that_stands_in_the_way() {
    let world = World::new();
    let admin = world.fleet.admin(&world.root);
    let external_id = Some("i-1".parse().unwrap());
    let first = CreateHost { external_id: external_id.clone(), ..named("a", HostKind::Byoc) };
    let id = admin.create_host(first).await.unwrap().host.id;
    let problem = Problem::from(admin.create_host(named("a", HostKind::Byoc)).await.unwrap_err());
    assert_eq!((problem.status, problem.code.as_str(), problem.host_id), (409, "name_taken", Some(id)));
    let second = CreateHost { external_id, ..named("b", HostKind::Byoc) };
    let problem = Problem::from(admin.create_host(second).await.unwrap_err());
    assert_eq!((problem.code.as_str(), problem.host_id), ("external_id_taken", Some(id)));
    assert_eq!(world.event_types().await.len(), 2);
}

/// That there is one is clear from the refusal; which one is not everybody's business.
#[tokio::test]
async fn a_clash_does_not_name_a_host_that_the_policy_hides() {
    struct CreateOnly;
    impl Policy for CreateOnly {
        fn authorize(&self, _: &Actor, action: Action, _: Resource<'_>) -> Decision {
            if action.is_read() { Decision::Hide } else { Decision::Allow }
        }
        fn scope(&self, _: &Actor, _: Action) -> Scope {
            Scope::Tenants(BTreeMap::new())
        }
    }
    let world = World::with(enlist_core::MemoryStore::new(), |builder| builder.policy(CreateOnly));
    world.create("a").await;
    let error = world.fleet.admin(&world.root).create_host(named("a", HostKind::Byoc)).await.unwrap_err();
    let problem = Problem::from(error);
    assert_eq!((problem.code.as_str(), problem.host_id), ("name_taken", None));
}

#[tokio::test]
async fn the_tenant_is_the_named_one_else_the_actors_only_one_else_the_default() {
    let world = World::new();
    let owner = actor("theirs", Role::Owner);
    let created = world.fleet.admin(&owner).create_host(named("a", HostKind::Byoc)).await.unwrap();
    assert_eq!(created.host.tenant_id, tenant("theirs"));
    let created = world.fleet.admin(&world.root).create_host(named("a", HostKind::Byoc)).await.unwrap();
    assert_eq!(created.host.tenant_id, tenant("acme"));
    let request = CreateHost { tenant_id: Some(tenant("named")), ..named("a", HostKind::Byoc) };
    let created = world.fleet.admin(&world.root).create_host(request).await.unwrap();
    assert_eq!(created.host.tenant_id, tenant("named"));
    let (fleet, _drivers) = enlist_core::Fleet::builder(enlist_core::MemoryStore::new()).build().unwrap();
    let error = fleet.admin(&world.root).create_host(named("a", HostKind::Byoc)).await.unwrap_err();
    assert_eq!(Problem::from(error).field.as_deref(), Some("/tenant_id"));
}

/// A default that is not theirs is not what they mean; it would only be "not found" to them.
#[tokio::test]
async fn who_has_several_tenants_says_which() {
    let world = World::new();
    let of = |tenants: &[&str]| Actor {
        grants: tenants.iter().map(|name| (tenant(name), Role::Owner)).collect(),
        ..actor("none of them", Role::Owner)
    };
    for (tenants, made) in
        [(&["a"][..], Ok("a")), (&["a", "b"], Err((422, "/tenant_id"))), (&["a", "b", "acme"], Ok("acme"))]
    {
        let actor = of(tenants);
        let created = world.fleet.admin(&actor).create_host(named("web", HostKind::Byoc)).await;
        let created = created.map(|created| created.host.tenant_id).map_err(Problem::from);
        let created = created.map_err(|problem| (problem.status, problem.field.unwrap_or_default().to_string()));
        assert_eq!(created, made.map(tenant).map_err(|(status, field)| (status, field.to_owned())), "{tenants:?}");
    }
}

#[tokio::test]
async fn archiving_is_idempotent_and_cuts_everything_off_in_one_commit() {
    let world = World::new();
    let (host_id, token) = world.enrolled("a").await;
    let identity = world.fleet.authenticate(token.expose()).await.unwrap();
    let admin = world.fleet.admin(&world.root);
    let issued = admin.issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap();
    let minted = admin.mint_install_token(host_id, MintInstallToken::default()).await.unwrap();
    let archived = admin.archive_host(host_id).await.unwrap();
    assert_eq!((archived.status, archived.archived_at), (Status::Archived, Some(at(0))));
    let events = world.events().await;
    let tail: Vec<_> = events.iter().rev().take(2).map(|event| &event.body).collect();
    let mut revoked = vec![identity.token_id(), issued.id];
    revoked.sort();
    assert_eq!(tail[0], &EventBody::InstallTokenRevoked { install_token_id: minted.id });
    match tail[1] {
        EventBody::HostArchived { revoked: listed } => {
            let mut listed = listed.clone();
            listed.sort();
            assert_eq!(listed, revoked);
        }
        other => panic!("{other:?}"),
    }
    world.clock.advance(std::time::Duration::from_secs(60));
    let again = admin.archive_host(host_id).await.unwrap();
    assert_eq!(again, archived);
    assert_eq!(world.events().await.len(), events.len());
    for error in [
        admin.mint_install_token(host_id, MintInstallToken::default()).await.map(|_| ()).unwrap_err(),
        admin.issue_agent_token(host_id, IssueAgentToken::default()).await.map(|_| ()).unwrap_err(),
    ] {
        let problem = Problem::from(error);
        assert_eq!((problem.status, problem.code.as_str()), (409, "host_archived"));
    }
    admin.create_host(named("a", HostKind::Byoc)).await.expect("its name is free again");
}

#[tokio::test]
async fn hosts_are_listed_in_pages_and_filtered() {
    let world = World::new();
    for n in 0..5 {
        world.create(&format!("web-{n}")).await;
    }
    let (gone, _) = world.create("db").await;
    world.fleet.admin(&world.root).archive_host(gone).await.unwrap();
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let filter = HostFilter { limit: Some(2), cursor, ..HostFilter::default() };
        let page = world.fleet.admin(&world.root).list_hosts(filter).await.unwrap();
        seen.extend(page.items.into_iter().map(|host| host.id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 6);
    let q = HostFilter { q: Some("web-".into()), limit: Some(0), ..HostFilter::default() };
    assert_eq!(names(&world, &world.root, q).await.len(), 1, "a page has at least one row");
    let archived = HostFilter { status: Some(Status::Archived), ..HostFilter::default() };
    assert_eq!(names(&world, &world.root, archived).await, ["db"]);
    let filter = HostFilter { cursor: Some("nonsense".into()), ..HostFilter::default() };
    let error = world.fleet.admin(&world.root).list_hosts(filter).await.unwrap_err();
    assert_eq!(Problem::from(error).status, 400);
}

#[tokio::test]
async fn fields_out_of_bounds_are_refused_by_name() {
    let world = World::new();
    let admin = world.fleet.admin(&world.root);
    let tags = (0..65).map(|n| format!("t{n}").parse().unwrap()).collect();
    let request = CreateHost { tags, ..named("a", HostKind::Byoc) };
    let error = admin.create_host(request).await.unwrap_err();
    assert_eq!(Problem::from(error).field.as_deref(), Some("/tags"));
    let (host_id, _) = world.create("a").await;
    for expires_at in [at(0), at(31 * 24 * 3600)] {
        let request = MintInstallToken { expires_at: Some(expires_at), ..MintInstallToken::default() };
        let error = admin.mint_install_token(host_id, request).await.unwrap_err();
        assert_eq!(Problem::from(error).field.as_deref(), Some("/expires_at"));
    }
    let request = IssueAgentToken { expires_at: Some(at(0)), ..IssueAgentToken::default() };
    let error = admin.issue_agent_token(host_id, request).await.unwrap_err();
    assert_eq!(Problem::from(error).field.as_deref(), Some("/expires_at"));
}

/// What each verb answers to this actor, as a status.
async fn every_verb(
    world: &World,
    actor: &Actor,
    host_id: HostId,
    tenant_name: &str,
    kind: HostKind,
) -> Vec<(Action, u16)> {
    let admin = world.fleet.admin(actor);
    let status = |result: Result<(), AdminError>| result.map_or_else(|error| Problem::from(error).status, |()| 200);
    let token_id = {
        let root = world.fleet.admin(&world.root);
        root.issue_agent_token(host_id, IssueAgentToken::default()).await.unwrap().id
    };
    let install_token_id = {
        let root = world.fleet.admin(&world.root);
        root.mint_install_token(host_id, MintInstallToken::default()).await.unwrap().id
    };
    let revision = Revision::new(world.fleet.admin(&world.root).host(host_id).await.unwrap().revision);
    let patch = PatchHost { provider: Some("p".parse().ok()), ..PatchHost::default() };
    let tag: Tag = "t".parse().unwrap();
    let cut_off = RotateAgentToken { overlap: Overlap::None };
    let fresh = format!("new-{}", token_id);
    let create = CreateHost { tenant_id: Some(tenant(tenant_name)), ..named(&fresh, kind) };
    let hour = SeriesRange::new(Step::MAX);
    let answers = vec![
        (Action::CreateHost, status(admin.create_host(create).await.map(|_| ()))),
        (Action::ReadHost, status(admin.host(host_id).await.map(|_| ()))),
        (Action::ReadHost, status(admin.host_tags(host_id).await.map(|_| ()))),
        (Action::ReadHost, status(admin.delete_preview(host_id).await.map(|_| ()))),
        (Action::EditHost, status(admin.edit_host(host_id, revision, patch).await.map(|_| ()))),
        (Action::EditHost, status(admin.tag_host(host_id, tag.clone()).await)),
        (Action::EditHost, status(admin.untag_host(host_id, tag).await)),
        (Action::CordonHost, status(admin.cordon_host(host_id).await.map(|_| ()))),
        (Action::CordonHost, status(admin.uncordon_host(host_id).await.map(|_| ()))),
        (
            Action::ReadHost,
            status(
                admin
                    .list_containers(host_id, ContainerFilter { removed: true, ..ContainerFilter::default() })
                    .await
                    .map(|_| ()),
            ),
        ),
        (Action::ReadHost, status(admin.list_telemetry(host_id, TelemetryRange::default()).await.map(|_| ()))),
        (Action::ReadHost, status(admin.latest_telemetry(host_id).await.map(|_| ()))),
        (Action::ReadHost, status(admin.telemetry_series(host_id, hour.clone()).await.map(|_| ()))),
        (Action::ReadHost, status(admin.container_series(host_id, "c", hour).await.map(|_| ()))),
        (
            Action::MintInstallToken,
            status(admin.mint_install_token(host_id, MintInstallToken::default()).await.map(|_| ())),
        ),
        (
            Action::IssueAgentToken,
            status(admin.issue_agent_token(host_id, IssueAgentToken::default()).await.map(|_| ())),
        ),
        (Action::ReadTokens, status(admin.list_agent_tokens(host_id, TokenFilter::default()).await.map(|_| ()))),
        (Action::ReadTokens, status(admin.list_install_tokens(host_id, TokenFilter::default()).await.map(|_| ()))),
        (Action::RevokeInstallToken, status(admin.revoke_install_token(install_token_id).await)),
        (Action::RotateAgentToken, status(admin.rotate_agent_token(host_id, token_id, cut_off).await.map(|_| ()))),
        (Action::RevokeAgentToken, status(admin.revoke_agent_token(host_id, token_id).await)),
        (Action::RevokeAgentToken, status(admin.revoke_agent_tokens(host_id).await.map(|_| ()))),
        (Action::ArchiveHost, status(admin.archive_host(host_id).await.map(|_| ()))),
        (Action::DeleteHost, status(admin.delete_host(host_id, false).await)),
    ];
    // Lists and placement answer everybody, with what they may see or use; every other action must have been asked above.
    for action in Action::ALL.iter().filter(|action| !matches!(action, Action::ReadEvents | Action::PlaceWork)) {
        assert!(answers.iter().any(|(asked, _)| asked == action), "{action:?} is not walked");
    }
    answers
}

#[tokio::test]
async fn every_verb_asks_the_policy() {
    for (role, in_tenant, kind, read, change) in [
        (Some(Role::Owner), true, HostKind::Byoc, 200, 200),
        (Some(Role::Admin), true, HostKind::Byoc, 200, 200),
        (Some(Role::Member), true, HostKind::Byoc, 200, 403),
        (Some(Role::Owner), true, HostKind::Managed, 200, 403),
        (Some(Role::Owner), false, HostKind::Byoc, 404, 404),
        (Some(Role::Owner), false, HostKind::Managed, 404, 404),
        (None, false, HostKind::Managed, 200, 200),
    ] {
        let world = World::new();
        let request = named("a", kind);
        let host_id = world.fleet.admin(&world.root).create_host(request).await.unwrap().host.id;
        let actor = match role {
            Some(role) => actor(if in_tenant { "acme" } else { "other" }, role),
            None => world.root.clone(),
        };
        let before = world.events().await.len();
        for (action, status) in every_verb(&world, &actor, host_id, "acme", kind).await {
            let expected = if action.is_read() { read } else { change };
            assert_eq!(status, expected, "{action:?} by {role:?} on {kind:?}");
        }
        if change != 200 {
            // The operator's own, who issued the token to be revoked and minted one in place of another.
            assert_eq!(world.events().await.len(), before + 3);
        }
    }
}

#[tokio::test]
async fn lists_show_what_the_policy_shows() {
    let world = World::new();
    world.create("ours").await;
    let other = CreateHost { tenant_id: Some(tenant("other")), ..named("theirs", HostKind::Byoc) };
    world.fleet.admin(&world.root).create_host(other).await.unwrap();
    let member = actor("acme", Role::Member);
    assert_eq!(names(&world, &member, HostFilter::default()).await, ["ours"]);
    let asking = HostFilter { tenant_id: Some(tenant("other")), ..HostFilter::default() };
    assert_eq!(names(&world, &member, asking).await, [""; 0]);
    assert_eq!(names(&world, &actor("third", Role::Owner), HostFilter::default()).await, [""; 0]);
    let events = world.fleet.admin(&member).list_events(EventFilter::default()).await.unwrap().items;
    assert!(events.len() == 2 && events.iter().all(|event| event.tenant_id == tenant("acme")));
    assert_eq!(world.events().await.len(), 4);
}

/// A list shows a row exactly if reading it alone is allowed.
#[test]
fn the_default_policys_scope_agrees_with_its_answers() {
    let mut several = actor("acme", Role::Member);
    several.grants.insert(tenant("other"), Role::Owner);
    let nobody = Actor { grants: BTreeMap::new(), ..several.clone() };
    let operator = Actor { operator: true, ..nobody.clone() };
    for actor in [actor("acme", Role::Admin), several, nobody, operator] {
        for action in [Action::ReadHost, Action::ReadEvents] {
            let scope: Scope = DefaultPolicy.scope(&actor, action);
            for tenant_id in ["acme", "other", "third"].map(tenant) {
                for kind in [HostKind::Byoc, HostKind::Managed] {
                    let resource = Resource { tenant_id: &tenant_id, kind };
                    let allowed = DefaultPolicy.authorize(&actor, action, resource) == Decision::Allow;
                    assert_eq!(scope.shows(&tenant_id, Some(kind)), allowed, "{actor:?} {action:?} {tenant_id:?}");
                }
            }
        }
    }
}
