//! The WebAssembly host: users' modules as files, from a watched directory to the answer of a call.
//!
//! | stage | file |
//! | --- | --- |
//! | a file changes | [`Directory`]: `directory/` |
//! | it is read, made a component, compiled or found in the cache | `host`, `compile`, `artefact`, `cache`; the crate `tidegate_encode` |
//! | it is looked at and nothing more | `inspect` |
//! | its manifest says what it may | `manifest/`, `grants`, `terms` |
//! | its imports are linked, its exports found | `imports/`, `exports`, `bindings` (from `wit/`) |
//! | a new version takes over: with the old one's state, or on trial beside it | `handover`, `rollout` |
//! | instances are kept warm, and make room for others | `pool`, `slots`, `instance`, `state` |
//! | an event is handed over and answered | [`Module::handle`], `translate`, `leave`; as JSON: `raw`, `envelope` |
//! | several are handed over at once, or time has passed | `batch`, `pool/gathered`; `tick` |
//! | a guest computes, allocates, stores, publishes or writes too much | `budget`, `ticker`, `limiter`, `quota`, `output` |
//! | it fails: is tried again, given up, its event kept | `policy`, `circuit`, `poison`, `dead_letter` |
//!
//! Guests are not trusted: they get no files, no environment and no network but the HTTP hosts that are granted, every call is bounded in time,
//! memory, storage operations and output, and whatever a guest does hurts only the event it was called for.
//! This crate knows the traits of `tidegate_event` and neither an MQTT socket nor a database driver.

mod artefact;
mod batch;
mod bindings;
mod budget;
mod cache;
mod circuit;
mod compile;
mod dead_letter;
mod directory;
mod engine;
mod envelope;
mod error;
mod exports;
mod grants;
mod handover;
mod host;
mod imports;
mod inspect;
mod instance;
mod leave;
mod limiter;
mod manifest;
mod meters;
mod module;
mod output;
mod poison;
mod policy;
mod pool;
mod progress;
mod quota;
mod raw;
mod rollout;
mod slots;
mod state;
mod terms;
mod tick;
mod ticker;
mod translate;

pub use circuit::CircuitState;
pub use compile::{Compiler, CompilerLimits, compile_file, exit_status};
pub use directory::{
    CommandError, Commands, Directory, Failure, OnChange, Outcome, TrialEnded, module_files,
};
pub use error::{CallError, GuestFailure, HostError, Limit, LoadError};
pub use host::{Host, HostConfig};
pub use imports::http::{HttpConfig, Resolve};
pub use inspect::{Inspection, Kind, Producer};
pub use manifest::{ErrorPolicy, ManifestError};
pub use module::{Answer, Loading, Module, ModuleStats, TrialReport};
pub use policy::Settled;
pub use progress::{InProgress, Stage};
pub use terms::{HookTerms, InstanceTerms, LimitTerms, Terms};
