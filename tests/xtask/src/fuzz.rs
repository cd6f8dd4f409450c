//! Builds and runs the fuzz targets of `tests/fuzz`, as its README says.

use std::path::Path;
use std::process::Command;

use crate::paths;
use crate::process::{Result, cargo, output, run, shown};
use crate::screen;

/// What `cargo fuzz` passes: coverage for libFuzzer, and AddressSanitizer. Nightly options, which
/// `RUSTC_BOOTSTRAP` makes stable take.
const FLAGS: &str = "-Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Bytes of an input.
const MAX_LENGTH: u32 = 4_096;
/// Megabytes that a target may take, with what the sanitizer keeps of freed memory: more is a finding.
const MAX_MEMORY: u32 = 1_024;

/// `cargo xtask fuzz`.
///
/// # Errors
/// As [`run_all`], or an input was found that a target does not survive.
pub(crate) fn main() -> Result<()> {
    let failed: Vec<String> = run_all()?
        .into_iter()
        .filter_map(|(name, result)| result.err().map(|error| format!("fuzz target {name}: {error}")))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// Builds all targets, runs their tests, then each of them for `TIDEGATE_FUZZ_SECONDS` (60); gives the names and how they ended.
///
/// # Errors
/// The number is none, the targets do not build, or a test fails.
pub(crate) fn run_all() -> Result<Vec<(String, Result<()>)>> {
    let seconds = match std::env::var("TIDEGATE_FUZZ_SECONDS") {
        Ok(text) => text.parse::<u32>().map_err(|_| format!("TIDEGATE_FUZZ_SECONDS: no number: {text:?}"))?,
        Err(_) => 60,
    };
    let folder = paths::root().join("tests/fuzz");
    let names = names(&folder)?;
    let built = paths::beside_target("fuzz")?;
    let host = host()?;
    // The tests: what judges the broker must be able to find something.
    for what in [["build", "--bins"], ["test", "--tests"]] {
        let mut command = cargo(&folder, &built);
        // Naming the target keeps the flags out of build scripts and procedural macros.
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS);
        run(command.args(what).args(["--release", "--target", &host]))?;
    }
    let programs = built.join(host).join("release");
    names
        .into_iter()
        .map(|name| {
            let corpus = built.join("corpus").join(&name);
            std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
            let mut fuzz = Command::new(programs.join(&name));
            fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={MAX_LENGTH}"));
            fuzz.arg(format!("-rss_limit_mb={MAX_MEMORY}"));
            // A crashing input must be found again: beside the corpus, not in the clone.
            fuzz.arg(format!("-artifact_prefix={}/", corpus.display()));
            let result = quietly(fuzz.arg(&corpus).arg(folder.join("seeds").join(&name)));
            Ok((name, result))
        })
        .collect()
}

/// Runs a target and shows what it did in a line; all that it said only when it failed.
fn quietly(fuzz: &mut Command) -> Result<()> {
    let line = shown(fuzz);
    println!("{}", screen::faint(&format!("$ {line}")));
    let output = fuzz.output().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    // libFuzzer speaks on standard error.
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}\n{said}", output.status));
    }
    println!("  {}", said.lines().rev().find(|line| line.starts_with("Done ")).unwrap_or("done"));
    Ok(())
}

/// The targets, by the files of `fuzz_targets`.
fn names(folder: &Path) -> Result<Vec<String>> {
    let sources = folder.join("fuzz_targets");
    let listing = std::fs::read_dir(&sources).map_err(|error| format!("{}: {error}", sources.display()))?;
    let mut names: Vec<String> = listing
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let source = path.extension().is_some_and(|extension| extension == "rs");
            source.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
        })
        .collect();
    names.sort();
    if names.is_empty() { Err(format!("{} has no fuzz targets", sources.display())) } else { Ok(names) }
}

/// The target triple of this machine.
fn host() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| "rustc -vV names no host".into())
}
