//! Programs that are not part of Rust: found, installed where we may, or named exactly.

use std::path::PathBuf;
use std::process::Command;

use tidegate_servers::kind::{KINDS, Kind};

use crate::paths;
use crate::process::{Result, fetch, output, run, works};

/// The Python client the tests use. Pinned: its callbacks differ between releases.
pub(crate) const PAHO: &str = "paho-mqtt==2.1.0";

/// The program that benches measure over TLS: the release that the workspace has as a crate.
const RUMQTTD: &str = "0.20.0";

/// A program of the tests, and the Debian package it comes in.
const PROGRAMS: [(&str, &str); 6] = [
    ("mosquitto", "mosquitto"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("openssl", "openssl"),
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
    fetch(Command::new("rustup").args(["target", "add", target]))
}

/// Installs what the tests need besides Rust; gives the Python that has paho-mqtt.
///
/// # Errors
/// Something is missing and cannot be installed; the text is the command that installs it.
pub(crate) fn for_tests() -> Result<PathBuf> {
    let mut missing = missing_of(PROGRAMS.iter().chain(KINDS.iter().flat_map(|kind| kind.programs)));
    missing.extend(missing_for_environments());
    if !missing.is_empty() {
        install(&missing)?;
    }
    python()
}

/// Installs what these servers need.
///
/// # Errors
/// Something is missing and cannot be installed; the text is the command that installs it.
pub(crate) fn for_servers(kinds: &[&Kind]) -> Result<()> {
    let missing = missing_of(kinds.iter().flat_map(|kind| kind.programs));
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// The packages of those programs that are not there, each once.
fn missing_of<'a>(programs: impl Iterator<Item = &'a (&'static str, &'static str)>) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        programs.filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
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

/// Installs what benches measure against that is no crate. What is missing then is not measured, and they say so.
pub(crate) fn for_benches() {
    let peer = PROGRAMS.iter().filter(|(program, _)| *program == "mosquitto");
    let missing = missing_of(peer.chain(KINDS.iter().flat_map(|kind| kind.programs)));
    if missing.is_empty() {
        println!("  all there");
    } else if let Err(error) = install(&missing) {
        println!("  not measured: {error}");
    }
}

/// rumqttd's own program in the cache, built once: its listener has TLS only with an older rustls, which the crate in the
/// workspace is built without. `None`: it cannot be had, and is not measured over TLS.
pub(crate) fn rumqttd() -> Option<PathBuf> {
    let root = paths::cache().ok()?.join("rumqttd");
    let program = root.join("bin/rumqttd");
    let version = format!("rumqttd {RUMQTTD}");
    if output(Command::new(&program).arg("--version")).is_ok_and(|told| told.trim() == version) {
        return Some(program);
    }
    // With the optimisation of everything else that is measured. Not `--locked`: its lock file names a release of `metrics`
    // that no recent Rust compiles.
    let installed = run(Command::new("cargo")
        .args(["install", "rumqttd", "--version", RUMQTTD, "--root"])
        .arg(&root)
        .env("CARGO_PROFILE_RELEASE_LTO", "thin")
        .env_remove("RUSTFLAGS"));
    match installed {
        Ok(()) => Some(program),
        Err(error) => {
            println!("  rumqttd is not measured over TLS: {error}");
            None
        }
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
    let _no_services = NoServices::while_installing()?;
    // Somebody else's apt may hold the lock, or, in images that clean up after every apt, take the files away.
    fetch(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-q", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// Keeps packages from starting the service they bring: tests start their own. Ends with this value.
struct NoServices {
    is_ours: bool,
}

impl NoServices {
    /// What Debian's package scripts ask before they start a service.
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn while_installing() -> Result<Self> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(Self::POLICY);
        match file {
            // 101: not allowed.
            Ok(mut file) => match file.write_all(b"#!/bin/sh\nexit 101\n") {
                Ok(()) => Ok(Self { is_ours: true }),
                Err(error) => Err(format!("{}: {error}", Self::POLICY)),
            },
            // The image's own, which says the same.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { is_ours: false }),
            Err(error) => Err(format!("{}: {error}", Self::POLICY)),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_ours {
            // Left behind it only keeps services from starting, and the next `install` takes it for the image's.
            drop(std::fs::remove_file(Self::POLICY));
        }
    }
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
    fetch(Command::new("apt-get").args(["update", "-q"]))
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
    fetch(Command::new(&python).args([
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
