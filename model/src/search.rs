//! A search, and what it found.

use std::fmt;
use std::time::Duration;

use enlist_core::{Clock, SystemClock};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::config::Config;
use crate::world::{Action, Protocol, World};

/// What a search found.
#[derive(Debug)]
pub struct Outcome {
    /// States, each counted once.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// Whether time was up before every state within the bounds was seen.
    pub is_stopped: bool,
    /// What became of each property.
    pub verdicts: Vec<Verdict>,
}

/// What became of a property.
#[derive(Debug)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// Whether it has to hold in every state; otherwise in one at least.
    pub is_always: bool,
    /// Whether it came out as it should.
    pub holds: bool,
    /// The way to a state that breaks it, or to one that shows that it is possible.
    pub path: Option<Path<World, Action>>,
}

impl Outcome {
    /// Whether all was searched and each property came out as it should.
    pub fn holds(&self) -> bool {
        !self.is_stopped && self.verdicts.iter().all(|verdict| verdict.holds)
    }

    /// The properties that should hold in every state and do not.
    pub fn broken(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| verdict.is_always && !verdict.holds)
    }
}

/// How far a search goes.
#[derive(Debug, Clone)]
pub struct Effort {
    /// How many threads search. With more than one, the ways that are found are not always the same.
    pub threads: usize,
    /// For how long at most.
    pub timeout: Option<Duration>,
    /// It ends when this property is broken, or when any is.
    pub until: Option<&'static str>,
}

impl Default for Effort {
    fn default() -> Self {
        Self { threads: 1, timeout: None, until: None }
    }
}

/// Searches all states within the bounds, as far as the effort goes.
pub fn search(config: &Config, effort: &Effort) -> Outcome {
    let clock = SystemClock::default();
    let start = clock.monotonic();
    let Effort { threads, timeout, until } = effort.clone();
    let finish = match until {
        Some(property) => HasDiscoveries::AnyOf([property].into()),
        None => HasDiscoveries::AnyFailures,
    };
    let checker = Protocol { config: config.clone() }.checker().threads(threads).finish_when(finish);
    let checker = match timeout {
        Some(timeout) => checker.timeout(timeout),
        None => checker,
    };
    let checker = checker.spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let verdicts = checker
        .model()
        .properties()
        .into_iter()
        .map(|property| {
            let path = discoveries.remove(property.name);
            let is_always = property.expectation == Expectation::Always;
            Verdict { name: property.name, is_always, holds: path.is_none() == is_always, path }
        })
        .collect();
    let time = clock.monotonic().saturating_sub(start);
    let is_stopped = timeout.is_some_and(|timeout| time >= timeout);
    Outcome { states: checker.unique_state_count(), depth: checker.max_depth(), time, is_stopped, verdicts }
}

/// A way through the model, a line for each thing that happens, with what the server has after it.
#[derive(Debug)]
pub struct Trace<'a>(pub &'a Path<World, Action>);

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.0.clone().into_vec();
        for (n, pair) in steps.windows(2).enumerate() {
            if let [(before, Some(action)), (after, _)] = pair {
                writeln!(f, "{:>4}. {action}", n + 1)?;
                if before.server.tokens != after.server.tokens {
                    writeln!(f, "      server: {}", after.server)?;
                }
                for (i, holder) in after.holders.iter().enumerate() {
                    if before.holders.get(i).is_none_or(|earlier| earlier.disk != holder.disk) {
                        writeln!(
                            f,
                            "      disk of {}: {}",
                            if i == 0 { "the holder" } else { "the copy" },
                            holder.disk
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}
