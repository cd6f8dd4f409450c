//! What goes over the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_module::{Inspection, Terms};

use crate::api::report::{ModuleReport, Modules};

/// A request about one module.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name.
    pub name: String,
}

/// Copy a file into the modules directory and wait for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadFile {
    /// The file, absolute; the manifest lies beside it.
    pub file: PathBuf,
    /// Whether it may take the place of a module of its name.
    pub replace: bool,
}

/// The last lines of a module.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsOf {
    /// Its name.
    pub name: String,
    /// At most so many.
    pub lines: usize,
    /// Whether to go on with what comes.
    pub follow: bool,
}

/// A version that serves now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    /// The module's name.
    pub name: String,
    /// Hash of its file, hex.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// The version that served before.
    pub before: Option<String>,
    /// From the request to the version serving, milliseconds.
    pub took_ms: u64,
    /// Compiling alone, milliseconds.
    pub compile_ms: u64,
    /// Whether the artefact came from the cache.
    pub from_cache: bool,
}

/// A module that no longer serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unloaded {
    /// Its name.
    pub name: String,
    /// Where its file is kept.
    pub path: PathBuf,
    /// From the request to its end, milliseconds.
    pub took_ms: u64,
}

/// A trial that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrialEnded {
    /// The module's name.
    pub name: String,
    /// Hash of the version that serves all clients, hex.
    pub version: String,
    /// Hash of the version that serves no longer.
    pub gone: String,
}

/// Modules, and those that were taken out of service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Listing {
    /// What the API tells, too.
    #[serde(flatten)]
    pub modules: Modules,
    /// Names of unloaded modules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unloaded: Vec<String>,
}

/// Everything that is known about a module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspected {
    /// Its name: the file's without extension.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What the file holds.
    pub file: Inspection,
    /// What its manifest asks for; `None` when it is wrong, which [`Inspection::refusals`] tells.
    pub requested: Option<Terms>,
    /// What the version that serves was given.
    pub granted: Option<Terms>,
    /// The version that serves.
    pub serving: Option<ModuleReport>,
    /// Why the newest version does not serve.
    pub failure: Option<String>,
    /// Whether it was taken out of service.
    pub unloaded: bool,
}

/// A mistake.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mistake {
    /// What is wrong.
    pub error: String,
}
