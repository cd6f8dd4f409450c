//! From a module file's bytes to a component. Pure: no engine, no file, no network.
//!
//! | stage | file |
//! | --- | --- |
//! | what is it? | `content` |
//! | which names does a core module have? | `outline` |
//! | a core module becomes a component | `encode` |
//! | which engine does the component need? | `lane` |
//!
//! A crate of its own, because it reads what strangers wrote: it is fuzzed under a sanitizer without the engine and
//! its compiler (`tests/fuzz/fuzz_targets/loader.rs`).

mod content;
mod encode;
mod lane;
mod outline;

pub use content::{Kind, kind};
pub use encode::{VERSION, component};
pub use lane::Lane;
pub use outline::Outline;

/// Why a file is no module, by what its author can do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormError {
    /// The file is something else than a WebAssembly component or core module.
    #[error("found {found}, expected a WebAssembly component or core module: {advice}")]
    NotWebAssembly {
        /// What the file holds.
        found: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A core module without a component type does not export what the world `tidegate:raw/raw` asks for.
    #[error(
        "a core module without a component type must export memory, cabi_realloc and handle (wit/raw/raw.wit); \
         missing: {missing}{}",
        if *.is_program { "; it is a program with a _start: build a library (a reactor) instead" } else { "" }
    )]
    NotRaw {
        /// The exports that are missing.
        missing: String,
        /// Whether it looks like a program.
        is_program: bool,
    },
    /// A core module without a component type imports what the world `tidegate:raw/raw` does not offer.
    #[error(
        "it imports {wanted}, which the host does not offer{}",
        if *.is_near { " (the nearest it offers is $root#host-call)" } else { "" }
    )]
    RawImport {
        /// `module#name`.
        wanted: String,
        /// Whether `$root#host-call` may be meant.
        is_near: bool,
    },
    /// A core module cannot be made a component.
    #[error("it cannot be made a component: {0}")]
    Encode(String),
}
