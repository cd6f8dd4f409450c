//! `tidegate-bench-rumqttd PORT LEVEL`: the unmodified rumqttd listener, as a child process of a bench.
//!
//! A program of its own, so that it has the system's allocator as its own program has: that of the benches counts.

use std::process::ExitCode;

use anyhow::Context as _;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |name| arguments.next().with_context(|| format!("{name} is missing"));
    let port = next("the port on 127.0.0.1")?.parse().context("the port")?;
    let level = next("the protocol level, 4 or 5")?.parse().context("the protocol level")?;
    tidegate_bench::peer::serve(port, level)
}
