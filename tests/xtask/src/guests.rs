//! Builds the guests: WebAssembly needs its own target and target directory.

mod foreign;
mod recipes;

pub(crate) use foreign::build_all as build_matrix;

use std::path::{Path, PathBuf};

use crate::process::{Result, cargo, run};
use crate::{paths, tools};

/// The target the examples are written for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// Builds every guest of the workspace in `directory` into `target`; gives the folder with the `.wasm` files.
///
/// # Errors
/// The target is missing and cannot be added, or a guest does not build.
pub(crate) fn build(directory: &Path, target: &Path, packages: &[&str]) -> Result<PathBuf> {
    tools::wasm_target(TARGET)?;
    let mut command = cargo(directory, target);
    command.args(["build", "--release", "--target", TARGET]).args(packages);
    run(&mut command)?;
    Ok(target.join(TARGET).join("release"))
}

/// Builds the examples and the guests of the tests into the cache; gives the target directory.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_all() -> Result<PathBuf> {
    let target = paths::beside_target("guests")?;
    build(&paths::root().join("guest-examples"), &target, &["--workspace"])?;
    Ok(target)
}

/// `cargo xtask guests`: [`build_matrix`], and tells where they are.
///
/// # Errors
/// As [`build_matrix`].
pub(crate) fn main() -> Result<()> {
    let folder = build_matrix()?;
    // The last line, whatever came before: other programs read it.
    println!("{}", folder.display());
    Ok(())
}
