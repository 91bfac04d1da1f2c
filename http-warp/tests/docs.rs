//! The guide tells of every code, of every type of event and of every route.

mod common;

use std::collections::BTreeSet;

use common::House;
use enlist_core::wire::Code;

const GUIDE: &str = include_str!("../../docs/http.md");
/// Where the types stand in the source: they cannot be listed at run time.
const EVENTS: &str = include_str!("../../core/src/event.rs");

#[test]
fn the_guide_lists_every_code_with_its_status() {
    for code in Code::ALL {
        let row = format!("| `{code}` | {} |", code.status());
        assert!(GUIDE.contains(&row), "{row}");
    }
}

#[test]
fn the_guide_lists_every_type_of_event() {
    let quoted = |text: &'static str, mark| text.split(mark).skip(1).step_by(2).collect::<Vec<_>>();
    let types = EVENTS.split("serde(rename = ").skip(1).flat_map(|rest| quoted(rest, '"').into_iter().take(1));
    let table = GUIDE.lines().skip_while(|line| !line.starts_with("| `type` |")).skip(2);
    let rows = table.map_while(|line| line.strip_prefix("| "));
    let listed = rows.flat_map(|row| quoted(row.split(" | ").next().unwrap_or_default(), '`'));
    assert_eq!(listed.collect::<BTreeSet<_>>(), types.collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn the_guide_lists_every_route() {
    for route in House::new().await.table {
        let row = format!("| `{} {}", route.method, route.path);
        let listed = |end: &str| GUIDE.contains(&format!("{row}{end}"));
        assert!(listed("`") || listed("?"), "{row}");
    }
}
