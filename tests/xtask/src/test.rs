//! `cargo xtask test`: everything that can fail, and the totals.

use std::path::Path;
use std::process::Command;

use crate::process::{Result, cargo, run, stream, workspace_cargo};
use crate::{guests, paths, screen, tools};

/// What the arguments ask for.
#[derive(Default)]
struct Wanted {
    filter: Option<String>,
    long: bool,
    no_fuzz: bool,
}

/// Sums over all suites.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    /// Suites that ended badly without saying which test it was.
    broken: Vec<String>,
}

/// Installs, builds, runs, counts.
///
/// # Errors
/// A tool is missing, something does not build, or a test failed.
pub(crate) fn main(arguments: &[&str]) -> Result<()> {
    let wanted = parse(arguments)?;
    screen::heading("Tools");
    let python = tools::for_tests()?;
    println!("  all there");
    screen::heading("Build");
    run(workspace_cargo()?.args(["build", "--release", "-p", "tidegate"]))?;
    let guests = guests::build_all()?;

    let mut totals = Totals::default();
    screen::heading("Tests of the workspace");
    let mut command = workspace_cargo()?;
    command
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .env("TIDEGATE_BIN", paths::binary()?)
        .env("TIDEGATE_GUESTS", &guests)
        .env("TIDEGATE_PYTHON", &python);
    if wanted.long {
        command.env("TIDEGATE_LONG", "1");
    }
    suite(&mut totals, "the workspace", command, &wanted)?;

    screen::heading("Tests of the guests, on this machine");
    let mut command = cargo(&paths::root().join("guest-examples"), &guests);
    command.args(["test", "--workspace", "--no-fail-fast"]);
    suite(&mut totals, "the guests", command, &wanted)?;

    if wanted.filter.is_none() && !wanted.no_fuzz {
        screen::heading("Fuzz targets");
        fuzz(&mut totals)?;
    }
    finish(&totals)
}

fn parse(arguments: &[&str]) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--filter" => {
                wanted.filter = Some(rest.next().ok_or("--filter needs a text")?.to_string());
            }
            "--long" => wanted.long = true,
            "--no-fuzz" => wanted.no_fuzz = true,
            other => return Err(format!("test does not know {other:?}; see `cargo xtask help`")),
        }
    }
    Ok(wanted)
}

/// Runs one `cargo test`, shows its output and adds its results.
fn suite(totals: &mut Totals, name: &str, mut command: Command, wanted: &Wanted) -> Result<()> {
    if let Some(filter) = &wanted.filter {
        command.args(["--", filter]);
    }
    let before = totals.failed;
    let status = stream(&mut command, |line| {
        println!("{line}");
        if let Some((passed, failed)) = result_line(line) {
            totals.passed += passed;
            totals.failed += failed;
        }
    })?;
    if !status.success() && totals.failed == before {
        totals.broken.push(format!("{name} ({status})"));
    }
    Ok(())
}

/// Reads `test result: ok. 12 passed; 1 failed; ...`.
fn result_line(line: &str) -> Option<(u64, u64)> {
    let rest = line.trim_start().strip_prefix("test result: ")?;
    let number_before = |word: &str| {
        let (before, _) = rest.split_once(word)?;
        before.trim_end().rsplit([' ', ';', '.']).next()?.parse().ok()
    };
    Some((number_before(" passed")?, number_before(" failed")?))
}

/// Runs every fuzz target for a while; each counts as one test.
fn fuzz(totals: &mut Totals) -> Result<()> {
    let seconds = match std::env::var("TIDEGATE_FUZZ_SECONDS") {
        Ok(text) => text.parse::<u32>().map_err(|_| format!("TIDEGATE_FUZZ_SECONDS: no number: {text:?}"))?,
        Err(_) => 60,
    };
    let folder = paths::root().join("tests/fuzz");
    for target in fuzz_targets(&folder)? {
        let mut command = fuzz_command(&folder, &target, seconds)?;
        match run(&mut command) {
            Ok(()) => totals.passed += 1,
            Err(error) => {
                eprintln!("{} fuzz target {target}: {error}", screen::bad("failed:"));
                totals.failed += 1;
            }
        }
    }
    Ok(())
}

/// The targets, by the files of `fuzz_targets`.
fn fuzz_targets(folder: &Path) -> Result<Vec<String>> {
    let sources = folder.join("fuzz_targets");
    let listing = std::fs::read_dir(&sources).map_err(|error| format!("{}: {error}", sources.display()))?;
    let mut targets: Vec<String> = listing
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let source = path.extension().is_some_and(|extension| extension == "rs");
            source.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
        })
        .collect();
    targets.sort();
    if targets.is_empty() { Err(format!("{} has no fuzz targets", sources.display())) } else { Ok(targets) }
}

fn fuzz_command(folder: &Path, target: &str, seconds: u32) -> Result<Command> {
    let built = paths::beside_target("fuzz")?;
    let corpus = built.join("corpus").join(target);
    std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    let mut command = cargo(folder, &built);
    // The sanitizer is a nightly option; this switch makes stable take it. Naming the target keeps it out of
    // build scripts and procedural macros.
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address --cfg fuzzing")
        .args(["run", "--release", "--target", &host()?, "--bin", target, "--"])
        .arg(corpus)
        .arg(format!("-max_total_time={seconds}"));
    Ok(command)
}

/// The target triple of this machine.
fn host() -> Result<String> {
    let text = crate::process::output(Command::new("rustc").arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| "rustc -vV names no host".into())
}

fn finish(totals: &Totals) -> Result<()> {
    screen::heading("Totals");
    // Exactly this form: other programs read it.
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if !totals.broken.is_empty() {
        return Err(format!("a suite did not run to its end: {}", totals.broken.join(", ")));
    }
    match totals.failed {
        0 if totals.passed == 0 => Err("no test has run".into()),
        0 => Ok(()),
        failed => Err(format!("{failed} tests failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some((12, 0)));
        let line = "test result: FAILED. 0 passed; 34 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(result_line(line), Some((0, 34)));
        assert_eq!(result_line("test some::result ... ok"), None);
        assert_eq!(result_line("12 passed; 1 failed"), None);
    }

    #[test]
    fn arguments_are_read_and_unknown_ones_refused() {
        let wanted = parse(&["--filter", "kill", "--long"]);
        assert!(wanted.is_ok_and(|w| w.long && !w.no_fuzz && w.filter.as_deref() == Some("kill")));
        assert!(parse(&["--filter"]).is_err());
        assert!(parse(&["--fast"]).is_err());
    }
}
