//! `cargo xtask bench`: the load generator against Tidegate and its peers.

use std::process::Command;

use crate::process::{Result, run, workspace_cargo};
use crate::{guests, paths, screen, tools};

/// Link-time optimisation: only benches pay for it.
const PROFILE: &str = "bench-lto";

/// Builds the runtime and the load generator with [`PROFILE`], then measures. `arguments` go to the load
/// generator: names of benches, `--quick`, `--help`.
///
/// # Errors
/// Something does not build, a row does not come to its end, or Tidegate lost or reordered a message.
pub(crate) fn main(arguments: &[&str]) -> Result<()> {
    screen::heading("Tools");
    tools::for_benches();
    let rumqttd = tools::rumqttd();
    tools::wasm_target(guests::TARGET)?;
    screen::heading("Build (link-time optimisation: the first time takes many minutes)");
    // Together: one after the other they would ask for different features of what both use, and compile it twice.
    run(workspace_cargo()?.args(["build", "--profile", PROFILE, "-p", "tidegate", "-p", "tidegate-bench"]))?;
    screen::heading("Measure");
    let built = paths::target()?.join(PROFILE);
    run(Command::new(built.join("tidegate-bench"))
        .args(arguments)
        .current_dir(paths::root())
        .env("TIDEGATE_BIN", built.join("tidegate"))
        .envs(rumqttd.map(|program| ("RUMQTTD_BIN", program))))
}
