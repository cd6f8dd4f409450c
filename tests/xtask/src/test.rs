//! `cargo xtask test`: everything that can fail, and the totals.

use std::process::Command;

use crate::process::{Result, cargo, run, stream, workspace_cargo};
use crate::{fuzz, guests, paths, screen, servers, toolchains, tools};

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
    /// What ended badly without a test that says so: suites, shared servers.
    broken: Vec<String>,
}

/// Installs, builds, runs, counts.
///
/// # Errors
/// A tool is missing, something does not build, or a test failed.
pub(crate) fn main(arguments: &[&str]) -> Result<()> {
    let wanted = parse(arguments)?;
    screen::heading("Tools");
    // All that comes from elsewhere before anything is built: a machine that cannot have it is told so at once.
    let python = tools::for_tests()?;
    toolchains::install()?;
    println!("  all there");
    screen::heading("Build");
    // Tests and programs together: a build of the program alone asks for other features of what both use, and would
    // compile most of it twice.
    run(workspace_cargo()?.args(["test", "--release", "--workspace", "--no-run", "--quiet"]))?;
    let guests = guests::build_all()?;
    screen::heading("Guests of other toolchains");
    let matrix = guests::build_matrix()?;
    screen::heading("Servers");
    // They end when we do, however that comes about.
    let bed = servers::for_tests()?;

    let mut totals = Totals::default();
    screen::heading("Tests of the workspace");
    let mut command = workspace_cargo()?;
    command
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .env("TIDEGATE_BIN", paths::binary()?)
        .env("TIDEGATE_GUESTS", &guests)
        .env("TIDEGATE_MATRIX", &matrix)
        .env("TIDEGATE_PYTHON", &python)
        .envs(bed.variables().iter().map(|(name, value)| (name, value)));
    if wanted.long {
        command.env("TIDEGATE_LONG", "1");
    }
    suite(&mut totals, "the workspace", command, &wanted)?;
    // A test that brings down what all share has failed, whatever it says.
    totals.broken.extend(bed.gone().iter().map(|name| format!("the shared server {name} ended meanwhile")));
    drop(bed);

    screen::heading("Tests of the guests, on this machine");
    let mut command = cargo(&paths::root().join("guest-examples"), &guests);
    command.args(["test", "--workspace", "--no-fail-fast"]);
    suite(&mut totals, "the guests", command, &wanted)?;

    if wanted.filter.is_none() && !wanted.no_fuzz {
        screen::heading("Fuzz targets");
        for (target, result) in fuzz::run_all()? {
            match result {
                Ok(()) => totals.passed += 1,
                Err(error) => {
                    eprintln!("{} fuzz target {target}: {error}", screen::bad("failed:"));
                    totals.failed += 1;
                }
            }
        }
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

fn finish(totals: &Totals) -> Result<()> {
    screen::heading("Totals");
    // Exactly this form: other programs read it.
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if !totals.broken.is_empty() {
        return Err(format!("not everything ran to its end: {}", totals.broken.join(", ")));
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
