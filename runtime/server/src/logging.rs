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
        Some(Err(error)) => (configured(log), Some(error)),
        None => (configured(log), None),
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

/// The configured level; of the embedded store's own lines only warnings, unless its targets are named there.
fn configured(log: &Log) -> EnvFilter {
    let is_quieter = |part: &str| ["off", "error"].iter().any(|word| part.trim().eq_ignore_ascii_case(word));
    if log.level.split(',').any(is_quieter) {
        return EnvFilter::new(&log.level);
    }
    EnvFilter::new(format!("fjall=warn,lsm_tree=warn,{}", log.level))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_store_tells_of_itself_only_what_is_asked_for() {
        let filter =
            |level: &str| configured(&Log { format: LogFormat::Human, level: level.into() }).to_string();
        assert_eq!(filter("info"), "lsm_tree=warn,fjall=warn,info");
        assert_eq!(filter("debug,fjall=trace"), "lsm_tree=warn,fjall=trace,debug");
        assert_eq!(filter("off"), "off");
        assert_eq!(filter("error,tidegate_broker=debug"), "tidegate_broker=debug,error");
    }
}
