//! The manifest `x.toml` beside `x.wasm`: what a module handles, may use and costs at most.
//!
//! Everything has a default, so a module needs no manifest. What is written is read strictly: an unknown key,
//! a wrong type or a key that is not supported yet is an error with file, line and column, never ignored.

mod read;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_event::{AckLevel, Hook, TopicFilter};

use crate::imports::http::Destination;

pub(crate) use read::nearest;

/// The most table elements a manifest may grant (Go, C# and Python need more than 20,000).
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// A mistake in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The manifest's file name.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The key, with its table: `limits.cpu`. Empty when the file is no TOML.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A module's manifest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifest {
    /// Hooks and their filters; `None`: every exported hook, all topics. An empty list: all topics.
    pub(crate) hooks: Option<Vec<HookEntry>>,
    /// Modules run in ascending order.
    pub(crate) priority: Priority,
    /// Connectors the module may use; `None`: the server's default.
    pub(crate) connectors: Option<Vec<Located<String>>>,
    /// Level of what it enqueues.
    pub(crate) ack: AckLevel,
    /// Whether listeners wait for it.
    pub(crate) mandatory: bool,
    /// `[config]`.
    pub(crate) config: Vec<(String, Located<ConfigValue>)>,
    /// `[http] allow`: each host as written and as read.
    pub(crate) http: Vec<Located<(String, Destination)>>,
    /// `[instances]`.
    pub(crate) instances: Instances,
    /// `[limits]`.
    pub(crate) limits: Limits,
    /// Where `limits.memory` stands, if it does.
    pub(crate) memory_at: Option<Located<()>>,
    /// `[on_error]`.
    pub(crate) on_error: OnError,
}

/// One line of `hooks`.
#[derive(Clone, Debug)]
pub(crate) struct HookEntry {
    pub(crate) hook: Located<Hook>,
    pub(crate) filters: Vec<TopicFilter>,
}

/// A value with its place in the manifest, for errors found after reading.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value of `[config]`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum ConfigValue {
    /// As written.
    Text(String),
    /// `env:NAME`.
    Env(String),
    /// `file:PATH`, relative to the module's directory.
    File(PathBuf),
}

impl fmt::Debug for ConfigValue {
    /// Never shows a value: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::Env(name) => write!(f, "Env({name:?})"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Order among modules; 100 when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Priority(pub(crate) i32);

impl Default for Priority {
    fn default() -> Self {
        Self(100)
    }
}

/// How instances are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Reused for many events, as many as events are in flight.
    #[default]
    Warm,
    /// One per event.
    Fresh,
    /// One, events one after the other: it may keep state.
    Single,
}

/// `[instances]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instances {
    pub(crate) mode: Mode,
    /// Events in flight at once; more wait.
    pub(crate) max: usize,
    /// Instances kept while nothing happens.
    pub(crate) idle: usize,
    /// Calls after which a warm instance is replaced.
    pub(crate) recycle_calls: u64,
    /// Bytes of memory above which a warm instance is replaced; `None`: halfway from what it
    /// had when it was new to its limit.
    pub(crate) recycle_memory: Option<usize>,
}

impl Default for Instances {
    fn default() -> Self {
        Self { mode: Mode::default(), max: 256, idle: 8, recycle_calls: 1_000_000, recycle_memory: None }
    }
}

/// `[limits]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Computing time per event.
    pub(crate) cpu: Duration,
    /// Time per event, waiting included.
    pub(crate) timeout: Duration,
    /// Bytes per instance, all memories together.
    pub(crate) memory: usize,
    /// Elements per instance, all tables together.
    pub(crate) table_elements: usize,
    /// Storage calls per event.
    pub(crate) storage_ops: u32,
    /// Bytes of log lines and standard output per event.
    pub(crate) log_bytes: usize,
    /// Bytes of bodies of HTTP requests per event, and as many of responses.
    pub(crate) http_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(50),
            timeout: Duration::from_secs(30),
            memory: 32 << 20,
            table_elements: MAX_TABLE_ELEMENTS,
            storage_ops: 100,
            log_bytes: 64 << 10,
            http_bytes: 8 << 20,
        }
    }
}

/// What happens to an event that a module failed to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// The error is logged and the event goes on as if the module were not there.
    Pass,
    /// The message is acknowledged (or, on message.deliver, not delivered) and dropped.
    Drop,
    /// The message is refused: see [`tidegate_event::Verdict::Fail`].
    Reject,
}

/// `[on_error]`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OnError {
    /// `None`: the hook's own default.
    pub(crate) policy: Option<ErrorPolicy>,
    /// Further attempts before the policy applies.
    pub(crate) retries: u32,
    /// Pause before the first further attempt; doubled for each one, at most ten seconds.
    pub(crate) backoff: Duration,
}

/// Words for the file's keys, for messages and spelling hints.
pub(crate) mod keys {
    pub(crate) const ROOT: &[&str] = &[
        "hooks",
        "priority",
        "connectors",
        "ack",
        "mandatory",
        "config",
        "instances",
        "limits",
        "on_error",
        "rollout",
        "http",
    ];
    pub(crate) const INSTANCES: &[&str] = &["mode", "max", "idle", "recycle_calls", "recycle_memory"];
    pub(crate) const LIMITS: &[&str] =
        &["cpu", "timeout", "memory", "table_elements", "storage_ops", "log_bytes", "http_bytes"];
    pub(crate) const HTTP: &[&str] = &["allow"];
    pub(crate) const ON_ERROR: &[&str] = &["policy", "retries", "backoff", "dead_letter_topic"];
}

impl Manifest {
    /// Reads the text of the manifest called `file`.
    ///
    /// # Errors
    /// All mistakes found.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, Vec<ManifestError>> {
        read::parse(file, text)
    }

    /// Whether a manifest of this text makes its module mandatory, even if [`Self::parse`] refuses it.
    pub(crate) fn asks_mandatory(text: &str) -> bool {
        read::asks_mandatory(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        Manifest::parse("x.toml", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_written_means_the_defaults() {
        let manifest = Manifest::parse("x.toml", "").unwrap();
        assert!(manifest.hooks.is_none() && manifest.connectors.is_none() && !manifest.mandatory);
        assert_eq!(manifest.priority, Priority(100));
        assert_eq!(manifest.limits.cpu, Duration::from_millis(50));
        assert_eq!(manifest.limits.memory, 32 << 20);
        assert_eq!(manifest.instances.mode, Mode::Warm);
        assert_eq!(manifest.ack, AckLevel::Stored);
    }

    #[test]
    fn every_key_is_read() {
        let manifest = Manifest::parse(
            "x.toml",
            r#"
            hooks = { "message.publish" = ["sensors/#", "a/+"], "client.connected" = [] }
            priority = -5
            connectors = ["redis:pool1"]
            ack = "accepted"
            mandatory = true
            [config]
            unit = "celsius"
            factor = 1.8
            token = "env:TOKEN"
            key = "file:key.pem"
            [instances]
            mode = "single"
            recycle_memory = "16MiB"
            [limits]
            cpu = "5ms"
            timeout = "2s"
            memory = "64MiB"
            storage_ops = 7
            log_bytes = "1KiB"
            table_elements = 10
            http_bytes = "1MiB"
            [http]
            allow = ["api.example.com:443", "http://10.0.0.5:8080"]
            [on_error]
            policy = "retry"
            retries = 2
            backoff = "10ms"
            "#,
        )
        .unwrap();
        let hooks = manifest.hooks.unwrap();
        assert_eq!(hooks.len(), 2);
        let publish = hooks.iter().find(|h| h.hook.value == Hook::MessagePublish).unwrap();
        assert_eq!(publish.filters[0].as_str(), "sensors/#");
        assert_eq!((manifest.priority.0, manifest.ack, manifest.mandatory), (-5, AckLevel::Accepted, true));
        let config: Vec<_> = manifest.config.iter().map(|(k, v)| (k.as_str(), v.value.clone())).collect();
        assert!(config.contains(&("factor", ConfigValue::Text("1.8".into()))));
        assert!(config.contains(&("token", ConfigValue::Env("TOKEN".into()))));
        assert!(config.contains(&("key", ConfigValue::File("key.pem".into()))));
        assert_eq!(manifest.instances.recycle_memory, Some(16 << 20));
        assert_eq!(manifest.limits.timeout, Duration::from_secs(2));
        assert_eq!((manifest.limits.storage_ops, manifest.limits.log_bytes), (7, 1_024));
        assert_eq!(manifest.limits.http_bytes, 1 << 20);
        let http: Vec<_> = manifest.http.iter().map(|host| host.value.0.as_str()).collect();
        assert_eq!(http, ["api.example.com:443", "http://10.0.0.5:8080"]);
        assert_eq!(manifest.on_error.policy, None);
        assert_eq!((manifest.on_error.retries, manifest.on_error.backoff), (2, Duration::from_millis(10)));
    }

    #[test]
    fn mistakes_name_line_column_and_the_nearest_spelling() {
        assert_eq!(
            errors("\npriorty = 1\n[limits]\nmemroy = \"1MiB\"\n"),
            [
                "x.toml:2:1: priorty: unknown key; did you mean \"priority\"?",
                "x.toml:4:1: limits.memroy: unknown key; did you mean \"memory\"?",
            ]
        );
        assert_eq!(
            errors("hooks = { \"message.publsh\" = [\"#\"] }"),
            ["x.toml:1:11: hooks.message.publsh: unknown hook; did you mean \"message.publish\"?"]
        );
        assert_eq!(
            errors("hooks = { \"message.publish\" = [\"a/#/b\"] }"),
            ["x.toml:1:32: hooks.message.publish: \"a/#/b\": in a filter # must be the whole last level"]
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let found =
            errors("priority = \"high\"\nack = \"sometimes\"\n[limits]\ncpu = 5\nmemory = \"lots\"\n");
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].starts_with("x.toml:1:12: priority: expected an integer"), "{found:#?}");
        assert!(found.iter().any(|e| e.contains("limits.cpu: expected a duration such as \"50ms\"")));
    }

    #[test]
    fn what_is_not_supported_yet_says_so() {
        for (text, part) in [
            ("[rollout]\ncanary = 10", "rollout: not supported yet"),
            ("[on_error]\npolicy = \"dead-letter\"", "on_error.policy: \"dead-letter\" is not supported yet"),
            ("[on_error]\ndead_letter_topic = \"x\"", "on_error.dead_letter_topic: not supported yet"),
        ] {
            assert!(errors(text).iter().any(|e| e.contains(part)), "{text}: {:?}", errors(text));
        }
    }

    #[test]
    fn hosts_are_located() {
        assert_eq!(
            errors("[http]\nalow = []\nallow = [\"a.example:443\", \"b.example\"]"),
            [
                "x.toml:2:1: http.alow: unknown key; did you mean \"allow\"?",
                "x.toml:3:27: http.allow: \"b.example\": the port is missing: write HOST:443",
            ]
        );
    }

    #[test]
    fn broken_toml_is_located() {
        let found = errors("priority = 1\nhooks = {\n");
        assert!(found[0].starts_with("x.toml:2:") || found[0].starts_with("x.toml:3:"), "{found:?}");
    }

    #[test]
    fn durations_beyond_the_clock_are_refused_with_their_place() {
        assert_eq!(
            errors("[limits]\ntimeout = \"500000000000y\""),
            ["x.toml:2:11: limits.timeout: expected at most \"136y\""]
        );
        assert_eq!(errors("[limits]\ncpu = \"500000000000y\"").len(), 1);
        assert_eq!(errors("[on_error]\npolicy = \"retry\"\nbackoff = \"137y\"").len(), 1);
        let longest = Manifest::parse("x.toml", "limits = { timeout = \"4294967295s\" }").unwrap();
        assert!(std::time::Instant::now().checked_add(longest.limits.timeout).is_some());
    }

    #[test]
    fn mandatory_is_read_from_a_wrong_manifest() {
        for text in [
            "mandatory = true",
            "mandatory = true\nno_such_key = 1\n[limits]\ncpu = 7",
            "mandatory = \"true\"",
            "mandatory = true\nhooks = {\n",
            "hooks = [\n  \"mandatory\" = true",
            "mandatory = true\nmandatory = true",
        ] {
            assert!(Manifest::asks_mandatory(text), "{text}");
        }
        for text in ["", "mandatory = false\nno_such_key = 1", "hooks = {\n", "priority = \"mandatory\""] {
            assert!(!Manifest::asks_mandatory(text), "{text}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for text in [
            "[instances]\nmode = \"single\"\nmax = 4",
            "[instances]\nmax = 0",
            "[limits]\ncpu = \"0ms\"",
            "[limits]\ntable_elements = 10000000",
            "hooks = { \"client.connected\" = [\"a/b\"] }",
            "[on_error]\nretries = 3",
        ] {
            assert_eq!(errors(text).len(), 1, "{text}");
        }
    }
}
