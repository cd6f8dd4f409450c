//! Go.

use std::path::PathBuf;
use std::process::Command;

use super::pypi;
use crate::process::{Result, output};

/// The first that makes WebAssembly libraries (`-buildmode=c-shared`).
const OLDEST: (u32, u32) = (1, 24);

/// The machine's when it is new enough, else that of a Python package.
///
/// # Errors
/// There is none and none can be installed.
pub(super) fn find() -> Result<PathBuf> {
    for machine in ["go", "/usr/local/go/bin/go"] {
        let text = output(Command::new(machine).args(["env", "GOVERSION"]));
        if text.is_ok_and(|text| version(&text) >= Some(OLDEST)) {
            return Ok(machine.into());
        }
    }
    let folder = pypi::install("go", &[pypi::GO]).map_err(|error| {
        format!("Go {}.{} or newer is missing (https://go.dev/dl), and {error}", OLDEST.0, OLDEST.1)
    })?;
    Ok(folder.join("bin/go"))
}

/// The first two numbers of `go1.26.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split(['.', 'r', 'b']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        assert_eq!(version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(version("go1.9rc1"), Some((1, 9)));
        assert!(version("go1.9") < Some(OLDEST));
        assert!(version("devel +1234") < Some(OLDEST));
    }
}
