//! Four processes on one PostgreSQL: what only shows when replicas share nothing but the database.
//!
//! This program is the test and its own children: started with `RACER` it serves one side of a race, told what to do by
//! lines of JSON and answering with lines of JSON. `ENLIST_RACE_RUNS` repeats the races; once unless it is set.

#[path = "../common/mod.rs"]
mod common;
mod racer;
mod races;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

/// Names the database to a child.
pub(crate) const RACER: &str = "ENLIST_RACER_DATABASE";
/// How many processes race.
pub(crate) const PROCESSES: usize = 4;

fn main() {
    if let Ok(url) = std::env::var(RACER) {
        return racer::main(&url);
    }
    let tests = [
        ("one_of_all_exchangers_wins_each_install_token", races::exchanges as fn()),
        ("no_commit_is_lost_while_rotations_and_revocations_race", races::rotations),
        ("sweeps_and_heartbeats_agree_on_who_was_silent", races::sweeps),
        ("a_revocation_is_refused_by_every_other_process", races::revocations),
    ];
    let trials = tests.into_iter().map(|(name, race)| {
        Trial::test(name, move || {
            (0..runs()).for_each(|_| race());
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn runs() -> usize {
    std::env::var("ENLIST_RACE_RUNS").map_or(1, |runs| runs.parse().expect("ENLIST_RACE_RUNS is a number"))
}

/// A process with a pool, a fleet and a clock of its own.
pub(crate) struct Racer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Racer {
    fn start(url: &str) -> Self {
        let program = std::env::current_exe().expect("a program knows its name");
        let child = Command::new(program).env(RACER, url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the program can be started again");
        let orders = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, orders, answers }
    }

    /// All of them, ready.
    pub(crate) fn start_all(url: &str) -> Vec<Self> {
        let mut racers: Vec<_> = (0..PROCESSES).map(|_| Self::start(url)).collect();
        racers.iter_mut().for_each(|racer| assert_eq!(racer.answer(), json!("ready")));
        racers
    }

    /// Tells it what to do, without waiting.
    pub(crate) fn order(&mut self, order: &Value) {
        writeln!(self.orders, "{order}").and_then(|()| self.orders.flush()).expect("it listens");
    }

    /// Waits for what it answers.
    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("it answers in text");
        assert!(read > 0, "a racer ended before it answered");
        serde_json::from_str(&line).expect("it answers in JSON")
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
