//! Module files on their way into the modules directory, out of service and back.
//!
//! A file comes under a hidden name, is written to the disk and then renamed: the follower of the directory never
//! sees a part of it. A module out of service is `NAME.wasm.disabled`, which is no module's name.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

/// Extension of a module's file.
pub(crate) const MODULE: &str = "wasm";
/// What is added to the name of a file that is out of service.
const DISABLED: &str = "disabled";
/// The largest manifest, in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// How deep folders of modules are looked into.
const MAX_DEPTH: usize = 8;

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

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Refusal {
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

/// Copies the module `from`, and the manifest beside it if there is one, to `to`: the manifest first. Gives the
/// module's bytes.
pub(crate) fn install(from: &Path, to: &Path, limit: u64) -> Result<Vec<u8>, Refusal> {
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if same(from, to) {
        let shown = from.display();
        return Err(Refusal::Wrong(format!(
            "{shown} is in the modules directory already: reload it by its name"
        )));
    }
    let wasm = read_bounded(from, limit)?;
    let manifest = from.with_extension("toml");
    match read_bounded(&manifest, MAX_MANIFEST_BYTES) {
        Ok(text) => place(&text, &manifest, &to.with_extension("toml"))?,
        Err(Refusal::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(refusal) => return Err(refusal),
    }
    place(&wasm, from, to)?;
    Ok(wasm)
}

/// Writes `bytes` beside `to`, with the permissions of `like`, and renames.
fn place(bytes: &[u8], like: &Path, to: &Path) -> Result<(), Refusal> {
    let dir = to.parent().unwrap_or(Path::new("."));
    let permissions = std::fs::metadata(like).map_err(failed(like))?.permissions();
    let mut part =
        tempfile::Builder::new().prefix(".load-").suffix(".part").tempfile_in(dir).map_err(failed(dir))?;
    part.write_all(bytes).map_err(failed(part.path()))?;
    part.as_file().set_permissions(permissions).map_err(failed(part.path()))?;
    part.as_file().sync_all().map_err(failed(part.path()))?;
    part.persist(to).map_err(|error| failed(to)(error.error))?;
    sync(dir)
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
fn sync(dir: &Path) -> Result<(), Refusal> {
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
    use std::os::unix::fs::PermissionsExt as _;

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
    fn a_module_comes_with_its_manifest_and_its_permissions() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (wasm, target) = (from.path().join("a.wasm"), to.path().join("a.wasm"));
        std::fs::write(&wasm, "code").unwrap();
        assert_eq!(install(&wasm, &target, 4).unwrap(), b"code");
        assert!(install(&wasm, &target, 3).unwrap_err().to_string().contains("more than the 3 bytes"));
        let manifest = from.path().join("a.toml");
        std::fs::write(&manifest, "priority = 1").unwrap();
        std::fs::set_permissions(&manifest, std::fs::Permissions::from_mode(0o600)).unwrap();
        install(&wasm, &target, 4).unwrap();
        let copied = target.with_extension("toml");
        assert_eq!(std::fs::read(&copied).unwrap(), b"priority = 1");
        assert_eq!(std::fs::metadata(&copied).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 2, "nothing is left beside them");
        assert!(install(&target, &target, 4).unwrap_err().to_string().contains("already"));
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
