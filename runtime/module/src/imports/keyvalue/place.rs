//! Where pairs are, and every access to them: the same for both drafts and for guests of the world `raw`.

use std::sync::Arc;

use tidegate_event::{KeyValue, Space, StorageError, Swap};

use super::invalid;

/// Keys of a page, and of a batch.
pub(crate) const MAX_KEYS: usize = 1_000;

/// A bucket of a module: what a handle refers to.
#[derive(Clone)]
pub(crate) struct Place {
    pub(super) store: Arc<dyn KeyValue>,
    pub(super) space: Arc<Space>,
}

/// Keys in the order of their bytes.
pub(crate) struct Page {
    pub(crate) keys: Vec<String>,
    /// Whether others may follow.
    pub(crate) more: bool,
}

impl Page {
    /// The key after which the next page begins.
    pub(crate) fn next(&self) -> Option<&String> {
        self.keys.last().filter(|_| self.more)
    }
}

/// Whether a batch is small enough.
fn check_batch(keys: usize) -> Result<(), StorageError> {
    if keys <= MAX_KEYS {
        return Ok(());
    }
    Err(invalid(format!("{keys} keys in one call: at most {MAX_KEYS} are possible")))
}

/// An access each; errors are the store's.
impl Place {
    pub(crate) async fn get(&self, key: String) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.store.get(&self.space, vec![key]).await?.pop().flatten())
    }

    /// Keys with what was found, in the order of `keys`.
    pub(crate) async fn get_many(
        &self,
        keys: Vec<String>,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, StorageError> {
        check_batch(keys.len())?;
        let found = self.store.get(&self.space, keys.clone()).await?;
        Ok(keys.into_iter().zip(found).collect())
    }

    pub(crate) async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), StorageError> {
        check_batch(pairs.len())?;
        self.store.set(&self.space, pairs).await
    }

    pub(crate) async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError> {
        check_batch(keys.len())?;
        self.store.delete(&self.space, keys).await
    }

    pub(crate) async fn exists(&self, key: String) -> Result<bool, StorageError> {
        self.store.exists(&self.space, key).await
    }

    /// The keys after key `after`, at most `limit`.
    pub(crate) async fn keys(&self, after: Option<String>, limit: usize) -> Result<Page, StorageError> {
        let keys = self.store.keys(&self.space, after, limit).await?;
        let more = keys.len() >= limit;
        Ok(Page { keys, more })
    }

    pub(crate) async fn increment(&self, key: String, delta: i64) -> Result<i64, StorageError> {
        self.store.increment(&self.space, key, delta).await
    }

    /// Sets `key` to `value` if it was `expected`; `None`: if it does not exist.
    pub(crate) async fn swap(
        &self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Result<Swap, StorageError> {
        self.store.swap(&self.space, key, expected, value).await
    }
}
