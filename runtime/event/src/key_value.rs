//! The seam between modules and whatever keeps their key-value pairs: the embedded state, or a connector.
//!
//! Every call takes what it works on by value, so that it can be moved into a task or a queue. A call that
//! changes something is durable when its future completes.

use std::fmt;
use std::sync::Arc;

use crate::{BoxFuture, StorageError, Tenant};

/// The longest key in bytes.
pub const MAX_KEY_BYTES: usize = 1 << 10;
/// The longest value in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// The most bytes of values in one answer.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The longest name of a bucket in bytes.
pub const MAX_BUCKET_BYTES: usize = 128;

/// Whose pairs are meant. A connector's pairs belong to whoever was granted the connector; it ignores the space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    /// The module's tenant.
    pub tenant: Tenant,
    /// The module's name.
    pub module: Arc<str>,
    /// A name of the module's choice.
    pub bucket: Arc<str>,
}

/// What became of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The value was the expected one and is replaced.
    Done,
    /// The value is this one; nothing has changed.
    Differs(Option<Vec<u8>>),
}

/// Pairs of a key (text) and a value (bytes).
///
/// Several keys in one call are one access: read at one time, or changed all or none. Errors are told apart by
/// what the caller can do: [`StorageError::InvalidArgument`] for a key or value that is too long and for a value
/// that is no number, [`StorageError::QuotaExceeded`] when the module's share is full,
/// [`StorageError::Unavailable`] when the disk or database cannot be used now.
pub trait KeyValue: fmt::Debug + Send + Sync + 'static {
    /// The values of `keys`, in their order.
    fn get<'a>(
        &'a self,
        space: &'a Space,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, StorageError>>;

    /// Sets all `pairs`; of one key twice the last holds.
    fn set<'a>(
        &'a self,
        space: &'a Space,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Deletes `keys`; those that do not exist are skipped.
    fn delete<'a>(&'a self, space: &'a Space, keys: Vec<String>) -> BoxFuture<'a, Result<(), StorageError>>;

    /// Whether `key` exists.
    fn exists<'a>(&'a self, space: &'a Space, key: String) -> BoxFuture<'a, Result<bool, StorageError>>;

    /// At most `limit` keys after key `after`, in the order of their bytes. Fewer: there are no more.
    fn keys<'a>(
        &'a self,
        space: &'a Space,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, StorageError>>;

    /// Adds `delta` to the number at `key`, written in decimal digits; a missing one is 0. Gives the sum.
    fn increment<'a>(
        &'a self,
        space: &'a Space,
        key: String,
        delta: i64,
    ) -> BoxFuture<'a, Result<i64, StorageError>>;

    /// Sets `key` to `value` if its value is `expected`; `None`: if it does not exist.
    fn swap<'a>(
        &'a self,
        space: &'a Space,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> BoxFuture<'a, Result<Swap, StorageError>>;
}

/// Whether `key` is one.
///
/// # Errors
/// [`StorageError::InvalidArgument`] with the limit.
pub fn check_key(key: &str) -> Result<(), StorageError> {
    match key.len() {
        0 => Err(StorageError::InvalidArgument("a key must not be empty".into())),
        1..=MAX_KEY_BYTES => Ok(()),
        long => Err(StorageError::InvalidArgument(format!(
            "a key of {long} bytes: at most {MAX_KEY_BYTES} are possible"
        ))),
    }
}

/// Whether `value` fits.
///
/// # Errors
/// [`StorageError::InvalidArgument`] with the limit.
pub fn check_value(value: &[u8]) -> Result<(), StorageError> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(StorageError::InvalidArgument(format!(
        "a value of {} bytes: at most {MAX_VALUE_BYTES} are possible",
        value.len()
    )))
}

/// The sum of the number that `value` holds and `delta`.
///
/// # Errors
/// [`StorageError::InvalidArgument`]: it holds no number, or the sum does not fit.
pub fn add(value: Option<&[u8]>, delta: i64) -> Result<i64, StorageError> {
    let number = match value {
        None => 0,
        Some(digits) => std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
            .ok_or_else(|| StorageError::InvalidArgument("the value is no number".into()))?,
    };
    number.checked_add(delta).ok_or_else(|| StorageError::InvalidArgument("the sum is beyond 64 bits".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lengths_are_bounded() {
        assert!(check_key("").is_err());
        check_key(&"k".repeat(MAX_KEY_BYTES)).unwrap();
        assert!(check_key(&"k".repeat(MAX_KEY_BYTES + 1)).unwrap_err().to_string().contains("1025 bytes"));
        check_value(&vec![0; MAX_VALUE_BYTES]).unwrap();
        assert!(check_value(&vec![0; MAX_VALUE_BYTES + 1]).is_err());
    }

    #[test]
    fn numbers_are_decimal_digits() {
        assert_eq!(add(None, 5), Ok(5));
        assert_eq!(add(Some(b"37"), 5), Ok(42));
        assert_eq!(add(Some(b"-1"), -1), Ok(-2));
        assert!(add(Some(b"x"), 1).is_err() && add(Some(b"\xff"), 1).is_err());
        assert!(add(Some(b"9223372036854775807"), 1).unwrap_err().to_string().contains("64 bits"));
    }
}
