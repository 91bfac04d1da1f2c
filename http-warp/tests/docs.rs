//! The guide tells of every code and of every route.

mod common;

use common::House;
use enlist_core::wire::Code;

const GUIDE: &str = include_str!("../../docs/http.md");

#[test]
fn the_guide_lists_every_code_with_its_status() {
    for code in Code::ALL {
        let row = format!("| `{code}` | {} |", code.status());
        assert!(GUIDE.contains(&row), "{row}");
    }
}

#[tokio::test]
async fn the_guide_lists_every_route() {
    for route in House::new().await.table {
        let row = format!("| `{} {}", route.method, route.path);
        let listed = |end: &str| GUIDE.contains(&format!("{row}{end}"));
        assert!(listed("`") || listed("?"), "{row}");
    }
}
