//! `cargo xtask bench`: the load generator against Tidegate and its peers.

use std::process::Command;

use crate::process::{Result, run, workspace_cargo};
use crate::{paths, tools};

/// Link-time optimisation: only benches pay for it.
const PROFILE: &str = "bench-lto";

/// Builds the runtime and the load generator with [`PROFILE`], then measures. `arguments` go to the load
/// generator: names of benches, `--quick`, `--help`.
///
/// # Errors
/// Something does not build, a peer is missing, or a bench fails.
pub(crate) fn main(arguments: &[&str]) -> Result<()> {
    tools::for_tests()?;
    tools::wasm_target()?;
    run(workspace_cargo()?.args(["build", "--profile", PROFILE, "-p", "tidegate", "-p", "tidegate-bench"]))?;
    let built = paths::target()?.join(PROFILE);
    run(Command::new(built.join("tidegate-bench"))
        .args(arguments)
        .current_dir(paths::root())
        .env("TIDEGATE_BIN", built.join("tidegate")))
}
