//! Enlist, the baseline and the floor alternately, so that a machine's moods meet all of them.

mod contract;
mod count;
mod grow;
mod place;
mod postgres;
mod program;
mod scale;
mod table;
mod target;
mod victoria;

use std::io::Write;
use std::time::Duration;

use clap::ValueEnum;

use crate::floor::Layout;
use crate::history::{HALF_A_MINUTE, History};
use crate::load::{self, Outcome, Plan, Protocol};
use crate::{Error, clock};
use contract::{Appended, Appending};
use count::count;
use grow::{Grown, GrownFloor};
use victoria::Victoria;

pub use place::Place;
pub use postgres::{PostgresServer, postgres_server};
pub use program::build;
pub use scale::{Scale, Scaled, scale};
pub(crate) use table::layout_name;
pub use table::{Line, Target, lines, markdown, number};
pub(crate) use target::Contestant;

/// On what engine to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The bundled SQLite, on a file in the temporary directory.
    Sqlite,
    /// The server of ENLIST_TEST_POSTGRES_URL, or one of its own that flushes.
    Postgres,
}

impl Engine {
    /// As it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// The layouts of the floor on it; SQLite's has none to choose from.
    const fn layouts(self) -> &'static [Option<Layout>] {
        match self {
            Self::Sqlite => &[None],
            Self::Postgres => &[Some(Layout::Usual), Some(Layout::Arrays)],
        }
    }
}

/// How to compare.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// On what.
    pub engine: Engine,
    /// How often each has its turn.
    pub rounds: usize,
    /// Hosts that report.
    pub hosts: u32,
    /// How many report at a time.
    pub connections: usize,
    /// Load that is not measured.
    pub warm_up: Duration,
    /// Load that is.
    pub duration: Duration,
    /// Reports that are there before.
    pub before: u32,
    /// Reports that are stored straight into the engine and into the store contract at each turn.
    pub straight: u32,
    /// Whether VictoriaMetrics has turns, too.
    pub with_victoria: bool,
}

/// What came of it: turn by turn.
#[derive(Debug)]
pub struct Results {
    /// What was compared.
    pub comparison: Comparison,
    /// The version of PostgreSQL, if that was it.
    pub postgres_version: Option<String>,
    /// Rows of snapshots that were there before.
    pub rows_before: u64,
    /// The baseline.
    pub baseline: Vec<Turn>,
    /// `enlist-server`.
    pub enlist: Vec<Turn>,
    /// Reports by second, by layout.
    pub floors: Vec<(Option<Layout>, Vec<f64>)>,
    /// Reports by second of the store contract.
    pub contract: Vec<f64>,
    /// Its version and its turns, if it was asked for.
    pub victoria: Option<(String, Vec<Turn>)>,
}

/// A turn of a server.
#[derive(Debug, Clone)]
pub struct Turn {
    /// What the load saw.
    pub outcome: Outcome,
    /// By how much the database grew, by reports of this turn.
    pub bytes_added: f64,
    /// The whole of it, by all its reports.
    pub bytes_overall: f64,
}

/// Compares, and tells on `output` how it goes.
///
/// # Errors
/// When a server does not start, or when rows are missing or there twice: then no figure is worth anything.
pub async fn compare(comparison: Comparison, output: &mut dyn Write) -> Result<Results, Error> {
    let mut arena = Arena::prepare(comparison, output).await?;
    for round in 0..comparison.rounds {
        for kind in alternate(arena.turns(), round) {
            let said = arena.turn(kind).await?;
            writeln!(output, "round {}, {said}", round + 1)?;
            output.flush()?;
        }
    }
    Ok(arena.results)
}

/// The order of a round: none always comes first, or after the same other.
fn alternate<T>(mut turns: Vec<T>, round: usize) -> Vec<T> {
    let first = (round / 2) % turns.len().max(1);
    turns.rotate_left(first);
    if round % 2 == 1 {
        turns.reverse();
    }
    turns
}

/// Who has a turn.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Server(Contestant),
    Floor(usize),
    Contract,
    Victoria,
}

/// What turns start from, and what came of them so far.
struct Arena {
    postgres: Option<PostgresServer>,
    history: History,
    baseline: Grown,
    enlist: Grown,
    floors: Vec<GrownFloor>,
    results: Results,
}

impl Arena {
    async fn prepare(comparison: Comparison, output: &mut dyn Write) -> Result<Self, Error> {
        let Comparison { engine, hosts, before, straight, .. } = comparison;
        let victoria = match comparison.with_victoria {
            true => Some((victoria::version().await?, Vec::new())),
            false => None,
        };
        let postgres = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(postgres_server().await?),
        };
        let server = postgres.as_ref();
        // With room for what the contract appends: that goes on where the past ends, and stays before now.
        let room = u64::from(before) + 2 * u64::from(straight) + u64::from(hosts);
        let history = History::before(clock::unix_micros(), hosts, room, HALF_A_MINUTE);
        writeln!(output, "growing {before} reports for each; the clock does not run yet")?;
        output.flush()?;
        let baseline = Grown::new(Contestant::Baseline, server, history, before).await?;
        let enlist = Grown::new(Contestant::Enlist, server, history, before).await?;
        let mut floors = Vec::new();
        for layout in engine.layouts() {
            floors.push(GrownFloor::new(*layout, server, hosts, before).await?);
        }
        let rows_before = enlist.rows.snapshots();
        writeln!(output, "{rows_before} rows of snapshots are there, counted")?;
        let results = Results {
            comparison,
            postgres_version: server.map(|server| server.version().to_owned()),
            rows_before,
            baseline: Vec::new(),
            enlist: Vec::new(),
            floors: engine.layouts().iter().map(|layout| (*layout, Vec::new())).collect(),
            contract: Vec::new(),
            victoria,
        };
        Ok(Self { postgres, history, baseline, enlist, floors, results })
    }

    fn turns(&self) -> Vec<Kind> {
        let mut turns = vec![Kind::Server(Contestant::Baseline), Kind::Server(Contestant::Enlist)];
        turns.extend((0..self.floors.len()).map(Kind::Floor));
        turns.push(Kind::Contract);
        turns.extend(self.results.victoria.is_some().then_some(Kind::Victoria));
        turns
    }

    /// Gives one its turn; what there is to say of it.
    async fn turn(&mut self, kind: Kind) -> Result<String, Error> {
        let straight = self.results.comparison.straight;
        match kind {
            Kind::Server(contestant) => {
                let (turn, said) = self.server(contestant).await?;
                match contestant {
                    Contestant::Baseline => self.results.baseline.push(turn),
                    Contestant::Enlist => self.results.enlist.push(turn),
                }
                Ok(said)
            }
            Kind::Floor(number) => {
                let rate = self.floors[number].turn(self.postgres.as_ref(), straight / 10, straight).await?;
                let (layout, rates) = &mut self.results.floors[number];
                rates.push(rate);
                Ok(format!("floor{}: {rate:.0} reports/s", layout_name(*layout)))
            }
            Kind::Contract => {
                let Appended { rate, micros, postgres_micros, .. } = self.contract().await?;
                self.results.contract.push(rate);
                let postgres =
                    postgres_micros.map_or_else(String::new, |micros| format!(", in PostgreSQL {micros:.0} µs"));
                Ok(format!("store contract: {rate:.0} reports/s, CPU {micros:.0} µs a report{postgres}"))
            }
            Kind::Victoria => {
                let (turn, said) = self.victoria().await?;
                if let Some((_, turns)) = &mut self.results.victoria {
                    turns.push(turn);
                }
                Ok(said)
            }
        }
    }

    async fn server(&self, contestant: Contestant) -> Result<(Turn, String), Error> {
        let grown = match contestant {
            Contestant::Baseline => &self.baseline,
            Contestant::Enlist => &self.enlist,
        };
        let Comparison { connections, warm_up, duration, .. } = self.results.comparison;
        let load = ServerLoad { connections, warm_up, duration, history: self.history };
        load.turn(contestant, grown, self.postgres.as_ref()).await
    }

    async fn contract(&self) -> Result<Appended, Error> {
        let straight = self.results.comparison.straight;
        let appending = Appending {
            history: self.history,
            there: self.enlist.rows.reports,
            warm_up: straight / 10,
            reports: straight,
            retention: false,
            postmaster: self.postgres.as_ref().map(PostgresServer::postmaster).transpose()?.flatten(),
        };
        append_to_copy(&self.enlist, self.postgres.as_ref(), appending).await
    }

    async fn victoria(&self) -> Result<(Turn, String), Error> {
        let Comparison { connections, warm_up, duration, .. } = self.results.comparison;
        let victoria = Victoria::start().await?;
        let plan = Plan {
            address: victoria.address,
            protocol: Protocol::Influx,
            tokens: vec![String::new(); self.history.hosts as usize].into(),
            connections,
            first_sequence: self.history.sequence_after(self.enlist.rows.reports),
            warm_up,
            duration,
            server_pid: Some(victoria.pid),
            postmaster_pid: None,
        };
        let outcome = load::run(&plan).await?;
        let rows = victoria.count(outcome.acknowledged).await?;
        rows.judge_load(0, &outcome).map_err(|wrong| format!("{}: {wrong}", victoria::PROGRAM))?;
        let bytes = victoria.stop().await?;
        let of_each = bytes as f64 / rows.reports.max(1) as f64;
        let said = format!("{}: {outcome}\n    {} acknowledged, all there", victoria::PROGRAM, outcome.acknowledged);
        Ok((Turn { outcome, bytes_added: of_each, bytes_overall: of_each }, said))
    }
}

/// A load on a server that starts on a copy.
#[derive(Debug, Clone, Copy)]
struct ServerLoad {
    connections: usize,
    warm_up: Duration,
    duration: Duration,
    history: History,
}

impl ServerLoad {
    async fn turn(
        self,
        contestant: Contestant,
        grown: &Grown,
        postgres: Option<&PostgresServer>,
    ) -> Result<(Turn, String), Error> {
        let name = contestant.name();
        let place = grown.place.copy(postgres, name).await?;
        let mut target = target::Target::start(contestant, &place, grown).await?;
        let before = grown.rows.reports;
        let plan = Plan {
            address: target.address,
            protocol: Protocol::Enlist,
            tokens: target.tokens.clone(),
            connections: self.connections,
            first_sequence: self.history.sequence_after(before),
            warm_up: self.warm_up,
            duration: self.duration,
            server_pid: Some(target.pid),
            postmaster_pid: postgres.map(PostgresServer::postmaster).transpose()?.flatten(),
        };
        let outcome = load::run(&plan).await?;
        target.kill().await?;
        let rows = count(&place, contestant).await?;
        rows.judge_load(before, &outcome).map_err(|wrong| format!("{name}: {wrong}"))?;
        let bytes = place.bytes().await?;
        let added = rows.reports - before;
        let turn = Turn {
            bytes_added: bytes.saturating_sub(grown.bytes) as f64 / added.max(1) as f64,
            bytes_overall: bytes as f64 / rows.reports.max(1) as f64,
            outcome,
        };
        let said = format!(
            "{name}: {}\n    {} acknowledged, {} + {added} rows of reports and {} of containers are there; \
             {:.0} bytes on disk a report, {:.0} with those from before",
            turn.outcome, turn.outcome.acknowledged, before, rows.containers, turn.bytes_added, turn.bytes_overall
        );
        Ok((turn, said))
    }
}

/// Appends to a copy of what was grown, and counts.
async fn append_to_copy(
    grown: &Grown,
    postgres: Option<&PostgresServer>,
    appending: Appending,
) -> Result<Appended, Error> {
    let place = grown.place.copy(postgres, "contract").await?;
    let appended = contract::append(&place, &grown.hosts_file(), appending).await?;
    let rows = count(&place, Contestant::Enlist).await?;
    rows.judge(appended.left, 0, 0).map_err(|wrong| format!("store contract: {wrong}"))?;
    Ok(appended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_both_ways_and_begin_with_each() {
        let rounds: Vec<Vec<u8>> = (0..4).map(|round| alternate(vec![1, 2, 3], round)).collect();
        assert_eq!(rounds, [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]]);
        assert!(alternate(Vec::<u8>::new(), 1).is_empty());
    }
}
