//! `tidegate-bench [ROW...]`: runs the rows and prints a table.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate_bench::allocations::Counting;
use tidegate_bench::peer::Peer;
use tidegate_bench::process;
use tidegate_bench::report::Report;
use tidegate_bench::row::{self, Bench, Row};

/// Row `call` counts allocations.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs the benches. Our binary is found by TIDEGATE_BIN or beside this one.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    /// Rows to run; all when none is named.
    rows: Vec<Row>,
    /// A few seconds a row.
    #[arg(long)]
    quick: bool,
    /// Write JSON lines to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take a profile of our server with perf and print where the time goes.
    #[arg(long)]
    profile: bool,
    /// Rounds of every case.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only cases whose name contains this: "QoS 0", "open loop", "1 -> 100".
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Only these peers: tidegate, rumqttd, mosquitto.
    #[arg(long, value_delimiter = ',', value_name = "PEER,..")]
    peers: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// A process that loads modules and tells what they weigh, as a child process of a bench.
    #[command(hide = true, name = "weigh-modules")]
    WeighModules {
        /// The directory of modules.
        modules: PathBuf,
        /// Their artefacts.
        artefacts: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    process::raise_file_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(Hidden::WeighModules { modules, artefacts }) = &arguments.hidden {
        return runtime.block_on(row::weigh(modules, artefacts));
    }
    runtime.block_on(bench(arguments))
}

async fn bench(arguments: Arguments) -> anyhow::Result<()> {
    let mut report = Report::new(arguments.json.as_deref())?;
    let tidegate = find_tidegate()?;
    let mut peers = vec![Peer::Rumqttd(find_rumqttd()?)];
    match &tidegate {
        Some(path) => peers.insert(0, Peer::Tidegate(path.clone())),
        None => report.line(
            "tidegate is not measured: TIDEGATE_BIN is not set and no `tidegate` lies beside this binary",
        ),
    }
    match ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .map(PathBuf::from)
        .into_iter()
        .find(|p| p.is_file())
    {
        Some(path) => peers.push(Peer::Mosquitto(path)),
        None => report
            .line("mosquitto is not measured: /usr/sbin/mosquitto is missing (Debian package mosquitto)"),
    }
    if !arguments.peers.is_empty() {
        peers.retain(|peer| arguments.peers.iter().any(|name| name == peer.name()));
    }
    anyhow::ensure!(!peers.is_empty(), "--peers names none of the servers that are here");
    report.line(&machine());
    let mut bench = Bench {
        tidegate,
        peers,
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 }),
        asked_rounds: arguments.rounds,
        span: Bench::span(arguments.quick),
        quick: arguments.quick,
        profile: arguments.profile,
        case: arguments.case,
        any: Cell::new(false),
        report,
    };
    let rows = if arguments.rows.is_empty() { Row::ALL.to_vec() } else { arguments.rows };
    for (number, row) in (1_usize..).zip(&rows) {
        bench.report.progress(&format!("row {number} of {}: {}", rows.len(), row.name()));
        if let Err(error) = bench.run(*row).await {
            bench.report.failed(row.name(), &error);
        }
    }
    if let (Some(case), false) = (&bench.case, bench.any.get()) {
        bench.report.failed("--case", &anyhow::anyhow!("no case of these rows has {case:?} in its name"));
    }
    bench.report.finish()
}

/// What the numbers were measured on, and whether anything else was running.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} processors shared by server and load generator; load average before the run: {load}")
}

fn find_tidegate() -> anyhow::Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN").map(PathBuf::from) {
        anyhow::ensure!(path.is_file(), "TIDEGATE_BIN: {} is no file", path.display());
        return Ok(Some(path));
    }
    let beside = std::env::current_exe()?.with_file_name("tidegate");
    Ok(beside.is_file().then_some(beside))
}

/// rumqttd's own program, which is needed for TLS alone.
fn find_rumqttd() -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os("RUMQTTD_BIN").map(PathBuf::from) else { return Ok(None) };
    anyhow::ensure!(path.is_file(), "RUMQTTD_BIN: {} is no file", path.display());
    Ok(Some(path))
}
