//! The embedded state in `DATA/state`, which survives whatever ends the process: sessions, retained messages and wills of
//! the broker, key-value pairs of modules, and the overflow buffers of connectors.
//!
//! A change is durable when its future completes: one thread gathers what waits and commits it with one fsync
//! (`writer`). Reads see only what is durable. The directory is made at the first change, so a node on which nothing is
//! kept has no files and does no work for it.

mod buffer;
mod disk;
mod inbox;
mod journal;
mod key;
mod sessions;
mod writer;

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_event::key_value::{MAX_ANSWER_BYTES, check_key, check_value};
use tidegate_event::{BoxFuture, KeyValue, Space, StorageError, Swap};
use tidegate_store::buffer::BufferSpace;
use tokio::sync::{mpsc, oneshot};

use disk::{Database, Disk, guarded, unavailable};
pub use sessions::SessionDurability;
use sessions::intake::Intake;
use sessions::ledger::Ledger;
use sessions::watch::PATIENCE;
use writer::{Change, Outcome, Request, Work, Writer};

/// Changes that may wait for the writer; more wait before they are queued.
const QUEUE: usize = 256;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The files are there and cannot be opened.
    #[error(
        "{path}: {reason}; restore the directory from a copy, or move it away to begin without sessions, retained messages, \
         pairs of modules and operations that wait for databases"
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system gives no thread.
    #[error("no thread for the embedded state: {0}")]
    Thread(std::io::Error),
}

/// The open state.
pub struct State {
    disk: Arc<Disk>,
    queue: mpsc::Sender<Work>,
    intake: Arc<Intake>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// Opens the state in the directory `path`, which may be missing. A module may keep `quota` bytes.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(path: &Path, quota: u64) -> Result<Arc<Self>, StateError> {
        Self::open_with(path, quota, PATIENCE)
    }

    /// The same; a commit may take as long as `patience`.
    fn open_with(path: &Path, quota: u64, patience: Duration) -> Result<Arc<Self>, StateError> {
        let disk = Disk::open(path).map_err(|reason| StateError::Open { path: path.to_owned(), reason })?;
        let disk = Arc::new(disk);
        let (queue, requests) = mpsc::channel(QUEUE);
        let intake = Arc::new(Intake::default());
        let writer = Writer::new(disk.clone(), quota, Ledger::new(intake.clone()), patience);
        let of_thread = intake.clone();
        let write = move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run(requests))).is_err() {
                of_thread.has_died();
            }
        };
        std::thread::Builder::new().name("state".into()).spawn(write).map_err(StateError::Thread)?;
        Ok(Arc::new(Self { disk, queue, intake }))
    }

    /// The buffers of connectors, which may have `limit` bytes together. `None`: none is wanted.
    pub fn buffers(&self, limit: u64) -> Option<Arc<dyn BufferSpace>> {
        let buffers = buffer::Buffers { disk: self.disk.clone(), queue: self.queue.clone(), limit };
        (limit > 0).then(|| Arc::new(buffers) as Arc<dyn BufferSpace>)
    }

    async fn change(&self, space: &Space, change: Change) -> Result<Outcome, StorageError> {
        let (answer, outcome) = oneshot::channel();
        let request = Request { space: space.clone(), change, answer };
        self.queue.send(Work::Pair(request)).await.map_err(|_| unavailable("it is closed"))?;
        outcome.await.map_err(|_| unavailable("it is closed"))?
    }

    /// Reads what is durable.
    async fn read<T: Default + Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.disk.read_apart(read).await
    }
}

fn value(database: &Database, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    let found = guarded(|| database.pairs.get(name)).map_err(unavailable)?;
    Ok(found.map(|value| value.to_vec()))
}

impl KeyValue for State {
    fn get<'a>(
        &'a self,
        space: &'a Space,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, StorageError>> {
        Box::pin(async move {
            keys.iter().try_for_each(|key| check_key(key))?;
            let names: Vec<_> = keys.iter().map(|key| key::pair(space, key)).collect();
            let wanted = names.len();
            let found = self.read(move |database| {
                let (mut found, mut bytes) = (Vec::with_capacity(names.len()), 0);
                for name in &names {
                    let value = value(database, name)?;
                    bytes += value.as_ref().map_or(0, Vec::len);
                    if bytes > MAX_ANSWER_BYTES {
                        return Err(StorageError::QuotaExceeded(format!(
                            "the values have more than {MAX_ANSWER_BYTES} bytes: ask for fewer keys at once"
                        )));
                    }
                    found.push(value);
                }
                Ok(found)
            });
            let mut found = found.await?;
            // Before the first change there is no database, and no answer for each key.
            found.resize(wanted, None);
            Ok(found)
        })
    }

    fn set<'a>(
        &'a self,
        space: &'a Space,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            for (key, value) in &pairs {
                check_key(key)?;
                check_value(value)?;
            }
            self.change(space, Change::Set(pairs)).await.map(drop)
        })
    }

    fn delete<'a>(&'a self, space: &'a Space, keys: Vec<String>) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            keys.iter().try_for_each(|key| check_key(key))?;
            self.change(space, Change::Delete(keys)).await.map(drop)
        })
    }

    fn exists<'a>(&'a self, space: &'a Space, key: String) -> BoxFuture<'a, Result<bool, StorageError>> {
        Box::pin(async move {
            check_key(&key)?;
            let name = key::pair(space, &key);
            self.read(move |database| guarded(|| database.pairs.contains_key(name)).map_err(unavailable))
                .await
        })
    }

    fn keys<'a>(
        &'a self,
        space: &'a Space,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StorageError>> {
        Box::pin(async move {
            let bucket = key::pair(space, "");
            let from = key::pair(space, after.as_deref().unwrap_or_default());
            self.read(move |database| {
                guarded(|| {
                    let mut keys = Vec::new();
                    for pair in database.pairs.range::<Vec<u8>, _>((Bound::Excluded(from), Bound::Unbounded))
                    {
                        let name = pair.key()?;
                        let Some(key) = name.strip_prefix(&*bucket) else { break };
                        keys.push(String::from_utf8_lossy(key).into_owned());
                        if keys.len() >= limit {
                            break;
                        }
                    }
                    Ok(keys)
                })
                .map_err(unavailable)
            })
            .await
        })
    }

    fn increment<'a>(
        &'a self,
        space: &'a Space,
        key: String,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, StorageError>> {
        Box::pin(async move {
            check_key(&key)?;
            match self.change(space, Change::Increment { key, delta }).await? {
                Outcome::Sum(sum) => Ok(sum),
                Outcome::Done | Outcome::Swap(_) => Err(unavailable("it gave another answer")),
            }
        })
    }

    fn swap<'a>(
        &'a self,
        space: &'a Space,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<Swap, StorageError>> {
        Box::pin(async move {
            check_key(&key)?;
            check_value(&value)?;
            match self.change(space, Change::Swap { key, expected, value }).await? {
                Outcome::Swap(swap) => Ok(swap),
                Outcome::Done | Outcome::Sum(_) => Err(unavailable("it gave another answer")),
            }
        })
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
