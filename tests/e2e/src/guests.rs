//! The compiled modules that tests drop into the watched directory, and variants of them.
//!
//! `cargo xtask test` builds them into the cache; without it they are looked for in the same place.

use std::path::{Path, PathBuf};

/// `${XDG_CACHE_HOME:-$HOME/.cache}/tidegate`.
pub fn cache() -> PathBuf {
    let root = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").expect("HOME or XDG_CACHE_HOME must be set")).join(".cache")
    });
    root.join("tidegate")
}

/// A guest by the name of its crate, e.g. `probe` or `store-reading`.
pub fn path(name: &str) -> PathBuf {
    let root = std::env::var_os("TIDEGATE_GUESTS").map_or_else(|| cache().join("guests"), PathBuf::from);
    let file = format!("{}.wasm", name.replace('-', "_"));
    let path = root.join("wasm32-wasip2/release").join(file);
    assert!(path.exists(), "{} is missing: `cargo xtask test` builds the guests", path.display());
    path
}

/// Its bytes.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The same code with other content: a custom section with `text` at the end. Every section of a component
/// may be followed by custom ones, so this is a new version for the host and the same for the guest.
pub fn stamped(component: &[u8], text: &str) -> Vec<u8> {
    let mut section = Vec::new();
    crate::wire::variable(&mut section, "stamp".len());
    section.extend(b"stamp");
    section.extend(text.as_bytes());
    let mut out = component.to_vec();
    out.push(0);
    crate::wire::variable(&mut out, section.len());
    out.extend(section);
    out
}

/// The same component with every occurrence of `from` replaced by `to`, of the same length, so that no size
/// in the file changes: a module that behaves differently, without a compiler.
pub fn patched(component: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = component.to_vec();
    let mut found = 0;
    let mut at = 0;
    while at + from.len() <= out.len() {
        if out[at..].starts_with(from.as_bytes()) {
            out[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
            at += to.len();
        } else {
            at += 1;
        }
    }
    assert!(found > 0, "{from:?} is not in the component");
    out
}

/// Saves by writing next to `target` and renaming over it: what editors and build tools should do.
pub fn save_by_rename(target: &Path, bytes: &[u8]) {
    let temporary = target.with_extension("part");
    std::fs::write(&temporary, bytes).unwrap();
    std::fs::rename(&temporary, target).unwrap();
}

/// Saves by truncating and writing in place, in several writes: what `cp` does.
pub fn save_in_place(target: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(target).unwrap();
    for part in bytes.chunks(bytes.len() / 4 + 1) {
        file.write_all(part).unwrap();
        file.flush().unwrap();
    }
}
