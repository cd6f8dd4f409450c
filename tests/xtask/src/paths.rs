//! Where things lie: the clone, and everything that is built, outside it.

use std::path::{Path, PathBuf};

use crate::process::Result;

/// The root of the clone.
pub(crate) fn root() -> &'static Path {
    // tests/xtask is two folders down.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).unwrap_or(here)
}

/// Built things and tools: `${XDG_CACHE_HOME:-$HOME/.cache}/tidegate`.
///
/// # Errors
/// Neither variable is set.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|root| root.join("tidegate"))
        .ok_or_else(|| "neither XDG_CACHE_HOME nor HOME is set: there is no place for what is built".into())
}

/// Target directory of the workspace: `CARGO_TARGET_DIR`, else in the [`cache`].
///
/// # Errors
/// As [`cache`].
pub(crate) fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(path) => std::path::absolute(path).map_err(|error| format!("CARGO_TARGET_DIR: {error}")),
        None => Ok(cache()?.join("target")),
    }
}

/// A target directory beside the workspace's: `guests`, `demo`, `fuzz`.
///
/// # Errors
/// As [`cache`].
pub(crate) fn beside_target(name: &str) -> Result<PathBuf> {
    let target = target()?;
    Ok(target.parent().unwrap_or(&target).join(name))
}

/// The binary that `cargo build --release -p tidegate` makes, or the one that TIDEGATE_BIN names.
///
/// # Errors
/// As [`cache`].
pub(crate) fn binary() -> Result<PathBuf> {
    match std::env::var_os("TIDEGATE_BIN") {
        Some(built) => Ok(built.into()),
        None => Ok(target()?.join("release/tidegate")),
    }
}
