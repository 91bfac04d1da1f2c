//! What is asked of a fleet, as its administrators ask it.

use enlist_benches::Error;
use enlist_core::event::Position;
use enlist_core::fleet::{ContainerFilter, EventFilter, HostFilter, PlaceError};
use enlist_core::host::{HostKind, Status};
use enlist_core::placement::{Demand, LeastLoaded, PlaceRequest, RoundRobin, Scheduler};
use enlist_core::policy::{Actor, Role};
use enlist_core::{ActorId, TenantId};

use super::built::Built;
use super::silence::Silence;
use super::traits::{COMMON, CUT_OFF, HEARD, LARGE, MIDDLE, RARE, SMALL, UNCOMMON};

/// What is measured by one row of the table.
pub(super) struct Case {
    pub(super) what: String,
    /// Milliseconds that a median is to stay within.
    pub(super) target_ms: f64,
    pub(super) question: Question,
}

/// What is asked.
pub(super) enum Question {
    /// A page of hosts; the actor sees all of them unless somebody else asks.
    Hosts { filter: HostFilter, from: From, asker: Option<Actor> },
    /// The containers of a host.
    Containers,
    /// A page of events, of one host if it is said.
    Events { filter: EventFilter, from: From, of_a_host: bool },
    /// A host for work.
    Place { request: PlaceRequest, scheduler: Box<dyn Scheduler>, is_possible: bool },
    /// What no administrator asks.
    Sweep(Silence),
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// With the first.
    Start,
    /// Anywhere.
    Deep,
}

impl Question {
    /// Asks once: how many rows came. `call` counts them, so that they ask for different things.
    pub(super) async fn ask(&self, built: &Built, call: usize) -> Result<usize, Error> {
        match self {
            Self::Hosts { filter, from, asker } => {
                let mut filter = filter.clone();
                filter.cursor = (*from == From::Deep).then(|| built.any(call).to_string());
                let admin = built.fleet.admin(asker.as_ref().unwrap_or(&built.operator));
                Ok(admin.list_hosts(filter).await?.items.len())
            }
            Self::Containers => {
                let admin = built.fleet.admin(&built.operator);
                Ok(admin.list_containers(built.any(call), ContainerFilter::default()).await?.items.len())
            }
            Self::Events { filter, from, of_a_host } => {
                let mut filter = filter.clone();
                filter.host_id = of_a_host.then(|| built.any(call));
                if *from == From::Deep {
                    // Two events of each host are there at least.
                    let place = (call as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % u64::from(built.hosts);
                    filter.cursor = Some(Position::new(place * 2).to_string());
                }
                Ok(built.fleet.admin(&built.operator).list_events(filter).await?.items.len())
            }
            Self::Place { request, scheduler, is_possible } => {
                match (built.fleet.admin(&built.operator).place(request, &**scheduler).await, is_possible) {
                    (Ok(_), true) => Ok(1),
                    (Err(PlaceError::NoEligibleHost { .. }), false) => Ok(0),
                    (Ok(host), false) => Err(format!("work was placed on {}, which cannot take it", host.name).into()),
                    (Err(error), _) => Err(error.into()),
                }
            }
            Self::Sweep(_) => Err("a sweep is timed by itself".into()),
        }
    }
}

/// All of them, in the order in which they are measured. `common` fall silent in fleets of all sizes.
pub(super) fn cases(common: usize, restless: usize) -> Result<Vec<Case>, Error> {
    let mut cases = pages()?;
    cases.extend(placements()?);
    let mut sweep = |what: String, silence| {
        cases.push(Case { what, target_ms: 200.0, question: Question::Sweep(silence) });
    };
    if restless > common {
        sweep(format!("sweep, {restless} fell silent"), Silence::Of(restless));
    }
    sweep(format!("sweep, {common} fell silent"), Silence::Of(common));
    sweep("sweep, nobody did".to_owned(), Silence::None);
    sweep("sweep, everybody did, verdicts are held back".to_owned(), Silence::Held);
    sweep("sweep, everybody did, a step of 1,000".to_owned(), Silence::Storm);
    Ok(cases)
}

fn pages() -> Result<Vec<Case>, Error> {
    let all = HostFilter::default;
    let status = |status| HostFilter { status: Some(status), ..all() };
    let tag = |tag: &str| Ok::<_, Error>(HostFilter { tag: Some(tag.parse()?), ..all() });
    let kind = |kind| HostFilter { kind: Some(kind), ..all() };
    let tenant = |tenant| Ok::<_, Error>(HostFilter { tenant_id: Some(TenantId::new(tenant)?), ..all() });
    let prefix = |prefix: &str| HostFilter { q: Some(prefix.to_owned()), ..all() };
    let filters = [
        ("all", all()),
        ("online", status(Status::Online)),
        ("unreachable (5 %)", status(Status::Unreachable)),
        ("archived (1 %)", status(Status::Archived)),
        ("pending (none)", status(Status::Pending)),
        ("tag (50 %)", tag(COMMON)?),
        ("tag (1 %)", tag(UNCOMMON)?),
        ("tag (10 hosts)", tag(RARE)?),
        ("tag (none)", tag("nowhere")?),
        ("kind (90 %)", kind(HostKind::Managed)),
        ("kind (10 %)", kind(HostKind::Byoc)),
        ("tenant (90 %)", tenant(LARGE)?),
        ("tenant (1 %)", tenant(SMALL)?),
        ("name prefix (60 %)", prefix("web-")),
        ("name prefix (1 %)", prefix("edge-")),
        ("name prefix (a few)", prefix("web-00012")),
        ("name prefix (none)", prefix("mail-")),
        ("tag (10 hosts), online", HostFilter { status: Some(Status::Online), ..tag(RARE)? }),
        ("tag (50 %), unreachable", HostFilter { status: Some(Status::Unreachable), ..tag(COMMON)? }),
        ("tag of online hosts, unreachable (none)", HostFilter { status: Some(Status::Unreachable), ..tag(HEARD)? }),
        ("tag of unreachable hosts, online (none)", HostFilter { status: Some(Status::Online), ..tag(CUT_OFF)? }),
        ("tag (1 %), kind (10 %)", HostFilter { kind: Some(HostKind::Byoc), ..tag(UNCOMMON)? }),
        ("tenant (90 %), unreachable", HostFilter { status: Some(Status::Unreachable), ..tenant(LARGE)? }),
        ("tenant (1 %), unreachable", HostFilter { status: Some(Status::Unreachable), ..tenant(SMALL)? }),
        ("tenant (90 %), archived", HostFilter { status: Some(Status::Archived), ..tenant(LARGE)? }),
        ("tenant (90 %), tag (1 %)", HostFilter { tag: tag(UNCOMMON)?.tag, ..tenant(LARGE)? }),
        ("tenant (90 %), name prefix (a few)", HostFilter { q: Some("web-00012".to_owned()), ..tenant(LARGE)? }),
    ];
    let mut cases = Vec::new();
    let mut page = |what: String, filter: HostFilter, from, asker| {
        cases.push(Case { what, target_ms: 20.0, question: Question::Hosts { filter, from, asker } });
    };
    for (what, filter) in filters {
        page(format!("hosts, {what}"), filter.clone(), From::Start, None);
        page(format!("hosts, {what}, deep"), filter, From::Deep, None);
    }
    for (what, filter) in
        [("all", all()), ("unreachable (5 %)", status(Status::Unreachable)), ("tag (50 %)", tag(COMMON)?)]
    {
        let filter = HostFilter { limit: Some(500), ..filter };
        page(format!("hosts, {what}, 500 a page"), filter.clone(), From::Start, None);
        page(format!("hosts, {what}, 500 a page, deep"), filter, From::Deep, None);
    }
    let two = || {
        let mut actor = Actor::member(ActorId::new("somebody")?, TenantId::new(MIDDLE)?, Role::Member);
        actor.grants.insert(TenantId::new(SMALL)?, Role::Member);
        Ok::<_, Error>(actor)
    };
    let mut three = two()?;
    three.grants.insert(TenantId::new(LARGE)?, Role::Member);
    page("hosts, of one's two tenants (10 %)".to_owned(), all(), From::Start, Some(two()?));
    page("hosts, of one's two tenants (10 %), deep".to_owned(), all(), From::Deep, Some(two()?));
    page(
        "hosts, of one's two tenants (10 %), unreachable".to_owned(),
        status(Status::Unreachable),
        From::Start,
        Some(two()?),
    );
    page("hosts, of one's three tenants (100 %)".to_owned(), all(), From::Start, Some(three));

    let mut listed = |what: &str, question| {
        cases.push(Case { what: what.to_owned(), target_ms: 20.0, question });
    };
    listed("containers of a host", Question::Containers);
    let events = |filter, from| Question::Events { filter, from, of_a_host: false };
    let every = EventFilter::default;
    let of_type = |r#type: &str| EventFilter { r#type: Some(r#type.to_owned()), ..every() };
    listed("events, all", events(every(), From::Start));
    listed("events, all, deep", events(every(), From::Deep));
    listed("events of a host", Question::Events { filter: every(), from: From::Start, of_a_host: true });
    for (what, r#type) in [
        ("events of a type (half of all)", "host.online"),
        ("events of a type (0.5 %)", "host.archived"),
        ("events of a type (none)", "host.deleted"),
    ] {
        listed(what, events(of_type(r#type), From::Start));
        listed(&format!("{what}, deep"), events(of_type(r#type), From::Deep));
    }
    let small = || Ok::<_, Error>(Some(TenantId::new(SMALL)?));
    listed("events of a tenant (1 %)", events(EventFilter { tenant_id: small()?, ..every() }, From::Start));
    listed("events of a tenant (1 %), deep", events(EventFilter { tenant_id: small()?, ..every() }, From::Deep));
    let large = Some(TenantId::new(LARGE)?);
    let filter = EventFilter { tenant_id: large, ..of_type("host.archived") };
    listed("events of a tenant (90 %), of a type (0.5 %)", events(filter, From::Start));
    let filter = EventFilter { tenant_id: small()?, ..of_type("host.online") };
    listed("events of a tenant (1 %), of a type (half of all)", events(filter, From::Start));
    let filter = EventFilter { kind: Some(HostKind::Byoc), ..of_type("host.archived") };
    listed("events of a kind of host (10 %), of a type (0.5 %)", events(filter, From::Start));
    Ok(cases)
}

fn placements() -> Result<Vec<Case>, Error> {
    const MIB: u64 = 1 << 20;
    // So little that no host is full before the end: schedulers count what they have placed.
    let demand = Demand { cpu_cores: 0.0, memory_bytes: MIB, disk_bytes: MIB };
    let anywhere = || PlaceRequest { demand, ..PlaceRequest::default() };
    let of_tenant = |tenant| Ok::<_, Error>(PlaceRequest { tenant_id: Some(TenantId::new(tenant)?), ..anywhere() });
    let tagged = |tag: &str| Ok::<_, Error>(PlaceRequest { tags: [tag.parse()?].into(), ..anywhere() });
    let mut cases = Vec::new();
    for (what, request, is_possible) in [
        ("anywhere", anywhere(), true),
        ("tenant (90 %)", of_tenant(LARGE)?, true),
        ("tenant (1 %)", of_tenant(SMALL)?, true),
        ("tag (50 %)", tagged(COMMON)?, true),
        ("tag (10 hosts)", tagged(RARE)?, true),
        ("tenant (90 %), tag (1 %)", PlaceRequest { tags: tagged(UNCOMMON)?.tags, ..of_tenant(LARGE)? }, true),
        ("kind (10 %)", PlaceRequest { kind: Some(HostKind::Byoc), ..anywhere() }, true),
        ("tag (none)", tagged("nowhere")?, false),
        ("tag of unreachable hosts (5 %, none of them)", tagged(CUT_OFF)?, false),
    ] {
        let schedulers: [(&str, Box<dyn Scheduler>); 2] =
            [("round-robin", Box::new(RoundRobin::default())), ("least loaded", Box::new(LeastLoaded::default()))];
        for (name, scheduler) in schedulers {
            let question = Question::Place { request: request.clone(), scheduler, is_possible };
            cases.push(Case { what: format!("placement, {name}, {what}"), target_ms: 5.0, question });
        }
    }
    Ok(cases)
}
