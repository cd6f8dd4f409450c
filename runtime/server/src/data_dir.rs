//! The data directory: made private, and used by one running process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Name of the lock file in the directory.
const LOCK: &str = "tidegate.lock";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process uses it.
    #[error(
        "data.dir: {dir} is in use by another tidegate process ({owner}); stop it, or give this one its own \
         directory with --data"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// `pid N`, or that it is not known.
        owner: String,
    },
    /// The system refused.
    #[error("data.dir: {path}: {source}")]
    Io {
        /// What could not be made or opened.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The directory, locked as long as this lives. The kernel drops the lock when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory (mode 0700) if it is missing and locks it.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] naming the other process, [`DataDirError::Io`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| DataDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let lock_path = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(DataDirError::InUse { dir: path.to_path_buf(), owner: owner(&mut lock) });
            }
            Err(error) => return Err(failed(&lock_path)(error.into())),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed(&lock_path))?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Who holds the lock, as its holder wrote it.
fn owner(lock: &mut File) -> String {
    let mut text = String::new();
    // The holder writes just after it locks: an empty file is possible, an error changes nothing.
    lock.take(32).read_to_string(&mut text).ok();
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("pid {pid}"),
        Err(_) => "its pid is not known".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_directory_is_private_and_locked_once() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/data");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DataDir::open(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_an_error_that_names_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        std::fs::write(&path, "x").unwrap();
        let refused = DataDir::open(&path).unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
    }
}
