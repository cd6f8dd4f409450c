//! Guests of the benches: built when needed, called with nothing of ours around them.

pub mod bare;
pub mod timing;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::wire::Payload;

/// A guest in this repository.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Name of the package and of the file.
    name: &'static str,
    /// Its manifest, from the root of the repository.
    manifest: &'static str,
}

/// The example that adds a temperature in Fahrenheit to a JSON message.
pub const FAHRENHEIT: Guest = Guest { name: "fahrenheit", manifest: "guest-examples/Cargo.toml" };

/// A guest that lets every message pass.
pub const PASS: Guest = Guest { name: "pass", manifest: "tests/bench/guests/pass/Cargo.toml" };

impl Guest {
    /// Builds it (cargo does nothing when it is fresh) and gives the component.
    ///
    /// # Errors
    /// When cargo or the target wasm32-wasip2 is missing, or the guest does not compile.
    pub fn build(self) -> anyhow::Result<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = cache_dir()?.join("guests");
        // The server's and this bench's build directory and flags are not for guests.
        let status = Command::new("cargo")
            .args([
                "build",
                "--quiet",
                "--release",
                "--locked",
                "--target",
                "wasm32-wasip2",
                "--package",
                self.name,
            ])
            .arg("--manifest-path")
            .arg(root.join(self.manifest))
            .arg("--target-dir")
            .arg(&target)
            .env_remove("RUSTFLAGS")
            .status()
            .context("running cargo")?;
        ensure!(
            status.success(),
            "guest {}: cargo build failed (is the target wasm32-wasip2 installed?)",
            self.name
        );
        Ok(target.join("wasm32-wasip2/release").join(self.name).with_extension("wasm"))
    }
}

fn cache_dir() -> anyhow::Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("tidegate"))
}

const HEAD: &str = r#"{"device":"sensor-0001","celsius":21.5,"note":""#;

/// Readings of [`reading`], each with its sequence number in its note.
pub fn numbered(bytes: usize) -> Payload {
    Payload::Numbered(reading(bytes), HEAD.len())
}

/// A reading of a sensor as JSON, exactly `bytes` long (at least 80).
pub fn reading(bytes: usize) -> Vec<u8> {
    let (head, tail) = (HEAD, r#""}"#);
    let padding = "x".repeat(bytes.saturating_sub(head.len() + tail.len()));
    format!("{head}{padding}{tail}").into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_reading_is_json_of_the_size_asked_for() {
        let bytes = reading(200);
        assert_eq!(bytes.len(), 200);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["celsius"], 21.5);
    }
}
