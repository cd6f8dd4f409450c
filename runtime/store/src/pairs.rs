//! Key-value pairs of guests (`wasi:keyvalue`) in a connector.
//!
//! A back end answers one [`Call`] at a time; what is the same for all of them is here: limits, a task of its own for
//! every call, and errors as guests see them.

use std::sync::Arc;

use tidegate_event::key_value::{check_key, check_value};
use tidegate_event::{BoxFuture, KeyValue, Space, StorageError, Swap};

use crate::backend::BackendError;
use crate::connector::Connector;
use crate::storage::apart;

/// What a guest asks of its pairs. Keys and values are not longer than guests' may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The values of these keys, in their order: [`Reply::Values`].
    Get(Vec<String>),
    /// Set all of these, or none: [`Reply::Done`].
    Set(Vec<(String, Vec<u8>)>),
    /// Delete all of these, or none; what does not exist is skipped: [`Reply::Done`].
    Delete(Vec<String>),
    /// Whether the key exists: [`Reply::Exists`].
    Exists(String),
    /// Keys in the order of their bytes: [`Reply::Keys`].
    Keys {
        /// Only after this one; the empty text is before all.
        after: String,
        /// At most so many.
        limit: usize,
    },
    /// Add to the number in decimal digits; a missing one is 0: [`Reply::Sum`].
    Increment {
        /// Its key.
        key: String,
        /// What to add.
        delta: i64,
    },
    /// Set the value if it is the expected one: [`Reply::Swap`].
    Swap {
        /// Its key.
        key: String,
        /// What it must be; `None`: it must not exist.
        expected: Option<Vec<u8>>,
        /// What it becomes.
        value: Vec<u8>,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One for each key.
    Values(Vec<Option<Vec<u8>>>),
    /// It is durable.
    Done,
    /// Whether it exists.
    Exists(bool),
    /// A page.
    Keys(Vec<String>),
    /// The new number.
    Sum(i64),
    /// What became of it.
    Swap(Swap),
}

/// A database that keeps pairs for guests.
pub trait Pairs: Send + Sync {
    /// Answers one call. What reads and then writes is one transaction.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, BackendError>>;
}

/// The pairs of a connector. They belong to whoever was granted it, whatever the module or bucket.
pub(crate) struct ConnectorPairs(Arc<Connector>);

impl std::fmt::Debug for ConnectorPairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ConnectorPairs").field(&self.0.name).finish()
    }
}

fn unserved(connector: &str) -> String {
    let kind = connector.split_once(':').map_or(connector, |(kind, _)| kind);
    format!("{kind} does not serve wasi:keyvalue")
}

impl ConnectorPairs {
    /// Those of `connector`.
    ///
    /// # Errors
    /// [`StorageError::InvalidArgument`] when its database has none.
    pub(crate) fn of(connector: &Arc<Connector>) -> Result<Self, StorageError> {
        match connector.backend.pairs() {
            Some(_) => Ok(Self(Arc::clone(connector))),
            None => Err(StorageError::InvalidArgument(unserved(&connector.name))),
        }
    }

    async fn call(&self, call: Call) -> Result<Reply, StorageError> {
        let own = Arc::clone(&self.0);
        let call = async move {
            match own.backend.pairs() {
                Some(pairs) => pairs.call(call).await,
                None => Err(BackendError::Invalid(unserved(&own.name))),
            }
        };
        let result = apart(&self.0, Box::pin(call)).await?;
        result.map_err(|error| error.into_storage(&self.0.name))
    }

    /// What a back end says that answers another question.
    fn confused(&self) -> StorageError {
        StorageError::Failed {
            connector: self.0.name.clone(),
            code: "reply".into(),
            message: "the driver gave another answer".into(),
            retryable: false,
        }
    }
}

impl KeyValue for ConnectorPairs {
    fn get<'a>(
        &'a self,
        _: &'a Space,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, StorageError>> {
        Box::pin(async move {
            keys.iter().try_for_each(|key| check_key(key))?;
            match self.call(Call::Get(keys)).await? {
                Reply::Values(values) => Ok(values),
                _ => Err(self.confused()),
            }
        })
    }

    fn set<'a>(
        &'a self,
        _: &'a Space,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            for (key, value) in &pairs {
                check_key(key)?;
                check_value(value)?;
            }
            self.call(Call::Set(pairs)).await.map(drop)
        })
    }

    fn delete<'a>(&'a self, _: &'a Space, keys: Vec<String>) -> BoxFuture<'a, Result<(), StorageError>> {
        Box::pin(async move {
            keys.iter().try_for_each(|key| check_key(key))?;
            self.call(Call::Delete(keys)).await.map(drop)
        })
    }

    fn exists<'a>(&'a self, _: &'a Space, key: String) -> BoxFuture<'a, Result<bool, StorageError>> {
        Box::pin(async move {
            check_key(&key)?;
            match self.call(Call::Exists(key)).await? {
                Reply::Exists(exists) => Ok(exists),
                _ => Err(self.confused()),
            }
        })
    }

    fn keys<'a>(
        &'a self,
        _: &'a Space,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StorageError>> {
        Box::pin(async move {
            match self.call(Call::Keys { after: after.unwrap_or_default(), limit }).await? {
                Reply::Keys(keys) => Ok(keys),
                _ => Err(self.confused()),
            }
        })
    }

    fn increment<'a>(
        &'a self,
        _: &'a Space,
        key: String,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, StorageError>> {
        Box::pin(async move {
            check_key(&key)?;
            match self.call(Call::Increment { key, delta }).await? {
                Reply::Sum(sum) => Ok(sum),
                _ => Err(self.confused()),
            }
        })
    }

    fn swap<'a>(
        &'a self,
        _: &'a Space,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<Swap, StorageError>> {
        Box::pin(async move {
            check_key(&key)?;
            check_value(&value)?;
            match self.call(Call::Swap { key, expected, value }).await? {
                Reply::Swap(swap) => Ok(swap),
                _ => Err(self.confused()),
            }
        })
    }
}
