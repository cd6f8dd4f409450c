//! clang, its linker for WebAssembly, wasi-libc and the compiler's own functions, as the distribution has them.
//!
//! What counts is that a program can be built: the oldest compiler that builds one and is new enough is taken, so that
//! a machine with several gives the same guests as one with that one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Result, output};
use crate::tools;

/// The first version that the guests are built with.
const OLDEST: u32 = 16;

/// Takes all four to build.
const PROBE: &str = "#include <stdlib.h>
__attribute__((export_name(\"probe\"))) __int128 *probe(__int128 a, __int128 b) {
    __int128 *product = malloc(sizeof a);
    *product = a / b;
    return product;
}
";

/// Gives the compiler.
///
/// # Errors
/// It is missing and cannot be installed; the text says what was tried.
pub(super) fn install() -> Result<PathBuf> {
    let mut tried = Vec::new();
    if let Some(clang) = find(&mut tried)? {
        return Ok(clang);
    }
    let packages = packages()?;
    tools::install(&packages.iter().map(String::as_str).collect::<Vec<_>>())?;
    tried.clear();
    match find(&mut tried)? {
        Some(clang) => Ok(clang),
        None => Err(format!(
            "{} are installed, and no clang builds for WebAssembly all the same:\n{}",
            packages.join(", "),
            tried.join("\n")
        )),
    }
}

/// The oldest compiler on the machine that is new enough and builds [`PROBE`]; why others do not is `tried`.
fn find(tried: &mut Vec<String>) -> Result<Option<PathBuf>> {
    let mut found: Vec<(u32, PathBuf)> = tools::programs(is_clang)
        .into_iter()
        .filter_map(|path| Some((version(&output(Command::new(&path).arg("--version")).ok()?)?, path)))
        .filter(|(version, _)| *version >= OLDEST)
        .collect();
    found.sort();
    let folder = super::folder()?.join("clang");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for (_, clang) in found {
        match builds(&clang, &folder) {
            Ok(()) => return Ok(Some(clang)),
            Err(error) => tried.push(format!("{}: {error}", clang.display())),
        }
    }
    Ok(None)
}

fn is_clang(name: &str) -> bool {
    name == "clang"
        || name.strip_prefix("clang-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The first number of `Debian clang version 16.0.6 (15~deb12u1)`.
fn version(text: &str) -> Option<u32> {
    let (_, rest) = text.lines().next()?.split_once("clang version ")?;
    rest.split('.').next()?.parse().ok()
}

fn builds(clang: &Path, folder: &Path) -> Result<()> {
    let source = folder.join("probe.c");
    std::fs::write(&source, PROBE).map_err(|error| format!("{}: {error}", source.display()))?;
    let mut command = Command::new(clang);
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-Os"]).arg(&source).arg("-o");
    output(command.arg(folder.join("probe.wasm"))).map(drop)
}

/// The packages of the oldest version that is new enough and complete.
///
/// # Errors
/// There is none in the lists of this machine, or there are no lists: the text says what is needed.
fn packages() -> Result<[String; 4]> {
    let needed = format!(
        "clang {OLDEST} or newer is missing, or its linker for WebAssembly (wasm-ld), wasi-libc or the compiler's own \
         functions for wasm32 (compiler-rt)"
    );
    if !tools::on_path("apt-cache") {
        return Err(format!(
            "{needed}. On Debian and Ubuntu these are: `apt-get install clang lld wasi-libc libclang-rt-dev-wasm32`"
        ));
    }
    let names = ["clang", "lld", "libclang-rt"].map(|package| format!("^{package}-[0-9]+(-dev-wasm32)?$"));
    let search = || output(Command::new("apt-cache").args(["search", "--names-only"]).arg(names.join("|")));
    let mut listed = search()?;
    if choose(&listed).is_none() && tools::is_root() {
        tools::update_lists()?;
        listed = search()?;
    }
    let version = choose(&listed).ok_or_else(|| {
        format!(
            "{needed}, and the package lists of this machine have no clang-N, lld-N and libclang-rt-N-dev-wasm32 with N \
             at least {OLDEST}"
        )
    })?;
    Ok([
        format!("clang-{version}"),
        format!("lld-{version}"),
        "wasi-libc".to_owned(),
        format!("libclang-rt-{version}-dev-wasm32"),
    ])
}

/// The oldest version that is new enough and has all three packages, in the words of `apt-cache search`.
fn choose(listed: &str) -> Option<u32> {
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let has = |name: String| names.contains(&name.as_str());
    names
        .iter()
        .filter_map(|name| name.strip_prefix("clang-")?.parse().ok())
        .filter(|version| *version >= OLDEST)
        .filter(|version| has(format!("lld-{version}")) && has(format!("libclang-rt-{version}-dev-wasm32")))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_told_by_their_names_and_versions() {
        assert!(is_clang("clang") && is_clang("clang-16") && is_clang("clang-19"));
        assert!(!is_clang("clang++") && !is_clang("clang-format-16") && !is_clang("clangd"));
        assert_eq!(version("Debian clang version 16.0.6 (15~deb12u1)\nTarget: x\n"), Some(16));
        assert_eq!(version("Ubuntu clang version 18.1.3 (1ubuntu1)"), Some(18));
        assert_eq!(version("clang version 21.1.0"), Some(21));
        assert_eq!(version("gcc (Debian) 12"), None);
    }

    #[test]
    fn no_distribution_is_asked_for_a_version_that_it_does_not_have() {
        let list = |versions: &[u32]| {
            let lines = versions.iter().map(|v| {
                format!("clang-{v} - C\nlld-{v} - LLVM-based linker\nlibclang-rt-{v}-dev-wasm32 - builtins\n")
            });
            lines.collect::<String>()
        };
        assert_eq!(choose(&list(&[14, 16, 19])), Some(16), "Debian 12");
        assert_eq!(choose(&list(&[17, 18, 19])), Some(17), "Debian 13");
        assert_eq!(choose(&list(&[13, 14, 15])), None, "too old");
        assert_eq!(choose("clang-18 - C\nlld-18 - linker\n"), None, "not complete");
        let partly = format!("clang-16 - C\nlld-16 - linker\n{}", list(&[18]));
        assert_eq!(choose(&partly), Some(18));
        assert_eq!(choose(""), None);
    }
}
