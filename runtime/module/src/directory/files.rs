//! Module files on disk: which there are, and whether they look changed without reading them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a file looks like from outside; links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// A module file and its manifest from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    wasm: Option<Look>,
    manifest: Option<Look>,
}

impl Stamp {
    /// Of the module at `wasm`.
    pub(super) fn of(wasm: &Path) -> Self {
        Self { wasm: Look::at(wasm), manifest: Look::at(&wasm.with_extension("toml")) }
    }
}

/// The module files in `dir`. Hidden files are no modules: editors and copying programs write them under such names
/// first.
///
/// # Errors
/// The system's error when the directory does not exist or cannot be read.
pub(super) fn list(dir: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_module(&path) {
            let stamp = Stamp::of(&path);
            found.insert(path, stamp);
        }
    }
    Ok(found)
}

/// The module files that are missing in `dir` beside their manifests. A link that leads nowhere is missing.
///
/// # Errors
/// As [`list`].
pub(super) fn without_module(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for entry in fs::read_dir(dir)? {
        let manifest = entry?.path();
        let module = manifest.with_extension("wasm");
        if manifest.extension().is_some_and(|extension| extension == "toml")
            && is_module(&module)
            && Look::at(&module).is_none()
        {
            missing.push(module);
        }
    }
    Ok(missing)
}

/// Whether the name is one of a module file.
pub(super) fn is_module(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "wasm")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_module_files_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.wasm", "b.toml", ".c.wasm", "d.wasm~", "e.wasm.tmp", "wasm"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = list(dir.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&dir.path().join("a.wasm")]);
        assert_eq!(list(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_stamp_changes_with_file_and_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("a.wasm");
        fs::write(&wasm, "x").unwrap();
        let first = Stamp::of(&wasm);
        assert_eq!(first, Stamp::of(&wasm));
        fs::write(wasm.with_extension("toml"), "").unwrap();
        let second = Stamp::of(&wasm);
        assert_ne!(first, second);
        fs::write(&wasm, "xy").unwrap();
        assert_ne!(second, Stamp::of(&wasm));
    }
}
