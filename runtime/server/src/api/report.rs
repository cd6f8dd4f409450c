//! What the API answers, and `tidegate modules list` reads.

use serde::{Deserialize, Serialize};

/// The answer of `/readyz`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// `starting`, `ready` or `stopping`.
    pub status: String,
    /// Where MQTT is served: addresses, and URLs of what is not plain (`mqtts://192.0.2.1:8883`).
    pub listeners: Vec<String>,
    /// Open MQTT connections.
    pub connections: usize,
    /// How many modules there are.
    pub modules: ModuleCount,
    /// Every connector. One that is down does not make the node unready: writers buffer and retry.
    pub connectors: Vec<ConnectorState>,
}

impl Readiness {
    /// The status of a node that serves.
    pub const READY: &'static str = "ready";
}

/// How many module files do and do not serve.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ModuleCount {
    /// Loaded and called.
    pub serving: usize,
    /// Did not load.
    pub failed: usize,
}

/// A connector and whether its database answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectorState {
    /// `kind:pool`.
    pub name: String,
    /// `up` or `down`.
    pub state: String,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// The answer of `/api/v1/modules`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Modules {
    /// Modules that serve, in the order in which they are called.
    pub modules: Vec<ModuleReport>,
    /// Files that did not load. The version before, if there was one, still serves.
    pub failures: Vec<FailureReport>,
}

/// A module that serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModuleReport {
    /// Its name: its path below the modules' directory, without extension.
    pub name: String,
    /// Hash of its content, hex: tells one version from the next.
    pub version: String,
    /// Lower is called first.
    pub priority: i32,
    /// Its file.
    pub path: String,
    /// What it handles.
    pub hooks: Vec<HookReport>,
    /// Calls since this version was loaded.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Mean time of a call, microseconds.
    pub mean_us: f64,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Live instances.
    pub instances: u64,
    /// Whether it is called.
    #[serde(default)]
    pub circuit: CircuitReport,
    /// The trial that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialReport>,
}

/// The circuit breaker of a version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CircuitReport {
    /// `closed` (it is called), `open` (it is not) or `half-open` (one event finds out).
    pub state: String,
    /// How often it has opened.
    pub opened: u64,
    /// Events that went to the error policy without a call.
    pub skipped: u64,
}

impl CircuitReport {
    /// The state of a module that is called.
    pub const CLOSED: &'static str = "closed";
}

impl Default for CircuitReport {
    fn default() -> Self {
        Self { state: Self::CLOSED.into(), opened: 0, skipped: 0 }
    }
}

/// A new version on trial, beside the version before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrialReport {
    /// Per cent of clients that the new version serves.
    pub share: u8,
    /// Hash of the version before, hex.
    pub before: String,
    /// Calls of the version before since it was loaded, with those that its circuit kept from it.
    pub before_calls: u64,
    /// How many of them failed.
    pub before_errors: u64,
}

/// A hook that a module handles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookReport {
    /// Its name: `message.publish`.
    pub hook: String,
    /// Topic filters; none = all topics.
    pub topics: Vec<String>,
}

/// A file that did not load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureReport {
    /// The file.
    pub path: String,
    /// Why.
    pub error: String,
    /// Whether the module is mandatory.
    #[serde(default)]
    pub mandatory: bool,
}
