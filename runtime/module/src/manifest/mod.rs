//! The manifest `x.toml` beside `x.wasm`: what a module handles, may use and costs at most.
//!
//! Everything has a default, so a module needs no manifest. What is written is read strictly: an unknown key,
//! a wrong type or a key that is not supported yet is an error with file, line and column, never ignored.

mod read;

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_event::{AckLevel, Hook, TopicFilter, TopicName};

use crate::imports::http::Destination;

pub(crate) use read::nearest;

use crate::rollout::Rollout;

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
    /// The time between ticks; `None`: the default, if the module wants any.
    pub(crate) tick: Option<Located<Duration>>,
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
    /// `[rollout]`.
    pub(crate) rollout: Rollout,
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
    /// Messages per event that client-control publishes or delivers.
    pub(crate) publishes: u32,
    /// Bytes that the guest hands to the host in one call or answer.
    pub(crate) hostcall_bytes: usize,
    /// Resources (streams, pollables ...) that an instance holds.
    pub(crate) handles: usize,
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
            publishes: 1_000,
            // A guest's memory limit is far below what a message may have by the protocol, 256 MiB.
            hostcall_bytes: 64 << 20,
            handles: 10_000,
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
    /// The event is written to the file of dead letters and then counts as handled; its message goes no further.
    DeadLetter,
}

/// `[on_error]`.
#[derive(Clone, Debug)]
pub(crate) struct OnError {
    /// What follows the last attempt; `None`: the hook's own default.
    pub(crate) policy: Option<ErrorPolicy>,
    /// Further attempts before the policy applies; `None`: the hook's own default.
    pub(crate) retries: Option<u32>,
    /// Pause before the first further attempt; doubled for each one, at most ten seconds.
    pub(crate) backoff: Duration,
    /// Where dead letters are published too.
    pub(crate) dead_letter_topic: Option<TopicName>,
    /// After so many failures a message that would be refused again is a dead letter; `None`: never.
    pub(crate) poison_after: Option<NonZeroU32>,
}

impl Default for OnError {
    fn default() -> Self {
        Self {
            policy: None,
            retries: None,
            backoff: Duration::from_millis(100),
            dead_letter_topic: None,
            poison_after: NonZeroU32::new(5),
        }
    }
}

/// Words for the file's keys, for messages and spelling hints.
pub(crate) mod keys {
    pub(crate) const ROOT: &[&str] = &[
        "hooks",
        "priority",
        "connectors",
        "ack",
        "mandatory",
        "tick",
        "config",
        "instances",
        "limits",
        "on_error",
        "rollout",
        "http",
    ];
    pub(crate) const INSTANCES: &[&str] = &["mode", "max", "idle", "recycle_calls", "recycle_memory"];
    pub(crate) const LIMITS: &[&str] = &[
        "cpu",
        "timeout",
        "memory",
        "table_elements",
        "storage_ops",
        "log_bytes",
        "http_bytes",
        "publishes",
        "hostcall_bytes",
        "handles",
    ];
    pub(crate) const ROLLOUT: &[&str] = &["canary", "promote_after", "rollback_error_rate"];
    pub(crate) const ON_ERROR: &[&str] =
        &["policy", "retries", "backoff", "then", "dead_letter_topic", "poison_after"];
    pub(crate) const HTTP: &[&str] = &["allow"];
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
    use std::path::Path;

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
    fn every_key_has_its_line_in_the_reference() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifest.md");
        let page = std::fs::read_to_string(page).unwrap();
        let tables = ["config", "instances", "limits", "on_error", "rollout", "http"];
        let (root, rest) = page.split_once("| `[config]` |").unwrap();
        let section =
            |table: &str| rest.split(&format!("| `[{table}]` |")).nth(1).unwrap().split("\n\n").next();
        for (table, keys) in [
            ("instances", keys::INSTANCES),
            ("limits", keys::LIMITS),
            ("on_error", keys::ON_ERROR),
            ("rollout", keys::ROLLOUT),
            ("http", keys::HTTP),
        ] {
            let lines = section(table).unwrap();
            let told: Vec<_> =
                lines.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
            assert_eq!(told, keys, "[{table}]");
        }
        for key in keys::ROOT.iter().filter(|key| !tables.contains(*key)) {
            assert!(root.contains(&format!("\n| `{key}` |")), "{key}");
        }
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
            publishes = 3
            hostcall_bytes = "2MiB"
            handles = 12
            http_bytes = "1MiB"
            [http]
            allow = ["api.example.com:443", "http://10.0.0.5:8080"]
            [on_error]
            policy = "retry"
            retries = 2
            backoff = "10ms"
            then = "dead-letter"
            dead_letter_topic = "dead/letters"
            poison_after = 9
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
        let limits = manifest.limits;
        assert_eq!((limits.publishes, limits.hostcall_bytes, limits.handles), (3, 2 << 20, 12));
        let on_error = manifest.on_error;
        assert_eq!(on_error.policy, Some(ErrorPolicy::DeadLetter));
        assert_eq!((on_error.retries, on_error.backoff), (Some(2), Duration::from_millis(10)));
        assert_eq!(on_error.dead_letter_topic.unwrap().as_str(), "dead/letters");
        assert_eq!(on_error.poison_after, NonZeroU32::new(9));
    }

    #[test]
    fn policies_and_what_belongs_to_them() {
        let read = |text: &str| Manifest::parse("x.toml", &format!("[on_error]\n{text}")).unwrap().on_error;
        for (text, policy, retries) in [
            ("", None, None),
            ("policy = \"pass\"", Some(ErrorPolicy::Pass), None),
            ("policy = \"drop\"", Some(ErrorPolicy::Drop), None),
            ("policy = \"reject\"", Some(ErrorPolicy::Reject), None),
            ("policy = \"retry\"", None, Some(3)),
            ("policy = \"retry\"\nthen = \"pass\"", Some(ErrorPolicy::Pass), Some(3)),
            ("then = \"drop\"\nretries = 1\npolicy = \"retry\"", Some(ErrorPolicy::Drop), Some(1)),
            ("policy = \"dead-letter\"", Some(ErrorPolicy::DeadLetter), None),
            ("policy = \"dead-letter\"\nretries = 7", Some(ErrorPolicy::DeadLetter), Some(7)),
        ] {
            let on_error = read(text);
            assert_eq!((on_error.policy, on_error.retries), (policy, retries), "{text}");
            assert_eq!(
                (on_error.backoff, on_error.poison_after),
                (Duration::from_millis(100), NonZeroU32::new(5))
            );
        }
        assert_eq!(read("poison_after = 0").poison_after, None);
        for (text, part) in [
            (
                "policy = \"pass\"\nretries = 3",
                "x.toml:3:1: on_error.retries: belongs to policy = \"retry\" and",
            ),
            ("policy = \"reject\"\nbackoff = \"1s\"", "x.toml:3:1: on_error.backoff: belongs to"),
            (
                "policy = \"drop\"\nthen = \"pass\"",
                "x.toml:3:1: on_error.then: belongs to policy = \"retry\"",
            ),
            ("policy = \"retry\"\nthen = \"retry\"", "x.toml:3:8: on_error.then: unknown value"),
            ("policy = \"dead-leter\"", "did you mean \"dead-letter\"?"),
            ("dead_letter_topic = \"dead/#\"", "x.toml:2:21: on_error.dead_letter_topic: \"dead/#\": "),
            ("poison_after = -1", "on_error.poison_after: expected an integer from 0"),
        ] {
            let found = errors(&format!("[on_error]\n{text}"));
            assert!(found.len() == 1 && found[0].contains(part), "{text}: {found:?}");
        }
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
    fn a_rollout_is_read_and_its_mistakes_are_named() {
        let text = "[rollout]\ncanary = 10\npromote_after = \"10m\"\nrollback_error_rate = 0.05";
        let rollout = Manifest::parse("x.toml", text).unwrap().rollout;
        let promote_after = Some(Duration::from_secs(600));
        assert_eq!(rollout, Rollout { canary: 10, promote_after, rollback_error_rate: Some(0.05) });
        let text = "rollout = { canary = 1, promote_after = 0, rollback_error_rate = 1 }";
        let rollout = Manifest::parse("x.toml", text).unwrap().rollout;
        assert_eq!((rollout.promote_after, rollout.rollback_error_rate), (Some(Duration::ZERO), Some(1.0)));
        for (text, error) in [
            (
                "canary = 0",
                "x.toml:2:10: rollout.canary: expected an integer from 1 to 100, found the integer 0",
            ),
            (
                "canary = 101",
                "x.toml:2:10: rollout.canary: expected an integer from 1 to 100, found the integer 101",
            ),
            (
                "canary = \"10%\"",
                "x.toml:2:10: rollout.canary: expected an integer from 1 to 100, found the string \"10%\"",
            ),
            (
                "rollback_error_rate = 5",
                "x.toml:2:23: rollout.rollback_error_rate: expected a number above 0 and at most 1, found the integer 5",
            ),
            (
                "rollback_error_rate = 0.0",
                "x.toml:2:23: rollout.rollback_error_rate: expected a number above 0 and at most 1, found the float 0.0",
            ),
            (
                "canary = 10\npromote_after = 5",
                "x.toml:3:17: rollout.promote_after: expected a duration such as \"10m\", or 0, found the integer 5",
            ),
            (
                "promote_after = \"10m\"",
                "x.toml:2:1: rollout.promote_after: belongs to canary below 100 or to rollback_error_rate",
            ),
            ("canari = 10", "x.toml:2:1: rollout.canari: unknown key; did you mean \"canary\"?"),
            (
                "canary = 10\n[instances]\nmode = \"single\"",
                "x.toml:1:2: rollout: mode = \"single\" has one instance for all clients, and two versions would be two: leave \
                 rollout out",
            ),
        ] {
            assert_eq!(errors(&format!("[rollout]\n{text}")), [error]);
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
