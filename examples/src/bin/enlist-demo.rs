//! All of Enlist in one process: a server on SQLite, a host that enrols over real HTTP, and its agent reporting what
//! this machine does. `enlist-demo`, or `enlist-demo --for 10s`.

#![allow(clippy::print_stdout, reason = "a demo prints")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use enlist_agent_sdk::{Agent, BoxError, Event, Events, InstallToken};
use enlist_core::fleet::EventFilter;
use enlist_core::host::{HostKind, HostName};
use enlist_core::policy::Actor;
use enlist_core::telemetry::{HostMetrics, Report};
use enlist_core::wire::{CreateHost, ReportStatus};
use enlist_core::{ActorId, Fleet, HostId};
use enlist_examples::logging;
use enlist_examples::server::{ServeArgs, Server, terminated};
use tokio::sync::oneshot;

/// A fleet of one, on this machine, with its real numbers.
#[derive(Debug, Parser)]
#[command(name = "enlist-demo", version)]
struct Args {
    /// End after this long, with a summary; otherwise at Ctrl-C.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Where to listen; any free port unless it is said.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    /// Keep the fleet in this directory; otherwise in a temporary one that is removed at the end.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

/// How often the demo's agent reports.
const INTERVAL: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logging::init("warn");
    match demo(args).await {
        Ok(summary) if summary.accepted > 0 => ExitCode::SUCCESS,
        Ok(_) => {
            tracing::error!("no report was accepted");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!(error = &*error as &dyn std::error::Error, "the demo cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: Args) -> Result<Summary, BoxError> {
    let temporary = tempfile::tempdir()?;
    let directory = args.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(directory)?;
    let mut server = Server::bind(&serve_args(directory, args.listen)?).await?;
    let (url, fleet) = (format!("http://{}", server.address()), server.fleet());
    println!("A fleet of one, kept in {}", directory.join("fleet.db").display());
    println!("  server   {url}");
    match server.new_admin_token() {
        Some(token) => println!("  look     curl -H 'Authorization: Bearer {token}' {url}/v1/hosts"),
        None => println!("  look     {url}/v1/hosts, with the administrator's token that the first start has shown"),
    }
    server.keep_admin_token()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async { drop(stopped.await) }));

    // As an administrator would: create the host, and hand its install token to the machine.
    let root = Actor::operator(ActorId::new("demo")?);
    let name = HostName::new(format!("this-machine-{}", std::process::id()))?;
    let created = fleet.admin(&root).create_host(CreateHost::new(name, HostKind::Byoc)).await?;
    let host_id = created.host.id;
    println!("  host     {} ({host_id})", created.host.name);
    let minted = created.install_token.ok_or("an install token comes with a new host")?;
    println!("  enrols   with install token {}, good until {}\n", minted.id, minted.expires_at);

    // As the machine would: everything from here on goes over HTTP.
    let (agent, events) = Agent::builder(&url)
        .state_dir(directory.join(format!("agent-{host_id}")))
        .install_token(InstallToken::new(minted.token.expose())?)
        .interval(INTERVAL)
        .agent_version(concat!("enlist-demo/", env!("CARGO_PKG_VERSION")))
        .open()
        .await?;
    let told = tokio::spawn(tell(events, fleet.clone(), root.clone(), host_id));
    let end = async {
        match args.duration {
            Some(duration) => tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = terminated() => {}
            },
            None => terminated().await,
        }
    };
    agent.run(end).await?;
    let mut summary = told.await?;
    summary.events = fleet.admin(&root).list_events(filter(host_id)).await?.items.len();
    summary.print();
    let _ = stop.send(());
    serving.await??;
    Ok(summary)
}

fn serve_args(directory: &Path, listen: std::net::SocketAddr) -> Result<ServeArgs, BoxError> {
    /// Only what the demo does not say keeps the server's defaults.
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        serve: ServeArgs,
    }
    let database = format!("sqlite://{}", directory.join("fleet.db").display()).into();
    let serve = Defaults::try_parse_from(["enlist-demo"])?.serve;
    Ok(ServeArgs { listen, database, report_interval: INTERVAL, drain: Duration::from_secs(2), ..serve })
}

fn filter(host_id: HostId) -> EventFilter {
    EventFilter { host_id: Some(host_id), limit: Some(500), ..EventFilter::default() }
}

/// What the demo has seen.
#[derive(Debug, Default)]
struct Summary {
    sent: usize,
    accepted: usize,
    events: usize,
}

impl Summary {
    fn print(&self) {
        println!(
            "\n{} of {} reports accepted and durable, {} events of this host.",
            self.accepted, self.sent, self.events
        );
    }
}

/// Prints each report, and what the server says of the host right after it.
async fn tell(mut events: Events, fleet: Fleet, root: Actor, host_id: HostId) -> Summary {
    let mut summary = Summary::default();
    while let Some(event) = events.next().await {
        match event {
            Event::Enrolled { host_id, .. } => {
                println!("enrolled as {host_id}; no reply carried the credential")
            }
            // The first one, which came with the enrolment.
            Event::CredentialChanged { .. } => {}
            Event::Reported { status, report, .. } => {
                summary.sent += 1;
                summary.accepted += usize::from(status == ReportStatus::Accepted);
                println!("report {:>2}  {status:?}: {}", summary.sent, numbers(&report));
                match fleet.admin(&root).host(host_id).await {
                    Ok(host) => println!(
                        "           the server says: {}, last seen {}, {} with {} CPUs",
                        host.status.as_str(),
                        host.last_seen_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
                        host.facts.os.as_deref().unwrap_or("an unknown system"),
                        host.facts.cpu_count.map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
                    ),
                    Err(error) => println!("           the server cannot say: {error}"),
                }
            }
            Event::ConnectivityLost { error } => println!("the server does not answer: {error}"),
            Event::ConnectivityRestored => println!("the server answers again"),
            Event::Refused { problem } => println!("refused: {} ({})", problem.code, problem.detail),
            other => println!("{other:?}"),
        }
    }
    summary
}

fn numbers(report: &Report) -> String {
    let HostMetrics {
        cpu_percent,
        load_1m,
        memory_used_bytes,
        memory_total_bytes,
        disk_used_bytes,
        disk_total_bytes,
        ..
    } = report.host.metrics;
    format!(
        "CPU {}, load {}, memory {} of {}, disk {} of {}",
        cpu_percent.map_or_else(|| "unknown".to_owned(), |percent| format!("{percent:.1} %")),
        load_1m.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}")),
        size(memory_used_bytes),
        size(memory_total_bytes),
        size(disk_used_bytes),
        size(disk_total_bytes),
    )
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "unknown".to_owned(),
        Some(bytes) => format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30)),
    }
}
