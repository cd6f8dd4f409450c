//! The house rules of this repository, as tests (`tests/`): what a file looks like, what it may not say, and that
//! the lists which describe the same thing agree.
//!
//! This library finds the files: those that git knows or would add, or, without git, a walk that skips build
//! output. Every rule reports all offenders at once, by path.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file of the repository.
#[derive(Clone, Debug)]
pub struct File {
    /// Its path from the root of the repository, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl File {
    /// Whether it lies in `directory`, a path from the root without a final `/`.
    pub fn is_in(&self, directory: &str) -> bool {
        self.path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether its name ends in `.extension`.
    pub fn is(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|e| e == extension)
    }

    /// The names of its folders and of itself, without extension: what Rust makes module names of.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let stem = self.path.rsplit_once('.').map_or(self.path.as_str(), |(stem, _)| stem);
        stem.split('/')
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Every text file of the repository, by path.
pub fn files() -> Vec<File> {
    let root = root();
    let mut paths = listed(&root).unwrap_or_else(|| walked(&root));
    paths.sort();
    paths.dedup();
    // A file that is deleted but not yet committed is listed and not there; a binary is no text.
    let file = |path: String| Some(File { text: std::fs::read_to_string(root.join(&path)).ok()?, path });
    paths.into_iter().filter_map(file).collect()
}

/// The text of one file; empty when it is missing.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// The folders directly in `directory`, by name.
pub fn folders(directory: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root().join(directory))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "target")
        .collect();
    names.sort();
    names
}

/// What git tracks or would add; `None` when this is no git work tree.
fn listed(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<String> = text.split('\0').filter(|path| !path.is_empty()).map(String::from).collect();
    (!paths.is_empty()).then_some(paths)
}

/// Every file below `root` but git's own and build output.
fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && name != ".git" && name != "target" => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    found.extend(path.strip_prefix(root).ok().and_then(Path::to_str).map(String::from));
                }
                _ => {}
            }
        }
    }
    found
}

/// Fails with one line an offender.
///
/// # Panics
/// When there is an offender.
#[track_caller]
pub fn none(rule: &str, offenders: impl IntoIterator<Item = String>) {
    let offenders: Vec<String> = offenders.into_iter().collect();
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_finding_files_find_this_one() {
        let own = "tests/tidy/src/lib.rs";
        assert!(walked(&root()).iter().any(|path| path == own));
        assert!(
            files()
                .iter()
                .any(|file| file.path == own && file.is_in("tests/tidy") && !file.is_in("tests/tid"))
        );
    }
}
