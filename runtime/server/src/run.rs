//! `tidegate run`: start every part in order, serve, stop in the reverse order.
//!
//! ```text
//! configuration -> data directory -> API (not ready) -> dispatcher -> stores -> broker -> modules -> listeners -> ready
//! ```
//!
//! Handlers are there before anything can raise an event, and nothing is acknowledged before its store is open.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_broker::Broker;
use tidegate_dispatch::Dispatcher;
use tidegate_event::{Hooks, IdSource, Node, SessionStore, Storage as _, Tenant};
use tidegate_module::{Directory, Host, HostConfig, HostError, Module};
use tidegate_store::config::{Diagnostic, Loaded};
use tidegate_store::{LetterFile, Stores};
use tokio_util::sync::CancellationToken;

use crate::access::{self, Access};
use crate::api::Api;
use crate::config::{Config, Overrides};
use crate::control::{ControlSocket, Controls};
use crate::data_dir::DataDir;
use crate::handlers::Handlers;
use crate::logging::module_lines::ModuleLines;
use crate::reload::{Reload, Seen};
use crate::signals::Signals;
use crate::state::State;
use crate::status::{Phase, Status};
use crate::{backends, cli, logging, telemetry};

/// Why the runtime did not start or did not stop well: lines for a person.
#[derive(Debug)]
struct Failed(Vec<String>);

impl Failed {
    fn because(line: impl Into<String>) -> Self {
        Self(vec![line.into()])
    }

    fn at(what: &str, error: &dyn std::error::Error) -> Self {
        Self::because(format!("{what}: {}", cli::with_causes(error)))
    }

    fn listed(problems: &[Diagnostic]) -> Self {
        Self(problems.iter().map(ToString::to_string).collect())
    }
}

/// Runs until a signal; the process's exit status.
pub fn main(overrides: Overrides) -> ExitCode {
    match start(overrides) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(lines)) => {
            for line in lines {
                eprintln!("error: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Everything before the first task: what is wrong here is told before anything is touched.
fn start(overrides: Overrides) -> Result<(), Failed> {
    let began = Instant::now();
    let (mut config, mut problems) = Config::load(overrides.clone());
    // Before the files are read: one that changes meanwhile is seen to have changed.
    let seen = Seen::now(&config);
    let (conf_files, loaded) = backends::load(&config);
    let (access, found) = access::files(&config.access);
    let mut warnings = Vec::new();
    for found in found {
        match found {
            Ok(findings) => warnings.extend(findings.warnings),
            Err(more) => problems.extend(more),
        }
    }
    let loaded = match loaded {
        Ok(loaded) => Some(loaded),
        Err(more) => {
            problems.extend(more);
            None
        }
    };
    let Some(loaded) = loaded.filter(|_| problems.is_empty()) else {
        return Err(Failed::listed(&problems));
    };
    let lines = logging::start(&config.log).map_err(|error| Failed::at("log", &error))?;
    let metrics = telemetry::install(&config.node_name).map_err(|error| Failed::at("metrics", &error))?;
    logging::log_panics();
    for warning in loaded.warnings.iter().chain(&warnings) {
        tracing::warn!("{warning}");
    }
    config.broker.max_connections = within_file_limit(config.broker.max_connections);
    let data = DataDir::open(&config.data_dir).map_err(|error| Failed::because(error.to_string()))?;
    if config.makes_modules_dir() {
        std::fs::create_dir_all(&config.modules_dir)
            .map_err(|error| Failed::at(&format!("modules.dir: {}", config.modules_dir.display()), &error))?;
    }
    crate::control::recover(&config.modules_dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .event_interval(tidegate_broker::EVENT_INTERVAL)
        .global_queue_interval(tidegate_broker::QUEUE_INTERVAL)
        .on_thread_park(crate::memory::give_back)
        .enable_all()
        .build()
        .map_err(|error| Failed::at("tokio", &error))?;
    let sources = Sources { overrides, seen, conf_files, loaded, access };
    let result = runtime.block_on(serve(config, sources, &data, metrics, lines, began));
    // Tasks that still wait for something must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Where the configuration came from, and what it says about back ends.
struct Sources {
    overrides: Overrides,
    seen: Seen,
    conf_files: Vec<String>,
    loaded: Loaded,
    access: access::Files,
}

/// Files that a node opens besides those of its connections: databases, modules, logs.
const OTHER_FILES: u64 = 512;

/// Every connection is an open file: takes as many as the system allows, not the few it grants by default. Gives how many
/// connections there may be, of the `max_connections` that are configured: who comes above that must not take the files
/// that databases, certificates and modules need.
fn within_file_limit(max_connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(limit = limit.current, "the limit of open files stays as it is: {error}");
        return within(limit.current, max_connections);
    }
    within(limit.maximum, max_connections)
}

/// How many of `max_connections` there may be with so many open files; `None`: any number of them.
fn within(open_files: Option<u64>, max_connections: usize) -> usize {
    let room = open_files.map(|limit| limit.saturating_sub(OTHER_FILES).max(limit / 2));
    let room = room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
    if room < max_connections {
        tracing::warn!(
            open_files,
            max_connections,
            "the system has files for {room} connections, fewer than broker.max_connections, so no more are taken: \
             raise the limit of open files"
        );
    }
    max_connections.min(room)
}

/// Opens the parts, serves until a signal, closes the parts.
async fn serve(
    config: Config,
    sources: Sources,
    data: &DataDir,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    lines: Arc<ModuleLines>,
    began: Instant,
) -> Result<(), Failed> {
    let mut signals = Signals::listen().map_err(|error| Failed::at("signals", &error))?;
    let status = Arc::new(Status::default());
    let upkeep = tokio::spawn(telemetry::keep_up(metrics.clone()));
    let api_stop = CancellationToken::new();
    let api = match config.api {
        Some(address) => {
            let api = Api::bind(address)
                .await
                .map_err(|error| Failed::at(&format!("api.listen: {address}"), &error))?;
            tracing::info!(address = %api.address(), "management API");
            Some(tokio::spawn(api.serve(status.clone(), metrics, api_stop.clone())))
        }
        None => None,
    };

    let controls = Arc::new(Controls::new(&config, status.clone(), lines));
    let control = control_socket(data, controls, &api_stop);

    let reload_stop = CancellationToken::new();
    // A stop that is asked for while parts are being opened is a stop, too.
    let parts = tokio::select! {
        parts = Parts::open(&config, sources, data, &status, &reload_stop) => Some(parts?),
        name = signals.next() => {
            tracing::info!("{name} while starting");
            None
        }
    };
    if let Some(parts) = &parts {
        status.enter(Phase::Ready);
        parts.announce(&config, &status, began);
        let name = signals.next().await;
        // Before the log says so: who reads it may ask /readyz, or send the second signal, at once.
        status.enter(Phase::Stopping);
        signals.end_at_next();
        reload_stop.cancel();
        tracing::info!(connections = parts.broker.connections(), deadline = ?config.shutdown_deadline, "{name}: stopping");
    } else {
        status.enter(Phase::Stopping);
        signals.end_at_next();
    }
    let result = match parts {
        Some(parts) => parts.close(&status, config.shutdown_deadline).await,
        None => Ok(()),
    };
    api_stop.cancel();
    for end in api.into_iter().chain(control) {
        // A client that keeps its connection open must not keep the process.
        tokio::time::timeout(Duration::from_millis(500), end).await.ok();
    }
    upkeep.abort();
    tracing::info!("stopped");
    result
}

/// Opens the control socket. Without it the server serves all the same.
fn control_socket(
    data: &DataDir,
    controls: Arc<Controls>,
    stop: &CancellationToken,
) -> Option<tokio::task::JoinHandle<()>> {
    match ControlSocket::bind(data.path()) {
        Ok(socket) => {
            tracing::debug!(path = %socket.path().display(), "control socket");
            Some(tokio::spawn(socket.serve(controls, stop.clone())))
        }
        Err(error) => {
            let path = data.path().join(crate::control::SOCKET);
            tracing::warn!(
                path = %path.display(),
                "no control socket, so no `tidegate modules` but list: {error}"
            );
            None
        }
    }
}

/// The stages of a node, opened.
struct Parts {
    stores: Arc<Stores>,
    broker: Broker,
    sessions: Arc<dyn SessionStore>,
}

impl Parts {
    async fn open(
        config: &Config,
        sources: Sources,
        data: &DataDir,
        status: &Arc<Status>,
        reload_stop: &CancellationToken,
    ) -> Result<Self, Failed> {
        let Sources { overrides, seen, conf_files, loaded, access } = sources;
        let node = Arc::new(Node::new(&config.node_name));
        let tenant = Tenant::default();
        let dispatcher = Dispatcher::new(node.clone());

        let state = State::open(&data.path().join("state"), config.max_state_bytes)
            .map_err(|error| Failed::at("embedded state", &error))?;
        let mut options = config.store_options(data.path().to_path_buf());
        options.buffer = state.buffers(config.buffer_bytes);
        let ids = Arc::new(IdSource::new(&node));
        options.ids = Arc::clone(&ids);
        let stores = Stores::open(&loaded.config, node.clone(), options)
            .await
            .map_err(|problems| Failed::listed(&problems))?;
        status.set_stores(stores.clone());

        let hooks: Arc<dyn Hooks> = dispatcher.clone();
        let access = Arc::new(Access::new(&config.access, access));
        let sessions = state.sessions(config.session_durability);
        let broker = Broker::with_gate(config.broker.clone(), ids, access.clone(), hooks, sessions.clone())
            .map_err(|error| Failed::at("broker", &error))?;
        status.set_broker(broker.clone());
        stores.listen(broker.control());

        let letters =
            LetterFile::new(data.path().join("module-dead-letters.jsonl"), config.store.dead_letter_bytes);
        let host_config = HostConfig {
            dead_letters: Some(Arc::new(letters)),
            state,
            ..config.host_config(data.path().join("cache"), broker.ids())
        };
        let host = Host::new(host_config, node, stores.clone(), broker.control())
            .map_err(|error| Failed::at("modules", &error))?;
        let handlers = Arc::new(Handlers::new(dispatcher, tenant.clone()));
        handlers.set_actions(stores.actions());
        let of_modules = handlers.clone();
        let rebuild = Arc::new(move |modules: &[Arc<Module>]| of_modules.set_modules(modules));
        let directory =
            Directory::open(host, config.modules_dir.clone(), tenant, rebuild).await.map_err(|error| {
                match error {
                    HostError::Directory { .. } => Failed::at("modules.dir", &error),
                    _ => Failed::at("modules", &error),
                }
            })?;
        status.set_directory(directory);
        let in_use = (conf_files, loaded);
        let reload = Reload::new(config.clone(), overrides, in_use, stores.clone(), handlers, status.clone());
        let reload = Arc::new(reload);
        status.set_reload(reload.clone());
        tokio::spawn(crate::reload::follow(reload, access, seen, reload_stop.clone()));

        // Handlers are bound: wills that became due while the node was down meet them.
        broker.begin();
        for address in &config.listen {
            let bound = broker
                .listen(*address)
                .await
                .map_err(|error| Failed::at(&format!("broker.listen: {address}"), &error))?;
            status.add_listener(bound.to_string());
        }
        for listener in &config.listeners {
            let open = broker.listen(listener.config.clone()).await;
            let bound = open.map_err(|error| {
                let name = &listener.config.name;
                Failed::listed(&[listener.place.error(format!("{name}: {}", cli::with_causes(&error)))])
            })?;
            status.add_listener(listener.url(bound));
        }
        Ok(Self { stores, broker, sessions })
    }

    /// What a person wants to know once.
    fn announce(&self, config: &Config, status: &Status, began: Instant) {
        let listeners = status.listeners();
        let modules = status.modules();
        for module in &modules.modules {
            let hooks: Vec<_> = module.hooks.iter().map(|hook| hook.hook.as_str()).collect();
            let version: String = module.version.chars().take(12).collect();
            tracing::info!(name = module.name, version, hooks = hooks.join(" "), "module");
        }
        if modules.modules.is_empty() && modules.failures.is_empty() {
            tracing::info!(dir = %config.modules_dir.display(), "no modules yet: a .wasm file put there runs at once");
        }
        let connectors = self.stores.connectors(&Tenant::default());
        let actions = self.stores.actions();
        for action in &actions {
            let topic = action.filter().map_or_else(|| "#".into(), ToString::to_string);
            tracing::info!(hook = action.hook().name(), topic, "hook line {}", action.label());
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listeners = ?listeners,
            modules = modules.modules.len(),
            modules_failed = modules.failures.len(),
            connectors = connectors.join(" "),
            hook_lines = actions.len(),
            started_in = ?began.elapsed(),
            "tidegate is ready",
        );
    }

    /// Clients first, so that what they sent is stored and acknowledged; then modules; then the writers, and what was
    /// recorded of sessions meanwhile.
    async fn close(self, status: &Status, deadline: Duration) -> Result<(), Failed> {
        let end = Instant::now() + deadline;
        drop(status.take_reload());
        self.broker.shutdown(deadline).await;
        let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        if let Some(directory) = status.take_directory()
            && tokio::time::timeout(left(), directory.close()).await.is_err()
        {
            tracing::warn!("modules did not end within the deadline");
        }
        let flushed = self.stores.close(left()).await.map_err(|error| {
            tracing::error!("writers were not flushed: {error}");
            Failed::at("writers were not flushed", &error)
        });
        let kept = tokio::time::timeout(left(), self.sessions.durable()).await;
        flushed?;
        if matches!(kept, Ok(Ok(()))) {
            return Ok(());
        }
        let reason =
            self.sessions.health().err().map_or_else(|| "the disk is slow".into(), |error| error.to_string());
        tracing::error!("what was recorded of sessions last is not on disk: {reason}");
        Err(Failed::because(format!("what was recorded of sessions last is not on disk: {reason}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for (open_files, configured, taken) in [
            (None, 12_000, 12_000),
            (Some(1 << 20), 12_000, 12_000),
            (Some(4_096), 12_000, 4_096 - 512),
            (Some(4_096), 100, 100),
            (Some(600), 12_000, 300),
        ] {
            assert_eq!(within(open_files, configured), taken, "{open_files:?} {configured}");
        }
    }
}
