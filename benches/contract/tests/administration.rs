//! The bench of administration, as small as it can be.

use enlist_benches::compare::Engine;
use enlist_benches_contract::administration::{Administration, measure};

#[tokio::test]
async fn every_question_is_answered_in_fleets_of_two_sizes() {
    let plan = Administration { engine: Engine::Sqlite, hosts: vec![150, 300], calls: 2 };
    let mut said = Vec::new();
    let measured = measure(&plan, &mut said).await.expect("every answer is as it should be");
    let said = String::from_utf8(said).expect("it speaks UTF-8");
    assert!(said.contains("150 hosts are there") && said.contains("300 hosts are there"), "{said}");
    for row in [
        "| hosts, all |",
        "| hosts, tag (50 %), unreachable, deep |",
        "| containers of a host |",
        "| events of a type (none) |",
        "| placement, least loaded, tag (10 hosts) |",
        "| sweep, 113 fell silent |",
        "| sweep, everybody did, verdicts are held back |",
    ] {
        assert!(measured.text.contains(row), "{row} is missing:\n{}", measured.text);
    }
    assert_eq!(measured.postgres_version, None);
}
