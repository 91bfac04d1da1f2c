//! Each rule taken away breaks a property, at bounds at which nothing is broken with it.

use enlist_model::property::{BACK_IN, KEEPS_WORKING, NO_FALSE_ALARM, ROTATES};
use enlist_model::search::{Effort, search};
use enlist_model::{Cast, Config, Mutation};

fn assert_breaks(config: Config, mutation: Mutation, property: &'static str) {
    let effort = Effort { until: Some(property), ..Effort::default() };
    let broken = |config: &Config| search(config, &effort).broken().map(|verdict| verdict.name).collect::<Vec<_>>();
    assert!(broken(&config).is_empty(), "{config}: it is broken with all its rules");
    let config = config.without(mutation);
    let broken = broken(&config);
    assert!(broken.contains(&property), "{config}: broken is {broken:?}");
}

#[test]
fn issue_then_revoke_takes_away_what_works() {
    assert_breaks(Config::small(Cast::Holder), Mutation::IssueThenRevoke, KEEPS_WORKING);
}

#[test]
fn issue_then_revoke_locks_out_who_has_not_got_the_secret() {
    assert_breaks(Config::small(Cast::ServerMade), Mutation::IssueThenRevoke, BACK_IN);
}

#[test]
fn a_credential_that_lapses_before_its_first_use_locks_out() {
    assert_breaks(Config::small(Cast::Holder), Mutation::PendingLapses, BACK_IN);
}

#[test]
fn an_administrators_successor_that_never_yields_stops_rotation() {
    assert_breaks(Config::small(Cast::Administrator), Mutation::RotatedNeverYields, ROTATES);
}

#[test]
fn a_late_repeat_that_draws_another_secret_locks_out() {
    assert_breaks(Config::small(Cast::ServerMade), Mutation::RepeatRedraws, BACK_IN);
}

#[test]
fn a_successor_that_is_proposed_before_it_is_durable_accuses() {
    assert_breaks(Config::small(Cast::Holder), Mutation::ProposeUnsaved, NO_FALSE_ALARM);
}

#[test]
fn work_beside_a_successor_accuses() {
    assert_breaks(Config::small(Cast::Holder), Mutation::WorkBesideSuccessor, NO_FALSE_ALARM);
}

#[test]
fn a_successor_presented_without_an_answer_accuses() {
    assert_breaks(Config::small(Cast::Administrator), Mutation::PresentUnanswered, NO_FALSE_ALARM);
}

#[test]
fn a_mark_that_stays_accuses() {
    assert_breaks(Config::small(Cast::Administrator), Mutation::MarkKept, NO_FALSE_ALARM);
}

#[test]
fn a_current_token_dropped_early_locks_out() {
    assert_breaks(Config::small(Cast::Holder), Mutation::DropEarly, BACK_IN);
}

#[test]
fn a_token_by_hand_that_is_not_forgotten_accuses() {
    assert_breaks(Config::small(Cast::Administrator), Mutation::HandKept, NO_FALSE_ALARM);
}

#[test]
fn a_token_by_hand_that_replaces_one_without_an_answer_locks_out() {
    let config = Config { acts: 2, secrets: 1, ..Config::small(Cast::Administrator) };
    assert_breaks(config, Mutation::HandReplaced, BACK_IN);
}

#[test]
fn late_messages_accuse() {
    let config = Config { in_flight: 2, acts: 0, ..Config::small(Cast::Administrator) };
    assert_breaks(config, Mutation::LateMessages, NO_FALSE_ALARM);
}
