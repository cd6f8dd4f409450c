//! Our own binary, as a user starts it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::{INFLIGHT, QUEUE};
use crate::process::{self, Server};
use crate::wire::Version;

/// What a run gives the binary besides a port.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Modules to copy into its modules directory.
    pub modules: Vec<PathBuf>,
    /// A `.conf` file of hook lines.
    pub conf: Option<String>,
}

/// Starts `binary` on a free port, all its files in a temporary directory.
pub(super) async fn start(binary: &Path, setup: &Setup) -> anyhow::Result<Server> {
    let address = process::free_port()?;
    let api = process::free_port()?;
    let directory = tempfile::tempdir()?;
    let root = directory.path();
    for folder in ["modules", "conf.d", "data"] {
        std::fs::create_dir(root.join(folder))?;
    }
    for module in &setup.modules {
        let name = module.file_name().context("a module is a file")?;
        std::fs::copy(module, root.join("modules").join(name))
            .with_context(|| format!("copying {}", module.display()))?;
    }
    if let Some(conf) = &setup.conf {
        std::fs::write(root.join("conf.d/bench.conf"), conf)?;
    }
    let config = root.join("tidegate.toml");
    let text =
        format!("[broker]\nmax_inflight = {INFLIGHT}\nmax_queued = {QUEUE}\n[log]\nlevel = \"warn\"\n");
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.current_dir(root).arg("run").arg("--config").arg(&config);
    command.arg("--listen").arg(address.to_string()).arg("--api").arg(api.to_string());
    for (flag, folder) in [("--modules", "modules"), ("--conf-dir", "conf.d"), ("--data", "data")] {
        command.arg(flag).arg(root.join(folder));
    }
    Ok(Server::start(command, address, Version::V311, directory).await?.with_api(api))
}
