//! Module files: their names, how they are read, and how they go out of service and back.
//!
//! A module out of service is `NAME.wasm.disabled`, which is no module's name.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

/// Extension of a module's file.
pub(crate) const MODULE: &str = "wasm";
/// What is added to the name of a file that is out of service.
const DISABLED: &str = "disabled";
/// How deep folders of modules are looked into.
pub(super) const MAX_DEPTH: usize = 8;

/// Why a command is refused, in words for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request is wrong.
    #[error("{0}")]
    Wrong(String),
    /// There is no such module.
    #[error("{0}")]
    Unknown(String),
    /// As things are it cannot be done.
    #[error("{0}")]
    Conflict(String),
    /// The server starts or stops.
    #[error("{0}")]
    Unready(&'static str),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// What could not be read, written or renamed.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Refusal {
    let path = path.to_owned();
    move |source| Refusal::Io { path, source }
}

/// The name of the module in the file `path`.
pub(crate) fn name_of(path: &Path) -> Result<String, Refusal> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| !stem.starts_with('.'));
    match stem {
        Some(stem) if path.extension().is_some_and(|extension| extension == MODULE) => Ok(stem.to_owned()),
        _ => Err(Refusal::Wrong(format!(
            "{}: the file name must be UTF-8, not hidden, and end in .{MODULE}",
            path.display()
        ))),
    }
}

/// The file of the module `name` in `dir`.
///
/// # Errors
/// [`Refusal::Wrong`] for a name that leads elsewhere.
pub(crate) fn path_of(dir: &Path, name: &str) -> Result<PathBuf, Refusal> {
    let inside = |part: Component<'_>| match part {
        Component::Normal(part) => !part.as_encoded_bytes().starts_with(b"."),
        _ => false,
    };
    if name.is_empty() || name.ends_with('/') || !Path::new(name).components().all(inside) {
        return Err(Refusal::Wrong(format!("{name:?} is no module's name")));
    }
    Ok(dir.join(format!("{name}.{MODULE}")))
}

/// Where the file of a module is while it is out of service.
pub(crate) fn disabled(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(DISABLED);
    name.into()
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Refusal> {
    let file = File::open(path).map_err(failed(path))?;
    let found = file.metadata().map_err(failed(path))?;
    if !found.is_file() {
        return Err(Refusal::Wrong(format!("{}: not a file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed(path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        let path = path.display();
        return Err(Refusal::Wrong(format!("{path}: more than the {limit} bytes that are accepted")));
    }
    Ok(bytes)
}

/// Renames a file within its folder, never over another one.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Refusal> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Network file systems do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => std::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => other.map_err(io::Error::from),
    };
    match renamed {
        Ok(()) => sync(to.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Refusal::Conflict(format!("{} is there already: remove one of the two", to.display())))
        }
        Err(error) => Err(failed(from)(error)),
    }
}

/// The names in a folder are on the disk, too.
pub(super) fn sync(dir: &Path) -> Result<(), Refusal> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

/// The names of the modules in `dir` that are out of service.
pub(crate) fn unloaded(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    walk(dir, "", 0, &mut names);
    names.sort();
    names
}

fn walk(dir: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let ending = format!(".{MODULE}.{DISABLED}");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => {
                walk(&entry.path(), &format!("{prefix}{name}/"), depth + 1, names);
            }
            _ => names.extend(name.strip_suffix(&ending).map(|name| format!("{prefix}{name}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_stay_in_the_directory() {
        let dir = Path::new("m");
        assert_eq!(path_of(dir, "a").unwrap(), Path::new("m/a.wasm"));
        assert_eq!(path_of(dir, "sub/a").unwrap(), Path::new("m/sub/a.wasm"));
        for name in ["", "..", "../a", "/a", "a/", ".a", "sub/.a", "a/../b"] {
            assert!(path_of(dir, name).is_err(), "{name}");
        }
        assert_eq!(name_of(Path::new("x/a.b.wasm")).unwrap(), "a.b");
        for file in ["a.wat", ".wasm", ".a.wasm", "a"] {
            assert!(name_of(Path::new(file)).is_err(), "{file}");
        }
    }

    #[test]
    fn what_is_out_of_service_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.wasm");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(&path, "x").unwrap();
        rename(&path, &disabled(&path)).unwrap();
        assert_eq!(unloaded(dir.path()), ["sub/a"]);
        std::fs::write(&path, "y").unwrap();
        assert!(matches!(rename(&path, &disabled(&path)), Err(Refusal::Conflict(_))));
        assert_eq!(std::fs::read(disabled(&path)).unwrap(), b"x");
    }
}
