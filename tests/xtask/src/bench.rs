//! `cargo xtask bench`: the load generator against Tidegate and its peers.

use crate::process::{Result, run, workspace_cargo};
use crate::{guests, paths, tools};

/// Link-time optimisation: only benches pay for it.
const PROFILE: &str = "bench-lto";

/// Builds the runtime and the load generator with [`PROFILE`], then measures what `names` says.
///
/// # Errors
/// Something does not build, a peer is missing, or a bench fails.
pub(crate) fn main(names: &[&str]) -> Result<()> {
    tools::for_tests()?;
    let guests = guests::build_all()?;
    run(workspace_cargo()?.args(["build", "--profile", PROFILE, "-p", "tidegate", "-p", "tidegate-bench"]))?;
    let built = paths::target()?.join(PROFILE);
    run(workspace_cargo()?
        .args(["run", "--quiet", "--profile", PROFILE, "-p", "tidegate-bench", "--"])
        .args(names)
        .env("TIDEGATE_BIN", built.join("tidegate"))
        .env("TIDEGATE_GUESTS", guests))
}
