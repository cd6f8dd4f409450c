//! The last lines of each module: what its guest wrote and what the host said about it, for `tidegate modules logs`.
//!
//! A layer of `tracing` picks the events of this program that have a field `module`. It has a level of its own: what
//! is kept does not depend on what is logged. Events without that field cost nothing: their call sites are told so once.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Lines kept of one module.
const MAX_LINES: usize = 1_000;
/// Bytes kept of one module.
const MAX_BYTES: usize = 256 << 10;
/// Bytes kept of all modules.
const MAX_TOTAL_BYTES: usize = 16 << 20;
/// Modules of which lines are kept; the one that has been silent longest goes.
const MAX_MODULES: usize = 1_500;
/// Bytes of a line that are kept.
const MAX_LINE_BYTES: usize = 8 << 10;
/// What a line takes besides its text.
const LINE_COST: usize = 64;

/// A line about a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, UTC.
    pub time: String,
    /// `ERROR`, `WARN`, `INFO` ...
    pub level: String,
    /// Who wrote it: `stdout`, `stderr` and `log` are the guest, `host` is not.
    pub source: String,
    /// What it says.
    pub text: String,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines so far: the number of the next one.
    count: u64,
    /// When it was last written to, in lines of all modules.
    touched: u64,
}

impl Ring {
    fn shrink(&mut self, bytes: usize) {
        while self.lines.len() > MAX_LINES || (self.bytes > bytes && self.lines.len() > 1) {
            let Some(line) = self.lines.pop_front() else { return };
            self.bytes -= line.text.len() + LINE_COST;
        }
    }
}

#[derive(Default)]
struct Rings {
    of: HashMap<String, Ring>,
    count: u64,
}

impl Rings {
    /// What a module may keep, so that all keep no more than they may.
    fn share(&self) -> usize {
        (MAX_TOTAL_BYTES / self.of.len().max(1)).min(MAX_BYTES)
    }

    fn push(&mut self, module: &str, line: Line) {
        self.count += 1;
        if !self.of.contains_key(module) {
            if self.of.len() >= MAX_MODULES {
                let silent =
                    self.of.iter().min_by_key(|(_, ring)| ring.touched).map(|(name, _)| name.clone());
                silent.and_then(|name| self.of.remove(&name));
            }
            self.of.insert(module.to_owned(), Ring::default());
            let share = self.share();
            self.of.values_mut().for_each(|ring| ring.shrink(share));
        }
        let (share, now) = (self.share(), self.count);
        if let Some(ring) = self.of.get_mut(module) {
            ring.count += 1;
            ring.touched = now;
            ring.bytes += line.text.len() + LINE_COST;
            ring.lines.push_back(line);
            ring.shrink(share);
        }
    }
}

/// The lines of all modules.
pub struct ModuleLines {
    rings: Mutex<Rings>,
    news: watch::Sender<()>,
}

impl Default for ModuleLines {
    fn default() -> Self {
        Self { rings: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl fmt::Debug for ModuleLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleLines").finish_non_exhaustive()
    }
}

impl ModuleLines {
    /// The layer that feeds them with lines of `level` and what is more urgent.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(self: &Arc<Self>, level: Level) -> impl Layer<S> {
        let picks = move |metadata: &Metadata<'_>| {
            metadata.is_event()
                && *metadata.level() <= level
                && metadata.fields().field("module").is_some()
                && metadata.target().starts_with("tidegate")
        };
        let filter = filter_fn(picks).with_max_level_hint(LevelFilter::from_level(level));
        Feed(self.clone()).with_filter(filter)
    }

    /// Whether there is a line of `module`.
    pub fn knows(&self, module: &str) -> bool {
        self.rings.lock().of.contains_key(module)
    }

    /// The last `most` lines of `module`, a JSON object each, and the number of the next one.
    pub fn tail(&self, module: &str, most: usize) -> (String, u64) {
        let rings = self.rings.lock();
        let Some(ring) = rings.of.get(module) else { return (String::new(), 0) };
        let skip = ring.lines.len().saturating_sub(most);
        (json(ring.lines.iter().skip(skip)), ring.count)
    }

    /// The lines of `module` from number `next`, and the number of the next one. Lines that were dropped before they
    /// could be given are told in a line of their own.
    pub fn after(&self, module: &str, next: u64) -> (String, u64) {
        let rings = self.rings.lock();
        let Some(ring) = rings.of.get(module) else { return (String::new(), next) };
        // The ring may have been dropped and begun anew.
        let new = if ring.count < next { ring.count } else { ring.count - next };
        let kept = u64::try_from(ring.lines.len()).unwrap_or(u64::MAX).min(new);
        let mut text = String::new();
        if kept < new {
            let text_of = format!("{} lines were dropped before they could be shown", new - kept);
            text = json([&Line::now("WARN", "host", text_of)]);
        }
        let skip = ring.lines.len() - usize::try_from(kept).unwrap_or(ring.lines.len());
        text.push_str(&json(ring.lines.iter().skip(skip)));
        (text, ring.count)
    }

    /// Takes all lines of `module`.
    pub fn take(&self, module: &str) -> Vec<Line> {
        let mut rings = self.rings.lock();
        rings.of.remove(module).map(|ring| ring.lines.into()).unwrap_or_default()
    }

    /// Changes with every line.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    fn push(&self, module: &str, line: Line) {
        self.rings.lock().push(module, line);
        self.news.send_replace(());
    }
}

fn json<'a>(lines: impl IntoIterator<Item = &'a Line>) -> String {
    let mut text = String::new();
    for line in lines {
        if let Ok(line) = serde_json::to_string(line) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

impl Line {
    fn now(level: &str, source: &str, text: String) -> Self {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        Self { time, level: level.to_owned(), source: source.to_owned(), text }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:<5} {:<6} {}", self.time, self.level, self.source, self.text)
    }
}

/// The layer.
struct Feed(Arc<ModuleLines>);

impl<S: Subscriber> Layer<S> for Feed {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut found = Found::default();
        event.record(&mut found);
        let Some(module) = found.module else { return };
        let mut text = found.message + &found.rest;
        if text.len() > MAX_LINE_BYTES {
            let end = (0..=MAX_LINE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push_str(" ...");
        }
        let level = event.metadata().level().as_str();
        self.0.push(&module, Line::now(level, found.source.as_deref().unwrap_or("host"), text));
    }
}

/// The fields of an event.
#[derive(Default)]
struct Found {
    module: Option<String>,
    message: String,
    source: Option<String>,
    /// The others, ` key=value` each.
    rest: String,
}

impl Found {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        match field.name() {
            "module" => self.module = Some(value.to_string()),
            "message" => self.message = value.to_string(),
            // The guest's own streams; wasi:logging has a context.
            "stream" => self.source = Some(value.to_string()),
            name => {
                if name == "context" {
                    self.source = Some("log".into());
                }
                write!(self.rest, " {name}={value}").unwrap_or_default();
            }
        }
    }
}

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "context" && value.is_empty() {
            self.source = Some("log".into());
        } else {
            self.add(field, format_args!("{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn texts(lines: &str) -> Vec<Line> {
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_about_modules_are_picked_and_others_are_not() {
        let lines = Arc::new(ModuleLines::default());
        let subscriber = tracing_subscriber::registry().with(lines.layer(Level::INFO));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(module = "a", stream = "stdout", "hello");
            tracing::info!(module = "a", context = "ctx", hook = Some("message.publish"), "logged");
            tracing::error!(module = "a", version = %"v1", count = 3, "the module failed: it trapped");
            tracing::debug!(module = "a", "too fine");
            tracing::info!(name = "a", "no module");
            tracing::info!(target: "elsewhere", module = "a", "another program's");
            tracing::warn!(module = "b", "other");
        });
        let (text, next) = lines.tail("a", 10);
        let found = texts(&text);
        let short: Vec<_> = found.iter().map(|l| (&*l.level, &*l.source, &*l.text)).collect();
        assert_eq!(
            short,
            [
                ("INFO", "stdout", "hello"),
                ("INFO", "log", "logged context=ctx hook=message.publish"),
                ("ERROR", "host", "the module failed: it trapped version=v1 count=3"),
            ]
        );
        assert_eq!((next, texts(&lines.tail("a", 1).0).len()), (3, 1));
        assert!(lines.knows("b") && !lines.knows("c"));
    }

    #[test]
    fn memory_is_bounded_for_one_and_for_all() {
        let lines = ModuleLines::default();
        for _ in 0..2_000 {
            lines.push("a", Line::now("INFO", "stdout", "x".repeat(1_000)));
        }
        let total =
            |lines: &ModuleLines| lines.rings.lock().of.values().map(|ring| ring.bytes).sum::<usize>();
        assert!(total(&lines) <= MAX_BYTES && lines.rings.lock().of["a"].lines.len() > 200);
        for module in 0..(MAX_MODULES + 100) {
            for _ in 0..10 {
                lines.push(&format!("m{module}"), Line::now("INFO", "stdout", "x".repeat(4_000)));
            }
        }
        assert!(lines.rings.lock().of.len() <= MAX_MODULES && !lines.knows("a"));
        assert!(total(&lines) <= MAX_TOTAL_BYTES + MAX_BYTES, "{}", total(&lines));
    }

    #[test]
    fn who_follows_is_told_what_was_dropped() {
        let lines = ModuleLines::default();
        let say = |count: usize| {
            for n in 0..count {
                lines.push("a", Line::now("INFO", "stdout", n.to_string()));
            }
        };
        say(1);
        let (_, next) = lines.tail("a", 10);
        assert_eq!(lines.after("a", next), (String::new(), 1));
        say(2);
        let (text, next) = lines.after("a", next);
        assert_eq!(texts(&text).iter().map(|l| &*l.text).collect::<Vec<_>>(), ["0", "1"]);
        say(1_500);
        let found = texts(&lines.after("a", next).0);
        assert_eq!(found[0].text, "500 lines were dropped before they could be shown");
        assert_eq!(found.len(), 1_001);
    }
}
