//! What is on disk: which modules there are, in which directories, and whether they look changed without reading them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Directories in directories, below the modules' own.
const MAX_DEPTH: usize = 8;
/// Directories in all: links could make more of few.
const MAX_DIRECTORIES: usize = 10_000;
/// For how long after a write nobody reported its end a file may still be in the works.
pub(super) const SETTLE: Duration = Duration::from_millis(100);

/// What a file looks like from outside; links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn is_fresh(&self, now: Duration) -> bool {
        let (seconds, nanos) = self.modified;
        let modified = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        now.abs_diff(modified) < SETTLE
    }
}

/// A module file and its manifest from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    wasm: Option<Look>,
    manifest: Option<Look>,
}

impl Stamp {
    /// Of the module at `wasm`.
    pub(crate) fn of(wasm: &Path) -> Self {
        Self { wasm: Look::at(wasm), manifest: Look::at(&wasm.with_extension("toml")) }
    }

    /// Whether there is a module file.
    pub(super) fn has_file(&self) -> bool {
        self.wasm.is_some()
    }

    /// Whether there is neither a file nor a manifest.
    pub(super) fn is_nothing(&self) -> bool {
        self.wasm.is_none() && self.manifest.is_none()
    }

    /// Whether one of them was written a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return false };
        [self.wasm, self.manifest].iter().flatten().any(|look| look.is_fresh(now))
    }
}

/// Device and inode: a directory that was removed and made again is another one.
pub(super) type Identity = (u64, u64);

/// Of the directory at `path`, if there is one.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// What was found below the modules' directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// By the paths of their `.wasm`, which may be missing beside a manifest or behind a link.
    pub(super) modules: BTreeMap<PathBuf, Stamp>,
    /// All directories that were read, the modules' own first.
    pub(super) directories: Vec<PathBuf>,
    /// Symbolic links: where they are, and the module that is reached by them; `None` for those to directories.
    pub(super) links: Vec<(PathBuf, Option<PathBuf>)>,
    /// Directories that are not looked into, and why.
    pub(super) refused: Vec<(PathBuf, String)>,
    /// Directories that could not be read: what is in them nobody knows.
    pub(super) unread: Vec<(PathBuf, io::Error)>,
}

/// Everything below `root`. Hidden files and directories are left out: editors and copying programs write under such
/// names first. Links to directories are followed if `links`.
///
/// # Errors
/// The system's error when `root` does not exist or cannot be read.
pub(super) fn list(root: &Path, links: bool) -> io::Result<Listing> {
    let mut walk = Walk { listing: Listing::default(), links, above: identity(root).into_iter().collect() };
    walk.directory(root)?;
    Ok(walk.listing)
}

struct Walk {
    listing: Listing,
    links: bool,
    /// The directories from the root to the one that is read.
    above: Vec<Identity>,
}

impl Walk {
    fn directory(&mut self, dir: &Path) -> io::Result<()> {
        let entries = fs::read_dir(dir)?;
        self.listing.directories.push(dir.to_owned());
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if is_hidden(&path) {
                continue;
            }
            // What is gone by now is not there.
            let Ok(kind) = entry.file_type() else { continue };
            let link = kind.is_symlink();
            if kind.is_dir() || (link && path.is_dir()) {
                self.descend(path, link);
                continue;
            }
            let wasm = path.with_extension("wasm");
            if path != wasm && path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            if link {
                self.listing.links.push((path, Some(wasm.clone())));
            }
            if let Entry::Vacant(entry) = self.listing.modules.entry(wasm) {
                let stamp = Stamp::of(entry.key());
                entry.insert(stamp);
            }
        }
        Ok(())
    }

    fn descend(&mut self, path: PathBuf, link: bool) {
        if link {
            self.listing.links.push((path.clone(), None));
        }
        let own = identity(&path);
        let refusal = if link && !self.links {
            "a symbolic link, which only the operator may use".to_owned()
        } else if own.is_some_and(|own| self.above.contains(&own)) {
            "it leads to a directory that it lies in".to_owned()
        } else if self.above.len() > MAX_DEPTH {
            format!("it lies deeper than {MAX_DEPTH} directories below the modules' directory")
        } else if self.listing.directories.len() >= MAX_DIRECTORIES {
            format!("there are more than {MAX_DIRECTORIES} directories")
        } else {
            self.above.extend(own);
            if let Err(error) = self.directory(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                self.listing.unread.push((path, error));
            }
            if own.is_some() {
                self.above.pop();
            }
            return;
        };
        self.listing.refused.push((path, refusal));
    }
}

/// The module files below `dir`, sorted: those that [`crate::Directory`] loads.
///
/// # Errors
/// The system's error when `dir` or a directory below cannot be read.
pub fn module_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = list(dir, true)?;
    if let Some((_, error)) = listing.unread.into_iter().next() {
        return Err(error);
    }
    Ok(listing.modules.into_iter().filter(|(_, stamp)| stamp.wasm.is_some()).map(|(path, _)| path).collect())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether the name is one of a module file.
pub(super) fn is_module(path: &Path) -> bool {
    !is_hidden(path) && path.extension().is_some_and(|extension| extension == "wasm")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path, listing: &Listing) -> Vec<String> {
        let below = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        listing.modules.keys().map(below).collect()
    }

    #[test]
    fn only_module_files_are_listed_in_all_directories_but_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["sub/deep", ".hidden", "x.wasm"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["a.wasm", "b.toml", ".c.wasm", "d.wasm~", "e.wasm.tmp", "wasm", "sub/deep/f.wasm"] {
            fs::write(root.join(name), "").unwrap();
        }
        fs::write(root.join(".hidden/g.wasm"), "").unwrap();
        fs::write(root.join("x.wasm/h.wasm"), "").unwrap();
        let found = list(root, true).unwrap();
        // A manifest alone is listed as well: its module is missing.
        assert_eq!(names(root, &found), ["a.wasm", "b.wasm", "sub/deep/f.wasm", "x.wasm/h.wasm"]);
        assert_eq!(found.directories.len(), 4);
        assert_eq!(module_files(root).unwrap().len(), 3);
        assert_eq!(list(&root.join("none"), true).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn links_are_followed_once_a_path_and_refused_to_tenants() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("m"), dir.path().join("outside"));
        fs::create_dir_all(root.join("own")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a.wasm"), "").unwrap();
        symlink(&outside, root.join("linked")).unwrap();
        symlink(&outside, root.join("own/linked")).unwrap();
        symlink(&root, root.join("own/circle")).unwrap();
        let found = list(&root, true).unwrap();
        assert_eq!(names(&root, &found), ["linked/a.wasm", "own/linked/a.wasm"]);
        assert_eq!(found.refused.len(), 1);
        assert!(
            found
                .refused
                .iter()
                .all(|(path, reason)| path.ends_with("own/circle") && reason.contains("leads to"))
        );
        assert_eq!(found.links.len(), 3);
        let found = list(&root, false).unwrap();
        assert_eq!(names(&root, &found), [] as [&str; 0]);
        assert_eq!(found.refused.len(), 3);
    }

    #[test]
    fn depth_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        for n in 1..=9 {
            path.push(format!("{n}"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("m.wasm"), "").unwrap();
        }
        let found = list(dir.path(), true).unwrap();
        assert_eq!((found.modules.len(), found.directories.len()), (8, 9));
        assert!(matches!(&found.refused[..], [(path, _)] if path.ends_with("8/9")), "{:?}", found.refused);
    }

    #[test]
    fn a_stamp_changes_with_file_and_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("a.wasm");
        assert!(Stamp::of(&wasm).is_nothing());
        fs::write(&wasm, "x").unwrap();
        let first = Stamp::of(&wasm);
        assert!(first == Stamp::of(&wasm) && first.is_fresh());
        fs::write(wasm.with_extension("toml"), "").unwrap();
        let second = Stamp::of(&wasm);
        assert_ne!(first, second);
        fs::write(&wasm, "xy").unwrap();
        assert_ne!(second, Stamp::of(&wasm));
        fs::File::open(&wasm).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::remove_file(wasm.with_extension("toml")).unwrap();
        assert!(!Stamp::of(&wasm).is_fresh());
    }
}
