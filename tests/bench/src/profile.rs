//! Where the time of a server goes: `perf record` on a running process, the top symbols as text.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::load::{Load, Span};
use crate::process::Server;
use crate::report::Report;

/// Samples a second and thread.
const FREQUENCY: u32 = 999;

/// How many objects (our binary, the kernel, libc, compiled guests) are worth reading.
const OBJECTS: usize = 6;

/// How many symbols are worth reading.
const TOP: usize = 25;

/// Runs `load` against `server` once more and prints the top symbols of the server meanwhile. That perf
/// cannot sample here is printed, not an error.
///
/// # Errors
/// Those of the load.
pub async fn of_load(
    report: &mut Report,
    title: &str,
    load: &Load,
    server: &Server,
    span: Span,
) -> anyhow::Result<()> {
    report.heading(&format!("profile: {title}"));
    let profile = Profile::start(server.endpoint().pid, span.warm_up + span.measure);
    load.run(server.endpoint(), span).await?;
    let lines = tokio::task::spawn_blocking(|| profile.and_then(Profile::finish)).await?;
    match lines {
        Ok(lines) => lines.iter().for_each(|line| report.line(&format!("    {line}"))),
        Err(error) => report.line(&format!("    no profile: {error:#}")),
    }
    Ok(())
}

/// A profile that is being taken.
#[derive(Debug)]
pub struct Profile {
    recorder: std::process::Child,
    directory: TempDir,
}

impl Profile {
    /// Starts to sample the process `pid` for `time`.
    ///
    /// # Errors
    /// When perf is missing or this kernel does not let it sample.
    pub fn start(pid: u32, time: Duration) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let recorder = Command::new("perf")
            .args(["record", "--quiet", "-g", "-F", &FREQUENCY.to_string(), "-p", &pid.to_string(), "-o"])
            .arg(directory.path().join("perf.data"))
            .args(["--", "sleep", &time.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting perf (Debian package linux-perf)")?;
        Ok(Self { recorder, directory })
    }

    /// Waits for the end of the sampling and gives the objects, then the top symbols, by the time
    /// spent in themselves.
    ///
    /// # Errors
    /// What perf says when it cannot sample or read its samples.
    pub fn finish(self) -> anyhow::Result<Vec<String>> {
        let file: PathBuf = self.directory.path().join("perf.data");
        let recorded = self.recorder.wait_with_output()?;
        ensure!(recorded.status.success(), "perf record: {}", String::from_utf8_lossy(&recorded.stderr));
        let mut lines = read(&file, "overhead,dso", OBJECTS)?;
        ensure!(
            !lines.is_empty(),
            "perf took no samples: the process was idle or this kernel does not sample"
        );
        lines.push("    -- of which in:".to_owned());
        lines.extend(read(&file, "overhead,dso,symbol", TOP)?);
        Ok(lines)
    }
}

/// The first `count` lines of a report with these `fields`.
fn read(file: &Path, fields: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let report = Command::new("perf")
        .args(["report", "--stdio", "--no-children", "-g", "none", "-F", fields, "-i"])
        .arg(file)
        .stdin(Stdio::null())
        .output()?;
    ensure!(report.status.success(), "perf report: {}", String::from_utf8_lossy(&report.stderr));
    Ok(top(&String::from_utf8_lossy(&report.stdout), count))
}

/// The first lines of a report that are neither comment nor empty.
fn top(report: &str, count: usize) -> Vec<String> {
    report
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .take(count)
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_symbols() {
        let report =
            "# Samples: 108\n#\n\n     7.41%  libc.so.6  [.] strcmp  \n     6.48%  [kernel]   [k] read\n";
        assert_eq!(top(report, 9), ["     7.41%  libc.so.6  [.] strcmp", "     6.48%  [kernel]   [k] read"]);
    }
}
