//! The guide tells of every code.

use enlist_core::wire::Code;

const GUIDE: &str = include_str!("../../docs/http.md");

#[test]
fn the_guide_lists_every_code_with_its_status() {
    for code in Code::ALL {
        let row = format!("| `{code}` | {} |", code.status());
        assert!(GUIDE.contains(&row), "{row}");
    }
}
