//! Log lines, for people or as JSON, on standard error; and panics, which are logged, counted and survived.

pub mod module_lines;

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;
use std::sync::Arc;

use tracing::Level;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{Log, LogFormat};
use module_lines::ModuleLines;

/// Counts panics of tasks.
pub(crate) const PANICS: &str = "tidegate_server_panics_total";

/// Starts logging as `log` says; `RUST_LOG` overrides the level. Gives where the last lines of each module are kept,
/// whatever the level.
///
/// # Errors
/// When the process already logs.
pub fn start(log: &Log) -> Result<Arc<ModuleLines>, TryInitError> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let (filter, refused) = match from_environment.map(|text| text.parse::<EnvFilter>()) {
        Some(Ok(filter)) => (filter, None),
        // `log.level` was checked when it was read; a wrong RUST_LOG is no reason not to start.
        Some(Err(error)) => (EnvFilter::new(&log.level), Some(error)),
        None => (EnvFilter::new(&log.level), None),
    };
    let kept = Arc::new(ModuleLines::default());
    let registry = tracing_subscriber::registry().with(kept.layer(Level::INFO));
    let lines = fmt::layer().with_writer(std::io::stderr);
    match log.format {
        LogFormat::Human => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(lines.with_ansi(ansi).with_filter(filter)).try_init()?;
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            registry.with(lines.with_filter(filter)).try_init()?;
        }
    }
    if let Some(error) = refused {
        tracing::warn!("RUST_LOG is ignored: {error}");
    }
    Ok(kept)
}

/// From now on a panic is logged with its backtrace and counted. It ends the task it happens in, and only that.
pub fn log_panics() {
    let panics = metrics::counter!(PANICS);
    std::panic::set_hook(Box::new(move |info| {
        panics.increment(1);
        let backtrace = Backtrace::force_capture();
        let thread = std::thread::current();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            place = info.location().map(ToString::to_string),
            %backtrace,
            "panic: {}",
            words(info),
        );
    }));
}

fn words<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}
