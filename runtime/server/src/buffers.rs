//! `tidegate buffers ...`: what waits on disk for stores, asked through the control socket.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;
use tidegate_store::buffers::{BufferReport, Retried};

use crate::cli::ServerArgs;
use crate::columns::columns;
use crate::control::buffers::{Buffers, Chosen, Dropped, Show, Shown, What};
use crate::control::client;
use crate::modules::finish;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum BuffersCommand {
    /// List what waits for each connector: operations on disk because their database is down, and dead letters.
    List(AllArgs),
    /// Print what waits for a connector: its dead letters with the reason of each, or with --buffered the oldest operations
    /// that wait on disk.
    Show(ShowArgs),
    /// Run dead letters again, all or those named, and ask the database now whether it takes what waits on disk.
    ///
    /// Exit status: 0 when nothing was refused again and nothing is left waiting, 1 otherwise.
    Retry(RetryArgs),
    /// Remove dead letters, all or those named; with --buffered operations that wait on disk. They are lost.
    Drop(DropArgs),
}

/// Flags of `buffers list`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AllArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `buffers show`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    /// Connector, as `buffers list` names it
    connector: String,
    /// Operations that wait on disk, not dead letters
    #[arg(long)]
    buffered: bool,
    /// How many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    all: AllArgs,
}

/// Flags of `buffers retry`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RetryArgs {
    /// Connector, as `buffers list` names it
    connector: String,
    /// Ids, as `buffers show` prints them [default: all]
    ids: Vec<String>,
    #[command(flatten)]
    all: AllArgs,
}

/// Flags of `buffers drop`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DropArgs {
    /// Connector, as `buffers list` names it
    connector: String,
    /// Ids, as `buffers show` prints them
    #[arg(required_unless_present = "every")]
    ids: Vec<String>,
    /// All of them
    #[arg(long = "all", conflicts_with = "ids")]
    every: bool,
    /// Operations that wait on disk, not dead letters
    #[arg(long)]
    buffered: bool,
    #[command(flatten)]
    all: AllArgs,
}

/// Does what the command line says.
pub(crate) fn main(command: &BuffersCommand) -> ExitCode {
    match command {
        BuffersCommand::List(args) => {
            finish(client::get::<Buffers>(&args.server.data, "/v1/buffers"), args.json, table)
        }
        BuffersCommand::Show(args) => {
            let show =
                Show { connector: args.connector.clone(), what: what(args.buffered), limit: args.limit };
            let shown = client::post(&args.all.server.data, "/v1/buffers/show", &show);
            finish(shown.and_then(|answer| answer.json::<Shown>()), args.all.json, lines)
        }
        BuffersCommand::Retry(args) => retry(args),
        BuffersCommand::Drop(args) => {
            let chosen = Chosen {
                connector: args.connector.clone(),
                what: what(args.buffered),
                ids: args.ids.clone(),
            };
            let dropped = client::post(&args.all.server.data, "/v1/buffers/drop", &chosen);
            let told = |done: &Dropped| format!("{}: {} dropped\n", args.connector, done.dropped);
            finish(dropped.and_then(|answer| answer.json::<Dropped>()), args.all.json, told)
        }
    }
}

fn what(buffered: bool) -> What {
    if buffered { What::Buffered } else { What::Dead }
}

fn retry(args: &RetryArgs) -> ExitCode {
    let chosen = Chosen { connector: args.connector.clone(), what: What::Dead, ids: args.ids.clone() };
    let retried = client::post(&args.all.server.data, "/v1/buffers/retry", &chosen)
        .and_then(|answer| answer.json::<Retried>());
    let is_well = retried.as_ref().is_ok_and(|done| done.refused == 0 && done.waiting == 0);
    let told = |done: &Retried| {
        let Retried { stored, refused, waiting, buffered } = done;
        format!(
            "{}: dead letters: {stored} stored, {refused} refused again, {waiting} not decided; {buffered} operations \
             wait on disk\n",
            args.connector
        )
    };
    match finish(retried, args.all.json, told) {
        code if is_well => code,
        _ => ExitCode::FAILURE,
    }
}

/// Titles of the columns.
const TITLES: [&str; 5] = ["CONNECTOR", "BUFFERED", "BYTES", "SINCE", "DEAD"];

fn table(all: &Buffers) -> String {
    let mut rows = vec![TITLES.map(String::from)];
    rows.extend(all.buffers.iter().map(row));
    let mut text = columns(&rows, &[1, 2, 4]);
    for report in all.buffers.iter().filter(|report| !report.configured) {
        text.push_str(&format!("not configured: {}: what waits is kept\n", report.connector));
    }
    text
}

fn row(report: &BufferReport) -> [String; 5] {
    // A damaged record may have any time: those after the year 9999 have no such form.
    let since = report.oldest_ms.filter(|ms| *ms < 253_402_300_800_000);
    let since = since.map(|ms| {
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms))
            .to_string()
    });
    [
        report.connector.clone(),
        report.buffered.to_string(),
        report.buffered_bytes.to_string(),
        since.unwrap_or_else(|| "-".into()),
        report.dead.to_string(),
    ]
}

/// An object a line.
fn lines(shown: &Shown) -> String {
    let line = |entry: &Value| format!("{entry}\n");
    if shown.entries.is_empty() { "nothing\n".into() } else { shown.entries.iter().map(line).collect() }
}
