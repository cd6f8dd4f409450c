//! The database files of the embedded state: made at the first write, opened again after a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use parking_lot::RwLock;
use tidegate_event::StorageError;

/// What errors call the state.
pub(super) const NAME: &str = "state";
/// Memory for blocks that were read.
const CACHE_BYTES: u64 = 8 << 20;
/// Size at which recent writes go from memory into a table.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Size of the log of recent writes; the least that is possible is 64 MiB.
const JOURNAL_BYTES: u64 = 128 << 20;
/// fjall's threads. With more than one, the first never compacts: with only one, memory would fill with recent writes
/// for as long as a compaction takes.
const WORKERS: usize = 2;

/// What the caller is told when the disk does not do its work.
pub(super) fn unavailable(reason: impl std::fmt::Display) -> StorageError {
    StorageError::Unavailable { connector: NAME.into(), reason: reason.to_string() }
}

/// Open database files.
pub(super) struct Database {
    inner: fjall::Database,
    /// Pairs by the names of `key::pair`.
    pub(super) pairs: Keyspace,
    /// Bytes by the names of `key::module`.
    pub(super) usage: Keyspace,
    /// Records of the connectors' buffers, by connector and number.
    pub(super) records: Keyspace,
    /// What is known of each buffer, by its name.
    pub(super) buffers: Keyspace,
}

impl Database {
    fn open(path: &Path) -> Result<Self, String> {
        guarded(|| {
            let inner = fjall::Database::builder(path)
                .worker_threads(WORKERS)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            let pairs = inner.keyspace("pairs", options)?;
            let usage = inner.keyspace("usage", options)?;
            let records = inner.keyspace("buffer-records", options)?;
            let buffers = inner.keyspace("buffers", options)?;
            Ok(Self { inner, pairs, usage, records, buffers })
        })
    }

    /// A batch that is durable when its commit returns.
    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.inner.batch().durability(Some(PersistMode::SyncData))
    }
}

/// Runs `work`, which may meet files that somebody has damaged: its panics are errors, too.
pub(super) fn guarded<T>(work: impl FnOnce() -> fjall::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(fjall::Error::Io(error))) => Err(error.to_string()),
        Ok(Err(fjall::Error::Locked)) => Err("another process uses it".into()),
        Ok(Err(error)) => Err(format!("{error:?}")),
        Err(_) => Err("its files are damaged".into()),
    }
}

/// Removes a directory that was never a whole database: its maker was stopped before it wrote the marker, and so before
/// anything was acknowledged. fjall would refuse it for ever.
fn remove_unfinished(path: &Path) -> std::io::Result<()> {
    let marker = path.join("version");
    let is_whole = std::fs::metadata(&marker).is_ok_and(|found| found.len() > 0);
    if is_whole || !path.exists() {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "the embedded state was never finished: it is made anew");
    std::fs::remove_dir_all(path)
}

/// The directory and, once something was written, the database in it.
pub(super) struct Disk {
    path: PathBuf,
    open: RwLock<Option<Database>>,
}

impl Disk {
    /// Opens what is in the directory `path`; without one nothing is made.
    ///
    /// # Errors
    /// Why the database there cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        remove_unfinished(path).map_err(|error| error.to_string())?;
        let open = if path.exists() { Some(Database::open(path)?) } else { None };
        Ok(Self { path: path.to_owned(), open: RwLock::new(open) })
    }

    /// Reads. Blocks; what was never written is empty.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`], or the error of `read`.
    pub(super) fn read<T: Default>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match &*self.open.read() {
            Some(database) => catch_unwind(AssertUnwindSafe(|| read(database)))
                .unwrap_or_else(|_| Err(unavailable("its files are damaged"))),
            None if self.path.exists() => Err(unavailable("it could not be opened again after a failure")),
            None => Ok(T::default()),
        }
    }

    /// Opens what a failure has closed, so that what is there can be read.
    pub(super) fn reopen(&self) {
        let mut open = self.open.write();
        if open.is_none() && self.path.exists() {
            *open = Database::open(&self.path).ok();
        }
    }

    /// Writes, with a new database where there is none. Blocks. For one caller at a time.
    ///
    /// # Errors
    /// Why the database cannot be opened, or what `write` gives.
    pub(super) fn write<T>(&self, write: impl FnOnce(&Database) -> Result<T, String>) -> Result<T, String> {
        if self.open.read().is_none() {
            let mut open = self.open.write();
            remove_unfinished(&self.path).map_err(|error| error.to_string())?;
            *open = Some(Database::open(&self.path)?);
            tracing::info!(path = %self.path.display(), "embedded state");
        }
        match &*self.open.read() {
            Some(database) => write(database),
            None => Err("it is closed".into()),
        }
    }

    /// Closes the database: after a failed write it takes no other. The next write opens it anew.
    pub(super) fn close(&self) {
        let closed = self.open.write().take();
        if catch_unwind(AssertUnwindSafe(|| drop(closed))).is_err() {
            tracing::warn!(path = %self.path.display(), "the embedded state did not close well");
        }
    }
}
