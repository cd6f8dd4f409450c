//! `cargo xtask`: build, demonstrate, test and measure Tidegate.
//!
//! Only the standard library, like the one crate it stands on, so that it builds in seconds on a fresh machine. Everything it starts uses the
//! one optimised profile and a target directory outside the clone (see [`paths`]), so a second clone is warm.

mod bench;
mod ci;
mod demo;
mod fuzz;
mod guests;
mod paths;
mod process;
mod screen;
mod servers;
mod test;
mod toolchains;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo [--once]        Build everything, send sensor messages through a module into a database, then change
                       the module while messages flow. Runs until Ctrl-C; --once ends by itself with status
                       0 when every check held.
  test [--filter TEXT] [--long] [--no-fuzz]
                       Install what is missing, start the databases, build, run every test, print the totals.
                       --filter runs only tests whose name contains TEXT (and no fuzz target), --long repeats
                       the kill and reload tests ten times as often.
  servers start [NAME..] | status | stop [NAME..]
                       The same databases, to keep: started on free ports with new data, until they are
                       stopped. start prints the lines that tell tests where they are:
                       eval \"$(cargo xtask servers start)\". See docs/servers.md.
  fuzz                 Only the fuzz targets.
  bench [NAME..]       Measure against peers; without names every bench. --help lists names and flags. Fails
                       when Tidegate loses or reorders a message; a missed target is only shown.
  guests               Install the toolchains of other languages and build the guests of tests/matrix, and the
                       examples without component tooling. The last line is their folder. `test` does it too.
  ci                   What .ci/run does.
  help                 This text.

Environment: CARGO_TARGET_DIR (default ~/.cache/tidegate/target), TIDEGATE_FUZZ_SECONDS (default 60, for each
fuzz target). `test` uses a database of yours where its variable (TIDEGATE_REDIS ..) is set.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.split_first() {
        Some((&"demo", rest)) => demo::main(rest),
        Some((&"test", rest)) => test::main(rest),
        Some((&"servers", rest)) => servers::main(rest),
        Some((&"fuzz", [])) => fuzz::main(),
        Some((&"bench", rest)) => bench::main(rest),
        Some((&"guests", [])) => guests::main(),
        Some((&"ci", [])) => ci::main(),
        Some((&("help" | "--help" | "-h"), _)) => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("which command?\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error}", screen::bad("error:"));
            ExitCode::FAILURE
        }
    }
}
