//! Where servers keep their data and logs, and whether they end with whoever started them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// Temporary folders are called so, and a number.
const PREFIX: &str = "tidegate-servers-";
/// Locked while the folder is in use.
const LOCK: &str = "in-use";

/// A folder for servers. Clones are the same place.
#[derive(Clone, Debug)]
pub struct Place(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// Held by a temporary place, which goes with its last user.
    lock: Option<File>,
}

impl Place {
    /// A new temporary folder. Its servers end with the thread that starts them, however that ends; the folder goes
    /// with the last server, or, if we were killed, when the next run makes one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn temporary() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = std::env::temp_dir();
        sweep(&root);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let failed = |error| Error::Io { what: folder.display().to_string(), error };
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => std::fs::create_dir(&folder).map_err(failed)?,
        }
        let lock = File::create(folder.join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self(Arc::new(Inner { folder, lock: Some(lock) })))
    }

    /// An emptied folder whose servers go on after us.
    ///
    /// # Errors
    /// It cannot be emptied or made.
    pub fn kept(folder: &Path) -> Result<Self> {
        let failed = |error| Error::Io { what: folder.display().to_string(), error };
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => std::fs::create_dir_all(folder).map_err(failed)?,
        }
        Ok(Self(Arc::new(Inner { folder: folder.to_path_buf(), lock: None })))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Whether its servers end with the thread that starts them.
    pub(crate) fn ends_with_us(&self) -> bool {
        self.0.lock.is_some()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What is left is swept by the next run.
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

/// Removes the folders of runs that were killed.
fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let folder = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // A folder without the file is just being made.
        if File::open(folder.join(LOCK)).is_ok_and(|file| file.try_lock().is_ok()) {
            drop(std::fs::remove_dir_all(&folder));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_temporary_place_goes_with_its_last_user() {
        let place = Place::temporary().unwrap();
        let folder = place.folder().to_path_buf();
        let other = place.clone();
        drop(place);
        assert!(folder.is_dir());
        // In use: not swept.
        sweep(&std::env::temp_dir());
        assert!(folder.is_dir());
        drop(other);
        assert!(!folder.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_swept() {
        let root = Place::temporary().unwrap();
        let left = root.folder().join(format!("{PREFIX}1-0"));
        std::fs::create_dir(&left).unwrap();
        sweep(root.folder());
        assert!(left.exists(), "it is just being made");
        File::create(left.join(LOCK)).unwrap();
        sweep(root.folder());
        assert!(!left.exists());
    }
}
