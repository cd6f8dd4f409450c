//! `cargo xtask ci`: the script that the CI machine runs.

use std::process::Command;

use crate::paths;
use crate::process::{Result, run};

/// Runs `.ci/run`.
///
/// # Errors
/// It failed.
pub(crate) fn main() -> Result<()> {
    run(Command::new(paths::root().join(".ci/run")).current_dir(paths::root()))
}
