//! How each guest of the matrix, and each example without component tooling, is built: one function a toolchain.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Result, cargo, run};
use crate::toolchains::Toolchains;
use crate::{paths, tools};

/// Where one guest is built.
pub(super) struct Bench<'a> {
    pub(super) tools: &'a Toolchains,
    /// An empty folder.
    pub(super) scratch: PathBuf,
    /// The folder of the world `matrix`, with its dependencies.
    pub(super) wit: &'a Path,
    /// The `.wasm` file to make.
    pub(super) output: PathBuf,
}

/// A guest that is built by another toolchain than the workspace's.
pub(super) struct Recipe {
    /// The name of the `.wasm` file.
    pub(super) name: &'static str,
    /// Its sources, from the root of the clone: files and folders.
    pub(super) sources: &'static [&'static str],
    /// Makes it.
    pub(super) build: fn(&Bench<'_>) -> Result<()>,
}

/// All of them; the test of the matrix names the same.
pub(super) const RECIPES: [Recipe; 11] = [
    Recipe { name: "c-clang", sources: &["tests/matrix/guests/c"], build: c_clang },
    Recipe { name: "c-zig", sources: &["tests/matrix/guests/c"], build: c_zig },
    Recipe { name: "zig-raw", sources: &["tests/matrix/guests/zig"], build: zig },
    Recipe {
        name: "assemblyscript-raw",
        sources: &["tests/matrix/guests/assemblyscript"],
        build: assemblyscript,
    },
    Recipe { name: "go-raw", sources: &["tests/matrix/guests/go"], build: go },
    Recipe { name: "javascript-quickjs", sources: &["tests/matrix/guests/javascript"], build: quickjs },
    Recipe {
        name: "javascript-starlingmonkey",
        sources: &["tests/matrix/guests/javascript"],
        build: starlingmonkey,
    },
    Recipe { name: "python", sources: &["tests/matrix/guests/python"], build: python },
    Recipe { name: "raw-hello-c", sources: &["guest-examples/raw-hello-c/hello.c"], build: hello_c },
    Recipe { name: "raw-hello-zig", sources: &["guest-examples/raw-hello-zig/hello.zig"], build: hello_zig },
    Recipe {
        name: "raw-hello-assemblyscript",
        sources: &["guest-examples/raw-hello-assemblyscript/hello.ts"],
        build: hello_assemblyscript,
    },
];

/// The targets the Rust guest is built for, and the names of the two guests.
pub(super) const RUST: [(&str, &str); 2] =
    [("wasm32-wasip2", "rust-wasip2"), ("wasm32-unknown-unknown", "rust-unknown-unknown")];

/// Builds the Rust guest for `triple` with cargo's own cache in `target`; gives the file.
pub(super) fn rust(triple: &str, target: &Path) -> Result<PathBuf> {
    tools::wasm_target(triple)?;
    let mut command = cargo(&source("tests/matrix/guests/rust"), target);
    // Flags for the runtime's own processor are none of a guest's.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(command.args(["build", "--release", "--locked", "--quiet", "--target", triple]))?;
    Ok(target.join(triple).join("release/matrix_guest.wasm"))
}

fn source(path: &str) -> PathBuf {
    paths::root().join(path)
}

fn c_clang(bench: &Bench<'_>) -> Result<()> {
    clang(bench, &c_sources(), &[])
}

/// As the README of the example says.
fn hello_c(bench: &Bench<'_>) -> Result<()> {
    clang(bench, &[source("guest-examples/raw-hello-c/hello.c")], &["-Werror"])
}

fn clang(bench: &Bench<'_>, sources: &[PathBuf], more: &[&str]) -> Result<()> {
    let mut command = Command::new(&bench.tools.clang);
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-Wextra"]);
    run(command.args(more).args(sources).arg("-Wl,--strip-debug").arg("-o").arg(&bench.output))
}

fn c_sources() -> [PathBuf; 3] {
    ["guest.c", "bindings/matrix.c", "bindings/matrix_component_type.o"]
        .map(|name| source("tests/matrix/guests/c").join(name))
}

fn c_zig(bench: &Bench<'_>) -> Result<()> {
    let mut command = zig_command(bench);
    command.args(["cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-Wextra"]);
    // 16 MiB unless told otherwise, which would count against the guest's memory.
    command.arg("-Wl,-z,stack-size=65536");
    run(command.args(c_sources()).arg("-o").arg(&bench.output))
}

fn zig(bench: &Bench<'_>) -> Result<()> {
    zig_raw(bench, &source("tests/matrix/guests/zig/guest.zig"))
}

fn hello_zig(bench: &Bench<'_>) -> Result<()> {
    zig_raw(bench, &source("guest-examples/raw-hello-zig/hello.zig"))
}

fn zig_raw(bench: &Bench<'_>, main: &Path) -> Result<()> {
    let mut command = zig_command(bench);
    command.arg("build-exe").arg(main);
    command.args([
        "-target",
        "wasm32-freestanding",
        "-fno-entry",
        "-rdynamic",
        "-O",
        "ReleaseSmall",
        "-fstrip",
    ]);
    run(command.arg(format!("-femit-bin={}", bench.output.display())))
}

/// Zig keeps its caches beside the guest's scratch folder, not in the clone and not in the user's home.
fn zig_command(bench: &Bench<'_>) -> Command {
    let mut command = Command::new(&bench.tools.zig);
    command.current_dir(&bench.scratch);
    command.env("ZIG_LOCAL_CACHE_DIR", bench.scratch.join("cache"));
    command.env("ZIG_GLOBAL_CACHE_DIR", bench.output.with_file_name("zig-cache"));
    command
}

fn assemblyscript(bench: &Bench<'_>) -> Result<()> {
    asc(bench, "tests/matrix/guests/assemblyscript", "guest.ts")
}

fn hello_assemblyscript(bench: &Bench<'_>) -> Result<()> {
    asc(bench, "guest-examples/raw-hello-assemblyscript", "hello.ts")
}

fn asc(bench: &Bench<'_>, folder: &str, main: &str) -> Result<()> {
    copy(&source(folder), &bench.scratch)?;
    let mut command = node(bench, ".bin/asc")?;
    // The faster modes of json-as 1.6.0 write characters beyond 16 bits wrongly.
    command.env("JSON_MODE", "NAIVE");
    command.arg(main).args([
        "--transform",
        "json-as/transform",
        "-O3",
        "--noAssert",
        "--runtime",
        "incremental",
    ]);
    // 201: conversions in json-as that only matter with 64-bit memories.
    run(command.args(["--use", "abort=", "--disableWarning", "201", "-o"]).arg(&bench.output))
}

fn quickjs(bench: &Bench<'_>) -> Result<()> {
    copy(&source("tests/matrix/guests/javascript"), &bench.scratch)?;
    let mut command = node(bench, ".bin/jco")?;
    command.args(["componentize", "guest.js", "--world-name", "matrix", "--backend", "qjs"]);
    run(command.args(["--backend-qjs-disable-async", "--wit"]).arg(bench.wit).arg("-o").arg(&bench.output))
}

/// By the library: the command of jco does not read the WIT for this backend on Node.js 20.
fn starlingmonkey(bench: &Bench<'_>) -> Result<()> {
    copy(&source("tests/matrix/guests/javascript"), &bench.scratch)?;
    let mut command = Command::new(&bench.tools.node);
    link_modules(bench)?;
    command.current_dir(&bench.scratch).args(["starlingmonkey.mjs", "guest.js"]);
    run(command.arg(bench.wit).arg(&bench.output))
}

/// Node.js on a program of the packages, in the scratch folder, where imports find the packages.
fn node(bench: &Bench<'_>, program: &str) -> Result<Command> {
    link_modules(bench)?;
    let mut command = Command::new(&bench.tools.node);
    command.current_dir(&bench.scratch).arg(bench.tools.node_modules.join(program));
    Ok(command)
}

fn link_modules(bench: &Bench<'_>) -> Result<()> {
    let link = bench.scratch.join("node_modules");
    std::os::unix::fs::symlink(&bench.tools.node_modules, &link)
        .map_err(|error| format!("{}: {error}", link.display()))
}

/// Functions of the runtime are linked by name (`sbrk`), hence `-checklinkname=0`.
fn go(bench: &Bench<'_>) -> Result<()> {
    let mut command = Command::new(&bench.tools.go);
    command.current_dir(source("tests/matrix/guests/go"));
    command
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local");
    command.env("GOCACHE", bench.output.with_file_name("go-cache"));
    command.args(["build", "-buildmode=c-shared", "-ldflags=-s -w -checklinkname=0", "-o"]);
    run(command.arg(&bench.output).arg("."))
}

fn python(bench: &Bench<'_>) -> Result<()> {
    copy(&source("tests/matrix/guests/python"), &bench.scratch)?;
    let mut command = Command::new(&bench.tools.componentize_py);
    command.current_dir(&bench.scratch).arg("-d").arg(bench.wit).args([
        "-w",
        "matrix",
        "componentize",
        "app",
    ]);
    run(command.arg("-o").arg(&bench.output))
}

/// Copies the files of a folder: these compilers read, and write, beside their source.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = |error: std::io::Error| format!("{}: {error}", from.display());
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            std::fs::copy(&path, to.join(name)).map_err(failed)?;
        }
    }
    Ok(())
}
