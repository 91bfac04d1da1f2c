//! The report of a comparison: a page and its pictures, from which anybody can repeat it.

mod plot;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::compare::{Engine, Results, Scale, Scaled, lines, markdown, number};
use crate::machine::Machine;
use crate::{Error, clock};

/// Writes `ingest-ENGINE-CONNECTIONS.md` and its pictures into a folder, and gives the page's path.
///
/// # Errors
/// When it cannot be written.
pub fn write(folder: &Path, results: &Results, arguments: &[String]) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(folder)?;
    let comparison = results.comparison;
    let name = format!("ingest-{}-{}", comparison.engine.name().to_lowercase(), comparison.connections);
    for (picture, svg) in
        [("rates", plot::rates(results)?), ("latency", plot::latencies(results)?), ("cpu", plot::cpu(results)?)]
    {
        std::fs::write(folder.join(format!("{name}-{picture}.svg")), svg)?;
    }
    let page = folder.join(format!("{name}.md"));
    std::fs::write(&page, text(results, &name, arguments, &Machine::read())?)?;
    Ok(page)
}

/// Writes `scale-ENGINE.md` into a folder, and gives its path.
///
/// # Errors
/// When it cannot be written.
pub fn write_scale(folder: &Path, scale: &Scale, scaled: &Scaled, arguments: &[String]) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(folder)?;
    let engine = scale.engine.name();
    let software: Vec<String> = scaled.postgres_version.iter().map(|version| format!("PostgreSQL {version}")).collect();
    let title = format!("What a report costs on {engine}, by size");
    let command = format!("enlist-benches --bin scale -- {}", said(arguments));
    let mut text = head(&title, &command, &Machine::read(), &software, LOADED);
    let rounds = scale.rounds;
    writeln!(text, "Medians of {rounds} turns, alternately; what was stored was counted after each.")?;
    text += &scaled.tables;
    let page = folder.join(format!("scale-{}.md", engine.to_lowercase()));
    std::fs::write(&page, text)?;
    Ok(page)
}

/// Writes `administration-ENGINE.md` into a folder, and gives its path.
///
/// # Errors
/// When it cannot be written.
pub fn write_administration(
    folder: &Path,
    engine: Engine,
    postgres_version: Option<&str>,
    figures: &str,
    arguments: &[String],
) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(folder)?;
    let software: Vec<String> = postgres_version.iter().map(|version| format!("PostgreSQL {version}")).collect();
    let title = format!("Administration of a large fleet on {}", engine.name());
    let command = format!("enlist-benches-contract --bin administration -- {}", said(arguments));
    let closing = "Whoever asks runs in the same process as the library.";
    let text = head(&title, &command, &Machine::read(), &software, closing) + figures;
    let page = folder.join(format!("administration-{}.md", engine.name().to_lowercase()));
    std::fs::write(&page, text)?;
    Ok(page)
}

/// Who has loaded a server, and where from.
const LOADED: &str = "The load generator runs on the same machine.";

fn text(results: &Results, name: &str, arguments: &[String], machine: &Machine) -> Result<String, Error> {
    let comparison = results.comparison;
    let connections = match comparison.connections {
        1 => "one connection".to_owned(),
        many => format!("{many} connections"),
    };
    let postgres = results.postgres_version.iter().map(|version| format!("PostgreSQL {version}"));
    let software: Vec<String> = postgres.chain(results.victoria.iter().map(|(version, _)| version.clone())).collect();
    let title = format!("Ingest on {}, {connections}", comparison.engine.name());
    let command = format!("enlist-benches --bin ingest-load -- {}", said(arguments));
    let mut text = head(&title, &command, machine, &software, LOADED);
    writeln!(
        text,
        "{} hosts with 10 containers each; {} rows of snapshots were there before each turn. Each had {} turns, \
         alternately, of {} s after {} s of warm-up; the floor and the store contract store {} reports, 100 at a time. \
         What was acknowledged was counted in the database after each turn.\n",
        number(f64::from(comparison.hosts), 0),
        number(results.rows_before as f64, 0),
        comparison.rounds,
        comparison.duration.as_secs(),
        comparison.warm_up.as_secs(),
        number(f64::from(comparison.straight), 0),
    )?;
    writeln!(text, "{}", markdown(&lines(results)))?;
    writeln!(text, "A ratio is one of medians; its range is that of the ratios of the rounds.\n")?;
    writeln!(text, "![Reports by second]({name}-rates.svg)\n")?;
    writeln!(text, "![Latency by percentile]({name}-latency.svg)\n")?;
    writeln!(text, "![CPU a report]({name}-cpu.svg)")?;
    Ok(text)
}

/// What was run, and where.
fn head(title: &str, command: &str, machine: &Machine, software: &[String], closing: &str) -> String {
    let Machine { cpus, cpu_model, memory, kernel, file_system } = machine;
    let gib = *memory as f64 / f64::from(1 << 30);
    let software: String = software.iter().map(|name| format!("; {name}")).collect();
    let command = format!("cargo run --release -p {command}");
    format!(
        "# {title}\n\nMeasured on {} by\n\n```sh\n{}\n```\n\non {cpus} CPUs ({cpu_model}), {gib:.1} GiB of memory, \
         Linux {kernel}, files on {file_system}{software}. {closing}\n\n",
        date(),
        command.trim_end_matches(" -- ").trim_end(),
    )
}

/// The arguments as they were given, but for where the report goes: that is a path of this machine.
fn said(arguments: &[String]) -> String {
    let mut said = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--report" => drop(arguments.next()),
            path if path.starts_with("--report=") => {}
            _ => said.push(argument.as_str()),
        }
    }
    said.join(" ")
}

fn date() -> String {
    let now = OffsetDateTime::from_unix_timestamp(clock::unix_micros() / 1_000_000);
    now.map_or_else(|_| "an unknown day".to_owned(), |now| now.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_the_machine_is_said() {
        let said_of = |words: &[&str]| said(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(said_of(&["--compare", "--report", "/some/where", "--rounds", "3"]), "--compare --rounds 3");
        assert_eq!(said_of(&["--report=/some/where", "--compare"]), "--compare");
    }

    #[test]
    fn a_page_says_how_to_repeat_it() {
        let machine = Machine {
            cpus: 2,
            cpu_model: "a CPU".to_owned(),
            memory: 3 << 29,
            kernel: "6.1".to_owned(),
            file_system: "ext4".to_owned(),
        };
        let head = |command: &str| head("title", command, &machine, &["PostgreSQL 15".to_owned()], "So it was.");
        let page = head("enlist-benches --bin scale -- --rows 1");
        assert!(page.starts_with("# title\n"), "{page}");
        assert!(page.contains("\ncargo run --release -p enlist-benches --bin scale -- --rows 1\n"), "{page}");
        assert!(
            page.contains("2 CPUs (a CPU), 1.5 GiB of memory, Linux 6.1, files on ext4; PostgreSQL 15. So it was."),
            "{page}"
        );
        assert!(head("enlist-benches --bin scale -- ").contains("--bin scale\n"));
    }
}
