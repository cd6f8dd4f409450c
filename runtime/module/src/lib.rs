//! The WebAssembly host: users' modules as files, from a watched directory to the answer of a call.
//!
//! | stage | file |
//! | --- | --- |
//! | a file changes | [`Directory`]: `directory/` |
//! | it is read, checked, compiled or found in the cache | `host`, `content`, `compile`, `artefact`, `cache` |
//! | its manifest says what it may | `manifest/`, `grants` |
//! | its imports are linked, its exports found | `imports/`, `exports`, `bindings` (from `wit/`) |
//! | instances are kept warm | `pool`, `instance`, `state` |
//! | an event is handed over and answered | [`Module::call`], `translate` |
//! | a guest computes, allocates or writes too much | `budget`, `ticker`, `limiter`, `output` |
//!
//! Guests are not trusted: they get no files, no environment and no network but the HTTP hosts that are granted, every call is bounded in time,
//! memory, storage operations and output, and whatever a guest does hurts only the event it was called for.
//! This crate knows the traits of `tidegate_event` and neither an MQTT socket nor a database driver.

mod artefact;
mod bindings;
mod budget;
mod cache;
mod compile;
mod content;
mod directory;
mod engine;
mod error;
mod exports;
mod grants;
mod host;
mod imports;
mod instance;
mod limiter;
mod manifest;
mod meters;
mod module;
mod output;
mod pool;
mod state;
mod ticker;
mod translate;

pub use compile::{Compiler, CompilerLimits, compile_file};
pub use directory::{Directory, OnChange};
pub use error::{CallError, GuestFailure, HostError, Limit, LoadError};
pub use host::{Host, HostConfig};
pub use imports::http::{HttpConfig, Resolve};
pub use manifest::{ErrorPolicy, ManifestError};
pub use module::{Answer, Loading, Module, ModuleStats};
