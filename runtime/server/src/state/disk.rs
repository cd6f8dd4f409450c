//! The database files of the embedded state: made at the first write, opened again after a failure.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, SeqNo};
use parking_lot::{Mutex, RwLock};
use tidegate_event::StorageError;
use tokio::sync::Semaphore;

use super::journal;

/// What errors call the state.
pub(super) const NAME: &str = "state";
/// Memory for blocks that were read.
const CACHE_BYTES: u64 = 8 << 20;
/// Size at which recent writes go from memory into a table.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Size of the log of recent writes; the least that is possible is 64 MiB.
const JOURNAL_BYTES: u64 = 128 << 20;
/// fjall's threads. With more than one, the first never compacts: with only one, memory would fill with recent writes
/// for as long as a compaction takes.
const WORKERS: usize = 2;
/// What fjall writes last into a new database.
const MARKER: &str = "version";
/// How often readers try to open what a failure has closed.
const REST: Duration = Duration::from_secs(1);
/// Threads that read at once. A disk that hangs keeps them, and passwords are checked on threads of the same pool.
pub(super) const READERS: usize = 32;
/// More than a thread needs from its last step to its end.
const LETTING_GO: Duration = Duration::from_millis(10);

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
    /// What is known of sessions for long: the sessions, subscriptions, wills and retained messages.
    pub(super) sessions: Keyspace,
    /// What comes and goes with messages: deliveries, and packet ids in use.
    pub(super) deliveries: Keyspace,
}

impl Database {
    fn open(path: &Path) -> Result<Self, String> {
        if is_there(&path.join(MARKER))? {
            check_trees(path)?;
            journal::mend(path)?;
        }
        loop {
            let mut is_wrong = false;
            let opened = guarded(|| {
                Self::open_as_it_is(path)
                    .inspect_err(|error| is_wrong = matches!(error, fjall::Error::JournalRecovery(_)))
            });
            // Each time one journal is cut, and then its checksums are right.
            if !is_wrong || !journal::cut_wrong(path)? {
                let opened = opened?;
                sync_names(path)?;
                return Ok(opened);
            }
        }
    }

    fn open_as_it_is(path: &Path) -> fjall::Result<Self> {
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
        let sessions = inner.keyspace("sessions", options)?;
        let deliveries = inner.keyspace("deliveries", options)?;
        Ok(Self { inner, pairs, usage, records, buffers, sessions, deliveries })
    }

    /// A batch that is durable when its commit returns; if not `synced`, the operating system has it then.
    pub(super) fn batch(&self, synced: bool) -> OwnedWriteBatch {
        let mode = if synced { PersistMode::SyncData } else { PersistMode::Buffer };
        self.inner.batch().durability(Some(mode))
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

/// Whether something is at `path`. That it cannot be looked at does not mean that nothing is there.
fn is_there(path: &Path) -> Result<bool, String> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Makes the name of the directory `path` durable: a new one, or one that was moved, is else gone after a power failure with
/// all that was synced in it. Also when it is not new: its maker may have been stopped before.
///
/// # Errors
/// The directory that it is in cannot be synced.
fn sync_names(path: &Path) -> Result<(), String> {
    // The one above that may be new as well, and another user's.
    for directory in path.ancestors().skip(1).take(2) {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        match File::open(directory).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => {
                return Err(format!("{}: {error}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether nothing was ever written to the file at `path`.
pub(super) fn is_blank(path: &Path) -> std::io::Result<bool> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    loop {
        let chunk = file.fill_buf()?;
        if chunk.is_empty() {
            return Ok(true);
        }
        if chunk.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let count = chunk.len();
        file.consume(count);
    }
}

/// A name beside `path` that nothing has.
///
/// # Errors
/// It cannot be told whether a name is taken.
pub(super) fn beside(path: &Path, what: &str) -> std::io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{what}-{number}"));
        match std::fs::symlink_metadata(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(name.into()),
            Err(error) => return Err(error),
            Ok(_) => number += 1,
        }
    }
}

/// Moves away a directory that was never a whole database: its maker was stopped before it wrote the marker, and so before
/// anything was acknowledged. fjall would refuse it for ever. What has lost its marker in some other way is not touched.
fn set_unfinished_aside(path: &Path) -> Result<(), String> {
    if !is_there(path)? {
        return Ok(());
    }
    let failed = |error: std::io::Error| error.to_string();
    let marker = path.join(MARKER);
    match std::fs::metadata(&marker) {
        Ok(found) if found.len() > 0 => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // It is not known whether it is whole.
        Err(error) => return Err(format!("{}: {error}", marker.display())),
    }
    let (mut is_begun, mut content, mut foreign) = (false, None, None);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let inside = path.join(&name);
        let is_without_content = match name.to_str() {
            Some(MARKER | "lock") => true,
            Some("keyspaces") => std::fs::read_dir(&inside).map_err(failed)?.next().is_none(),
            Some("0.jnl") => is_blank(&inside).map_err(failed)?,
            Some(name) if name.ends_with(".jnl") => false,
            _ => {
                foreign = Some(inside);
                continue;
            }
        };
        if is_without_content {
            is_begun = true;
        } else {
            content = Some(inside);
        }
    }
    // Without any file of its own a database can be made beside what somebody else has put there.
    if let Some(found) = content.or(foreign.filter(|_| is_begun)) {
        let (marker, found) = (marker.display(), found.display());
        return Err(format!(
            "the marker of a whole database, {marker}, is missing or empty, and yet there is {found}"
        ));
    }
    if is_begun {
        let aside = beside(path, "unfinished").map_err(failed)?;
        std::fs::rename(path, &aside).map_err(failed)?;
        let (path, aside) = (path.display(), aside.display());
        tracing::warn!(%path, %aside, "the embedded state was never finished: it is made anew");
    }
    Ok(())
}

/// Looks whether the trees of the database in `path` can be told from ones whose making was stopped: fjall deletes those,
/// and what the first one does not know of. The first one is made right after the marker: who was stopped in between has
/// left a database without anything in it, which fjall goes on making.
fn check_trees(path: &Path) -> Result<(), String> {
    let trees = path.join("keyspaces");
    let failed = |error: std::io::Error| format!("{}: {error}", trees.display());
    let has_entries = |directory: &Path| {
        let found = is_there(directory)? && std::fs::read_dir(directory).map_err(failed)?.next().is_some();
        Ok::<_, String>(found)
    };
    let first = trees.join("0");
    let mut is_first_alone = true;
    for entry in std::fs::read_dir(&trees).map_err(failed)? {
        let tree = entry.map_err(failed)?.path();
        is_first_alone &= tree == first;
        let pointer = tree.join("current");
        if !is_there(&pointer)? && has_entries(&tree.join("tables"))? {
            return Err(format!("{} is missing", pointer.display()));
        }
    }
    let pointer = first.join("current");
    if is_there(&pointer)? || is_first_alone && journal::is_blank(path)? {
        return Ok(());
    }
    Err(format!("{} is missing", pointer.display()))
}

/// What a failure has left behind.
#[derive(Default)]
struct Trouble {
    /// Batches with this sequence number and larger ones were reported as failed. Closing writes what it still has, so they
    /// may be in the journal all the same.
    failed: Option<SeqNo>,
    /// When a reader last tried to open the files.
    tried: Option<Instant>,
}

/// The directory and, once something was written, the database in it.
pub(super) struct Disk {
    path: PathBuf,
    open: RwLock<Option<Database>>,
    trouble: Mutex<Trouble>,
    readers: Arc<Semaphore>,
    /// Writes that are done from now on are reported as failed.
    #[cfg(test)]
    pub(super) fails: std::sync::atomic::AtomicBool,
    /// Writes do not come back.
    #[cfg(test)]
    pub(super) stalls: std::sync::atomic::AtomicBool,
    /// The next write panics.
    #[cfg(test)]
    pub(super) panics: std::sync::atomic::AtomicBool,
}

impl Disk {
    /// Opens what is in the directory `path`; without one nothing is made.
    ///
    /// # Errors
    /// Why the database there cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let disk = Self {
            path: path.to_owned(),
            open: RwLock::default(),
            trouble: Mutex::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            #[cfg(test)]
            fails: std::sync::atomic::AtomicBool::default(),
            #[cfg(test)]
            stalls: std::sync::atomic::AtomicBool::default(),
            #[cfg(test)]
            panics: std::sync::atomic::AtomicBool::default(),
        };
        disk.open_what_is_there()?;
        Ok(disk)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads. Blocks; what was never written is empty.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`], or the error of `read`.
    pub(super) fn read<T: Default>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.open.read().is_none() {
            if !is_there(&self.path).map_err(unavailable)? {
                return Ok(T::default());
            }
            self.open_for_reading().map_err(unavailable)?;
        }
        match &*self.open.read() {
            Some(database) => catch_unwind(AssertUnwindSafe(|| read(database)))
                .unwrap_or_else(|_| Err(unavailable("its files are damaged"))),
            None => Err(unavailable("it could not be opened again after a failure")),
        }
    }

    /// [`Self::read`], apart from the threads that carry messages: a disk may take its time. Who does not wait for the answer any
    /// more gives up its turn, but for a read that has begun.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) async fn read_apart<T: Default + Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Database) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let turn = self.readers.clone().acquire_owned().await.map_err(unavailable)?;
        let disk = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            disk.read(read)
        });
        done.await.map_err(|_| unavailable("the node stops"))?
    }

    /// Opens what a failure has closed, now and then: who only reads must not wait for somebody who writes.
    fn open_for_reading(&self) -> Result<(), String> {
        {
            let mut trouble = self.trouble.lock();
            if trouble.tried.is_some_and(|tried| tried.elapsed() < REST) {
                return Ok(());
            }
            trouble.tried = Some(Instant::now());
        }
        self.open_what_is_there()
    }

    /// Opens what a failure has closed, so that what is there can be read.
    pub(super) fn reopen(&self) {
        self.trouble.lock().tried = Some(Instant::now());
        if let Err(reason) = self.open_what_is_there() {
            tracing::error!("the embedded state cannot be opened again: {reason}");
        }
    }

    fn open_what_is_there(&self) -> Result<(), String> {
        let mut open = self.open.write();
        if open.is_none() {
            self.prepare()?;
            if is_there(&self.path)? {
                *open = Some(Database::open(&self.path)?);
            }
        }
        Ok(())
    }

    /// Takes away what must not be found when the database opens.
    fn prepare(&self) -> Result<(), String> {
        set_unfinished_aside(&self.path)?;
        let mut trouble = self.trouble.lock();
        if let Some(seqno) = trouble.failed
            && is_there(&self.path)?
        {
            journal::take_out(&self.path, seqno)?;
        }
        trouble.failed = None;
        Ok(())
    }

    /// Writes, with a new database where there is none. Blocks. For one caller at a time.
    ///
    /// # Errors
    /// Why the database cannot be opened, or what `write` gives: nothing of it is there then, once the database has been
    /// closed.
    pub(super) fn write<T>(&self, write: impl FnOnce(&Database) -> Result<T, String>) -> Result<T, String> {
        if self.open.read().is_none() {
            let mut open = self.open.write();
            if open.is_none() {
                self.prepare()?;
                let is_new = !is_there(&self.path)?;
                let opened = Database::open(&self.path);
                if is_new && opened.is_err() {
                    // A disk that is full would have one beginning more at each attempt.
                    std::fs::remove_dir_all(&self.path).ok();
                }
                *open = Some(opened?);
                tracing::info!(path = %self.path.display(), "embedded state");
            }
        }
        let open = self.open.read();
        let Some(database) = &*open else { return Err("it is closed".into()) };
        let seqno = database.inner.seqno();
        #[cfg(test)]
        {
            while self.stalls.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!self.panics.load(std::sync::atomic::Ordering::Relaxed), "a test lets it panic");
        }
        let written = write(database);
        #[cfg(test)]
        let written = match self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            true => written.and_then(|_| Err("a test lets it fail".into())),
            false => written,
        };
        written.inspect_err(|_| self.trouble.lock().failed = Some(seqno))
    }

    /// Closes the database: after a failed write it takes no other. The next write opens it anew.
    pub(super) fn close(&self) {
        let closed = self.open.write().take();
        if catch_unwind(AssertUnwindSafe(|| drop(closed))).is_err() {
            tracing::warn!(path = %self.path.display(), "the embedded state did not close well");
        }
        // fjall's threads have counted themselves out and let go of the journal a moment later; only then its last bytes
        // are in the file.
        std::thread::sleep(LETTING_GO);
    }
}
