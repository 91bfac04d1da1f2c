//! Random sequences of every verb, run on the pure state machines and on the store side by side.
//!
//! The `world` is the model: plain maps, and core's own transitions. The `verb`s load from the store, let the model
//! decide, and commit what it decided, sometimes at a revision that has gone by; whatever the store answers has to be what
//! the model foresaw. A disagreement fails with the shortest sequence that shows it.
//!
//! `ENLIST_PROPTEST_CASES` says how many sequences; 256 unless it is set.

mod verb;
mod world;

use std::cell::RefCell;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

use super::Fixture;
use verb::Step;
use world::World;

/// How many sequences are tried.
fn cases() -> u32 {
    std::env::var("ENLIST_PROPTEST_CASES").map_or(256, |cases| {
        cases.parse().unwrap_or_else(|_| panic!("ENLIST_PROPTEST_CASES is a number of sequences, not {cases:?}"))
    })
}

/// How many sequences share a fixture.
const SEQUENCES_A_FIXTURE: u32 = 512;

/// Tries sequences of up to 60 steps. `regressions` names the file in which those that failed are remembered, to be
/// committed with the mend.
///
/// Each sequence works through a handle of its own, in a tenant of its own, and time moves alike in all of them.
pub fn random_sequences_agree_with_the_state_machines<F: Fixture>(regressions: &'static str) {
    // Now and then a new one: what thousands of sequences leave behind would slow the next ones down.
    let fixture = RefCell::new((F::block_on(F::fresh()), 0));
    let config = Config {
        cases: cases(),
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        ..Config::default()
    };
    let tried = TestRunner::new(config).run(&verb::steps(), |steps| {
        let mut fixture = fixture.borrow_mut();
        fixture.1 += 1;
        if fixture.1 > SEQUENCES_A_FIXTURE {
            *fixture = (F::block_on(F::fresh()), 1);
        }
        F::block_on(run(&fixture.0, &steps))
    });
    match tried {
        Ok(()) => {}
        Err(TestError::Fail(reason, steps)) => panic!("{reason}\nafter these steps:\n{steps:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

async fn run(fixture: &impl Fixture, steps: &[Step]) -> Result<(), TestCaseError> {
    let store = fixture.handle().await;
    let mut world = World::new();
    for (n, step) in steps.iter().enumerate() {
        let disagreement = |error: Disagreement| TestCaseError::fail(format!("step {n}, {step:?}: {}", error.0));
        world.take(&store, step).await.map_err(disagreement)?;
    }
    world.agrees_with(&store).await.map_err(|error| TestCaseError::fail(format!("at the end: {}", error.0)))
}

/// What the store says that the model does not.
struct Disagreement(String);

type Agreement<T = ()> = Result<T, Disagreement>;

/// Compares what the store says with what the model says.
fn agree<T: PartialEq + std::fmt::Debug>(what: &str, store: T, model: T) -> Agreement {
    if store == model {
        return Ok(());
    }
    Err(Disagreement(format!("{what}\n  store: {store:?}\n  model: {model:?}")))
}

impl From<crate::store::StoreError> for Disagreement {
    fn from(error: crate::store::StoreError) -> Self {
        Self(format!("the store failed: {:?}", error.kind()))
    }
}
