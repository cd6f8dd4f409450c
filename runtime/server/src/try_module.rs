//! `tidegate test`: one module and some events, without a server. What the module asks for is written down and
//! answered with success.

mod event;
mod fields;
mod leave;
mod record;
mod replies;
mod report;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use tidegate_event::{IdSource, Node, Scope, Tenant};
use tidegate_module::{Host, HostConfig, Module, Terms};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{TestArgs, printable};
use crate::config::Config;
use crate::logging::module_lines::{Line, ModuleLines};
use record::Recorder;
use report::{Outcome, Start};

/// Instances at once: events come one after the other.
const MAX_INSTANCES: u32 = 8;

/// Runs it; exit status 1 when a call gave no answer or an input is wrong.
pub(crate) fn main(args: &TestArgs) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Whether every call gave an answer.
fn run(args: &TestArgs) -> anyhow::Result<bool> {
    let node = Arc::new(Node::default());
    let ids = Arc::new(IdSource::new(&node));
    let mut events = Vec::new();
    let mut mistakes = Vec::new();
    for path in &args.events {
        match event::read(path, &ids) {
            Ok(more) => events.extend(more),
            Err(more) => mistakes.extend(more),
        }
    }
    let rows = match &args.rows {
        Some(path) => record::rows(path).map_err(|more| mistakes.extend(more)).unwrap_or_default(),
        None => tidegate_event::Rows::default(),
    };
    let replies = match &args.replies {
        Some(path) => replies::read(path).map_err(|more| mistakes.extend(more)).unwrap_or_default(),
        None => Vec::new(),
    };
    if !mistakes.is_empty() {
        anyhow::bail!("{}", mistakes.join("\nerror: "));
    }
    // One thread, so that its clock says how long was computed.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(try_all(args, node, ids, events, Recorder::new(rows, replies)))
}

async fn try_all(
    args: &TestArgs,
    node: Arc<Node>,
    ids: Arc<IdSource>,
    events: Vec<event::Named>,
    recorder: Recorder,
) -> anyhow::Result<bool> {
    let lines = Arc::new(ModuleLines::default());
    tracing_subscriber::registry().with(lines.layer(Level::TRACE)).try_init()?;
    let scratch = crate::check::scratch_dir()?;
    let config = HostConfig {
        max_instances: MAX_INSTANCES,
        ..Config::default().host_config(scratch.path().join("cache"), ids)
    };
    // A wrong manifest is told by the host, with everything else.
    let granted = Terms::requested(&args.module).ok().and_then(|terms| terms.connectors);
    let recorder = Arc::new(recorder.granted(granted));
    let host = Host::new(config, node.clone(), recorder.clone(), recorder.clone())?;
    let loaded = host.load(&args.module, &Tenant::default()).await;
    let module = match loaded {
        Ok(module) => module,
        Err(error) => {
            let name = args.module.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
            for line in lines.take(&name) {
                eprintln!("{}", printable(&line.to_string()));
            }
            return Err(error).with_context(|| args.module.display().to_string());
        }
    };
    let mut start = Some(Start::of(&module, recorder.take(), guest_lines(&lines, module.name())));
    let mut well = true;
    for event in events {
        let mut outcome = call(&module, event, &node, &recorder, &lines).await;
        well &= outcome.error.is_none();
        outcome.start = start.take();
        if args.json {
            println!("{}", serde_json::to_string(&outcome)?);
        } else {
            print!("{}", printable(&outcome.to_string()));
        }
    }
    let name = module.name().to_owned();
    // What a guest wrote without an end of line comes when its instance goes.
    drop((module, host));
    for line in guest_lines(&lines, &name) {
        eprintln!("{}", printable(&line.to_string()));
    }
    Ok(well)
}

async fn call(
    module: &Module,
    event: event::Named,
    node: &Arc<Node>,
    recorder: &Recorder,
    lines: &ModuleLines,
) -> Outcome {
    let hook = event.event.hook();
    let selected = module.selects(&event.event);
    let scope = Scope::new(event.event, node.clone());
    let (began, computed) = (Instant::now(), thread_time());
    let answer = module.call(&scope).await;
    let (time, computing) = (began.elapsed(), thread_time().saturating_sub(computed));
    let policy = module.policy(hook);
    let mut outcome = Outcome::new(event.place, hook, answer, policy);
    outcome.selected = selected;
    outcome.calls = recorder.take();
    outcome.log = guest_lines(lines, module.name());
    outcome.time_us = micros(time);
    outcome.computing_us = micros(computing);
    outcome.memory_bytes = module.memory();
    outcome
}

/// What the guest wrote, and warnings of the host. The host's report of a failure is in the outcome.
fn guest_lines(lines: &ModuleLines, module: &str) -> Vec<Line> {
    let mut lines = lines.take(module);
    lines.retain(|line| line.source != "host" || line.level == "WARN");
    lines
}

/// The processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Reads a file of JSON; `-` is standard input.
fn read_json(path: &Path) -> Result<serde_json::Value, Vec<String>> {
    use std::io::Read as _;
    const MAX_BYTES: u64 = 256 << 20;
    let shown = shown(path);
    let failed = |error: std::io::Error| vec![format!("{shown}: {error}")];
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    }
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(vec![format!("{shown}: larger than 256 MiB")]);
    }
    serde_json::from_slice(&text).map_err(|error| vec![format!("{shown}: {error}")])
}

/// The name of an input, as messages show it.
fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}
