//! Log lines, for people or as JSON, on standard error; and panics, which are logged, counted and survived.

pub mod module_lines;

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;
use std::sync::Arc;

use tracing::Level;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
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
    let lines =
        fmt::layer().with_writer(std::io::stderr).fmt_fields(fmt::format::debug_fn(field).delimited(" "));
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

/// Writes a field of a line for people. What it says may come from anywhere, from clients and modules too: control
/// characters are escaped, and what has lines of its own is indented, so that none of them looks like one of ours.
fn field(
    writer: &mut fmt::format::Writer<'_>,
    field: &Field,
    value: &dyn std::fmt::Debug,
) -> std::fmt::Result {
    use std::fmt::Write as _;
    match field.name() {
        "message" => {}
        name => write!(writer, "{}=", name.strip_prefix("r#").unwrap_or(name))?,
    }
    write!(Harmless(writer), "{value:?}")
}

/// Writes text without its control characters.
struct Harmless<'a, W>(&'a mut W);

impl<W: std::fmt::Write> std::fmt::Write for Harmless<'_, W> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
            let (plain, from) = rest.split_at(at);
            let mut characters = from.chars();
            self.0.write_str(plain)?;
            match characters.next() {
                Some('\n') => self.0.write_str("\n    ")?,
                Some(control) => write!(self.0, "{}", control.escape_default())?,
                None => {}
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
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
    fn what_clients_and_modules_write_makes_no_lines_of_its_own() {
        #[derive(Clone, Default)]
        struct Written(Arc<parking_lot::Mutex<Vec<u8>>>);
        impl std::io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let written = Written::default();
        let (writer, fields) = (written.clone(), fmt::format::debug_fn(field).delimited(" "));
        let layer = fmt::layer().with_ansi(false).without_time().with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.fmt_fields(fields));
        tracing::subscriber::with_default(subscriber, || {
            let client = "c\nERROR forged\u{1b}[31m\r";
            tracing::info!(%client, text = "a\nb", count = 3, "refused: {}", "x\u{9b}\ty\nz");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap_or_default();
        let line = text.strip_prefix(" INFO tidegate::logging::tests: ").unwrap_or(&text);
        let expected =
            "refused: x\\u{9b}\ty\n    z client=c\n    ERROR forged\\u{1b}[31m\\r text=\"a\\nb\" count=3\n";
        assert_eq!(line, expected);
    }

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
