//! The artefact cache: a private directory of compiled components, so that a known file loads in milliseconds.
//!
//! Files appear complete (written under a temporary name, synced, renamed), so readers, other processes and
//! crashes never see half of one. A file that fails its checksum is removed and made again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::artefact::{self, Compiled, Key, Loaded};
use crate::engine::Engines;
use crate::error::{HostError, LoadError};

/// Artefacts nobody loaded for this long are removed at start.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Temporary files this old belong to a writer that died.
const MAX_TEMPORARY_AGE: Duration = Duration::from_secs(3_600);

static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// The cache in one directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens the cache in `dir`, which is made with mode 0700 when it is missing.
    ///
    /// # Errors
    /// [`HostError::Cache`] when the directory cannot be made or others could write to it: they could then
    /// run machine code in this process.
    pub(crate) fn open(dir: &Path) -> Result<Self, HostError> {
        let fail = |reason: String| HostError::Cache { path: dir.to_owned(), reason };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(|error| fail(error.to_string()))?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(fail(error.to_string()));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(dir).map_err(|error| fail(error.to_string()))?;
        if !found.is_dir() {
            return Err(fail("it is not a directory".into()));
        }
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user {
            return Err(fail(format!("it belongs to user {}, not to {user}", found.uid())));
        }
        if found.mode() & 0o077 != 0 {
            return Err(fail(format!("its mode is {:o}, expected 700", found.mode() & 0o777)));
        }
        let cache = Self { dir: dir.to_owned() };
        cache.remove_old();
        Ok(cache)
    }

    /// The artefact of `key`, if it is there and undamaged; or why the engine does not take it.
    pub(crate) fn get(&self, engines: &Engines, key: &Key) -> Option<Result<Compiled, LoadError>> {
        let path = self.dir.join(key.file_name());
        let file = File::open(&path).ok()?;
        // The time of last use, for `remove_old`; a failure costs a compilation in a month.
        drop(file.set_modified(SystemTime::now()));
        match artefact::load(engines, key, file, &self.dir).ok()? {
            Loaded::Fits(compiled) => Some(Ok(compiled)),
            Loaded::Unfit(refusal) => Some(Err(LoadError::Unfit(refusal))),
            Loaded::Damaged => {
                tracing::warn!(path = %path.display(), "a cached artefact is damaged: the module is compiled again");
                metrics::counter!("tidegate_module_artefacts_damaged_total").increment(1);
                drop(fs::remove_file(&path));
                None
            }
        }
    }

    /// A fresh name in the cache for a file that will be moved into place or removed.
    pub(crate) fn temporary(&self) -> PathBuf {
        let count = TEMPORARY.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{}-{count}.tmp", std::process::id()))
    }

    /// Writes `bytes` to `path` for this user only.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Moves the artefact at `temporary` (a name in this directory) into place.
    ///
    /// # Errors
    /// The system's error; the temporary file is gone then.
    pub(crate) fn put(&self, key: &Key, temporary: &Path) -> Result<(), LoadError> {
        let target = self.dir.join(key.file_name());
        let moved = fs::rename(temporary, &target).and_then(|()| File::open(&self.dir)?.sync_all());
        moved.map_err(|source| {
            drop(fs::remove_file(temporary));
            LoadError::Cache { path: target, source }
        })
    }

    fn remove_old(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let limit = match entry.path().extension().and_then(|e| e.to_str()) {
                Some("artefact") => MAX_AGE,
                Some("tmp") => MAX_TEMPORARY_AGE,
                _ => continue,
            };
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if age.is_some_and(|age| age > limit) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const EMPTY: &[u8] = &[0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    fn stored(dir: &Path, engines: &Engines) -> (Cache, Key) {
        let cache = Cache::open(dir).unwrap();
        let key = Key::new(blake3::hash(EMPTY), engines);
        let temporary = cache.temporary();
        Cache::write(&temporary, &artefact::compile(engines, EMPTY, |_| ()).unwrap()).unwrap();
        cache.put(&key, &temporary).unwrap();
        (cache, key)
    }

    #[test]
    fn the_directory_is_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/cache");
        Cache::open(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let refusal = Cache::open(&dir).unwrap_err().to_string();
        assert!(refusal.contains("its mode is 777"), "{refusal}");
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(Cache::open(&link).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn a_damaged_artefact_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let engines = Engines::on_demand().unwrap();
        let (cache, key) = stored(&root.path().join("cache"), &engines);
        assert!(cache.get(&engines, &key).is_some());
        let path = cache.dir.join(key.file_name());
        let length = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
        assert!(cache.get(&engines, &key).is_none());
        assert!(!path.exists());
    }

    #[test]
    fn leftovers_are_removed_at_start() {
        let root = tempfile::tempdir().unwrap();
        let engines = Engines::on_demand().unwrap();
        let dir = root.path().join("cache");
        let (cache, key) = stored(&dir, &engines);
        let old = SystemTime::now() - 2 * MAX_TEMPORARY_AGE;
        let (dead, live) = (cache.temporary(), cache.temporary());
        for path in [&dead, &live] {
            Cache::write(path, b"x").unwrap();
        }
        File::options().write(true).open(&dead).unwrap().set_modified(old).unwrap();
        let cache = Cache::open(&dir).unwrap();
        assert!(!dead.exists() && live.exists());
        assert!(cache.get(&engines, &key).is_some());
    }
}
