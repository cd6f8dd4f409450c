//! A module file and its manifest, put in the place of those before them as one.
//!
//! Two files cannot be renamed at once. So both are written to the disk under hidden names first, and then two renames
//! follow each other with nothing between them. When a step fails both files are put back as they were; a process that
//! dies between the renames leaves the second one to be made by the next start.
//!
//! | hidden name | what it is |
//! | --- | --- |
//! | `.NAME.wasm.next`, `.NAME.toml.next` | what is to come; the module's is named last: while it is there, both are whole |
//! | `.NAME.wasm.before`, `.NAME.toml.before` | what was there, until the load holds |
//! | `.load-*.part` | what is being written, before it is named `.next` |

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::files::{MAX_DEPTH, Refusal, failed, read_bounded, sync};

/// The largest manifest, in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const NEXT: &str = ".next";
const BEFORE: &str = ".before";
const PART: (&str, &str) = (".load-", ".part");

/// A module and its manifest in their new places. Dropped without [`Installed::keep`], those before them are put back.
#[derive(Debug)]
pub(crate) struct Installed {
    /// Of the module's bytes.
    hash: blake3::Hash,
    /// What was replaced, in the order of the renames.
    replaced: Vec<Replaced>,
}

#[derive(Debug)]
struct Replaced {
    path: PathBuf,
    /// Another name of the file before; `None`: there was none.
    before: Option<PathBuf>,
    /// Whether the new file is there.
    is_done: bool,
}

/// Copies the module `from`, and the manifest beside it if there is one, to `to`.
///
/// # Errors
/// [`Refusal`]: both files at `to` are as they were.
pub(crate) fn install(from: &Path, to: &Path, limit: u64) -> Result<Installed, Refusal> {
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
    let text = match read_bounded(&manifest, MAX_MANIFEST_BYTES) {
        Ok(text) => Some(text),
        Err(Refusal::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(refusal) => return Err(refusal),
    };
    let dir = to.parent().unwrap_or(Path::new("."));
    // What an earlier load left for the next start must not be taken for a part of this one.
    finish(to)?;
    let staged = Staged(to.to_owned());
    let mut places = Vec::new();
    if let Some(text) = text {
        places.push(to.with_extension("toml"));
        stage(&text, &manifest, &to.with_extension("toml"))?;
    }
    places.push(to.to_owned());
    stage(&wasm, from, to)?;
    let mut installed = Installed { hash: blake3::hash(&wasm), replaced: Vec::new() };
    // They are many, and on the disk.
    drop(wasm);
    for path in places {
        let before = put_by(&path)?;
        installed.replaced.push(Replaced { path, before, is_done: false });
    }
    for replaced in &mut installed.replaced {
        let path = &replaced.path;
        fs::rename(hidden(path, NEXT), path).map_err(failed(path))?;
        replaced.is_done = true;
    }
    drop(staged);
    sync(dir)?;
    Ok(installed)
}

impl Installed {
    /// The load holds: what was there before goes. Gives the hash of the module's bytes.
    pub(crate) fn keep(mut self) -> blake3::Hash {
        for before in self.replaced.drain(..).filter_map(|replaced| replaced.before) {
            // The next start removes it otherwise.
            fs::remove_file(before).ok();
        }
        self.hash
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for Replaced { path, before, is_done } in self.replaced.drain(..).rev() {
            let put_back = match (&before, is_done) {
                (Some(before), true) => fs::rename(before, &path),
                (Some(before), false) => fs::remove_file(before),
                (None, true) => fs::remove_file(&path),
                (None, false) => Ok(()),
            };
            if let Err(error) = put_back {
                tracing::error!(path = %path.display(), %error, "what was loaded in its place cannot be put back");
            }
        }
    }
}

/// The files to come, under their hidden names until they are renamed.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // The module's first: without it the manifest counts for nothing.
        for path in [&self.0, &self.0.with_extension("toml")] {
            fs::remove_file(hidden(path, NEXT)).ok();
        }
    }
}

/// Writes `bytes` to the disk under the hidden name of what is to come to `to`, with the permissions of `like`.
fn stage(bytes: &[u8], like: &Path, to: &Path) -> Result<(), Refusal> {
    let dir = to.parent().unwrap_or(Path::new("."));
    let permissions = fs::metadata(like).map_err(failed(like))?.permissions();
    let mut part =
        tempfile::Builder::new().prefix(PART.0).suffix(PART.1).tempfile_in(dir).map_err(failed(dir))?;
    part.write_all(bytes).map_err(failed(part.path()))?;
    part.as_file().set_permissions(permissions).map_err(failed(part.path()))?;
    part.as_file().sync_all().map_err(failed(part.path()))?;
    part.persist(hidden(to, NEXT)).map_err(|error| failed(to)(error.error))?;
    sync(dir)
}

/// Gives the file at `place` a second, hidden name, if there is a file.
fn put_by(place: &Path) -> Result<Option<PathBuf>, Refusal> {
    let before = hidden(place, BEFORE);
    match fs::remove_file(&before) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&before)(error)),
        _ => {}
    }
    // Of a symbolic link: the link itself, which is what the rename replaces.
    let linked = fs::hard_link(place, &before).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Err(error),
        // Where the file system has no links.
        _ => fs::copy(place, &before).map(drop),
    });
    match linked {
        Ok(()) => Ok(Some(before)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(place)(error)),
    }
}

fn hidden(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(ending);
    path.with_file_name(name)
}

/// Finishes loads into `dir` that a process did not live to finish. Before the modules there are loaded: nothing else
/// writes there yet.
pub(crate) fn recover(dir: &Path) {
    walk(dir, 0);
}

/// One load that cannot be finished keeps no other from it.
fn walk(dir: &Path, depth: usize) {
    // By module: a load has several hidden files.
    let mut unfinished = BTreeSet::new();
    // A directory that cannot be read is told of by who loads its modules.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match (name.strip_prefix('.'), entry.file_type()) {
            (Some(_), _) if name.starts_with(PART.0) && name.ends_with(PART.1) => {
                if let Err(error) = fs::remove_file(entry.path()) {
                    let path = entry.path();
                    tracing::warn!(path = %path.display(), %error, "what a load has left cannot be removed");
                }
            }
            (Some(name), _) => {
                let name = name.strip_suffix(NEXT).or_else(|| name.strip_suffix(BEFORE));
                let stem = name.and_then(|name| name.strip_suffix(".wasm").or(name.strip_suffix(".toml")));
                unfinished.extend(stem.map(|stem| dir.join(format!("{stem}.wasm"))));
            }
            (None, Ok(kind)) if kind.is_dir() && depth < MAX_DEPTH => walk(&entry.path(), depth + 1),
            _ => {}
        }
    }
    for wasm in unfinished {
        if let Err(error) = finish(&wasm) {
            tracing::warn!("a load of a module that was interrupted cannot be finished: {error}");
        }
    }
}

/// Makes the renames that are left of a load to `wasm`, if both its files were whole. Nothing is left of it then.
///
/// # Errors
/// The module cannot be placed: the manifest is as it was before the load, which is left for the next start.
fn finish(wasm: &Path) -> Result<(), Refusal> {
    let manifest = wasm.with_extension("toml");
    let (next, next_manifest) = (hidden(wasm, NEXT), hidden(&manifest, NEXT));
    if next.exists() {
        let is_placed_here = next_manifest.exists();
        if is_placed_here {
            // There already: of this load, and the only one left if putting it back was interrupted.
            if fs::symlink_metadata(hidden(&manifest, BEFORE)).is_err() {
                put_by(&manifest)?;
            }
            fs::rename(&next_manifest, &manifest).map_err(failed(&manifest))?;
        }
        if let Err(error) = fs::rename(&next, wasm) {
            if let Err(error) = put_back(&manifest, is_placed_here) {
                tracing::error!(path = %manifest.display(), %error, "the manifest before it cannot be put back");
            }
            return Err(failed(wasm)(error));
        }
        tracing::warn!(path = %wasm.display(), "a load that was interrupted is finished");
        sync(wasm.parent().unwrap_or(Path::new(".")))?;
    } else if let Err(error) = fs::remove_file(&next_manifest)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(&next_manifest)(error));
    }
    for path in [wasm, manifest.as_path()] {
        // The next start removes it otherwise.
        fs::remove_file(hidden(path, BEFORE)).ok();
    }
    Ok(())
}

/// The manifest that a load has put in place is to come again, and the one before it, if any, is back. With none before
/// it stays unless `is_placed_here`: a load without a manifest leaves the same files.
fn put_back(manifest: &Path, is_placed_here: bool) -> io::Result<()> {
    let before = hidden(manifest, BEFORE);
    let has_before = fs::symlink_metadata(&before).is_ok();
    if has_before || is_placed_here {
        fs::rename(manifest, hidden(manifest, NEXT))?;
    }
    if has_before { fs::rename(before, manifest) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    /// A module to load, and the directory it goes to with an older one.
    struct Bench {
        from: TempDir,
        to: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let bench = Self { from: tempfile::tempdir().unwrap(), to: tempfile::tempdir().unwrap() };
            for (dir, text) in [(&bench.from, "new"), (&bench.to, "old")] {
                fs::write(dir.path().join("a.wasm"), text).unwrap();
                fs::write(dir.path().join("a.toml"), text).unwrap();
            }
            bench
        }

        fn install(&self) -> Result<Installed, Refusal> {
            install(&self.from.path().join("a.wasm"), &self.to.path().join("a.wasm"), 9)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.to.path().join(name)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.to.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn assert_holds(&self, text: &str) {
            assert_eq!([self.read("a.wasm"), self.read("a.toml")], [text, text]);
            assert_eq!(self.names(), ["a.toml", "a.wasm"], "nothing is left beside them");
        }
    }

    #[test]
    fn a_module_comes_with_its_manifest_and_its_permissions() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (wasm, target) = (from.path().join("a.wasm"), to.path().join("a.wasm"));
        fs::write(&wasm, "code").unwrap();
        assert_eq!(install(&wasm, &target, 4).unwrap().keep(), blake3::hash(b"code"));
        assert!(install(&wasm, &target, 3).unwrap_err().to_string().contains("more than the 3 bytes"));
        let manifest = from.path().join("a.toml");
        fs::write(&manifest, "priority = 1").unwrap();
        fs::set_permissions(&manifest, fs::Permissions::from_mode(0o600)).unwrap();
        install(&wasm, &target, 4).unwrap().keep();
        let copied = target.with_extension("toml");
        assert_eq!(fs::read(&copied).unwrap(), b"priority = 1");
        assert_eq!(fs::metadata(&copied).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2, "nothing is left beside them");
        assert!(install(&target, &target, 4).unwrap_err().to_string().contains("already"));
    }

    #[test]
    fn what_is_not_kept_is_put_back() {
        let bench = Bench::new();
        drop(bench.install().unwrap());
        bench.assert_holds("old");
        bench.install().unwrap().keep();
        bench.assert_holds("new");
        // Where there was nothing, nothing is left.
        let bench = Bench::new();
        for name in ["a.wasm", "a.toml"] {
            fs::remove_file(bench.to.path().join(name)).unwrap();
        }
        drop(bench.install().unwrap());
        assert_eq!(bench.names(), [] as [&str; 0]);
    }

    /// The manifest was in place before it was known whether the module could be.
    #[test]
    fn a_module_that_cannot_be_placed_leaves_the_manifest_as_it_was() {
        let bench = Bench::new();
        fs::remove_file(bench.to.path().join("a.wasm")).unwrap();
        fs::create_dir(bench.to.path().join("a.wasm")).unwrap();
        bench.install().unwrap_err();
        assert_eq!(bench.read("a.toml"), "old");
        assert_eq!(bench.names(), ["a.toml", "a.wasm"], "nothing is left beside them");
    }

    /// As a process leaves it that dies after every step.
    #[test]
    fn a_load_that_was_interrupted_is_finished_or_undone_by_the_next_start() {
        let hidden = |bench: &Bench, name: &str, text: &str| {
            fs::write(bench.to.path().join(name), text).unwrap();
        };
        // The module was not whole yet.
        let bench = Bench::new();
        hidden(&bench, ".a.toml.next", "new");
        recover(bench.to.path());
        bench.assert_holds("old");
        // Both were.
        hidden(&bench, ".a.toml.next", "new");
        hidden(&bench, ".a.wasm.next", "new");
        hidden(&bench, ".a.toml.before", "old");
        recover(bench.to.path());
        bench.assert_holds("new");
        // Between the renames.
        let bench = Bench::new();
        hidden(&bench, "a.toml", "new");
        hidden(&bench, ".a.wasm.next", "new");
        hidden(&bench, ".a.wasm.before", "old");
        recover(bench.to.path());
        bench.assert_holds("new");
        // After them, and in a directory below.
        hidden(&bench, ".a.toml.before", "old");
        fs::create_dir(bench.to.path().join("sub")).unwrap();
        hidden(&bench, "sub/.b.wasm.next", "new");
        recover(bench.to.path());
        assert_eq!(bench.read("sub/b.wasm"), "new");
        fs::remove_dir_all(bench.to.path().join("sub")).unwrap();
        bench.assert_holds("new");
    }

    #[test]
    fn what_a_process_was_writing_is_removed_by_the_next_start() {
        let bench = Bench::new();
        fs::create_dir(bench.to.path().join("sub")).unwrap();
        for name in [".load-Ab1.part", "sub/.load-Ab2.part"] {
            fs::write(bench.to.path().join(name), "ne").unwrap();
        }
        recover(bench.to.path());
        fs::remove_dir(bench.to.path().join("sub")).unwrap();
        bench.assert_holds("old");
    }

    /// The first error ended the recovery, with the new manifest beside the old module.
    #[test]
    fn a_load_that_cannot_be_finished_leaves_the_old_manifest_and_the_other_loads() {
        // With no manifest before; before the copy was made, before the renames, and between them.
        let left: [&[(&str, &str)]; 4] = [
            &[(".a.toml.next", "new")],
            &[("a.toml", "old"), (".a.toml.next", "new")],
            &[("a.toml", "old"), (".a.toml.next", "new"), (".a.toml.before", "old")],
            &[("a.toml", "new"), (".a.toml.before", "old")],
        ];
        for files in left {
            let bench = Bench::new();
            let write = |name: &str, text: &str| fs::write(bench.to.path().join(name), text).unwrap();
            fs::remove_file(bench.to.path().join("a.toml")).unwrap();
            files.iter().for_each(|(name, text)| write(name, text));
            let before = files.iter().any(|(_, text)| *text == "old").then_some("old");
            write(".a.wasm.next", "new");
            // In its way.
            fs::remove_file(bench.to.path().join("a.wasm")).unwrap();
            fs::create_dir(bench.to.path().join("a.wasm")).unwrap();
            // Whichever order they are found in, some come after it.
            fs::create_dir(bench.to.path().join("sub")).unwrap();
            let others = ["0", "b", "sub/c"];
            others.iter().for_each(|name| {
                let (dir, name) = name.split_at(name.rfind('/').map_or(0, |at| at + 1));
                write(&format!("{dir}.{name}.wasm.next"), "other");
            });
            // The second time as the first.
            for _ in 0..2 {
                recover(bench.to.path());
                let manifest = fs::read_to_string(bench.to.path().join("a.toml")).ok();
                assert_eq!(manifest.as_deref(), before, "{files:?}");
                assert_eq!(bench.read(".a.toml.next"), "new", "{files:?}");
            }
            for name in others {
                assert_eq!(bench.read(&format!("{name}.wasm")), "other", "{files:?}");
                fs::remove_file(bench.to.path().join(format!("{name}.wasm"))).unwrap();
            }
            // Nothing is in its way any more.
            for dir in ["sub", "a.wasm"] {
                fs::remove_dir(bench.to.path().join(dir)).unwrap();
            }
            recover(bench.to.path());
            bench.assert_holds("new");
        }
    }
}
