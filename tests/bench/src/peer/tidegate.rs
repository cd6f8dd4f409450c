//! Our own binary, as a user starts it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::{INFLIGHT, QUEUE, Service, Sessions};
use crate::load::Transport;
use crate::process::{self, Server};
use crate::wire::Version;

/// What a run gives the binary besides a port.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Modules to copy into its modules directory, each with the manifest beside it, if there is one.
    pub modules: Vec<PathBuf>,
    /// A directory of compiled artefacts to start with.
    pub artefacts: Option<PathBuf>,
    /// The lines of the table `[broker]` of its `tidegate.toml`; none: what compares with the peers.
    pub broker: Option<&'static str>,
    /// Further tables.
    pub tables: &'static str,
    /// What is served; none: a plain broker.
    pub service: Option<Service>,
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
        for file in [module.clone(), module.with_extension("toml")] {
            let name = file.file_name().context("a module is a file")?;
            if file == *module || file.is_file() {
                std::fs::copy(&file, root.join("modules").join(name))
                    .with_context(|| format!("copying {}", file.display()))?;
            }
        }
    }
    if let Some(artefacts) = &setup.artefacts {
        give_artefacts(artefacts, &root.join("data/cache"))?;
    }
    if let Some(conf) = &setup.conf {
        std::fs::write(root.join("conf.d/bench.conf"), conf)?;
    }
    let config = root.join("tidegate.toml");
    let own = own_limits(setup.service.as_ref());
    let broker = setup.broker.unwrap_or(&own);
    let mut text = format!("[broker]\n{broker}[log]\nlevel = \"warn\"\n{}", setup.tables);
    let mut plain = address;
    if let Some(tls) = setup.service.as_ref().and_then(|service| service.tls.as_ref()) {
        plain = process::free_port()?;
        text += &format!(
            "\n[[broker.listener]]\nname = \"tls\"\naddress = \"{address}\"\nkind = \"mqtts\"\n\
             certificates = [{{ cert = {:?}, key = {:?} }}]\n",
            tls.certificate(),
            tls.key(),
        );
    }
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.current_dir(root).arg("run").arg("--config").arg(&config);
    command.arg("--listen").arg(plain.to_string()).arg("--api").arg(api.to_string());
    for (flag, folder) in [("--modules", "modules"), ("--conf-dir", "conf.d"), ("--data", "data")] {
        command.arg(flag).arg(root.join(folder));
    }
    let transport = setup.service.as_ref().map_or(Transport::Tcp, Service::transport);
    Ok(Server::start(command, address, transport, Version::V311, directory).await?.with_api(api))
}

/// The table `[broker]` that compares with the peers': their limits, and no bound on how fast clients come.
fn own_limits(service: Option<&Service>) -> String {
    let durability = match service.map_or(Sessions::Usual, |service| service.sessions) {
        Sessions::Usual => "",
        Sessions::Durable => "session_durability = \"synced\"\n",
        Sessions::Volatile => "session_durability = \"off\"\n",
    };
    format!("max_inflight = {INFLIGHT}\nmax_queued = {QUEUE}\nconnection_rate = 0\n{durability}")
}

/// Links every artefact into a new directory that only we can enter, as the server demands.
fn give_artefacts(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // Another file system has no links to this one's files.
        if std::fs::hard_link(entry.path(), &target).is_err() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
