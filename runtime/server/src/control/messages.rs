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

/// A file of back ends' configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plugin {
    /// Its name: the file's without `.conf`.
    pub name: String,
    /// `loaded`, `unloaded` (kept out of service) or `refused` (there, and not in use).
    pub state: String,
    /// Where it is.
    pub path: PathBuf,
    /// Connectors that it defines.
    pub connectors: Vec<String>,
    /// How many hook lines it has.
    pub hook_lines: usize,
}

/// All such files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plugins {
    /// In the order of their names.
    pub plugins: Vec<Plugin>,
    /// What is wrong with the newest configuration, which is not in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// Copy a file into the directory of `.conf` files and put it in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPlugin {
    /// The file, absolute.
    pub file: PathBuf,
    /// Whether it may take the place of a file of its name.
    pub replace: bool,
}

/// A configuration that is in use now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PluginChanged {
    /// The plugin's name.
    pub name: String,
    /// `loaded` or `unloaded`.
    pub state: String,
    /// Where its file is.
    pub path: PathBuf,
    /// New connectors.
    pub added: Vec<String>,
    /// Connectors with other options.
    pub changed: Vec<String>,
    /// Connectors that are gone.
    pub removed: Vec<String>,
    /// Warnings that are new.
    pub warnings: Vec<String>,
    /// From the request to its end, milliseconds.
    pub took_ms: u64,
}

/// A connector and what it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connector {
    /// `kind:pool`.
    pub name: String,
    /// `up`, `down` or `waiting` (until the one in whose place it is has written what it had).
    pub state: String,
    /// Operations that wait.
    pub queued: u64,
    /// Operations that are stored.
    pub stored: u64,
    /// Operations that the database refused for good.
    pub refused: u64,
    /// Operations that were given up.
    pub abandoned: u64,
    /// Calls that failed.
    pub errors: u64,
    /// The last failure, in the driver's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it was, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at_ms: Option<u64>,
}

/// All connectors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connectors {
    /// In the order of the configuration.
    pub connectors: Vec<Connector>,
    /// What is wrong with the newest configuration, which is not in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// A question about one connector or all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// A connector or a back end; `None` = all connectors.
    #[serde(default)]
    pub name: Option<String>,
}

/// What came of asking a connector's database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// `kind:pool`.
    pub name: String,
    /// What was done, in words, when it went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// A mistake.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mistake {
    /// What is wrong.
    pub error: String,
}
