//! `tidegate modules ...`: the client's side of the control socket, and what needs no server.

mod request;
mod sheet;
mod table;
mod words;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use crate::api::report::{FailureReport, Modules};
use crate::cli::{InspectArgs, ListArgs, LoadArgs, LogsArgs, NamedArgs, printable};
use crate::config::Config;
use crate::control::messages::{Inspected, Listing, LoadFile, LogsOf, Named, Served, TrialEnded, Unloaded};
use crate::control::{MODULE, Refusal, client, look_at};
use crate::logging::module_lines::Line;

/// Where the API is when nothing is said.
const DEFAULT_API: ([u8; 4], u16) = ([127, 0, 0, 1], 18083);

/// Prints the list; exit status 1 when it cannot be had.
pub(crate) fn list(args: &ListArgs) -> ExitCode {
    let listing = if args.offline { load_all(&args.modules) } else { ask(args) };
    finish(listing, args.json, table::render)
}

/// Prints what a module is; exit status 1 when there is none.
pub(crate) fn inspect(args: &InspectArgs) -> ExitCode {
    let inspected = if is_file(&args.what) {
        inspect_file(Path::new(&args.what)).map_err(anyhow::Error::new)
    } else {
        named(&args.server.data, "inspect", &args.what)
    };
    finish(inspected, args.json, sheet::render)
}

/// Loads a file or brings a module back; exit status 1 when it is refused.
pub(crate) fn load(args: &LoadArgs) -> ExitCode {
    let served = if is_file(&args.what) {
        load_file(args)
    } else if args.replace {
        Err(anyhow::anyhow!(
            "--replace puts a file in the place of a module; {:?} is no .wasm file",
            args.what
        ))
    } else {
        named(&args.server.data, "enable", &args.what)
    };
    finish(served, args.json, serves)
}

/// Takes a module out of service; exit status 1 when it cannot be.
pub(crate) fn unload(args: &NamedArgs) -> ExitCode {
    let unloaded = named(&args.server.data, "unload", &args.name);
    finish(unloaded, args.json, |unloaded: &Unloaded| {
        let (name, path) = (&unloaded.name, unloaded.path.display());
        format!("{name}: unloaded after {} ms; its file is kept as {path}\n", unloaded.took_ms)
    })
}

/// Loads a module again; exit status 1 when it is refused.
pub(crate) fn reload(args: &NamedArgs) -> ExitCode {
    finish(named(&args.server.data, "reload", &args.name), args.json, serves)
}

/// Ends a trial in favour of the new version; exit status 1 when there is none.
pub(crate) fn promote(args: &NamedArgs) -> ExitCode {
    finish(named(&args.server.data, "promote", &args.name), args.json, trial_ended)
}

/// Ends a trial in favour of the version before; exit status 1 when there is none.
pub(crate) fn roll_back(args: &NamedArgs) -> ExitCode {
    finish(named(&args.server.data, "rollback", &args.name), args.json, trial_ended)
}

fn trial_ended(ended: &TrialEnded) -> String {
    let (serves, gone) = (words::short(&ended.version), words::short(&ended.gone));
    format!("{}: version {serves} serves all clients; version {gone} serves no longer\n", ended.name)
}

/// Prints lines of a module; exit status 1 when there is none or the server goes.
pub(crate) fn logs(args: &LogsArgs) -> ExitCode {
    match print_logs(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn print_logs(args: &LogsArgs) -> anyhow::Result<()> {
    let request = LogsOf { name: args.name.clone(), lines: args.lines, follow: args.follow };
    let answer = client::post(&args.server.data, "/v1/modules/logs", &request)?;
    let mut out = std::io::stdout().lock();
    for line in answer.lines() {
        let line = line.context("the server is gone")?;
        let shown = if args.json {
            line
        } else {
            let line: Line =
                serde_json::from_str(&line).context("the server's answer is of another version")?;
            printable(&line.to_string()).into_owned()
        };
        // Who reads no further, as `head` does, has what it wants.
        if writeln!(out, "{shown}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    if args.follow { Err(anyhow::anyhow!("the server has stopped")) } else { Ok(()) }
}

/// A name has no such ending: the names of files are told apart by it.
fn is_file(what: &str) -> bool {
    Path::new(what).extension().is_some_and(|extension| extension == MODULE)
}

fn named<T: serde::de::DeserializeOwned>(data: &Path, command: &str, name: &str) -> anyhow::Result<T> {
    let request = Named { name: name.to_owned() };
    client::post(data, &format!("/v1/modules/{command}"), &request)?.json()
}

fn load_file(args: &LoadArgs) -> anyhow::Result<Served> {
    let file = std::fs::canonicalize(&args.what).with_context(|| args.what.clone())?;
    // The link's own name is the module's.
    let file = match Path::new(&args.what).file_name() {
        Some(name) if file.file_name() != Some(name) => std::path::absolute(&args.what)?,
        _ => file,
    };
    let request = LoadFile { file, replace: args.replace };
    client::post(&args.server.data, "/v1/modules/load", &request)?.json()
}

fn inspect_file(path: &Path) -> Result<Inspected, Refusal> {
    let (file, requested) = look_at(path, path, Config::default().host.max_module_bytes)?;
    Ok(Inspected {
        name: path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        path: path.to_owned(),
        file,
        requested,
        granted: None,
        serving: None,
        failure: None,
        unloaded: false,
    })
}

fn serves(served: &Served) -> String {
    let mut text = format!(
        "{}: version {} serves after {} ms (compile {} ms, from cache {})",
        served.name,
        words::short(&served.version),
        served.took_ms,
        served.compile_ms,
        if served.from_cache { "yes" } else { "no" },
    );
    if let Some(before) = served.before.as_ref().filter(|before| **before != served.version) {
        text.push_str(&format!("; before it {}", words::short(before)));
    }
    text.push('\n');
    text
}

/// Prints what came of a command.
/// Prints `result`, as JSON or as `text` has it; the exit status.
pub(crate) fn finish<T: Serialize>(
    result: anyhow::Result<T>,
    json: bool,
    text: impl Fn(&T) -> String,
) -> ExitCode {
    match result {
        Ok(value) if json => match serde_json::to_string_pretty(&value) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => crate::cli::fail(&error),
        },
        Ok(value) => {
            print!("{}", printable(&text(&value)));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", printable(&format!("{error:#}")));
    ExitCode::FAILURE
}

/// Asks the API that was named, else the control socket, else the API where it is by default.
fn ask(args: &ListArgs) -> anyhow::Result<Listing> {
    if args.api.is_none() && client::is_there(&args.server.data) {
        return client::get(&args.server.data, "/v1/modules");
    }
    let api = args.api.unwrap_or_else(|| SocketAddr::from(DEFAULT_API));
    let body = request::get(api, "/api/v1/modules").with_context(|| {
        format!(
            "no tidegate server answers on {api} (is it running? --data names its data directory, --api another \
             address, --offline looks at the files)"
        )
    })?;
    serde_json::from_slice(&body).with_context(|| format!("{api} is no tidegate server"))
}

/// Loads every file of the directory, calls none.
fn load_all(dir: &Path) -> anyhow::Result<Listing> {
    let cache = crate::check::scratch_dir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let host = crate::check::host_config(&Config::default(), &cache);
    let stores = runtime.block_on(crate::check::default_stores(&cache))?;
    let results = runtime.block_on(crate::check::load_modules(dir, host, stores))?;
    let mut list = Modules::default();
    for (path, result) in results {
        match result {
            Ok(module) => list.modules.push(crate::status::report(&module)),
            Err(error) => {
                list.failures.push(FailureReport {
                    path: path.display().to_string(),
                    error,
                    mandatory: false,
                });
            }
        }
    }
    list.modules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    Ok(Listing { modules: list, unloaded: Vec::new() })
}
