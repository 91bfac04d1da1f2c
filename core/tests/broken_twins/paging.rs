//! Cursors that miss a row, or show one twice.

use std::cmp::Ordering;

use async_trait::async_trait;
use enlist_core::event::{Event, Position};
use enlist_core::install_token::InstallToken;
use enlist_core::store::{
    AgentTokenQuery, AgentTokenRecord, ContainerQuery, ContainerRecord, EventQuery, HostQuery, HostRecord,
    InstallTokenQuery, Page, StoreError, TelemetryQuery,
};
use enlist_core::telemetry::HostSnapshot;
use enlist_core::{MemoryStore, Store};

use crate::twin::{Fault, faults, page, twins};

#[derive(Clone, Copy, PartialEq)]
enum List {
    Hosts,
    InstallTokens,
    AgentTokens,
    Events,
    Containers,
    Telemetry,
}

faults! {
    /// A cursor that names a row which is gone, or is not listed any more, begins anew.
    CursorsNeedTheirRow {
        async fn list_hosts(&self, store: &MemoryStore, query: &HostQuery) -> Result<Page<HostRecord>, StoreError> {
            let listed = store.list_hosts(&query.clone().whole()).await?.items;
            let after = query.after.filter(|after| listed.iter().any(|record| record.host.id == *after));
            store.list_hosts(&HostQuery { after, ..query.clone() }).await
        }
    }
}

#[derive(Clone, Copy)]
enum Slip {
    /// The first row behind the cursor is left out: `after` and an offset.
    Skips,
    /// `>=` for `>`.
    Repeats,
    /// A page that is full promises nothing more.
    StopsEarly,
}

/// One of the lists is paged wrongly.
struct Pages(List, Slip);

impl Pages {
    /// The page of `rows`, all of them, behind the cursor; `order` is that of a row to the cursor.
    fn cut<T>(&self, rows: Vec<T>, order: impl Fn(&T) -> Option<Ordering>, limit: usize) -> Page<T> {
        let is_behind = |row: &T| order(row).is_none_or(|order| order == Ordering::Greater);
        match self.1 {
            Slip::Repeats => page(rows.into_iter().filter(|row| order(row).is_none_or(Ordering::is_ge)), limit),
            Slip::Skips => {
                let skipped = usize::from(rows.first().is_some_and(|row| order(row).is_some()));
                page(rows.into_iter().filter(is_behind).skip(skipped), limit)
            }
            Slip::StopsEarly => Page { more: false, ..page(rows.into_iter().filter(is_behind), limit) },
        }
    }
}

/// Declares the verb of each list: all rows are read, and cut into pages here.
macro_rules! lists {
    ($($list:ident $verb:ident($query:ty) -> $row:ty: $none:expr, |$row_name:ident, $after:ident| $order:expr;)*) => {
        #[async_trait]
        impl Fault for Pages {
            $(
                async fn $verb(&self, store: &MemoryStore, query: &$query) -> Result<Page<$row>, StoreError> {
                    if self.0 != List::$list {
                        return store.$verb(query).await;
                    }
                    let all = <$query>::clone(query);
                    let rows = store.$verb(&<$query>::clone(&all).whole()).await?.items;
                    let $after = all.after;
                    Ok(self.cut(rows, |$row_name: &$row| $order, all.limit))
                }
            )*
        }

        $(
            impl Whole for $query {
                fn whole(self) -> Self {
                    Self { after: $none, limit: usize::MAX, ..self }
                }
            }
        )*
    };
}

/// A query without its cursor and its limit.
trait Whole {
    fn whole(self) -> Self;
}

lists! {
    Hosts list_hosts(HostQuery) -> HostRecord: None, |row, after| after.map(|after| row.host.id.cmp(&after));
    InstallTokens list_install_tokens(InstallTokenQuery) -> InstallToken: None,
        |row, after| after.map(|after| row.id.cmp(&after));
    AgentTokens list_agent_tokens(AgentTokenQuery) -> AgentTokenRecord: None,
        |row, after| after.map(|after| row.token.id.cmp(&after));
    Events list_events(EventQuery) -> Event: Position::START,
        |row, after| (after != Position::START).then(|| row.position.cmp(&after));
    Containers list_containers(ContainerQuery) -> ContainerRecord: None,
        |row, after| after.as_ref().map(|after| row.container.container_id.cmp(after));
    Telemetry list_telemetry(TelemetryQuery) -> HostSnapshot: None,
        |row, after| after.map(|after| row.recorded_at.cmp(&after));
}

twins! {
    pages_of_hosts_skip_a_row: Pages(List::Hosts, Slip::Skips) => [
        "query::pages_of_hosts_hold_still_while_hosts_change_and_go",
        "query::pages_of_hosts_miss_and_repeat_nothing_while_hosts_are_added",
    ],
    pages_of_hosts_repeat_a_row: Pages(List::Hosts, Slip::Repeats) => [
        "query::pages_of_hosts_hold_still_while_hosts_change_and_go",
        "query::pages_of_hosts_miss_and_repeat_nothing_while_hosts_are_added",
    ],
    pages_of_hosts_stop_early: Pages(List::Hosts, Slip::StopsEarly) => [
        "query::pages_of_hosts_hold_still_while_hosts_change_and_go",
        "query::pages_of_hosts_miss_and_repeat_nothing_while_hosts_are_added",
    ],
    a_cursor_needs_its_row: CursorsNeedTheirRow => [
        "query::pages_of_hosts_hold_still_while_hosts_change_and_go",
    ],
    pages_of_install_tokens_skip_a_row: Pages(List::InstallTokens, Slip::Skips) => [
        "query::a_tenants_install_tokens_are_listed_apart",
        "query::pages_of_tokens_miss_and_repeat_nothing",
    ],
    pages_of_install_tokens_repeat_a_row: Pages(List::InstallTokens, Slip::Repeats) => [
        "query::a_tenants_install_tokens_are_listed_apart",
        "query::pages_of_tokens_miss_and_repeat_nothing",
    ],
    pages_of_install_tokens_stop_early: Pages(List::InstallTokens, Slip::StopsEarly) => [
        "query::a_tenants_install_tokens_are_listed_apart",
        "query::pages_of_tokens_miss_and_repeat_nothing",
    ],
    pages_of_agent_tokens_skip_a_row: Pages(List::AgentTokens, Slip::Skips) => [
        "query::agent_tokens_are_listed_by_lineage",
        "query::pages_of_tokens_miss_and_repeat_nothing",
    ],
    pages_of_agent_tokens_repeat_a_row: Pages(List::AgentTokens, Slip::Repeats) => [
        "query::agent_tokens_are_listed_by_lineage",
        "query::pages_of_tokens_miss_and_repeat_nothing",
    ],
    pages_of_agent_tokens_stop_early: Pages(List::AgentTokens, Slip::StopsEarly) => [
        "query::agent_tokens_are_listed_by_lineage",
        "query::pages_of_tokens_miss_and_repeat_nothing",
    ],
    pages_of_events_skip_a_row: Pages(List::Events, Slip::Skips) => [
        "event::pages_of_events_miss_and_repeat_nothing",
        "prune::a_position_is_never_given_again",
        "prune::old_events_go_and_younger_ones_stay",
    ],
    pages_of_events_repeat_a_row: Pages(List::Events, Slip::Repeats) => [
        "event::pages_of_events_miss_and_repeat_nothing",
    ],
    pages_of_events_stop_early: Pages(List::Events, Slip::StopsEarly) => [
        "event::pages_of_events_miss_and_repeat_nothing",
    ],
    pages_of_containers_skip_a_row: Pages(List::Containers, Slip::Skips) => [
        "telemetry::containers_are_read_in_pages",
    ],
    pages_of_containers_repeat_a_row: Pages(List::Containers, Slip::Repeats) => [
        "telemetry::containers_are_read_in_pages",
    ],
    pages_of_containers_stop_early: Pages(List::Containers, Slip::StopsEarly) => [
        "telemetry::containers_are_read_in_pages",
    ],
    pages_of_telemetry_skip_a_row: Pages(List::Telemetry, Slip::Skips) => [
        "telemetry::a_cursor_widens_no_range",
        "telemetry::telemetry_is_read_by_range_in_pages",
    ],
    pages_of_telemetry_repeat_a_row: Pages(List::Telemetry, Slip::Repeats) => [
        "telemetry::a_cursor_widens_no_range",
        "telemetry::telemetry_is_read_by_range_in_pages",
    ],
    pages_of_telemetry_stop_early: Pages(List::Telemetry, Slip::StopsEarly) => [
        "telemetry::telemetry_is_read_by_range_in_pages",
    ],
}
