//! Where a list begins: what stores with a query language choose an index by.
//!
//! A page of a list is a walk through one index in the order of the list, which passes over what does not fit. How long that
//! takes is decided by the index. Engines choose by what they guess of the data, if they know anything of it, and guess
//! wrong where it matters: a rare value is looked for through all that there is. So stores choose by counting, no further
//! than to [`ENOUGH`]: an index that has fewer rows than that for a query is cheap whatever else is asked for.

use crate::host::{HostKind, Status};
use crate::id::HostId;
use crate::store::{EventQuery, HostQuery, Visible};

/// How far rows are counted to choose among indexes.
pub const ENOUGH: usize = 2_000;
/// Of how many tenants a list is merged. Of more, rows are chosen one by one.
const TENANTS: usize = 64;

/// What a list of hosts may begin with. But for `NamePrefix`, an index has the rows of each in the order of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostDrive {
    /// Those of a status.
    Status(Status),
    /// Those with a tag.
    Tag(String),
    /// Those with a tag, of a status.
    TagOfStatus(String, Status),
    /// Those of a kind.
    Kind(HostKind),
    /// Those of some tenants, each in the order of ids: to be merged when there are several.
    Tenants(Vec<String>),
    /// All.
    Everything,
    /// Those with a name that begins so: of one tenant, if only that one's may be seen. They have to be sorted.
    NamePrefix {
        /// Which tenant's.
        tenant_id: Option<String>,
        /// How.
        prefix: String,
    },
}

impl HostDrive {
    /// All that `query` may begin with, those first that are likely to have fewer rows. One alone need not be counted; of
    /// several take the one with the fewest rows: [`Choice`].
    pub fn of(query: &HostQuery, visible: &Visible) -> Vec<Self> {
        let HostQuery { status, tag, kind, name_prefix, .. } = query;
        let online = |status: &Status| *status == Status::Online;
        let mut drives = Vec::new();
        match (tag.as_ref().map(|tag| tag.as_str().to_owned()), *status) {
            // They have no more rows than the tag has, or the status.
            (Some(tag), Some(status)) => drives.push(Self::TagOfStatus(tag, status)),
            (Some(tag), None) => drives.push(Self::Tag(tag)),
            (None, status) => drives.extend(status.filter(|status| !online(status)).map(Self::Status)),
        }
        drives.extend(kind.map(Self::Kind));
        drives.extend(visible.merged().map(Self::Tenants));
        drives.extend(status.filter(|status| tag.is_none() && online(status)).map(Self::Status));
        if drives.is_empty() {
            drives.push(Self::Everything);
        }
        // Last: taken only when it has fewer rows than are counted, since they have to be sorted.
        drives.extend(name_prefix.as_ref().map(|prefix| {
            let tenant_id = match visible {
                Visible::Tenant(tenant_id, _) => Some(tenant_id.clone()),
                Visible::Everything | Visible::Tenants { .. } => None,
            };
            Self::NamePrefix { tenant_id, prefix: prefix.clone() }
        }));
        drives
    }
}

/// What a list of events may begin with. An index has the rows of each in the order of positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventDrive {
    /// Those of a host.
    Host(HostId),
    /// Those of a type.
    Type(String),
    /// Those of some tenants, each in the order of positions: to be merged when there are several.
    Tenants(Vec<String>),
    /// Those of hosts of a kind.
    Kind(HostKind),
    /// All.
    Everything,
}

impl EventDrive {
    /// As [`HostDrive::of`].
    pub fn of(query: &EventQuery, visible: &Visible) -> Vec<Self> {
        if let Some(host_id) = query.host_id {
            return vec![Self::Host(host_id)];
        }
        let mut drives = Vec::new();
        drives.extend(query.r#type.clone().map(Self::Type));
        drives.extend(visible.merged().map(Self::Tenants));
        drives.extend(query.kind.map(Self::Kind));
        if drives.is_empty() {
            drives.push(Self::Everything);
        }
        drives
    }
}

/// Which of several has the fewest rows: of several such, the first that was offered.
#[derive(Debug)]
pub struct Choice<T> {
    rows: usize,
    best: T,
}

impl<T> Choice<T> {
    /// `first` unless another has fewer rows than it, or than [`ENOUGH`].
    pub const fn new(first: T, rows: usize) -> Self {
        Self { rows: if rows < ENOUGH { rows } else { ENOUGH }, best: first }
    }

    /// How far the next one is counted: what has so many rows is not taken.
    pub const fn limit(&self) -> usize {
        self.rows
    }

    /// Takes `drive` if it has fewer rows.
    pub fn offer(&mut self, drive: T, rows: usize) {
        if rows < self.rows {
            *self = Self { rows, best: drive };
        }
    }

    /// The one.
    pub fn made(self) -> T {
        self.best
    }
}

/// The first text behind all those that begin with `prefix`, to the byte; `None` when there is none.
///
/// UTF-8 sorts as its code points do, so the last one is raised, or dropped when it is the greatest. Unlike `LIKE` and
/// `GLOB` this gives no character a meaning, folds no case, and is a range of an index.
pub fn behind_prefix(prefix: &str) -> Option<String> {
    let mut beyond = prefix.to_owned();
    while let Some(last) = beyond.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            beyond.push(next);
            return Some(beyond);
        }
    }
    None
}

impl Visible {
    /// The tenants whose rows are merged, if it is theirs that may be seen, and they are not too many.
    fn merged(&self) -> Option<Vec<String>> {
        match self {
            Self::Everything => None,
            Self::Tenant(tenant_id, _) => Some(vec![tenant_id.clone()]),
            Self::Tenants { both, managed, byoc } => {
                let tenants: Vec<_> = both.iter().chain(managed).chain(byoc).cloned().collect();
                (tenants.len() <= TENANTS).then_some(tenants)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Kinds, Scope};
    use crate::{SystemEntropy, Timestamp};

    fn tenants(many: usize) -> Scope {
        Scope::Tenants((0..many).map(|number| (format!("t{number:02}").parse().unwrap(), Kinds::Both)).collect())
    }

    fn drives(query: &HostQuery) -> Vec<HostDrive> {
        HostDrive::of(query, &Visible::of(&query.scope, query.tenant_id.as_ref()))
    }

    #[test]
    fn a_list_without_a_filter_is_a_walk_through_everything_that_may_be_seen() {
        assert_eq!(drives(&HostQuery::new(Scope::All, 50)), [HostDrive::Everything]);
        let of_two = [HostDrive::Tenants(vec!["t00".to_owned(), "t01".to_owned()])];
        assert_eq!(drives(&HostQuery::new(tenants(2), 50)), of_two);
        assert_eq!(drives(&HostQuery::new(tenants(65), 50)), [HostDrive::Everything]);
    }

    #[test]
    fn what_has_to_be_sorted_is_never_all_there_is() {
        let query = HostQuery { name_prefix: Some("web".to_owned()), ..HostQuery::new(Scope::All, 50) };
        let by_name = HostDrive::NamePrefix { tenant_id: None, prefix: "web".to_owned() };
        assert_eq!(drives(&query), [HostDrive::Everything, by_name.clone()]);
        for (rows, wanted) in [(ENOUGH, HostDrive::Everything), (ENOUGH - 1, by_name.clone())] {
            let mut choice = Choice::new(HostDrive::Everything, usize::MAX);
            assert_eq!(choice.limit(), ENOUGH);
            choice.offer(by_name.clone(), rows);
            assert_eq!(choice.made(), wanted);
        }
        let query = HostQuery { scope: tenants(1), ..query };
        let of_tenant = HostDrive::NamePrefix { tenant_id: Some("t00".to_owned()), prefix: "web".to_owned() };
        assert_eq!(drives(&query), [HostDrive::Tenants(vec!["t00".to_owned()]), of_tenant]);
    }

    #[test]
    fn the_first_of_the_fewest_is_taken_and_nothing_counted_further() {
        let mut choice = Choice::new("first", 7);
        choice.offer("as few", 7);
        assert_eq!((choice.limit(), choice.best), (7, "first"));
        choice.offer("fewer", 3);
        assert_eq!(choice.limit(), 3);
        choice.offer("more", 5);
        assert_eq!(choice.made(), "fewer");
    }

    #[test]
    fn of_hosts_that_are_online_there_are_likely_to_be_most() {
        let query = HostQuery { kind: Some(HostKind::Byoc), ..HostQuery::new(Scope::All, 50) };
        let of = |status| drives(&HostQuery { status: Some(status), ..query.clone() });
        let kind = HostDrive::Kind(HostKind::Byoc);
        assert_eq!(of(Status::Online), [kind.clone(), HostDrive::Status(Status::Online)]);
        assert_eq!(of(Status::Unreachable), [HostDrive::Status(Status::Unreachable), kind]);
    }

    #[test]
    fn a_tag_and_a_status_are_one_walk() {
        let query = HostQuery { tag: Some("a".parse().unwrap()), ..HostQuery::new(tenants(1), 50) };
        let (tag, tenant) = ("a".to_owned(), HostDrive::Tenants(vec!["t00".to_owned()]));
        assert_eq!(drives(&query), [HostDrive::Tag(tag.clone()), tenant.clone()]);
        for status in [Status::Pending, Status::Online, Status::Unreachable, Status::Archived] {
            let query = HostQuery { status: Some(status), ..query.clone() };
            assert_eq!(drives(&query), [HostDrive::TagOfStatus(tag.clone(), status), tenant.clone()]);
        }
    }

    #[test]
    fn a_hosts_events_are_few() {
        let host_id = HostId::generate(Timestamp::MIN, &SystemEntropy);
        let query = EventQuery { r#type: Some("x".to_owned()), ..EventQuery::new(tenants(1), 50) };
        let visible = Visible::of(&query.scope, None);
        let of_tenant = EventDrive::Tenants(vec!["t00".to_owned()]);
        assert_eq!(EventDrive::of(&query, &visible), [EventDrive::Type("x".to_owned()), of_tenant]);
        let query = EventQuery { host_id: Some(host_id), ..query };
        assert_eq!(EventDrive::of(&query, &visible), [EventDrive::Host(host_id)]);
    }

    #[test]
    fn what_follows_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(behind_prefix("web-").as_deref(), Some("web."));
        assert_eq!(behind_prefix("\u{D7FF}").as_deref(), Some("\u{E000}"));
        assert_eq!(behind_prefix("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(behind_prefix("\u{10FFFF}"), None);
        assert_eq!(behind_prefix(""), None);
    }

    proptest! {
        #[test]
        fn the_range_holds_exactly_what_begins_with_the_prefix(prefix in "\\PC{0,4}", name in "\\PC{0,6}") {
            for name in [name.clone(), format!("{prefix}{name}")] {
                let in_range = name >= prefix && behind_prefix(&prefix).is_none_or(|beyond| name < beyond);
                prop_assert_eq!(in_range, name.starts_with(&prefix));
            }
        }
    }
}
