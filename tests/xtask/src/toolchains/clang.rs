//! clang, its linker for WebAssembly and wasi-libc, from Debian.

use std::path::{Path, PathBuf};

use crate::process::Result;
use crate::tools;

/// Of one version: the compiler, the linker it looks for, the C library, and the compiler's own functions.
const PACKAGES: [&str; 4] = ["clang-16", "lld-16", "wasi-libc", "libclang-rt-16-dev-wasm32"];
/// A file of each.
const FILES: [&str; 4] = [
    "/usr/bin/clang-16",
    "/usr/bin/wasm-ld-16",
    "/usr/include/wasm32-wasi/stdlib.h",
    "/usr/lib/llvm-16/lib/clang/16/lib/wasi/libclang_rt.builtins-wasm32.a",
];

/// Gives the compiler.
///
/// # Errors
/// It is missing and cannot be installed.
pub(super) fn install() -> Result<PathBuf> {
    let there = |file: &&str| Path::new(file).exists();
    if !FILES.iter().all(there) {
        tools::install(&PACKAGES)?;
    }
    match FILES.iter().find(|file| !there(file)) {
        None => Ok(FILES[0].into()),
        Some(file) => {
            Err(format!("{} are installed and {file} is missing all the same", PACKAGES.join(", ")))
        }
    }
}
