//! What a module asks for and what it was given, in a form for people and programs: hooks, connectors, limits.
//! Of its configuration only the keys: the values may be secrets.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_event::{AckLevel, Hook, TopicFilter};

use crate::error::LoadError;
use crate::manifest::{ErrorPolicy, Instances, Limits, Manifest, Mode, OnError};
use crate::module::Module;
use crate::state::Grants;

/// The terms on which a module runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Hooks with their topic filters (none: all topics). `None`: every exported hook, all topics.
    pub hooks: Option<Vec<HookTerms>>,
    /// Connectors it may use. `None`: all of its tenant's.
    pub connectors: Option<Vec<String>>,
    /// Modules run in ascending order.
    pub priority: i32,
    /// Whether listeners wait for it.
    pub mandatory: bool,
    /// `stored` or `accepted`.
    pub ack: String,
    /// Time between ticks, milliseconds. `None`: it asks for none, or for the default when it exports them.
    #[serde(default)]
    pub tick_ms: Option<u64>,
    /// Keys of `[config]`.
    pub config: Vec<String>,
    /// `[instances]`.
    pub instances: InstanceTerms,
    /// `[limits]`.
    pub limits: LimitTerms,
    /// `[on_error]` policy; `None`: the hook's own default.
    pub on_error: Option<String>,
    /// Further attempts before the policy applies; `None`: the hook's own default.
    pub retries: Option<u32>,
}

/// A hook and its filters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTerms {
    /// Its name: `message.publish`.
    pub hook: String,
    /// Topic filters; none = all topics.
    pub topics: Vec<String>,
}

/// How instances are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceTerms {
    /// `warm`, `fresh` or `single`.
    pub mode: String,
    /// Events in flight at once.
    pub max: usize,
    /// Instances kept while nothing happens.
    pub idle: usize,
}

/// Limits, for each event or instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitTerms {
    /// Computing time per event, milliseconds.
    pub cpu_ms: u64,
    /// Time per event, waiting included, milliseconds.
    pub timeout_ms: u64,
    /// Bytes per instance.
    pub memory_bytes: u64,
    /// Table elements per instance.
    pub table_elements: u64,
    /// Storage calls per event.
    pub storage_ops: u32,
    /// Bytes of log lines per event.
    pub log_bytes: u64,
    /// Messages it publishes or delivers, for one event.
    pub publishes: u32,
    /// Bytes it hands to the host in one call.
    pub hostcall_bytes: u64,
    /// Resource handles of an instance.
    pub handles: u64,
}

impl Terms {
    /// What the manifest beside `wasm` asks for; without one, the defaults.
    ///
    /// # Errors
    /// [`LoadError::Read`] when it cannot be read, [`LoadError::Manifest`] with all its mistakes.
    pub fn requested(wasm: &Path) -> Result<Self, LoadError> {
        let path = wasm.with_extension("toml");
        let manifest = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                Manifest::parse(&name.unwrap_or_default(), &text).map_err(LoadError::Manifest)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Manifest::default(),
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        Ok(Self::of_manifest(&manifest))
    }

    fn of_manifest(manifest: &Manifest) -> Self {
        let wanted = manifest.hooks.as_ref().map(|entries| {
            entries.iter().map(|entry| HookTerms::new(entry.hook.value, &entry.filters)).collect()
        });
        Self {
            hooks: wanted,
            connectors: manifest
                .connectors
                .as_ref()
                .map(|names| names.iter().map(|name| name.value.clone()).collect()),
            priority: manifest.priority.0,
            mandatory: manifest.mandatory,
            ack: ack(manifest.ack),
            tick_ms: manifest.tick.as_ref().map(|every| millis(every.value)),
            config: manifest.config.iter().map(|(key, _)| key.clone()).collect(),
            instances: InstanceTerms::new(&manifest.instances),
            limits: LimitTerms::new(&manifest.limits),
            on_error: policy(&manifest.on_error),
            retries: manifest.on_error.retries,
        }
    }

    /// What a version that serves was given.
    pub(crate) fn granted(module: &Module) -> Self {
        let shared = module.pool.shared();
        Self {
            hooks: Some(
                module.hooks().iter().map(|(hook, filters)| HookTerms::new(*hook, filters)).collect(),
            ),
            connectors: match &shared.grants {
                Grants::All => None,
                Grants::These(names) => Some(names.clone()),
            },
            priority: module.priority(),
            mandatory: module.is_mandatory(),
            ack: ack(shared.ack),
            tick_ms: module.tick.map(millis),
            config: shared.config.iter().map(|(key, _)| key.clone()).collect(),
            instances: InstanceTerms::new(module.pool.policy()),
            limits: LimitTerms::new(&shared.limits),
            on_error: policy(module.failing.on_error()),
            retries: module.failing.on_error().retries,
        }
    }
}

impl HookTerms {
    fn new(hook: Hook, filters: &[TopicFilter]) -> Self {
        Self { hook: hook.name().to_owned(), topics: filters.iter().map(ToString::to_string).collect() }
    }
}

impl InstanceTerms {
    fn new(instances: &Instances) -> Self {
        let mode = match instances.mode {
            Mode::Warm => "warm",
            Mode::Fresh => "fresh",
            Mode::Single => "single",
        };
        Self { mode: mode.to_owned(), max: instances.max, idle: instances.idle }
    }
}

impl LimitTerms {
    fn new(limits: &Limits) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            cpu_ms: millis(limits.cpu),
            timeout_ms: millis(limits.timeout),
            memory_bytes: count(limits.memory),
            table_elements: count(limits.table_elements),
            storage_ops: limits.storage_ops,
            log_bytes: count(limits.log_bytes),
            publishes: limits.publishes,
            hostcall_bytes: count(limits.hostcall_bytes),
            handles: count(limits.handles),
        }
    }
}

fn ack(level: AckLevel) -> String {
    match level {
        AckLevel::Stored => "stored",
        AckLevel::Accepted => "accepted",
    }
    .to_owned()
}

fn policy(on_error: &OnError) -> Option<String> {
    let word = match on_error.policy? {
        ErrorPolicy::Pass => "pass",
        ErrorPolicy::Drop => "drop",
        ErrorPolicy::Reject => "reject",
        ErrorPolicy::DeadLetter => "dead-letter",
    };
    Some(word.to_owned())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_manifest_is_shown_without_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("m.wasm");
        let defaults = Terms::requested(&wasm).unwrap();
        assert_eq!((defaults.hooks, defaults.connectors, defaults.limits.cpu_ms), (None, None, 50));
        let text = "hooks = { \"message.publish\" = [\"a/#\"] }\nconnectors = [\"sqlite:p\"]\n\
                    [config]\ntoken = \"s3cret\"\nkey = \"env:KEY\"\n[on_error]\npolicy = \"drop\"\n";
        std::fs::write(dir.path().join("m.toml"), text).unwrap();
        let terms = Terms::requested(&wasm).unwrap();
        let hook = HookTerms { hook: "message.publish".into(), topics: vec!["a/#".into()] };
        assert_eq!(terms.hooks, Some(vec![hook]));
        assert_eq!(terms.connectors, Some(vec!["sqlite:p".into()]));
        let mut keys = terms.config.clone();
        keys.sort();
        assert_eq!(keys, ["key", "token"]);
        assert_eq!(terms.on_error.as_deref(), Some("drop"));
        let json = serde_json::to_string(&terms).unwrap();
        assert!(!json.contains("s3cret") && !json.contains("KEY\""), "{json}");
        std::fs::write(dir.path().join("m.toml"), "priorty = 1").unwrap();
        let refused = Terms::requested(&wasm).unwrap_err().to_string();
        assert!(refused.starts_with("m.toml:1:1: priorty: unknown key"), "{refused}");
    }
}
