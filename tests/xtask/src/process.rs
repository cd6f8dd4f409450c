//! Other programs: run to the end, streamed line by line, or kept running and ended with us.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::paths;
use crate::screen;

/// What went wrong, in words for the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// `cargo`, the one that runs us, in `directory`, building into `target`.
pub(crate) fn cargo(directory: &Path, target: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(directory).env("CARGO_TARGET_DIR", target);
    // What `cargo run` tells us of ourselves: build scripts look at it, and would run again, with all that depends on
    // them, whenever somebody types the same command.
    for (name, _) in std::env::vars_os() {
        let told = name
            .to_str()
            .is_some_and(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| name.starts_with(of)));
        if told {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo` for the workspace.
///
/// # Errors
/// No place for the target directory.
pub(crate) fn workspace_cargo() -> Result<Command> {
    Ok(cargo(paths::root(), &paths::target()?))
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, argument| {
        let argument = argument.to_string_lossy();
        let plain = argument.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c));
        if plain && !argument.is_empty() {
            format!("{line} {argument}")
        } else {
            format!("{line} '{argument}'")
        }
    })
}

/// Runs it with our terminal.
///
/// # Errors
/// It could not be started or did not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    println!("{}", screen::faint(&format!("$ {line}")));
    let status = command.status().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    succeeded(&line, status)
}

/// Seconds to wait before each further try of what a registry or mirror did not give.
const PAUSES: [u64; 3] = [2, 10, 30];

/// [`run`] for what downloads: registries and mirrors fail now and then, and a suite of an hour must not end with them.
///
/// # Errors
/// It could not be started, or did not succeed in any of the tries.
pub(crate) fn fetch(command: &mut Command) -> Result<()> {
    patiently(&PAUSES.map(Duration::from_secs), || run(command))
}

/// `action`, and again after each of `pauses` while it fails; the error is the last one.
fn patiently(pauses: &[Duration], mut action: impl FnMut() -> Result<()>) -> Result<()> {
    for pause in pauses {
        let Err(error) = action() else { return Ok(()) };
        eprintln!("{} {error}; once more in {} s", screen::bad("failed:"), pause.as_secs());
        std::thread::sleep(*pause);
    }
    action()
}

/// Runs it, hands every line of its standard output to `each`, and gives how it ended.
///
/// # Errors
/// It could not be started.
pub(crate) fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let line = shown(command);
    println!("{}", screen::faint(&format!("$ {line}")));
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).map_err(|error| format!("`{line}`: {error}"))? > 0 {
            each(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
            bytes.clear();
        }
    }
    child.wait().map_err(|error| format!("`{line}`: {error}"))
}

/// Runs it silently; gives its standard output.
///
/// # Errors
/// It could not be started or did not succeed; its standard error is in the text.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command.output().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeded(&line, output.status).map_err(|error| format!("{error}\n{errors}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether it can be started and succeeds, without a word on the terminal.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn succeeded(line: &str, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// A process that ends when this value does.
pub(crate) struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let line = shown(command);
        command.spawn().map(Self).map_err(|error| format!("cannot start `{line}`: {error}"))
    }

    /// The child itself.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It cannot be waited for, or did not end with success.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let pid = self.0.id().to_string();
        if !works(Command::new("kill").args(["-TERM", &pid])) {
            return Err(format!("cannot send SIGTERM to process {pid}"));
        }
        self.wait()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It cannot be waited for, or did not end with success.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.0.wait().map_err(|error| error.to_string())?;
        succeeded("tidegate", status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself: nothing is left to do then.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_that_fails_once_is_tried_again_and_one_that_always_fails_ends() {
        let pauses = [Duration::ZERO; 2];
        let mut tries = 0;
        let second = patiently(&pauses, || {
            tries += 1;
            if tries == 2 { Ok(()) } else { Err(format!("try {tries}")) }
        });
        assert_eq!((second, tries), (Ok(()), 2));
        let mut tries = 0;
        let never = patiently(&pauses, || {
            tries += 1;
            Err(format!("try {tries}"))
        });
        assert_eq!((never, tries), (Err("try 3".into()), 3));
    }
}
