//! What a configuration means: pools and hook lines, whichever file they came from.

use std::collections::BTreeMap;

use tidegate_event::{AckLevel, ActionOptions, Hook, TopicFilter};

use super::address;
use super::diagnostic::{Diagnostic, Place};
use super::node::Kind;
use super::secret::Secret;
use super::value;
use crate::actions::Function;
use crate::backend::{BackendKind, OptionKind};

/// Everything the store needs to know.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// The connectors.
    pub pools: Vec<PoolConfig>,
    /// The hook lines, ordered by hook, then number, then place.
    pub hooks: Vec<HookLine>,
}

impl StoreConfig {
    /// Whether there is a pool `name` of back end `kind`.
    pub fn has_pool(&self, kind: &str, name: &str) -> bool {
        self.pools.iter().any(|pool| pool.kind.name == kind && pool.name == name)
    }
}

/// A configuration that may be used, and what is odd in it.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The configuration.
    pub config: StoreConfig,
    /// Findings of severity warning.
    pub warnings: Vec<Diagnostic>,
}

/// One connector: a back end and its options.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The back end.
    pub kind: &'static BackendKind,
    /// The pool's name, unique within its back end.
    pub name: String,
    /// Options that are set, by name.
    pub options: BTreeMap<&'static str, OptionValue>,
    /// Whether it is first mentioned in `tidegate.toml`: the documents' files have their own encodings.
    pub in_toml: bool,
    /// Where the pool is first mentioned.
    pub place: Place,
}

impl PoolConfig {
    /// The connector's name: `kind:pool`.
    pub fn connector(&self) -> String {
        format!("{}:{}", self.kind.name, self.name)
    }

    /// The embedded back end with its file at `path` (relative to the working directory).
    #[cfg(feature = "sqlite")]
    pub fn sqlite(name: &str, path: &str) -> Self {
        Self {
            kind: &crate::sqlite::KIND,
            name: name.to_owned(),
            options: BTreeMap::from([("path", OptionValue::Text(path.to_owned()))]),
            in_toml: false,
            place: Place::default(),
        }
    }

    /// Whether the configuration sets an option.
    pub fn is_set(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    /// The text of an option, when it is set to one.
    pub fn text(&self, option: &str) -> Option<&str> {
        match self.options.get(option)? {
            OptionValue::Text(text) => Some(text),
            OptionValue::Secret(secret) => Some(secret.expose()),
            OptionValue::Integer(_) | OptionValue::Boolean(_) | OptionValue::Nothing => None,
        }
    }

    /// The number of an option, when it is set.
    pub fn integer(&self, option: &str) -> Option<u64> {
        match self.options.get(option)? {
            OptionValue::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether an option is set and true.
    pub fn flag(&self, option: &str) -> bool {
        matches!(self.options.get(option), Some(OptionValue::Boolean(true)))
    }

    /// The servers of an option, host and port; none when it is not set.
    pub fn servers(&self, option: &str) -> Vec<(String, u16)> {
        match self.kind.row(option).map(|row| row.kind) {
            Some(OptionKind::Server { port } | OptionKind::Servers { port }) => self.servers_at(option, port),
            _ => Vec::new(),
        }
    }

    /// The same, with `port` where none is written.
    pub fn servers_at(&self, option: &str, port: u16) -> Vec<(String, u16)> {
        self.text(option).and_then(|text| address::servers(text, port)).unwrap_or_default()
    }

    /// The same pool with the default of every option that is not set, but for files: their defaults are filled in by
    /// who knows the data directory.
    #[must_use]
    pub fn with_defaults(&self) -> Self {
        let mut pool = self.clone();
        for row in self.kind.options.iter().chain(self.kind.shared) {
            if !self.is_set(row.name)
                && row.kind != OptionKind::Path
                && let Ok(Some(value)) = value::read(row.kind, &Kind::Text(row.default.to_owned()))
                && value != OptionValue::Nothing
            {
                pool.options.insert(row.name, value);
            }
        }
        pool
    }
}

/// The value of a pool's option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// A text that may be printed.
    Text(String),
    /// A text that may not.
    Secret(Secret),
    /// A number.
    Integer(u64),
    /// True or false.
    Boolean(bool),
    /// None, where the default is something.
    Nothing,
}

/// A hook line: what to do at a hook, on which connector.
#[derive(Clone, Debug)]
pub struct HookLine {
    /// The back end.
    pub kind: &'static BackendKind,
    /// The pool.
    pub pool: String,
    /// The hook.
    pub hook: Hook,
    /// The line's number: lines of one hook run in this order.
    pub n: u32,
    /// Which topics; `None` = all.
    pub topic: Option<TopicFilter>,
    /// What to do.
    pub action: LineAction,
    /// Options of the action.
    pub options: ActionOptions,
    /// Whether the event's acknowledgement waits for it.
    pub ack: AckLevel,
    /// Where the line is.
    pub place: Place,
}

/// What a hook line does.
#[derive(Clone, Debug)]
pub enum LineAction {
    /// A built-in function.
    Function(&'static Function),
    /// Statements in the back end's language, with `${...}` variables.
    Statements(Vec<String>),
}
