//! Searches the model: `enlist-model --all`, or one configuration at given bounds.

#![allow(clippy::print_stdout, reason = "a program says what it found")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use enlist_model::search::{Effort, Outcome, Trace, search};
use enlist_model::time::Pace;
use enlist_model::{Cast, Config, Mutation};

/// Searches the credential protocol exhaustively, within bounds. Exits with 1 when something is not as it should be.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Every configuration, at the bounds of the README.
    #[arg(long, conflicts_with = "cast")]
    all: bool,
    /// Who takes part: holder, administrator, copied, copied-early, server-made, server-made-copied.
    #[arg(long, default_value = "holder", value_parser = cast)]
    cast: Cast,
    /// How many secrets each holder draws, its first one included.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=60))]
    secrets: Option<u8>,
    /// How many requests are under way at a time.
    #[arg(long)]
    in_flight: Option<usize>,
    /// How often the administrator acts.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=60))]
    acts: Option<u8>,
    /// The administrator may rotate without an overlap, too.
    #[arg(long)]
    cuts_off: bool,
    /// Tokens expire.
    #[arg(long)]
    expires: bool,
    /// How many steps of time the retire grace is: an even number.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=60))]
    steps: Option<u8>,
    /// Up to how many steps after it was sent a request arrives; as many as the grace unless it is said.
    #[arg(long)]
    latest: Option<u8>,
    /// A rule to take away: then something has to break.
    #[arg(long, value_parser = mutation)]
    without: Option<Mutation>,
    /// For how many seconds at most.
    #[arg(long)]
    timeout: Option<u64>,
    /// How many threads search.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn cast(name: &str) -> Result<Cast, String> {
    Cast::ALL.into_iter().find(|cast| cast.name() == name).ok_or_else(|| format!("no configuration {name}"))
}

fn mutation(name: &str) -> Result<Mutation, String> {
    Mutation::ALL.into_iter().find(|mutation| mutation.name() == name).ok_or_else(|| format!("no rule {name}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let timeout = arguments.timeout.map(Duration::from_secs);
    let effort = Effort { threads: arguments.threads, timeout, until: None };
    let configs = if arguments.all { Config::all() } else { vec![arguments.config()] };
    let mut is_well = true;
    for config in configs {
        let outcome = search(&config, &effort);
        is_well &= match config.mutation {
            None => outcome.holds(),
            Some(_) => outcome.broken().next().is_some(),
        };
        report(&config, &outcome);
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Arguments {
    fn config(&self) -> Config {
        let small = Config::small(self.cast);
        let steps_per_grace = self.steps.unwrap_or(small.pace.steps_per_grace);
        Config {
            secrets: self.secrets.unwrap_or(small.secrets),
            in_flight: self.in_flight.unwrap_or(small.in_flight),
            acts: self.acts.unwrap_or(small.acts),
            cuts_off: self.cuts_off,
            expires: self.expires,
            pace: Pace { steps_per_grace },
            latest: self.latest.unwrap_or(steps_per_grace),
            mutation: self.without,
            ..small
        }
    }
}

fn report(config: &Config, outcome: &Outcome) {
    println!("\n{config}");
    let seconds = outcome.time.as_secs_f64();
    println!("  {} states, depth {}, {seconds:.1} s", outcome.states, outcome.depth);
    if outcome.is_stopped {
        println!("  time was up before all was searched");
    }
    let is_broken = outcome.broken().next().is_some();
    for verdict in &outcome.verdicts {
        let says = match (verdict.is_always, verdict.holds) {
            (true, true) if is_broken || outcome.is_stopped => "not broken so far",
            (true, true) => "holds",
            (true, false) => "BROKEN",
            (false, true) => "possible",
            (false, false) if is_broken || outcome.is_stopped => "not seen so far",
            (false, false) => "NEVER SEEN",
        };
        println!("  {says}: {}", verdict.name);
    }
    for verdict in outcome.broken() {
        if let Some(path) = &verdict.path {
            print!("  how to break: {}\n{}", verdict.name, Trace(path));
        }
    }
}
