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

/// The example that drops what is larger than its configuration says: an ordinary Rust component of about 100 KB.
pub const GUARD: Guest = Guest { name: "guard", manifest: "guest-examples/Cargo.toml" };

/// A guest that lets every message pass.
pub const PASS: Guest = Guest { name: "pass", manifest: "tests/bench/guests/pass/Cargo.toml" };

/// A guest that inserts a row for every message.
pub const INSERT: Guest = Guest { name: "insert", manifest: "tests/bench/guests/insert/Cargo.toml" };

/// The same, with several messages in one call.
pub const INSERT_BATCH: Guest =
    Guest { name: "insert-batch", manifest: "tests/bench/guests/insert-batch/Cargo.toml" };

/// A guest that takes what it can get: on a topic with the level `loop` it computes for ever, with `grow` it takes
/// memory without end.
pub const GREEDY: Guest = Guest { name: "greedy", manifest: "tests/bench/guests/greedy/Cargo.toml" };

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
        // The file has the name of the library.
        let file = self.name.replace('-', "_");
        Ok(target.join("wasm32-wasip2/release").join(file).with_extension("wasm"))
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

/// Lays `bytes` into `directory` as the module `name`, which handles what is published on `filter`; `rest` is the rest
/// of its manifest. Gives its file.
///
/// # Errors
/// The system's.
pub fn lay(directory: &Path, name: &str, bytes: &[u8], filter: &str, rest: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name).with_extension("wasm");
    std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    let manifest = format!("hooks = {{ \"message.publish\" = [\"{filter}\"] }}\n{rest}");
    std::fs::write(path.with_extension("toml"), manifest)?;
    Ok(path)
}

/// The same code with other content: a custom section with `text` (at most 100 bytes) at the end, where every component
/// may have one.
pub fn stamped(component: &[u8], text: &str) -> Vec<u8> {
    const NAME: &[u8] = b"stamp";
    debug_assert!(text.len() <= 100, "the lengths below are one byte each");
    let mut out = component.to_vec();
    out.extend_from_slice(&[0, (1 + NAME.len() + text.len()) as u8, NAME.len() as u8]);
    out.extend_from_slice(NAME);
    out.extend_from_slice(text.as_bytes());
    out
}

/// Whether [`FAHRENHEIT`] has been at the payload of a [`reading`].
pub fn is_transformed(payload: &[u8]) -> bool {
    payload.windows(12).any(|part| part == b"\"fahrenheit\"")
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

    #[test]
    fn a_stamped_component_is_another_file_and_the_same_component() {
        const EMPTY: &[u8] = &[0, b'a', b's', b'm', 0x0d, 0, 1, 0];
        let engine = wasmtime::Engine::default();
        let stamps = ["one", "two"].map(|text| stamped(EMPTY, text));
        assert_ne!(stamps[0], stamps[1]);
        for bytes in stamps {
            assert!(wasmtime::component::Component::new(&engine, bytes).is_ok());
        }
    }
}
