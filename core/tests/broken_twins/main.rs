//! The suite can fail: stores that are wrong in one way each, and the properties that notice.
//!
//! Every deterministic property is run on every twin, and exactly those that are named have to fail: so each twin is
//! wrong in one way only, and no property fails for another reason than its own. Races are left out: whether they
//! notice is a matter of luck, so nothing may depend on them alone.

mod candidate;
mod commit;
mod contact;
mod deletion;
mod event;
mod guard;
mod last_use;
mod paging;
mod prune;
mod query;
mod register;
mod round_trip;
mod silence;
mod subscription;
mod telemetry;
mod token;
mod twin;
mod window;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};

use twin::{FAULT, MakeFault, Sound, Twin};

thread_local! {
    static EXPECTING_PANICS: Cell<bool> = const { Cell::new(false) };
}

/// Panics that a twin brings about are the point, and not worth a line of output each.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTING_PANICS.get() {
                usual(info);
            }
        }));
    });
    EXPECTING_PANICS.set(true);
    let outcome = run();
    EXPECTING_PANICS.set(false);
    outcome
}

fn deterministic() -> impl Iterator<Item = (String, fn())> {
    let properties = enlist_core::store_conformance_properties!(Twin).into_iter();
    properties.filter(|(module, ..)| *module != "race").map(|(module, name, run)| (format!("{module}::{name}"), run))
}

/// The deterministic properties that do not hold for a store with this fault.
fn failing(make: MakeFault) -> BTreeSet<String> {
    FAULT.set(make);
    quietly(|| {
        deterministic()
            .filter(|(_, run)| panic::catch_unwind(AssertUnwindSafe(run)).is_err())
            .map(|(name, _)| name)
            .collect()
    })
}

fn assert_caught(make: MakeFault, by: &[&str]) {
    let by: BTreeSet<_> = by.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(failing(make), by);
    assert!(!by.is_empty(), "a twin that nothing catches shows a hole in the suite");
}

#[test]
fn a_store_without_a_fault_fails_nothing() {
    assert_eq!(failing(|| Arc::new(Sound)), BTreeSet::new());
}

#[test]
fn every_deterministic_property_catches_a_twin() {
    let all = [
        candidate::CAUGHT,
        commit::CAUGHT,
        contact::CAUGHT,
        deletion::CAUGHT,
        event::CAUGHT,
        guard::CAUGHT,
        last_use::CAUGHT,
        paging::CAUGHT,
        prune::CAUGHT,
        query::CAUGHT,
        register::CAUGHT,
        round_trip::CAUGHT,
        silence::CAUGHT,
        subscription::CAUGHT,
        telemetry::CAUGHT,
        token::CAUGHT,
        window::CAUGHT,
    ];
    let catching: BTreeSet<_> = all.concat().into_iter().flatten().copied().collect();
    let idle: Vec<_> = deterministic().map(|(name, _)| name).filter(|name| !catching.contains(name.as_str())).collect();
    assert_eq!(idle, [""; 0], "properties that have not been seen to fail");
}
