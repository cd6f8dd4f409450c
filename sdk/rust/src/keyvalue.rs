//! Key-value pairs: the module's own, which survive a restart of the broker, or a connector's.
//!
//! The module's own pairs are kept on the node's disk, apart from every other module's, up to the broker's
//! `modules.max_state_bytes`. A key has at most 1 KiB, a value 1 MiB. A change is durable when its call returns. The
//! calls need no event, so `init` may use them.
//!
//! ```no_run
//! use tidegate_sdk::{Result, keyvalue::Bucket};
//!
//! fn seen(device: &str) -> Result<bool> {
//!     let bucket = Bucket::open("seen")?;
//!     let before = bucket.exists(device)?;
//!     bucket.set(device, b"1")?;
//!     Ok(before)
//! }
//! ```

use crate::bindings::standard::wasi::keyvalue::atomics::{self, Cas, CasError};
use crate::bindings::standard::wasi::keyvalue::{batch, store};

pub use store::Error as KeyValueError;

/// A key and its value; `None`: it has none.
pub type Pair = (String, Option<Vec<u8>>);

/// An open bucket: pairs of text and bytes.
#[derive(Debug)]
pub struct Bucket(store::Bucket);

impl Bucket {
    /// The bucket called `name`: a plain name is one of the module's own; `kind:pool`, or a pool that the manifest's
    /// `connectors` names, is a connector.
    ///
    /// # Errors
    /// The connector does not exist, is not granted, or keeps no pairs.
    pub fn open(name: &str) -> Result<Self, KeyValueError> {
        store::open(name).map(Self)
    }

    /// The module's own bucket without a name.
    ///
    /// # Errors
    /// None on a running broker.
    pub fn own() -> Result<Self, KeyValueError> {
        Self::open("")
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// The key is too long, or the store cannot be used.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        self.0.get(key)
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// Key or value is too long, the module's share is full, or the store cannot be used.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        self.0.set(key, value)
    }

    /// Deletes `key`, if it exists.
    ///
    /// # Errors
    /// The key is too long, or the store cannot be used.
    pub fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.0.delete(key)
    }

    /// Whether `key` exists.
    ///
    /// # Errors
    /// The key is too long, or the store cannot be used.
    pub fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        self.0.exists(key)
    }

    /// A page of keys in the order of their bytes, from the beginning or where an earlier page said; and where the
    /// next one begins.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn keys(&self, cursor: Option<&str>) -> Result<(Vec<String>, Option<String>), KeyValueError> {
        self.0.list_keys(cursor).map(|page| (page.keys, page.cursor))
    }

    /// Adds `delta` to the number at `key` (decimal digits; a missing one is 0) and gives the sum.
    ///
    /// # Errors
    /// The value is no number, or as for [`set`](Self::set).
    pub fn increment(&self, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        atomics::increment(&self.0, key, delta)
    }

    /// Replaces the value of `key` by what `change` makes of it; again when somebody else changed it meanwhile.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn update(
        &self,
        key: &str,
        mut change: impl FnMut(Option<Vec<u8>>) -> Vec<u8>,
    ) -> Result<(), KeyValueError> {
        let mut seen = Cas::new(&self.0, key)?;
        loop {
            let value = change(seen.current()?);
            match atomics::swap(seen, &value) {
                Ok(()) => return Ok(()),
                Err(CasError::CasFailed(newer)) => seen = newer,
                Err(CasError::StoreError(error)) => return Err(error),
            }
        }
    }

    /// The values of at most 1,000 keys, each with its key.
    ///
    /// # Errors
    /// As for [`get`](Self::get), or the values are too large together.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<Pair>, KeyValueError> {
        batch::get_many(&self.0, keys)
    }

    /// Sets at most 1,000 values, all or none.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), KeyValueError> {
        batch::set_many(&self.0, pairs)
    }

    /// Deletes at most 1,000 keys, all or none.
    ///
    /// # Errors
    /// As for [`delete`](Self::delete).
    pub fn delete_many(&self, keys: &[String]) -> Result<(), KeyValueError> {
        batch::delete_many(&self.0, keys)
    }
}
