//! Programs that are not part of Rust: found, installed where we may, or named exactly.

use std::path::PathBuf;
use std::process::Command;

use crate::paths;
use crate::process::{Result, output, run, works};

/// The Python client the tests use. Pinned: its callbacks differ between releases.
pub(crate) const PAHO: &str = "paho-mqtt==2.1.0";

/// A program of the tests, and the Debian package it comes in.
const PROGRAMS: [(&str, &str); 5] = [
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("sqlite3", "sqlite3"),
    ("stdbuf", "coreutils"),
];

/// Adds the WebAssembly target `target` when it is missing.
///
/// # Errors
/// There is no rustup, or it fails; the text says what to do.
pub(crate) fn wasm_target(target: &str) -> Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    if PathBuf::from(sysroot.trim()).join("lib/rustlib").join(target).join("lib").exists() {
        return Ok(());
    }
    if !works(Command::new("rustup").arg("--version")) {
        return Err(format!(
            "this Rust has no target {target} and there is no rustup to add it.\n\
             Install rustup (https://rustup.rs) and run `rustup target add {target}`, or install your \
             distribution's package of that target for {}.",
            sysroot.trim()
        ));
    }
    run(Command::new("rustup").args(["target", "add", target]))
}

/// Installs what the tests need besides Rust; gives the Python that has paho-mqtt.
///
/// # Errors
/// Something is missing and cannot be installed; the text is the command that installs it.
pub(crate) fn for_tests() -> Result<PathBuf> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    missing.extend(missing_for_environments());
    missing.dedup();
    if !missing.is_empty() {
        install(&missing)?;
    }
    python()
}

/// Installs what Python makes environments with.
///
/// # Errors
/// It is missing and cannot be installed; the text is the command that installs it.
pub(crate) fn for_environments() -> Result<()> {
    match missing_for_environments() {
        [] => Ok(()),
        missing => install(missing),
    }
}

/// The Debian packages of Python and its `venv` when one of them is missing: `venv` is a package of its own there.
fn missing_for_environments() -> &'static [&'static str] {
    let is_there = works(Command::new("python3").args(["-c", "import venv, ensurepip"]));
    if is_there { &[] } else { &["python3", "python3-venv"] }
}

/// Installs the peer of the benches that is no crate. Without it the benches run, and say that it is missing.
pub(crate) fn for_benches() {
    let (program, package) = PROGRAMS[0];
    if on_path(program) {
        println!("  all there");
    } else if let Err(error) = install(&[package]) {
        println!("  {program} is not measured: {error}");
    }
}

/// Where programs are.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where an ordinary user's PATH does not look.
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]).collect()
}

/// Whether there is a program of this name.
pub(crate) fn on_path(program: &str) -> bool {
    folders().iter().any(|folder| folder.join(program).is_file())
}

/// All programs whose names are meant.
pub(crate) fn programs(is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = folders().into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_meant)).collect()
}

/// Installs Debian packages.
///
/// # Errors
/// This is no Debian or we may not; the text is the command that installs them.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let wanted =
        format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !on_path("apt-get") {
        return Err(format!("missing: {}. On Debian or Ubuntu: `{wanted}`", packages.join(", ")));
    }
    if !is_root() {
        return Err(format!("missing: {}. Install them with: `sudo sh -c '{wanted}'`", packages.join(", ")));
    }
    update_lists()?;
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(packages))
}

/// Whether we may install packages.
pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// Reads what packages there are.
///
/// # Errors
/// We may not, or they cannot be had.
pub(crate) fn update_lists() -> Result<()> {
    run(Command::new("apt-get").args(["update", "-q"]))
}

/// A Python environment in the cache, with [`PAHO`].
fn python() -> Result<PathBuf> {
    let environment = paths::cache()?.join("python");
    let python = environment.join("bin/python3");
    let version = PAHO.rsplit('=').next().unwrap_or_default();
    let check = format!("import paho.mqtt; assert paho.mqtt.__version__ == '{version}'");
    if works(Command::new(&python).args(["-c", &check])) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        PAHO,
    ]))?;
    if works(Command::new(&python).args(["-c", &check])) {
        Ok(python)
    } else {
        Err(format!("{} cannot import {PAHO} although pip installed it", python.display()))
    }
}
